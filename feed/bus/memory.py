"""A bus inside one process: for one-process runs and for tests. Same promises as Redis.

One ``MemoryBroker`` is the server, each ``MemoryBus`` a connection to it, all on one event loop.
Here retention is exact, where Redis keeps up to a node (about 100 entries) more.

The broker can be broken on purpose, so that whoever lives on a bus can be tested step by step
without a server: see ``cut``, ``hold``, ``lose``, ``refuse`` and ``empty``.
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
    LinkDown,
    LinkUp,
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
        self.refusal: str | None = None

    def cut(self, bus: MemoryBus) -> None:
        """Take down the reading link of ``bus``: it is told ``LinkDown`` before this returns.

        What is on the way is lost, and so is all that is published until ``mend``; no topic can
        be subscribed meanwhile. Commands still work, as they have connections of their own: see
        ``refuse``. Cut again, nothing happens.
        """
        if not bus._is_cut:
            bus._is_cut = True
            bus._inbox.clear()
            bus._tell(LinkDown("cut on purpose"))

    def mend(self, bus: MemoryBus) -> None:
        """Make the link of ``bus`` anew, with all it had subscribed: it is told ``LinkUp``."""
        if bus._is_cut:
            bus._is_cut = False
            bus._tell(LinkUp())

    def hold(self, bus: MemoryBus) -> None:
        """Let nothing reach ``bus`` until ``release``: neither entries, beats nor catalogues."""
        bus._is_held = True

    def held(self, bus: MemoryBus) -> int:
        """Return how many entries and notices are on the way to ``bus``."""
        return len(bus._inbox)

    def release(self, bus: MemoryBus, count: int | None = None) -> None:
        """Deliver the next ``count`` of what is held, before this returns.

        Without ``count``: all of it, and hold nothing from now on.
        """
        if count is None:
            bus._is_held = False
        bus._take(len(bus._inbox) if count is None else count)

    def lose(self, bus: MemoryBus, count: int) -> None:
        """Drop the next ``count`` of what is held, and tell nobody."""
        for _ in range(min(count, len(bus._inbox))):
            bus._inbox.popleft()

    def refuse(self, is_refusing: bool) -> None:
        """Answer every command of every bus with ``BusError``, and do none of them; or no longer.

        Links stay as they are.
        """
        self.refusal = "refused on purpose" if is_refusing else None

    def empty(self) -> None:
        """Forget everything, as a server without persistence does when it is started again.

        To be true to one, ``cut`` every bus before and ``mend`` it after.
        """
        for kept in (self.streams, self.checkpoints, self.catalogues, self.leases):
            kept.clear()


class MemoryBus:
    """One process part's view of the broker; implements ``feed.bus.base.Bus``."""

    def __init__(self, broker: MemoryBroker, retention: Retention) -> None:
        self._broker = broker
        self._retention = retention
        self._sinks: dict[str, Sink] = {}
        self._watcher: Watcher | None = None
        # What the broker has sent and the sinks and the watcher have not taken yet.
        self._inbox: deque[Entry | Notice] = deque()
        self._is_awaited = False
        self._is_cut = False
        self._is_held = False

    async def start(self) -> None:
        if self not in self._broker.buses:
            self._broker.buses.append(self)

    async def close(self) -> None:
        self._sinks.clear()
        self._watcher = None
        self._inbox.clear()
        self._is_cut = self._is_held = False
        if self in self._broker.buses:
            self._broker.buses.remove(self)

    async def publish(self, batch: Sequence[Entry], checkpoints: Sequence[Entry] = ()) -> None:
        self._require_started()
        refused = [entry for entry in batch if not self._append(entry)]
        # Sent even where refused, as a pipelined PUBLISH is: readers compare seqs and epochs.
        for bus in self._broker.buses:
            bus._send([entry for entry in batch if entry.topic in bus._sinks])
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
        if self._is_cut:
            raise BusError("cannot subscribe: the link is down")
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
        if self._broker.refusal is not None:
            raise BusError(self._broker.refusal)

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

    def _announce(self, notice: Notice) -> None:
        for bus in self._broker.buses:
            bus._send((notice,))

    def _send(self, messages: Sequence[Entry | Notice]) -> None:
        """Put messages on the way to this bus; they arrive in a later turn of the loop."""
        if messages and not self._is_cut:
            self._inbox.extend(messages)
            self._await_delivery()

    def _await_delivery(self) -> None:
        if not self._is_awaited:
            self._is_awaited = True
            asyncio.get_running_loop().call_soon(self._arrive)

    def _arrive(self) -> None:
        self._is_awaited = False
        if self._is_held:
            return
        try:
            self._take(len(self._inbox))
        finally:
            if self._inbox:  # a sink raised, which costs nobody else a message
                self._await_delivery()

    def _take(self, count: int) -> None:
        for _ in range(min(count, len(self._inbox))):
            if not self._inbox:  # whoever took the last one has cut or closed this bus
                return
            message = self._inbox.popleft()
            if not isinstance(message, Entry):
                self._tell(message)
            else:
                self._deliver((message,))

    def _deliver(self, batch: Sequence[Entry]) -> None:
        for entry in batch:
            # Looked up one by one: a sink may have unsubscribed since, or do so now.
            sink = self._sinks.get(entry.topic)
            if sink is not None:
                sink(entry.payload)

    def _tell(self, notice: Notice) -> None:
        if self._watcher is not None:
            self._watcher(notice)
