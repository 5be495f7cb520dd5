"""I/O shell between the bus and the hub: joins topics, fills and repairs them, watches publishers.

What is decided is decided in ``topic_state`` (do these entries connect?) and ``liveness`` (is the
publisher alive?); this file only waits for the bus and carries the answers over.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from feed.bus.base import Beat, Bus, CatalogueChanged, LinkDown, LinkUp, Notice, unpack_header
from feed.errors import BusError
from feed.hub import Hub
from feed.index import Index
from feed.liveness import Liveness
from feed.topic_state import Phase, TopicState

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

    Attributes:
        index: What is carried.
        liveness: Health of every topic, as far as known.
        bad_payloads: Messages on the bus that were no entry.
        on_topics: Called with topics that are newly carried.
        on_link: Called with (is_live, since µs) when our own link to the bus changes.
    """

    def __init__(self, bus: Bus, hub: Hub, linger_s: float) -> None:
        self.hub = hub
        self.index = Index()
        self.liveness = Liveness()
        self.bad_payloads = 0
        self.on_topics: Callable[[list[str]], None] = lambda topics: None
        self.on_link: Callable[[bool, int], None] = lambda is_live, since: None
        self._bus = bus
        self._linger_s = linger_s
        self._states: dict[str, TopicState] = {}
        self._held: dict[TopicState, list[bytes]] = {}
        self._held_bytes: dict[TopicState, int] = {}
        self._when_live: dict[TopicState, list[Callable[[], None]]] = {}
        self._idle: dict[TopicState, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(64)

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
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = TopicState(name)
            self._held[state] = []
            state.health = self.liveness.health(state.topic)
            self._spawn(self._fill(state))
        state.interest += 1
        self._idle.pop(state, None)
        return state

    def release(self, state: TopicState) -> None:
        """Say that one client less wants the topic."""
        state.interest -= 1
        if state.interest == 0:
            self._idle[state] = time.monotonic() + self._linger_s

    def joined(self) -> int:
        """Return how many topics are joined."""
        return len(self._states)

    def is_live(self, state: TopicState) -> bool:
        return state.phase is not Phase.FILLING

    def when_live(self, state: TopicState, then: Callable[[], None]) -> None:
        """Call ``then`` once the topic is filled; at once if it is."""
        if state.phase is Phase.FILLING:
            self._when_live.setdefault(state, []).append(then)
        else:
            then()

    async def filled(self, states: Iterable[TopicState], timeout_s: float) -> None:
        """Wait until every one is filled, or the time is up."""
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[None]] = []
        for state in states:
            if state.phase is Phase.FILLING:
                future: asyncio.Future[None] = loop.create_future()
                self.when_live(state, lambda f=future: f.done() or f.set_result(None))  # type: ignore[misc]
                waiting.append(future)
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)

    # Entries.

    def _sink(self, state: TopicState) -> Callable[[bytes], None]:
        publish = self.hub.publish
        live = Phase.LIVE
        clock = time.time_ns

        # Measured: 1.0 µs an entry without subscribers, the reader's 0.5 included.
        def sink(payload: bytes) -> None:
            try:
                epoch, seq = unpack_header(payload)
            except struct.error:
                self.bad_payloads += 1
                return
            if seq == state.seq + 1 and epoch == state.epoch and state.phase is live:
                publish(state, epoch, seq, payload[16:], clock() // 1000)
            else:
                self._odd(state, epoch, seq, payload)

        def status_sink(payload: bytes) -> None:
            sink(payload)
            self._status(state)

        return status_sink if state.kind == "status" else sink

    def _odd(self, state: TopicState, epoch: int, seq: int, payload: bytes) -> None:
        """Take an entry that is not simply the next one."""
        if state.phase is not Phase.LIVE:
            self._hold(state, payload)
        elif state.has(epoch, seq):
            pass  # a repeat, or a publisher that has been replaced
        elif state.connects(epoch, seq, payload[16:]):
            self.hub.publish(state, epoch, seq, payload[16:], now_us())
        else:
            state.phase = Phase.REPAIRING
            self._held[state] = []
            self._hold(state, payload)
            self._spawn(self._repair(state))

    def _hold(self, state: TopicState, payload: bytes) -> None:
        held = self._held.setdefault(state, [])
        size = self._held_bytes.get(state, 0) + len(payload)
        if size <= _HELD_BYTES:  # what does not fit is a jump later, and repaired or declared
            held.append(payload)
            self._held_bytes[state] = size

    def _go_live(self, state: TopicState) -> None:
        """Apply what was held meanwhile and let entries through again."""
        held = self._held.pop(state, [])
        self._held_bytes.pop(state, None)
        state.phase = Phase.LIVE
        sink = self._sink(state)
        for payload in held:
            sink(payload)
        if state.kind == "status":
            self._status(state)
        for then in self._when_live.pop(state, ()):
            then()

    async def _fill(self, state: TopicState) -> None:
        """Subscribe, then read what was before; entries that come meanwhile are held."""
        sink = self._sink(state)
        async with self._slots:
            while True:
                try:
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
        for payload in await self._bus.history(state.name, 0, _NEWEST):
            self._apply(state, payload)

    async def _read_book(self, state: TopicState) -> bool:
        """Build a book from its checkpoint and the stream after it; False if that fails."""
        for _ in range(3):
            checkpoint = await self._bus.checkpoint(state.name)
            if checkpoint is None or len(checkpoint) <= 16:
                return False
            epoch, seq = unpack_header(checkpoint)
            entries = await self._bus.history(state.name, seq)
            try:
                state.restore(epoch, seq, checkpoint[16:])
            except ValueError as e:
                log.warning("%s", e)
                return False
            if all(self._apply(state, payload) for payload in entries):
                return True
        state.valid = False
        return False

    def _apply(self, state: TopicState, payload: bytes) -> bool:
        """Take one entry of the history; False if something before it is missing."""
        epoch, seq = unpack_header(payload)
        if state.has(epoch, seq):
            return True
        connects = state.connects(epoch, seq, payload[16:])
        if not connects:
            state.valid = False
        self.hub.publish(state, epoch, seq, payload[16:], now_us())
        return connects

    async def _repair(self, state: TopicState) -> None:
        """Read the hole from the stream; what is not there is declared, and books start afresh."""
        entries: list[bytes] = []
        try:
            async with asyncio.timeout(_REPAIR_S):
                entries = await self._bus.history(state.name, state.seq)
        except (BusError, TimeoutError) as e:
            log.warning("cannot repair %s: %s", state.name, e or "the bus did not answer")
        was_valid = state.valid
        for payload in (*entries, *self._held.get(state, ())):
            epoch, seq = unpack_header(payload)
            if not (state.has(epoch, seq) or state.connects(epoch, seq, payload[16:])):
                self.hub.lose(state, state.seq + 1, seq - 1, now_us())
            self._apply(state, payload)
        self._held.pop(state, None)
        if state.window is not None and was_valid and not state.valid:
            try:
                async with asyncio.timeout(_REPAIR_S):
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

    def _refresh_health(self, exchange: str | None = None, symbol: str = "ALL") -> None:
        for state in self._states.values():
            topic = state.topic
            if exchange in (None, topic.exchange) and symbol in ("ALL", topic.symbol):
                state.health = self.liveness.health(topic)

    def _announce(self, exchange: str | None, reason: str) -> None:
        """Tell who listens to status topics what the server itself has found out."""
        now = now_us()
        self._refresh_health(exchange)
        for state in self._states.values():
            if state.kind == "status" and exchange in (None, state.topic.exchange):
                body = self.liveness.own_status(state.topic, state.newest, reason, now)
                self.hub.announce(state, body, now)

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
            case LinkDown(reason):
                if self.liveness.link(False):
                    log.warning("the bus is lost: %s", reason)
                    self.on_link(False, now_us())
                    self._announce(None, "bus_lost")
            case LinkUp():
                self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        """After a lost link: read again what may have been missed, then say that it is back."""
        try:
            for catalogue in (await self._bus.catalogues()).values():
                self._notice(CatalogueChanged(catalogue))
            heads = await self._bus.heads(list(self._states))
        except BusError as e:
            log.warning("the bus is back but does not answer: %s", e)
            return  # the link falls again, or the next jump is repaired
        for name, head in heads.items():
            state = self._states.get(name)
            if state is not None and state.phase is Phase.LIVE and state.seq != head.seq:
                state.phase = Phase.REPAIRING
                self._held[state] = []
                self._spawn(self._repair(state))
        self.liveness.restart(time.monotonic())
        if self.liveness.link(True):
            self.on_link(True, now_us())
            self._announce(None, "bus_back")

    async def _watch(self) -> None:
        """Notice silent publishers and leave topics nobody wants any more."""
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            for exchange in self.liveness.silent(now):
                log.warning("the publisher of %s is silent", exchange)
                self._announce(exchange, "publisher_silent")
            for state in [state for state, until in self._idle.items() if until <= now]:
                if state.phase is Phase.LIVE:
                    await self._leave(state)

    async def _leave(self, state: TopicState) -> None:
        del self._idle[state]
        del self._states[state.name]
        try:
            await self._bus.unsubscribe(state.name)
        except BusError as e:
            log.warning("cannot leave %s: %s", state.name, e)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a relay task failed", exc_info=error)
