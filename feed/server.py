"""Runs the web process: uvicorn with our WebSocket protocol on a socket that we bind ourselves."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from feed import api
from feed.app import create_app
from feed.bus.base import Bus
from feed.channel import Channel
from feed.config import Settings
from feed.drain import Schedule
from feed.entrance import Entrance
from feed.errors import CloseCode, ConfigError
from feed.gateway import Client, Gateway
from feed.http import FeedHttpProtocol
from feed.relay import now_us
from feed.wire import FeedProtocol

log = logging.getLogger("feed.server")

_BACKLOG = 4_096
_GC_OBJECTS = 10_000
_SNDBUF = 131_072
_NOTSENT_LOWAT = 16_384
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; without it the kernel hides 3.9 MB of lag
_GRACE_S = 5
_TICK_S = 0.05
#: What comes after the window: for the last ones to empty, then for the last echoes.
_LATE_S = 1.0
_WHY = "the server restarts"


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 takes a free one.

    Raises:
        ConfigError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # IPPROTO_TCP spelt out: asyncio sets TCP_NODELAY only on sockets that say so.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Whatever is accepted inherits these: three system calls less for each connection.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SNDBUF)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)
    try:
        sock.bind((host, port))
        sock.listen(_BACKLOG)  # now, so that a port in use is known now
    except OSError as e:
        sock.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {e.strerror or e}") from e
    return sock


def adopt(fd: int) -> socket.socket:
    """Return a socket that a parent has made for us: it listens, or is a worker's channel."""
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


class Server(uvicorn.Server):
    """uvicorn's server, which lets its clients go one by one before it ends.

    The first signal begins that, a second one ends it.

    Args:
        is_shared: The listening socket is somebody else's too: stop accepting at once, so that the
            others get who comes. Else it stays open to the end, for who asks after our health.
        channel: Clients come over it too.
    """

    def __init__(
        self, config: uvicorn.Config, gateway: Gateway, is_shared: bool, channel: Channel | None
    ) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._is_shared = is_shared
        self._channel = channel
        self._coming: set[asyncio.Task[object]] = set()
        self._is_hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not `should_exit`: a worker whose parent is gone knows it before the signal comes.
        self._is_hurried = bool(self._captured_signals)
        self._captured_signals.append(sig)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._channel is not None:
            state = self.config.app.state  # type: ignore[union-attr]
            state.scrape = self._channel.scrape
            self._channel.open(self._take, self._report, state.meter.read, self._abandon)

    def _take(self, client: socket.socket) -> None:
        """Serve a client that another process has accepted."""
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        coming = loop.create_task(loop.connect_accepted_socket(self._protocol, client))
        self._coming.add(coming)
        coming.add_done_callback(self._coming.discard)

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _report(self) -> tuple[int | None, bool]:
        connections = None if self._coming else len(self.server_state.connections)
        return connections, not api.unready(self._gateway)

    def _abandon(self) -> None:
        log.error("the server is gone, and so are we")
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._is_shared:
            for server in self.servers:
                server.close()
            for sock in sockets or []:
                sock.close()
        await self._drain(self._gateway.settings.drain_s)
        if self._channel is not None:
            self._channel.close()
        await super().shutdown(sockets)

    async def _drain(self, window_s: float) -> None:
        """Close every client in its turn, once what waits for it has left."""
        gateway = self._gateway
        started = asyncio.get_running_loop().time()
        gateway.door.shut_until = started + window_s
        # Who is behind goes first: it needs the time.
        clients = sorted(gateway.clients, key=lambda client: not client.outbox.blocked)
        if clients:
            log.info("letting %d clients go within %g s", len(clients), window_s)
        schedule = Schedule(len(clients), window_s)
        leaving: dict[Client, int] = {}
        due = 0
        while due < len(clients) or leaving:
            elapsed_s = asyncio.get_running_loop().time() - started
            if elapsed_s >= window_s + min(_LATE_S, window_s) or self._is_hurried:
                break
            before, due = due, schedule.due(elapsed_s)
            leaving |= {clients[i]: i for i in range(before, due)}
            gateway.hub.flush(now_us())
            for client, i in list(leaving.items()):
                if client.leave(schedule.retry_after_ms(i)):
                    del leaving[client]
            await asyncio.sleep(_TICK_S)
        gateway.hub.flush(now_us())
        for i, client in enumerate(list(gateway.clients)):
            client.close(CloseCode.RESTARTING, _WHY, schedule.retry_late_ms(i))
        await self._let_go(min(_LATE_S, window_s))

    async def _let_go(self, patience_s: float) -> None:
        """Wait for the clients' echoes; then end by a reset what does not take our last bytes."""
        loop = asyncio.get_running_loop()
        end = loop.time() + patience_s
        state = self.server_state
        while loop.time() < end and not self._is_hurried:
            if not state.tasks and not any(isinstance(c, FeedProtocol) for c in state.connections):
                break
            await asyncio.sleep(_TICK_S)
        await asyncio.sleep(_TICK_S)  # uvloop writes at the end of a turn
        for connection in list(state.connections):
            if connection.transport.get_write_buffer_size():
                connection.transport.abort()


def server(
    settings: Settings, bus: Bus, is_shared: bool = False, channel: Channel | None = None
) -> Server:
    """Return a server for the application, set up as the product needs it."""
    app = create_app(settings, bus)
    gateway: Gateway = app.state.gateway
    # A class of its own, because uvicorn hands its protocols nothing of ours.
    ours = {"stuck_after_s": settings.stuck_after_s, "entrance": Entrance(gateway)}
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=type("Http", (FeedHttpProtocol,), ours),
        ws=FeedProtocol,  # made by our HTTP protocol; uvicorn only has to know that there is one
        ws_max_size=settings.message_max_bytes,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return Server(config, gateway, is_shared, channel)


async def serve(settings: Settings, bus: Bus, sock: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    await run(server(settings, bus), [sock])


async def run(running: uvicorn.Server, socks: list[socket.socket]) -> None:
    """Serve until told to end: by a signal, or ``should_exit``.

    Args:
        socks: Listening ones; none where clients come over a channel.
    """
    # What start-up made lives for ever: keep the collector from walking it again and again.
    gc.collect()
    gc.freeze()
    # A client is some 70 objects that stay: at the default of 700 a storm of connects spends a
    # sixth of its time walking those it has just let in, and stops for 100 ms at once.
    gc.set_threshold(_GC_OBJECTS)
    await running.serve(sockets=socks)
