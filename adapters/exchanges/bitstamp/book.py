"""Bitstamp's books: whole ones, and those of changes joined to a REST snapshot. Pure.

Source: bitstamp.net/websocket/v2. Neither has a number: a whole book needs none, as the next one
makes good what was lost; of the other it is only known that times grow, and that it never crosses.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from adapters.base import Fetch, Output
from adapters.book import Book, BookFeed, DepthPacer
from feed.models import Level

#: Changes held for a snapshot.
MAX_HELD = 2_000


class Change(NamedTuple):
    """A message of a book, read and checked."""

    ts: int
    bids: list[Level]
    asks: list[Level]
    recv: int


class WholeBook:
    """A book that each message tells whole: the best 100 levels a side."""

    def __init__(self, feed: BookFeed) -> None:
        self.feed = feed
        self._ts = 0

    def take(self, told: Change) -> list[Output]:
        """Make the book what was told, and tell what that changes.

        Raises:
            ValueError: Two levels have one price; nothing has changed.
        """
        feed = self.feed
        if told.ts < self._ts:  # overtaken by a later one
            return []
        if not feed.is_live:
            book = Book(feed.book.levels)
            book.replace(told.bids, told.asks)
            self._ts = told.ts
            if book.is_crossed:
                return []
            feed.book = book
            return feed.restart(told.ts, told.recv)
        changes = feed.book.changes_to(told.bids, told.asks)
        self._ts = told.ts
        events = feed.delta(*changes, told.ts, told.recv)
        return feed.broken("crossed", told.recv) if feed.book.is_crossed else events

    def resync(self, recv: int) -> list[Output]:
        """Do nothing: the next message has it all."""
        return []


class DiffBook:
    """A book of changes. A snapshot has all of them up to its own time.

    Args:
        path: Of the REST snapshot.
    """

    def __init__(self, native: str, feed: BookFeed, pacer: DepthPacer, path: str) -> None:
        self.feed = feed
        self._pacer = pacer
        self._fetch = Fetch(path, f"depth:{native}")
        #: The time of the last change in the book.
        self._last = 0
        #: Changes since a snapshot was asked for, and the connection's time at each; None: none is
        #: wanted.
        self._held: deque[tuple[Change, int]] | None = None
        self._is_asking = False

    def take(self, change: Change) -> list[Output]:
        """Apply or hold a change."""
        if self.feed.is_live:
            return self._apply(change, None)
        out = [*self._pacer.advance(change.ts)]
        if self._held is None:
            out += self._ask()
        assert self._held is not None
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
        if not held or held[0][0].ts > snapshot.ts or book.is_crossed:
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
        self._held = None
        return [*self.feed.broken(reason, recv), *self._ask()]

    def _ask(self) -> list[Output]:
        if self._held is None:
            self._held = deque(maxlen=MAX_HELD)
        if self._is_asking:
            return []
        self._is_asking = True
        return [self._fetch]
