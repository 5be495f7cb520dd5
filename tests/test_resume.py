"""Coming back: what was missed is given once and in order, or declared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import Redis

from feed.bus.base import Retention
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.bus.redis import RedisBus
from feed.errors import BusError
from feed.models import Gap
from feed.sequencer import Sequencer
from tests.web import Client, Web, running, until

TRADE, QUOTE, BOOK = "trade.kraken.BTC-USD", "quote.kraken.BTC-USD", "book.kraken.BTC-USD"


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running() as web:
        yield web


def seqs(client: Client, topic: str = TRADE, type: str = "trade") -> list[int]:
    return [one["seq"] for one in client.ledger.of(topic) if one["type"] == type]


async def trades(web: Web, n: int, pad: int = 0) -> list[int]:
    """Publish; return the positions."""
    publisher = web.publisher
    await publisher.publish(*(publisher.trade(pad=pad) for _ in range(n)))
    return [one["seq"] for one in publisher.sent[TRADE][-n:]]


async def back(client: Client, topic: str, since: int, **options: Any) -> dict[str, Any]:
    """Subscribe to where one left off; return the topic's result."""
    client.ledger.at[topic] = since
    await client.say(
        op="subscribe", id=1, topics=[topic], since={topic: since}, status=False, **options
    )
    answer = await client.type("subscribed", "error")
    await client.type("synced")
    result: dict[str, Any] = answer["results"][0]
    return result


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_who_comes_back_gets_what_it_missed_once_and_then_live(
    web: Web, encoding: str
) -> None:
    published = await trades(web, 10)
    async with web.client(encoding=encoding) as client:
        result = await back(client, TRADE, published[3])
        assert result["recovered"] is True and result["seq"] == published[-1]
        assert seqs(client) == published[4:]
        more = await trades(web, 3)
        await client.read(lambda one: one.get("seq") == more[-1])
        assert seqs(client) == published[4:] + more
        assert "gap" not in client.ledger.types() and "snapshot" not in client.ledger.types()


async def test_who_missed_nothing_is_told_so(web: Web) -> None:
    published = await trades(web, 3)
    async with web.client() as client:
        result = await back(client, TRADE, published[-1])
        assert result["recovered"] is True and seqs(client) == []
        more = await trades(web, 1)
        await client.read(lambda one: one.get("seq") == more[-1])


async def test_zero_is_everything_that_is_kept(web: Web) -> None:
    published = await trades(web, 40)
    async with web.client() as client:
        result = await back(client, TRADE, 0)
        assert result["recovered"] is True and seqs(client) == published


async def test_what_is_no_longer_kept_is_a_gap_and_not_a_part() -> None:
    async with running(retention_trade=10) as web:
        bus = MemoryBus(MemoryBroker(), Retention(trade=10))
        assert isinstance(web.bus, MemoryBus)
        web.bus._retention = bus._retention
        published = await trades(web, 40)
        async with web.client() as client:
            result = await back(client, TRADE, published[5])
            assert result["recovered"] is False and seqs(client) == []
            (gap,) = client.ledger.of(TRADE)
            assert (gap["cause"], gap["from"], gap["to"]) == (
                "resume_too_old",
                published[6],
                published[-1],
            )
            more = await trades(web, 2)
            await client.read(lambda one: one.get("seq") == more[-1])
            assert seqs(client) == more
        async with web.client() as client:
            assert (await back(client, TRADE, published[32]))["recovered"] is True
            assert seqs(client) == [*published[33:], *more]


@pytest.mark.parametrize("ahead", [1, 1 << 53, (1 << 63) - 1])
async def test_a_position_that_was_never_given_is_not_believed(web: Web, ahead: int) -> None:
    published = await trades(web, 3)
    async with web.client() as client:
        await client.say(
            op="subscribe", topics=[TRADE], since={TRADE: published[-1] + ahead}, status=False
        )
        answer = await client.type("subscribed")
        assert answer["results"][0]["recovered"] is False
        client.ledger.at[TRADE] = None
        gap = await client.type("gap")
        assert gap["cause"] == "resume_too_old" and gap["to"] == published[-1]
        more = await trades(web, 2)
        await client.read(lambda one: one.get("seq") == more[-1])
        assert seqs(client) == more, "nothing that comes lies inside the gap"


async def test_a_topic_that_never_had_an_entry_recovers_nothing(web: Web) -> None:
    async with web.client() as client:
        await client.say(op="subscribe", topics=[TRADE], since={TRADE: 5}, status=False)
        answer = await client.type("subscribed")
        assert answer["results"][0] == {
            "topic": TRADE,
            "ok": True,
            "mode": "all",
            "seq": 0,
            "recovered": False,
            "health": None,
        }
        client.ledger.at[TRADE] = None
        assert (await client.type("gap"))["to"] == 0
        more = await trades(web, 2)
        await client.read(lambda one: one.get("seq") == more[-1])


