"""What every bus promises (``feed.bus.base.Bus``), over memory and over a real Valkey."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from feed.bus.base import Beat, Bus, CatalogueChanged, Head, Notice, Retention
from feed.errors import BusError, Fenced
from feed.models import Catalogue, Instrument
from tests.bus.conftest import OpenBus
from tests.bus.helpers import BOOK, TOPIC, descriptors, entries, entry, seqs, until


def catalogue(exchange: str, updated: int = 1) -> Catalogue:
    instrument = Instrument(
        exchange=exchange,
        symbol="BTC-USD",
        native="XBT/USD",
        type="spot",
        base="BTC",
        quote="USD",
        topics=(f"trade.{exchange}.BTC-USD",),
    )
    return Catalogue(
        exchange=exchange,
        source="sim",
        updated=updated,
        instruments=(instrument,),
        topics=(f"status.{exchange}.ALL",),
    )


async def test_entries_reach_a_sink_in_the_order_published(open_bus: OpenBus) -> None:
    publisher, reader = await open_bus(), await open_bus()
    got: list[bytes] = []
    await reader.subscribe(TOPIC, got.append)
    sent = entries(TOPIC, range(1, 2_001))
    for begin in range(0, 2_000, 77):
        await publisher.publish(sent[begin : begin + 77])
    await until(lambda: len(got) == 2_000)
    assert got == [one.payload for one in sent]


async def test_payloads_are_opaque_bytes(bus: Bus) -> None:
    got: list[bytes] = []
    await bus.subscribe(TOPIC, got.append)
    sent = [
        entry(TOPIC, seq, body=body)
        for seq, body in enumerate((b"", b"\r\n$-1\r\n", bytes(range(256)), b"x" * 300_000), 1)
    ]
    await bus.publish(sent)
    await until(lambda: len(got) == len(sent))
    assert got == await bus.history(TOPIC, 0) == [one.payload for one in sent]


async def test_a_batch_of_many_megabytes_lands_whole(open_bus: OpenBus) -> None:
    bus = await open_bus()
    got: list[bytes] = []
    await bus.subscribe(TOPIC, got.append)
    sent = [entry(TOPIC, seq, body=b"x" * 10_000) for seq in range(1, 801)]
    await bus.publish(sent)
    await until(lambda: len(got) == 800)
    assert seqs(got) == seqs(await bus.history(TOPIC, 0)) == list(range(1, 801))


async def test_a_topic_delivers_to_its_own_sink_only(bus: Bus) -> None:
    got: dict[str, list[bytes]] = {"trade.a.X": [], "trade.b.X": []}
    for topic, into in got.items():
        await bus.subscribe(topic, into.append)
    await bus.publish([entry(topic, 1) for topic in (*got, "trade.c.X")])
    await bus.publish([entry("trade.b.X", 2)])
    await until(lambda: len(got["trade.b.X"]) == 2)
    assert [seqs(into) for into in got.values()] == [[1], [1, 2]]


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [
        pytest.param(0, None, list(range(1, 11)), id="everything"),
        pytest.param(-1, None, list(range(1, 11)), id="a position that never was"),
        pytest.param(7, None, [8, 9, 10], id="above a seq"),
        pytest.param(10, None, [], id="nothing above"),
        pytest.param(99, None, [], id="above the end"),
        pytest.param(0, 3, [8, 9, 10], id="the newest few"),
        pytest.param(8, 5, [9, 10], id="fewer than the limit"),
        pytest.param(0, 0, [], id="none asked for"),
    ],
)
async def test_history_is_what_lies_above_oldest_first(
    bus: Bus, after: int, limit: int | None, expected: list[int]
) -> None:
    await bus.publish(entries(TOPIC, range(1, 11)))
    assert seqs(await bus.history(TOPIC, after, limit)) == expected


@pytest.mark.parametrize(
    ("after", "before", "limit", "oldest", "newest"),
    [
        pytest.param(0, None, 3, [10, 20, 30], [80, 90, 100], id="of everything"),
        pytest.param(30, None, 2, [40, 50], [90, 100], id="above a seq"),
        pytest.param(0, 40, 2, [10, 20], [20, 30], id="below a seq"),
        pytest.param(20, 60, 2, [30, 40], [40, 50], id="between two"),
        pytest.param(20, 60, 9, [30, 40, 50], [30, 40, 50], id="fewer than the limit"),
        pytest.param(25, 45, 9, [30, 40], [30, 40], id="between seqs that are none"),
        pytest.param(30, 31, 9, [], [], id="no room"),
        pytest.param(30, 30, 9, [], [], id="nothing between equals"),
        pytest.param(60, 20, 9, [], [], id="the wrong way round"),
        pytest.param(100, None, 9, [], [], id="at the end"),
        pytest.param(0, 10, 9, [], [], id="before the first"),
        pytest.param(0, 0, 9, [], [], id="before zero"),
        pytest.param(-5, -1, 9, [], [], id="negative"),
        pytest.param(-5, 1 << 64, 1, [10], [100], id="wider than any seq"),
        pytest.param(1 << 64, None, 9, [], [], id="above any seq"),
        pytest.param((1 << 64) - 1, 1 << 70, 9, [], [], id="above the greatest"),
        pytest.param(0, None, 0, [], [], id="none asked for"),
        pytest.param(0, None, -1, [], [], id="less than none"),
        pytest.param(90, None, 1 << 80, [100], [100], id="any number of them"),
    ],
)
async def test_a_page_is_the_first_or_the_last_few_between_two_seqs(
    bus: Bus, after: int, before: int | None, limit: int, oldest: list[int], newest: list[int]
) -> None:
    await bus.publish(entries(TOPIC, range(10, 101, 10)))
    found = await bus.page(TOPIC, after=after, before=before, limit=limit)
    assert seqs(found) == oldest
    found = await bus.page(TOPIC, after=after, before=before, limit=limit, newest=True)
    assert seqs(found) == newest


async def test_pages_put_together_are_the_whole_stream_in_both_directions(bus: Bus) -> None:
    await bus.publish(entries(TOPIC, range(1, 101)))
    forwards: list[int] = []
    while page := seqs(await bus.page(TOPIC, after=forwards[-1] if forwards else 0, limit=7)):
        forwards += page
    backwards: list[int] = []
    before = None
    while page := seqs(await bus.page(TOPIC, before=before, limit=7, newest=True)):
        backwards = page + backwards
        before = page[0]
    assert forwards == backwards == list(range(1, 101))


async def test_an_unknown_topic_has_no_past(bus: Bus) -> None:
    assert await bus.history(TOPIC, 0) == []
    assert await bus.page(TOPIC, limit=5) == await bus.page(TOPIC, limit=5, newest=True) == []
    assert await bus.heads([TOPIC]) == {}
    assert await bus.heads([]) == {}
    assert await bus.checkpoint(BOOK) is None


async def test_heads_are_the_last_entries_of_topics_that_have_one(bus: Bus) -> None:
    await bus.publish([*entries(TOPIC, [5, 6], epoch=5), entry(BOOK, 9, epoch=7)])
    assert await bus.heads([TOPIC, "trade.kraken.NEVER", BOOK]) == {
        TOPIC: Head(5, 6),
        BOOK: Head(7, 9),
    }


async def test_seqs_of_microseconds_keep_every_digit(bus: Bus) -> None:
    epoch = 1_732_280_000_123_457
    await bus.publish([entry(TOPIC, epoch + 1, epoch)])
    assert await bus.heads([TOPIC]) == {TOPIC: Head(epoch, epoch + 1)}
    assert seqs(await bus.history(TOPIC, epoch)) == [epoch + 1]
    assert await bus.history(TOPIC, epoch + 1) == []


async def test_retention_goes_by_kind(open_bus: OpenBus) -> None:
    bus = await open_bus(Retention(trade=400, book=300, liquidation=200, state=100))
    kept = {}
    for kind in ("trade", "book", "liquidation", "quote"):
        topic = f"{kind}.kraken.X"
        await bus.publish(entries(topic, range(1, 2_001)))
        found = seqs(await bus.history(topic, 0))
        assert found == list(range(2_001 - len(found), 2_001))
        kept[kind] = len(found)
    # Never less than promised; a server may keep up to one more node of a stream.
    for kind, least in {"trade": 400, "book": 300, "liquidation": 200, "quote": 100}.items():
        assert least <= kept[kind] <= least + 100


async def test_a_batch_given_again_is_sent_again_but_appended_once(bus: Bus) -> None:
    got: list[bytes] = []
    await bus.subscribe(TOPIC, got.append)
    await bus.publish(entries(TOPIC, [1, 2, 3]))
    await bus.publish(entries(TOPIC, [2, 3, 4]))
    await until(lambda: len(got) == 6)
    assert seqs(got) == [1, 2, 3, 2, 3, 4]
    assert seqs(await bus.history(TOPIC, 0)) == [1, 2, 3, 4]


async def test_however_batches_are_repeated_the_stream_has_each_entry_once(bus: Bus) -> None:
    rng = random.Random(7)
    topics = [f"trade.x.S{number}" for number in range(5)]
    positions = dict.fromkeys(topics, 0)
    for _ in range(60):
        batch = []
        for topic in rng.choices(topics, k=rng.randint(1, 40)):
            positions[topic] += 1
            batch.append(entry(topic, positions[topic]))
        landed = rng.randint(0, len(batch))
        await bus.publish(batch[:landed])
        await bus.publish(batch)
    for topic, last in positions.items():
        assert seqs(await bus.history(topic, 0)) == list(range(1, last + 1))


async def test_an_older_epoch_is_fenced_by_a_newer_one(open_bus: OpenBus) -> None:
    old, new = await open_bus(), await open_bus()
    await old.publish(entries(TOPIC, [100, 101], epoch=100))
    await new.publish([entry(TOPIC, 200, epoch=200)], [entry(BOOK, 200, epoch=200)])
    with pytest.raises(Fenced) as caught:
        await old.publish([entry(TOPIC, 102, epoch=100)], [entry(BOOK, 102, epoch=100)])
    assert (caught.value.topic, caught.value.epoch) == (TOPIC, 200)
    assert seqs(await new.history(TOPIC, 0)) == [100, 101, 200]
    checkpoint = await new.checkpoint(BOOK)
    assert checkpoint is not None and seqs([checkpoint]) == [200]


async def test_a_fenced_topic_is_found_among_many_that_are_not(open_bus: OpenBus) -> None:
    old, new = await open_bus(), await open_bus()
    topics = [f"trade.x.S{number}" for number in range(50)]
    await old.publish([entry(topic, 10, epoch=10) for topic in topics])
    await new.publish([entry(topics[33], 20, epoch=20)])
    with pytest.raises(Fenced) as caught:
        await old.publish([entry(topic, 11, epoch=10) for topic in topics])
    assert caught.value.topic == topics[33]


async def test_an_older_publisher_ahead_of_us_is_no_fence_but_an_error(bus: Bus) -> None:
    await bus.publish([entry(TOPIC, 500, epoch=1)])
    with pytest.raises(BusError, match="read the heads again") as caught:
        await bus.publish([entry(TOPIC, 400, epoch=2)])
    assert not isinstance(caught.value, Fenced)


async def test_a_fenced_entry_still_reaches_sinks_who_must_judge_it(bus: Bus) -> None:
    got: list[bytes] = []
    await bus.subscribe(TOPIC, got.append)
    await bus.publish([entry(TOPIC, 200, epoch=200)])
    with pytest.raises(Fenced):
        await bus.publish([entry(TOPIC, 101, epoch=100)])
    await until(lambda: len(got) == 2)
    assert seqs(got) == [200, 101]


async def test_the_newest_checkpoint_counts(bus: Bus) -> None:
    await bus.publish(entries(BOOK, [1, 2]), [entry(BOOK, 2, body=b"old")])
    await bus.publish([], [entry(BOOK, 3, body=b"new")])
    assert await bus.checkpoint(BOOK) == entry(BOOK, 3, body=b"new").payload
    assert seqs(await bus.history(BOOK, 0)) == [1, 2]  # a checkpoint is no entry


async def test_a_lease_has_one_owner(open_bus: OpenBus) -> None:
    one, two = await open_bus(), await open_bus()
    before = time.time_ns() // 1_000
    epoch = await one.acquire("kraken", "one", 60.0)
    assert epoch is not None and before <= epoch <= time.time_ns() // 1_000
    assert await two.acquire("kraken", "two", 60.0) is None
    assert await two.renew("kraken", "two", 60.0) is False
    assert await one.renew("kraken", "one", 60.0) is True
    assert await two.acquire("binance", "two", 60.0) is not None


async def test_every_taking_has_a_greater_epoch(open_bus: OpenBus) -> None:
    one, two = await open_bus(), await open_bus()
    epochs = [await one.acquire("kraken", "one", 60.0), await one.acquire("kraken", "one", 60.0)]
    await one.release("kraken", "one")
    epochs.append(await two.acquire("kraken", "two", 60.0))
    assert None not in epochs
    assert epochs == sorted(set(epochs), key=lambda epoch: epoch or 0)
    assert await one.renew("kraken", "one", 60.0) is False


async def test_only_the_owner_can_release(open_bus: OpenBus) -> None:
    one, two = await open_bus(), await open_bus()
    await one.acquire("kraken", "one", 60.0)
    await two.release("kraken", "two")
    await two.release("never", "two")
    assert await two.acquire("kraken", "two", 60.0) is None


async def test_a_lease_that_ran_out_can_be_taken(open_bus: OpenBus) -> None:
    one, two = await open_bus(), await open_bus()
    first = await one.acquire("kraken", "one", 0.05)
    second = None
    async with asyncio.timeout(20):
        while second is None:
            second = await two.acquire("kraken", "two", 60.0)
    assert first is not None and second > first
    assert await one.renew("kraken", "one", 60.0) is False


async def test_a_lease_that_ran_out_untaken_can_be_renewed(open_bus: OpenBus) -> None:
    one, two = await open_bus(), await open_bus()
    await one.acquire("kraken", "one", 0.0)
    assert await one.renew("kraken", "one", 60.0) is True
    assert await two.acquire("kraken", "two", 60.0) is None


async def test_catalogues_are_kept_and_announced(open_bus: OpenBus) -> None:
    publisher, reader = await open_bus(), await open_bus()
    told: list[Notice] = []
    reader.watch(told.append)
    await reader.subscribe(TOPIC, lambda payload: None)  # by now the watcher is heard, too
    assert await reader.catalogues() == {}
    await publisher.put_catalogue(catalogue("kraken"))
    await publisher.put_catalogue(catalogue("binance"))
    await until(lambda: len(told) == 2)
    assert sorted(told, key=str) == [
        CatalogueChanged(catalogue("binance")),
        CatalogueChanged(catalogue("kraken")),
    ]
    await publisher.put_catalogue(catalogue("kraken", updated=2))
    await until(lambda: CatalogueChanged(catalogue("kraken", updated=2)) in told)
    assert await reader.catalogues() == {
        "kraken": catalogue("kraken", updated=2),
        "binance": catalogue("binance"),
    }


async def test_beats_are_heard_by_every_watcher(open_bus: OpenBus) -> None:
    publisher, one, two = await open_bus(), await open_bus(), await open_bus()
    told: list[list[Notice]] = [[], []]
    for bus, into in zip((one, two), told, strict=True):
        bus.watch(into.append)
        await bus.subscribe(TOPIC, lambda payload: None)
    await publisher.beat("kraken")
    await publisher.beat("bybit-linear")
    await until(lambda: all(len(into) == 2 for into in told))
    assert told == [[Beat("kraken"), Beat("bybit-linear")]] * 2


async def test_nothing_published_after_the_confirmation_is_missed(open_bus: OpenBus) -> None:
    publisher, reader = await open_bus(), await open_bus()
    topics = [f"trade.x.S{number}" for number in range(40)]
    got: dict[str, list[bytes]] = {topic: [] for topic in topics}
    confirmed_before: dict[str, int] = {}
    seq = 0
    done = asyncio.Event()

    async def publish() -> None:
        nonlocal seq
        while not done.is_set():
            seq += 1
            await publisher.publish([entry(topic, seq) for topic in topics])

    async def join(topic: str) -> None:
        await reader.subscribe(topic, got[topic].append)
        confirmed_before[topic] = seq + 1  # the first that has not been handed over yet

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        await until(lambda: seq > 3)
        for begin in range(0, len(topics), 8):
            await asyncio.gather(*map(join, topics[begin : begin + 8]))
        enough = seq + 20
        await until(lambda: seq >= enough)
        done.set()
    last = seq
    await until(lambda: all(seqs(got[topic])[-1:] == [last] for topic in topics))
    for topic in topics:
        found = seqs(got[topic])
        assert found[0] <= confirmed_before[topic]
        assert found == list(range(found[0], last + 1))


async def test_thousands_of_topics_are_subscribed_at_once(bus: Bus) -> None:
    topics = [f"quote.x.S{number}" for number in range(3_000)]
    got: list[bytes] = []
    await asyncio.gather(*(bus.subscribe(topic, got.append) for topic in topics))
    await bus.publish([entry(topic, 1) for topic in topics])
    await until(lambda: len(got) == 3_000)


async def test_a_second_subscription_replaces_the_first(bus: Bus) -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    await bus.subscribe(TOPIC, first.append)
    await bus.subscribe(TOPIC, second.append)
    await bus.publish([entry(TOPIC, 1)])
    await until(lambda: bool(second))
    assert first == []


async def test_an_unsubscribed_topic_is_silent(bus: Bus) -> None:
    got: list[bytes] = []
    other: list[bytes] = []
    await bus.subscribe(TOPIC, got.append)
    await bus.subscribe(BOOK, other.append)
    await bus.unsubscribe(TOPIC)
    await bus.unsubscribe("trade.never.SUBSCRIBED")
    await bus.publish([entry(TOPIC, 1), entry(BOOK, 1)])
    await until(lambda: bool(other))
    assert got == []


async def test_the_last_of_quick_changes_of_mind_counts(bus: Bus) -> None:
    got: list[bytes] = []
    first = asyncio.ensure_future(bus.subscribe(TOPIC, got.append))
    await asyncio.sleep(0)
    await bus.unsubscribe(TOPIC)
    await bus.subscribe(TOPIC, got.append)
    await first
    await bus.publish(entries(TOPIC, [1, 2]))
    await until(lambda: len(got) == 2)


async def test_a_sink_may_unsubscribe_itself(bus: Bus) -> None:
    got: list[bytes] = []
    leaving: set[asyncio.Task[None]] = set()
    other: list[bytes] = []

    def sink(payload: bytes) -> None:
        got.append(payload)
        leaving.add(asyncio.ensure_future(bus.unsubscribe(TOPIC)))

    await bus.subscribe(TOPIC, sink)
    await bus.subscribe(BOOK, other.append)
    await bus.publish([entry(TOPIC, 1)])
    await until(lambda: bool(leaving) and all(task.done() for task in leaving))
    await bus.publish([entry(TOPIC, 2), entry(BOOK, 1)])
    await until(lambda: bool(other))
    assert seqs(got) == [1]


async def test_a_bus_that_is_not_open_says_so(make_bus: Callable[[Retention], Bus]) -> None:
    bus = make_bus(Retention())
    for _ in ("before start", "after close"):
        for call in (
            bus.publish([entry(TOPIC, 1)]),
            bus.heads([TOPIC]),
            bus.history(TOPIC, 0),
            bus.page(TOPIC, limit=1),
            bus.subscribe(TOPIC, lambda payload: None),
            bus.acquire("kraken", "one", 1.0),
            bus.beat("kraken"),
            bus.catalogues(),
        ):
            with pytest.raises(BusError):
                await call
        await bus.start()
        await bus.close()
        await bus.close()


async def test_closing_gives_every_task_and_descriptor_back(
    make_bus: Callable[[Retention], Bus],
) -> None:
    async def use() -> None:
        bus = make_bus(Retention())
        await bus.start()
        bus.watch(lambda notice: None)
        await bus.subscribe(TOPIC, lambda payload: None)
        await bus.publish([entry(TOPIC, 1)])
        await asyncio.gather(*(bus.history(TOPIC, 0) for _ in range(8)))
        await bus.close()

    await use()  # what the process opens once and keeps
    tasks, files = len(asyncio.all_tasks()), descriptors()
    await use()
    await until(lambda: descriptors() <= files)
    assert len(asyncio.all_tasks()) == tasks
