from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from adapters import connection, recovery
from adapters.base import Fetch, Limits, Mark, Output, TapeLine
from adapters.recording import Recording
from adapters.replay import FakeExchange
from adapters.runner import Runner, endpoints
from adapters.status import StatusBoard
from feed.errors import ConfigError
from feed.models import Book, ExchangeStatus, Gap, SymbolStatus, Trade
from tests.adapters.kit import ListSink, eventually
from tests.adapters.toy import (
    Toy,
    ToyVenue,
    answered,
    delta,
    received,
    selection,
    snapshot,
    trade,
)

Handler = Callable[[ServerConnection], Awaitable[None]]


class Bench:
    """A runner of the toy exchange, its sink and its board."""

    def __init__(
        self,
        url: str,
        *symbols: str,
        limits: Limits = Toy.limits,
        ends: bool = False,
        is_tape: bool = False,
        adapter: type[Toy] = Toy,
    ) -> None:
        picked = selection(*symbols)
        topics = {topic for carried in picked.carried for topic in carried}
        self.sink = ListSink()
        self.board = StatusBoard("toy", topics, connections=1, threshold_ms=5_000, now=1)
        ws_url, rest_url = endpoints(Toy, url)
        # Of all waits the shortest: nothing here is about their length.
        rng = Random(1)
        rng.uniform = lambda a, b: 0.0  # type: ignore[method-assign]
        self.runner = Runner(
            adapter,
            picked,
            ws_url,
            rest_url,
            self.sink,
            self.board,
            limits=limits,
            ends=ends,
            is_tape=is_tape,
            rng=rng,
        )

    def trades(self) -> list[str]:
        return [event.id for event in self.sink.of(Trade)]

    def states(self) -> list[tuple[str, str | None]]:
        return [(status.state, status.reason) for status in self.sink.of(ExchangeStatus)]

    def health(self) -> dict[str, str]:
        told = self.sink.of(SymbolStatus)
        return dict(told[-1].kinds) if told else {}


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    task = asyncio.create_task(bench.runner.run())
    try:
        yield bench
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def exchange(
    handler: Handler, rest: Callable[[str], tuple[int, str]] | None = None
) -> AsyncIterator[str]:
    """Serve sockets, and REST paths by their path and query: status and body."""

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        status, body = (404, "") if rest is None else rest(request.path)
        headers = Headers({"Content-Length": str(len(body)), "Connection": "close"})
        return Response(status, "", headers, body.encode())

    async with serve(
        handler, "127.0.0.1", 0, compression=None, ping_interval=None, process_request=answer
    ) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def tape(*lines: TapeLine, speed: float | None = None) -> AsyncIterator[str]:
    async with FakeExchange({"toy": Recording(lines, ToyVenue())}, speed=speed) as fake:
        yield fake.url


async def test_a_tape_is_run_to_its_end_with_its_book() -> None:
    async with tape(
        received(delta("BTC-USD", 3)),
        answered("/book?s=BTC-USD", snapshot("BTC-USD", 3)),
        received(trade("BTC-USD", 1)),
        received(delta("BTC-USD", 4)),
        received(delta("BTC-USD", 5)),
    ) as url:
        bench = Bench(url, "BTC-USD", ends=True)
        async with asyncio.timeout(30):
            await bench.runner.run()
    assert bench.trades() == ["1"]
    assert [book.snapshot for book in bench.sink.of(Book)] == [True, False, False]
    assert len(bench.sink.books) == 1
    assert bench.sink.of(Gap) == []
    assert bench.states() == [("live", None)]
    assert bench.runner.counters.fetches == 1


async def test_facts_are_live_with_the_connection_and_a_book_when_it_is_there() -> None:
    async def handler(socket: ServerConnection) -> None:
        await socket.send(trade("BTC-USD", 1))
        await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.trades() == ["1"])
        assert [status.topic for status in bench.sink.of(SymbolStatus)] == [
            "status.toy.BTC-USD",
            "status.toy.ETH-USD",
        ]
        assert bench.health() == {"book": "down", "trade": "live"}