async def test_a_book_goes_on_without_a_snapshot_or_starts_afresh_with_one(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(
        publisher.book([("1", "1")], [("2", "1")], snapshot=True),
        checkpoint=publisher.book([("1", "1")], [("2", "1")], snapshot=True),
    )
    for n in range(5):
        await publisher.publish(publisher.book([("1", str(n + 2))], []))
    published = [one["seq"] for one in publisher.sent[BOOK]]
    async with web.client() as client:
        result = await back(client, BOOK, published[2])
        assert result["recovered"] is True
        assert seqs(client, BOOK, "book") == published[3:]
        assert "snapshot" not in client.ledger.types()
    async with web.client() as client:
        client.ledger.at[BOOK] = None
        await client.say(
            op="subscribe", topics=[BOOK], since={BOOK: published[0] - 1}, status=False
        )
        answer = await client.type("subscribed")
        await client.type("synced")
        recovered = answer["results"][0]["recovered"]
        assert recovered is True, "a book's own first entry is its snapshot"
        assert seqs(client, BOOK, "book") == published
    async with web.client() as client:
        client.ledger.at[BOOK] = published[0] - 5
        result = await back(client, BOOK, published[0] - 5)
        assert result["recovered"] is False
        gap, snapshot = client.ledger.of(BOOK)
        assert gap["cause"] == "resume_too_old" and gap["to"] == snapshot["seq"] == published[-1]
        assert snapshot["event"]["bids"] == [["1", "6"]]


async def test_a_state_topic_in_all_is_resumed_like_an_event_topic(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(*(publisher.quote(bid=f"{n}.0") for n in range(8)))
    published = [one["seq"] for one in publisher.sent[QUOTE]]
    async with web.client() as client:
        result = await back(client, QUOTE, published[4], mode="all")
        assert result["recovered"] is True
        assert seqs(client, QUOTE, "quote") == published[5:]


async def test_in_latest_the_current_value_comes_only_if_it_is_newer(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.quote(bid="1.0"), publisher.quote(bid="2.0"))
    first, second = [one["seq"] for one in publisher.sent[QUOTE]]
    for since, kinds in ((second, []), (first, ["snapshot"]), (second + 9, ["snapshot"])):
        async with web.client() as client:
            client.ledger.latest[QUOTE] = 0
            await client.say(op="subscribe", topics=[QUOTE], since={QUOTE: since}, status=False)
            answer = await client.type("subscribed")
            assert "recovered" not in answer["results"][0]
            await client.type("synced")
            assert [one["type"] for one in client.ledger.of(QUOTE)] == kinds
            assert "gap" not in client.ledger.types()


async def test_last_replays_the_newest_entries_first(web: Web) -> None:
    published = await trades(web, 30)
    async with web.client() as client:
        await client.subscribe(TRADE, QUOTE, all=[TRADE], latest=[QUOTE], last=12)
        assert seqs(client) == published[-12:]
        more = await trades(web, 1)
        await client.read(lambda one: one.get("seq") == more[-1])
    async with web.client(f"?topics={TRADE}&last=4&status=0") as client:
        client.ledger.at[TRADE] = None
        await client.type("synced")
        assert seqs(client) == [*published[-3:], *more]


async def test_a_pattern_tells_of_each_topic_whether_it_was_recovered(web: Web) -> None:
    await web.publisher.carry("BTC-USD", "ETH-USD")
    published = await trades(web, 5)
    other = TRADE.replace("BTC", "ETH")
    await until(lambda: web.gateway.relay.index.is_carried(other))
    async with web.client() as client:
        client.ledger.at.update({TRADE: published[1], other: None})
        await client.say(
            op="subscribe", topics=["trade.kraken.*"], since={TRADE: published[1]}, status=False
        )
        answer = await client.type("subscribed")
        rows = {name: recovered for name, _, recovered in answer["results"][0]["topics"]}
        assert rows == {TRADE: True, other: None}
        await client.type("synced")
        assert seqs(client) == published[2:]


async def test_a_restart_of_the_publisher_in_between_is_part_of_what_is_resumed(web: Web) -> None:
    published = await trades(web, 3)
    heads = await web.bus.heads([TRADE])
    web.publisher.sequencer = Sequencer(5_000, heads)
    await web.bus.publish(web.publisher.sequencer.restart(7))
    more = await trades(web, 2)
    async with web.client() as client:
        assert (await back(client, TRADE, published[0]))["recovered"] is True
        assert seqs(client) == [*published[1:], *more]
        assert seqs(client, TRADE, "gap") == [5_000]


async def test_a_slow_reader_of_a_long_replay_delays_no_other_topic(web: Web) -> None:
    """The replay is larger than a write; the other topic's snapshot comes in between."""
    publisher = web.publisher
    published = await trades(web, 1_500, pad=100)
    await publisher.publish(publisher.quote(bid="1.0"))
    async with web.client() as client:
        client.ledger.at[TRADE] = 0
        client.ledger.latest[QUOTE] = 0
        await client.say(
            op="subscribe", id=1, topics=[TRADE, QUOTE], since={TRADE: 0}, status=False
        )
        await client.type("synced")
        kinds = [one["type"] for one in client.seen if one.get("topic") in (TRADE, QUOTE)]
        assert kinds.count("trade") == len(published) == 1_500
        assert kinds.index("snapshot") < 600


async def test_a_ring_that_moves_past_a_client_that_does_not_read_leaves_a_gap() -> None:
    async with running(retention_trade=500) as web:
        published = await trades(web, 400, pad=2_000)
        async with web.client(max_queue=1) as client:
            client.ledger.at[TRADE] = published[0]
            await client.say(
                op="subscribe", topics=[TRADE], since={TRADE: published[0]}, status=False
            )
            await client.type("subscribed")
            (connection,) = web.gateway.clients
            await until(lambda: connection.outbox.blocked)
            for _ in range(10):
                await trades(web, 100, pad=2_000)
            last = web.publisher.sent[TRADE][-1]["seq"]
            await client.read(lambda one: one.get("seq") == last)
        gaps = [one for one in client.ledger.of(TRADE) if one["type"] == "gap"]
        assert gaps and {gap["cause"] for gap in gaps} == {"slow_consumer"}
        assert client.ledger.at[TRADE] == last


class CountingBus(MemoryBus):
    """Counts what is read of streams, and can refuse it."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker(), Retention())
        self.read: list[str] = []
        self.is_away = False

    async def history(self, topic: str, after: int, limit: int | None = None) -> list[bytes]:
        self.read.append(topic)
        if self.is_away:
            raise BusError("away")
        return await super().history(topic, after, limit)


async def test_many_who_come_back_at_once_cost_one_reading_of_the_stream() -> None:
    bus = CountingBus()
    async with running(bus) as web:
        published = await trades(web, 50)

        async def one_comes_back(since: int) -> None:
            async with web.client() as client:
                assert (await back(client, TRADE, since))["recovered"] is True
                assert seqs(client) == [seq for seq in published if seq > since]

        await asyncio.gather(*(one_comes_back(published[n % 49]) for n in range(40)))
        assert bus.read.count(TRADE) <= 2, "the filling, and one look further back"


async def test_what_cannot_be_proven_for_want_of_the_bus_is_declared() -> None:
    bus = CountingBus()
    async with running(bus) as web:
        published = await trades(web, 50)
        async with web.client() as client:
            await client.subscribe(TRADE, all=[TRADE])
        bus.is_away = True
        async with web.client() as client:
            assert (await back(client, TRADE, published[1]))["recovered"] is False
            assert client.ledger.at[TRADE] == published[-1]
            more = await trades(web, 1)
            await client.read(lambda one: one.get("seq") == more[-1])


async def test_a_gap_on_the_bus_is_not_resumed_over(web: Web) -> None:
    """Positions that this process was never given are a gap also for who comes back later."""
    published = await trades(web, 3)
    publisher = web.publisher
    async with web.client() as keeper:
        await keeper.subscribe(TRADE, all=[TRADE])
        publisher.entry(publisher.trade())  # gets a position and is never published
        more = await trades(web, 2)
        await keeper.read(lambda one: one.get("seq") == more[-1])
        assert keeper.ledger.lost == {TRADE: 1}
        async with web.client() as client:
            assert (await back(client, TRADE, published[-1]))["recovered"] is False
        async with web.client() as client:
            assert (await back(client, TRADE, more[0]))["recovered"] is True
            assert seqs(client) == more[1:]


async def test_gaps_of_the_topic_are_replayed_like_entries(web: Web) -> None:
    published = await trades(web, 2)
    gap = Gap(TRADE, 0, None, 6, 0, "upstream_disconnect", None)
    await web.publisher.publish(gap)
    more = await trades(web, 1)
    async with web.client() as client:
        assert (await back(client, TRADE, published[0]))["recovered"] is True
        types = [one["type"] for one in client.ledger.of(TRADE)]
        assert types == ["trade", "gap", "trade"] and seqs(client)[-1] == more[-1]


@pytest.mark.redis
async def test_a_fresh_process_resumes_from_the_stream_and_an_emptied_one_proves_nothing(
    valkey_url: str,
) -> None:
    async with running(RedisBus(valkey_url, Retention())) as web:
        published = await trades(web, 30)
        async with web.client() as client:
            assert (await back(client, TRADE, published[3]))["recovered"] is True
            assert seqs(client) == published[4:]
        with Redis.from_url(valkey_url) as redis:
            redis.flushall()
        async with web.client() as client:  # this process still has it
            assert (await back(client, TRADE, published[3]))["recovered"] is True
        publisher = web.publisher
        async with running(RedisBus(valkey_url, Retention())) as other:
            await until(lambda: other.gateway.relay.index.is_carried(TRADE))
            other.publisher = publisher
            async with other.client() as client:
                await client.say(
                    op="subscribe", topics=[TRADE], since={TRADE: published[3]}, status=False
                )
                answer = await client.type("subscribed")
                assert answer["results"][0]["recovered"] is False
                client.ledger.at[TRADE] = None
                more = await trades(other, 2)
                await client.read(lambda one: one.get("seq") == more[-1])
                assert "gap" in client.ledger.types()
