"""Runs the web process: uvicorn with our WebSocket protocol on a socket that we bind ourselves."""

from __future__ import annotations

import gc
import socket

import uvicorn

from feed.app import create_app
from feed.bus.base import Bus
from feed.config import Settings
from feed.errors import ConfigError
from feed.http import FeedHttpProtocol
from feed.wire import FeedProtocol

_BACKLOG = 4_096
_GRACE_S = 5


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 takes a free one.

    Raises:
        ConfigError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # IPPROTO_TCP spelt out: asyncio sets TCP_NODELAY only on sockets that say so.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(_BACKLOG)  # now, so that a port in use is known now
    except OSError as e:
        sock.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {e.strerror or e}") from e
    return sock


def adopt(fd: int) -> socket.socket:
    """Return the listening socket that a parent has bound for us."""
    return socket.socket(fileno=fd)


def server(settings: Settings, bus: Bus) -> uvicorn.Server:
    """Return a uvicorn server for the application, set up as the product needs it."""
    config = uvicorn.Config(
        create_app(settings, bus),
        loop="uvloop",
        # A class of its own, because uvicorn hands its protocols no settings of ours.
        http=type("Http", (FeedHttpProtocol,), {"stuck_after_s": settings.stuck_after_s}),
        ws=FeedProtocol,
        ws_max_size=settings.message_max_bytes,
        ws_ping_interval=None,  # the gateway pings, and judges by progress
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return uvicorn.Server(config)


async def serve(settings: Settings, bus: Bus, sock: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    await run(server(settings, bus), sock)


async def run(running: uvicorn.Server, sock: socket.socket) -> None:
    """Serve until told to end: by a signal, or ``should_exit``."""
    # What start-up made lives for ever: keep the collector from walking it again and again.
    gc.collect()
    gc.freeze()
    await running.serve(sockets=[sock])