async def test_after_a_lost_connection_each_fact_topic_gets_its_gap_before_its_next_event() -> None:
    connections = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await socket.send(trade("BTC-USD", connections))
        if connections > 1:
            await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.trades() == ["1", "2"])
        gaps = bench.sink.of(Gap)
        assert {(gap.topic, gap.cause, gap.lost) for gap in gaps} == {
            ("book.toy.BTC-USD", "upstream_disconnect", None),
            ("book.toy.ETH-USD", "upstream_disconnect", None),
            ("trade.toy.BTC-USD", "upstream_disconnect", 0),  # 2 follows 1: proven
            ("trade.toy.ETH-USD", "upstream_disconnect", None),  # none ever came
        }
        events = bench.sink.events
        second = next(i for i, e in enumerate(events) if isinstance(e, Trade) and e.id == "2")
        assert max(events.index(gap) for gap in gaps) < second
        assert bench.states() == [("live", None), ("down", "disconnected"), ("live", None)]
        assert bench.runner.counters.reconnects == 1


async def test_no_gap_before_anything_was_fed() -> None:
    connections = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        if connections == 3:
            await socket.send(trade("BTC-USD", 1))
            await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.trades() == ["1"])
        assert bench.sink.of(Gap) == []
        assert bench.states() == [("down", "unreachable"), ("live", None)]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param('{"c":"trade","s":"BTC', id="half a frame"),
        pytest.param("hello", id="not JSON"),
        pytest.param("[" * 5_000, id="deep nesting"),
        pytest.param('{"c":"candle"}', id="an unknown type"),
        pytest.param(b"\xff\xfe\x00", id="binary where text belongs"),
        pytest.param("", id="an empty frame"),
    ],
)
async def test_a_bad_frame_is_counted_and_costs_itself_alone(bad: str | bytes) -> None:
    async def handler(socket: ServerConnection) -> None:
        for number in (1, 2):
            await socket.send(trade("BTC-USD", number))
            await socket.send(bad)
        await socket.send(trade("BTC-USD", 3))
        await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.trades() == ["1", "2", "3"])
        assert bench.runner.counters.bad_frames == 2
        assert bench.runner.counters.reconnects == 0


async def test_bad_frames_are_logged_at_most_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(socket: ServerConnection) -> None:
        for _ in range(100):
            await socket.send("garbage")
        await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.runner.counters.bad_frames == 100)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


async def test_a_frame_over_the_limit_ends_the_connection_and_a_new_one_is_made() -> None:
    connections = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await socket.send("x" * 10_000_000)
        else:
            await socket.send(trade("BTC-USD", 1))
        await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.trades() == ["1"])
        assert connections == 2


@pytest.mark.parametrize(
    "says", [pytest.param(None, id="nothing"), pytest.param("?", id="garbage")]
)
async def test_a_connection_without_readable_data_is_stale_and_replaced(
    monkeypatch: pytest.MonkeyPatch, says: str | None
) -> None:
    monkeypatch.setattr(connection, "TICK_S", 0.01)
    connections = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await socket.send(trade("BTC-USD", connections))
        if connections > 1:
            await socket.wait_closed()
        while says is not None:
            await socket.send(says)
            await asyncio.sleep(0.001)
        await socket.wait_closed()

    limits = msgspec.structs.replace(Toy.limits, silent_after_s=0.1)
    async with exchange(handler) as url, running(Bench(url, limits=limits)) as bench:
        await eventually(lambda: bench.trades()[:2] == ["1", "2"])
        assert bench.states()[:3] == [("live", None), ("stale", "silent"), ("live", None)]
        stale = next(s for s in bench.sink.of(SymbolStatus) if "stale" in s.kinds.values())
        assert (stale.reason, stale.threshold_ms) == ("silent", 5_000)


