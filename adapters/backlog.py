"""What waits to be written to the bus, in order; bounded while the bus is away. Pure.

Events get their positions only when they are taken to be written. So what is given up never had
one: in its place each topic gets one ``gap`` that takes the next position like any entry, and no
reader sees a jump. (The other way, positions at once, would need entries renumbered, or a second
kind of gap that readers of the bus must know.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from adapters.picture import Picture
from feed.models import Book, Depth, Event, ExchangeStatus, Gap, SymbolStatus
from feed.topics import EVENT_KINDS


class Mark:
    """Where a book's checkpoint stands among the events.

    Attributes:
        book: Its window as of there; None once a newer mark has made it useless.
    """

    __slots__ = ("book",)

    def __init__(self, book: Book) -> None:
        self.book: Book | None = book


Item: TypeAlias = Event | Mark


def weight(item: Item) -> int:
    """Return about how many bytes an item is once it is encoded."""
    kind = type(item)
    if kind is Book or kind is Depth:
        return 180 + 30 * (len(item.bids) + len(item.asks))  # type: ignore[union-attr]
    if isinstance(item, Mark):
        return 0 if item.book is None else weight(item.book)
    return 200


class Backlog:
    """Events and book checkpoints that wait.

    Args:
        picture: What all events so far add up to; a book that gave up something is told from it.
        max_bytes: What ``shed`` leaves at most beside what is never given up, estimated.

    Attributes:
        size: Bytes that wait, estimated.
        given_up: Events given up so far.
    """

    def __init__(self, picture: Picture, max_bytes: int) -> None:
        self.size = 0
        self.given_up = 0
        self.max_bytes = max_bytes
        self._picture = picture
        self._waiting: deque[tuple[Item, int, int]] = deque()
        self._marks: dict[str, Mark] = {}
        #: Topic -> events given up of it and not yet told; None where that cannot be counted.
        self._lost: dict[str, int | None] = {}
        #: Books among them: nothing of those waits, they are told whole.
        self._afresh: set[str] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_empty(self) -> bool:
        return not (self._waiting or self._lost)

    def put(self, event: Event, now: int) -> None:
        """Queue an event that came at ``now`` (µs)."""
        if self._afresh and event.topic in self._afresh:
            self._give_up(event)
            return
        n = weight(event)
        self._waiting.append((event, n, now))
        self.size += n

    def checkpoint(self, book: Book, now: int) -> None:
        """Queue a book's whole window as of its last event; only the newest of a book counts."""
        if book.topic in self._afresh:
            return
        self._unmark(book.topic)
        mark = self._marks[book.topic] = Mark(book)
        self._waiting.append((mark, 0, now))
        self.size += weight(mark)

    def take(self, limit: int, now: int) -> list[Item]:
        """Return the next items, at most ``limit`` and what must be told first; in order."""
        items = self._tell(now) if self._lost else []
        waiting, size = self._waiting, 0
        # Measured: from put to a stamped batch 1.45 µs an event; 1.1 when positions were given in
        # put and nothing could be given up.
        while waiting and limit > 0:
            item, n, _ = waiting.popleft()
            size += n
            if type(item) is Mark:
                if item.book is None:
                    continue
                size += weight(item)
                del self._marks[item.book.topic]
            items.append(item)
            limit -= 1
        self.size -= size
        return items

    def shed(self, oldest: int = 0) -> None:
        """Give up what came before ``oldest`` (µs); and of what is too much, values first.

        The oldest first, and a little more than needed, so that it is not done again at once.
        Health is never given up, nor any topic's newest value: who has only that would take the
        one before it, which the bus has, for the present one.
        """
        if self._waiting and self._waiting[0][2] < oldest:
            self._drop(lambda event, at: at < oldest)
        if self.size > self.max_bytes:
            goal = self.max_bytes * 3 // 4
            self._drop(lambda event, at: self.size > goal and not _is_fact(event))
            if self.size > goal:
                self._drop(lambda event, at: self.size > goal)

    def _drop(self, gives_up: Callable[[Event, int], bool]) -> None:
        """Go through what waits, oldest first, and give up some of it.

        Of each topic the oldest go first, so what is lost of it lies before all that waits; but for
        a book, of which the rest is of no use.
        """
        kept: deque[tuple[Item, int, int]] = deque()
        values = self._picture.values
        for item, n, at in self._waiting:
            if isinstance(item, Mark):
                if item.book is not None:
                    kept.append((item, n, at))
            elif type(item) in _HEALTH or values.get(item.topic) is item:
                kept.append((item, n, at))
            elif item.topic in self._afresh or gives_up(item, at):
                self.size -= n
                self._give_up(item)
            else:
                kept.append((item, n, at))
        self._waiting = kept

    def _give_up(self, event: Event) -> None:
        topic = event.topic
        self.given_up += 1
        before = self._lost.get(topic, 0)
        lost = event.lost if isinstance(event, Gap) else 1
        self._lost[topic] = None if before is None or lost is None else before + lost
        if topic.startswith("book."):
            self._afresh.add(topic)
            self._unmark(topic)

    def _unmark(self, topic: str) -> None:
        """Make a checkpoint that waits useless; it stays where it is."""
        mark = self._marks.pop(topic, None)
        if mark is not None:
            self.size -= weight(mark)
            mark.book = None

    def _tell(self, now: int) -> list[Item]:
        """Return a gap for each topic that gave up something, and the whole of each such book."""
        items: list[Item] = []
        for topic, lost in self._lost.items():
            items.append(Gap(topic, 0, None, now, 0, "upstream_disconnect", lost))
            if topic in self._afresh and (book := self._picture.window(topic)) is not None:
                items += [book, Mark(book)]
        self._lost.clear()
        self._afresh.clear()
        return items


_HEALTH = frozenset({SymbolStatus, ExchangeStatus})


def _is_fact(event: Event) -> bool:
    return event.topic.partition(".")[0] in EVENT_KINDS
