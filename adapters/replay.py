"""I/O shell: a tape served as a fake exchange, over the exchange's own protocol and real sockets.

WebSocket and REST share one port. What a request means is the venue's to say (pure); here are the
sockets and the clock. Each connection has its own clock, started at its last expected subscribe:
when the open connections together have asked for all that is expected, or when no new request has
come for ``SETTLE_S``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from adapters import registry
from adapters.base import Ack, Stream
from adapters.recording import Recording, load
from adapters.tasks import until
from feed.errors import ConfigError

log = logging.getLogger(__name__)
# Each REST answer would be told as a refused handshake.
_sockets_log = log.getChild("sockets")
_sockets_log.setLevel(logging.CRITICAL)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, frozenset[Stream]]).decode

SETTLE_S = 1.0
#: Where the fake says which streams it has, because not every tape holds the exchange's listing.
TAPE_PATH = "/.tape"
#: Of an exchange that ends a connection as planned; a client then comes back.
GOING_AWAY = 1001
#: The end of the tape.
ENDED = 1000
#: How long a client may take to answer our close when the fake itself ends.
LEAVE_S = 1.0


def parse_speed(text: str) -> float | None:
    """Return the factor that ``1``, ``20``, ``0.5`` or ``max`` (None) stands for.

    Raises:
        ConfigError: None of these.
    """
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed <= 1e6:
        raise ConfigError(f"speed {text[:20]!r}: 1 is as recorded, 20 is 20 times as fast, or max")
    return speed


def streams_told(body: bytes, exchange: str) -> frozenset[Stream]:
    """Read what a fake says at ``TAPE_PATH``; nothing if it is no fake, or not this exchange's."""
    try:
        return _decode(body).get(exchange, frozenset())
    except msgspec.DecodeError:
        return frozenset()


class FakeExchange:
    """Serves recordings of a tape. Use as an async context manager.

    Args:
        recordings: By exchange; several share the port where their paths differ.
        speed: 1 as recorded, N times as fast, None as fast as taken.
        loop: Start over at the end: connections are closed with 1001, and the clients that come
            back get the tape again. Otherwise each stream is played to its end once; one that was
            broken off is played from its start.
        expected: The streams that will be asked for, by exchange; None: all there are.
        port: 0 takes a free one.

    """

    def __init__(
        self,
        recordings: Mapping[str, Recording],
        *,
        speed: float | None = 1.0,
        loop: bool = False,
        expected: Mapping[str, Collection[Stream]] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tells: bool = True,
    ) -> None:
        self._tells = tells
        self._host = host
        self._port = port
        self._server: Server | None = None
        self._stages = {
            name: _Stage(
                recording,
                speed,
                loop,
                recording.streams if expected is None else frozenset(expected[name]),
            )
            for name, recording in recordings.items()
        }

    async def __aenter__(self) -> FakeExchange:
        try:
            self._server = await serve(
                self._serve,
                self._host,
                self._port,
                process_request=self._answer,
                compression=None,
                ping_interval=None,
                # A client that reads slowly must still get all of it before the close.
                close_timeout=None,
                max_queue=None,
                logger=_sockets_log,
            )
        except OSError as e:
            where = f"{self._host}:{self._port}"
            raise ConfigError(f"cannot listen on {where}: {e.strerror or e}") from e
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close(close_connections=False)
        for stage in self._stages.values():
            for player in list(stage.players):
                player.abort()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        """Where an adapter must be pointed."""
        return f"http://{self._host}:{self.port}"

    @property
    def sent(self) -> int:
        """Frames sent so far."""
        return sum(stage.sent for stage in self._stages.values())

    @property
    def clients(self) -> int:
        """Connections open now."""
        return sum(len(stage.players) for stage in self._stages.values())

    async def ended(self) -> None:
        """Return once all that is expected was played and taken; never in a loop."""
        for stage in self._stages.values():
            await stage.over.wait()
            await stage.empty.wait()

    def _stage(self, path: str) -> _Stage | None:
        name = registry.owner(path, self._stages)
        return None if name is None else self._stages[name]

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain GET; let a WebSocket handshake pass."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        if self._tells and request.path == TAPE_PATH:
            streams = {name: stage.recording.streams for name, stage in self._stages.items()}
            return _response(200, _encode(streams))
        stage = self._stage(request.path)
        key = stage.recording.venue.rest_key(request.path) if stage else None
        if stage is None or key is None or key not in stage.recording.bodies:
            return _response(404, b'{"error":"not on this tape"}')
        body = stage.take_body(key)
        if body is None:
            return _response(503, b'{"error":"already given"}')
        return _response(200, body)

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        path = socket.request.path
        stage = self._stage(path)
        if stage is None:
            await socket.close(1008, "no such path")
            return
        player = _Player(stage, socket, path)
        stage.joined(player)
        try:
            await player.run()
        except ConnectionClosed as e:
            log.debug("replay: %s", e)
        finally:
            stage.left(player)


