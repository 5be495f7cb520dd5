"""A bus inside one process: for one-process runs and for tests. Same promises as Redis.

One ``MemoryBroker`` is the server, each ``MemoryBus`` a connection to it, all on one event loop.
Here retention is exact, where Redis keeps up to a node (about 100 entries) more.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from feed.bus.base import (
    Beat,
    CatalogueChanged,
    Entry,
    Head,
    Notice,
    Retention,
    Sink,
    Watcher,
    unpack_header,
)
from feed.bus.fence import settle_refusal
from feed.errors import BusError
from feed.models import Catalogue


def _now() -> int:
    return time.time_ns() // 1_000


@dataclass
class _Stream:
    entries: deque[Entry]
    touched: int


@dataclass
class _Lease:
    owner: str | None
    epoch: int
    expires: int


class MemoryBroker:
    """What the buses of one process share.

    Args:
        clock: µs since the epoch.
    """

    def __init__(self, clock: Callable[[], int] = _now) -> None:
        self.clock = clock
        self.streams: dict[str, _Stream] = {}
        self.checkpoints: dict[str, bytes] = {}
        self.catalogues: dict[str, Catalogue] = {}
        self.leases: dict[str, _Lease] = {}
        self.buses: list[MemoryBus] = []


class MemoryBus:
    """One process part's view of the broker; implements ``feed.bus.base.Bus``."""

    def __init__(self, broker: MemoryBroker, retention: Retention) -> None:
        self._broker = broker
        self._retention = retention
        self._sinks: dict[str, Sink] = {}
        self._watcher: Watcher | None = None

    async def start(self) -> None:
        if self not in self._broker.buses:
            self._broker.buses.append(self)

    async def close(self) -> None:
        self._sinks.clear()
        self._watcher = None
        if self in self._broker.buses:
            self._broker.buses.remove(self)

    async def publish(self, batch: Sequence[Entry], checkpoints: Sequence[Entry] = ()) -> None:
        self._require_started()
        refused = [entry for entry in batch if not self._append(entry)]
        # Sent even where refused, as a pipelined PUBLISH is: readers compare seqs and epochs.
        loop = asyncio.get_running_loop()
        for bus in self._broker.buses:
            if bus._sinks:
                loop.call_soon(bus._deliver, tuple(batch))
        for entry in refused:
            settle_refusal(entry, self._head(entry.topic))
        for entry in checkpoints:
            self._broker.checkpoints[entry.topic] = entry.payload
        # A real bus makes its caller wait; a publisher in a loop must not starve the readers here.
        await asyncio.sleep(0)

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        self._require_started()
        return {topic: head for topic in topics if (head := self._head(topic)) is not None}

    async def acquire(self, exchange: str, owner: str, ttl_s: float) -> int | None:
        self._require_started()
        now = self._broker.clock()
        lease = self._broker.leases.get(exchange)
        if lease and lease.owner not in (None, owner) and lease.expires > now:
            return None
        epoch = max(now, lease.epoch + 1 if lease else 0)
        self._broker.leases[exchange] = _Lease(owner, epoch, now + int(ttl_s * 1e6))
        return epoch

    async def renew(self, exchange: str, owner: str, ttl_s: float) -> bool:
        self._require_started()
        lease = self._broker.leases.get(exchange)
        if lease is None or lease.owner != owner:
            return False
        lease.expires = self._broker.clock() + int(ttl_s * 1e6)
        return True

    async def release(self, exchange: str, owner: str) -> None:
        self._require_started()
        lease = self._broker.leases.get(exchange)
        if lease is not None and lease.owner == owner:
            lease.owner = None

    async def beat(self, exchange: str) -> None:
        self._require_started()
        self._announce(Beat(exchange))

    async def put_catalogue(self, catalogue: Catalogue) -> None:
        self._require_started()
        self._broker.catalogues[catalogue.exchange] = catalogue
        self._announce(CatalogueChanged(catalogue))

    async def catalogues(self) -> Mapping[str, Catalogue]:
        self._require_started()
        return dict(self._broker.catalogues)

    async def subscribe(self, topic: str, sink: Sink) -> None:
        self._require_started()
        self._sinks[topic] = sink

    async def unsubscribe(self, topic: str) -> None:
        self._sinks.pop(topic, None)

    async def history(self, topic: str, after: int, limit: int | None = None) -> list[bytes]:
        return self._range(topic, after, None, limit, newest=True)

    async def page(
        self,
        topic: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int,
        newest: bool = False,
    ) -> list[bytes]:
        return self._range(topic, after, before, limit, newest)

    async def checkpoint(self, topic: str) -> bytes | None:
        self._require_started()
        return self._broker.checkpoints.get(topic)

    def watch(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def _require_started(self) -> None:
        if self not in self._broker.buses:
            raise BusError("this bus is not started, or closed")

    def _range(
        self, topic: str, after: int, before: int | None, limit: int | None, newest: bool
    ) -> list[bytes]:
        self._require_started()
        stream = self._stream(topic)
        if stream is None or (limit is not None and limit <= 0):
            return []
        found = [
            entry.payload
            for entry in stream.entries
            if entry.seq > after and (before is None or entry.seq < before)
        ]
        if limit is None:
            return found
        return found[-limit:] if newest else found[:limit]

    def _append(self, entry: Entry) -> bool:
        stream = self._stream(entry.topic)
        if stream is None:
            kind = entry.topic.partition(".")[0]
            stream = _Stream(deque(maxlen=self._retention.of(kind)), 0)
            self._broker.streams[entry.topic] = stream
        elif stream.entries[-1].seq >= entry.seq:
            return False
        stream.entries.append(entry)
        stream.touched = self._broker.clock()
        return True

    def _stream(self, topic: str) -> _Stream | None:
        stream = self._broker.streams.get(topic)
        if stream and self._broker.clock() - stream.touched > self._retention.expire_s * 1_000_000:
            del self._broker.streams[topic]
            return None
        return stream

    def _head(self, topic: str) -> Head | None:
        stream = self._stream(topic)
        return Head(*unpack_header(stream.entries[-1].payload)) if stream else None

    def _deliver(self, batch: Sequence[Entry]) -> None:
        for entry in batch:
            # Looked up one by one: a sink may have unsubscribed since, or do so now.
            sink = self._sinks.get(entry.topic)
            if sink is not None:
                sink(entry.payload)

    def _announce(self, notice: Notice) -> None:
        loop = asyncio.get_running_loop()
        for bus in self._broker.buses:
            loop.call_soon(bus._tell, notice)

    def _tell(self, notice: Notice) -> None:
        if self._watcher is not None:
            self._watcher(notice)
