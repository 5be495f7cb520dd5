"""A hostile exchange: whatever it sends or does not send, the product goes on serving.

Everything is real but the exchange: ingest and a web process share a bus, Kraken's adapter is
pointed at a server that misbehaves, and Coinbase's at one that behaves. After each misdeed the web
process is ready, a client gets what the good exchange sends, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from adapters.fault_language import parse
from adapters.ingest import run_ingest
from adapters.playback import BUNDLED
from adapters.recording import load
from adapters.replay import FakeExchange
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.config import Settings
from feed.server import bind, server
from tests.web import until

Behaviour = Callable[[ServerConnection], Awaitable[None]]

KRAKEN_LISTING = {
    "error": [],
    "result": {
        "XXBTZUSD": {
            "wsname": "XBT/USD",
            "status": "online",
            "pair_decimals": 1,
            "lot_decimals": 8,
        }
    },
}
COINBASE_LISTING = [
    {
        "id": "BTC-USD",
        "base_currency": "BTC",
        "quote_currency": "USD",
        "quote_increment": "0.01",
        "base_increment": "0.00000001",
        "status": "online",
    }
]


@asynccontextmanager
async def exchange(listing: object, behave: Behaviour) -> AsyncIterator[str]:
    """Serve a listing over HTTP and ``behave`` over WebSocket, on one port."""
    body = json.dumps(listing).encode()

    def http(connection: ServerConnection, request: Request) -> Response | None:
        if "upgrade" in request.headers.get("connection", "").lower():
            return None
        headers = Headers({"Content-Length": str(len(body)), "Connection": "close"})
        return Response(200, "OK", headers, body)

    async with serve(behave, "127.0.0.1", 0, process_request=http, close_timeout=0.2) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{port}"


async def trade_for_ever(socket: ServerConnection) -> None:
    """Be Coinbase: acknowledge, then a trade each 10 ms."""
    await socket.recv()
    number = 0
    while True:
        number += 1
        trade = {
            "type": "match",
            "trade_id": number,
            "side": "buy",
            "size": "1.50",
            "price": "100.10",
            "product_id": "BTC-USD",
            "time": "2026-08-01T00:00:00.000001Z",
        }
        await socket.send(json.dumps(trade))
        await asyncio.sleep(0.01)


def sends(*frames: str | bytes) -> Behaviour:
    """Send these over and over."""

    async def behave(socket: ServerConnection) -> None:
        while True:
            for frame in frames:
                await socket.send(frame)
            await asyncio.sleep(0.005)

    return behave


async def closes(socket: ServerConnection) -> None:
    await socket.close(1011)


async def stays_silent(socket: ServerConnection) -> None:
    async for _ in socket:
        pass


@asynccontextmanager
async def web(broker: MemoryBroker) -> AsyncIterator[str]:
    settings = Settings()
    sock = bind("127.0.0.1", 0)
    running = server(settings, MemoryBus(broker, settings.retention))
    task = asyncio.create_task(running.serve(sockets=[sock]))
    await until(lambda: running.started)
    try:
        yield f"127.0.0.1:{sock.getsockname()[1]}"
    finally:
        running.should_exit = True
        await task


async def trades(address: str, count: int) -> list[dict[str, Any]]:
    """Return what a client that comes now gets of the good exchange."""
    found: list[dict[str, Any]] = []
    async with connect(f"ws://{address}/v1/ws?topics=trade.coinbase.BTC-USD") as socket:
        async with asyncio.timeout(30):
            while len(found) < count:
                message = json.loads(await socket.recv())
                if message["type"] == "trade":
                    found.append(message)
    return found


def ready(address: str) -> bool:
    with urlopen(f"http://{address}/readyz", timeout=10) as answer:
        return bool(json.load(answer)["ok"])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("behave", "is_complaint"),
    [
        pytest.param(sends(b"\x00\xff\x13 not text at all"), True, id="binary garbage"),
        pytest.param(sends("garbage", "{", "[]", "null", '{"a":', ""), True, id="no JSON"),
        pytest.param(sends("[" * 100_000), True, id="deep nesting"),
        pytest.param(sends('{"channel":"news","data":[]}'), True, id="an unknown type"),
        pytest.param(
            sends('{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","price":"x"}]}'),
            True,
            id="a known type with nonsense in it",
        ),
        pytest.param(sends("x" * 17_000_000), False, id="a frame over the limit"),
        pytest.param(closes, False, id="closes at once"),
        pytest.param(stays_silent, False, id="accepts and stays silent"),
    ],
)
async def test_a_bad_exchange_costs_nobody_else_anything(
    behave: Behaviour, is_complaint: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await serve_beside(exchange(KRAKEN_LISTING, behave), "BTC-USD")
    complaints = [r for r in caplog.records if "cannot read a frame" in r.getMessage()]
    assert len(complaints) == is_complaint, "said once a minute, not for each frame"


@asynccontextmanager
async def broken(*faults: str) -> AsyncIterator[str]:
    """Serve a tape of Kraken over and over, broken so."""
    recordings = load(BUNDLED / "kraken_xrpusd_20260801.jsonl.gz")
    async with FakeExchange(recordings, speed=20.0, loop=True, faults=parse(faults, 1)) as fake:
        yield fake.url


@pytest.mark.parametrize(
    "faults",
    [
        ["refuse"],
        ["rate-limit:429"],
        ["close:accept"],
        ["close:after=30", "replay-old:50"],
        ["half-open:after=30"],
        ["heartbeats:after=30"],
        ["shutdown:after=30"],
        ["drop:0.2", "duplicate:0.2", "reorder:0.2", "delay:20ms@0.2", "corrupt:0.2"],
    ],
    ids=lambda faults: faults[0],
)
async def test_faults_of_an_exchange_cost_nobody_else_anything(faults: list[str]) -> None:
    await serve_beside(broken(*faults), "BTC-USD", "XRP-USD")


async def serve_beside(misbehaving: AbstractAsyncContextManager[str], *symbols: str) -> None:
    """Run a misbehaving Kraken beside a good Coinbase; check that the latter is served as ever."""
    broker = MemoryBroker()
    async with web(broker) as address:
        assert await asyncio.to_thread(ready, address)
        tasks, files = len(asyncio.all_tasks()), open_files()
        async with misbehaving as bad, exchange(COINBASE_LISTING, trade_for_ever) as good:
            settings = Settings(
                exchanges=("kraken", "coinbase"),
                symbols=symbols,
                kinds=("trade", "book", "quote"),
                endpoints=(f"kraken={bad}", f"coinbase={good}"),
            )
            bus = MemoryBus(broker, settings.retention)
            await bus.start()
            stop = asyncio.Event()
            ingest = asyncio.create_task(run_ingest(settings, bus, stop=stop))
            await until(lambda: "trade.coinbase.BTC-USD" in broker.streams)
            got = await trades(address, 100)
            assert [trade["seq"] - got[0]["seq"] for trade in got] == list(range(100))
            assert await asyncio.to_thread(ready, address)
            assert await trades(address, 1), "a second client is served"
            assert not ingest.done(), "the bad exchange ended the good one"
            stop.set()
            await ingest
            await bus.close()
        # What topics stay joined for is a linger's business, not a leak.
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: open_files() <= files)
        assert await asyncio.to_thread(ready, address)
