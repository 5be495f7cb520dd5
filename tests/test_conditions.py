"""Odd conditions around a served client: clocks that are set, flapping, words for the log."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from redis import Redis

from feed.bus import keys
from feed.bus.base import Retention
from feed.bus.redis import RedisBus
from tests.process import serving
from tests.web import RawClient, Web, running, until

TRADE, QUOTE = "trade.kraken.BTC-USD", "quote.kraken.BTC-USD"


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running(heartbeat_s=0.1) as web:
        yield web


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_wall_clock_that_is_set_stops_nothing_and_makes_no_lag(
    web: Web, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = web.publisher
    async with web.client() as client:
        await client.subscribe(TRADE, QUOTE, all=[TRADE], latest=[QUOTE], max_hz=10)
        await publisher.publish(publisher.trade(), publisher.quote(bid="1.0"))
        await client.type("trade")
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + hours * 3_600_000_000_000)
        before = len(client.seen)
        await publisher.publish(publisher.trade(), publisher.quote(bid="2.0"))
        await client.type("trade")
        await client.read(lambda one: one.get("bid") == "2.0")
        for _ in range(3):
            assert (await client.type("heartbeat"))["lag_us"] < 3_000_000
        lags = [one["lag_us"] for one in client.seen[before:] if one["type"] == "heartbeat"]
        assert min(lags) >= 0


def is_answer(id: int, one: dict[str, Any]) -> bool:
    return bool(one["type"] == "unsubscribed" and one["id"] == id)


@pytest.mark.redis
async def test_flapping_leaves_no_interest_and_no_subscription(valkey_url: str) -> None:
    async with running(RedisBus(valkey_url, Retention()), commands_per_s=100_000) as web:
        async with web.client() as client:
            for n in range(1_000):
                await client.say(op="subscribe", id=n, topics=[TRADE, QUOTE], status=False)
                await client.say(op="subscribe", id=n, topics=[TRADE], status=False)
                await client.say(op="unsubscribe", id=n, topics=[TRADE, QUOTE, "trade.x.Y"])
                if n % 50 == 49:  # more commands may not wait unread
                    await client.read(partial(is_answer, n))
            await web.publisher.publish(web.publisher.trade())
            await client.say(op="ping", id="end")
            await client.type("pong")
            after = client.ledger.types().index("pong")
            assert "trade" not in client.ledger.types()[:after]
        await until(lambda: web.gateway.relay.joined() == 0)
        channels = [keys.channel(topic).encode() for topic in (TRADE, QUOTE)]
        with Redis.from_url(valkey_url) as redis:
            await until(lambda: [n for _, n in redis.pubsub_numsub(*channels)] == [0, 0])


@pytest.mark.redis
async def test_what_a_client_says_of_itself_never_reaches_the_log(valkey_url: str) -> None:
    secret = "s3cret-token"
    async with serving(valkey_url, log_level="debug") as served:
        for query, agent in (
            (f"?token={secret}", "\x1b[31mred"),
            ("?topics=%0d%0aINFO+forged", "a" * 60_000),
            ("?topics=x%00y%E2%80%A8z", "forged\u2028line"),
        ):
            client = await RawClient.connect(served.port)
            request = (
                f"GET /v1/ws{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                f"User-Agent: {agent}\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await client.send(request.encode())
            assert await client.receive()
            client.close()
        served.signal(signal.SIGTERM)
        await served.ended()
        said = served.said()
    for word in (secret, "forged", "\x1b", "aaaaaaaa", "\u2028"):
        assert word not in said
