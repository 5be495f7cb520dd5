from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from adapters.publisher import Publisher
from adapters.tasks import together
from feed.bus.base import Entry, pack_header
from feed.bus.memory import MemoryBroker
from feed.errors import Fenced, LeaseLost
from feed.models import Book, Catalogue, Trade
from tests.adapters.kit import RecordingBus, eventually, recording_bus

TOPICS = ("trade.x.BTC-USD", "book.x.BTC-USD")


def catalogue() -> Catalogue:
    return Catalogue(exchange="x", source="live", updated=1, instruments=(), topics=TOPICS)


def trade(number: int) -> Trade:
    return Trade(TOPICS[0], 0, None, 7, 0, str(number), "1.0", "1", "buy")


@asynccontextmanager
async def publishing(
    bus: RecordingBus, owner: str = "me", **options: float
) -> AsyncIterator[Publisher]:
    publisher = Publisher(bus, "x", owner=owner, **options)  # type: ignore[arg-type]
    await publisher.open(catalogue())
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await publisher.close()


async def test_events_get_positions_one_after_the_other() -> None:
    async with recording_bus() as bus:
        async with publishing(bus) as publisher:
            for number in range(5):
                publisher.put(trade(number), 9)
            await publisher.flushed()
        seqs = [event["seq"] for event in bus.events()]
    assert [event["id"] for event in bus.events()] == ["0", "1", "2", "3", "4"]
    assert seqs == list(range(seqs[0], seqs[0] + 5))


async def test_what_gathers_while_the_bus_is_busy_goes_out_as_one_batch() -> None:
    async with recording_bus() as bus, publishing(bus) as publisher:
        bus.gate.clear()
        publisher.put(trade(0), 9)
        await eventually(lambda: len(bus.batches) == 1)
        for number in range(1, 101):
            publisher.put(trade(number), 9)
        bus.gate.set()
        await publisher.flushed()
        assert [len(batch) for batch in bus.batches] == [1, 100]


async def test_a_new_publisher_begins_with_the_restart_and_then_says_what_it_carries() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus:
        async with publishing(bus) as publisher:
            publisher.put(trade(0), 9)
            await publisher.flushed()
        async with publishing(bus, owner="next") as publisher:
            publisher.put(trade(1), 9)
            await publisher.flushed()
        first, gap, second = bus.events()
        assert (gap["type"], gap["cause"]) == ("gap", "publisher_restart")
        assert (gap["from"], gap["to"]) == (first["seq"] + 1, gap["seq"] - 1)
        assert second["seq"] == gap["seq"] + 1
        assert set(broker.catalogues) == {"x"}


async def test_the_same_batch_goes_out_again_until_the_bus_is_back() -> None:
    async with recording_bus() as bus, publishing(bus) as publisher:
        bus.is_away = True
        publisher.put(trade(0), 9)
        await eventually(lambda: len(bus.batches) >= 3)
        publisher.put(trade(1), 9)
        bus.is_away = False
        await publisher.flushed()
        retries = [batch for batch in bus.batches if len(batch) == 1]
        assert all(batch == retries[0] for batch in retries[:3])
        assert [event["id"] for event in bus.events()] == ["0", "1"]
        stored = await bus.history(TOPICS[0], 0)
        assert len(stored) == 2


async def test_a_full_buffer_holds_its_feeders_back_until_there_is_room() -> None:
    async with (
        recording_bus() as bus,
        publishing(bus, buffer_max_bytes=1_000) as publisher,
    ):
        bus.is_away = True
        number = 0
        while not publisher.is_full:
            publisher.put(trade(number), 9)
            number += 1
        waiting = asyncio.create_task(publisher.drain())
        await eventually(lambda: len(bus.batches) >= 2)
        assert not waiting.done()
        bus.is_away = False
        await waiting
        await publisher.flushed()
        assert [event["id"] for event in bus.events()] == [str(n) for n in range(number)]


async def test_a_checkpoint_goes_out_after_the_entries_it_contains_and_only_the_newest() -> None:
    async with recording_bus() as bus, publishing(bus) as publisher:
        for snapshot in range(3):
            publisher.put(Book(TOPICS[1], 0, None, 7, 0, [("1", str(snapshot))], []), 9)
            publisher.checkpoint(Book(TOPICS[1], 0, None, 7, 0, [("1", "9")], [], True), 9)
        await publisher.flushed()
        [checkpoint] = bus.checkpoints
        assert checkpoint.seq == bus.events(TOPICS[1])[-1]["seq"]
        assert await bus.checkpoint(TOPICS[1]) == checkpoint.payload


async def test_another_publisher_waits_until_the_lease_is_given_back() -> None:
    async with recording_bus() as bus:
        async with publishing(bus):
            second = Publisher(bus, "x", owner="second", lease_s=0.2)
            opening = asyncio.create_task(second.open(catalogue()))
            await asyncio.wait((opening,), timeout=0.3)
            assert not opening.done()
        await opening
        await second.close()


async def test_who_was_fenced_stops_and_says_so() -> None:
    async with recording_bus() as bus:
        publisher = Publisher(bus, "x", owner="old")
        await publisher.open(catalogue())
        newer = 2 << 50
        await bus.publish([Entry(TOPICS[0], newer, pack_header(newer, newer) + b"{}")])
        publisher.put(trade(0), 9)
        with pytest.raises(Fenced):
            await publisher.run()


async def test_who_lost_the_lease_stops_and_says_so() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus:
        publisher = Publisher(bus, "x", owner="old", lease_s=0.2)
        await publisher.open(catalogue())
        broker.leases["x"].owner = "new"
        broker.leases["x"].expires *= 2
        with pytest.raises(LeaseLost):
            await publisher.run()


async def test_an_expired_lease_that_nobody_took_is_taken_again() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus, publishing(bus, lease_s=0.2) as publisher:
        publisher.put(trade(0), 9)
        await publisher.flushed()
        epoch = broker.leases["x"].epoch
        broker.leases["x"].owner = None
        await eventually(lambda: broker.leases["x"].owner == "me")
        assert broker.leases["x"].epoch > epoch
        publisher.put(trade(1), 9)
        await publisher.flushed()
        first, second = bus.events()
        assert second["seq"] == first["seq"] + 1


async def test_a_publisher_that_closes_writes_what_waits_and_gives_the_lease_back() -> None:
    async with recording_bus() as bus:
        publisher = Publisher(bus, "x", owner="me")
        await publisher.open(catalogue())
        publisher.put(trade(0), 9)
        await publisher.close()
        assert [event["id"] for event in bus.events()] == ["0"]
        assert await bus.acquire("x", "other", 1.0) is not None


async def test_a_bus_that_is_away_does_not_hold_up_the_end_and_the_loss_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with recording_bus() as bus:
        publisher = Publisher(bus, "x", owner="me")
        await publisher.open(catalogue())
        bus.is_away = True
        publisher.put(trade(0), 9)
        await publisher.close(deadline_s=0.1)
    assert "1 entries unpublished" in caplog.text


async def test_it_beats() -> None:
    beats: list[object] = []
    async with recording_bus() as bus:
        bus.watch(beats.append)
        async with publishing(bus, lease_s=0.2):
            await eventually(lambda: sum(type(b).__name__ == "Beat" for b in beats) >= 2)


async def test_the_first_failure_of_tasks_that_run_together_is_raised_alone() -> None:
    async def fail() -> None:
        raise Fenced("t", 1)

    with pytest.raises(Fenced):
        await together(asyncio.sleep(60), fail())
