"""An order book as an exchange tells it to who comes late, for the fake that serves a tape. Pure.

Made of the tape's own frames: text stays the text recorded. A hole on the tape stays one here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def raw(text: str) -> msgspec.Raw:
    """Return a bare number for a message, with its own digits."""
    return msgspec.Raw(text.encode())
