"""I/O shell: our uvicorn WebSocket protocol class. Ready frames go straight to the transport.

uvicorn documents none of its class as API; the contract we rely on is tested in ``test_wire``.
After the handshake the application hands the socket over (``hand_over``) and its coroutine ends:
no task, queue or scope stays behind for an idle client.
"""

from __future__ import annotations

import array
import fcntl
import socket
import termios
from asyncio.transports import BaseTransport
from typing import Any, Protocol, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
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
_HANDSHAKE_S = 10.0
_CLOSE_S = 5.0


class Receiver(Protocol):
    """Who a socket is handed over to."""

    def received(self, data: bytes, is_text: bool) -> None: ...

    def paused(self) -> None: ...

    def resumed(self) -> None: ...

    def ponged(self) -> None: ...

    def lost(self) -> None: ...


class FeedProtocol(WebSocketsSansIOProtocol):
    """One client's socket.

    Attributes:
        written: Bytes handed to the transport so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.receiver: Receiver | None = None
        self.written = 0
        self._deadline = self.loop.call_later(_HANDSHAKE_S, self._too_late)

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

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.receiver is not None:
            self.receiver.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
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
            self.transport.close()
        else:
            if self.receiver is None and self.close_timer is None:
                self.transport.close()

    def send_receive_event_to_app(self) -> None:
        if self.receiver is None or self.close_sent:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        is_text = self.curr_msg_data_type == "text"
        if is_text and not _is_utf8(data):
            self.close(CloseCode.INVALID_UTF8, "text that is not UTF-8")
            return
        self.receiver.received(data, is_text)

    def handle_ping(self) -> None:
        if self.unsent() > _HIGH:  # a ping flood of a client that does not read its pongs
            self.abort()
        else:
            super().handle_ping()

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
        self.loop.call_later(_CLOSE_S, self.abort)

    # What the receiver calls.

    def hand_over(self, receiver: Receiver) -> None:
        """Let ``receiver`` have the accepted socket; the ASGI coroutine may return after it."""
        self._deadline.cancel()
        self.receiver = receiver
        # Measured: 9 KiB a connection that nobody asks for again.
        self.scope["headers"] = []
        del self.request, self.response

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
        self.transport.abort()

    def unsent(self) -> int:
        """Return how many bytes the transport still holds."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    def acknowledged(self) -> int:
        """Return how many written bytes the peer's kernel has confirmed."""
        sock = self.transport.get_extra_info("socket")
        in_kernel = array.array("i", [0])
        if sock is not None and not self.transport.is_closing():
            fcntl.ioctl(cast(int, sock.fileno()), termios.TIOCOUTQ, in_kernel)
        return self.written - self.unsent() - in_kernel[0]

    def _too_late(self) -> None:
        self.abort()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
