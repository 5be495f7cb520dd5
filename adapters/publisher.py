"""One exchange's way onto the bus: its lease, its positions, its batches.

Whatever has gathered goes out as one batch a turn, so batches grow under load and nothing waits
when there is none. While the bus is away the batch that was not acknowledged is kept and given
again, unchanged; what follows waits, bounded in bytes, and ``drain`` holds back whoever reads the
exchange's sockets. So the bus may be away for long without a silent loss: the exchange then ends
the connections, and each topic gets its gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol, TypeVar

from adapters.tasks import now_us, together
from feed.backoff import delay
from feed.bus.base import Bus, Entry
from feed.errors import BusError, Fenced, LeaseLost
from feed.models import Book, Catalogue, Event
from feed.sequencer import Sequencer

log = logging.getLogger(__name__)
T = TypeVar("T")

BEAT_S = 0.5
#: Entries in one ``Bus.publish``; more would hold up the loop (and the bus) for long.
BATCH_MAX = 1_000
BUFFER_MAX_BYTES = 8 << 20
#: Longest wait between two attempts while the bus is away.
RETRY_MAX_S = 2.0


class Sink(Protocol):
    """Takes events; ``is_full`` asks its feeders to await ``drain`` before they read on."""

    is_full: bool

    def put(self, event: Event, now: int) -> None: ...

    def checkpoint(self, book: Book, now: int) -> None: ...

    async def drain(self) -> None: ...


class Publisher:
    """Publishes one exchange; implements ``Sink``.

    Args:
        owner: Names this process in the lease; no two may be alike.
        lease_s: After so long without a renewal another may take over.
        clock: µs since the epoch.

    Attributes:
        is_full: As much waits as may.
        published: Entries the bus has taken.
    """

    def __init__(
        self,
        bus: Bus,
        exchange: str,
        *,
        owner: str,
        lease_s: float = 3.0,
        buffer_max_bytes: int = BUFFER_MAX_BYTES,
        clock: Callable[[], int] = now_us,
        rng: Random | None = None,
    ) -> None:
        self.exchange = exchange
        self.is_full = False
        self.published = 0
        self._bus = bus
        self._owner = owner
        self._lease_s = lease_s
        self._max_bytes = buffer_max_bytes
        self._clock = clock
        self._rng = rng or Random()
        self._topics: list[str] = []
        self._sequencer: Sequencer | None = None
        self._entries: list[Entry] = []
        #: Topic -> the newest checkpoint and how many entries must be published before it.
        self._checkpoints: dict[str, tuple[Entry, int]] = {}
        self._taken = 0
        self._unacknowledged: tuple[list[Entry], list[Entry]] | None = None
        self._bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._lease_lock = asyncio.Lock()
        self._held_at: float | None = None
        self._trouble: str | None = None

    async def open(self, catalogue: Catalogue) -> None:
        """Take the exchange over, once nobody else holds it, and say what is carried.

        Existing topics get their ``publisher_restart`` entry before anything else is written.

        Raises:
            Fenced: Somebody with a newer lease has already written.
        """
        epoch = await self._acquire()
        self._topics = sorted(catalogue.carried())
        heads = await self._insist(lambda: self._bus.heads(self._topics))
        self._sequencer = Sequencer(epoch, heads)
        log.info("%s: publishing %d topics", self.exchange, len(self._topics))
        restarts = self._sequencer.restart(self._clock())
        for start in range(0, len(restarts), BATCH_MAX):
            await self._deliver(restarts[start : start + BATCH_MAX], [])
        await self._insist(lambda: self._bus.put_catalogue(catalogue))

    def put(self, event: Event, now: int) -> None:
        """Give the event its position and queue it; ``now`` (µs) becomes its ``pub``."""
        assert self._sequencer is not None, "open() first"
        entry = self._sequencer.stamp(event, now)
        self._entries.append(entry)
        self._bytes += len(entry.payload)
        if self._bytes >= self._max_bytes:
            self.is_full = True
            self._room.clear()
        self._wake.set()

    def checkpoint(self, book: Book, now: int) -> None:
        """Queue the book's whole window as of its last entry; only the newest of a book counts."""
        assert self._sequencer is not None, "open() first"
        entry = self._sequencer.checkpoint(book, now)
        self._checkpoints[entry.topic] = (entry, self._taken + len(self._entries))
        self._wake.set()

    async def drain(self) -> None:
        """Return when there is room again."""
        while self.is_full:
            await self._room.wait()

    async def flushed(self) -> None:
        """Return when the bus has taken all that was put so far; ``run`` must be running."""
        self._idle.clear()
        self._wake.set()
        await self._idle.wait()

    async def run(self) -> None:
        """Write, beat and keep the lease; ends only by its errors.

        Raises:
            Fenced, LeaseLost: The exchange is somebody else's now.
        """
        await together(self._write(), self._keep())

    async def close(self, deadline_s: float = 2.0) -> None:
        """Write what waits, as far as the bus takes it in time, and give the lease back.

        ``run`` must have ended. What could not be written is counted in the log.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self._flush()
                await self._bus.release(self.exchange, self._owner)
        except (BusError, TimeoutError) as e:
            left = len(self._entries)
            if self._unacknowledged is not None:
                left += len(self._unacknowledged[0])
            log.warning("%s: stopped with %d entries unpublished: %s", self.exchange, left, e)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._flush()
            self._idle.set()

    async def _flush(self) -> None:
        while self._unacknowledged or self._entries or self._checkpoints:
            if self._unacknowledged is None:
                self._unacknowledged = self._next_batch()
            batch, checkpoints = self._unacknowledged
            await self._deliver(batch, checkpoints)
            self._unacknowledged = None
            self._bytes -= sum([len(entry.payload) for entry in batch])
            if self.is_full and self._bytes < self._max_bytes:
                self.is_full = False
                self._room.set()

    def _next_batch(self) -> tuple[list[Entry], list[Entry]]:
        batch = self._entries[:BATCH_MAX]
        self._entries = self._entries[BATCH_MAX:]
        self._taken += len(batch)
        due = [topic for topic, (_, after) in self._checkpoints.items() if after <= self._taken]
        return batch, [self._checkpoints.pop(topic)[0] for topic in due]

    async def _deliver(self, batch: list[Entry], checkpoints: list[Entry]) -> None:
        """Publish until it is done: the same batch again after each failure."""

        async def publish() -> None:
            # After a pause of ours somebody else may hold the lease by now.
            if self._lease_age() > self._lease_s / 2:
                await self._hold()
            await self._bus.publish(batch, checkpoints)

        await self._insist(publish)
        self.published += len(batch)

    async def _keep(self) -> None:
        """Beat, and renew the lease in time. A bus that is away is the writer's to wait for."""
        while True:
            try:
                if self._lease_age() > self._lease_s / 3:
                    await self._hold()
                await self._bus.beat(self.exchange)
            except (Fenced, LeaseLost):
                raise
            except BusError as e:
                self._away(e)
            await asyncio.sleep(min(BEAT_S, self._lease_s / 4))

    async def _acquire(self) -> int:
        told = False
        while True:
            asked_at = asyncio.get_running_loop().time()
            epoch = await self._insist(
                lambda: self._bus.acquire(self.exchange, self._owner, self._lease_s)
            )
            if epoch is not None:
                self._held_at = asked_at
                return epoch
            if not told:
                log.warning("%s: another process publishes it; waiting", self.exchange)
                told = True
            await asyncio.sleep(self._lease_s / 4)

    async def _hold(self) -> None:
        """Renew the lease. If it expired and nobody took it meanwhile, take it again.

        Positions go on as they were: the heads prove that nobody else has written.

        Raises:
            LeaseLost: Somebody else holds it.
            Fenced: Somebody else has held it and written.
        """
        assert self._sequencer is not None
        async with self._lease_lock:
            asked_at = asyncio.get_running_loop().time()
            if not await self._bus.renew(self.exchange, self._owner, self._lease_s):
                if await self._bus.acquire(self.exchange, self._owner, self._lease_s) is None:
                    raise LeaseLost(f"{self.exchange}: another process publishes it now")
                for topic, head in (await self._bus.heads(self._topics)).items():
                    if head.epoch > self._sequencer.epoch:
                        raise Fenced(topic, head.epoch)
                log.warning("%s: the lease had expired and was taken again", self.exchange)
            self._held_at = asked_at

    def _lease_age(self) -> float:
        assert self._held_at is not None
        return asyncio.get_running_loop().time() - self._held_at

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the bus until it answers; what means that we are replaced is raised."""
        attempt = 0
        while True:
            try:
                answer = await ask()
            except (Fenced, LeaseLost):
                raise
            except BusError as e:
                self._away(e)
                await asyncio.sleep(delay(attempt, self._rng, base_s=0.1, cap_s=RETRY_MAX_S))
                attempt += 1
            else:
                if self._trouble is not None:
                    log.warning("%s: the bus is back", self.exchange)
                    self._trouble = None
                return answer

    def _away(self, error: BusError) -> None:
        if self._trouble != str(error):
            self._trouble = str(error)
            log.error("%s: the bus does not take what we publish: %s", self.exchange, error)
