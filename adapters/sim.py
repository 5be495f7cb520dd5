"""The ``sim`` exchange: made-up events at a fixed rate, the load source of every bench.

``Market`` is pure: a seeded random walk whose prices are whole ticks, written out as decimal text.
The shell is open loop: what is due by the clock is made, many events a turn. When it cannot keep
up it says how late it is; it never leaves anything out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random

from adapters.publisher import Publisher
from adapters.registry import SIM
from adapters.selection import check_kinds
from adapters.tasks import now_us
from feed.models import (
    Book,
    Catalogue,
    Depth,
    Derivative,
    Event,
    Instrument,
    Level,
    Liquidation,
    Quote,
    Ticker,
    Trade,
)

log = logging.getLogger(__name__)

TICK_S = 0.005
#: Made between two looks at the loop; bounds how long others wait for it.
AT_ONCE = 256
LATE_S = 0.25
SAY_LATE_EVERY_S = 5.0
BOOK_LEVELS = 50
CHECKPOINT_EVERY = 400
_TICKS = 100  # a unit of quote currency


def _price(ticks: int) -> str:
    return f"{ticks // _TICKS}.{ticks % _TICKS:02d}"


class _Symbol:
    """One instrument's random walk."""

    def __init__(self, name: str, rng: Random) -> None:
        self.topics = {kind: f"{kind}.{SIM}.{name}" for kind in _MAKERS}
        self.rng = rng
        self.mid = rng.randrange(1_000 * _TICKS, 90_000 * _TICKS)
        self.start = self.high = self.low = self.mid
        self.trades = 0
        self.book_events = 0
        self.bids: dict[int, str] = {}
        self.asks: dict[int, str] = {}

    def walk(self) -> int:
        self.mid = max(2 * BOOK_LEVELS, self.mid + self.rng.choice((-2, -1, 0, 1, 2)))
        self.high, self.low = max(self.high, self.mid), min(self.low, self.mid)
        return self.mid

    def size(self) -> str:
        return f"{self.rng.randrange(1, 50_000) / 10_000:.4f}"

    def trade(self, now: int) -> Trade:
        self.trades += 1
        side = self.rng.choice(("buy", "sell"))
        price = _price(self.walk() + (1 if side == "buy" else -1))
        number = f"{1_000_000_000 + self.trades}"
        return Trade(
            self.topics["trade"], 0, now, now, 0, number, price, self.size(),
            "buy" if side == "buy" else "sell",
        )  # fmt: skip

    def quote(self, now: int) -> Quote:
        mid = self.walk()
        return Quote(
            self.topics["quote"], 0, now, now, 0,
            _price(mid - 1), self.size(), _price(mid + 1), self.size(),
        )  # fmt: skip

    def depth(self, now: int) -> Depth:
        mid = self.walk()
        bids = [(_price(mid - i), self.size()) for i in range(1, 21)]
        asks = [(_price(mid + i), self.size()) for i in range(1, 21)]
        return Depth(self.topics["depth"], 0, now, now, 0, bids, asks)

    def book(self, now: int) -> Book:
        """Move the window with the price and change one level of each side."""
        mid = self.walk()
        bids = self._shift(self.bids, range(mid - 1, mid - 1 - BOOK_LEVELS, -1))
        asks = self._shift(self.asks, range(mid + 1, mid + 1 + BOOK_LEVELS))
        snapshot = self.book_events == 0
        self.book_events += 1
        return Book(self.topics["book"], 0, now, now, 0, bids, asks, snapshot)

    def _shift(self, side: dict[int, str], window: range) -> list[Level]:
        changed: list[Level] = []
        for ticks in [ticks for ticks in side if ticks not in window]:
            del side[ticks]
            changed.append((_price(ticks), "0"))
        touched = self.rng.choice(window)
        for ticks in window:
            if ticks == touched or ticks not in side:
                side[ticks] = self.size()
                changed.append((_price(ticks), side[ticks]))
        return changed

    def window(self) -> Book:
        bids = [(_price(ticks), size) for ticks, size in sorted(self.bids.items(), reverse=True)]
        asks = [(_price(ticks), size) for ticks, size in sorted(self.asks.items())]
        return Book(self.topics["book"], 0, None, 0, 0, bids, asks, True)

    def ticker(self, now: int) -> Ticker:
        mid = self.walk()
        return Ticker(
            self.topics["ticker"], 0, now, now, 0,
            _price(mid), _price(self.start), _price(self.high), _price(self.low),
            self.size(), None, _price(mid - 1), _price(mid + 1),
        )  # fmt: skip

    def derivative(self, now: int) -> Derivative:
        mid = self.walk()
        return Derivative(
            self.topics["derivative"], 0, now, now, 0,
            _price(mid), _price(mid + 1), "0.0001", now - now % 28_800_000_000 + 28_800_000_000,
            self.size(),
        )  # fmt: skip

    def liquidation(self, now: int) -> Liquidation:
        price, size = _price(self.walk()), self.size()
        return Liquidation(
            self.topics["liquidation"], 0, now, now, 0, None, price, size, "sell"
        )  # fmt: skip


