"""What somebody who comes anew must be told of an exchange, kept while events pass. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from feed.models import Book, Event, Gap, Liquidation, Trade
from feed.window import Window

#: Deltas remembered of a book; adapters hand in its whole window every 400.
_JOURNAL_MAX = 2_000
#: Facts remembered of a topic by a standby: some seconds even of a busy one.
_RECENT_MAX = 1_000

_NO_VALUES = frozenset({Gap, Trade, Liquidation})


class Picture:
    """The newest value of each state topic, and each book as a whole window and what followed.

    A book is put together only when it is asked for: remembering a delta costs an append, applying
    it ten times as much.

    Attributes:
        values: Topic -> its newest value.
    """

    def __init__(self) -> None:
        self.values: dict[str, Event] = {}
        self._journals: dict[str, list[Book]] = {}

    def put(self, event: Event) -> None:
        """Take note of an event that was published, or will be."""
        kind = type(event)
        if kind is Book:
            self._put_book(event)  # type: ignore[arg-type]
        elif kind not in _NO_VALUES:
            self.values[event.topic] = event
        elif kind is Gap:
            self._journals.pop(event.topic, None)  # a book after a hole is none until it is afresh

    def _put_book(self, event: Book) -> None:
        if event.snapshot:
            self._journals[event.topic] = [event]
            return
        journal = self._journals.get(event.topic)
        if journal is not None:
            journal.append(event)
            if len(journal) > _JOURNAL_MAX and (window := self.window(event.topic)) is not None:
                self._journals[event.topic] = [window]

    def checkpoint(self, book: Book) -> None:
        """Take a book's whole window as of its last event."""
        self._journals[book.topic] = [book]

    def books(self) -> Iterable[str]:
        """Return the books that are whole."""
        return self._journals

    def window(self, topic: str) -> Book | None:
        """Return the book as a snapshot of now; None where it is not whole."""
        journal = self._journals.get(topic)
        if not journal:
            return None
        window = Window()
        window.replace(journal[0].bids, journal[0].asks)
        for delta in journal[1:]:
            window.apply(delta.bids, delta.asks)
        last = journal[-1]
        bids, asks = window.levels()
        return Book(topic, 0, last.ts, last.recv, 0, bids, asks, snapshot=True)


class Recent:
    """The last facts of each topic, so that a standby can go on where the leader stopped."""

    def __init__(self) -> None:
        self._facts: dict[str, deque[Trade | Liquidation]] = {}

    def put(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Trade | Liquidation):
            facts = self._facts.get(event.topic)
            if facts is None:
                facts = self._facts[event.topic] = deque(maxlen=_RECENT_MAX)
            facts.append(event)
        elif isinstance(event, Gap):
            self._facts.pop(event.topic, None)  # what came before says nothing of what followed

    def topics(self) -> list[str]:
        """Return the topics of which there are facts."""
        return list(self._facts)

    def after(self, topic: str, id: str | None) -> list[Trade | Liquidation] | None:
        """Return what followed the fact ``id``; None where that is not known."""
        facts = list(self._facts.get(topic, ()))
        for at in range(len(facts) - 1, -1, -1):
            if id is not None and facts[at].id == id:
                return facts[at + 1 :]
        return None
