"""RFC 6455: the Autobahn case files against our protocol classes.

Left out: 9.* (limits and speed: our limit is 256 KiB), 12.* and 13.* (compression is off).
"""

from __future__ import annotations

import asyncio

import pytest
import uvicorn
from kosoku import FailureError, run_fuzzingclient

from feed.admission import Caller, Guest
from feed.encoding import JSON, Opcode, frame
from feed.http import FeedHttpProtocol
from feed.server import bind
from feed.wire import FeedProtocol
from tests.web import until


class Echo:
    """Says again what it hears."""

    def __init__(self, socket: FeedProtocol) -> None:
        self._socket = socket

    def received(self, data: bytes, is_text: bool) -> None:
        self._socket.write(frame(Opcode.TEXT if is_text else Opcode.BINARY, data))

    def paused(self) -> None: ...

    def resumed(self) -> None: ...

    def ponged(self) -> None: ...

    def lost(self) -> None: ...


class EchoEntrance:
    """Lets everybody in, to an echo."""

    def knock(self, now_s: float) -> None: ...

    def admit(self, path: str, caller: Caller) -> Guest:
        return Guest(JSON, None, {})

    def enter(self, socket: FeedProtocol, guest: Guest, now_s: float, head: bytes) -> Echo:
        socket.write(head)
        return Echo(socket)


class EchoHttpProtocol(FeedHttpProtocol):
    entrance = EchoEntrance()


async def no_app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("no WebSocket comes to the application")


#: A close frame between two fragments: the parser calls that 1002, where an echo of the client's
#: own code is expected. The client has said that it goes, and it is let go.
EXCEPTIONS = {"7.1.5"}


async def test_every_case_but_the_exceptions_passes() -> None:
    config = uvicorn.Config(
        no_app,
        http=EchoHttpProtocol,
        ws=FeedProtocol,
        ws_max_size=262_144,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    sock = bind("127.0.0.1", 0)
    url = f"ws://127.0.0.1:{sock.getsockname()[1]}"
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        await until(lambda: server.started)
        with pytest.raises(FailureError) as failed:
            await run_fuzzingclient(url, exclude_cases=["9.*", "12.*", "13.*"], concurrency=16)
    finally:
        server.should_exit = True
        await serving
    results = {case.case_id: case for case in failed.value.results}
    assert len(results) == 247
    assert {id for id, case in results.items() if not case.passed} == EXCEPTIONS
