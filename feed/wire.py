"""I/O shell: a client's WebSocket. Ready frames go straight to the transport.

It begins after the handshake (``feed.http``). No task, queue or ASGI scope is made for a client; of
what comes from it, frames are parsed by the ``websockets`` library.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import logging
import termios
from typing import Any, Protocol, cast

from websockets.frames import Frame
from websockets.frames import Opcode as FrameType
from websockets.protocol import OPEN, SERVER
from websockets.protocol import Protocol as Frames

from feed.encoding import Opcode, frame
from feed.errors import CloseCode

# The library's own, which is never let below WARNING: at DEBUG it would tell what clients say.
_log = logging.getLogger("websockets.server")
_HIGH, _LOW = 65_536, 16_384
_MAX_FRAGMENTS = 64
_MAX_CONTROLS_PER_S = 50
_CLOSE_S = 5.0


class Receiver(Protocol):
    """Who a socket tells what comes."""

    def received(self, data: bytes, is_text: bool) -> None: ...

    def paused(self) -> None: ...

    def resumed(self) -> None: ...

    def ponged(self) -> None: ...

    def lost(self) -> None: ...


class FeedProtocol(asyncio.Protocol):
    """One client's socket, once its handshake has been answered.

    Args:
        connections: Those that uvicorn shuts down when it ends; it keeps itself among them.
        max_size: Bytes of a message.

    Attributes:
        receiver: Who is told what comes; None once nobody is to be.
        written: Bytes handed to the transport so far.
    """

    __slots__ = (
        "_conn",
        "_connections",
        "_controls",
        "_controls_since",
        "_deadline",
        "_fragments",
        "_is_close_sent",
        "_is_paused",
        "_is_text",
        "_loop",
        "_owed_pong",
        "receiver",
        "transport",
        "written",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        connections: set[Any],
        max_size: int,
    ) -> None:
        self.transport = transport
        self.receiver: Receiver | None = None
        self.written = 0
        self._loop = loop
        self._connections = connections
        self._conn = Frames(SERVER, max_size=max_size, logger=_log)
        self._fragments: list[bytes] = []
        self._is_text = False
        self._is_close_sent = False
        self._is_paused = False
        self._owed_pong = b""
        self._controls = 0
        self._controls_since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(high=_HIGH, low=_LOW)
        transport.set_protocol(self)
        connections.add(self)

    # What the transport and uvicorn call.

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._stop_clock()
        self._tell_lost()
        self._conn.parser.close()  # a generator of its method: they would wait for the collector

    def data_received(self, data: bytes) -> None:
        conn = self._conn
        conn.receive_data(data)
        for event in conn.events_received():
            if self.transport.is_closing():
                return
            assert isinstance(event, Frame)
            self._handle_frame(event)
        if conn.parser_exc is not None and not self.transport.is_closing():
            self.transport.write(b"".join(conn.data_to_send()))
            self._is_close_sent = True
            self._close_transport()

    def _handle_frame(self, event: Frame) -> None:
        match event.opcode:
            case FrameType.TEXT | FrameType.BINARY:
                self._is_text = event.opcode is FrameType.TEXT
                if event.fin:
                    self._receive(bytes(event.data))
                else:
                    self._fragments = [bytes(event.data)]
            case FrameType.CONT:
                self._handle_fragment(event)
            case FrameType.CLOSE:
                self._handle_close()
            case _ if self._is_flooded():
                self._end(CloseCode.RATE_LIMITED, "too many pings")
            case FrameType.PING:
                self._handle_ping()
            case FrameType.PONG:
                if self.receiver is not None:
                    self.receiver.ponged()

    def _is_flooded(self) -> bool:
        """Count one control frame; whether there are too many of them."""
        now = self._loop.time()
        if now - self._controls_since >= 1.0:
            self._controls_since, self._controls = now, 0
        self._controls += 1
        return self._controls > _MAX_CONTROLS_PER_S

    def _handle_fragment(self, event: Frame) -> None:
        if len(self._fragments) >= _MAX_FRAGMENTS:
            self.abort()
            return
        self._fragments.append(bytes(event.data))
        if event.fin:
            fragments, self._fragments = self._fragments, []
            self._receive(b"".join(fragments))

    def _receive(self, data: bytes) -> None:
        if self._is_close_sent or self.receiver is None:
            return
        if self._is_text and not _is_utf8(data):
            self._end(CloseCode.INVALID_UTF8, "text that is not UTF-8")
        else:
            self.receiver.received(data, self._is_text)

    def _handle_ping(self) -> None:
        pongs = self._conn.data_to_send()  # to all pings of one read, at the first of them
        if not pongs:
            return
        if self._is_paused:
            # It asks and does not read, as a client does whose library pings while the program is
            # busy. Pongs would pile up; the answer to the last ping is enough (RFC 6455, 5.5.3).
            self._owed_pong = pongs[-1]
        else:
            self.write(b"".join(pongs))

    def _handle_close(self) -> None:
        if not self._is_close_sent:
            self.transport.write(b"".join(self._conn.data_to_send()))
        self._close_transport()

    def pause_writing(self) -> None:
        self._is_paused = True
        if self.receiver is not None:
            self.receiver.paused()

    def resume_writing(self) -> None:
        self._is_paused = False
        pong, self._owed_pong = self._owed_pong, b""
        if pong:
            self.write(pong)
        if self.receiver is not None:
            self.receiver.resumed()

    def shutdown(self) -> None:
        """End it because the server ends."""
        self._end(CloseCode.RESTARTING, "")

    def _end(self, code: CloseCode, reason: str) -> None:
        """Close without hearing the client any further."""
        self.close(code, reason)
        self._close_transport()

    def _close_transport(self) -> None:
        """Close once our last bytes are taken; by a reset if they are not taken in time."""
        self._tell_lost()
        self.transport.close()
        self._start_clock()

    def _tell_lost(self) -> None:
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.lost()

    def _start_clock(self) -> None:
        self._stop_clock()
        self._deadline = self._loop.call_later(_CLOSE_S, self.abort)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # What the receiver calls.

    def write(self, data: bytes) -> None:
        """Send ready frames; dropped when the socket is closing."""
        if not (self._is_close_sent or self.transport.is_closing()):
            self.written += len(data)
            self.transport.write(data)

    def ping(self) -> None:
        """Ask for a pong."""
        self.write(frame(Opcode.PING, b""))

    def close(self, code: CloseCode, reason: str) -> None:
        """Close with ``code``; by a reset if the client does not take it in time."""
        if self._is_close_sent or self.transport.is_closing():
            return
        if self._conn.state is OPEN:
            self._conn.send_close(int(code), reason)
            self.transport.write(b"".join(self._conn.data_to_send()))
        self._is_close_sent = True
        self._start_clock()

    def abort(self) -> None:
        """End the connection at once, without a closing handshake."""
        self.transport.abort()

    def unsent(self) -> int:
        """Return how many bytes the transport still holds."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    def acknowledged(self) -> int:
        """Return how many written bytes the peer's kernel has confirmed."""
        return self.written - unacknowledged(self.transport)


def unacknowledged(transport: asyncio.Transport) -> int:
    """Return how many written bytes the transport and the kernel's send queue still hold."""
    if transport.is_closing():
        return 0
    in_kernel = array.array("i", [0])
    sock = transport.get_extra_info("socket")
    if sock is not None:
        fcntl.ioctl(cast(int, sock.fileno()), termios.TIOCOUTQ, in_kernel)
    return transport.get_write_buffer_size() + in_kernel[0]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
