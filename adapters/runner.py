"""I/O shell: keeps one exchange's connections up. The only thing that opens exchange sockets.

Connects within the exchange's limits, replaces what is lost (full jitter; only data counts as
success) and says what that means for the topics. One task a connection; an error that nobody
foresaw costs its connection, not the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from adapters.base import Adapter, Limits
from adapters.connection import Leaving
from adapters.pacer import Pacer
from adapters.publisher import Sink
from adapters.rest import FetchFailed, Rest, retry_after
from adapters.selection import Selection
from adapters.slot import Slot
from adapters.status import Input, StatusBoard
from adapters.tasks import now_us, together
from adapters.tenure import Tenure
from feed.backoff import delay
from feed.errors import BadPayload, ConfigError, StaleConnection
from feed.models import ExchangeStatus, SymbolStatus

log = logging.getLogger(__name__)

#: Of one exchange nothing is complained about more often.
COMPLAIN_EVERY_S = 60.0


class Counters(msgspec.Struct):
    """What one exchange's connections did since the start."""

    frames: int = 0
    events: int = 0
    bad_frames: int = 0
    reconnects: int = 0
    rotations: int = 0
    fetches: int = 0
    failed_fetches: int = 0


class Tap(Protocol):
    """Sees all that crosses the sockets; times are µs."""

    def connected(self, conn: str, url: str) -> None: ...

    def received(self, conn: str, recv: int, frame: bytes, is_text: bool) -> None: ...

    def sent(self, conn: str, at: int, frame: str) -> None: ...

    def answered(self, url: str, recv: int, body: bytes) -> None: ...


