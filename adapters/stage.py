"""I/O shell: the connections of one exchange that a fake serves from a tape, and their clocks.

Each connection has its own clock, started at its last expected subscribe: when the open connections
together have asked for all that is expected, or when no new request has come for ``SETTLE_S``.

An exchange with faults lives on: who comes back is told where each stream stands, and hears what
follows. One without is played from its start, because only so a tape does the same each time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from adapters.base import Ack, Standing, Stream
from adapters.faults import Fault, Faults, Trouble
from adapters.recording import Frame, Recording
from adapters.warden import Warden, Window

SETTLE_S = 1.0
#: Of an exchange that ends a connection as planned; a client then comes back.
GOING_AWAY = 1001
#: Of one that restarts and has no message for it.
RESTARTING = 1012
#: The end of the tape.
ENDED = 1000
#: How long a client may take to answer our close when the fake itself ends.
LEAVE_S = 1.0
#: Between the heartbeats of an exchange that sends nothing else.
BEAT_S = 1.0
#: How long a half-open connection is kept; a client that is gone is not seen on it.
HALF_OPEN_S = 600.0
#: Frames that are due together go out in one write, up to so many.
AT_ONCE = 32


class Stage:
    """One exchange's part of the fake: what is left to play and who is there."""

    def __init__(
        self,
        recording: Recording,
        speed: float | None,
        loop: bool,
        expected: frozenset[Stream],
    ) -> None:
        self.recording = recording
        self.speed = speed
        self.loop = loop
        self.expected = expected
        self.players: set[Player] = set()
        self.played: set[Stream] = set()
        #: Stream -> the index of the last frame it has come to.
        self.reached: dict[Stream, int] = {}
        self.over = asyncio.Event()
        self.empty = asyncio.Event()
        #: Set once clocks may start.
        self.go = asyncio.Event()
        #: Told of each frame just before it is sent.
        self.on_send: Callable[[Frame], None] | None = None
        self.sent = 0
        self._given: dict[str, int] = {}
        rules = recording.venue.rules
        self._connects = Window(rules.connects, rules.connects_per_s)
        self._faults: Faults | None = None
        self._joined = 0
        self._standings: dict[Stream, tuple[Standing, int]] = {}
        #: REST key -> the stream whose standing it tells.
        self._keyed = {
            standing.key: stream
            for stream in recording.streams
            if (standing := self._start(stream)) is not None and standing.key is not None
        }

    @property
    def faults(self) -> Faults | None:
        """What is wrong; None: this fake plays a tape, and is no exchange that lives on."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults | None) -> None:
        self._faults = faults
        self._joined = 0

    @property
    def is_strict(self) -> bool:
        """Whether it enforces its published limits."""
        return self._faults is not None and bool(self._faults.named("strict"))

    def is_crowded(self, now: float) -> bool:
        """Take note of a handshake; return whether there were too many."""
        return self._connects.is_full(now) and self.is_strict

    def number(self) -> int:
        """Return the next connection's number since the faults began."""
        self._joined += 1
        return self._joined - 1

    def finished(self, streams: set[Stream]) -> None:
        """Note that these have been played to their end."""
        self.played |= streams
        if self.expected <= self.played:
            self.over.set()
            for player in self.players:
                player.start()  # who has asked for nothing is told of the end as well

    def take_body(self, key: str) -> bytes | None:
        """Return the body of this key: as it is now, or else each recorded one once."""
        stream = self._keyed.get(key)
        if self._faults is not None and stream is not None:
            return self.told(stream, self.reached.get(stream, -1))
        bodies, given = self.recording.bodies[key], self._given.get(key, 0)
        if given >= len(bodies):
            return None
        self._given[key] = given + 1
        return bodies[given]

    def told(self, stream: Stream, upto: int) -> bytes | None:
        """Return what the stream has come to with the frame of this index."""
        standing, done = self._standings.get(stream, (None, -1))
        if standing is None or done > upto:
            standing, done = self._start(stream), -1
        if standing is None:
            return None
        for frame in islice(self.recording.frames, done + 1, upto + 1):
            if frame.stream == stream:
                standing.take(frame.body)
        self._standings[stream] = (standing, upto)
        return standing.told()

    def is_told(self, stream: Stream) -> bool:
        """Whether who subscribes to the stream is first told where it stands."""
        standing = self._start(stream)
        return standing is not None and standing.key is None

    def is_text(self, stream: Stream) -> bool:
        """Whether it is told so in a text frame."""
        standing = self._start(stream)
        return standing is None or standing.is_text

    def joined(self, player: Player) -> None:
        self.players.add(player)
        self.empty.clear()

    def left(self, player: Player) -> None:
        self.players.discard(player)
        if not self.players:
            self.empty.set()
        # Who comes back hears the tape from its start and needs the snapshots that go with it.
        self._given.clear()

    def asked(self) -> None:
        """Start every waiting clock once all that is expected has been asked for."""
        wanted = set().union(*(player.asked for player in self.players)) | self.played
        if self.expected <= wanted:
            for player in self.players:
                player.start()

    def _start(self, stream: Stream) -> Standing | None:
        return self.recording.venue.standing(stream, self.recording.bodies)


