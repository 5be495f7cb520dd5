"""Child process: the load client. Raw sockets that count bytes; a few that decode everything.

Counting costs under a microsecond a read, so that the client is not what is measured. Since every
entry has the same bytes for everybody, bytes are proof: one missing entry, or one word too many
(a ``gap``, a status), and a client's total differs from what was published to its topics.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import cast

import msgspec
import uvloop

from bench.dialects import DIALECTS, Dialect, Unframed, frames
from bench.histogram import Histogram
from bench.processes import Message, answer, say

_AT_ONCE = 50
_LAG_EVERY_S = 0.01
_REQUEST = (
    "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{}\r\n"
)
_PATH = "/v1/ws"


class _Said(msgspec.Struct):
    """The fields of anything the server says that matter here."""

    type: str
    topic: str = ""
    seq: int | None = None
    pub: int = 0


_decode = msgspec.json.Decoder(_Said | list[_Said]).decode


class Counting(asyncio.Protocol):
    """A client that only counts.

    Attributes:
        bytes, reads: Since it had everything it subscribed to.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.reads = 0
        self.lost: str | None = None
        self.transport: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        self.reads += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = str(exc or "closed by the server")


Entries = Callable[[bytes], Iterator[tuple[bytes, int]]]


class Decoding(Counting):
    """A client that looks at everything.

    Args:
        entries: Finds the JSON in what comes: an entry, or an array of them.

    Attributes:
        counts: Topic -> entries received.
        disorder: Entries that did not follow the one before in their topic.
        latency: From ``pub`` to here, µs, of entries published within ``window`` (µs).
    """

    def __init__(self, entries: Entries = frames) -> None:
        super().__init__()
        self._entries = entries
        self.window = (0, 0)
        self.counts: dict[str, int] = {}
        self.disorder = 0
        self.latency = Histogram()
        self._last: dict[str, int] = {}
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        now = time.time_ns() // 1000
        super().data_received(data)
        data = self._rest + data
        at = 0
        for payload, end in self._entries(data):
            at = end
            said: _Said | list[_Said] = _decode(payload)
            for one in said if isinstance(said, list) else (said,):
                if one.seq is not None and one.type not in ("snapshot", "status"):
                    self._take(one, now)
        self._rest = data[at:]

    def _take(self, said: _Said, now: int) -> None:
        assert said.seq is not None
        self.counts[said.topic] = self.counts.get(said.topic, 0) + 1
        last = self._last.get(said.topic)
        self._last[said.topic] = said.seq
        if last is not None and said.seq != last + 1:
            self.disorder += 1
        if self.window[0] <= said.pub < self.window[1]:
            self.latency.add(now - said.pub)


class Unframing(asyncio.Protocol):
    """Gives a client what is inside of frames."""

    def __init__(self, client: Counting) -> None:
        self._client = client
        self._frames = Unframed()

    def data_received(self, data: bytes) -> None:
        self._client.data_received(self._frames.take(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.connection_lost(exc)


class Joining(asyncio.Protocol):
    """Connects, subscribes, and hands the socket to ``then`` once it has been given everything."""

    def __init__(
        self,
        command: str | None,
        then: Counting,
        dialect: Dialect = DIALECTS["json"],
        path: str = _PATH,
    ) -> None:
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._dialect = dialect
        self._path = path
        self._command = command
        self._then = then
        self._data = b""
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is a class of its own
        host = "{}:{}".format(*transport.get_extra_info("peername")[:2])
        wanted = self._dialect.subprotocol
        header = f"Sec-WebSocket-Protocol: {wanted}\r\n" if wanted else ""
        self._transport.write(_REQUEST.format(self._path, host, header).encode())

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._is_open:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self._fail(f"refused: {head[:80]!r}")
                return
            self._data, self._is_open = rest, True
            if self._command is not None:
                self._transport.write(self._dialect.join(self._command))
        at = 0
        for payload, at in frames(self._data):
            try:
                if self._dialect.is_joined(payload, asked=self._command is not None):
                    self._hand_over(self._data[at:])
                    return
            except ConnectionError as e:
                self._fail(str(e))
                return
        self._data = self._data[at:]

    def _hand_over(self, rest: bytes) -> None:
        self._then.transport = self._transport
        protocol = Unframing(self._then) if self._dialect.is_cut else self._then
        self._transport.set_protocol(protocol)
        if rest:
            protocol.data_received(rest)
        if not self.joined.done():
            self.joined.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc or "closed by the server"))

    def _fail(self, reason: str) -> None:
        if not self.joined.done():
            self.joined.set_exception(ConnectionError(reason))