async def test_heartbeats_prove_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TICK_S", 0.01)
    beats = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal beats
        while True:
            await socket.send('{"c":"hb"}')
            beats += 1
            await asyncio.sleep(0.005)

    limits = msgspec.structs.replace(Toy.limits, silent_after_s=0.5)
    async with exchange(handler) as url, running(Bench(url, limits=limits)) as bench:
        await eventually(lambda: beats > 300)
        assert bench.runner.counters.reconnects == 0


async def test_a_full_buffer_stops_the_reading_and_is_no_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "TICK_S", 0.002)
    ticks = 0
    real = asyncio.sleep

    async def sleep(seconds: float, result: None = None) -> None:
        nonlocal ticks
        ticks += seconds == 0.002
        await real(seconds)

    async def handler(socket: ServerConnection) -> None:
        for number in range(1, 4):
            await socket.send(trade("BTC-USD", number))
        await socket.wait_closed()

    limits = msgspec.structs.replace(Toy.limits, silent_after_s=0.02)
    bench = Bench("http://x", limits=limits)
    bench.sink.is_full = True
    async with exchange(handler) as url:
        bench.runner.ws_url = url.replace("http", "ws")
        async with running(bench):
            monkeypatch.setattr(asyncio, "sleep", sleep)
            await eventually(lambda: ticks > 30)
            assert bench.trades() == ["1"]
            bench.sink.room.set()
            await eventually(lambda: bench.trades() == ["1", "2", "3"])


async def test_a_connection_that_is_told_to_leave_is_replaced() -> None:
    connections = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await socket.send(trade("BTC-USD", connections))
        if connections == 1:
            await socket.send('{"c":"leave"}')
        await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.trades() == ["1", "2"])


async def test_a_bug_of_an_adapter_costs_its_connection_and_not_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connections = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await socket.send('{"c":"bug"}')
        await socket.send(trade("BTC-USD", connections))
        await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.trades() == ["2"])
    assert "ZeroDivisionError" in caplog.text


async def test_health_and_refusals_reach_the_status() -> None:
    async def handler(socket: ServerConnection) -> None:
        for frame in (
            trade("BTC-USD", 1),
            '{"c":"broken","s":"BTC-USD"}',
            '{"c":"proven","s":"BTC-USD"}',
            '{"c":"refused","s":"BTC-USD","k":"trade"}',
        ):
            await socket.send(frame)
        await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url, "BTC-USD")) as bench:
        await eventually(lambda: len(bench.sink.of(SymbolStatus)) == 4)
        assert [(s.kinds, s.reason) for s in bench.sink.of(SymbolStatus)] == [
            ({"book": "down", "trade": "live"}, "connecting"),
            ({"book": "invalid", "trade": "live"}, "checksum"),
            ({"book": "live", "trade": "live"}, None),
            ({"book": "live", "trade": "down"}, "refused"),
        ]


async def test_a_failed_fetch_is_tried_again_until_it_succeeds() -> None:
    async with tape(
        received(delta("BTC-USD", 3), 0.0),
        received(delta("ETH-USD", 3), 0.0),
        answered("/book?s=BTC-USD", "garbage"),
        answered("/book?s=BTC-USD", snapshot("BTC-USD", 3)),
        received(trade("BTC-USD", 1), 3_600.0),
        received(trade("ETH-USD", 1), 3_600.0),
        speed=1.0,
    ) as url:
        async with running(Bench(url)) as bench:
            await eventually(lambda: len(bench.sink.of(Book)) == 1)
            assert bench.runner.counters.bad_frames == 1
            await eventually(lambda: bench.runner.counters.failed_fetches >= 2)


async def test_an_exchange_that_is_not_there_is_said_to_be_unreachable() -> None:
    async with exchange(_close) as url:
        pass
    async with running(Bench(url)) as bench:
        await eventually(lambda: bench.runner.counters.reconnects > 3)
        assert bench.states() == [("down", "unreachable")]


async def _close(socket: ServerConnection) -> None:
    await socket.close()


