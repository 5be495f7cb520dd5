"""I/O shell: a tape served as a fake exchange, over the exchange's own protocol and real sockets.

WebSocket and REST share one port. What a request means is the venue's to say (pure), what is broken
on purpose is said in ``faults.py`` (pure); connections and their clocks are in ``stage.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from adapters import registry
from adapters.base import Stream
from adapters.fault_language import parse
from adapters.faults import Door, Faults
from adapters.posted import PostConnection
from adapters.recording import Frame, Recording, load
from adapters.stage import Player, Stage
from adapters.tasks import until
from feed.errors import ConfigError

log = logging.getLogger(__name__)
# Each REST answer would be told as a refused handshake.
_sockets_log = log.getChild("sockets")
_sockets_log.setLevel(logging.CRITICAL)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, frozenset[Stream]]).decode

#: Where the fake says which streams it has, because not every tape holds the exchange's listing.
TAPE_PATH = "/.tape"
_STATUSES = frozenset(HTTPStatus)
#: Handshakes remembered in ``FakeExchange.handshakes``.
REMEMBERED = 1_000


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
        faults: What is broken on purpose; even an empty one makes this an exchange that lives on:
            who comes back hears how it goes on, not the tape from its start.
        go: Clocks wait until it is set; None: they wait for nothing.
        on_send: Is told of each frame just before it is sent.

    Attributes:
        handshakes: When each of the last WebSocket handshakes was asked for, seconds of the loop.

    Raises:
        ConfigError: A fault that concerns nothing on the tape.
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
        faults: Faults | None = None,
        go: asyncio.Event | None = None,
        on_send: Callable[[Frame], None] | None = None,
    ) -> None:
        self._tells = tells
        self._host = host
        self._port = port
        self._server: Server | None = None
        self._stages = {
            name: Stage(
                recording,
                speed,
                loop,
                recording.streams if expected is None else frozenset(expected[name]),
            )
            for name, recording in recordings.items()
        }
        for stage in self._stages.values():
            stage.on_send = on_send
            if go is None:
                stage.go.set()
            else:
                stage.go = go
        self.handshakes: deque[float] = deque(maxlen=REMEMBERED)
        self._door = Door(Faults())
        self._faults: Faults | None = None
        if faults is not None:
            self.faults = faults

    async def __aenter__(self) -> FakeExchange:
        try:
            self._server = await serve(
                self._serve,
                self._host,
                self._port,
                process_request=self._answer,
                create_connection=PostConnection,
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

    @property
    def faults(self) -> Faults | None:
        """What is broken; may be set at any time, and counts from each connection's next frame."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        stages = self._stages.values()
        faults.check(frozenset().union(*(stage.recording.streams for stage in stages)))
        self._faults = faults
        self._door = Door(faults)
        for stage in stages:
            stage.faults = faults

    def break_(self, *texts: str, seed: int = 0) -> None:
        """Break it, by faults as they are written on the command line; what was broken is not."""
        self.faults = parse(texts, seed)

    def heal(self) -> None:
        """Let all be well from now on; half-open connections stay what they are."""
        self.faults = Faults()

    async def ended(self) -> None:
        """Return once all that is expected was played and taken; never in a loop."""
        for stage in self._stages.values():
            await stage.over.wait()
            await stage.empty.wait()

    def _stage(self, path: str) -> Stage | None:
        name = registry.owner(path, self._stages)
        return None if name is None else self._stages[name]

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain GET or POST; let a WebSocket handshake pass."""
        if self._tells and request.path == TAPE_PATH:
            streams = {name: stage.recording.streams for name, stage in self._stages.items()}
            return _response(200, _encode(streams))
        is_handshake = request.headers.get("Upgrade", "").lower() == "websocket"
        if is_handshake:
            self.handshakes.append(asyncio.get_running_loop().time())
        fault = self._door.ask("ws" if is_handshake else "rest")
        if fault is not None:
            return _response(fault.status, b'{"error":"on purpose"}', fault.retry_after)
        stage = self._stage(request.path)
        if is_handshake:
            crowded = stage is not None and stage.is_crowded(self.handshakes[-1])
            return _response(429, b'{"error":"too many connections"}') if crowded else None
        asked = request.path
        if request.method == "POST":
            assert isinstance(connection, PostConnection)
            asked += f"#{connection.posted}"
        key = stage.recording.venue.rest_key(asked) if stage else None
        body = stage.recording.venue.made(key) if stage and key else None
        if body is not None:
            return _response(200, body)
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
        player = Player(stage, socket, path)
        stage.joined(player)
        try:
            await player.run()
        except ConnectionClosed as e:
            log.debug("replay: %s", e)
        finally:
            stage.left(player)


def _response(status: int, body: bytes, retry_after: int | None = None) -> Response:
    headers = Headers()
    headers["Content-Type"] = "application/json"
    headers["Content-Length"] = str(len(body))
    headers["Connection"] = "close"
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    reason = HTTPStatus(status).phrase if status in _STATUSES else "Refused"
    return Response(status, reason, headers, body)


async def serve_tape(
    path: Path,
    exchange: str | None,
    host: str,
    port: int,
    speed: float | None,
    loop: bool,
    *,
    faults: Faults | None = None,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve one tape until it has been played to its end, or for ever in a loop.

    Args:
        exchange: None: found out from the tape.
        speed: None is as fast as taken.
        faults: What is broken on purpose.
        stop: Ends it early.
        on_ready: Is told the URL, and whose tape it is, once clients may connect.

    Raises:
        ConfigError: No such tape, the port is taken, or a fault concerns nothing on the tape.
    """
    recordings = load(path, exchange)
    async with FakeExchange(
        recordings, speed=speed, loop=loop, host=host, port=port, faults=faults
    ) as fake:
        if on_ready is not None:
            on_ready(", ".join(f"{name}={fake.url}" for name in recordings))
        await until(stop or asyncio.Event(), fake.ended())
