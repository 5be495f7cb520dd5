"""I/O shell: uvicorn's HTTP protocol class with our own way into a WebSocket, and the two deadlines
that it lacks.

A request whose head and body do not arrive in time, and a response (a stream of events) that the
client stops taking, both hold a socket for ever under stock uvicorn.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from feed import handshake
from feed.admission import Caller, Guest, Refusal
from feed.wire import FeedProtocol, Receiver, unacknowledged

_REQUEST_S = 10.0


class Entrance(Protocol):
    """Who decides about WebSockets."""

    def knock(self, now_s: float) -> Refusal | None:
        """Return why a client is refused before anything is done for it, if so."""

    def admit(self, path: str, caller: Caller) -> Guest | Refusal:
        """Return how a client is served, or why not."""

    def enter(self, socket: FeedProtocol, guest: Guest, now_s: float, head: bytes) -> Receiver:
        """Write ``head``, the answer to the handshake, before anything else; serve the client."""


class FeedHttpProtocol(HttpToolsProtocol):
    """One HTTP connection.

    Attributes:
        entrance: How a WebSocket is opened. Without an ASGI scope, a task or a coroutine: they and
            a second parsing of the request were most of what a connect cost.
        stuck_after_s: A response of which nothing moved for so long is ended by a reset.
    """

    entrance: Entrance
    stuck_after_s = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request_timer: asyncio.TimerHandle | None = None
        self._stuck_timer: asyncio.TimerHandle | None = None
        self._outstanding = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._got_request()
        self._moves()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_request()

    def on_message_complete(self) -> None:
        self._got_request()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._got_request()
        if self.cycle is not None and not self.cycle.response_complete:
            # Behind a request that is still being answered: two would write into one socket, and
            # the answer would never hear that it is gone.
            self.transport.abort()
            return
        now_s = self.loop.time()
        answer = self._answer(now_s)
        if isinstance(answer, Refusal):
            self.transport.write(handshake.refused(answer))
            self.transport.close()
            return
        key, guest = answer
        self.connections.discard(self)
        self.parser = None  # type: ignore[assignment]  # it holds us: a cycle
        connections, max_size = self.connections, self.config.ws_max_size
        socket = FeedProtocol(self.loop, self.transport, connections, max_size)
        head = handshake.accepted(key, guest.subprotocol)
        socket.receiver = self.entrance.enter(socket, guest, now_s, head)

    def _answer(self, now_s: float) -> tuple[bytes, Guest] | Refusal:
        """Return the key to answer to and how the client is served, or why it may not come in."""
        refusal = self.entrance.knock(now_s)
        if refusal is not None:
            return refusal
        method = self.scope["method"].encode()
        asked = handshake.read(method, self.url, self.scope["http_version"], self.headers)
        if isinstance(asked, Refusal):
            return asked
        guest = self.entrance.admit(asked.path, asked.caller)
        return guest if isinstance(guest, Refusal) else (asked.key, guest)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        self._moves()
        super().resume_writing()

    def _expect_request(self) -> None:
        if self._request_timer is None:
            self._request_timer = self.loop.call_later(_REQUEST_S, self.transport.abort)

    def _got_request(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _watch(self) -> None:
        """While paused nothing is added, so what is outstanding can only shrink."""
        self._outstanding = unacknowledged(self.transport)
        self._stuck_timer = self.loop.call_later(self.stuck_after_s, self._judge)

    def _moves(self) -> None:
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
            self._stuck_timer = None

    def _judge(self) -> None:
        self._stuck_timer = None
        if unacknowledged(self.transport) < self._outstanding:
            self._watch()
        else:
            self.transport.abort()