async def test_an_exchange_that_closes_at_once_is_asked_within_its_limits() -> None:
    connections = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1

    limits = msgspec.structs.replace(Toy.limits, connects=3, connects_window_s=3_600.0)
    async with exchange(handler) as url, running(Bench(url, limits=limits)) as bench:
        await eventually(lambda: bench.runner.counters.reconnects == 3)
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert connections == 3


async def test_frames_are_paced_and_sent_in_order() -> None:
    said: list[str] = []

    async def handler(socket: ServerConnection) -> None:
        async for message in socket:
            said.append(str(message))

    async with exchange(handler) as url, running(Bench(url)):
        await eventually(lambda: len(said) == 4)
    wanted: Sequence[str] = [
        f'{{"op":"sub","channel":"{channel}","symbol":"{symbol}"}}'
        for symbol in ("BTC-USD", "ETH-USD")
        for channel in ("book", "trade")
    ]
    assert said == wanted


async def test_nothing_is_left_running_after_the_end() -> None:
    async def handler(socket: ServerConnection) -> None:
        await socket.send(delta("BTC-USD", 1))
        await socket.wait_closed()

    before = len(asyncio.all_tasks())
    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.runner.counters.failed_fetches > 0)
    await eventually(lambda: len(asyncio.all_tasks()) == before)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (None, ("ws://toy.invalid", "http://toy.invalid")),
        ("http://127.0.0.1:9001", ("ws://127.0.0.1:9001", "http://127.0.0.1:9001")),
        ("wss://host/base/", ("wss://host/base", "https://host/base")),
    ],
)
def test_endpoints(override: str | None, expected: tuple[str, str]) -> None:
    assert endpoints(Toy, override) == expected


@pytest.mark.parametrize("override", ["", "host:1", "ftp://host", "http://"])
def test_what_is_no_endpoint_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="toy"):
        endpoints(Toy, override)


async def test_a_silent_book_of_a_living_connection_is_stale_and_taken_afresh_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "TICK_S", 0.005)
    asked: list[str] = []

    async def handler(socket: ServerConnection) -> None:
        speaks = True

        async def talk() -> None:
            n = 1
            while True:
                n += 1
                for symbol in ("ETH-USD", "BTC-USD") if speaks else ("ETH-USD",):
                    await socket.send(delta(symbol, n))
                    await socket.send(trade(symbol, n))
                await asyncio.sleep(0.001)

        talker = asyncio.create_task(talk())
        try:
            async for message in socket:
                asked.append(str(message))
                if len(asked) == 4:
                    await eventually(lambda: bench.health() == {"book": "live", "trade": "live"})
                    speaks = False
                elif len(asked) == 8:
                    speaks = True
        finally:
            talker.cancel()

    def rest(path: str) -> tuple[int, str]:
        return 200, snapshot(path.partition("=")[2], 1)

    limits = msgspec.structs.replace(Toy.limits, symbol_silent_after_s=0.1)
    async with exchange(handler, rest) as url:
        bench = Bench(url, limits=limits)
        async with running(bench):
            await eventually(lambda: len(asked) == 8)
            await eventually(lambda: bench.health() == {"book": "live", "trade": "live"})
            assert asked[4:] == [
                f'{{"op":"{op}","channel":"{channel}","symbol":"BTC-USD"}}'
                for channel in ("book", "trade")
                for op in ("unsub", "sub")
            ]
            told = [s for s in bench.sink.of(SymbolStatus) if "stale" in s.kinds.values()]
            assert [(s.topic, s.kinds, s.reason) for s in told] == [
                ("status.toy.BTC-USD", {"book": "stale", "trade": "live"}, "silent")
            ]
            assert bench.runner.counters.reconnects == 0
            assert bench.states() == [("live", None)]


