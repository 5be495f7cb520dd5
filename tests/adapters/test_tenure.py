"""Connections that take each other's place, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from adapters import connection, recovery, tenure
from adapters.base import Limits
from feed.models import Book, Gap, SymbolStatus
from tests.adapters.kit import eventually
from tests.adapters.test_runner import Bench, exchange, running
from tests.adapters.toy import Toy, delta, trade


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TICK_S", 0.01)
    monkeypatch.setattr(tenure, "STEP_S", 0.01)
    monkeypatch.setattr(tenure, "SETTLE_S", 0.2)
    monkeypatch.setattr(tenure, "SWITCH_S", 0.3)
    monkeypatch.setattr(tenure, "AGAIN_S", 0.05)


class Market:
    """An exchange whose trades and book changes go to every connection that has subscribed.

    Attributes:
        made: The connections, in order.
        mute: How many of them, counted from the first, are served; later ones hear nothing.
        n: The last trade and the last change of the book.
    """

    def __init__(self) -> None:
        self.made: list[ServerConnection] = []
        self.subscribed: list[ServerConnection] = []
        self.served = 100
        self.n = 0

    async def handler(self, socket: ServerConnection) -> None:
        self.made.append(socket)
        await socket.send('{"c":"hb"}')
        with suppress(ConnectionClosed):
            async for _ in socket:
                if socket not in self.subscribed and len(self.made) <= self.served:
                    self.subscribed.append(socket)
        if socket in self.subscribed:
            self.subscribed.remove(socket)

    def rest(self, path: str) -> tuple[int, str]:
        if not path.startswith("/book"):
            return 404, ""
        return 200, f'{{"c":"book","s":"BTC-USD","n":{self.n},"b":[["{self.n}","1"]]}}'

    async def say(self, frame: str) -> None:
        for socket in list(self.subscribed):
            with suppress(ConnectionClosed):
                await socket.send(frame)

    async def trading(self) -> None:
        while True:
            self.n += 1
            await self.say(trade("BTC-USD", self.n))
            await self.say(delta("BTC-USD", self.n, price=str(self.n)))
            await asyncio.sleep(0.005)


@asynccontextmanager
async def trading(
    market: Market, limits: Limits = Toy.limits, *, is_tape: bool = False
) -> AsyncIterator[Bench]:
    async with exchange(market.handler, market.rest) as url:
        bench = Bench(url, "BTC-USD", limits=limits, is_tape=is_tape)
        async with running(bench):
            await eventually(lambda: len(market.subscribed) == 1)
            task = asyncio.create_task(market.trading())
            try:
                await eventually(lambda: bench.health() == {"book": "live", "trade": "live"})
                yield bench
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def gaps_of(bench: Bench) -> list[tuple[str, int | None]]:
    return [(gap.topic, gap.lost) for gap in bench.sink.of(Gap)]


def check_unbroken(bench: Bench, snapshots: int | None = None) -> None:
    """Every trade once and in order, every change of the book, no gap, and healthy throughout."""
    numbers = [int(one) for one in bench.trades()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert bench.sink.of(Gap) == []
    assert bench.states() == [("live", None)]
    assert all(s.kinds["trade"] == "live" for s in bench.sink.of(SymbolStatus))
    books = bench.sink.of(Book)
    assert snapshots in (None, sum(book.snapshot for book in books))
    at = 0
    for book in books:
        newest = max(int(price) for price, _ in book.bids)
        assert newest >= at if book.snapshot else newest == at + 1
        at = newest


async def test_a_connection_whose_end_is_announced_is_replaced_without_a_loss() -> None:
    market = Market()
    async with trading(market) as bench:
        await market.made[0].send('{"c":"bye"}')
        await eventually(lambda: bench.runner.counters.rotations == 1)
        await eventually(lambda: market.subscribed == market.made[1:])
        many = len(bench.trades()) + 20
        await eventually(lambda: len(bench.trades()) > many)
        check_unbroken(bench, snapshots=2)
        assert bench.runner.counters.reconnects == 0


async def test_an_old_connection_is_replaced_again_and_again_without_a_loss() -> None:
    market = Market()
    limits = msgspec.structs.replace(Toy.limits, max_age_s=1.0)
    async with trading(market, limits) as bench:
        await eventually(lambda: bench.runner.counters.rotations == 3)
        many = len(bench.trades()) + 5
        await eventually(lambda: len(bench.trades()) > many)
        check_unbroken(bench)


async def test_what_cannot_be_replaced_serves_on_and_another_attempt_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tenure, "PROVE_S", 0.2)
    market = Market()
    market.served = 1
    async with trading(market) as bench:
        await market.made[0].send('{"c":"bye"}')
        await eventually(lambda: len(market.made) == 3)
        assert bench.runner.counters.rotations == 0
        market.served = 100
        await eventually(lambda: bench.runner.counters.rotations == 1)
        check_unbroken(bench, snapshots=2)


async def test_an_end_before_the_new_connection_is_proven_is_a_loss_like_any_other() -> None:
    market = Market()
    market.served = 1
    async with trading(market) as bench:
        await market.made[0].send('{"c":"bye"}')
        await eventually(lambda: len(market.made) == 2)
        await market.made[0].close(1012)
        market.served = 100
        await eventually(lambda: len(market.made) == 3)
        await eventually(lambda: bench.states()[-2:] == [("down", "disconnected"), ("live", None)])
        await eventually(lambda: {g.topic for g in bench.sink.of(Gap)} >= {"book.toy.BTC-USD"})
        assert bench.runner.counters.rotations == 0


async def test_a_quiet_market_is_handed_over_too_and_what_comes_next_proves_it() -> None:
    market = Market()
    async with exchange(market.handler, market.rest) as url:
        bench = Bench(url, "BTC-USD")
        async with running(bench):
            await eventually(lambda: len(market.subscribed) == 1)
            market.n = 1
            await market.say(trade("BTC-USD", 1))
            await eventually(lambda: bench.trades() == ["1"])
            await market.made[0].send('{"c":"bye"}')
            await eventually(lambda: bench.runner.counters.rotations == 1)
            await eventually(lambda: market.subscribed == market.made[1:])
            await market.say(trade("BTC-USD", 1))
            await market.say(trade("BTC-USD", 2))
            await eventually(lambda: bench.trades() == ["1", "2"])
            assert bench.sink.of(Gap) == []


async def test_a_new_connection_that_ends_amid_the_switch_costs_both_and_the_loss_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tenure, "SWITCH_S", 1_000.0)
    monkeypatch.setattr(recovery, "BACKFILL_S", 0.05)
    market = Market()
    async with exchange(market.handler, market.rest) as url:
        bench = Bench(url, "BTC-USD")  # without a book the switch is never done
        async with running(bench):
            await eventually(lambda: len(market.subscribed) == 1)
            await market.say(trade("BTC-USD", 1))
            await eventually(lambda: bench.trades() == ["1"])
            await market.made[0].send('{"c":"bye"}')
            await eventually(lambda: len(market.subscribed) == 2)
            await market.say(trade("BTC-USD", 2))
            await eventually(lambda: bench.trades() == ["1", "2"])
            for n in range(3, 1_000):
                await market.made[1].send(trade("BTC-USD", n))
                await asyncio.sleep(0.01)
                if len(bench.trades()) > 2:
                    break
            await market.made[1].close()
            await eventually(lambda: len(market.made) == 3)
            await eventually(lambda: len(market.subscribed) == 1)
            await market.say(trade("BTC-USD", 2_000))
            await eventually(lambda: bench.trades()[-1] == "2000")
            numbers = [int(one) for one in bench.trades()]
            assert numbers == [*range(1, len(numbers)), 2_000]
            lost = 2_000 - len(numbers)
            await eventually(lambda: ("trade.toy.BTC-USD", lost) in gaps_of(bench))
            assert ("down", "disconnected") in bench.states()
            assert bench.runner.counters.rotations == 0


async def test_a_tape_is_not_replaced_but_left() -> None:
    market = Market()
    async with trading(market, is_tape=True) as bench:
        await market.made[0].send('{"c":"bye"}')
        await eventually(lambda: bench.runner.counters.reconnects == 1)
        assert bench.runner.counters.rotations == 0


async def test_nothing_is_left_running_when_a_handover_is_cut_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    market = Market()
    market.served = 1
    before = len(asyncio.all_tasks())
    async with trading(market) as bench:
        await market.made[0].send('{"c":"bye"}')
        await eventually(lambda: len(market.made) == 2)
        assert bench.trades()
    await eventually(lambda: len(asyncio.all_tasks()) == before)


async def test_what_nobody_brought_while_a_quiet_market_was_handed_over_is_declared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "BACKFILL_S", 0.05)
    market = Market()
    async with exchange(market.handler, market.rest) as url:
        bench = Bench(url, "BTC-USD")
        async with running(bench):
            await eventually(lambda: len(market.subscribed) == 1)
            await market.say(trade("BTC-USD", 1))
            await eventually(lambda: bench.trades() == ["1"])
            await market.made[0].send('{"c":"bye"}')
            await eventually(lambda: bench.runner.counters.rotations == 1)
            await eventually(lambda: market.subscribed == market.made[1:])
            await market.say(trade("BTC-USD", 4))
            await eventually(lambda: gaps_of(bench) == [("trade.toy.BTC-USD", 2)])
            assert bench.trades() == ["1", "4"]
