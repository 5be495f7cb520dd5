"""The composition root of the web process: settings and a bus in, an ASGI application out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feed import api
from feed.bus.base import Bus
from feed.config import Settings
from feed.gateway import Gateway
from feed.metrics import Meter

_STATIC = Path(__file__).parent / "static"
_SECURITY = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class BrowserHeaders:
    """Keeps a browser from running what is not ours, and from showing what is old.

    Without ``no-cache`` a browser mixes modules of two versions after an upgrade; with it, it asks
    first and the ETag answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                if not any(name == b"cache-control" for name, _ in given):
                    given.append((b"cache-control", b"no-cache"))
                message["headers"] = [*given, *_SECURITY]
            await send(message)

        await self._app(scope, receive, send_with)


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    code = "not_found" if exc.status_code == 404 else "bad_request"
    return api.error(exc.status_code, code, exc.detail)


def create_app(settings: Settings, bus: Bus) -> Starlette:
    """Return the application; the bus is started with it and closed after it."""
    gateway = Gateway(settings, bus)
    meter = Meter(gateway)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await gateway.start()
        measuring = asyncio.create_task(meter.watch())
        try:
            yield
        finally:
            measuring.cancel()
            await gateway.close()
            await bus.close()

    handlers: dict[type[Exception] | int, Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: _http_error
    }
    app = Starlette(
        routes=[*api.ROUTES, Mount("/", StaticFiles(directory=_STATIC, html=True))],
        lifespan=lifespan,
        middleware=[Middleware(BrowserHeaders)],
        exception_handlers=handlers,
    )
    app.state.gateway = gateway
    app.state.meter = meter
    app.state.scrape = meter.scrape
    return app