class Fleet:
    """All clients of this process, and the commands of the parent."""

    def __init__(self) -> None:
        self._clients: list[Counting] = []
        self._base: list[tuple[int, int]] = []
        self._reading: int | None = None
        self._lag = Histogram()
        self._worst_lag = asyncio.get_running_loop().create_task(self._watch())

    async def connect(self, message: Message) -> Message:
        """Connect one client a command (None: it subscribes to nothing).

        ``decode_every``: each so many-th client decodes. ``dialect`` and ``path`` are ours unless
        given.
        """
        started = time.perf_counter()
        slots = asyncio.Semaphore(_AT_ONCE)
        loop = asyncio.get_running_loop()
        every = message.get("decode_every", 0)
        dialect = DIALECTS[message.get("dialect", "json")]
        path = message.get("path", _PATH)

        async def one(i: int, command: str | None) -> Counting:
            client = Decoding(dialect.entries) if every and i % every == 0 else Counting()
            async with slots:
                _, joining = await loop.create_connection(
                    lambda: Joining(command, client, dialect, path),
                    "127.0.0.1",
                    message["port"],
                )
                await joining.joined
            return client

        commands = message["commands"]
        self._clients += await asyncio.gather(*(one(i, c) for i, c in enumerate(commands)))
        return {"seconds": time.perf_counter() - started}

    async def base(self, message: Message) -> Message:
        """Count from here; measure the latency of what is published within ``window``."""
        self._base = [(client.bytes, client.reads) for client in self._clients]
        for client in self._clients:
            if isinstance(client, Decoding):
                client.window = tuple(message["window"])
        return {}

    async def stall(self, message: Message) -> Message:
        """Let the last ``clients`` stop reading, or read on where ``reads_on``.

        What they are given late counts in no latency.
        """
        self._reading = len(self._clients) - message["clients"]
        for client in self._clients[self._reading :]:
            assert client.transport is not None
            if message["reads_on"]:
                client.transport.resume_reading()
            else:
                client.transport.pause_reading()
        return {}

    async def mark(self, message: Message) -> Message:
        """Return what came so far to all who read, and what it cost this process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        lag, self._lag = self._lag, Histogram()
        return {
            "at": time.perf_counter(),
            "bytes": sum(client.bytes for client in self._clients[: self._reading]),
            "reads": sum(client.reads for client in self._clients[: self._reading]),
            "base_bytes": sum(size for size, _ in self._base[: self._reading]),
            "cpu_s": used.ru_utime + used.ru_stime,
            "lag_p99_us": lag.percentile(99),
        }

    async def result(self, message: Message) -> Message:
        """Return what each client has got since ``base``."""
        reading = self._clients[: self._reading]
        decoding = [client for client in reading if isinstance(client, Decoding)]
        latency = Histogram().merge(client.latency for client in decoding)
        return {
            "bytes": [
                client.bytes - base
                for client, (base, _) in zip(self._clients, self._base, strict=True)
            ],
            "closed": sorted({client.lost for client in self._clients if client.lost}),
            "counts": [
                client.counts if isinstance(client, Decoding) else None for client in self._clients
            ],
            "disorder": sum(client.disorder for client in decoding),
            "latency": latency.dump(),
        }

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._lag.add(round((loop.time() - due) * 1e6))


async def _run() -> None:
    fleet = Fleet()
    say({"ready": True})
    commands = (fleet.connect, fleet.base, fleet.stall, fleet.mark, fleet.result)
    await answer({command.__name__: command for command in commands})


def main() -> None:
    assert len(sys.argv) == 2
    uvloop.run(_run())


if __name__ == "__main__":
    main()
