"""Bitget's book: each update names the one before it; before 2026 it had a checksum. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adapters.base import Output
from adapters.channels import BookStream
from adapters.checksums import alternating
from adapters.exchanges.bitget.frames import Book
from feed.models import Level


class ProvenBook(BookStream):
    """A book and the number of its last message.

    A snapshot is whole by itself. An update with neither number nor checksum is proven by
    nothing, so it is not believed.
    """

    #: Whether the levels are whole, even if they are not shown.
    _is_whole = False
    _last: int | None = None

    def take(
        self,
        given: Book,
        bids: list[Level],
        asks: list[Level],
        is_start: bool,
        recv: int,
        afresh: Callable[[], Sequence[Output]],
    ) -> list[Output]:
        """Apply one snapshot or update and return what follows.

        Args:
            given: The message, whose levels are ``bids`` and ``asks``, checked.
            afresh: As for ``lost``.
        """
        feed, ts = self.feed, given.ts * 1_000
        failed: str | None = None
        events: list[Output] = []
        if is_start:
            failed = None if self.start(bids, asks) else "snapshot"
        elif not self._is_whole:
            failed = "snapshot"
        elif given.pseq is not None and given.pseq != self._last:
            failed = "sequence"
        elif feed.is_live:
            events = feed.delta(bids, asks, ts, recv)
        else:
            feed.book.apply(bids, asks)
        if failed is None and given.pseq is None and not is_start:
            failed = None if alternating(*feed.book.top(25)) == given.checksum else "checksum"
        self._is_whole, self._last = failed is None, given.seq
        if failed is not None:
            return self.lost(failed, recv, afresh)
        if feed.book.is_crossed:
            # Whole, but nothing to show until bids and asks have parted.
            return feed.broken("crossed", recv)
        return events if feed.is_live and not is_start else feed.restart(ts, recv)
