"""An order book as an exchange tells it to who comes late, for the fake that serves a tape. Pure.

Made of the tape's own frames: text stays the text recorded. A hole on the tape stays one here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf

import msgspec

from adapters.base import Standing

#: Price and size, as sent.
Level = tuple[str, str]


class Sides:
    """The levels of both sides; a size of zero takes one away."""

    def __init__(self) -> None:
        self._bids: dict[float, Level] = {}
        self._asks: dict[float, Level] = {}

    def clear(self) -> None:
        self._bids.clear()
        self._asks.clear()

    def apply(self, bids: Iterable[Sequence[str]], asks: Iterable[Sequence[str]]) -> None:
        for side, changes in ((self._bids, bids), (self._asks, asks)):
            for price, size in changes:
                if float(size):
                    side[float(price)] = (price, size)
                else:
                    side.pop(float(price), None)

    def cut(self, depth: int) -> None:
        """Forget what is deeper."""
        for side, kept in ((self._bids, self.bids(depth)), (self._asks, self.asks(depth))):
            side.clear()
            side.update((float(level[0]), level) for level in kept)

    def bids(self, depth: int | None = None) -> list[Level]:
        """Return the best, best first."""
        return [self._bids[price] for price in sorted(self._bids, reverse=True)[:depth]]

    def asks(self, depth: int | None = None) -> list[Level]:
        return [self._asks[price] for price in sorted(self._asks)[:depth]]


class BookStanding(Standing):
    """A book that begins with a snapshot on its own stream."""

    def __init__(self) -> None:
        self.sides = Sides()
        self.is_begun = False

    def start(self, bids: Iterable[Sequence[str]], asks: Iterable[Sequence[str]]) -> None:
        self.sides.clear()
        self.sides.apply(bids, asks)
        self.is_begun = True


class CutBook:
    """A REST book that may have been cut at some number of levels, and what came since.

    Args:
        cuts: The numbers that can be asked for; a side of exactly so many was cut there.
    """

    def __init__(
        self, bids: Sequence[Sequence[str]], asks: Sequence[Sequence[str]], cuts: Collection[int]
    ) -> None:
        self._cuts = sorted(cuts, reverse=True)
        self._sides = Sides()
        self._sides.apply(bids, asks)
        # Past its last level nothing is known of a side that was cut.
        self._worst_bid = float(bids[-1][0]) if len(bids) in cuts else -inf
        self._worst_ask = float(asks[-1][0]) if len(asks) in cuts else inf

    def apply(self, bids: Iterable[Sequence[str]], asks: Iterable[Sequence[str]]) -> None:
        self._sides.apply(bids, asks)

    def told(self) -> tuple[list[Level], list[Level]]:
        """Return both sides, best first.

        One that was cut is cut again where the exchange could have, so that who gets it knows that
        there is more.
        """
        bids, asks = self._sides.bids(), self._sides.asks()
        if self._worst_bid != -inf:
            bids = self._cut([level for level in bids if float(level[0]) >= self._worst_bid])
        if self._worst_ask != inf:
            asks = self._cut([level for level in asks if float(level[0]) <= self._worst_ask])
        return bids, asks

    def _cut(self, levels: list[Level]) -> list[Level]:
        return levels[: next((cut for cut in self._cuts if cut <= len(levels)), 0)]


def raw(text: str) -> msgspec.Raw:
    """Return a bare number for a message, with its own digits."""
    return msgspec.Raw(text.encode())
