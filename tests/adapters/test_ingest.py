from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters import ingest, registry
from adapters.base import Adapter, TapeLine, Venue
from adapters.entry import Entry
from adapters.ingest import run_ingest
from adapters.playback import bundled
from adapters.recording import Recording
from adapters.replay import FakeExchange
from adapters.tape import TapeWriter
from feed.bus.memory import MemoryBroker
from feed.config import Settings
from feed.errors import ConfigError, LeaseLost
from tests.adapters.kit import RecordingBus, eventually, recording_bus
from tests.adapters.toy import Toy, ToyVenue, answered, received, trade

LISTING = answered("/symbols", '{"symbols":["BTC-USD","ETH-USD","DOGE-USD","PEPE-USD"]}')
TAPE = [
    LISTING,
    received(trade("BTC-USD", 1), 0.0),
    received(trade("ETH-USD", 1), 0.1),
    received(trade("BTC-USD", 2), 0.2),
]
NOWHERE = "http://127.0.0.1:9"


class ToyEntry(Entry, frozen=True):
    def load_adapter(self) -> type[Adapter]:
        return Toy

    def load_venue(self) -> type[Venue]:
        return ToyVenue


@pytest.fixture(autouse=True)
def toy_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ToyEntry("", "", "", re.compile("//toy"), None)
    monkeypatch.setitem(registry.REGISTRY, "toy", entry)


def toy_settings(url: str = NOWHERE, symbols: Sequence[str] = (), **more: Any) -> Settings:
    return Settings(
        exchanges=("toy",),
        symbols=tuple(symbols),
        kinds=("trade",),
        endpoints=(f"toy={url}",),
        **more,
    )


@asynccontextmanager
async def ingesting(bus: RecordingBus, settings: Settings, **options: Any) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(run_ingest(settings, bus, stop=stop, **options))
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        stop.set()
        await task


def fake(speed: float | None = None, loop: bool = True) -> FakeExchange:
    recordings = {"toy": Recording(TAPE, ToyVenue())}
    return FakeExchange(recordings, speed=speed, loop=loop, tells=False)


def statuses(bus: RecordingBus, topic: str) -> list[tuple[Any, Any]]:
    said = [event for event in bus.events(f"status.{topic}") if event["type"] == "status"]
    return [(event.get("state", event.get("kinds")), event["reason"]) for event in said]


def ids(bus: RecordingBus, topic: str) -> list[str]:
    return [event["id"] for event in bus.events(topic) if event["type"] == "trade"]


async def test_live_carries_what_is_selected_and_lists_all() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus, fake() as exchange:
        async with ingesting(bus, toy_settings(exchange.url, ["BTC-USD"])):
            await eventually(lambda: len(ids(bus, "trade.toy.BTC-USD")) >= 2)
            catalogue = broker.catalogues["toy"]
        assert (catalogue.source, catalogue.banner) == ("live", None)
        assert {one.symbol: one.topics for one in catalogue.instruments} == {
            "BTC-USD": ("status.toy.BTC-USD", "trade.toy.BTC-USD"),
            "ETH-USD": (),
            "DOGE-USD": (),
            "PEPE-USD": (),
        }
        assert catalogue.topics == ("status.toy.ALL",)
        assert {event["topic"] for event in bus.events()} <= catalogue.carried()


async def test_by_default_the_usual_symbols_are_carried() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus, fake() as exchange:
        async with ingesting(bus, toy_settings(exchange.url)):
            await eventually(lambda: "toy" in broker.catalogues)
            carried = broker.catalogues["toy"].carried()
    assert {topic for topic in carried if topic.startswith("trade")} == {
        f"trade.toy.{symbol}" for symbol in ("BTC-USD", "ETH-USD", "DOGE-USD")
    }


