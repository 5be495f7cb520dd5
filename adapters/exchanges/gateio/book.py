"""Gate's order books, every update proven to follow. Pure.

Each update names the first and the last of the book's changes in it: a hole is a lost frame. The
book begins with a ``full`` update (always so of ``obu``), or with a REST snapshot to which the
updates that came meanwhile are joined (``order_book_update`` as long as it sent no full ones).
Both channels tell the best levels alone, also which ones enter and leave them: measured on the
recorded sessions, a side never has more.

Source: Gate's WebSocket v4 documentation, "How to maintain local order book" and "Order Book V2".
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from adapters.base import Fetch, Output
from adapters.book import Book, DepthPacer
from adapters.channels import BookStream
from feed.models import Level

#: Updates held for a snapshot, a minute of them; older ones are forgotten, which the join notices.
MAX_HELD = 600


class Change(NamedTuple):
    """An update, read and checked.

    Attributes:
        first, last: Of the changes in it.
        ts: µs, as ``recv``; ``clock`` is the connection's exchange time when it came.
    """

    first: int
    last: int
    is_full: bool
    bids: list[Level]
    asks: list[Level]
    ts: int
    recv: int
    clock: int


class Answer(NamedTuple):
    """A REST snapshot and the last change in it."""

    last: int
    book: Book
    recv: int


class GateBook:
    """One symbol's book.

    Args:
        book: The stream and what it feeds.
        pacer: The connection's.
        fetch: How to ask for the REST snapshot; None: the stream begins with a full update.
    """

    def __init__(self, book: BookStream, pacer: DepthPacer, fetch: Fetch | None) -> None:
        self.stream = book.stream
        self.feed = book.feed
        self._book = book
        self._pacer = pacer
        self._fetch = fetch
        #: The last change in the book.
        self._last = 0
        self._held: deque[Change] = deque(maxlen=MAX_HELD)
        self._is_asking = False
        self._answer: Answer | None = None

    def take(self, change: Change) -> list[Output]:
        """Apply, or hold, one update."""
        feed = self.feed
        if change.is_full:
            if not self._book.start(change.bids, change.asks) or feed.book.is_crossed:
                return self._lost("snapshot", change)
            self._last = change.last
            self._forget()
            return feed.restart(change.ts, change.recv)
        if not feed.is_live:
            return self._lost("snapshot", change)
        if change.last <= self._last:  # had it
            return []
        if change.first != self._last + 1:
            return self._lost("sequence", change)
        return self._apply(change)

    def fetched(self, answer: Answer) -> list[Output]:
        """Take the snapshot."""
        self._is_asking = False
        if self.feed.is_live:
            return []
        self._answer = answer
        return self._join()

    def fetch_failed(self) -> list[Output]:
        """Ask again, if the snapshot is still wanted."""
        self._is_asking = False
        return [] if self.feed.is_live else self._ask()

    def restart(self, recv: int) -> list[Output]:
        """Give the book up, as it is subscribed afresh."""
        if self._fetch is None:
            return []  # the full update that follows replaces it
        self._forget()
        return [*self.feed.broken("resync", recv), *self._ask()]

    def _apply(self, change: Change) -> list[Output]:
        events = self.feed.delta(
            change.bids, change.asks, change.ts, change.recv, clock=change.clock
        )
        self._last = change.last
        return self._lost("crossed", change) if self.feed.book.is_crossed else events

    def _lost(self, reason: str, change: Change) -> list[Output]:
        """Give the book up, and hold the update for the next one."""
        if self._fetch is None:
            return self._book.lost(reason, change.recv)
        out = self.feed.broken(reason, change.recv)
        if out:
            self._forget()
        if not change.is_full:
            self._held.append(change)
        return out + (self._ask() if self._answer is None else self._join())

    def _forget(self) -> None:
        self._held.clear()
        self._answer = None

    def _ask(self) -> list[Output]:
        self._answer = None
        if self._is_asking or self._fetch is None:
            return []
        self._is_asking = True
        return [self._fetch]

    def _join(self) -> list[Output]:
        """Start the book from the snapshot and what was held, once they meet."""
        answer, held = self._answer, self._held
        assert answer is not None
        while held and held[0].last < answer.last:
            held.popleft()
        if not held:
            return []  # no update reaches the snapshot yet
        if held[0].first > answer.last + 1 or answer.book.is_crossed:
            return self._ask()
        waiting = list(held)
        self._forget()
        self._last = answer.last
        self.feed.book = answer.book
        out = self.feed.restart(None, answer.recv, clock=waiting[0].clock)
        if waiting[0].last > answer.last:  # it may begin before the snapshot: sizes are absolute
            out += self._apply(waiting[0])
        for change in waiting[1:]:
            out += self.take(change)
        return [*out, *self._pacer.advance(self._pacer.now)]
