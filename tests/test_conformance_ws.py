"""RFC 6455: the Autobahn case files against our protocol class, through the hand-over that we use.

Left out: 9.* (limits and speed: our limit is 256 KiB), 12.* and 13.* (compression is off).
"""

from __future__ import annotations

import asyncio

import pytest
import uvicorn
from kosoku import FailureError, run_fuzzingclient
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from feed.encoding import Opcode, frame
from feed.server import bind
from feed.wire import EXTENSION, FeedProtocol
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


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    socket = websocket.scope["extensions"][EXTENSION]["socket"]
    socket.hand_over(Echo(socket))


#: A close frame between two fragments: the parser calls that 1002, where an echo of the client's
#: own code is expected. The client has said that it goes, and it is let go.
EXCEPTIONS = {"7.1.5"}


async def test_every_case_but_the_exceptions_passes() -> None:
    config = uvicorn.Config(
        Starlette(routes=[WebSocketRoute("/{rest:path}", echo)]),
        ws=FeedProtocol,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
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
