"""A proxy that spoils a connection on command: late, slow, silent, reset, refused, half-closed.

It stands on loopback before a server, or on a unix socket, and forwards bytes without looking at
them. Everything may be changed while connections are open:

    async with FaultProxy("127.0.0.1:6379") as proxy:
        connect_to(proxy.address)
        proxy.latency(0.05)
        proxy.down.bytes_s = 1_000
        proxy.blackhole()
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_PIECE = 1 << 16
#: SO_LINGER on, 0 s: close() sends RST.
_RESET = struct.pack("ii", 1, 0)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, where its kind knows that."""
    if not writer.is_closing():
        connection = writer.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()


class Direction:
    """What happens to the bytes that go one way, on every connection.

    Attributes:
        latency_s: Added to everything that arrives from now on.
        bytes_s: At most so many a second, on each connection; None: as fast as they are taken.
        passed: Bytes handed on so far.
    """

    def __init__(self) -> None:
        self.latency_s = 0.0
        self.bytes_s: float | None = None
        self.passed = 0
        self.is_open = asyncio.Event()
        self.is_open.set()

    def hold(self) -> None:
        """Hand on nothing, not even that a side has closed, until ``release``."""
        self.is_open.clear()

    def release(self) -> None:
        """Go on, with what was held first, as TCP does when a path comes back."""
        self.is_open.set()


class FaultProxy:
    """Forwards to ``server``; a context manager, all of whose methods act at once.

    Args:
        server: ``host:port``, or the path of a unix socket.
        path: Of the unix socket to listen on; without it, a loopback port of the kernel's choice.
        window: Bytes that one direction of a connection holds before it stops reading. The
            kernel's own buffers come on top of it, at each hop.

    Attributes:
        up, down: From the clients to the server, and back.
        accepted: Connections so far.
    """

    def __init__(self, server: str, path: Path | None = None, window: int = 1 << 18) -> None:
        self.up = Direction()
        self.down = Direction()
        self.accepted = 0
        self._server = server
        self._path = path
        self._window = window
        self._reservation: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}

    @property
    def address(self) -> str:
        """Where it listens: ``host:port``, or a path."""
        if self._path is not None:
            return str(self._path)
        assert self._reservation is not None, "not started"
        return "{}:{}".format(*self._reservation.getsockname())

    @property
    def open(self) -> int:
        """How many connections there are all the way to the server."""
        return sum(bool(link.ways) for link in self._links.values())

    def latency(self, seconds: float) -> None:
        """Delay both directions by so much each."""
        self.up.latency_s = self.down.latency_s = seconds

    def blackhole(self) -> None:
        """Hold both directions: bytes are accepted and go nowhere, nobody hears of a close.

        New connections are accepted as well, by the kernel, and carry nothing.
        """
        self.up.hold()
        self.down.hold()

    def release(self) -> None:
        """End ``blackhole``."""
        self.up.release()
        self.down.release()

    def reset(self) -> None:
        """End every connection with RST to both sides (unix sockets know none: they close)."""
        for link in self._links.values():
            link.reset()

    def half_close(self, direction: Direction) -> None:
        """End one direction of every connection: FIN to who receives; the other one goes on."""
        for link in self._links.values():
            if link.ways:
                link.ways[direction].finish()

    async def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED); those there are stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)  # the loop closes its descriptor in the next turn
            if self._path is not None:
                self._path.unlink(missing_ok=True)

    async def accept(self) -> None:
        """Take new connections again, at the same address."""
        if self._listener is not None:
            return
        if self._path is not None:
            self._listener = await asyncio.start_unix_server(self._take, self._path)
            return
        listener = _bound(self._reservation.getsockname()[1] if self._reservation else 0)
        self._listener = await asyncio.start_server(self._take, sock=listener)

    async def __aenter__(self) -> Self:
        if self._path is None:
            self._reservation = _bound(0)  # never listens: keeps the port ours while we refuse
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.refuse()
        for task in self._links:
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        if self._reservation is not None:
            self._reservation.close()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(self.up, self.down, self._window, writer)
        task = asyncio.get_running_loop().create_task(link.run(reader, self._server))
        self._links[task] = link
        task.add_done_callback(self._links.pop)


class _Link:
    """One client's connection and ours to the server for it."""

    def __init__(
        self, up: Direction, down: Direction, window: int, writer: asyncio.StreamWriter
    ) -> None:
        self._up = up
        self._down = down
        self._window = window
        self._writers = [writer]
        self.ways: dict[Direction, _Way] = {}

    async def run(self, reader: asyncio.StreamReader, server: str) -> None:
        try:
            await self._up.is_open.wait()
            server_reader, server_writer = await _connect(server)
            self._writers.append(server_writer)
            up = _Way(self._up, reader, server_writer, self._window)
            down = _Way(self._down, server_reader, self._writers[0], self._window)
            self.ways = {self._up: up, self._down: down}
            async with asyncio.TaskGroup() as group:
                for way in (up, down):
                    group.create_task(way.receive())
                    group.create_task(way.send())
        except* OSError:
            # A side has reset: so that the other one hears of it as soon as it may.
            await self._up.is_open.wait()
            await self._down.is_open.wait()
            self.reset()
        finally:
            for writer in self._writers:
                writer.close()
            for writer in self._writers:
                with suppress(OSError):
                    await writer.wait_closed()

    def reset(self) -> None:
        for writer in self._writers:
            reset(writer)


class _Way:
    """One direction of one connection."""

    def __init__(
        self,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        window: int,
    ) -> None:
        self._direction = direction
        self._reader = reader
        self._writer = writer
        self._window = window
        self._waiting = 0
        self._has_room = asyncio.Event()
        # When each piece is due; an empty one is the end.
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._is_finished = False

    async def receive(self) -> None:
        clock = asyncio.get_running_loop().time
        data = b"-"
        while data:
            data = await self._reader.read(_PIECE)
            self._waiting += len(data)
            self._pieces.put_nowait((clock() + self._direction.latency_s, data))
            while self._waiting > self._window:
                self._has_room.clear()
                await self._has_room.wait()

    async def send(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await self._pieces.get()
            await asyncio.sleep(due - clock())
            if not data:
                await self._direction.is_open.wait()
                self.finish()
                return
            begin = 0
            while begin < len(data):
                begin += await self._pass(data[begin:])
            self._waiting -= len(data)
            self._has_room.set()

    async def _pass(self, data: bytes) -> int:
        """Hand on the beginning of ``data`` at the pace of the direction; return its length."""
        if self._direction.bytes_s is not None:
            data = data[: max(1, int(self._direction.bytes_s / 50))]
            await asyncio.sleep(len(data) / self._direction.bytes_s)
        await self._direction.is_open.wait()
        if not self._is_finished:
            self._writer.write(data)
            await self._writer.drain()
            self._direction.passed += len(data)
        return len(data)

    def finish(self) -> None:
        """Send the end, once; what comes after goes nowhere."""
        if not self._is_finished:
            self._is_finished = True
            if not self._writer.is_closing():  # else nobody is left to tell
                self._writer.write_eof()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


async def _connect(server: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = server.rpartition(":")
    if "/" in server:
        return await asyncio.open_unix_connection(server)
    return await asyncio.open_connection(host, int(port))
