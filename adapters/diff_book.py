"""An order book whose updates are joined to a REST snapshot, every one proven to follow. Pure.

Updates are held until the snapshot is there. What is emitted follows from the updates and the
snapshot alone, never from when the snapshot came.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from adapters.base import Fetch, Output
from adapters.book import Book, BookFeed, DepthPacer, Numbers
from feed.models import Level

#: Levels a side in ``book``.
WINDOW = 1_000
#: Updates held for a snapshot; older ones are forgotten, which the join then notices. As fast as it
#: can be read, a tape of a busy book has had 3,400 when the snapshot comes.
MAX_HELD = 5_000


class Update(NamedTuple):
    """Changed levels.

    Attributes:
        first, last: Ids of the first and the last change in it.
        previous: Id of the last change before it, where the exchange says so.
        ts: µs.
        numbers: Bids and asks as numbers.
    """

    first: int
    last: int
    previous: int | None
    bids: Sequence[Level]
    asks: Sequence[Level]
    ts: int
    numbers: tuple[Numbers, Numbers]


class Snapshot(NamedTuple):
    """A REST book.

    Attributes:
        id: Of the last change in it.
        cuts: So many levels a side mean that there are more.
        ts: µs; None where it has no time.
    """

    id: int
    bids: Sequence[Level]
    asks: Sequence[Level]
    cuts: frozenset[int]
    ts: int | None


class Held(NamedTuple):
    """An update that waits: the frame, which is far smaller than what was decoded from it."""

    first: int
    last: int
    previous: int | None
    frame: bytes
    recv: int
    clock: int


class _Answer(NamedTuple):
    id: int
    book: Book
    ts: int | None
    recv: int


class DiffBook(ABC):
    """One symbol's book. Here each update begins with the id after the last; see ``follows``.

    Args:
        native: The exchange's symbol.
        feed: Where the events come from.
        path: Of the REST snapshot; its key is ``depth:<native>``.

    Attributes:
        native, feed: As given.
    """

    def __init__(self, native: str, feed: BookFeed, pacer: DepthPacer, path: str) -> None:
        self.native = native
        self.feed = feed
        self._pacer = pacer
        self._fetch = Fetch(path, f"depth:{native}")
        self._recv = 0
        #: Id of the last change in the book.
        self._last = 0
        #: Updates since a snapshot was asked for; None when none is wanted.
        self._held: deque[Held] | None = None
        self._is_asking = False
        self._answer: _Answer | None = None

    @abstractmethod
    def read(self, frame: bytes) -> Update:
        """Read one update.

        Raises:
            ValueError: It cannot be understood.
        """

    @abstractmethod
    def read_snapshot(self, body: bytes) -> Snapshot:
        """Read the snapshot.

        Raises:
            ValueError: It cannot be understood.
        """

    def follows(self, update: Update | Held, last: int) -> bool:
        """Whether nothing is missing between an update and the id before it."""
        return update.first == last + 1

    def joins(self, first: Held, snapshot: int) -> bool:
        """Whether nothing is missing between a snapshot and the first update that reaches it."""
        return first.first <= snapshot + 1

    def take(self, frame: bytes, recv: int) -> Sequence[Output]:
        """Apply or hold one update.

        Raises:
            ValueError: It cannot be understood; nothing has changed.
        """
        update = self.read(frame)
        feed, ts = self.feed, update.ts
        self._recv = recv
        if feed.is_live and update.last <= self._last:  # had it
            return self._pacer.advance(ts)
        if feed.is_live and self.follows(update, self._last):
            self._last = update.last
            out = [*self._pacer.advance(ts)]
            events = feed.delta(update.bids, update.asks, ts, recv, numbers=update.numbers)
            if feed.book.is_crossed:
                return [*out, *self._break("crossed", recv), *self._ask()]
            out += events
            if self._held is not None:
                self._hold(update, frame, recv)
                out += self._refresh()
            elif feed.book.is_thin:
                out += self._ask()
            return out
        out = [*self._pacer.advance(ts), *self._break("sequence", recv)]
        if self._held is None:
            out += self._ask()
        self._hold(update, frame, recv)
        return out + self._join()

    def fetched(self, body: bytes, recv: int) -> Sequence[Output]:
        """Take the snapshot.

        Raises:
            ValueError: It cannot be understood.
        """
        snapshot = self.read_snapshot(body)
        sides = snapshot.bids, snapshot.asks
        bids, asks = (len(side) < WINDOW and len(side) not in snapshot.cuts for side in sides)
        book = Book(WINDOW)
        book.replace(*sides, complete=(bids, asks))
        self._is_asking = False
        if self._held is None:
            return ()
        self._answer = _Answer(snapshot.id, book, snapshot.ts, recv)
        return self._refresh() if self.feed.is_live else self._join()

    def fetch_failed(self) -> Sequence[Output]:
        """Ask again, if the snapshot is still wanted."""
        self._is_asking = False
        return () if self._held is None else self._ask()

    def restart(self, reason: str) -> list[Output]:
        """Give the book up and ask for a snapshot."""
        return self._break(reason, self._recv) + self._ask()

    def _hold(self, update: Update, frame: bytes, recv: int) -> None:
        assert self._held is not None
        clock = self._pacer.now
        self._held.append(Held(update.first, update.last, update.previous, frame, recv, clock))

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

    def _forget_until(self, answer: _Answer) -> None:
        held = self._held
        while held and held[0].last < answer.id:
            held.popleft()

    def _join(self) -> list[Output]:
        """Start the book from the snapshot and what was held, once they meet."""
        answer = self._answer
        if answer is None or self._held is None:
            return []
        self._forget_until(answer)
        if not self._held:
            return []  # no update reaches the snapshot yet
        if not self.joins(self._held[0], answer.id):
            return self._ask()
        held, feed = self._held, self.feed
        self._held = self._answer = None
        self._last = answer.id
        feed.book = answer.book
        was_crossed = feed.book.is_crossed  # the exchange's own word, not a frame gone wrong
        out = feed.restart(answer.ts, answer.recv, clock=held[0].clock)
        is_first = True
        while held:
            one = held[0]
            if one.last > self._last:
                if not is_first and not self.follows(one, self._last):
                    out += self._break("sequence", one.recv)
                    out += self._ask()
                    self._held = held
                    break
                self._last = one.last
                update = self.read(one.frame)
                events = feed.delta(
                    update.bids,
                    update.asks,
                    update.ts,
                    one.recv,
                    numbers=update.numbers,
                    clock=one.clock,
                )
                if feed.book.is_crossed and not was_crossed:
                    out += self._break("crossed", one.recv)
                    out += self._ask()
                    self._held = held
                    break
                out += events
            is_first = False
            held.popleft()
        out += self._pacer.advance(self._pacer.now)
        return out

    def _refresh(self) -> list[Output]:
        """Put a book made of the snapshot and what was held in the place of the live one."""
        answer = self._answer
        if answer is None or self._held is None:
            return []
        self._forget_until(answer)
        if self._held:
            if not self.joins(self._held[0], answer.id):
                return self._ask()
        elif answer.id != self._last:
            return [] if answer.id > self._last else self._ask()
        ts, recv = answer.ts, answer.recv
        for one in self._held:
            update = self.read(one.frame)
            ts, recv = update.ts, one.recv
            if one.last > answer.id:
                answer.book.apply(update.bids, update.asks, update.numbers)
        if answer.book.is_crossed:
            return self._ask()
        self._held = self._answer = None
        self.feed.book = answer.book
        return self.feed.restart(ts, recv)
