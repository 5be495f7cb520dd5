"""Every recorded session, from the fake exchange to a client: what is on the tape is what arrives.

tape -> FakeExchange (real sockets) -> runner -> adapter -> sequencer -> Valkey -> web process (real
uvicorn) -> WebSocket client in mode ``all``. The expected values are read from the raw text of the
tape by code of this file alone.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from adapters import tape
from adapters.ingest import run_ingest
from adapters.playback import bundled
from feed.bus import open_bus
from feed.bus.base import Bus, Entry
from feed.config import Settings
from feed.models import Catalogue
from feed.server import bind, server

REPO = Path(__file__).resolve().parent.parent
CAPTURES = REPO.parent / "shared" / "captures"
FOLDERS = ("binance-spot", "binance-usdm", "coinbase-exchange", "kraken-v2", "bybit")
DEADLINE_S = 240.0
#: Entries that may lie in an outbox and a stream: the whole tape, so that nothing has to be given
#: up however far the client is behind a tape that runs as fast as it can.
SETTINGS = Settings(outbox_max_bytes=1 << 30, retention_trade=50_000, log_level="warning")


def tapes() -> Iterator[Any]:
    for path in bundled():
        yield pytest.param(path, id=f"bundled-{path.name}")
    for folder in FOLDERS:
        for path in sorted((CAPTURES / folder).glob("*.jsonl.gz")):
            yield pytest.param(path, id=f"{folder}-{path.name}")
    if not CAPTURES.is_dir():
        reason = "no ../shared/captures beside this checkout: the bundled tapes alone are tested"
        yield pytest.param(None, id="captures", marks=pytest.mark.skip(reason=reason))


# What the tape says, by other code than the adapters'.


def raw_trades(path: Path) -> dict[str, list[tuple[str, str, str, str]]]:
    """Return native symbol -> (id, price, size, taker's side) of every trade, as written."""
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    kinds: set[str] = set()
    rows: list[tuple[str, str, tuple[str, str, str, str]]] = []
    for line in tape.read(path):
        if line.dir != "in" or line.raw is None:
            continue
        raw = line.raw
        if '"e":"trade"' in raw or '"e":"aggTrade"' in raw:
            data = json.loads(raw, parse_int=str)["data"]
            side = "sell" if data["m"] else "buy"
            kind = data["e"]
            kinds.add(kind)
            id = data["t"] if kind == "trade" else data["a"]
            rows.append((kind, data["s"], (id, data["p"], data["q"], side)))
        elif '"type":"match"' in raw:
            data = json.loads(raw, parse_int=str)
            side = "sell" if data["side"] == "buy" else "buy"
            row = (data["trade_id"], data["price"], data["size"], side)
            rows.append(("match", data["product_id"], row))
        elif '"topic":"publicTrade.' in raw:
            for data in json.loads(raw)["data"]:
                native = data["s"] + (":linear" if line.conn == "ws2" else "")
                row = (data["i"], data["p"], data["v"], data["S"].lower())
                rows.append(("publicTrade", native, row))
    for kind, native, row in rows:
        if kind == "aggTrade" and "trade" in kinds:
            continue  # never both on one topic
        found.setdefault(native, []).append(row)
    return found


# The whole way.


@asynccontextmanager
async def web(settings: Settings, bus: Bus) -> AsyncIterator[str]:
    sock = bind("127.0.0.1", 0)
    running = server(settings, bus)
    task = asyncio.create_task(running.serve(sockets=[sock]))
    while not running.started:
        assert not task.done(), "the web process did not start"
        await asyncio.sleep(0.01)
    try:
        yield f"ws://127.0.0.1:{sock.getsockname()[1]}/v1/ws"
    finally:
        running.should_exit = True
        await task


class Tap:
    """What was given to a bus: catalogues, and each topic's last position."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.last: dict[str, int] = {}
        self.listed: list[Catalogue] = []
        publish, put_catalogue = bus.publish, bus.put_catalogue

        async def noted(batch: Sequence[Entry], checkpoints: Sequence[Entry] = ()) -> None:
            for entry in batch:
                self.last[entry.topic] = entry.seq
            await publish(batch, checkpoints)

        async def listed(catalogue: Catalogue) -> None:
            self.listed.append(catalogue)
            await put_catalogue(catalogue)

        bus.publish = noted  # type: ignore[method-assign]
        bus.put_catalogue = listed  # type: ignore[method-assign]


async def catalogues_of(path: Path) -> list[Catalogue]:
    """Return what a run of the tape lists, so that a client can subscribe before the real one."""
    tap = Tap(open_bus("memory://", SETTINGS.retention))
    await tap.bus.start()
    await run_ingest(SETTINGS, tap.bus, source="tape", tapes=[path], speed="max")
    return tap.listed


class Client:
    """What one client was given, checked as it comes."""

    def __init__(self) -> None:
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.positions: dict[str, int] = {}
        self.books: dict[str, dict[str, dict[Decimal, str]]] = {}
        self.gaps: list[dict[str, Any]] = []

    def take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind in ("error", "closing"):
            raise AssertionError(message)
        if kind == "subscribed":
            assert all(result["ok"] for result in message["results"]), message
        topic = message.get("topic")
        if topic is None:
            return
        if kind == "snapshot":
            self.positions[topic] = message["seq"]
            return
        before = self.positions.get(topic)
        if kind == "gap":
            self.gaps.append(message)
        elif before:
            assert message["seq"] == before + 1, f"{topic} jumps from {before} to {message['seq']}"
        self.positions[topic] = message["seq"]
        self.events.setdefault(topic, []).append(message)
        if kind == "book":
            self._apply(topic, message)

    def _apply(self, topic: str, entry: dict[str, Any]) -> None:
        """Keep the book by the deltas alone; its top must never be crossed."""
        if entry.get("snapshot"):
            self.books[topic] = {"bids": {}, "asks": {}}
        book = self.books[topic]
        for side in ("bids", "asks"):
            for price, size in entry[side]:
                if size == "0":
                    book[side].pop(Decimal(price), None)
                else:
                    book[side][Decimal(price)] = size
            assert len(book[side]) <= 1_000, topic
        if book["bids"] and book["asks"]:
            assert max(book["bids"]) < min(book["asks"]), f"{topic} is crossed at {entry['seq']}"


async def play(path: Path, url: str) -> tuple[Client, Tap]:
    """Run a tape through everything; return what one client got, and what was published."""
    reader, writer = open_bus(url, SETTINGS.retention), Tap(open_bus(url, SETTINGS.retention))
    await writer.bus.start()
    client = Client()
    try:
        catalogues = await catalogues_of(path)
        for catalogue in catalogues:
            await writer.bus.put_catalogue(catalogue)
        topics = sorted(set().union(*(catalogue.carried() for catalogue in catalogues)))
        async with (
            web(SETTINGS, reader) as address,
            connect(address, max_size=None, compression=None) as socket,
        ):
            command = {"op": "subscribe", "id": 1, "topics": topics, "mode": "all"}
            if not any(t.startswith(("quote.", "depth.", "status.")) for t in topics):
                del command["mode"]
            await socket.send(json.dumps(command))
            message: dict[str, Any] = {}
            while message.get("type") != "synced":
                message = json.loads(await socket.recv())
                client.take(message)
            async with asyncio.timeout(DEADLINE_S):
                await run_ingest(SETTINGS, writer.bus, source="tape", tapes=[path], speed="max")
            async with asyncio.timeout(DEADLINE_S):
                while any(client.positions.get(t, 0) < seq for t, seq in writer.last.items()):
                    client.take(json.loads(await socket.recv()))
    finally:
        await writer.bus.close()
    return client, writer


@pytest.mark.redis
@pytest.mark.parametrize("path", list(tapes()))
async def test_what_is_on_the_tape_is_what_arrives(path: Path, valkey_url: str) -> None:
    client, writer = await play(path, valkey_url)

    assert not client.gaps, "nothing is missing on any of these tapes"
    natives = {
        (f"{i.native}:linear" if i.exchange == "bybit-linear" else i.native): (i.exchange, i.symbol)
        for catalogue in writer.listed
        for i in catalogue.instruments
        if i.topics
    }
    for native, expected in raw_trades(path).items():
        exchange, symbol = natives[native]
        topic = f"trade.{exchange}.{symbol}"
        got = [(e["id"], e["price"], e["size"], e["side"]) for e in client.events.get(topic, [])]
        assert got == expected, topic
    for topic, events in client.events.items():
        kind = topic.partition(".")[0]
        if kind == "quote":
            for quote in events:
                if quote["bid"] is not None and quote["ask"] is not None:
                    assert Decimal(quote["bid"]) < Decimal(quote["ask"]), quote
        if kind in ("quote", "depth", "book", "trade", "ticker"):
            prices = re.findall(r'"(-?[^"]*)"', json.dumps([values(e) for e in events]))
            assert all(re.fullmatch(r"-?\d+(\.\d+)?", price) for price in prices), topic
    books = {topic for topic in writer.last if topic.startswith("book.")}
    assert books and books == set(client.books), "every book came"


def values(event: dict[str, Any]) -> list[Any]:
    """Return the prices and sizes of an event."""
    names = ("price", "size", "bid", "bid_size", "ask", "ask_size", "bids", "asks", "last", "open")
    return [event[name] for name in names if event.get(name) is not None]
