"""HTX's incremental books: changes joined to a refresh that is asked for on the same socket. Pure.

Source: huobiapi.github.io, spot, "Market By Price (incremental update)". Each update names the one
before it, and the refresh the update that it is as late as; it lags the updates by a second or two,
so those that came meanwhile are held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from adapters.base import Output
from adapters.book import Book, BookFeed
from adapters.channels import RESUBSCRIBE_US
from feed.models import Level

#: Updates held for a refresh, at 100 ms each: a minute of them.
MAX_HELD = 600
#: After a refresh that was older than what is held the next one is asked for so much later, µs.
REFRESH_US = 1_000_000


class Change(NamedTuple):
    """An update, read and checked; ``clock`` is the connection's time when it came."""

    seq: int
    after: int
    bids: list[Level]
    asks: list[Level]
    ts: int
    recv: int
    clock: int


class Answer(NamedTuple):
    """A refresh: the book as of its last update."""

    seq: int
    book: Book


class MbpBook:
    """One symbol's book.

    Args:
        feed: Where the events come from.
        ask: Returns how to ask for a refresh; the first one is asked for when the connection opens.
        afresh: Returns how to subscribe afresh, which asks for a refresh as well.
    """

    def __init__(
        self,
        feed: BookFeed,
        ask: Callable[[], Sequence[Output]],
        afresh: Callable[[], Sequence[Output]],
    ) -> None:
        self.feed = feed
        self._ask = ask
        self._afresh = afresh
        #: The last update in the book.
        self._last = 0
        self._held: deque[Change] = deque(maxlen=MAX_HELD)
        self._answer: Answer | None = None
        self._is_asking = True
        #: When to ask again; None before the first update.
        self._due: int | None = None

    def take(self, change: Change) -> list[Output]:
        """Apply or hold an update."""
        feed = self.feed
        if not feed.is_live:
            self._held.append(change)
            return self._join(change.recv)
        if change.seq <= self._last:  # had it
            return []
        if change.after != self._last:
            out = self._break("sequence", change.recv)
            self._held.append(change)
            return out
        return self._apply(change)

    def refresh(self, answer: Answer, recv: int) -> list[Output]:
        """Take a refresh; one that nobody waits for is left aside."""
        if self.feed.is_live or answer.book.is_crossed:
            return []
        self._answer = answer
        return self._join(recv)

    def _apply(self, change: Change) -> list[Output]:
        events = self.feed.delta(
            change.bids, change.asks, change.ts, change.recv, clock=change.clock
        )
        self._last = change.seq
        return self._break("crossed", change.recv) if self.feed.book.is_crossed else events

    def _break(self, reason: str, recv: int) -> list[Output]:
        self._held.clear()
        self._answer = None
        self._is_asking = True
        self._due = recv + RESUBSCRIBE_US
        return [*self.feed.broken(reason, recv), *self._afresh()]

    def _join(self, recv: int) -> list[Output]:
        """Start the book from the refresh and what was held, once one follows the other."""
        answer, held = self._answer, self._held
        if answer is not None:
            while held and held[0].seq <= answer.seq:
                held.popleft()
            if held and held[0].after == answer.seq:
                return self._start(answer)
            if held:  # it is older than what is held
                self._answer = None
                self._is_asking = False
                self._due = recv + REFRESH_US
        if self._due is None:
            self._due = recv + RESUBSCRIBE_US
        if self._answer is not None or recv < self._due:
            return []
        self._due = recv + RESUBSCRIBE_US
        if self._is_asking:  # it has not come
            return [*self._afresh()]
        self._is_asking = True
        return [*self._ask()]

    def _start(self, answer: Answer) -> list[Output]:
        held = list(self._held)
        self._held.clear()
        self._answer = None
        self._last = answer.seq
        self.feed.book = answer.book
        # The refresh has the time of its making, which is later than what it shows.
        out = self.feed.restart(held[0].ts, held[0].recv, clock=held[0].clock)
        for change in held:
            out += self.take(change)
        return out
