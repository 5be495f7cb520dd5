"""A real web process on a real socket, a publisher for it, and clients of three kinds."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection

from feed.bus.base import Bus, Entry, Retention
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.config import Settings
from feed.gateway import Gateway
from feed.models import Book, Catalogue, Event, Instrument, Level, Quote, SymbolStatus, Trade
from feed.sequencer import Sequencer
from feed.server import bind, server
from tests.ledger import Ledger

KINDS = ("trade", "quote", "book", "depth", "status")
_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder().decode


async def until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Return once ``condition`` holds; fail the test when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def catalogue(exchange: str, symbols: Iterable[str], kinds: Iterable[str] = KINDS) -> Catalogue:
    """Return a catalogue that carries every kind of every symbol."""
    instruments = tuple(
        Instrument(
            exchange=exchange,
            symbol=symbol,
            native=symbol.replace("-", ""),
            type="spot",
            base=symbol.partition("-")[0],
            quote=symbol.partition("-")[2],
            topics=tuple(f"{kind}.{exchange}.{symbol}" for kind in kinds),
            book_levels=1000,
        )
        for symbol in symbols
    )
    return Catalogue(
        exchange=exchange,
        source="sim",
        updated=1,
        instruments=instruments,
        topics=(f"status.{exchange}.ALL",),
    )


class Publisher:
    """Publishes events of one exchange, numbered by the real sequencer."""

    def __init__(self, bus: Bus, exchange: str = "kraken", epoch: int = 1_000) -> None:
        self.bus = bus
        self.exchange = exchange
        self.sequencer = Sequencer(epoch, {})
        self.sent: dict[str, list[dict[str, Any]]] = {}

    async def carry(self, *symbols: str) -> None:
        await self.bus.put_catalogue(catalogue(self.exchange, symbols))

    def entry(self, event: Event) -> Entry:
        entry = self.sequencer.stamp(event, 7)
        self.sent.setdefault(entry.topic, []).append(json.loads(entry.payload[16:]))
        return entry

    async def publish(self, *events: Event, checkpoint: Book | None = None) -> None:
        entries = [self.entry(event) for event in events]
        extra = [self.sequencer.checkpoint(checkpoint, 7)] if checkpoint is not None else []
        await self.bus.publish(entries, extra)

    def trade(self, symbol: str = "BTC-USD", pad: int = 0) -> Trade:
        topic = f"trade.{self.exchange}.{symbol}"
        return Trade(topic, 0, 5, 6, 0, "x" * pad or None, "97231.120", "0.0125", "buy")

    def quote(self, symbol: str = "BTC-USD", bid: str = "1.0") -> Quote:
        return Quote(f"quote.{self.exchange}.{symbol}", 0, None, 6, 0, bid, "2", "3", "4.00")

    def book(
        self, bids: list[Level], asks: list[Level], snapshot: bool = False, symbol: str = "BTC-USD"
    ) -> Book:
        return Book(f"book.{self.exchange}.{symbol}", 0, 5, 6, 0, bids, asks, snapshot)

    def status(self, symbol: str = "BTC-USD", health: str = "live") -> SymbolStatus:
        kinds: dict[str, Any] = {"trade": health, "quote": health, "book": health}
        topic = f"status.{self.exchange}.{symbol}"
        return SymbolStatus(topic, 0, None, 6, 0, kinds, None, 6, 6, 1000)


class Client:
    """A real WebSocket client; everything it is told goes through a ledger."""

    def __init__(self, connection: ClientConnection, is_msgpack: bool) -> None:
        self.connection = connection
        self.is_msgpack = is_msgpack
        self.ledger = Ledger()
        self.frames: list[Any] = []

    @property
    def seen(self) -> list[dict[str, Any]]:
        return self.ledger.seen

    async def next(self, timeout_s: float = 15.0) -> Any:
        """Return what the next frame says."""
        async with asyncio.timeout(timeout_s):
            data = await self.connection.recv()
        assert isinstance(data, bytes) == self.is_msgpack
        said = _from_msgpack(data) if isinstance(data, bytes) else json.loads(data)
        self.frames.append(said)
        self.ledger.take(said)
        return said

    async def read(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read until an object for which ``condition`` holds; return it."""
        deadline = time.monotonic() + 15.0
        while True:
            said = await self.next(deadline - time.monotonic())
            for one in said if isinstance(said, list) else [said]:
                if condition(one):
                    found: dict[str, Any] = one
                    return found

    async def type(self, *types: str) -> dict[str, Any]:
        return await self.read(lambda one: one["type"] in types)

    async def say(self, **command: Any) -> None:
        text = json.dumps(command)
        await self.connection.send(_to_msgpack(command) if self.is_msgpack else text)

    async def subscribe(
        self, *topics: str, all: Iterable[str] = (), latest: Iterable[str] = (), **options: Any
    ) -> dict[str, Any]:
        """Subscribe, read up to ``synced``, return the answer."""
        self.ledger.at.update(dict.fromkeys(all))
        self.ledger.latest.update(dict.fromkeys(latest, 0))
        options = {"id": 1, "status": False, **options}
        await self.say(op="subscribe", topics=list(topics), **options)
        answer = await self.type("subscribed", "error")
        if answer["type"] == "subscribed":
            await self.type("synced")
        return answer


