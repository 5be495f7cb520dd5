from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from adapters.publisher import Publisher
from adapters.tasks import now_us, together
from feed.bus.base import Entry, pack_header
from feed.bus.memory import MemoryBroker
from feed.errors import BusError, Fenced, LeaseLost
from feed.models import Book, Catalogue, Quote, Trade
from tests.adapters.kit import RecordingBus, eventually, recording_bus

TOPICS = ("trade.x.BTC-USD", "book.x.BTC-USD")
QUOTE = "quote.x.BTC-USD"


def catalogue() -> Catalogue:
    return Catalogue(
        exchange="x", source="live", updated=1, instruments=(), topics=(*TOPICS, QUOTE)
    )


def trade(number: int) -> Trade:
    return Trade(TOPICS[0], 0, None, 7, 0, str(number), "1.0", "1", "buy")


def quote(bid: str) -> Quote:
    return Quote(QUOTE, 0, None, 7, 0, bid, "1", "9.0", "1")


def book(size: str, snapshot: bool = False) -> Book:
    return Book(TOPICS[1], 0, None, 7, 0, [("1", size)], [], snapshot)


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
        await eventually(lambda: len(bus.batches) == 1)
        publisher.put(trade(1), 9)
        bus.is_away = False
        await publisher.flushed()
        assert bus.batches[1] == bus.batches[0] and len(bus.batches[0]) == 1
        assert [event["id"] for event in bus.events()] == ["0", "1"]
        stored = await bus.history(TOPICS[0], 0)
        assert len(stored) == 2


async def test_a_full_buffer_holds_its_feeders_back_while_the_bus_is_there() -> None:
    async with (
        recording_bus() as bus,
        publishing(bus, buffer_max_bytes=1_000) as publisher,
    ):
        bus.gate.clear()
        number = 0
        while not publisher.is_full:
            publisher.put(trade(number), 9)
            number += 1
        waiting = asyncio.create_task(publisher.drain())
        await eventually(lambda: len(bus.batches) >= 1)
        assert not waiting.done()
        bus.gate.set()
        await waiting
        await publisher.flushed()
        assert [event["id"] for event in bus.events()] == [str(n) for n in range(number)]


async def test_a_bus_that_is_away_holds_nobody_back_and_what_is_too_much_becomes_one_gap() -> None:
    async with (
        recording_bus() as bus,
        publishing(bus, buffer_max_bytes=1_000, backlog_max_bytes=4_000) as publisher,
    ):
        bus.is_away = True
        publisher.put(trade(0), 9)
        await eventually(lambda: len(bus.batches) >= 1)
        await asyncio.sleep(0)
        for number in range(1, 101):
            publisher.put(trade(number), 9)
            assert not publisher.is_full
        bus.is_away = False
        await publisher.flushed()
        events = [e for e in bus.events(TOPICS[0]) if e["type"] in ("trade", "gap")]
        assert [e["seq"] for e in events] == list(
            range(events[0]["seq"], events[0]["seq"] + len(events))
        )
        (gap,) = [e for e in events if e["type"] == "gap"]
        ids = [int(e["id"]) for e in events if e["type"] == "trade"]
        assert ids[0] == 0, "what was not acknowledged is kept"
        assert events[1] == gap and gap["cause"] == "upstream_disconnect"
        assert gap["lost"] == 101 - len(ids) and ids[1:] == list(range(101 - len(ids) + 1, 101))


async def test_what_is_older_than_the_bound_is_given_up() -> None:
    async with (
        recording_bus() as bus,
        publishing(bus, backlog_max_s=0.2) as publisher,
    ):
        bus.is_away = True
        publisher.put(trade(0), now_us())
        await eventually(lambda: len(bus.batches) >= 1)
        publisher.put(trade(1), now_us())
        await eventually(lambda: publisher._backlog.given_up == 1)
        bus.is_away = False
        publisher.put(trade(2), now_us())
        await publisher.flushed()
        told = [(e["type"], e.get("id", e.get("lost"))) for e in bus.events(TOPICS[0])]
        assert told == [("trade", "0"), ("gap", 1), ("trade", "2")]


