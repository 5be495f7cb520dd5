"""I/O shell: one WebSocket connection to an exchange, from its opening to its end.

What the adapter makes of each frame is carried out here: events to the sink, health to the status
board, wishes (fetch, send, leave) fulfilled. A lost connection is never revived: the runner makes a
new one, with a new adapter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from adapters.base import (
    Beat,
    Checkpoint,
    Fetch,
    Health,
    Leave,
    Output,
    Refused,
    Resumed,
    Send,
    Stream,
    upstream_gap,
)
from adapters.pacer import Pacer
from adapters.recovery import Recovery
from adapters.rest import FetchFailed, is_local
from adapters.rotation import Handover
from adapters.slot import Slot
from adapters.status import Input
from adapters.tasks import alongside
from feed.backoff import delay
from feed.errors import BadPayload, StaleConnection
from feed.models import Book, Depth, Derivative, Gap, Liquidation, Quote, Ticker, Trade
from feed.topics import parse_topic

if TYPE_CHECKING:
    from adapters.runner import Runner

log = logging.getLogger(__name__)

EVENTS = frozenset({Trade, Quote, Book, Depth, Ticker, Derivative, Liquidation, Gap})
#: Frames that may wait unread; when they do, TCP holds the exchange back.
QUEUE_FRAMES = 256
#: How exactly a silence is timed.
TICK_S = 0.25
#: Every so many ticks single streams are looked at.
SYMBOL_TICKS = 4
#: A repeated fetch of one key is spaced by backoff until it has not been asked for so long.
FETCH_MEMORY_S = 60.0


#: Returns what passes of a connection's outputs.
Gate: TypeAlias = Callable[[Iterable[Output]], Iterable[Output]]


class Leaving(StaleConnection):
    """The exchange asked us to replace the connection; that is no failure."""


class Connection:
    """One connection of a plan.

    Args:
        runner: What all connections share.
        slot: Its place.

    Attributes:
        fed: Whether it has brought an event.
        gate: What passes of its outputs, while another connection is up in the same place.
        retire: Set when it should be replaced while it still serves.
        is_retired: Another one has begun to take over; there is no way back.
        is_answered: Whether a frame has been understood and all first requests are sent.
    """

    def __init__(self, runner: Runner, slot: Slot, *, is_successor: bool = False) -> None:
        self.fed = False
        self.gate: Gate | None = None
        self.retire = asyncio.Event()
        self.is_answered = False
        self._is_successor = is_successor
        self.is_retired = False
        self._runner = runner
        self._slot = slot
        self._name = f"ws{slot.index + 1}"
        self._plan = slot.plan
        self._adapter = runner.adapter(slot.plan, runner.kinds)
        if not is_successor:
            for native, mark in slot.marks.items():
                self._adapter.resume(native, mark)
        trades = {
            native: f"trade.{runner.name}.{symbol}" for symbol, native in slot.natives.items()
        }
        self._recovery = Recovery(runner, self._adapter, trades)
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._fetch_failed: asyncio.Future[None] | None = None
        self._fetches: set[asyncio.Task[None]] = set()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._asked: dict[str, tuple[int, float]] = {}
        self._heard = False
        self._is_asking = True
        self._leave: str | None = None

    async def run(self) -> None:
        """Serve the connection; returns only when a tape has come to its end.

        Raises:
            OSError, WebSocketException, StaleConnection, FetchFailed, BadPayload: It could not be
                made, or is lost.
        """
        url = await self._runner.address() + self._plan.path
        log.debug("%s: connecting %s", self._runner.name, url)
        async with connect(
            url,
            additional_headers=self._adapter.headers,
            compression=None,
            max_size=self._runner.limits.max_frame_bytes,
            max_queue=QUEUE_FRAMES,
            ping_interval=None,  # silence is judged by data, and the exchange's pings are answered
            open_timeout=10,
            close_timeout=1,
            proxy=None if is_local(url) else True,
        ) as socket:
            if self._runner.tap is not None:
                self._runner.tap.connected(self._name, url)
            for send in self._adapter.opened():
                self._outbox.put_nowait(send.frame)
            self._fetch_failed = asyncio.get_running_loop().create_future()
            try:
                await alongside(
                    self._serve(socket),
                    self._send(socket),
                    self._watch(),
                    self._ping(),
                    self._age(),
                    self._guard(self._fetch_failed),
                )
            finally:
                for fetch in self._fetches:
                    fetch.cancel()
                await asyncio.gather(*self._fetches, return_exceptions=True)
                await self._recovery.close()
                if not (self._runner.is_tape or self._is_successor or self.is_retired):
                    self._slot.marks = self._adapter.marks()

    async def _serve(self, socket: ClientConnection) -> None:
        await self._read(socket)
        # Answers on their way came before the tape's end when it was recorded.
        while self._in_flight:
            await asyncio.wait(set(self._in_flight))

    async def _guard(self, failed: asyncio.Future[None]) -> None:
        """Raise what a fetch did not foresee; it ends the connection like any other error."""
        await failed

    async def _read(self, socket: ClientConnection) -> None:
        runner = self._runner
        sink, clock, tap = runner.sink, runner.clock, runner.tap
        receive = socket.recv
        while True:
            try:
                # A recorder wants to know text from binary; nobody else pays for the decoding.
                frame = await receive(decode=None if tap else False)
            except ConnectionClosed as e:
                if runner.ends and e.rcvd is not None and e.rcvd.code == 1000:
                    return
                raise
            recv = clock()
            runner.counters.frames += 1
            raw = frame.encode() if isinstance(frame, str) else frame
            if tap is not None:
                tap.received(self._name, recv, raw, isinstance(frame, str))
            try:
                self._handle(self._adapter.parse(raw, recv), recv)
            except BadPayload as e:
                runner.bad_frame(e)
                self._handle(self._adapter.unread(raw, recv), recv)
            else:
                self._heard = True
            if self._leave is not None:
                raise Leaving(self._leave)
            if sink.is_full:
                await sink.drain()

    def handover(self, successor: Connection) -> Handover:
        """Begin to hand over to another connection, which has not brought anything yet."""
        slot, board = self._slot, self._runner.board
        handover = Handover(
            {topic: slot.natives[parse_topic(topic).symbol] for topic in slot.topics},
            set(slot.topics) - board.waiting,
            {native: mark.id for native, mark in self._adapter.marks().items()},
            successor._adapter.whole,
        )
        self.gate, successor.gate = handover.old, handover.new
        return handover

    def switch(self, successor: Connection, handover: Handover) -> None:
        """Let the successor take over, topic by topic."""
        if not handover.is_switching:
            successor.fed, successor._is_successor = True, False
            self.is_retired = True
            marks = self._adapter.marks()
            for topic in handover.unproven:
                native = self._slot.natives[parse_topic(topic).symbol]
                if topic.startswith("trade.") and native in marks:
                    successor._adapter.resume(native, marks[native])
            if self._slot.silence is not None:
                self._slot.silence.restart()
            successor._emit(handover.switch(), self._runner.clock())
        else:
            successor._emit(handover.switch(is_forced=True), self._runner.clock())

    def ungate(self, gate: Gate) -> None:
        """Let everything pass again: what the gate was for is over."""
        if self.gate == gate:
            self.gate = None

    def _handle(self, outputs: Iterable[Output], recv: int) -> None:
        self._emit(outputs if self.gate is None else self.gate(outputs), recv)

    def _emit(self, outputs: Iterable[Output], recv: int) -> None:
        runner = self._runner
        put, board, now = runner.sink.put, runner.board, runner.clock()
        for output in outputs:
            kind = type(output)
            if kind in EVENTS:
                if not self.fed:
                    self._begin(recv)
                topic: str = output.topic  # type: ignore[union-attr]
                board.last_event[topic] = recv
                put(output, now)  # type: ignore[arg-type]
                runner.counters.events += 1
                if topic in board.waiting and kind is not Gap:
                    runner.tell(board.topics((topic,), Input.FED, None, now))
            else:
                self._carry_out(output, now)

    def _carry_out(self, output: Output, now: int) -> None:
        runner = self._runner
        match output:
            case Checkpoint(book):
                runner.sink.checkpoint(book, now)
            case Fetch():
                task = asyncio.create_task(self._fetch(output))
                self._fetches.add(task)
                self._in_flight.add(task)
                task.add_done_callback(self._fetch_done)
            case Send(frame):
                self._outbox.put_nowait(frame)
            case Health(native, kinds, state, reason):
                symbol = self._plan.instruments[native].symbol
                topics = [f"{kind}.{runner.name}.{symbol}" for kind in kinds]
                what = Input.PROVEN if state == "live" else Input.BROKEN
                if what is Input.BROKEN:
                    log.warning("%s: %s of %s: %s", runner.name, "/".join(kinds), symbol, reason)
                runner.tell(runner.board.topics(topics, what, reason, now))
            case Refused():
                self._refuse(output, now)
            case Beat(native):
                if self._slot.beats is not None:
                    self._slot.beats.heard.add(native)
            case Resumed():
                if not self.fed:
                    self._begin(now)
                self._recovery.resumed(output)
            case Leave(reason, serves_on):
                if serves_on and runner.rotates:
                    log.info("%s: will be ended: %s", runner.name, reason)
                    self.retire.set()
                else:
                    self._leave = reason

    def _refuse(self, refused: Refused, now: int) -> None:
        runner = self._runner
        names = ", ".join(f"{stream.channel} {stream.native}" for stream in refused.streams)
        log.error("%s refuses %s: %s", runner.name, names or "a request", refused.reason)
        for native in {stream.native for stream in refused.streams}:
            instrument = self._plan.instruments.get(native)
            if instrument is not None:
                mine = [stream for stream in refused.streams if stream.native == native]
                topics, _ = runner.adapter.carried(mine, instrument, runner.kinds)
                runner.tell(runner.board.topics(topics, Input.REFUSED, "refused", now))

    def _begin(self, recv: int) -> None:
        """Say that the connection brings data, and first what was missed without it."""
        self.fed = True
        runner, slot, now = self._runner, self._slot, self._runner.clock()
        if slot.owes_gaps:
            slot.owes_gaps = False
            for topic in slot.facts:
                kind, _, symbol = parse_topic(topic)
                native = slot.natives[symbol]
                if kind == "trade" and native in slot.marks:
                    self._recovery.begin(native, slot.marks[native])
                else:
                    runner.sink.put(upstream_gap(topic, recv, "upstream_disconnect", None), now)
        # No trade is no fault; a book is only live when it is there.
        facts = [topic for topic in slot.facts if not topic.startswith("book.")]
        runner.tell(runner.board.topics(facts, Input.FED, None, now))
        runner.tell(runner.board.connection(slot.index, Input.FED, None, now))

    async def _fetch(self, fetch: Fetch) -> None:
        runner = self._runner
        loop = asyncio.get_running_loop()
        tries, asked_at = self._asked.get(fetch.key, (0, 0.0))
        if loop.time() - asked_at > FETCH_MEMORY_S:
            tries = 0
        if tries:
            task = asyncio.current_task()
            assert task is not None
            # While it waits its turn it is not in flight: the end of a tape does not wait for it.
            self._in_flight.discard(task)
            await asyncio.sleep(delay(tries, runner.rng, base_s=0.5))
            self._in_flight.add(task)
        self._asked[fetch.key] = (tries + 1, loop.time())
        try:
            body = await runner.rest.get(fetch.path)
            recv = runner.clock()
            if runner.tap is not None:
                runner.tap.answered(runner.rest_url + fetch.path, recv, body)
            runner.counters.fetches += 1
            self._handle(self._adapter.fetched(fetch.key, body, recv), recv)
            return
        except BadPayload as e:
            runner.bad_frame(e)
        except FetchFailed as e:
            runner.counters.failed_fetches += 1
            runner.complain("fetch", f"cannot fetch {fetch.key}: {e}")
            if e.retry_after_s:
                await asyncio.sleep(e.retry_after_s)
        recv = runner.clock()
        self._handle(self._adapter.fetch_failed(fetch.key, recv), recv)

    def _fetch_done(self, task: asyncio.Task[None]) -> None:
        self._fetches.discard(task)
        self._in_flight.discard(task)
        failed = self._fetch_failed
        if not task.cancelled() and (error := task.exception()) is not None:
            if failed is not None and not failed.done():
                failed.set_exception(error)

    async def _send(self, socket: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        pacer = Pacer(1, 1 / self._runner.limits.frames_per_s)
        await asyncio.sleep(self._runner.limits.settle_s)
        while True:
            self._is_asking = not self._outbox.empty()
            frame = await self._outbox.get()
            await asyncio.sleep(pacer.reserve(loop.time()))
            try:
                await socket.send(frame)
            except ConnectionClosed:
                return  # so will reading say, once all that came before has been read
            if self._runner.tap is not None:
                self._runner.tap.sent(self._name, self._runner.clock(), frame)

    async def _ping(self) -> None:
        period_s = self._runner.limits.ping_every_s
        while period_s is not None:
            await asyncio.sleep(period_s)
            frame = self._adapter.ping()
            if frame is None:
                return
            self._outbox.put_nowait(frame)

    async def _age(self) -> None:
        """Ask to be replaced before the exchange ends the connection for its age."""
        runner, max_age_s = self._runner, self._runner.limits.max_age_s
        if max_age_s is not None and runner.rotates:
            await asyncio.sleep(max_age_s * (0.98 - runner.rng.uniform(0.0, 0.08)))
            self.retire.set()

    async def _watch(self) -> None:
        """End the connection when nothing readable has come for too long, and judge its streams.

        Counts its own turns, not time: after a pause of this process the frames that wait unread
        get their turn first.
        """
        runner, slot, silent_after_s = self._runner, self._slot, self._runner.limits.silent_after_s
        quiet = listened = 0
        if slot.silence is not None and not self._is_successor:
            slot.silence.restart()
        while True:
            await asyncio.sleep(TICK_S)
            self.is_answered = self.is_answered or (self._heard and not self._is_asking)
            if not runner.sink.is_full and self.fed and not self.is_retired:
                listened += 1
                if listened == SYMBOL_TICKS:
                    listened = 0
                    self._judge(SYMBOL_TICKS * TICK_S)
            if self._heard or runner.sink.is_full:
                self._heard, quiet = False, 0
                continue
            quiet += 1
            if quiet * TICK_S >= silent_after_s:
                if not (self._is_successor or self.is_retired):
                    now = runner.clock()
                    runner.tell(runner.board.topics(slot.topics, Input.SILENT, "silent", now))
                    runner.tell(runner.board.connection(slot.index, Input.SILENT, "silent", now))
                raise StaleConnection(f"silent for {silent_after_s:g} s")

    def _judge(self, listened_s: float) -> None:
        """Say which streams of a living connection have fallen silent, and take them afresh."""
        runner, slot = self._runner, self._slot
        silence, beats, board = slot.silence, slot.beats, runner.board
        if silence is None:
            return
        now = runner.clock()
        for one in silence.tick(listened_s, board.last_event):
            log.warning("%s: %s is silent", runner.name, ", ".join(one.topics))
            runner.tell(board.topics(one.topics, Input.SILENT, "silent", now))
        asked: dict[str, Sequence[Stream]] = {
            native: streams if silence.speaks(native) else self._streams_of(native)
            for native, streams in silence.silent().items()
        }
        if beats is not None:
            stopped, back = beats.tick(listened_s)
            for native in stopped:
                log.warning("%s: no heartbeat of %s", runner.name, native)
                runner.tell(board.topics(self._topics_of(native), Input.SILENT, "no_beat", now))
            for native in back:
                silent = {t for one in silence.fallen(native) for t in one.topics}
                alive = [t for t in self._topics_of(native) if t not in silent]
                runner.tell(board.topics(alive, Input.HEARD, None, now))
            for native in beats.silent:
                asked[native] = self._streams_of(native)
        for native, streams in asked.items():
            due = silence.due(streams)
            if due:
                log.info("%s: taking %s afresh", runner.name, native)
                self._handle(self._adapter.resync(due, now), now)

    def _streams_of(self, native: str) -> list[Stream]:
        return [stream for stream in self._plan.streams if stream.native == native]

    def _topics_of(self, native: str) -> list[str]:
        symbol = self._plan.instruments[native].symbol
        return [topic for topic in self._slot.topics if parse_topic(topic).symbol == symbol]
