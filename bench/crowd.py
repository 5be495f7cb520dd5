"""Child process: clients that all come at the same moment, and how each of them fares."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import cast

import msgspec
import uvloop

from bench.dialects import frames, masked
from bench.histogram import Histogram
from bench.processes import Message, answer, say

_encode = msgspec.json.Encoder().encode
#: Of sockets that wait for the kernel's handshake; more than the server's backlog would be dropped.
_AT_ONCE = 3_000
_STALLED_S = 60.0
_REQUEST = (
    "GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{}\r\n"
)


class _Result(msgspec.Struct):
    """What came of one topic of a subscribe."""

    recovered: bool | None = None


class _Said(msgspec.Struct):
    """The fields of anything the server says that matter here."""

    type: str
    seq: int | None = None
    results: list[_Result] = []


_decode = msgspec.json.Decoder(_Said).decode


class Comer(asyncio.Protocol):
    """One client of one topic.

    Attributes:
        topic, last: What it reads, and the last position it has of it.
        status: Of the handshake; 0 where there was no answer.
        synced_s, first_s: From the start of the rush to ``synced``, and to the first entry.
        recovered: What it was told about its ``since``.
    """

    def __init__(self, topic: str, request: bytes, ready: Callable[[], None]) -> None:
        self.topic = topic
        self.last: int | None = None
        self._ready = ready
        self.come(request, 0.0)

    def come(self, request: bytes, started: float) -> None:
        """Make ready for a connection."""
        self.status = 0
        self.synced_s = self.first_s = 0.0
        self.recovered: bool | None = None
        self.is_done = False
        self._request, self._started = request, started
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self.status:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            self.status, self._data = int(head[9:12]), rest
            if self.status != 101:
                self.transport.abort()
                self._done()
                return
            command: dict[str, object] = {"op": "subscribe", "topics": [self.topic], "mode": "all"}
            if self.topic.startswith("trade."):
                del command["mode"]
            if self.last is not None:
                command["since"] = {self.topic: self.last}
            self.transport.write(masked(_encode({**command, "status": False}).decode()))
        at = 0
        for body, after in frames(self._data):
            at = after
            if body:  # else it is a ping
                self._take(_decode(body))
        self._data = self._data[at:]

    def _take(self, said: _Said) -> None:
        now_s = time.perf_counter() - self._started
        if said.type == "subscribed" and said.results:
            self.recovered = said.results[0].recovered
        elif said.type == "synced":
            self.synced_s = now_s
        elif said.seq is not None and said.type != "subscribed":
            self.last = said.seq
            self.first_s = self.first_s or now_s
        if self.synced_s and (self.first_s or self.recovered is None):
            self._done()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()

    def _done(self) -> None:
        if not self.is_done:
            self.is_done = True
            self._ready()


class Crowd:
    """All clients of this process, and the commands of the parent."""

    def __init__(self) -> None:
        self._comers: list[Comer] = []
        self._left = 0
        self._all = asyncio.Event()

    def _ready(self) -> None:
        self._left -= 1
        if not self._left:
            self._all.set()

    async def gather(self, message: Message) -> Message:
        """Have one client a topic of the list, none of them connected."""
        self._comers = [Comer(topic, b"", self._ready) for topic in message["topics"]]
        return {}

    async def rush(self, message: Message) -> Message:
        """Connect everybody at once; return how they fared. They resume what they had before."""
        loop = asyncio.get_running_loop()
        port = message["port"]
        request = _REQUEST.format(port, message.get("headers", "")).encode()
        slots = asyncio.Semaphore(_AT_ONCE)
        self._left = len(self._comers)
        self._all.clear()
        started = time.perf_counter()

        async def one(comer: Comer) -> None:
            comer.come(request, started)
            async with slots:
                await loop.create_connection(lambda: comer, "127.0.0.1", port)

        await asyncio.gather(*map(one, self._comers))
        async with asyncio.timeout(_STALLED_S):
            await self._all.wait()
        seconds = time.perf_counter() - started
        synced, first = Histogram(), Histogram()
        for comer in self._comers:
            if comer.synced_s:
                synced.add(round(comer.synced_s * 1e6))
            if comer.first_s:
                first.add(round(comer.first_s * 1e6))
        return {
            "seconds": seconds,
            "statuses": Counter(str(comer.status) for comer in self._comers),
            "recovered": sum(comer.recovered is True for comer in self._comers),
            "synced": synced.dump(),
            "first": first.dump(),
        }

    async def leave(self, message: Message) -> Message:
        """Cut every connection."""
        for comer in self._comers:
            comer.transport.abort()
        return {"with_position": sum(comer.last is not None for comer in self._comers)}


async def _run() -> None:
    crowd = Crowd()
    say({"ready": True})
    commands = (crowd.gather, crowd.rush, crowd.leave)
    await answer({command.__name__: command for command in commands})


def main() -> None:
    assert len(sys.argv) == 2
    uvloop.run(_run())


if __name__ == "__main__":
    main()
