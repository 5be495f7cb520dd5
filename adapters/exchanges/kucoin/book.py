"""KuCoin's order books: numbered changes joined to a REST snapshot. Pure.

Source: kucoin.com/docs-new, "Orderbook - Increment" of spot and futures. Each change has a number,
consecutive in every session measured; a snapshot says up to which one it goes, and may be older
than the first change that came or newer than the last. What is emitted follows from the changes
and the snapshot alone, never from when the snapshot came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from adapters.base import Fetch, Output
from adapters.book import Book, BookFeed, DepthPacer
from adapters.exchanges.kucoin.frames import decode_snapshot, from_nanos, number
from feed.models import Level

#: Messages held for a snapshot; older ones are forgotten, which the join then notices.
MAX_HELD = 5_000
#: What a side has of a snapshot that was cut.
CUTS = frozenset({20, 100})


class Update(NamedTuple):
    """Changes of one message.

    Attributes:
        first, last: Their numbers.
        bids, asks: Price, size and number of each; price 0 is none.
        clock: The connection's exchange time when it came.
    """

    first: int
    last: int
    bids: list[tuple[str, str, int]]
    asks: list[tuple[str, str, int]]
    ts: int | None
    recv: int
    clock: int = 0


class _Answer(NamedTuple):
    last: int
    book: Book
    ts: int | None
    recv: int


def _newer(changes: Iterable[tuple[str, str, int]], than: int) -> list[Level]:
    """Return the levels changed after a number."""
    return [(price, size) for price, size, at in changes if at > than and price.strip("0.")]


class SequencedBook:
    """One symbol's book.

    Args:
        feed: Where the events come from.
        path: Of the REST snapshot.
        window: Levels a side that clients see.

    Attributes:
        feed: As given.
    """

    def __init__(
        self, native: str, feed: BookFeed, pacer: DepthPacer, path: str, window: int
    ) -> None:
        self.feed = feed
        self._pacer = pacer
        self._fetch = Fetch(path, f"depth:{native}")
        self._window = window
        self._recv = 0
        #: Number of the last change in the book.
        self._last = 0
        #: Messages since a snapshot was asked for; None when none is wanted.
        self._held: deque[Update] | None = None
        self._is_asking = False
        self._answer: _Answer | None = None

    def take(self, update: Update) -> list[Output]:
        """Apply or hold one message."""
        feed, self._recv = self.feed, update.recv
        out = [] if update.ts is None else [*self._pacer.advance(update.ts)]
        update = update._replace(clock=self._pacer.now)
        if feed.is_live:
            if update.last <= self._last:  # had it
                return out
            if update.first <= self._last + 1:
                events = self._apply(update, None)
                if feed.book.is_crossed:
                    return out + self.restart("crossed")
                out += events
                if self._held is not None:
                    self._held.append(update)
                    return out + self._refresh()
                return out + (self._ask() if feed.book.is_thin else [])
            out += self._break("sequence", update.recv)
        if self._held is None:
            out += self._ask()
        held = self._held
        assert held is not None
        if held and update.last <= held[-1].last:
            return out
        if held and update.first > held[-1].last + 1:
            held.clear()
        held.append(update)
        return out + self._join()

    def fetched(self, body: bytes, recv: int) -> list[Output]:
        """Take the snapshot.

        Raises:
            ValueError: It cannot be understood.
        """
        snapshot = decode_snapshot(body).data
        last = int(snapshot.sequence)
        ts = None if snapshot.time is None else snapshot.time * 1_000
        if snapshot.ts is not None:
            ts = from_nanos(snapshot.ts)
        bids, asks = (
            [(number(price), number(size)) for price, size in side or ()]
            for side in (snapshot.bids, snapshot.asks)
        )
        book = Book(self._window)
        book.replace(bids, asks, complete=(len(bids) not in CUTS, len(asks) not in CUTS))
        self._is_asking = False
        if self._held is None:
            return []
        self._answer = _Answer(last, book, ts, recv)
        return self._refresh() if self.feed.is_live else self._join()

    def fetch_failed(self) -> list[Output]:
        """Ask again, if the snapshot is still wanted."""
        self._is_asking = False
        return [] if self._held is None else self._ask()

    def restart(self, reason: str) -> list[Output]:
        """Give the book up and ask for a snapshot."""
        return self._break(reason, self._recv) + self._ask()

    def _apply(self, update: Update, clock: int | None) -> list[Output]:
        bids, asks = _newer(update.bids, self._last), _newer(update.asks, self._last)
        self._last = update.last
        return self.feed.delta(bids, asks, update.ts, update.recv, clock=clock)

    def _ask(self) -> list[Output]:
        if self._held is None:
            self._held = deque(maxlen=MAX_HELD)
        self._answer = None
        if self._is_asking:
            return []
        self._is_asking = True
        return [self._fetch]

    def _break(self, reason: str, recv: int) -> list[Output]:
        if not self.feed.is_live:
            return []
        self._held = self._answer = None
        return self.feed.broken(reason, recv)

    def _join(self) -> list[Output]:
        """Start the book from the snapshot and what was held, once they meet."""
        answer, held, feed = self._answer, self._held, self.feed
        if answer is None or not held or held[-1].last < answer.last:
            return []  # no change reaches the snapshot yet
        if held[0].first > answer.last + 1:
            return self._ask()
        self._held = self._answer = None
        self._last = answer.last
        feed.book = answer.book
        was_crossed = feed.book.is_crossed  # the exchange's own word, not a message gone wrong
        reaching = next(one for one in held if one.last >= answer.last)
        out = feed.restart(answer.ts, answer.recv, clock=reaching.clock)
        for one in held:
            if one.last <= self._last:
                continue
            events = self._apply(one, one.clock)
            if feed.book.is_crossed and not was_crossed:
                return out + self.restart("crossed")
            out += events
        return [*out, *self._pacer.advance(self._pacer.now)]

    def _refresh(self) -> list[Output]:
        """Put a book made of the snapshot and what was held in the place of the live one."""
        answer, held, feed = self._answer, self._held, self.feed
        if answer is None or held is None or answer.last > self._last:
            return []
        if answer.last < self._last and (not held or held[0].first > answer.last + 1):
            return self._ask()
        for one in held:
            answer.book.apply(_newer(one.bids, answer.last), _newer(one.asks, answer.last))
        if answer.book.is_crossed:
            return self._ask()
        self._held = self._answer = None
        feed.book = answer.book
        last = held[-1] if held else answer
        return feed.restart(last.ts, last.recv)
