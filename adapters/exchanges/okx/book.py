"""OKX's book: each update names the one before it, or, until 2026, came with a checksum. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adapters.base import Output
from adapters.channels import BookStream
from adapters.checksums import alternating
from adapters.exchanges.okx import frames
from feed.models import Level


class ProvenBook(BookStream):
    """A book and the id of its last update.

    Ids do not count: they jump, and go back after maintenance; only the chain must hold. Nothing
    proves a message that has neither id nor checksum, so it is not believed.
    """

    #: Whether the levels are whole, even if they are not shown.
    _is_whole = False
    _last: int | None = None

    def take(
        self,
        given: frames.Book,
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
        elif given.seqId is not None and given.prevSeqId != self._last:
            failed = "sequence"
        elif feed.is_live:
            events = feed.delta(bids, asks, ts, recv)
        else:
            feed.book.apply(bids, asks)
        if failed is None and given.seqId is None:
            failed = None if alternating(*feed.book.top(25)) == given.checksum else "checksum"
        self._is_whole, self._last = failed is None, given.seqId
        if failed is not None:
            return self.lost(failed, recv, afresh)
        if feed.book.is_crossed:
            # Bids and asks may meet before trading begins: whole, but nothing to show.
            return feed.broken("crossed", recv)
        return events if feed.is_live and not is_start else feed.restart(ts, recv)
