"""The hole that a lost connection leaves in one trade topic, and what has come of it since. Pure.

Ids are consecutive. Pages bring what follows the last trade that came, live trades go on meanwhile
and say where the hole ends. Each missing trade is handed out once, in the order of ids; what the
pages leave out is counted.
"""

from __future__ import annotations

from adapters.base import Mark, Page
from feed.models import Trade


class Hole:
    """What is missing after one trade.

    Args:
        after: The last trade that came.

    Attributes:
        after: Up to here all has come, or is counted as lost; the next page begins behind it.
        before: The first live trade's id; None as long as there is none.
        lost: Ids that the pages left out.
        delivered: Trades handed out.
        is_at_end: The last page had nothing new: no trade came since.
    """

    def __init__(self, after: Mark) -> None:
        self.after = after
        self.before: int | None = None
        self.lost = 0
        self.delivered = 0
        self.is_at_end = False

    @property
    def is_closed(self) -> bool:
        """Whether every id in it has come or is counted."""
        return self.before is not None and self.after.id + 1 >= self.before

    @property
    def is_wanting(self) -> bool:
        """Whether another page may bring something."""
        return not self.is_closed and (self.before is not None or not self.is_at_end)

    def reached(self, before: int) -> None:
        """Take note of the first live trade."""
        self.before = before

    def take(self, page: Page) -> list[Trade]:
        """Return the page's trades that are missing, and go on behind them."""
        found: list[Trade] = []
        was = self.after
        for number, trade in page.trades:
            if number <= self.after.id:
                continue
            if self.before is not None and number >= self.before:
                # A page that reaches beyond the hole has shown all of it.
                self.lost += self.before - self.after.id - 1
                self.after = Mark(self.before - 1, self.after.ts)
                break
            self.lost += number - self.after.id - 1
            ts = self.after.ts if trade is None else trade.ts
            self.after = Mark(number, ts)
            if trade is not None:
                found.append(trade)
        self.is_at_end = self.after == was
        self.delivered += len(found)
        return found

    def missing(self) -> int | None:
        """Return how many trades have not come; None where that cannot be known."""
        if self.before is not None:
            return self.lost + self.before - self.after.id - 1
        return self.lost if self.is_at_end else None