async def test_a_missing_beat_makes_its_symbol_stale_until_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "TICK_S", 0.005)
    beating = ["BTC-USD", "ETH-USD"]

    async def handler(socket: ServerConnection) -> None:
        await socket.send(trade("BTC-USD", 1))
        while True:
            for symbol in beating:
                await socket.send(f'{{"c":"beat","s":"{symbol}"}}')
            await asyncio.sleep(0.005)

    limits = msgspec.structs.replace(Toy.limits, beat_every_s=0.1)
    async with exchange(handler) as url, running(Bench(url, limits=limits)) as bench:
        await eventually(lambda: bench.trades() == ["1"])
        beating.remove("BTC-USD")
        await eventually(lambda: bench.health()["trade"] == "stale")
        last = bench.sink.of(SymbolStatus)[-1]
        assert (last.topic, last.reason) == ("status.toy.BTC-USD", "no_beat")
        assert last.kinds == {"book": "down", "trade": "stale"}
        beating.append("BTC-USD")
        await eventually(lambda: bench.health() == {"book": "down", "trade": "live"})


async def test_nothing_of_a_tape_is_judged_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TICK_S", 0.001)
    ticks = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal ticks
        await socket.send(delta("BTC-USD", 2))
        while True:
            await socket.send(trade("BTC-USD", ticks))
            ticks += 1
            await asyncio.sleep(0.001)

    def rest(path: str) -> tuple[int, str]:
        return 200, snapshot("BTC-USD", 1)

    limits = msgspec.structs.replace(Toy.limits, symbol_silent_after_s=0.001)
    async with exchange(handler, rest) as url:
        bench = Bench(url, "BTC-USD", limits=limits, is_tape=True)
        async with running(bench):
            await eventually(lambda: bench.health() == {"book": "live", "trade": "live"})
            before = ticks
            await eventually(lambda: ticks > before + 200)
            assert bench.health() == {"book": "live", "trade": "live"}


class Past:
    """The toy's trades by number, over REST.

    Args:
        upto: The newest there is.
        page: Trades a page.
        missing: Numbers that the answers leave out.
        fails: So many requests are refused first.
    """

    def __init__(
        self, upto: int, page: int = 2, missing: Sequence[int] = (), fails: int = 0
    ) -> None:
        self.upto = upto
        self.asked: list[str] = []
        self._page = page
        self._missing = missing
        self._fails = fails

    def __call__(self, path: str) -> tuple[int, str]:
        if not path.startswith("/trades?s=BTC-USD"):
            return 404, ""
        self.asked.append(path)
        if len(self.asked) <= self._fails:
            return 503, ""
        first = int(path.rpartition("=")[2])
        found = [n for n in range(first, self.upto + 1) if n not in self._missing]
        return 200, msgspec.json.encode(
            [{"n": n, "p": "1.50"} for n in found[: self._page]]
        ).decode()


def handing(*connections: Sequence[int]) -> Handler:
    """Return an exchange whose connections each send these trades; all but the last then end."""
    made = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal made
        mine = connections[made]
        made += 1
        await socket.send(delta("BTC-USD", 1))  # proves the connection, trades or none
        for number in mine:
            await socket.send(trade("BTC-USD", number))
        if made < len(connections):
            await socket.close()
        await socket.wait_closed()

    return handler


def trade_story(bench: Bench) -> list[str]:
    """Return what the trade topic says: numbers, ``+`` where fetched, and gaps."""
    told = []
    for event in bench.sink.events:
        if isinstance(event, Trade):
            told.append(f"+{event.id}" if event.backfill else f"{event.id}")
        elif isinstance(event, Gap) and event.topic == "trade.toy.BTC-USD":
            assert event.cause == "upstream_disconnect"
            told.append(f"lost {event.lost}")
    return told


class Fed(Toy):
    """A toy whose every book frame counts as data."""

    def _book(self, read: Any, recv: int) -> list[Output]:
        return [Book(f"book.toy.{read.s}", 0, None, recv, 0, read.b, [])]


async def test_trades_missed_between_two_connections_are_fetched_in_order_and_each_once() -> None:
    past = Past(12)
    async with exchange(handing([1, 2, 3], [10, 11]), past) as url:
        async with running(Bench(url, "BTC-USD", adapter=Fed)) as bench:
            await eventually(lambda: len(bench.trades()) == 11)
            story = trade_story(bench)
    assert [one for one in story if one[0] == "+"] == ["+4", "+5", "+6", "+7", "+8", "+9"]
    assert [one for one in story if one[0] != "+"] == ["1", "2", "3", "10", "11"]


