from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal

import pytest

from adapters.publisher import Publisher
from adapters.sim import BOOK_LEVELS, CHECKPOINT_EVERY, Market, Simulator
from adapters.tasks import alongside, now_us
from feed.errors import ConfigError
from feed.models import Book, Depth, Quote, Trade
from tests.adapters.kit import recording_bus

ALL = ("trade", "quote", "depth", "book", "ticker", "derivative", "liquidation")


def test_events_go_round_the_symbols_and_of_each_round_its_kinds() -> None:
    market = Market(3, ("trade", "quote"))
    topics = [market.next(1)[0].topic for _ in range(12)]
    assert topics[:4] == [
        "trade.sim.SIM000-USD",
        "trade.sim.SIM001-USD",
        "trade.sim.SIM002-USD",
        "quote.sim.SIM000-USD",
    ]
    assert set(Counter(topics).values()) == {2}


def test_the_same_seed_makes_the_same_events() -> None:
    one, other = Market(5, ALL), Market(5, ALL)
    assert [one.next(1) for _ in range(500)] == [other.next(1) for _ in range(500)]


def test_prices_walk_and_are_never_crossed() -> None:
    market = Market(1, ("quote", "trade", "depth"))
    bids: set[str] = set()
    for _ in range(600):
        match market.next(1)[0]:
            case Quote(bid=str(bid), ask=str(ask)):
                assert 0 < Decimal(bid) < Decimal(ask)
                bids.add(bid)
            case Trade(price=price, size=size):
                assert Decimal(price) > 0 and Decimal(size) > 0
            case Depth(bids=best, asks=asks):
                assert Decimal(best[0][0]) < Decimal(asks[0][0])
                assert len(best) == len(asks) == 20
            case event:
                raise AssertionError(event)
    assert len(bids) > 5


def test_the_deltas_of_a_book_give_its_checkpoints() -> None:
    market = Market(1, ("book",))
    bids: dict[str, str] = {}
    asks: dict[str, str] = {}
    checkpoints = 0
    for number in range(2 * CHECKPOINT_EVERY + 1):
        event, checkpoint = market.next(1)
        assert isinstance(event, Book) and event.snapshot == (number == 0)
        for side, changes in ((bids, event.bids), (asks, event.asks)):
            for price, size in changes:
                side.pop(price, None)
                if size != "0":
                    side[price] = size
        if checkpoint is not None:
            checkpoints += 1
            assert (dict(checkpoint.bids), dict(checkpoint.asks)) == (bids, asks)
            assert len(bids) == len(asks) == BOOK_LEVELS
    assert checkpoints == 3


def test_the_catalogue_carries_all_that_is_made_and_its_health() -> None:
    market = Market(2, ALL)
    carried = market.catalogue(1).carried()
    assert {market.next(1)[0].topic for _ in range(2 * len(ALL))} <= carried
    assert {"status.sim.ALL", "status.sim.SIM001-USD"} <= carried


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="trades"):
        Market(1, ("trades",))


async def test_nothing_is_left_out_however_late_it_is(caplog: pytest.LogCaptureFixture) -> None:
    # No machine makes so many in time; the schedule does not shift, and the delay is known.
    async with recording_bus() as bus:
        market = Market(10, ("trade",))
        publisher = Publisher(bus, "sim", owner="me")
        await publisher.open(market.catalogue(now_us()))
        simulator = Simulator(market, 1e7)

        async def feed() -> None:
            await simulator.run(publisher, events=20_000)
            await publisher.flushed()

        async with asyncio.timeout(60):
            await alongside(feed(), publisher.run())
        await publisher.close()
        assert simulator.made == len(bus.events("trade")) == 20_000
        sizes = [len(entry.payload) - 16 for batch in bus.batches for entry in batch]
        assert 150 < sum(sizes) / len(sizes) < 250
