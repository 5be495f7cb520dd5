"""Bitstamp's books: whole ones, and those of changes joined to a REST snapshot. Pure.

Source: bitstamp.net/websocket/v2. Neither has a number: a whole book needs none, as the next one
makes good what was lost; of the other it is only known that times grow, and that it never crosses.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from adapters.base import Fetch, Output
from adapters.book import Book, BookFeed, DepthPacer
from adapters.exchanges.bitstamp.frames import Levels, micros
from adapters.text import decimal, levels
from feed.models import Level

#: Changes held for a snapshot.
MAX_HELD = 2_000


class Change(NamedTuple):
    """What has changed in a book, or over REST the book, read and checked."""

    ts: int
    bids: list[Level]
    asks: list[Level]
    recv: int

    @classmethod
    def of(cls, told: Levels, recv: int) -> Change:
        """Check a message.

        Raises:
            ValueError: A price, a size or the time is none.
        """
        return cls(micros(told.microtimestamp), levels(told.bids), levels(told.asks), recv)


#: The levels of one side as they were told, price -> size.
_Told = dict[str, str]


def _side(pairs: list[Level]) -> _Told:
    """Return a side's levels; ValueError where two have one price, or one has no number."""
    if len({float(price) for price, _ in pairs}) != len(pairs):
        raise ValueError("two levels have one price")
    return dict(pairs)


def _changes(old: _Told, new: _Told) -> list[Level]:
    """Return what makes one side the other, what is gone first; what stays was checked before."""
    gone = [(decimal(price), "0") for price in old if price not in new]
    return gone + levels(pair for pair in new.items() if old.get(pair[0]) != pair[1])


class WholeBook:
    """A book that each message tells whole: the best 100 levels a side."""

    def __init__(self, feed: BookFeed) -> None:
        self.feed = feed
        self._ts = 0
        self._told: tuple[_Told, _Told] = ({}, {})

    def take(self, ts: int, told: Levels, recv: int) -> list[Output]:
        """Make the book what was told, and tell what that changes.

        Raises:
            ValueError: Not a book; nothing has changed.
        """
        feed = self.feed
        if ts < self._ts:  # overtaken by a later one
            return []
        bids, asks = _side(told.bids), _side(told.asks)
        if not feed.is_live:
            book = Book(feed.book.levels)
            book.replace(levels(bids.items()), levels(asks.items()))
            self._ts, self._told = ts, (bids, asks)
            if book.is_crossed:
                return []
            feed.book = book
            return feed.restart(ts, recv)
        changes = _changes(self._told[0], bids), _changes(self._told[1], asks)
        self._ts, self._told = ts, (bids, asks)
        events = feed.delta(*changes, ts, recv)
        return feed.broken("crossed", recv) if feed.book.is_crossed else events

    def resync(self, recv: int) -> list[Output]:
        """Do nothing: the next message has it all."""
        return []


class DiffBook:
    """A book of changes. A snapshot has all of them up to its own time.

    Args:
        path: Of the REST snapshot.

    Attributes:
        since: An exchange time from which on every change comes; None before the first one, unless
            another channel of the connection told it.
    """

    def __init__(self, native: str, feed: BookFeed, pacer: DepthPacer, path: str) -> None:
        self.feed = feed
        self._pacer = pacer
        self._fetch = Fetch(path, f"depth:{native}")
        #: The time of the last change in the book.
        self._last = 0
        self.since: int | None = None
        #: Changes since a snapshot was asked for, and the connection's time at each; None: none is
        #: wanted.
        self._held: deque[tuple[Change, int]] | None = None
        self._is_asking = False

    def take(self, change: Change) -> list[Output]:
        """Apply or hold a change."""
        if self.since is None:
            self.since = change.ts
        if self.feed.is_live:
            return self._apply(change, None)
        out = [*self._pacer.advance(change.ts)]
        if self._held is None:
            out += self._ask()
        assert self._held is not None
        if len(self._held) == MAX_HELD:  # the oldest makes room
            self.since = self._held[1][0].ts
        self._held.append((change, self._pacer.now))
        return out

    def fetched(self, snapshot: Change) -> list[Output]:
        """Take a snapshot, and the changes held that are later; one that is too old is asked again.

        Raises:
            ValueError: Two levels have one price.
        """
        book = Book(self.feed.book.levels)
        book.replace(snapshot.bids, snapshot.asks)
        self._is_asking = False
        held = self._held
        if held is None:
            return []
        if not held or self.since is None or self.since > snapshot.ts or book.is_crossed:
            return self._ask()  # what came between the two is not known
        self._held = None
        self._last = snapshot.ts
        self.feed.book = book
        out = self.feed.restart(snapshot.ts, snapshot.recv, clock=held[0][1])
        for change, clock in held:
            out += self._apply(change, clock) if self.feed.is_live else self.take(change)
        return [*out, *self._pacer.advance(self._pacer.now)]

    def fetch_failed(self) -> list[Output]:
        """Ask again, if the snapshot is still wanted."""
        self._is_asking = False
        return [] if self._held is None else self._ask()

    def resync(self, recv: int) -> list[Output]:
        """Give the book up and ask for a snapshot."""
        return self._give_up("resync", recv)

    def _apply(self, change: Change, clock: int | None) -> list[Output]:
        if change.ts <= self._last:  # had it
            return []
        self._last = change.ts
        events = self.feed.delta(change.bids, change.asks, change.ts, change.recv, clock=clock)
        return self._give_up("crossed", change.recv) if self.feed.book.is_crossed else events

    def _give_up(self, reason: str, recv: int) -> list[Output]:
        self._held = self.since = None
        return [*self.feed.broken(reason, recv), *self._ask()]

    def _ask(self) -> list[Output]:
        if self._held is None:
            self._held = deque(maxlen=MAX_HELD)
        if self._is_asking:
            return []
        self._is_asking = True
        return [self._fetch]