async def test_a_gap_is_only_as_large_as_what_could_not_be_fetched() -> None:
    past = Past(12, page=3, missing=(5, 8), fails=2)
    async with exchange(handing([1, 2, 3], [10, 11]), past) as url:
        async with running(Bench(url, "BTC-USD", adapter=Fed)) as bench:
            await eventually(lambda: "lost 2" in trade_story(bench))
            story = trade_story(bench)
    assert [one for one in story if one[0] == "+"] == ["+4", "+6", "+7", "+9"]
    assert story.count("lost 2") == 1


async def test_what_cannot_be_fetched_in_time_is_the_gap_and_live_never_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "BACKFILL_S", 0.3)
    past = Past(12, fails=10**9)
    async with exchange(handing([1, 2, 3], [10, 11]), past) as url:
        async with running(Bench(url, "BTC-USD", adapter=Fed)) as bench:
            await eventually(lambda: "lost 6" in trade_story(bench))
            assert trade_story(bench) == ["1", "2", "3", "10", "11", "lost 6"]
    assert len(past.asked) > 1


async def test_where_nothing_can_be_fetched_the_gap_stands_before_the_first_live_trade() -> None:
    class Forgetful(Fed):
        def backfill(self, native: str, after: Mark) -> Fetch | None:
            return None

    async with exchange(handing([1, 2, 3], [10, 11])) as url:
        async with running(Bench(url, "BTC-USD", adapter=Forgetful)) as bench:
            await eventually(lambda: len(bench.trades()) == 5)
            assert trade_story(bench) == ["1", "2", "3", "lost 6", "10", "11"]


async def test_that_no_trade_was_missed_is_said() -> None:
    async with exchange(handing([1, 2, 3], [4, 5]), Past(3)) as url:
        async with running(Bench(url, "BTC-USD", adapter=Fed)) as bench:
            await eventually(lambda: len(bench.trades()) == 5)
            assert trade_story(bench) == ["1", "2", "3", "lost 0", "4", "5"]


async def test_old_trades_repeated_after_a_reconnect_are_dropped() -> None:
    again = [*range(1, 51), 51, 52]
    async with exchange(handing(range(1, 51), again), Past(50)) as url:
        async with running(Bench(url, "BTC-USD", adapter=Fed)) as bench:
            await eventually(lambda: "52" in bench.trades())
            assert bench.trades() == [str(n) for n in range(1, 53)]


async def test_fetched_trades_do_not_wait_for_a_live_one_nor_come_twice() -> None:
    late = asyncio.Event()
    made = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal made
        made += 1
        await socket.send(delta("BTC-USD", 1))
        if made == 1:
            await socket.send(trade("BTC-USD", 3))
            return
        await late.wait()
        for number in (4, 5, 6):
            await socket.send(trade("BTC-USD", number))
        await socket.wait_closed()

    async with exchange(handler, Past(5)) as url:
        async with running(Bench(url, "BTC-USD", adapter=Fed)) as bench:
            await eventually(lambda: bench.trades() == ["3", "4", "5"])
            late.set()
            await eventually(lambda: "6" in bench.trades())
            assert trade_story(bench) == ["3", "+4", "+5", "6"]


async def test_without_an_answer_and_a_live_trade_the_loss_is_unknown_and_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "BACKFILL_S", 0.05)
    late = asyncio.Event()
    made = 0

    async def handler(socket: ServerConnection) -> None:
        nonlocal made
        made += 1
        await socket.send(delta("BTC-USD", 1))
        if made == 1:
            await socket.send(trade("BTC-USD", 3))
            return
        await late.wait()
        await socket.send(trade("BTC-USD", 9))
        await socket.wait_closed()

    async with exchange(handler) as url:
        async with running(Bench(url, "BTC-USD", adapter=Fed)) as bench:
            await eventually(lambda: trade_story(bench) == ["3", "lost None"])
            late.set()
            await eventually(lambda: "9" in bench.trades())
            assert trade_story(bench) == ["3", "lost None", "9"]