async def test_an_adapter_pointed_at_a_tape_subscribes_to_what_is_on_it_with_a_listing_or_not() -> (
    None
):
    broker = MemoryBroker()
    lines = [line for line in TAPE if line is not LISTING]
    exchange = FakeExchange({"toy": Recording(lines, ToyVenue())}, speed=None)
    async with recording_bus(broker) as bus, exchange:
        async with ingesting(bus, toy_settings(exchange.url)):
            await eventually(lambda: ids(bus, "trade.toy.BTC-USD")[:2] == ["1", "2"])
        catalogue = broker.catalogues["toy"]
    assert catalogue.source == "replay"
    assert [one.symbol for one in catalogue.instruments] == ["BTC-USD", "ETH-USD"]


async def test_a_stop_says_down_gives_the_lease_back_and_leaves_nothing() -> None:
    before = len(asyncio.all_tasks())
    async with recording_bus() as bus:
        async with fake(speed=0.001) as exchange:
            async with ingesting(bus, toy_settings(exchange.url, ["BTC-USD"])):
                await eventually(lambda: ("live", None) in statuses(bus, "toy.ALL"))
        assert statuses(bus, "toy.ALL")[-1] == ("down", "publisher_stopped")
        assert statuses(bus, "toy.BTC-USD")[-1] == ({"trade": "down"}, "publisher_stopped")
        assert await bus.acquire("toy", "another", 1.0) is not None
    await eventually(lambda: len(asyncio.all_tasks()) == before)


