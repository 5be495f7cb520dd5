"""Books that an exchange tells whole each time, in bare numbers. Pure.

Clients get what has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

import msgspec

from adapters.base import Output
from adapters.book import BookFeed
from adapters.text import decimal
from feed.models import Level

#: The levels of one side, by their prices as numbers.
Levels: TypeAlias = dict[float, Level]


@lru_cache(maxsize=1 << 14)
def _level(price: bytes, size: bytes) -> tuple[float, Level] | None:
    """Return a level under its price; None for one of 0. Most are as they were in the last message.

    Raises:
        ValueError: One of them is not a number.
    """
    level = decimal(str(price, "ascii")), decimal(str(size, "ascii"))
    key = float(level[0])
    return (key, level) if key and float(level[1]) else None


def levels(pairs: Iterable[tuple[msgspec.Raw, msgspec.Raw]]) -> Levels:
    """Return those (price, size) that are any.

    Raises:
        ValueError: One of them is not a number, or two have one price.
    """
    read = (_level(bytes(price), bytes(size)) for price, size in pairs)
    given = [level for level in read if level is not None]
    found = dict(given)
    if len(found) != len(given):
        raise ValueError("two levels have one price")
    return found


def _changes(old: Levels, new: Levels) -> list[Level]:
    """Return what makes one side the other, what is gone first."""
    gone: list[Level] = [(level[0], "0") for price, level in old.items() if price not in new]
    return gone + [level for price, level in new.items() if old.get(price) != level]


class WholeBook:
    """One symbol's book, told whole; a crossed one is invalid until the next."""

    def __init__(self, feed: BookFeed) -> None:
        self.feed = feed
        self._told: tuple[Levels, Levels] = ({}, {})

    def told(self, bids: Levels, asks: Levels, ts: int, recv: int) -> list[Output]:
        """Return what follows from the book as it is now."""
        feed = self.feed
        if bids and asks and max(bids) >= min(asks):
            return feed.broken("crossed", recv)
        old_bids, old_asks = self._told
        self._told = bids, asks
        if not feed.is_live:
            return feed.snapshot(bids.values(), asks.values(), ts, recv)
        return feed.delta(_changes(old_bids, bids), _changes(old_asks, asks), ts, recv)
