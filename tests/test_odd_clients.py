"""Clients that ask for what is none, leave at any moment, or come from a page of somebody else."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
from redis import Redis
from websockets.exceptions import InvalidStatus

from feed.bus import keys
from feed.bus.base import Retention, Sink
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.bus.redis import RedisBus
from tests.process import serving
from tests.web import RawClient, Web, masked, running, until

TRADE, BOOK = "trade.kraken.BTC-USD", "book.kraken.BTC-USD"

NO_TOPICS = (
    "",
    "__proto__",
    "constructor",
    "trade.kraken.__proto__",
    "trade.kraken.BTC-USD\u0000",
    "trade.kraken.BTC-USD\r\nSUBSCRIBE x",
    "trade.kraken.\u001b[31mBTC",
    "trade.kraken.\ud800",
    "trade.kraken.BTC\u2028USD",
    "trade.kraken.\uff22TC-USD",  # a full-width letter
    "trade.kraken." + "A" * 300,
    "trade." + "k" * 300 + ".BTC-USD",
    "trade.kraken.B*",
    "*.kraken.BTC-USD",
)


@pytest.mark.redis
async def test_what_is_no_topic_reaches_no_channel_of_the_bus(valkey_url: str) -> None:
    many = [f"trade.kraken.NOT{n}" for n in range(4_000)]
    async with running(RedisBus(valkey_url, Retention())) as web:
        client = await RawClient.open(web.port)
        for topics in (list(NO_TOPICS), many, [TRADE]):
            said = json.dumps({"op": "subscribe", "topics": topics, "status": False})
            await client.send(masked(1, said.encode()))
        # A lone surrogate is no text: the whole command is refused, so ask for the others again.
        rest = [topic for topic in NO_TOPICS if "\ud800" not in topic]
        said = json.dumps({"op": "subscribe", "topics": rest, "status": False})
        await client.send(masked(1, said.encode()))
        results = await client.objects("subscribed", len(many) + 1 + len(rest), "results")
        assert [one["topic"] for one in results if one["ok"]] == [TRADE]
        with Redis.from_url(valkey_url) as redis:
            found = {
                bytes(name).decode() for name in redis.pubsub_channels(keys.channel("trade.*"))
            }
        assert found == {keys.channel(TRADE)}
        assert {name for name in web.gateway.relay._states if name.startswith("trade.")} == {TRADE}
        client.close()


class StoppingBus(MemoryBus):
    """Stands still in one of its calls until it is opened."""

    def __init__(self, stops_in: str) -> None:
        super().__init__(MemoryBroker(), Retention())
        self.stops_in = stops_in
        self.is_waiting = False
        self._gate = asyncio.Event()

    def open(self) -> None:
        self._gate.set()

    async def _pass(self, call: str) -> None:
        if call == self.stops_in:
            self.is_waiting = True
            await self._gate.wait()

    async def subscribe(self, topic: str, sink: Sink) -> None:
        await self._pass("subscribe" if topic in (TRADE, BOOK) else "")
        await super().subscribe(topic, sink)

    async def history(self, topic: str, after: int, limit: int | None = None) -> list[bytes]:
        await self._pass("history" if topic in (TRADE, BOOK) else "")
        return await super().history(topic, after, limit)

    async def checkpoint(self, topic: str) -> bytes | None:
        await self._pass("checkpoint")
        return await super().checkpoint(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._pass("unsubscribe")
        await super().unsubscribe(topic)


@pytest.mark.parametrize("stops_in", ["subscribe", "history", "checkpoint"])
@pytest.mark.parametrize("resets", [False, True])
async def test_who_leaves_at_any_wait_of_a_subscribe_leaves_nothing(
    stops_in: str, resets: bool
) -> None:
    bus = StoppingBus(stops_in)
    async with running(bus) as web:
        client = await RawClient.open(web.port)
        command = {"op": "subscribe", "topics": [TRADE, BOOK], "since": {TRADE: 1}}
        await client.send(masked(1, json.dumps(command).encode()))
        await until(lambda: bus.is_waiting)
        client.vanish() if resets else client.close()
        await until(lambda: not web.gateway.clients)
        assert all(state.interest == 0 for state in web.gateway.relay._states.values())
        bus.open()
        await until(lambda: web.gateway.relay.joined() == 0)
        assert not {TRADE, BOOK} & bus._sinks.keys()


async def test_who_comes_while_its_topic_is_being_left_is_served() -> None:
    bus = StoppingBus("unsubscribe")
    async with running(bus) as web:
        async with web.client() as client:
            await client.subscribe(TRADE, all=[TRADE])
        await until(lambda: bus.is_waiting)
        async with web.client() as client:
            client.ledger.at[TRADE] = None
            await client.say(op="subscribe", id=1, topics=[TRADE], status=False)
            bus.open()
            await client.type("synced")
            await web.publisher.publish(web.publisher.trade())
            await client.type("trade")


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running(allowed_origins=("https://good.example",)) as web:
        yield web


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://[::1",
        "http://[x]:1",
        "",
        "https://good.example.evil",
        "https://evil-good.example",
        "https://good.example:8443",
        "https://good.example/",
        "http://good.example",
        "https://GOOD.example.evil",
        "https://good.example@evil.example",
        "https://good.example, https://evil.example",
        "http://127.0.0.1:{other}",
        "http://127.0.0.1",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}@evil.example",
        "http://evil.example/127.0.0.1:{port}",
        "http://evil.example#127.0.0.1:{port}",
    ],
)
async def test_a_page_of_another_origin_is_refused(web: Web, origin: str) -> None:
    said: Any = origin.format(port=web.port, other=web.port + 1)
    with pytest.raises(InvalidStatus) as refused:
        async with web.client(additional_headers={"Origin": said}):
            pass
    assert refused.value.response.status_code == 403
    assert not web.gateway.clients


async def test_who_sends_no_origin_is_no_browser_and_let_in(web: Web) -> None:
    async with web.client() as client:
        await client.type("welcome")


async def test_the_case_of_our_own_name_does_not_matter(web: Web) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(
        b"GET /v1/ws HTTP/1.1\r\nHost: Feed.Example\r\nOrigin: https://feed.EXAMPLE\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with asyncio.timeout(15):
        assert b" 101 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


PATHS = (
    "/v1/snapshot?token=s3cret&topics=%0d%0aforged",
    "/v1/stream?token=s3cret&topics=%0d%0aforged",
    "/s3cret/%0d%0aforged",
    "/v1/ws/s3cret/%0d%0aforged",
    "/v1/snapshot?topics=" + "s3cret" * 20_000,
)


@pytest.mark.redis
async def test_what_is_asked_for_never_reaches_the_log(valkey_url: str) -> None:
    async with serving(valkey_url, log_level="debug") as served:
        for path, agent in product(PATHS, ("\x1b[31mforged", "forged" * 180_000)):
            client = await RawClient.connect(served.port)
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\n\r\n"
            try:
                await client.send(request.encode())
            except ConnectionError:
                pass  # it need not read a megabyte to its end
            await client.receive()
            client.close()
        client = await RawClient.open(served.port, "?topics=s3cret")
        await client.send(masked(1, b'{"op":"s3cret"}') + masked(3, b"s3cret"))
        await client.rest()
        client.close()
        served.signal(signal.SIGTERM)
        await served.ended()
        said = served.said()
    for word in ("s3cret", "forged", "\x1b", "Traceback"):
        assert word not in said
