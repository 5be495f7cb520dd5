"""I/O shell: what all clients of one web process share, and its clocks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from feed.admission import Door
from feed.bus.base import Bus
from feed.config import Settings
from feed.errors import CloseCode
from feed.hub import Hub
from feed.outbox import Outbox
from feed.pace import SLICE, Pace
from feed.relay import Relay, now_us

log = logging.getLogger("feed.gateway")

_WHEEL = 50  # heartbeats are spread over so many slices of their period
_SWEEP_S = 1.0
_TOGETHER_S = 0.001  # a timer's grain: who is due so soon is served now


class Client(Protocol):
    """A connection as the gateway sees it."""

    outbox: Outbox
    transport: str

    @property
    def written(self) -> int: ...

    def heartbeat(self, now: int, now_s: float) -> None: ...

    def check_progress(self, now_s: float) -> None: ...

    def listed(self, topics: list[str]) -> None: ...

    def health(self, is_live: bool, since: int) -> None: ...

    def leave(self, retry_after_ms: int) -> bool: ...

    def close(self, code: CloseCode, reason: str, retry_after_ms: int | None = None) -> None: ...


class Gateway:
    """Owns the hub and the relay, and every client's clock.

    Attributes:
        clients: Everybody connected, and with whom each has its heartbeats.
        door: Who may connect.
        entered: Clients that came so far.
        evicted: Clients ended because nothing moved.
        left_written, left_dropped: Bytes that clients who have left were given, and entries that
            were given up for them.
        said_plain: It has been logged that the ASGI server is not ours.
    """

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self.settings = settings
        self.hub = Hub(self._wake, self._wake_beats)
        self.relay = Relay(bus, self.hub, settings.linger_s, settings.retention)
        self.relay.on_topics = self._listed
        self.relay.on_link = self._link
        self.bus_since = now_us()
        self.clients: dict[Client, dict[Client, None]] = {}
        self.door = Door(self.clients, settings.max_clients, settings.connects_per_s)
        self.entered = 0
        self.evicted = 0
        self.left_written = 0
        self.left_dropped = 0
        self.said_plain = False
        self._slices: list[dict[Client, None]] = [{} for _ in range(_WHEEL)]
        self._next_slice = 0
        self._pace = Pace(settings.patience_max_ms / 1000)
        self._is_flush_due = False
        self._beat_timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect to the bus.

        Raises:
            BusError: It cannot be reached.
        """
        self._loop = asyncio.get_running_loop()
        await self.relay.start()
        self._tasks = [
            self._loop.create_task(self._every(self.settings.heartbeat_s / _WHEEL, self._turn)),
            self._loop.create_task(self._every(_SWEEP_S, self._sweep)),
        ]

    async def close(self) -> None:
        """End every task."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        await self.relay.close()

    # Clients.

    def enter(self, client: Client) -> None:
        """Count a client in; its heartbeats are spread against the others'."""
        slice = self.clients[client] = min(self._slices, key=len)
        slice[client] = None
        self.entered += 1

    def leave(self, client: Client) -> None:
        """Forget a client."""
        slice = self.clients.pop(client, None)
        if slice is not None:
            del slice[client]
            self.left_written += client.written
            self.left_dropped += client.outbox.dropped

    def _listed(self, topics: list[str]) -> None:
        for client in list(self.clients):
            client.listed(topics)

    def _link(self, is_live: bool, since: int) -> None:
        self.bus_since = since
        for client in list(self.clients):
            client.health(is_live, since)

    # Clocks.

    def _wake(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Serve those who have waited long enough, and come back for the others."""
        now = time.monotonic()
        self._pace.look(now, time.thread_time())
        self.hub.flush(now_us(), now - self._pace.patience_s + _TOGETHER_S, SLICE)
        since = self.hub.waits_since()
        if since is None:
            self._is_flush_due = False
        elif (wait := since + self._pace.patience_s - time.monotonic()) <= 0:
            self._loop.call_soon(self._flush)
        else:
            self._loop.call_later(wait, self._flush)

    def _wake_beats(self) -> None:
        due = self.hub.next_beat()
        if due is None:
            return
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        wait = max(0.0, (due - self._beat_clock()) / 1e6)
        self._beat_timer = self._loop.call_later(wait, self._beat)

    def _beat(self) -> None:
        self._beat_timer = None
        self.hub.beat(self._beat_clock())
        self._wake_beats()

    def _beat_clock(self) -> int:
        """Return µs of a clock that nobody sets: a corrected wall clock must not stop the beats."""
        return int(self._loop.time() * 1e6)

    async def _every(self, period_s: float, work: Callable[[], None]) -> None:
        """Run ``work`` on a steady beat; a late one is not made up for."""
        due = self._loop.time()
        while True:
            due = max(due + period_s, self._loop.time())
            await asyncio.sleep(due - self._loop.time())
            try:
                work()
            except Exception:  # the task's outer edge: the next round has other clients
                log.exception("a round of the clients failed")

    def _turn(self) -> None:
        """Give one slice of the clients their heartbeat."""
        self._next_slice = (self._next_slice + 1) % _WHEEL
        now, now_s = now_us(), self._loop.time()
        for client in list(self._slices[self._next_slice]):
            client.heartbeat(now, now_s)

    def _sweep(self) -> None:
        """Look at every client that is behind."""
        now_s = self._loop.time()
        for client in [client for client in self.clients if client.outbox.blocked]:
            client.check_progress(now_s)
