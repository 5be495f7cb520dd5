"""Writes entries to Redis: each appended to its stream, then sent to its channel.

A batch goes out in chunks, each one MULTI … EXEC: it lands whole or not at all, also when the
connection breaks or memory runs out in the middle. Without it the entry after a refused one would
land, and the refused one could never be appended any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from feed.bus import keys
from feed.bus.base import Entry, Head, Retention
from feed.bus.fence import settle_refusal
from feed.bus.resp import Connection, pack, raise_refusal
from feed.errors import BusError

#: Of payloads in one chunk; about 2 ms of the server's time.
_CHUNK_BYTES = 256 * 1024
_TOO_SMALL = "equal or smaller than the target stream top item"
_MULTI = pack(("MULTI",))
_EXEC = pack(("EXEC",))


class _Topic:
    """The bytes that are the same for every entry of a topic.

    Measured: filling them in takes 0.4 µs an entry, packing both commands anew 1.1 µs.
    """

    __slots__ = ("append", "expire", "expire_due", "send")

    def __init__(self, topic: str, retention: Retention, expire_s: int) -> None:
        key = keys.stream_key(topic)
        kept = str(retention.of(topic.partition(".")[0]))
        self.append = b"*8\r\n" + _bulks("XADD", key, "MAXLEN", "~", kept)
        self.send = b"*3\r\n" + _bulks("PUBLISH", keys.channel(topic))
        self.expire = pack(("EXPIRE", key, expire_s))
        self.expire_due = 0.0


def _bulks(*parts: str) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in map(str.encode, parts))


class Writer:
    """The publishing connection; opened when first needed, and anew after an error."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], retention: Retention, timeout_s: float
    ) -> None:
        self._connect = connect
        self._retention = retention
        self._timeout_s = timeout_s
        # An untouched stream must live for expire_s, so the time between two EXPIREs is added.
        self._expire_every_s = min(3600, max(1, retention.expire_s // 24))
        self._expire_s = retention.expire_s + self._expire_every_s
        self._connection: Connection | None = None
        self._topics: dict[str, _Topic] = {}
        self._lock = asyncio.Lock()

    async def publish(self, batch: Sequence[Entry], checkpoints: Sequence[Entry]) -> None:
        """As ``Bus.publish``; callers take their turns."""
        async with self._lock:
            try:
                connection = await self._connected()
                for chunk in _chunks(batch):
                    await self._write(connection, chunk)
                # Only now: whoever is fenced must not overwrite the books of the newer one.
                for chunk in _chunks(checkpoints):
                    await self._keep(connection, chunk)
            except BaseException:
                # Replies may be outstanding, or the server has become a replica.
                await self._drop()
                raise

    def follow(self, server: str) -> None:
        """Leave the connection, even in the middle of a publish, if it leads elsewhere.

        A former master may go on to take what it is given, and lose it.
        """
        if self._connection is not None and self._connection.server != server:
            self._connection.abort(f"{server} is the master now")

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.lost.done():
            self._topics.clear()  # perhaps an emptied server, whose streams need EXPIRE again
            self._connection = await self._connect()
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _write(self, connection: Connection, entries: Sequence[Entry]) -> None:
        """Append and send one chunk.

        Raises:
            BusError: Nothing of it landed, or it is not known whether all of it did.
            Fenced: See ``Bus.publish``.
        """
        now = asyncio.get_running_loop().time()
        topics = self._topics
        out = [_MULTI]
        expires = []
        for entry in entries:
            topic = topics.get(entry.topic)
            if topic is None:
                topic = topics[entry.topic] = _Topic(entry.topic, self._retention, self._expire_s)
            if topic.expire_due <= now:
                topic.expire_due = now + self._expire_every_s
                expires.append(topic.expire)
            ident = b"%d-0" % entry.seq
            body = b"$%d\r\n%b\r\n" % (len(entry.payload), entry.payload)
            out.append(
                b"%b$%d\r\n%b\r\n$1\r\np\r\n%b%b%b"
                % (topic.append, len(ident), ident, body, topic.send, body)
            )
        out += expires
        out.append(_EXEC)
        queued = 2 * len(entries) + len(expires)
        replies = await connection.execute(b"".join(out), queued + 2, self._timeout_s)
        results = replies[-1]
        if type(results) is not list:
            raise_refusal(replies)  # the first is the cause: out of memory, read-only, not allowed
            raise BusError(f"EXEC answered {results!r}")
        refused = [
            _refused(entry, result)
            for entry, result in zip(entries, results[: 2 * len(entries) : 2], strict=True)
            if type(result) is not bytes
        ]
        if refused:
            heads = await self._heads(connection, {entry.topic for entry in refused})
            for entry in refused:
                settle_refusal(entry, heads[entry.topic])

    async def _heads(self, connection: Connection, topics: set[str]) -> dict[str, Head | None]:
        asked = b"".join(
            pack(("XREVRANGE", keys.stream_key(topic), "+", "-", "COUNT", 1)) for topic in topics
        )
        replies = await connection.execute(asked, len(topics), self._timeout_s)
        raise_refusal(replies)
        return {
            topic: keys.head_of(topic, reply) for topic, reply in zip(topics, replies, strict=True)
        }

    async def _keep(self, connection: Connection, checkpoints: Sequence[Entry]) -> None:
        out = b"".join(
            pack(("SET", keys.checkpoint_key(entry.topic), entry.payload, "EX", self._expire_s))
            for entry in checkpoints
        )
        raise_refusal(await connection.execute(out, len(checkpoints), self._timeout_s))


def _refused(entry: Entry, result: Any) -> Entry:
    """Return ``entry`` if its XADD was refused as too small; any other refusal raises."""
    if _TOO_SMALL not in str(result):
        raise BusError(f"{entry.topic}: XADD: {result}")
    return entry


def _chunks(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    begin = size = 0
    for index, entry in enumerate(entries):
        size += len(entry.payload)
        if size >= _CHUNK_BYTES:
            yield entries[begin : index + 1]
            begin, size = index + 1, 0
    if begin < len(entries):
        yield entries[begin:]
