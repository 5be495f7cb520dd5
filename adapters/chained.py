"""A book whose updates name the one before, or carry a checksum of what they lead to. Pure."""

from __future__ import annotations

from adapters.base import Output
from adapters.channels import BookStream
from adapters.checksums import alternating
from feed.models import Level

#: Levels a side that a checksum is of.
PROVEN_LEVELS = 25


class ChainedBook(BookStream):
    """A book and the number of its last message.

    Numbers need not count: they may jump, stand still, and go back after maintenance; only the
    chain must hold.
    """

    #: Whether the levels are whole, even if they are not shown.
    _is_whole = False
    _last: int | None = None

    def take(
        self,
        bids: list[Level],
        asks: list[Level],
        ts: int | None,
        recv: int,
        *,
        is_start: bool,
        number: int | None,
        before: int | None,
        checksum: int | None,
    ) -> list[Output]:
        """Apply one snapshot or update and return what follows.

        Args:
            number, before: The message's own and that of the one before; of a snapshot the latter
                says nothing. None where they are not given: then nothing but the checksum proves.
            checksum: Of the best levels that it leads to; None where it need not be looked at.
        """
        feed = self.feed
        failed: str | None = None
        events: list[Output] = []
        if is_start:
            failed = None if self.start(bids, asks) else "snapshot"
        elif not self._is_whole:
            failed = "snapshot"
        elif before != self._last and checksum is None:
            failed = "sequence"
        elif feed.is_live:
            events = feed.delta(bids, asks, ts, recv)
        else:
            feed.book.apply(bids, asks)
        if failed is None and checksum is not None:
            is_right = alternating(*feed.book.top(PROVEN_LEVELS)) == checksum
            failed = None if is_right else "checksum"
        self._is_whole, self._last = failed is None, number
        if failed is not None:
            return self.lost(failed, recv)
        if feed.book.is_crossed:
            # Bids and asks may meet before trading begins: whole, but nothing to show.
            return feed.broken("crossed", recv)
        return events if feed.is_live and not is_start else feed.restart(ts, recv)
