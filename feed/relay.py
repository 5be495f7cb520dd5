"""I/O shell between the bus and the hub: joins topics, fills and repairs them, watches publishers.

What is decided is decided in ``topic_state`` (do these entries connect?) and ``liveness`` (is the
publisher alive?); this file only waits for the bus and carries the answers over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from feed.bus.base import (
    HEADER_BYTES,
    Beat,
    Bus,
    CatalogueChanged,
    Head,
    LinkDown,
    LinkUp,
    Notice,
    Retention,
    unpack_header,
)
from feed.entries import BAD, Entries, check_object
from feed.errors import BusError
from feed.hub import Hub
from feed.index import Index
from feed.liveness import Liveness
from feed.readiness import Readiness
from feed.topic_state import Entry, Phase, TopicState
from feed.topics import KINDS

log = logging.getLogger("feed.relay")

_HELD_BYTES = 1 << 20
_REPAIR_S = 2.0
_FILL_RETRY_S = 1.0
_TICK_S = 0.25
#: The newest value may stand behind a few gaps (a publisher's restart leaves one).
_NEWEST = 5


def now_us() -> int:
    """Return the wall clock in µs."""
    return time.time_ns() // 1000


class Relay:
    """Keeps the topics somebody wants joined on the bus, and their states true.

    Args:
        linger_s: How long a topic stays joined after its last client left.
        retention: How many entries are kept for those who come back.

    Attributes:
        index: What is carried.
        liveness: Health of every topic, as far as known.
        entries: Takes payloads apart, and counts what was none.
        readiness: Who waits for topics.
        lost_because: Why our own link to the bus is lost; empty while it is not.
        lost_links: How often it was lost.
        repairs: Holes for which a stream was read again.
        on_topics: Called with topics that are newly carried.
        on_link: Called with (is_live, since µs) when our own link to the bus changes.
    """

    def __init__(
        self, bus: Bus, hub: Hub, linger_s: float, retention: Retention | None = None
    ) -> None:
        self.hub = hub
        self.index = Index()
        self.liveness = Liveness()
        self.entries = Entries()
        self.readiness = Readiness(self._read_back, self._spawn)
        self.lost_because = ""
        self.lost_links = 0
        self.repairs = 0
        self.on_topics: Callable[[list[str]], None] = lambda topics: None
        self.on_link: Callable[[bool, int], None] = lambda is_live, since: None
        self._bus = bus
        self._linger_s = linger_s
        self._retention = retention or Retention()
        self._states: dict[str, TopicState] = {}
        self._held: dict[TopicState, list[Entry]] = {}
        self._held_bytes: dict[TopicState, int] = {}
        self._work: dict[TopicState, asyncio.Task[None]] = {}
        self._idle: dict[TopicState, float] = {}
        self._exchanges: set[TopicState] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(64)
        self._links = 0

    async def start(self) -> None:
        """Learn the catalogues and begin to watch.

        Raises:
            BusError: The bus cannot be reached.
        """
        self._bus.watch(self._notice)
        await self._bus.start()
        for catalogue in (await self._bus.catalogues()).values():
            self._notice(CatalogueChanged(catalogue))
        self._spawn(self._watch())

    async def close(self) -> None:
        """End every task; the bus is the caller's."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Topics.

    def state(self, name: str) -> TopicState:
        """Return the state of a topic somebody wants, joining it if it is new.

        Give it back with ``release``, once for each call.
        """
        state = self._joined(name)
        state.interest += 1
        self._idle.pop(state, None)
        return state

    def _joined(self, name: str) -> TopicState:
        state = self._states.get(name)
        if state is None:
            state = TopicState(name, self._retention.of(name.partition(".")[0]))
            self._states[name] = state
            state.health = self.liveness.health(state.topic)
            self._work_on(state, self._fill(state))
        return state

    def release(self, state: TopicState) -> None:
        """Say that one client less wants the topic."""
        state.interest -= 1
        if state.interest == 0 and state not in self._exchanges:
            self._idle[state] = time.monotonic() + self._linger_s

    def joined(self) -> int:
        """Return how many topics are joined for clients, or still are after they left."""
        return len(self._states) - sum(state.interest == 0 for state in self._exchanges)

    def states(self) -> Collection[TopicState]:
        """Return every topic that is joined."""
        return self._states.values()

    def is_live(self, state: TopicState) -> bool:
        return state.phase is not Phase.FILLING

    async def _read_back(self, state: TopicState) -> None:
        async with self._slots, asyncio.timeout(_REPAIR_S):
            payloads = await self._bus.history(state.name, 0)
        state.deepen(self.entries.read(state.name, payloads))

    async def page(
        self, name: str, after: int, before: int | None, limit: int, newest: bool
    ) -> list[Entry]:
        """Return retained entries as ``Bus.page`` does.

        Raises:
            BusError: It does not answer.
        """
        payloads = await self._bus.page(
            name, after=after, before=before, limit=limit, newest=newest
        )
        return self.entries.read(name, payloads)

    # Entries.

    def _sink(self, state: TopicState) -> Callable[[bytes], None]:
        publish = self.hub.publish
        live = Phase.LIVE
        clock = time.time_ns

        # Measured by `bench.bus`, an entry without subscribers: 1.4 µs, the reader's 0.3 included.
        def sink(payload: bytes) -> None:
            body = payload[HEADER_BYTES:]
            try:
                epoch, seq = unpack_header(payload)
                check_object(body)
            except BAD as e:
                self.entries.refuse(state.name, e)
                return
            if seq == state.seq + 1 and epoch == state.epoch and state.phase is live:
                publish(state, epoch, seq, body, clock() // 1000)
            else:
                self._odd(state, Entry(epoch, seq, body))

        def status_sink(payload: bytes) -> None:
            sink(payload)
            self._status(state)

        return status_sink if state.kind == "status" else sink

    def _odd(self, state: TopicState, entry: Entry) -> None:
        """Take an entry that is not simply the next one."""
        if not self.entries.is_possible(state.name, entry):
            return
        if state.phase is not Phase.LIVE:
            self._hold(state, entry)
        elif state.has(entry.epoch, entry.seq):
            pass  # a repeat, or a publisher that has been replaced
        elif (state.seq or entry.seq == entry.epoch) and state.connects(*entry):
            # A topic that never was before begins at its publisher's epoch.
            self.hub.publish(state, *entry, now_us())
        else:  # a jump, or the first we hear of the topic: others may have come before it
            self._start_repair(state)
            self._hold(state, entry)

    def _hold(self, state: TopicState, entry: Entry) -> None:
        size = self._held_bytes.get(state, 0) + len(entry.body)
        if size <= _HELD_BYTES:  # what does not fit is a jump later, and repaired or declared
            self._held.setdefault(state, []).append(entry)
            self._held_bytes[state] = size

    def _release_held(self, state: TopicState) -> list[Entry]:
        self._held_bytes.pop(state, None)
        return self._held.pop(state, [])

    def _go_live(self, state: TopicState) -> None:
        """Apply what was held meanwhile and let entries through again."""
        state.phase = Phase.LIVE
        for entry in self._release_held(state):
            self._odd(state, entry)  # a jump among them starts the next repair
        if state.kind == "status":
            self._status(state)
            if self.liveness.is_cut_off(state.topic.exchange) and state.made_here is None:
                state.made_here = self._own_status(state, self._cut_off_reason(), now_us())
        self.readiness.filled(state)

    async def _fill(self, state: TopicState) -> None:
        """Subscribe, then read what was before; entries that come meanwhile are held."""
        sink = self._sink(state)
        while True:
            try:
                async with self._slots:
                    await self._bus.subscribe(state.name, sink)
                    await self._read_newest(state)
                break
            except BusError as e:
                log.warning("cannot join %s yet: %s", state.name, e)
            await asyncio.sleep(_FILL_RETRY_S)
        self._go_live(state)

    async def _read_newest(self, state: TopicState) -> None:
        if state.window is not None and await self._read_book(state):
            return
        for entry in self.entries.read(state.name, await self._bus.history(state.name, 0, _NEWEST)):
            self._apply(state, entry)

    async def _read_book(self, state: TopicState) -> bool:
        """Build a book from its checkpoint and the stream after it; False if that fails.

        What subscribers have had already only rebuilds the window; they are given what is newer.
        """
        given = state.epoch, state.seq
        for _ in range(3):
            checkpoint = await self._bus.checkpoint(state.name)
            if checkpoint is None:
                return False
            found = self.entries.read(state.name, [checkpoint])
            if not found or (found[0].epoch, found[0].seq) < (given[0], 0):
                return False
            start = found[0]
            entries = self.entries.read(state.name, await self._bus.history(state.name, start.seq))
            reached = entries[-1].seq if entries else start.seq
            if reached < given[1]:
                return False  # the stream was emptied: it knows less than we do
            try:
                state.restore(*start)
            except (ValueError, RecursionError) as e:
                log.warning("the checkpoint of %s cannot be read: %s", state.name, e)
                return False
            if given[1] and start.seq > given[1]:
                self.hub.lose(state, given[1] + 1, start.seq, now_us())
            is_whole = True
            for entry in entries:
                if state.has(entry.epoch, entry.seq):
                    continue
                connects = state.connects(*entry)
                is_whole = is_whole and connects
                if (entry.epoch, entry.seq) <= given:
                    state.advance(*entry)
                else:
                    if (state.epoch, state.seq) < given:
                        # The stream does not reach back to the checkpoint; what lies between is
                        # lost to the window, and not to those who had it.
                        state.stand_at(*given)
                    self._apply(state, entry)
            given = max(given, (state.epoch, state.seq))
            if is_whole:
                return True
            state.valid = False
        return False

    def _apply(self, state: TopicState, entry: Entry) -> None:
        """Take one entry of the history; what is missing before it is declared."""
        if state.has(entry.epoch, entry.seq):
            return
        if not state.connects(*entry):
            state.valid = False
            if state.seq + 1 < entry.seq:
                self.hub.lose(state, state.seq + 1, entry.seq - 1, now_us())
        self.hub.publish(state, *entry, now_us())

    def _start_repair(self, state: TopicState) -> asyncio.Task[None]:
        self.repairs += 1
        state.phase = Phase.REPAIRING
        return self._work_on(state, self._repair(state))

    async def _repair(self, state: TopicState) -> None:
        """Read the hole from the stream; what is not there is declared, and books start afresh."""
        payloads: list[bytes] = []
        was_valid = state.valid
        try:
            async with self._slots, asyncio.timeout(_REPAIR_S):
                payloads = await self._bus.history(state.name, state.seq)
        except (BusError, TimeoutError) as e:
            log.warning("cannot repair %s: %s", state.name, e or "the bus did not answer")
        found = [*self.entries.read(state.name, payloads), *self._release_held(state)]
        # A fast topic's stream may have let go of what was heard since the repair began.
        for entry in sorted(found, key=lambda entry: (entry.epoch, entry.seq)):
            self._apply(state, entry)
        if state.window is not None and was_valid and not state.valid:
            try:
                async with self._slots, asyncio.timeout(_REPAIR_S):
                    await self._read_book(state)
            except (BusError, TimeoutError) as e:
                log.warning("no checkpoint of %s: %s", state.name, e or "the bus did not answer")
            self.hub.refresh(state)
        self._go_live(state)

    # Health.

    def _status(self, state: TopicState) -> None:
        if state.newest is not None:
            self.liveness.status(state.topic, state.newest)
            self._refresh_health(state.topic.exchange, state.topic.symbol)

    def _refresh_health(self, exchange: str | None, symbol: str = "ALL") -> None:
        if exchange is None or symbol == "ALL":
            states = [s for s in self._states.values() if exchange in (None, s.topic.exchange)]
        else:  # a whole exchange's symbols may change at once: no search for each
            names = [f"{kind}.{exchange}.{symbol}" for kind in KINDS]
            states = [self._states[name] for name in names if name in self._states]
        for state in states:
            state.health = self.liveness.health(state.topic)

    def _announce(self, exchange: str | None, reason: str) -> None:
        """Tell who listens to status topics what the server itself has found out."""
        now = now_us()
        self._refresh_health(exchange)
        for state in self._states.values():
            if state.kind == "status" and exchange in (None, state.topic.exchange):
                body = self._own_status(state, reason, now)
                # Once it is over, the publisher's last word holds again.
                state.made_here = body if self.liveness.is_cut_off(state.topic.exchange) else None
                self.hub.announce(state, body, now)

    def _own_status(self, state: TopicState, reason: str, now: int) -> bytes:
        return self.liveness.own_status(state.topic, state.newest, reason, now)

    def _cut_off_reason(self) -> str:
        return "publisher_silent" if self.liveness.is_linked else "bus_lost"

    # What the bus says of itself and of the publishers.

    def _notice(self, notice: Notice) -> None:
        match notice:
            case Beat(exchange):
                if self.liveness.beat(exchange, time.monotonic()):
                    self._announce(exchange, "publisher_back")
            case CatalogueChanged(catalogue):
                self.liveness.expect(catalogue.exchange, time.monotonic())
                added = self.index.update(catalogue)
                if added:
                    self.on_topics(added)
                # /v1/exchanges and every topic's health tell it, whoever listens.
                whole = f"status.{catalogue.exchange}.ALL"
                if whole in added:
                    self._exchanges.add(self._joined(whole))
            case LinkDown(reason):
                self._links += 1
                self.lost_links += 1
                self.lost_because = reason
                if self.liveness.link(False):
                    log.warning("the bus is lost: %s", reason)
                    self.on_link(False, now_us())
                    self._announce(None, "bus_lost")
            case LinkUp():
                self._links += 1
                self._spawn(self._catch_up(self._links))

    async def _catch_up(self, link: int) -> None:
        """After a lost link: read again what may have been missed, then say that it is back.

        Args:
            link: Given up when another one came or went meanwhile.
        """
        while link == self._links:
            try:
                catalogues = await self._bus.catalogues()
                heads = await self._bus.heads(list(self._states))
                break
            except BusError as e:
                log.warning("the bus is back but does not answer: %s", e)
                await asyncio.sleep(_FILL_RETRY_S)
        if link != self._links:
            return
        for catalogue in catalogues.values():
            self._notice(CatalogueChanged(catalogue))
        await self._repair_behind(heads)
        if link == self._links:
            self.liveness.restart(time.monotonic())
            self.lost_because = ""
            if self.liveness.link(True):
                self.on_link(True, now_us())
                self._announce(None, "bus_back")

    async def _repair_behind(self, heads: Mapping[str, Head]) -> None:
        """Repair what stands below its head on the bus; return when that is done.

        A topic that was being filled or repaired when the link came back may have read the stream
        before its channel was subscribed again, so it is looked at when it is through.
        """
        found = {
            self._states[name]: head.seq for name, head in heads.items() if name in self._states
        }
        busy = {state: self._work[state] for state in found if state in self._work}
        repairs = [
            self._start_repair(state)
            for state, seq in found.items()
            if state not in busy and state.seq < seq
        ]
        if busy:
            await asyncio.wait(busy.values(), timeout=2 * _REPAIR_S)
            repairs += [
                self._start_repair(state)
                for state in busy
                if state not in self._work and state.seq < found[state]
            ]
        if repairs:
            await asyncio.wait(repairs)

    async def _watch(self) -> None:
        """Notice silent publishers and leave topics nobody wants any more."""
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            if self.liveness.is_linked:  # else it is the bus that is silent
                for exchange in self.liveness.silent(now):
                    log.warning("the publisher of %s is silent", exchange)
                    self._announce(exchange, "publisher_silent")
            self.readiness.relax()
            for state in [state for state, until in self._idle.items() if until <= now]:
                if state.phase is Phase.LIVE and state in self._idle:
                    await self._leave(state)

    async def _leave(self, state: TopicState) -> None:
        del self._idle[state]
        del self._states[state.name]
        try:
            await self._bus.unsubscribe(state.name)
        except BusError as e:
            log.warning("cannot leave %s: %s", state.name, e)

    def _work_on(self, state: TopicState, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Fill or repair a topic; never both at once."""
        task = self._work[state] = self._spawn(work)

        def ended(task: asyncio.Task[None]) -> None:
            if self._work.get(state) is task:  # a held jump may have begun the next repair
                del self._work[state]

        task.add_done_callback(ended)
        return task

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a relay task failed", exc_info=error)