class Player:
    """One connection: what it asked for, and the tape running for it."""

    def __init__(self, stage: Stage, socket: ServerConnection, path: str) -> None:
        self.asked: set[Stream] = set()
        self._stage = stage
        self._socket = socket
        self._path = path
        self._started = asyncio.Event()
        self._aborted = asyncio.Event()
        self._is_half_open = False
        self._trouble = self._new_trouble()
        self._number = stage.recording.venue.numbering()
        #: Everything ever asked for; and what is still to be told where it stands.
        self._known: set[Stream] = set()
        self._fresh: list[Stream] = []
        self._is_running = False
        #: Due, and not yet written.
        self._due: list[Frame] = []
        #: Streams as the exchange counts them.
        self._subscriptions = 0
        self._warden = Warden(stage.recording.venue.rules)

    def start(self) -> None:
        self._started.set()

    def abort(self) -> None:
        self._aborted.set()

    async def run(self) -> None:
        """Serve until the client leaves, or the tape or the fake ends."""
        fate = self._trouble.fate if self._trouble else None
        if fate is not None and fate.at_accept:
            await self._meet(fate)
            return
        play = asyncio.create_task(self._play())
        listen = asyncio.create_task(self._listen())
        abort = asyncio.create_task(self._aborted.wait())
        tasks = (play, listen, abort)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if abort.done():
                await self._leave()
            for ended in (play, listen):
                if ended.done():
                    ended.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        venue, loop = self._stage.recording.venue, asyncio.get_running_loop()
        await self._apply(venue.connected(self._path))
        complaint = self._warden.streams(self._subscriptions)
        while not (complaint and self._stage.is_strict):
            message = await self._socket.recv()
            text = message if isinstance(message, str) else message.decode(errors="replace")
            await self._apply(venue.request(self._path, text))
            complaint = self._warden.frame(loop.time()) or self._warden.streams(self._subscriptions)
        await self._socket.close(venue.rules.code, complaint)

    async def _apply(self, ack: Ack) -> None:
        for frame in ack.frames:
            await self._socket.send(self._numbered(frame.encode()), text=True)
        for body in ack.binary:
            await self._socket.send(self._numbered(body))
        before = len(self.asked)
        if ack.unsubscribe:
            self.asked.difference_update(ack.streams)
        elif ack.streams:
            if self._is_running and self._stage.faults is not None:
                self._fresh += [one for one in ack.streams if one not in self.asked]
            self.asked.update(ack.streams)
            self._known.update(ack.streams)
            self._stage.asked()
            asyncio.get_running_loop().call_later(SETTLE_S, self._settled, len(self.asked))
        change = len(self.asked) - before
        if change and ack.counts is not None:
            change = ack.counts if change > 0 else -ack.counts
        self._subscriptions += change

    def _numbered(self, body: bytes) -> bytes:
        return body if self._number is None else self._number(body)

    def _settled(self, asked: int) -> None:
        if len(self.asked) == asked:
            self.start()

    async def _play(self) -> None:
        stage = self._stage
        await self._started.wait()
        await stage.go.wait()
        if not await self._send():
            return
        if stage.loop:
            for stream in self.asked:
                stage.reached.pop(stream, None)
            await self._socket.close(GOING_AWAY, "the tape starts over")
        else:
            stage.finished(self.asked)
            await stage.over.wait()  # until then open, and silent
            await self._socket.close(ENDED, "the tape has ended")

    async def _send(self) -> bool:
        """Send the tape; return whether it went to its end."""
        stage, asked, frames = self._stage, self.asked, self._stage.recording.frames
        speed = stage.speed
        already = frozenset() if stage.loop else frozenset(stage.played)
        begun = dict(stage.reached) if stage.faults is not None else {}
        first = min((begun.get(stream, -1) + 1 for stream in asked), default=0)
        self._is_running = True
        await self._catch_up(begun)
        loop = asyncio.get_running_loop()
        # The clock of who takes up a tape in its middle started before they came.
        passed_s = frames[first].at if first < len(frames) else 0.0
        started = loop.time() - passed_s / (speed or 1.0)
        for index in range(first, len(frames)):
            frame = frames[index]
            stream = frame.stream
            if stream is not None and stream not in asked:
                if stream in self._known:
                    stage.reached[stream] = max(index, stage.reached.get(stream, -1))
                continue
            if stream in already or (stream is not None and index <= begun.get(stream, -1)):
                continue
            if speed is not None and (wait := started + frame.at / speed - loop.time()) > 0:
                await self._flush()
                await asyncio.sleep(wait)
            if stage.faults is not None:
                await self._flush()
                await self._prepare(index)
                if await self._is_ended():
                    return False
            if stream is not None:
                stage.reached[stream] = max(index, stage.reached.get(stream, -1))
            if self._number is not None:
                # Before the faults have it: what they take away leaves a hole.
                frame = frame._replace(body=self._number(frame.body))
            if stage.faults is None:
                self._due.append(frame)
                if len(self._due) == AT_ONCE:
                    await self._flush()
                continue
            await self._pass(frame)
            if await self._is_ended():
                return False
        await self._flush()
        await self._release()
        if speed is not None and stage.loop:
            # Connections with fewer streams stay in step with the others.
            length_s = stage.recording.length_s
            await asyncio.sleep(max(0.0, started + length_s / speed - loop.time()))
        return True

    async def _catch_up(self, begun: dict[Stream, int]) -> None:
        """Tell a connection that takes up streams in their middle where they stand."""
        stage, streams = self._stage, [stream for stream in self.asked if stream in begun]
        if streams and self._trouble is not None and self._trouble.repeats:
            # What begins with its standing does not begin with old changes of it.
            again = {stream for stream in streams if not stage.is_told(stream)}
            old = [
                frame
                for index, frame in enumerate(stage.recording.frames)
                if frame.stream in again and index <= begun[frame.stream]
            ]
            for frame in old[-self._trouble.repeats :]:
                await self._give(frame)
        for stream in streams:
            await self._tell(stream, begun[stream])

    async def _tell(self, stream: Stream, upto: int) -> None:
        if self._stage.is_told(stream) and (told := self._stage.told(stream, upto)) is not None:
            await self._socket.send(self._numbered(told), text=self._stage.is_text(stream))

    async def _prepare(self, index: int) -> None:
        """Do what is due before a frame."""
        stage = self._stage
        while self._fresh:
            await self._tell(self._fresh.pop(0), index - 1)
        if self._trouble is None or self._trouble.faults is not stage.faults:
            await self._release()
            self._trouble = self._new_trouble()

    async def _is_ended(self) -> bool:
        """Carry out what the connection has come to; return whether that was its end."""
        fate = self._trouble.fate if self._trouble is not None else None
        if self._trouble is None or fate is None:
            return False
        self._trouble.fate = None
        await self._release()
        if fate.name == "shutdown":
            notice = self._stage.recording.venue.farewell(time.time_ns() // 1_000_000)
            if notice is not None:
                await self._socket.send(notice)
                return False
        await self._meet(fate)
        return True

    async def _pass(self, frame: Frame) -> None:
        """Send a frame, or what the faults make of it."""
        if self._trouble is None:
            await self._give(frame)
            return
        for late in self._trouble.take(frame):
            if late.delay_s:
                await asyncio.sleep(late.delay_s)
            await self._give(late.frame)

    async def _release(self) -> None:
        """Send what the faults still hold back."""
        for late in self._trouble.end() if self._trouble is not None else ():
            await self._give(late.frame)

    async def _give(self, frame: Frame) -> None:
        if self._stage.on_send is not None:
            self._stage.on_send(frame)
        await self._socket.send(frame.body, text=frame.is_text)
        self._stage.sent += 1

    async def _flush(self) -> None:
        """Write what is due. Measured: a quarter less CPU than a send for each, at 20,000/s."""
        frames, self._due = self._due, []
        socket, stage = self._socket, self._stage
        if len(frames) < 2 or socket.state is not State.OPEN:
            for frame in frames:
                await self._give(frame)
            return
        protocol = socket.protocol
        for frame in frames:
            if stage.on_send is not None:
                stage.on_send(frame)
            (protocol.send_text if frame.is_text else protocol.send_binary)(frame.body)
        stage.sent += len(frames)
        socket.transport.write(b"".join(protocol.data_to_send()))
        await socket.drain()

    async def _meet(self, fate: Fault) -> None:
        """Let the connection come to its end, or to its last state."""
        over = self._stage.over
        match fate.name:
            case "close":
                if fate.code is None:
                    self._socket.transport.abort()
                else:
                    await self._socket.close(fate.code, "on purpose")
            case "shutdown":
                await self._socket.close(RESTARTING, "service restart")
            case "half-open":
                # What the client says is not even read, so no ping and no close is answered.
                self._is_half_open = True
                self._socket.transport.pause_reading()
                with suppress(TimeoutError):
                    async with asyncio.timeout(HALF_OPEN_S):
                        await over.wait()
                self._socket.transport.abort()
            case "heartbeats":
                while not over.is_set():
                    for beat in self._stage.recording.venue.beats(self.asked):
                        body = beat.encode() if isinstance(beat, str) else beat
                        await self._socket.send(self._numbered(body), text=isinstance(beat, str))
                    await self._socket.ping()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(BEAT_S):
                            await over.wait()
                await self._socket.close(ENDED, "the tape has ended")

    async def _leave(self) -> None:
        with suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(0 if self._is_half_open else LEAVE_S):
                await self._socket.close(GOING_AWAY, "the fake exchange ends")
        self._socket.transport.abort()

    def _new_trouble(self) -> Trouble | None:
        faults = self._stage.faults
        return None if faults is None else Trouble(faults, self._stage.number())