async def test_cancelling_ends_as_well_as_stopping() -> None:
    async with recording_bus() as bus, fake(speed=0.001) as exchange:
        task = asyncio.create_task(run_ingest(toy_settings(exchange.url), bus))
        await eventually(lambda: ("live", None) in statuses(bus, "toy.ALL"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert statuses(bus, "toy.ALL")[-1] == ("down", "publisher_stopped")


async def test_a_symbol_that_nobody_lists_is_refused_with_what_was_meant() -> None:
    async with recording_bus() as bus, fake() as exchange:
        settings = toy_settings(exchange.url, ["BTC-USD", "BTC-USDD"])
        with pytest.raises(ConfigError, match="BTC-USDD.*did you mean BTC-USD"):
            await run_ingest(settings, bus)


async def test_without_a_listing_the_exchange_is_down_until_it_comes() -> None:
    recording = Recording(TAPE, ToyVenue())
    bodies, recording.bodies = recording.bodies, {}
    async with recording_bus() as bus:
        exchange = FakeExchange({"toy": recording}, speed=None, loop=True, tells=False)
        async with exchange, ingesting(bus, toy_settings(exchange.url, ["BTC-USD"])):
            await eventually(lambda: ("down", "connecting") in statuses(bus, "toy.ALL"))
            recording.bodies = bodies
            await eventually(lambda: ("live", None) in statuses(bus, "toy.ALL"))
        # The second publisher of this process told of its takeover like any other.
        assert "publisher_restart" in [e.get("cause") for e in bus.events("status.toy.ALL")]


async def test_what_was_carried_is_down_while_a_restarted_ingest_finds_no_listing() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus:
        async with fake() as exchange:
            async with ingesting(bus, toy_settings(exchange.url, ["BTC-USD"])):
                await eventually(lambda: len(ids(bus, "trade.toy.BTC-USD")) >= 2)
        told = len(statuses(bus, "toy.BTC-USD"))
        async with ingesting(bus, toy_settings(NOWHERE, ["BTC-USD"])):
            await eventually(lambda: len(statuses(bus, "toy.BTC-USD")) > told)
            assert "trade.toy.BTC-USD" in broker.catalogues["toy"].carried()
        assert bus.events("trade.toy.BTC-USD")[-1]["cause"] == "publisher_restart"


async def test_who_lost_the_lease_ends_with_that_error_and_writes_no_more() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus, fake() as exchange:
        task = asyncio.create_task(run_ingest(toy_settings(exchange.url, lease_s=0.2), bus))
        await eventually(lambda: ("live", None) in statuses(bus, "toy.ALL"))
        broker.leases["toy"].owner = "another"
        broker.leases["toy"].expires *= 2
        with pytest.raises(LeaseLost):
            await task
        assert ("down", "publisher_stopped") not in statuses(bus, "toy.ALL")


async def test_two_ingest_processes_never_publish_the_same_exchange() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as first, recording_bus(broker) as second:
        async with fake() as exchange:
            settings = toy_settings(exchange.url, lease_s=0.3)
            async with ingesting(first, settings):
                await eventually(lambda: bool(ids(first, "trade")))
                waiting = asyncio.create_task(run_ingest(settings, second))
                many = len(ids(first, "trade")) + 20
                await eventually(lambda: len(ids(first, "trade")) > many)
                assert second.batches == []
            await eventually(lambda: bool(ids(second, "trade")))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


def tape_file(path: Path, lines: Sequence[TapeLine]) -> Path:
    writer = TapeWriter(path)
    for line in lines:
        writer.write(line)
    writer.close()
    return path


async def test_a_tape_is_played_to_its_end(tmp_path: Path) -> None:
    path = tape_file(tmp_path / "a.jsonl.zst", TAPE)
    broker = MemoryBroker()
    async with recording_bus(broker) as bus, asyncio.timeout(30):
        settings = Settings(kinds=("trade",))
        await run_ingest(settings, bus, source="tape", tapes=[path], exchange="toy", speed="max")
        assert ids(bus, "trade.toy.BTC-USD") == ["1", "2"]
        assert statuses(bus, "toy.ALL")[-1] == ("down", "tape_ended")
        assert not [event for event in bus.events() if event["type"] == "gap"]
        catalogue = broker.catalogues["toy"]
    assert catalogue.source == "replay"
    # Of the tape's listing all is listed, and what has frames is carried.
    carried = [one.symbol for one in catalogue.instruments if one.topics]
    assert (len(catalogue.instruments), carried) == (4, ["BTC-USD", "ETH-USD"])


async def test_a_loop_starts_over_with_a_gap_and_ends_when_stopped(tmp_path: Path) -> None:
    path = tape_file(tmp_path / "a.jsonl", TAPE)
    async with recording_bus() as bus:
        options: dict[str, Any] = dict(source="tape", tapes=[path], exchange="toy", speed="max")
        async with ingesting(bus, Settings(), loop=True, **options):
            await eventually(lambda: len(ids(bus, "trade.toy.BTC-USD")) >= 6)
        events = bus.events("trade.toy.BTC-USD")[:8]
        assert [event.get("id", event.get("cause")) for event in events] == [
            *("1", "2", "upstream_disconnect"),
            *("1", "2", "upstream_disconnect"),
            *("1", "2"),
        ]


@pytest.mark.parametrize(
    ("tapes", "message"),
    [
        pytest.param(["a", "a"], "two tapes of toy carry", id="the same tape twice"),
        pytest.param(["missing"], "missing.jsonl", id="no such tape"),
    ],
)
async def test_tapes_that_cannot_be_played_are_refused(
    tmp_path: Path, tapes: Sequence[str], message: str
) -> None:
    tape_file(tmp_path / "a.jsonl", TAPE)
    paths = [tmp_path / f"{name}.jsonl" for name in tapes]
    async with recording_bus() as bus:
        with pytest.raises(ConfigError, match=message):
            await run_ingest(Settings(), bus, source="tape", tapes=paths, exchange="toy")


async def test_a_tape_whose_listing_cannot_be_read_is_played_all_the_same(tmp_path: Path) -> None:
    path = tape_file(tmp_path / "a.jsonl", [answered("/symbols", "<html>"), *TAPE[1:]])
    async with recording_bus() as bus, asyncio.timeout(30):
        settings = Settings(kinds=("trade",))
        await run_ingest(settings, bus, source="tape", tapes=[path], exchange="toy", speed="max")
        assert ids(bus, "trade.toy.BTC-USD") == ["1", "2"]


async def test_a_symbol_that_is_on_no_tape_is_refused(tmp_path: Path) -> None:
    path = tape_file(tmp_path / "a.jsonl", TAPE)
    async with recording_bus() as bus:
        settings = Settings(symbols=("SOL-USD",))
        with pytest.raises(ConfigError, match="SOL-USD"):
            await run_ingest(settings, bus, source="tape", tapes=[path], exchange="toy")


async def test_all_bundled_tapes_play_without_a_bad_frame(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    broker = MemoryBroker()
    async with recording_bus(broker) as bus:
        await run_ingest(Settings(), bus, source="tape", speed="max")
        events = bus.events()
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert set(broker.catalogues) == {"binance", "binance-usdm", "coinbase", "kraken"}
    kinds = {tuple(event["topic"].split(".")[:2]) for event in events}
    for exchange in broker.catalogues:
        assert {("quote", exchange), ("book", exchange), ("depth", exchange)} <= kinds
    assert [event for event in events if event["type"] == "gap"] == []
    # A book that failed its proof would have been said to be invalid.
    health = [event["kinds"] for event in events if "kinds" in event]
    assert not [kinds for kinds in health if "invalid" in kinds.values()]


def test_the_bundled_tapes_are_small_and_say_where_they_come_from() -> None:
    assert len(bundled()) >= 4
    assert sum(path.stat().st_size for path in bundled()) < 5 << 20
    notice = (bundled()[0].parent / "NOTICE.md").read_text()
    assert [path.name for path in bundled() if path.name not in notice] == []


async def test_auto_is_live_where_an_exchange_can_be_reached() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus, fake() as exchange:
        async with ingesting(bus, toy_settings(exchange.url), source="auto"):
            await eventually(lambda: bool(ids(bus, "trade")))
            assert broker.catalogues["toy"].source == "live"


@pytest.mark.parametrize("exchange_is", ["away", "silent"])
async def test_auto_falls_back_to_the_bundled_tapes_and_says_so(
    monkeypatch: pytest.MonkeyPatch, exchange_is: str
) -> None:
    monkeypatch.setattr(ingest, "REACH_S", 0.2)
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = NOWHERE if exchange_is == "away" else f"http://127.0.0.1:{port}"
    banners: list[str] = []
    broker = MemoryBroker()
    async with recording_bus(broker) as bus:
        settings = Settings(exchanges=("toy",), symbols=("X-Y",), endpoints=(f"toy={url}",))
        options: dict[str, Any] = dict(source="auto", on_banner=banners.append, speed="20")
        async with ingesting(bus, settings, **options):
            await eventually(lambda: len(broker.catalogues) == 4 and _lively(bus))
    assert banners == ["REPLAY: no exchange reachable"]
    for catalogue in broker.catalogues.values():
        assert (catalogue.source, catalogue.banner) == ("replay", banners[0])
    for writer in held:
        writer.close()
    server.close()
    await server.wait_closed()


def _lively(bus: RecordingBus) -> bool:
    """Whether prices of two exchanges have moved."""
    prices: dict[str, set[str]] = {}
    for event in bus.events("quote"):
        if event["type"] == "quote":
            prices.setdefault(event["topic"].split(".")[1], set()).add(event["bid"])
    return sum(len(seen) > 2 for seen in prices.values()) >= 2


async def test_sim_runs_beside_the_others_when_named() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus:
        settings = Settings(exchanges=("sim",), sim_symbols=3, sim_rate=2_000.0)
        async with ingesting(bus, settings):
            await eventually(lambda: len(ids(bus, "trade.sim")) > 20)
            assert broker.catalogues["sim"].source == "sim"
        assert statuses(bus, "sim.ALL")[-1] == ("down", "publisher_stopped")
        assert ("live", None) in statuses(bus, "sim.ALL")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(exchanges=("binanse",)), "did you mean binance"),
        (Settings(exchanges=("kraken",), kinds=("trades",)), "unknown kind 'trades'"),
        (Settings(exchanges=("sim",), sim_kinds=("candle-1m",)), "candle-1m"),
        (Settings(exchanges=("kraken",), endpoints=("kraken=nonsense",)), "nonsense"),
    ],
)
async def test_what_the_operator_must_change_is_said_at_once(
    settings: Settings, message: str
) -> None:
    async with recording_bus() as bus:
        with pytest.raises(ConfigError, match=message):
            await run_ingest(settings, bus)
