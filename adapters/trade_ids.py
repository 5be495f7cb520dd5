"""The trade ids of one topic: consecutive numbers, or ids that have no order. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from adapters.base import Mark, Output, Resumed, upstream_gap

#: Numbers so far back are not repeats: the exchange started its numbers anew.
RENUMBERED = 100_000
#: Nor are so many old ones in a row.
MAX_REPEATED = 1_000
#: So many trades of a topic are known again by ids that have no order.
KNOWN_TRADES = 1_000


class TradeIds:
    """What came of one topic's trades.

    Attributes:
        last: The newest id; None before the first.
        ts: Its exchange time, where the adapter keeps it.
        expected: The id before which nothing has to be said; -1: none.
    """

    __slots__ = ("_is_resumed", "_native", "_repeated", "expected", "last", "topic", "ts")

    def __init__(self, topic: str, native: str) -> None:
        self.topic = topic
        self.last: int | None = None
        self.ts: int | None = None
        self.expected = -1
        self._native = native
        self._is_resumed = False
        #: How many old ones came in a row since this was the newest.
        self._repeated = (-1, 0)

    def mark(self) -> Mark | None:
        """Return where the topic stands; None before the first trade.

        Nor where nothing but repeats has come since ``resume``: another connection of that kind
        would show that the exchange counts anew, and all its trades would be taken for old ones.
        """
        if self.last is None or (self._is_resumed and self._repeated[0] == self.last):
            return None
        return Mark(self.last, self.ts)

    def resume(self, mark: Mark) -> None:
        """As ``Adapter.resume``."""
        self.last, self.ts = mark.id, mark.ts
        self.expected = -1
        self._is_resumed = True

    def reach(self, number: int, recv: int) -> Sequence[Output] | None:
        """Go on to a trade; return what has to be said before it, or None if it is an old one."""
        last = self.last
        if number == self.expected:
            said: Sequence[Output] = ()
        elif last is None:
            said = ()
        elif number > last:
            said = self._missing(last, number, recv)
        else:
            repeated = self._repeated[1] + 1 if self._repeated[0] == last else 1
            self._repeated = last, repeated
            if number > last - RENUMBERED and repeated <= MAX_REPEATED:
                return None
            said = self._missing(None, number, recv)
        self.last = number
        self.expected = number + 1
        return said

    def known(self, number: int, recv: int) -> Sequence[Output]:
        """Take note that there were trades up to ``number``; what has not come is missing."""
        if self.last is None:
            self.last = number
            self.expected = number + 1
        elif number > self.last or (number == self.last and self._is_resumed):
            said = self._missing(self.last, number + 1, recv)
            self.last = number
            self.expected = number + 1
            return said
        return ()

    def _missing(self, after: int | None, before: int, recv: int) -> Sequence[Output]:
        if self._is_resumed:
            self._is_resumed = False
            mark = None if after is None else Mark(after, self.ts)
            return (Resumed(self._native, mark, before),)
        lost = None if after is None or before - after > RENUMBERED else before - after - 1
        if lost == 0:
            return ()
        return (upstream_gap(self.topic, recv, "upstream_sequence", lost),)


def marks(of: Mapping[str, TradeIds]) -> dict[str, Mark]:
    """Return the marks of those, by instrument, that have seen a trade."""
    found = {native: ids.mark() for native, ids in of.items()}
    return {native: mark for native, mark in found.items() if mark is not None}


class RecentIds(set[str | int]):
    """The ids of a topic's last trades, where they have no order: nothing else shows a repeat."""

    __slots__ = ("_order",)

    def __init__(self) -> None:
        super().__init__()
        # Not a dict: the longer one loses its first entries, the longer it takes to find the next.
        self._order: deque[str | int] = deque()

    def is_new(self, id_: str | int) -> bool:
        """Take note of a trade; return whether it has not come before."""
        if id_ in self:
            return False
        self.add(id_)
        self._order.append(id_)
        if len(self._order) > KNOWN_TRADES:
            self.remove(self._order.popleft())
        return True