async def test_a_loss_while_fetching_declares_what_has_not_come() -> None:
    past = Past(12, fails=10**9)
    async with exchange(handing([1, 2, 3], [10, 11], [14]), past) as url:
        async with running(Bench(url, "BTC-USD", adapter=Fed)) as bench:
            await eventually(lambda: "14" in bench.trades())
            assert trade_story(bench)[:6] == ["1", "2", "3", "10", "11", "lost 6"]


class Refusing:
    """Where it is, and how many handshakes were tried."""

    url = ""
    tried = 0


@asynccontextmanager
async def refusing(status: int, retry_after: str | None, times: int) -> AsyncIterator[Refusing]:
    """Serve an exchange that refuses so many handshakes, then trades."""
    refusing = Refusing()

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        refusing.tried += 1
        if refusing.tried > times:
            return None
        headers = Headers({"Content-Length": "0", "Connection": "close"})
        if retry_after is not None:
            headers["Retry-After"] = retry_after
        return Response(status, "", headers, b"")

    async def handler(socket: ServerConnection) -> None:
        await socket.send(trade("BTC-USD", 1))
        await socket.wait_closed()

    async with serve(
        handler, "127.0.0.1", 0, compression=None, ping_interval=None, process_request=answer
    ) as server:
        refusing.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield refusing


@pytest.mark.parametrize("status", [418, 429, 503])
async def test_an_exchange_that_asks_to_be_left_alone_is_left_alone(status: int) -> None:
    async with refusing(status, "3000", times=10**9) as exchange_:
        async with running(Bench(exchange_.url)) as bench:
            await eventually(lambda: bench.runner.counters.reconnects == 1)
            await eventually(lambda: bench.states() == [("down", "unreachable")])
            for _ in range(1_000):
                await asyncio.sleep(0)
            # Nor is any other connection of this exchange tried.
            assert bench.runner.connect_in_s() > 2_000
            assert exchange_.tried == 1


@pytest.mark.parametrize("status", [418, 429, 503])
async def test_an_exchange_that_refuses_without_a_word_is_tried_within_its_limits(
    status: int,
) -> None:
    limits = msgspec.structs.replace(Toy.limits, connects=3, connects_window_s=3_600.0)
    async with refusing(status, None, times=10**9) as exchange_:
        async with running(Bench(exchange_.url, limits=limits)) as bench:
            await eventually(lambda: bench.runner.counters.reconnects == 3)
            for _ in range(1_000):
                await asyncio.sleep(0)
            assert exchange_.tried == 3


async def test_after_refusals_the_exchange_is_taken_again() -> None:
    async with refusing(503, None, times=3) as exchange_:
        async with running(Bench(exchange_.url)) as bench:
            await eventually(lambda: bench.trades() == ["1"])
            assert bench.states() == [("down", "unreachable"), ("live", None)]


async def test_a_symbol_that_is_delisted_amid_a_session_is_down_and_the_others_go_on() -> None:
    async def handler(socket: ServerConnection) -> None:
        await socket.send(trade("BTC-USD", 1))
        for kind in ("trade", "book"):
            await socket.send(f'{{"c":"refused","s":"BTC-USD","k":"{kind}"}}')
        for number in (1, 2, 3):
            await socket.send(trade("ETH-USD", number))
        await socket.wait_closed()

    async with exchange(handler) as url, running(Bench(url)) as bench:
        await eventually(lambda: bench.trades() == ["1", "1", "2", "3"])
        told = {s.topic: (s.kinds["trade"], s.reason) for s in bench.sink.of(SymbolStatus)}
        assert told == {
            "status.toy.BTC-USD": ("down", "refused"),
            "status.toy.ETH-USD": ("live", "connecting"),
        }
        assert bench.runner.counters.reconnects == 0
        assert bench.states() == [("live", None)]