class Runner:
    """Runs the connections of one selection.

    Args:
        adapter: The exchange.
        selection: What to connect to.
        ws_url, rest_url: Where; see ``endpoints``.
        sink: Takes the events.
        board: Knows the health; ``first_index`` is the first of our connections on it.
        limits: Instead of the adapter's own.
        ends: A close with code 1000 is the end of a tape, not a loss.
        is_tape: It is a recording that is served: it may start over, and what it lacks is no
            fault. No stream is judged silent, and nothing is counted on from one connection to
            the next. None: as ``ends`` says.
        tap: Sees the raw traffic.
        clock: µs since the epoch.
    """

    def __init__(
        self,
        adapter: type[Adapter],
        selection: Selection,
        ws_url: str,
        rest_url: str,
        sink: Sink,
        board: StatusBoard,
        *,
        first_index: int = 0,
        counters: Counters | None = None,
        limits: Limits | None = None,
        ends: bool = False,
        is_tape: bool | None = None,
        tap: Tap | None = None,
        clock: Callable[[], int] = now_us,
        rng: Random | None = None,
    ) -> None:
        self.adapter = adapter
        self.name = adapter.name
        self.kinds = selection.kinds
        self.ws_url = ws_url
        self.rest_url = rest_url
        self.rest = Rest(rest_url, adapter.headers)
        self.sink = sink
        self.board = board
        self.counters = counters or Counters()
        self.limits = limits or adapter.limits
        self.ends = ends
        self.is_tape = ends if is_tape is None else is_tape
        #: A recorder wants each stream once.
        self.rotates = not self.is_tape and tap is None
        self.tap = tap
        self.clock = clock
        self.rng = rng or Random()
        #: Missed trades are fetched so many at once; a book's snapshot never waits for them.
        self.backfills = asyncio.Semaphore(2)
        self._selection = selection
        self._first_index = first_index
        self._connects = Pacer(self.limits.connects, self.limits.connects_window_s)
        self._not_before = 0.0
        self._complaints: dict[str, tuple[float, int]] = {}

    async def run(self) -> None:
        """Keep all connections; returns only when a tape has ended on each."""
        plans = zip(self._selection.plans, self._selection.carried, strict=True)
        async with self.rest:
            await together(
                *(
                    self._keep(Slot(self, plan, self._first_index + i, topics))
                    for i, (plan, topics) in enumerate(plans)
                )
            )

    async def address(self) -> str:
        """Return where connections go now.

        Raises:
            FetchFailed, BadPayload: The exchange does not tell.
        """
        return await address(self.adapter, self.ws_url, self.rest)

    def connect_in_s(self) -> float:
        """Take the next place for a connection attempt; return how long to wait for it."""
        now = asyncio.get_running_loop().time()
        return max(self._connects.reserve(now), self._not_before - now)

    def hold_off(self, error: BaseException | None) -> None:
        """Let no connection be tried sooner than the exchange asks for, if this is its answer.

        It is about our address, not about one connection: all wait.
        """
        if isinstance(error, InvalidStatus):
            wait_s = retry_after(error.response.headers.get("Retry-After"))
            now = asyncio.get_running_loop().time()
            self._not_before = max(self._not_before, now + wait_s)

    def tell(self, statuses: Sequence[SymbolStatus | ExchangeStatus]) -> None:
        """Publish what the board says."""
        now = self.clock()
        for status in statuses:
            self.sink.put(status, now)

    def bad_frame(self, error: BadPayload) -> None:
        """Count a frame that cannot be understood. It costs itself, not the connection."""
        self.counters.bad_frames += 1
        self.complain("frame", f"{error}: {error.frame!r}")

    def complain(self, about: str, message: str) -> None:
        """Log a warning, but about one thing at most once a minute."""
        now = asyncio.get_running_loop().time()
        said_at, unsaid = self._complaints.get(about, (-COMPLAIN_EVERY_S, 0))
        if now - said_at < COMPLAIN_EVERY_S:
            self._complaints[about] = said_at, unsaid + 1
            return
        more = f" (and {unsaid} more since the last)" if unsaid else ""
        prefix = "" if message.startswith(f"{self.name}:") else f"{self.name}: "
        log.warning("%s%s%s", prefix, message, more)
        self._complaints[about] = now, 0

    async def _keep(self, slot: Slot) -> None:
        attempt, index = 0, slot.index
        while True:
            await asyncio.sleep(self.connect_in_s())
            tenure = Tenure(self, slot)
            reason = "disconnected"
            try:
                await tenure.run()
                return
            except Leaving as e:
                log.info("%s: replacing connection %d: %s", self.name, index + 1, e)
            except (OSError, WebSocketException, StaleConnection, FetchFailed, BadPayload) as e:
                self.hold_off(e)
                level = logging.INFO if _is_announced(e) else logging.WARNING
                why = e or type(e).__name__
                log.log(level, "%s: connection %d: %s", self.name, index + 1, why)
            except Exception:  # the task's outer edge: costs the connection, never the process
                log.exception("%s: connection %d failed", self.name, index + 1)
                reason = "failed"
            if tenure.fed:
                attempt = 0
                slot.owes_gaps = True
            self._lost(slot, tenure.fed, reason)
            self.counters.reconnects += 1
            await asyncio.sleep(delay(attempt, self.rng))
            attempt += 1

    def _lost(self, slot: Slot, was_fed: bool, reason: str) -> None:
        now = self.clock()
        what = Input.LOST if was_fed else Input.UNREACHABLE
        reason = reason if was_fed else "unreachable"
        self.tell(self.board.topics(slot.topics, what, reason, now))
        self.tell(self.board.connection(slot.index, what, reason, now))


def _is_announced(error: Exception) -> bool:
    """Whether the exchange said that it goes away or restarts; that is its daily business."""
    closed = error.rcvd if isinstance(error, ConnectionClosed) else None
    return closed is not None and closed.code in (1001, 1012)


async def address(adapter: type[Adapter], ws_url: str, rest: Rest) -> str:
    """Return where connections go now: ``ws_url``, or where the exchange's door says.

    An operator's endpoint stands for whatever host the exchange tells.

    Raises:
        FetchFailed, BadPayload: The exchange does not tell.
    """
    if adapter.door_path is None:
        return ws_url
    told = adapter.address(await rest.get(adapter.door_path))
    if ws_url == adapter.ws_url:
        return told
    parts = urlsplit(told)
    return f"{ws_url}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def endpoints(adapter: type[Adapter], override: str | None) -> tuple[str, str]:
    """Return where the adapter's WebSocket and REST paths go.

    Args:
        override: ``http://host:port`` that stands for both, or None.

    Raises:
        ConfigError: Not such a URL.
    """
    if override is None:
        return adapter.ws_url, adapter.rest_url
    parts = urlsplit(override)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
        raise ConfigError(f"FEED_ENDPOINTS: {adapter.name}={override!r}: write http://host:port")
    secure = "s" if parts.scheme in ("https", "wss") else ""
    below = parts.netloc + parts.path.rstrip("/")
    return f"ws{secure}://{below}", f"http{secure}://{below}"
