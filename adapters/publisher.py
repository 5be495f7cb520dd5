"""One exchange's way onto the bus: its lease, its positions, its batches.

Whatever has gathered goes out as one batch a turn, so batches grow under load and nothing waits
when there is none. While the bus is there and slow, ``drain`` holds back whoever reads the
exchange's sockets. While it is away the batch that was not acknowledged is kept and given again,
unchanged, and what follows waits in a bounded backlog.

Where another process holds the lease, this one stands by: its exchange sockets are open and its
books warm, and it writes nothing until the lease is free.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from random import Random
from typing import Protocol, TypeVar

import msgspec

from adapters.backlog import Backlog, Mark
from adapters.picture import Picture, Recent
from adapters.tasks import now_us, together
from feed.backoff import delay
from feed.bus.base import HEADER_BYTES, Bus, Entry, Head
from feed.errors import BusError, Fenced, LeaseLost
from feed.models import Book, Catalogue, Event, Trade
from feed.sequencer import Sequencer

log = logging.getLogger(__name__)
T = TypeVar("T")

BEAT_S = 0.5
#: Entries in one ``Bus.publish``; more would hold up the loop (and the bus) for long.
BATCH_MAX = 1_000
BUFFER_MAX_BYTES = 8 << 20
#: While the bus is away; see ``Settings``.
BACKLOG_MAX_BYTES = 64 << 20
BACKLOG_MAX_S = 60.0
#: Of a topic's end, where its last fact is looked for behind gaps.
TAIL = 5
#: Longest wait between two attempts while the bus is away.
RETRY_MAX_S = 2.0


class _Fact(msgspec.Struct):
    """What tells one trade or liquidation from another."""

    type: str
    id: str | None = None


_decode_fact = msgspec.json.Decoder(_Fact).decode


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
        buffer_max_bytes: With so much waiting, feeders are held back while the bus is there.
        backlog_max_bytes, backlog_max_s: With more, or older, some is given up while it is not.
        clock: µs since the epoch.
        turn: Shared by all publishers of one bus, which writes for one at a time.

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
        backlog_max_bytes: int = BACKLOG_MAX_BYTES,
        backlog_max_s: float = BACKLOG_MAX_S,
        clock: Callable[[], int] = now_us,
        turn: asyncio.Lock | None = None,
        rng: Random | None = None,
    ) -> None:
        self.exchange = exchange
        self.is_full = False
        self.published = 0
        self._bus = bus
        self._owner = owner
        self._lease_s = lease_s
        self._max_bytes = buffer_max_bytes
        self._backlog_max_s = backlog_max_s
        self._clock = clock
        self._rng = rng or Random()
        self._catalogue: Catalogue | None = None
        self._topics: list[str] = []
        self._picture = Picture()
        self._recent = Recent()
        self._backlog = Backlog(self._picture, backlog_max_bytes)
        #: None while standing by.
        self._sequencer: Sequencer | None = None
        self._unacknowledged: tuple[list[Entry], list[Entry]] | None = None
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._turn = turn or asyncio.Lock()
        self._lease_lock = asyncio.Lock()
        self._held_at: float | None = None
        #: The lease was taken again, and what that asks for is not done yet.
        self._is_regained = False
        self._is_away = False
        self._away_since = 0.0
        self._told_given_up = 0

    async def open(self, catalogue: Catalogue) -> None:
        """Take the exchange over, or stand by where another process holds it.

        Existing topics get their ``publisher_restart`` entry before anything else is written.

        Raises:
            Fenced: Somebody with a newer lease has already written.
        """
        self._catalogue = catalogue
        self._topics = sorted(catalogue.carried())
        epoch = await self._acquire()
        if epoch is None:
            log.warning("%s: another process publishes it; standing by", self.exchange)
        else:
            await self._take_over(epoch)

    def put(self, event: Event, now: int) -> None:
        """Queue the event, which came at ``now`` (µs)."""
        if type(event) is not Trade:  # most events are trades, and no part of the picture
            self._picture.put(event)
        if self._sequencer is None:
            self._recent.put(event)
            return
        backlog = self._backlog
        backlog.put(event, now)
        if backlog.size >= self._max_bytes:
            self._overfull()
        self._wake.set()

    def checkpoint(self, book: Book, now: int) -> None:
        """Queue the book's whole window as of its last entry; only the newest of a book counts."""
        self._picture.checkpoint(book)
        if self._sequencer is not None:
            self._backlog.checkpoint(book, now)
            self._wake.set()

    def _overfull(self) -> None:
        """Hold the feeders back while the bus is there; only one that is away makes us shed."""
        if not self._is_away:
            self.is_full = True
            self._room.clear()
        elif self._backlog.size > self._backlog.max_bytes:
            self._backlog.shed()

    async def drain(self) -> None:
        """Return when there is room again."""
        while self.is_full:
            await self._room.wait()

    async def flushed(self) -> None:
        """Return when the bus has taken all that was put so far; ``run`` must be running."""
        if self._sequencer is None:
            return
        self._idle.clear()
        self._wake.set()
        await self._idle.wait()

    async def run(self) -> None:
        """Stand by until the lease is ours; write, beat and keep it. Ends only by its errors.

        Raises:
            Fenced, LeaseLost: The exchange is somebody else's now.
        """
        while self._sequencer is None:
            await asyncio.sleep(self._lease_s / 4)
            epoch = await self._acquire()
            if epoch is not None:
                log.warning("%s: its publisher is gone; taking over", self.exchange)
                await self._take_over(epoch)
        await together(self._write(), self._keep())

    async def close(self, deadline_s: float = 2.0) -> None:
        """Write what waits, as far as the bus takes it in time, and give the lease back.

        ``run`` must have ended. What could not be written is counted in the log.
        """
        if self._sequencer is None:
            return
        try:
            async with asyncio.timeout(deadline_s):
                await self._flush()
                await self._bus.release(self.exchange, self._owner)
        except (BusError, TimeoutError) as e:
            left = len(self._backlog)
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
        while self._unacknowledged or not self._backlog.is_empty:
            if self._unacknowledged is None:
                self._unacknowledged = self._next_batch()
            batch, checkpoints = self._unacknowledged
            await self._deliver(batch, checkpoints)
            self._unacknowledged = None
            if self.is_full and self._backlog.size < self._max_bytes:
                self._make_room()

    def _make_room(self) -> None:
        self.is_full = False
        self._room.set()

    def _next_batch(self) -> tuple[list[Entry], list[Entry]]:
        """Give the next events their positions."""
        assert self._sequencer is not None
        now, stamp = self._clock(), self._sequencer.stamp
        entries: list[Entry] = []
        checkpoints: dict[str, Entry] = {}
        for item in self._backlog.take(BATCH_MAX, now):
            if not isinstance(item, Mark):
                entries.append(stamp(item, now))
            elif item.book is not None:
                checkpoints[item.book.topic] = self._sequencer.checkpoint(item.book, now)
        return entries, list(checkpoints.values())

    async def _deliver(self, batch: list[Entry], checkpoints: list[Entry]) -> None:
        """Publish until it is done: the same batch again after each failure."""

        async def publish() -> None:
            # The wait for others comes before the look at the lease, for it may outlast it.
            async with self._turn:
                # After a pause of ours somebody else may hold the lease by now; after one of the
                # bus, too: it may have come back empty, and then gave it to who asked first.
                if self._is_away or self._lease_age() > self._lease_s / 2:
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

    async def _acquire(self) -> int | None:
        """Return our new epoch, or None while another process holds the lease."""
        asked_at = asyncio.get_running_loop().time()
        epoch = await self._insist(
            lambda: self._bus.acquire(self.exchange, self._owner, self._lease_s)
        )
        if epoch is not None:
            self._held_at = asked_at
        return epoch

    async def _take_over(self, epoch: int) -> None:
        """Become the publisher: the fence first, then the catalogue, then what we know."""
        assert self._catalogue is not None
        heads = await self._insist(lambda: self._bus.heads(self._topics))
        tails = await self._insist(lambda: self._tails(heads))
        # From here on without a pause: what is put meanwhile comes behind what we know already.
        now = self._clock()
        missed = {topic: self._recent.after(topic, id) for topic, id in tails.items()}
        proven = [topic for topic, facts in missed.items() if facts is not None]
        sequencer = Sequencer(epoch, heads)
        restarts = sequencer.restart(now, proven)
        self._sequencer = sequencer
        for facts in missed.values():
            for fact in facts or ():
                self._backlog.put(fact, now)
        self._tell(self._topics, is_fresh=True)
        self._recent = Recent()
        log.info("%s: publishing %d topics", self.exchange, len(self._topics))
        for start in range(0, len(restarts), BATCH_MAX):
            await self._deliver(restarts[start : start + BATCH_MAX], [])
        catalogue = self._catalogue
        await self._insist(lambda: self._bus.put_catalogue(catalogue))
        self._wake.set()

    async def _tails(self, heads: Mapping[str, Head]) -> dict[str, str | None]:
        """Return the id of the last fact that the former publisher wrote, by topic."""
        topics = [topic for topic in self._recent.topics() if topic in heads]
        found = await asyncio.gather(*(self._bus.history(topic, 0, TAIL) for topic in topics))
        tails: dict[str, str | None] = {}
        for topic, payloads in zip(topics, found, strict=True):
            for payload in payloads:
                try:
                    fact = _decode_fact(payload[HEADER_BYTES:])
                except ValueError:  # somebody else's program wrote it: nothing is proven
                    continue
                # Behind a gap nothing is known of what was missed before it.
                tails[topic] = None if fact.type == "gap" else fact.id
        return tails

    def _tell(self, topics: Iterable[str], is_fresh: bool) -> None:
        """Queue the newest value of each of these topics, and every book.

        Args:
            is_fresh: Books as entries, for readers that had them from another publisher; else only
                their checkpoints, for an emptied bus.
        """
        now, picture = self._clock(), self._picture
        for topic in topics:
            value = picture.values.get(topic)
            if value is not None:
                self._backlog.put(value, now)
        for topic in list(picture.books()):
            book = picture.window(topic)
            if book is None:
                continue
            if is_fresh:
                self._backlog.put(book, now)
            self._backlog.checkpoint(msgspec.structs.replace(book), now)
        self._wake.set()

    async def _hold(self) -> None:
        """Renew the lease. If it is gone and nobody took it meanwhile, take it again.

        Positions go on as they were: the heads prove that nobody else has written. What the bus
        does not have any more is told again.

        Raises:
            LeaseLost: Somebody else holds it.
            Fenced: Somebody else has held it and written.
        """
        assert self._sequencer is not None and self._catalogue is not None
        async with self._lease_lock:
            asked_at = asyncio.get_running_loop().time()
            if not await self._bus.renew(self.exchange, self._owner, self._lease_s):
                # Before the answer: it may be lost, and the lease ours for all that.
                self._is_regained = True
                if await self._bus.acquire(self.exchange, self._owner, self._lease_s) is None:
                    raise LeaseLost(f"{self.exchange}: another process publishes it now")
                log.warning("%s: the lease was gone and was taken again", self.exchange)
            # Also in a later call: the bus may have gone away again, and the lease is ours then.
            if self._is_regained:
                heads = await self._bus.heads(self._topics)
                for topic, head in heads.items():
                    if head.epoch > self._sequencer.epoch:
                        raise Fenced(topic, head.epoch)
                # It may have gone with everything else: a bus that was emptied.
                await self._bus.put_catalogue(self._catalogue)
                self._tell(set(self._topics) - heads.keys(), is_fresh=False)
                self._is_regained = False
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
                if self._is_away:
                    log.warning("%s: the bus is back", self.exchange)
                    self._is_away = False
                    self._say_given_up()
                return answer

    def _away(self, error: BusError) -> None:
        """Note that the bus is away: nobody is held back any more, and what is too much goes."""
        now_s = asyncio.get_running_loop().time()
        if not self._is_away:
            self._is_away, self._away_since = True, now_s
            log.error("%s: the bus does not take what we publish: %s", self.exchange, error)
        if self.is_full:
            self._make_room()
        # Nothing can be older than the trouble; without that a clock that is set would shed it all.
        if now_s - self._away_since > self._backlog_max_s:
            self._backlog.shed(self._clock() - int(self._backlog_max_s * 1e6))
        else:
            self._backlog.shed()

    def _say_given_up(self) -> None:
        given_up = self._backlog.given_up - self._told_given_up
        if given_up:
            self._told_given_up += given_up
            log.warning("%s: gave up %d events meanwhile, told as gaps", self.exchange, given_up)
