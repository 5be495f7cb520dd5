"""I/O shell: our uvicorn WebSocket protocol class. Ready frames go straight to the transport.

uvicorn documents none of its class as API; the contract we rely on is tested in ``test_wire``.
After the handshake the application hands the socket over (``hand_over``) and its coroutine ends:
no task, queue or scope stays behind for an idle client.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import termios
from asyncio.transports import BaseTransport
from typing import Any, Protocol, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.frames import Opcode as FrameType
from websockets.http11 import Request
from websockets.protocol import OPEN

from feed.encoding import Opcode, frame
from feed.errors import CloseCode

#: Name under ``scope["extensions"]``; its value has the protocol under ``socket``.
EXTENSION = "feed.frames"

_HIGH, _LOW = 65_536, 16_384
_SNDBUF = 131_072
_NOTSENT_LOWAT = 16_384
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; without it the kernel hides 3.9 MB of lag
_MAX_FRAGMENTS = 64
_MAX_CONTROLS_PER_S = 50
_HANDSHAKE_S = 10.0
_CLOSE_S = 5.0
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Receiver(Protocol):
    """Who a socket is handed over to."""

    def received(self, data: bytes, is_text: bool) -> None: ...

    def paused(self) -> None: ...

    def resumed(self) -> None: ...

    def ponged(self) -> None: ...

    def lost(self) -> None: ...


class _Nobody:
    """Stands in for uvicorn's queue and event of a socket that was handed over: nobody waits."""

    def put_nowait(self, message: object) -> None: ...

    def set(self) -> None: ...

    def clear(self) -> None: ...


_NOBODY = _Nobody()


class FeedProtocol(WebSocketsSansIOProtocol):
    """One client's socket.

    Attributes:
        written: Bytes handed to the transport so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.receiver: Receiver | None = None
        self.written = 0
        self._is_paused = False
        self._owed_pong = b""
        self._controls = 0
        self._controls_since = 0.0
        self._deadline = self.loop.call_later(_HANDSHAKE_S, self.abort)

    # What uvicorn and the transport call.

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=_HIGH, low=_LOW)
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SNDBUF)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.lost()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # Too many headers, a body: uvicorn makes no event of it and would hold the socket.
            self.handshake_initiated = self.handshake_complete = self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
            self._close_transport()

    def handle_events(self) -> None:
        for event in self.conn.events_received():
            if self.transport.is_closing():
                return
            if isinstance(event, Request):
                self.handle_connect(event)
            elif isinstance(event, Frame):
                self._handle_frame(event)

    def _handle_frame(self, event: Frame) -> None:
        match event.opcode:
            case FrameType.TEXT:
                self.handle_text(event)
            case FrameType.BINARY:
                self.handle_bytes(event)
            case FrameType.CONT:
                self.handle_cont(event)
            case FrameType.CLOSE:
                self.handle_close(event)
            case _ if self._is_flooded():
                self._end(CloseCode.RATE_LIMITED, "too many pings")
            case FrameType.PING:
                self.handle_ping()
            case FrameType.PONG:
                self.handle_pong(event)

    def _is_flooded(self) -> bool:
        """Count one control frame; whether there are too many of them."""
        now = self.loop.time()
        if now - self._controls_since >= 1.0:
            self._controls_since, self._controls = now, 0
        self._controls += 1
        return self._controls > _MAX_CONTROLS_PER_S

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._close_transport()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._close_transport()

    def _end(self, code: CloseCode, reason: str) -> None:
        """Close without hearing the client any further."""
        self.close(code, reason)
        self._close_transport()

    def _close_transport(self) -> None:
        """Close once our last bytes are taken; by a reset if they are not taken in time."""
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.lost()
        self.transport.close()
        self._deadline.cancel()
        self._deadline = self.loop.call_later(_CLOSE_S, self.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_paused = True
        if self.receiver is not None:
            self.receiver.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_paused = False
        pong, self._owed_pong = self._owed_pong, b""
        if pong:
            self.write(pong)
        if self.receiver is not None:
            self.receiver.resumed()

    async def run_asgi(self) -> None:
        self.scope["extensions"][EXTENSION] = {"socket": self}
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:  # the task's outer edge
            self.logger.exception("the WebSocket application failed")
            self.send_500_response()
            self._close_transport()
        else:
            if self.receiver is None and self.close_timer is None and not self.disconnected:
                self._close_transport()

    def send_receive_event_to_app(self) -> None:
        if self.receiver is None or self.close_sent:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        is_text = self.curr_msg_data_type == "text"
        if is_text and not _is_utf8(data):
            self._end(CloseCode.INVALID_UTF8, "text that is not UTF-8")
            return
        self.receiver.received(data, is_text)

    def handle_ping(self) -> None:
        pongs = self.conn.data_to_send()  # to all pings of one read, at the first of them
        if not pongs:
            return
        if self._is_paused:
            # It asks and does not read, as a client does whose library pings while the program is
            # busy. Pongs would pile up; the answer to the last ping is enough (RFC 6455, 5.5.3).
            self._owed_pong = pongs[-1]
        else:
            self.write(b"".join(pongs))

    def handle_pong(self, event: Frame) -> None:
        if self.receiver is not None:
            self.receiver.ponged()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MAX_FRAGMENTS:
            self.abort()
        else:
            super().handle_cont(event)

    def shutdown(self) -> None:
        super().shutdown()
        self._close_transport()

    # What the receiver calls.

    def hand_over(self, receiver: Receiver) -> None:
        """Let ``receiver`` have the accepted socket; the ASGI coroutine may return after it."""
        self._deadline.cancel()
        self.receiver = receiver
        # Once the application has returned: the client may be gone, or have spoken too early.
        self.loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        receiver = self.receiver
        if receiver is None:
            return
        if self.disconnected:  # nobody else would say so
            self.receiver = None
            receiver.lost()
            return
        early = self.queue
        self._forget_handshake()
        while not early.empty() and self.receiver is not None:
            message: dict[str, Any] = dict(early.get_nowait())
            if message["type"] == "websocket.receive":
                text = message.get("text")
                data = text.encode() if text is not None else message["bytes"]
                receiver.received(data, text is not None)
        if self.read_paused:
            self.read_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _forget_handshake(self) -> None:
        """Drop what only the handshake and the application needed: 10 KiB a connection."""
        self.scope = cast(Any, {})
        # The parser's frame keeps the request for as long as the connection lives.
        self.request.headers.clear()
        del self.request, self.response
        self.queue = cast(Any, _NOBODY)
        self.writable = cast(Any, _NOBODY)

    def write(self, data: bytes) -> None:
        """Send ready frames; dropped when the socket is closing."""
        if not (self.close_sent or self.disconnected or self.transport.is_closing()):
            self.written += len(data)
            self.transport.write(data)

    def ping(self) -> None:
        """Ask for a pong."""
        self.write(frame(Opcode.PING, b""))

    def close(self, code: CloseCode, reason: str) -> None:
        """Close with ``code``; by a reset if the client does not take it in time."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        if self.conn.state is OPEN:
            self.conn.send_close(int(code), reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(_CLOSE_S, self.abort)

    def abort(self) -> None:
        """End the connection at once, without a closing handshake."""
        self.disconnected = True
        if self.transport is not None:
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