async def test_the_newest_value_of_a_topic_is_never_given_up_however_old_it_is() -> None:
    async with (
        recording_bus() as bus,
        publishing(bus, backlog_max_s=0.2, backlog_max_bytes=2_000) as publisher,
    ):
        publisher.put(quote("1.0"), now_us())
        await publisher.flushed()
        bus.is_away = True
        publisher.put(trade(0), now_us())
        await eventually(lambda: len(bus.batches) >= 2)
        for bid in ("2.0", "3.0"):  # and then the topic is quiet
            publisher.put(quote(bid), now_us())
        for number in range(1, 100):
            publisher.put(trade(number), now_us())
        await eventually(lambda: len(publisher._backlog) == 1)
        bus.is_away = False
        await publisher.flushed()
        told = [(e["type"], e.get("bid", e.get("lost"))) for e in bus.events(QUOTE)]
        assert told == [("quote", "1.0"), ("gap", 1), ("quote", "3.0")]


@pytest.mark.parametrize("lost", ["acquire", "heads", "put_catalogue"])
async def test_an_emptied_bus_is_told_everything_though_an_answer_was_lost_while_it_was(
    lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus, publishing(bus, lease_s=0.2) as publisher:
        publisher.put(quote("1.0"), 9)
        await publisher.flushed()
        asked, ask = asyncio.Event(), getattr(bus, lost)

        async def answer_is_lost(*arguments: Any) -> None:
            await ask(*arguments)
            asked.set()
            raise BusError("no answer")

        with monkeypatch.context() as patch:
            patch.setattr(bus, lost, answer_is_lost)
            broker.empty()
            await eventually(asked.is_set)
        await eventually(lambda: "x" in broker.catalogues and QUOTE in broker.streams)
        (value,) = await bus.history(QUOTE, 0)
        assert b'"bid":"1.0"' in value


async def test_an_emptied_bus_is_told_everything_again_and_positions_go_on() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as bus, publishing(bus, lease_s=0.2) as publisher:
        publisher.put(trade(0), 9)
        publisher.put(quote("1.0"), 9)
        publisher.put(book("1", snapshot=True), 9)
        publisher.checkpoint(book("1", snapshot=True), 9)
        publisher.put(book("2"), 9)
        await publisher.flushed()
        before = {topic: (await bus.heads([topic]))[topic] for topic in TOPICS}
        broker.empty()
        await eventually(lambda: "x" in broker.catalogues and TOPICS[1] in broker.checkpoints)
        await publisher.flushed()
        (value,) = await bus.history(QUOTE, 0)
        assert b'"bid":"1.0"' in value
        checkpoint = await bus.checkpoint(TOPICS[1])
        assert checkpoint is not None and b'[["1","2"]]' in checkpoint
        assert int.from_bytes(checkpoint[8:16], "big") == before[TOPICS[1]].seq
        publisher.put(trade(1), 9)
        publisher.put(book("3"), 9)
        await publisher.flushed()
        heads = await bus.heads(TOPICS)
        assert {t: h.seq - before[t].seq for t, h in heads.items()} == dict.fromkeys(TOPICS, 1)
        assert {h.epoch for h in heads.values()} == {before[TOPICS[0]].epoch}


async def test_a_standby_writes_nothing_and_goes_on_where_the_leader_stopped() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as first, recording_bus(broker) as second:
        leader = Publisher(first, "x", owner="leader", lease_s=0.3)
        await leader.open(catalogue())
        running = asyncio.create_task(leader.run())
        async with publishing(second, owner="standby", lease_s=0.3) as standby:
            for publisher in (leader, standby):
                for number in range(3):
                    publisher.put(trade(number), 9)
                publisher.put(quote("1.0"), 9)
                publisher.put(book("1", snapshot=True), 9)
            await leader.flushed()
            running.cancel()  # as if it were frozen: the lease is not given back
            for number in range(3, 6):
                standby.put(trade(number), 9)
            standby.put(quote("2.0"), 9)
            standby.put(book("2"), 9)
            assert second.batches == []
            await eventually(lambda: standby._sequencer is not None)
            standby.put(trade(6), 9)
            await standby.flushed()
        trades = second.events(TOPICS[0])
        assert [e.get("id", e.get("lost")) for e in trades] == [0, "3", "4", "5", "6"]
        gap, snapshot = second.events(TOPICS[1])
        assert gap["cause"] == "publisher_restart" and gap["lost"] is None
        assert snapshot["snapshot"] is True and snapshot["bids"] == [["1", "2"]]
        assert [e.get("bid") for e in second.events(QUOTE)] == [None, "2.0"]
        assert all(batch[0].topic in (*TOPICS, QUOTE) for batch in second.batches[:1])
        fence = {entry.topic for entry in second.batches[0]}
        assert fence == {*TOPICS, QUOTE}, "the fence is written first, in every topic"
        leader.put(trade(99), 9)
        with pytest.raises((Fenced, LeaseLost)):
            await leader.run()
        stored = b"".join(await second.history(TOPICS[0], 0))
        assert b'"id":"99"' not in stored
        await asyncio.gather(running, return_exceptions=True)


async def test_a_standby_proves_nothing_where_it_does_not_know_the_leaders_last_trade() -> None:
    broker = MemoryBroker()
    async with recording_bus(broker) as first, recording_bus(broker) as second:
        async with publishing(first, owner="leader") as leader:
            leader.put(trade(7), 9)
            await leader.flushed()
            standby = Publisher(second, "x", owner="standby", lease_s=0.2)
            await standby.open(catalogue())
            standby.put(trade(9), 9)
        running = asyncio.create_task(standby.run())
        await eventually(lambda: bool(second.events(TOPICS[0])))
        (gap,) = second.events(TOPICS[0])
        assert gap["lost"] is None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_checkpoint_goes_out_after_the_entries_it_contains_and_only_the_newest() -> None:
    async with recording_bus() as bus, publishing(bus) as publisher:
        for snapshot in range(3):
            publisher.put(Book(TOPICS[1], 0, None, 7, 0, [("1", str(snapshot))], []), 9)
            publisher.checkpoint(Book(TOPICS[1], 0, None, 7, 0, [("1", "9")], [], True), 9)
        await publisher.flushed()
        [checkpoint] = bus.checkpoints
        assert checkpoint.seq == bus.events(TOPICS[1])[-1]["seq"]
        assert await bus.checkpoint(TOPICS[1]) == checkpoint.payload


async def test_another_publisher_takes_over_once_the_lease_is_given_back() -> None:
    async with recording_bus() as bus:
        async with publishing(bus) as first:
            first.put(trade(0), 9)
            await first.flushed()
            second = Publisher(bus, "x", owner="second", lease_s=0.2)
            await second.open(catalogue())
            running = asyncio.create_task(second.run())
            batches = len(bus.batches)
            await asyncio.wait((running,), timeout=0.3)
            assert len(bus.batches) == batches, "it stands by"
        await eventually(lambda: len(bus.batches) > batches)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
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


async def test_after_a_failure_nothing_is_written_before_the_lease_is_proven() -> None:
    """An emptied bus gives the lease to who asks first, whatever is left of its time."""
    broker = MemoryBroker()
    async with recording_bus(broker) as bus, recording_bus(broker) as other:
        publisher = Publisher(bus, "x", owner="old", lease_s=60.0)
        await publisher.open(catalogue())
        running = asyncio.create_task(publisher.run())
        bus.is_away = True
        publisher.put(trade(0), 9)
        await eventually(lambda: len(bus.batches) == 1)
        broker.empty()
        assert await other.acquire("x", "new", 60.0) is not None
        bus.is_away = False
        with pytest.raises(LeaseLost):
            await running
        assert await other.heads(TOPICS) == {}


async def test_the_lease_is_looked_at_after_the_wait_for_other_publishers_of_the_bus() -> None:
    broker, turn = MemoryBroker(), asyncio.Lock()
    async with recording_bus(broker) as bus:
        busy = Publisher(bus, "y", owner="me", turn=turn)
        await busy.open(msgspec.structs.replace(catalogue(), exchange="y", topics=()))
        publisher = Publisher(bus, "x", owner="me", lease_s=60.0, turn=turn)
        await publisher.open(catalogue())
        running = [asyncio.create_task(each.run()) for each in (busy, publisher)]
        bus.gate.clear()
        busy.put(Quote("quote.y.BTC-USD", 0, None, 7, 0, "1", "1", "2", "1"), 9)
        await eventually(lambda: len(bus.batches) == 1)
        publisher.put(trade(0), 9)
        await eventually(lambda: publisher._unacknowledged is not None)
        assert publisher._held_at is not None
        publisher._held_at -= 60.0  # the bus was frozen for so long
        broker.leases["x"].owner = "new"
        bus.gate.set()
        with pytest.raises(LeaseLost):
            await running[1]
        assert await bus.heads(TOPICS) == {}
        running[0].cancel()
        await asyncio.gather(*running, return_exceptions=True)


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
