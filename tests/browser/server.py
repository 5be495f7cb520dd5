"""A server whose every word a test says itself: it serves our modules and hands sockets over."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

STATIC = Path(__file__).resolve().parents[2] / "feed" / "static"
EMPTY_PAGE = b"<!doctype html><title>empty</title><link rel=icon href=data:,>"
WITHIN_S = 20


class Line:
    """The server's end of one connection."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def welcome(self, heartbeat_s: float = 30) -> None:
        await self.say(type="welcome", version="1", time=0, heartbeat_s=heartbeat_s, bus="live")

    async def say(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def say_batch(self, *items: dict[str, Any]) -> None:
        await self.connection.send(json.dumps(items))

    async def hear(self) -> dict[str, Any]:
        """Return the next command.

        Raises:
            TimeoutError: None came.
        """
        async with asyncio.timeout(WITHIN_S):
            command: dict[str, Any] = json.loads(await self.connection.recv())
            return command


class Scripted:
    """What the fixture yields: where it listens, and each connection as it comes."""

    def __init__(self) -> None:
        self.url = ""
        self._lines: asyncio.Queue[Line] = asyncio.Queue()

    async def line(self) -> Line:
        """Return the next connection.

        Raises:
            TimeoutError: None came.
        """
        async with asyncio.timeout(WITHIN_S):
            return await self._lines.get()

    @property
    def waiting(self) -> int:
        """How many connections came that no test has taken."""
        return self._lines.qsize()

    async def accept(self, connection: ServerConnection) -> None:
        self._lines.put_nowait(Line(connection))
        await connection.wait_closed()


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    server = Scripted()
    async with serve(
        server.accept,
        "127.0.0.1",
        0,
        process_request=_static,
        subprotocols=["feed.v1.json"],  # type: ignore[list-item]
        close_timeout=1,
    ) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        server.url = f"http://127.0.0.1:{port}"
        yield server


def _static(_connection: ServerConnection, request: Request) -> Response | None:
    """Answer what is not the WebSocket: an empty page and our modules."""
    module = STATIC / request.path.lstrip("/")
    if module.parent == STATIC and module.suffix == ".js" and module.is_file():
        return _answer("text/javascript", module.read_bytes())
    if request.path == "/":
        return _answer("text/html", EMPTY_PAGE)
    return None


def _answer(kind: str, body: bytes) -> Response:
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body))})
    return Response(HTTPStatus.OK, "OK", headers, body)