class _Stage:
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
        self.players: set[_Player] = set()
        self.played: set[Stream] = set()
        self.over = asyncio.Event()
        self.empty = asyncio.Event()
        self.sent = 0
        self._given: dict[str, int] = {}

    def finished(self, streams: set[Stream]) -> None:
        """Note that these have been played to their end."""
        self.played |= streams
        if self.expected <= self.played:
            self.over.set()
            for player in self.players:
                player.start()  # who has asked for nothing is told of the end as well

    def take_body(self, key: str) -> bytes | None:
        """Return the next recorded body of this key, each once."""
        bodies, given = self.recording.bodies[key], self._given.get(key, 0)
        if given >= len(bodies):
            return None
        self._given[key] = given + 1
        return bodies[given]

    def joined(self, player: _Player) -> None:
        self.players.add(player)
        self.empty.clear()

    def left(self, player: _Player) -> None:
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


class _Player:
    """One connection: what it asked for, and the tape running for it."""

    def __init__(self, stage: _Stage, socket: ServerConnection, path: str) -> None:
        self.asked: set[Stream] = set()
        self._stage = stage
        self._socket = socket
        self._path = path
        self._started = asyncio.Event()
        self._aborted = asyncio.Event()

    def start(self) -> None:
        self._started.set()

    def abort(self) -> None:
        self._aborted.set()

    async def run(self) -> None:
        """Serve until the client leaves, or the tape or the fake ends."""
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
        venue = self._stage.recording.venue
        await self._apply(venue.connected(self._path))
        async for message in self._socket:
            text = message if isinstance(message, str) else message.decode(errors="replace")
            await self._apply(venue.request(self._path, text))

    async def _apply(self, ack: Ack) -> None:
        for frame in ack.frames:
            await self._socket.send(frame)
        if ack.unsubscribe:
            self.asked.difference_update(ack.streams)
        elif ack.streams:
            self.asked.update(ack.streams)
            self._stage.asked()
            asyncio.get_running_loop().call_later(SETTLE_S, self._settled, len(self.asked))

    def _settled(self, asked: int) -> None:
        if len(self.asked) == asked:
            self.start()

    async def _play(self) -> None:
        stage = self._stage
        await self._started.wait()
        await self._send()
        if stage.loop:
            await self._socket.close(GOING_AWAY, "the tape starts over")
        else:
            stage.finished(self.asked)
            await stage.over.wait()  # until then open, and silent
            await self._socket.close(ENDED, "the tape has ended")

    async def _send(self) -> None:
        stage, asked, send = self._stage, self.asked, self._socket.send
        recording, speed = stage.recording, stage.speed
        already = frozenset() if stage.loop else frozenset(stage.played)
        loop = asyncio.get_running_loop()
        started = loop.time()
        for at, stream, body, is_text in recording.frames:
            if stream is not None and (stream not in asked or stream in already):
                continue
            if speed is not None and (wait := started + at / speed - loop.time()) > 0:
                await asyncio.sleep(wait)
            await send(body, text=is_text)
            stage.sent += 1
        if speed is not None and stage.loop:
            # Connections with fewer streams stay in step with the others.
            await asyncio.sleep(max(0.0, started + recording.length_s / speed - loop.time()))

    async def _leave(self) -> None:
        with suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(LEAVE_S):
                await self._socket.close(GOING_AWAY, "the fake exchange ends")
        self._socket.transport.abort()


def _response(status: int, body: bytes) -> Response:
    reason = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}[status]
    headers = Headers()
    headers["Content-Type"] = "application/json"
    headers["Content-Length"] = str(len(body))
    headers["Connection"] = "close"
    return Response(status, reason, headers, body)


async def serve_tape(
    path: Path,
    exchange: str | None,
    host: str,
    port: int,
    speed: float | None,
    loop: bool,
    *,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve one tape until it has been played to its end, or for ever in a loop.

    Args:
        exchange: None: found out from the tape.
        speed: None is as fast as taken.
        stop: Ends it early.
        on_ready: Is told the URL, and whose tape it is, once clients may connect.

    Raises:
        ConfigError: No such tape, or the port is taken.
    """
    recordings = load(path, exchange)
    async with FakeExchange(recordings, speed=speed, loop=loop, host=host, port=port) as fake:
        if on_ready is not None:
            on_ready(", ".join(f"{name}={fake.url}" for name in recordings))
        await until(stop or asyncio.Event(), fake.ended())
