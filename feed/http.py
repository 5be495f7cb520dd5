"""I/O shell: uvicorn's HTTP protocol class with a door, and the two deadlines that it lacks.

A request whose head and body do not arrive in time, and a response (a stream of events) that the
client stops taking, both hold a socket for ever under stock uvicorn.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from feed.admission import Door, Refusal
from feed.wire import unacknowledged

_encode = msgspec.json.Encoder().encode
_REQUEST_S = 10.0


def _answer(refusal: Refusal) -> bytes:
    body = _encode({"error": {"code": refusal.code, "message": refusal.message}})
    return (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
        b"retry-after: %d\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
    ) % (refusal.retry_after_s, len(body), body)


class FeedHttpProtocol(HttpToolsProtocol):
    """One HTTP connection.

    Attributes:
        door: Who may open a WebSocket. Asked before anything is done for the client: a refusal
            here costs a quarter of one by the application.
        stuck_after_s: A response of which nothing moved for so long is ended by a reset.
    """

    door: Door | None = None
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
        self._got_request()  # from here the WebSocket protocol has its own deadline
        # Below here it is taken for a request of HTTP/1.1 that has them (RFC 6455, 4.2.1).
        has_host = any(name == b"host" for name, _ in self.headers)
        if self.scope["http_version"] != "1.1" or not has_host:
            self.send_400_response("A WebSocket needs HTTP/1.1 and a Host header.")
            return
        refusal = self.door.knock(self.loop.time()) if self.door is not None else None
        if refusal is None:
            super().handle_websocket_upgrade()
        else:
            self.transport.write(_answer(refusal))
            self.transport.close()

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
