"""Server-Sent Events: the same outbox, written as an HTTP body.

One exact topic: each event's ``id:`` is ``topic@seq``. Several: every heartbeat that finds nothing
waiting is an event whose ``id:`` lists where each topic stands. A client that comes back sends the
last ``id:`` and goes on from there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping

from feed.encoding import Encoding, Opcode
from feed.errors import CloseCode
from feed.gateway import Gateway
from feed.websocket import Connection

_SEQ = re.compile(rb'"topic":"([^"]+)","seq":(\d+)')


def _same(json: bytes) -> bytes:
    return json


class EventStream(Encoding):
    """Bodies as SSE events; with ``numbered``, entries carry their position as ``id:``."""

    joins = False  # an event has one `id:`

    def __init__(self, numbered: bool) -> None:
        super().__init__("sse-numbered" if numbered else "sse", Opcode.TEXT, _same, b",".join)
        self.frame = self._numbered if numbered else self._plain

    @staticmethod
    def _plain(body: bytes) -> bytes:
        return b"data: " + _one_line(body) + b"\n\n"

    @staticmethod
    def _numbered(body: bytes) -> bytes:
        found = _SEQ.search(body, 0, 200)
        if found is None:
            return EventStream._plain(body)
        return b"id: %s@%s\ndata: %s\n\n" % (found[1], found[2], _one_line(body))


def _one_line(json: bytes) -> bytes:
    """Take line breaks out, which in JSON are only white space; here they would end the event."""
    if b"\n" in json or b"\r" in json:
        return json.replace(b"\n", b" ").replace(b"\r", b" ")
    return json


_ONE = EventStream(numbered=True)
_SEVERAL = EventStream(numbered=False)


class PulledSocket:
    """A socket of a server without our wire class: one piece at a time, when it is asked for.

    The outbox is blocked while a piece is on its way, so the server's own flow control is ours.

    Attributes:
        written: Bytes given to it so far.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self._pieces: list[bytes] = []
        self._ready = asyncio.Event()
        self._ended: tuple[CloseCode, str] | None = None
        self.written = 0
        self._sent = 0

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self.written += len(data)
        self._ready.set()
        if self.connection is not None:
            self.connection.paused()

    def ping(self) -> None:
        """The server below has its own keepalive."""

    def close(self, code: CloseCode, reason: str) -> None:
        if self._ended is None:
            self._ended = (code, reason)
        self._ready.set()

    def abort(self) -> None:
        self.close(CloseCode.GOING_AWAY, "")

    def unsent(self) -> int:
        return self.written - self._sent

    def acknowledged(self) -> int:
        return self._sent

    @property
    def ended(self) -> tuple[CloseCode, str] | None:
        """Code and reason, once we have closed it."""
        return self._ended

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield what is to be sent, until the socket is closed."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            pieces, self._pieces = self._pieces, []
            for piece in pieces:
                yield piece
                self._sent += len(piece)
            if self._ended is not None and not self._pieces:
                return
            if self.connection is not None and not self._pieces:
                self.connection.resumed()


class StreamConnection(Connection):
    """A connection that is an HTTP response."""

    transport = "sse"

    __slots__ = ()

    def heartbeat(self, now: int, now_s: float) -> None:
        """Number the heartbeat where nothing waits: all that was published has been sent."""
        encoding = self.outbox.encoding
        self._gateway.hub.hand_out()
        if encoding is _ONE or self.outbox.is_waiting:
            self.outbox.heartbeat(now)
            return
        given = self.positions()
        where = b",".join(
            b"%s@%d" % (state.name.encode(), seq)
            for state, seq in given.items()
            if state.kind != "status"
        )
        json = b'{"type":"heartbeat","time":%d,"lag_us":0,"queued":0}' % now
        self.outbox.say(b"id: %s\ndata: %s\n\n" % (where, json))


async def event_stream(
    gateway: Gateway, query: Mapping[str, str], event_id: str
) -> AsyncIterator[bytes]:
    """Yield the body of ``/v1/stream``.

    Args:
        event_id: The client's ``Last-Event-ID``; empty where it comes for the first time.
    """
    topics = query.get("topics", "").split(",")
    encoding = _ONE if len(topics) == 1 and "*" not in topics[0] else _SEVERAL
    socket = PulledSocket()
    now_s = asyncio.get_running_loop().time()
    connection = StreamConnection(gateway, socket, encoding, now_s)
    socket.connection = connection
    try:
        connection.welcome()
        connection.open(query, event_id)
        async for piece in socket.pieces():
            yield piece
    finally:
        connection.lost()