class Web:
    """A running server and the bus behind it."""

    def __init__(self, port: int, gateway: Gateway, bus: Bus) -> None:
        self.port = port
        self.gateway = gateway
        self.bus = bus
        self.publisher = Publisher(bus)

    @asynccontextmanager
    async def client(
        self, query: str = "", encoding: str | None = None, **options: Any
    ) -> AsyncIterator[Client]:
        subprotocols: Any = [f"feed.v1.{encoding}"] if encoding else None
        url = f"ws://127.0.0.1:{self.port}/v1/ws{query}"
        async with websockets.connect(
            url,
            subprotocols=subprotocols,
            compression=None,
            max_size=None,
            close_timeout=0.5,  # one that has not read everything would wait for it
            **options,
        ) as connection:
            yield Client(connection, encoding == "msgpack")

    async def get(self, path: str) -> tuple[int, Any]:
        """Return status and decoded body of one HTTP request, over a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        async with asyncio.timeout(15):
            data = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


@asynccontextmanager
async def running(bus: Bus | None = None, **settings: Any) -> AsyncIterator[Web]:
    """Serve on a free port with one listed symbol; nothing may stay behind."""
    retention = Retention()
    bus = bus or MemoryBus(MemoryBroker(), retention)
    options = {"linger_s": 0.1, "drain_s": 0.0, "patience_max_ms": 2.0, **settings}
    sock = bind("127.0.0.1", 0)
    process = server(Settings(**options), bus)
    process.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(process.serve(sockets=[sock]))
    try:
        await until(lambda: process.started or task.done())
        app: Any = process.config.app
        web = Web(sock.getsockname()[1], app.state.gateway, bus)
        await web.publisher.carry("BTC-USD")
        await until(lambda: bool(web.gateway.relay.index.catalogues))
        yield web
    finally:
        process.should_exit = True
        await task
        sock.close()


class RawClient:
    """A handshake done by hand, then a socket that does whatever the test wants."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    async def connect(cls, port: int, receive_bytes: int | None = None) -> RawClient:
        """Connect and say nothing."""
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(sock)

    @classmethod
    async def open(cls, port: int, query: str = "", receive_bytes: int | None = None) -> RawClient:
        client = await cls.connect(port, receive_bytes)
        sock, loop = client.sock, asyncio.get_running_loop()
        request = (
            f"GET /v1/ws{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await loop.sock_sendall(sock, request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += await loop.sock_recv(sock, 1)
        assert b" 101 " in head.split(b"\r\n")[0], head
        return client

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, n: int = 65_536, timeout_s: float = 15.0) -> bytes:
        """Return what comes next; empty at the end, also at a reset."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.get_running_loop().sock_recv(self.sock, n)
        except ConnectionError:
            return b""

    async def receive_until_close(self) -> bytes:
        """Read until a close frame has come."""
        data = b""
        while close_code(data) is None:
            part = await self.receive()
            assert part, data[-300:]
            data += part
        return data

    async def objects(self, type: str, n: int, inside: str = "") -> list[dict[str, Any]]:
        """Read until ``n`` objects of a type (or items of their list ``inside``) have come."""
        data = b""
        while True:
            part = await self.receive()
            assert part, data[-300:]
            data += part
            found = [one for one in whole_objects(data) if one["type"] == type]
            if inside:
                found = [item for one in found for item in one[inside]]
            if len(found) >= n:
                return found

    async def rest(self) -> bytes:
        """Read until the server ends it."""
        data = b""
        while part := await self.receive():
            data += part
        return data

    def vanish(self) -> None:
        """End it by a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def masked(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """Return a client's frame (the mask is zero, so the payload is as it is)."""
    n = len(payload)
    first = (0x80 if fin else 0) | opcode
    if n < 126:
        head = bytes((first, 0x80 | n))
    elif n < 65_536:
        head = struct.pack("!BBH", first, 0x80 | 126, n)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, n)
    return head + bytes(4) + payload


def close_code(data: bytes) -> int | None:
    """Return the code of the close frame at the end of what was read."""
    for opcode, body in whole_frames(data):
        if opcode == 8:
            return int.from_bytes(body[:2], "big")
    return None


def whole_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the frames that have come in full."""
    at = 0
    while at + 2 <= len(data):
        n, width = data[at + 1] & 0x7F, 0
        if n >= 126:
            width = 2 if n == 126 else 8
            n = int.from_bytes(data[at + 2 : at + 2 + width], "big")
        start = at + 2 + width
        if start + n > len(data):
            return
        yield data[at] & 0x0F, data[start : start + n]
        at = start + n


def whole_objects(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects that have come in full."""
    for opcode, body in whole_frames(data):
        if opcode == 1:
            said = json.loads(body)
            yield from said if isinstance(said, list) else [said]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