_MAKERS: dict[str, Callable[[_Symbol, int], Event]] = {
    "trade": _Symbol.trade,
    "quote": _Symbol.quote,
    "depth": _Symbol.depth,
    "book": _Symbol.book,
    "ticker": _Symbol.ticker,
    "derivative": _Symbol.derivative,
    "liquidation": _Symbol.liquidation,
}


class Market:
    """Makes events, round robin over symbols, and of each symbol over its kinds. Pure.

    Args:
        symbols: How many: ``SIM000-USD`` and on.
        kinds: Of each.

    Raises:
        ConfigError: An unknown kind.
    """

    def __init__(self, symbols: int, kinds: Sequence[str], seed: int = 0) -> None:
        check_kinds(kinds)
        self.kinds = tuple(dict.fromkeys(kinds))
        rng = Random(seed)
        self.names = [f"SIM{number:03d}-USD" for number in range(symbols)]
        self._symbols = [_Symbol(name, rng) for name in self.names]
        self._made = 0

    def next(self, now: int) -> tuple[Event, Book | None]:
        """Return the next event, and the book's checkpoint where one is due."""
        turn, at = divmod(self._made, len(self._symbols))
        self._made += 1
        symbol = self._symbols[at]
        kind = self.kinds[turn % len(self.kinds)]
        event = _MAKERS[kind](symbol, now)
        if kind == "book" and symbol.book_events % CHECKPOINT_EVERY == 1:
            return event, symbol.window()
        return event, None

    def catalogue(self, now: int) -> Catalogue:
        return Catalogue(
            exchange=SIM,
            source="sim",
            banner=None,
            updated=now,
            instruments=tuple(
                Instrument(
                    exchange=SIM,
                    symbol=name,
                    native=name.replace("-", ""),
                    type="spot",
                    base=name.partition("-")[0],
                    quote="USD",
                    price_step="0.01",
                    size_step="0.0001",
                    topics=tuple(f"{kind}.{SIM}.{name}" for kind in (*self.kinds, "status")),
                    book_levels=BOOK_LEVELS if "book" in self.kinds else None,
                )
                for name in self.names
            ),
            topics=(f"status.{SIM}.ALL",),
        )


class Simulator:
    """Feeds a publisher from a market, ``rate`` events a second in all.

    Attributes:
        made: Events so far.
        late_s: How far behind the schedule the last turn began.
    """

    def __init__(self, market: Market, rate: float) -> None:
        self.made = 0
        self.late_s = 0.0
        self._market = market
        self._rate = rate

    async def run(self, publisher: Publisher, events: int | None = None) -> None:
        """Make events for ever, or so many; the schedule starts now and never shifts."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        said_at = started
        while events is None or self.made < events:
            elapsed = loop.time() - started
            due = int(elapsed * self._rate)
            if events is not None:
                due = min(due, events)
            self.late_s = elapsed - self.made / self._rate
            if self.late_s > LATE_S and loop.time() - said_at >= SAY_LATE_EVERY_S:
                said_at = loop.time()
                log.warning("sim is %.2f s behind its schedule", self.late_s)
            while self.made < due:
                self._make(publisher, min(AT_ONCE, due - self.made))
                if publisher.is_full:
                    await publisher.drain()
                elif self.made < due:
                    await asyncio.sleep(0)
            await asyncio.sleep(TICK_S)

    def _make(self, publisher: Publisher, count: int) -> None:
        now = now_us()
        for _ in range(count):
            event, checkpoint = self._market.next(now)
            publisher.put(event, now)
            if checkpoint is not None:
                publisher.checkpoint(checkpoint, now)
        self.made += count
