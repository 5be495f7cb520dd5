"""A client that stops reading: what it gets is bounded, exact, and nobody else's business."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.web import Client, RawClient, Web, running, until, whole_objects

TRADE, QUOTE, BOOK = "trade.kraken.BTC-USD", "quote.kraken.BTC-USD", "book.kraken.BTC-USD"
PAD = 1_000
OUTBOX = 1 << 18


def pause(client: Client) -> None:
    connection: ClientConnection = client.connection
    connection.transport.pause_reading()


def resume(client: Client) -> None:
    client.connection.transport.resume_reading()


async def publish_5_mb(web: Web, reader: Client | None = None) -> None:
    """Publish it, no faster than the reader takes it in: else it may count as slow too."""
    publisher = web.publisher
    for n in range(100):
        events: list[Any] = [publisher.trade(pad=PAD) for _ in range(45)]
        events += [publisher.quote(bid=f"{n}.5") for _ in range(5)]
        await publisher.publish(*events)
        await asyncio.sleep(0)
        while reader is not None and reader.ledger.at[TRADE] != publisher.sent[TRADE][-1]["seq"]:
            await reader.next()


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("batch", ["0", "1"])
async def test_a_stalled_client_gets_exact_gaps_and_then_the_newest(
    encoding: str, batch: str
) -> None:
    async with running(outbox_max_bytes=OUTBOX) as web:
        async with (
            web.client(f"?batch={batch}", encoding) as stalled,
            web.client(encoding=encoding) as healthy,
        ):
            for client in (stalled, healthy):
                await client.subscribe(TRADE, QUOTE, all=[TRADE], latest=[QUOTE])
            pause(stalled)
            await publish_5_mb(web, healthy)
            last = web.publisher.sent[TRADE][-1]["seq"]
            while healthy.ledger.latest.get(QUOTE) != web.publisher.sent[QUOTE][-1]["seq"]:
                await healthy.next()
            assert healthy.ledger.of(TRADE) == web.publisher.sent[TRADE]
            outboxes = [client.outbox for client in web.gateway.clients]
            (behind,) = [outbox for outbox in outboxes if outbox.blocked]
            assert behind.size <= OUTBOX and behind.dropped > 1_000
            assert len(behind.latest) == 1

            resume(stalled)
            while stalled.ledger.at[TRADE] != last:
                await stalled.next()
            sent = {one["seq"]: one for one in web.publisher.sent[TRADE]}
            got = [one for one in stalled.ledger.of(TRADE) if one["type"] == "trade"]
            assert all(one == sent[one["seq"]] for one in got)
            gaps = [one for one in stalled.ledger.of(TRADE) if one["type"] == "gap"]
            assert {gap["cause"] for gap in gaps} == {"slow_consumer"}
            assert sum(gap["lost"] for gap in gaps) == stalled.ledger.lost[TRADE]
            assert len(got) + stalled.ledger.lost[TRADE] == len(sent)
            assert stalled.ledger.latest[QUOTE] == web.publisher.sent[QUOTE][-1]["seq"]
            # Once it has caught up it is served like everybody else.
            await web.publisher.publish(web.publisher.trade())
            assert await stalled.type("trade") == web.publisher.sent[TRADE][-1]
            await until(lambda: not behind.is_waiting and behind._backlog is None)


async def test_a_stalled_book_gets_a_gap_a_snapshot_and_what_follows() -> None:
    async with running(outbox_max_bytes=1 << 16) as web, web.client() as stalled:
        publisher = web.publisher
        bids: Any = [(f"{n}.0", "1") for n in range(1, 400)]
        await publisher.publish(
            publisher.book(bids, [("1000", "1")], snapshot=True),
            checkpoint=publisher.book(bids, [("1000", "1")], snapshot=True),
        )
        await stalled.subscribe(BOOK, TRADE, all=[BOOK, TRADE])
        pause(stalled)
        for n in range(400):
            await publisher.publish(
                *[publisher.book([(f"{n}.{i}", f"{n}")], []) for i in range(40)]
            )
        resume(stalled)
        last = publisher.sent[BOOK][-1]["seq"]
        while stalled.ledger.at[BOOK] != last or stalled.seen[-1]["type"] == "gap":
            await stalled.next()
        types = [one["type"] for one in stalled.ledger.of(BOOK)]
        assert types.count("snapshot") == 1 + types.count("gap") and "gap" in types
        await publisher.publish(publisher.book([("1.0", "7")], []))
        assert (await stalled.type("book"))["seq"] == last + 1
        # Rebuilt from what it was given, the book is the server's.
        window: dict[str, str] = {}
        for one in stalled.ledger.of(BOOK):
            if one["type"] == "snapshot":
                window = dict(one["event"]["bids"])
            elif one["type"] == "book":
                window.update(one["bids"])
        state = web.gateway.relay._states[BOOK]
        assert state.window is not None and dict(state.window.levels()[0]) == window


async def test_a_client_on_which_nothing_moves_is_ended_and_others_are_not() -> None:
    async with running(stuck_after_s=1.0, outbox_max_bytes=OUTBOX) as web:
        stuck = await RawClient.open(web.port, f"?topics={TRADE}", receive_bytes=8_192)
        async with web.client() as slow, web.client() as healthy:
            for client in (slow, healthy):
                await client.subscribe(TRADE, all=[TRADE])
            reading = asyncio.create_task(drain(healthy))
            slowly = asyncio.create_task(drain(slow, every_s=0.004))
            while web.gateway.evicted == 0:
                await web.publisher.publish(*[web.publisher.trade(pad=PAD) for _ in range(10)])
                await asyncio.sleep(0.002)
            assert len(web.gateway.clients) == 2  # a slow one is not a stuck one
            assert not reading.done() and not slowly.done()
            reading.cancel()
            slowly.cancel()
            await asyncio.gather(reading, slowly, return_exceptions=True)
        assert await reset(stuck)
        stuck.close()


async def test_by_default_who_reads_nothing_is_ended_after_thirty_seconds_and_can_resume() -> None:
    """The figures of the protocol themselves; the tests above are the same at a faster pace.

    The client's library pings every 20 s while the program does not read: that is no progress, and
    no reason to end it sooner.
    """
    async with running() as web:
        async with web.client() as stuck:
            await stuck.subscribe(TRADE, all=[TRADE])
            pause(stuck)
            loop = asyncio.get_running_loop()
            (client,) = web.gateway.clients
            while not client.outbox.blocked:  # the kernel takes some megabytes first
                await publish_5_mb(web)
            stalled_at = loop.time()
            while web.gateway.evicted == 0:
                assert loop.time() - stalled_at < 60, "never ended"
                await web.publisher.publish(web.publisher.trade())
                await asyncio.sleep(0.1)
            assert loop.time() - stalled_at >= 29, "ended before its time"
            resume(stuck)
            with pytest.raises(ConnectionClosed):
                await drain(stuck)
        since = stuck.ledger.at[TRADE]
        assert since is not None
        async with web.client() as back:
            back.ledger.at[TRADE] = since
            await back.say(op="subscribe", topics=[TRADE], since={TRADE: since}, status=False)
            answer = await back.type("subscribed")
            assert answer["results"][0]["recovered"] is True
            await back.type("synced")
            sent = web.publisher.sent[TRADE]
            assert back.ledger.of(TRADE) == [one for one in sent if one["seq"] > since]


async def drain(client: Client, every_s: float = 0.0) -> None:
    while True:
        await client.next()
        if every_s:
            await asyncio.sleep(every_s)


async def reset(client: RawClient) -> bool:
    """Read what the kernel still holds; whether it ends without a close frame."""
    data = await client.rest()
    return all(one["type"] != "closing" for one in whole_objects(data))


async def test_a_stuck_client_that_is_not_even_paused_is_ended() -> None:
    """What waits fits our buffer, so uvloop never says that it is full."""
    async with running(stuck_after_s=0.5, heartbeat_s=0.2) as web:
        stuck = await RawClient.open(web.port, f"?topics={TRADE}", receive_bytes=8_192)
        await until(lambda: len(web.gateway.clients) == 1)
        connection: Any = next(iter(web.gateway.clients))
        while not connection._socket.unsent():
            await web.publisher.publish(web.publisher.trade(pad=500))
            await asyncio.sleep(0)
        assert not connection.outbox.blocked
        await until(lambda: web.gateway.evicted == 1)
        assert not web.gateway.clients
        stuck.close()


async def test_a_throttled_client_that_stalls_gets_the_newest_of_all_its_topics() -> None:
    async with running() as web, web.client() as client:
        publisher = web.publisher
        await publisher.carry("BTC-USD", "ETH-USD")
        topics = [QUOTE, "quote.kraken.ETH-USD"]
        await client.subscribe("quote.kraken.*", TRADE, all=[TRADE], latest=topics, max_hz=50)
        pause(client)
        for n in range(200):
            await publisher.publish(publisher.quote(bid=f"{n}"), publisher.quote("ETH-USD"))
            await publisher.publish(*[publisher.trade(pad=PAD) for _ in range(20)])
            await asyncio.sleep(0)
        resume(client)
        wanted = {topic: publisher.sent[topic][-1]["seq"] for topic in topics}
        while client.ledger.latest != wanted:
            await client.next()


async def test_memory_stays_where_it_is_while_many_stall() -> None:
    async with running(outbox_max_bytes=1 << 16) as web:
        clients = [
            await RawClient.open(web.port, f"?topics={TRADE}&status=0", receive_bytes=8_192)
            for _ in range(20)
        ]
        await publish_5_mb(web)
        web.publisher.sent.clear()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3):
            await publish_5_mb(web)
            web.publisher.sent.clear()
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        # The bus of the test keeps 5,000 trades; the 20 clients may hold 64 KiB each, shared.
        assert grown_kb < 20_000, grown_kb
        for client in web.gateway.clients:
            assert client.outbox.size <= 1 << 16
        for raw in clients:
            raw.vanish()
        await until(lambda: not web.gateway.clients)
