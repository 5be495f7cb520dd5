"""The window of one book as a reader rebuilds it from ``book`` entries. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from feed.models import Level


class Window:
    """Bids and asks by price; the deltas alone keep it right, so nothing is ever cut here.

    Prices are ordered by their float: exchanges send at most 15 significant digits, so two
    different prices of a book never meet. The text is kept as it came.
    """

    __slots__ = ("_asks", "_bids")

    def __init__(self) -> None:
        self._bids: dict[float, Level] = {}
        self._asks: dict[float, Level] = {}

    def replace(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Forget what was before.

        Raises:
            ValueError: A price is no number; nothing is changed.
        """
        by_price = [{float(level[0]): level for level in side} for side in (bids, asks)]
        self._bids, self._asks = by_price

    def apply(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Take the changed levels; size "0" removes one.

        Raises:
            ValueError: A price is no number; levels before it are changed.
        """
        for side, levels in ((self._bids, bids), (self._asks, asks)):
            for level in levels:
                if level[1] == "0":
                    side.pop(float(level[0]), None)
                else:
                    side[float(level[0])] = level

    def levels(self) -> tuple[list[Level], list[Level]]:
        """Return bids and asks, best first."""
        bids, asks = self._bids, self._asks
        return (
            [bids[price] for price in sorted(bids, reverse=True)],
            [asks[price] for price in sorted(asks)],
        )
