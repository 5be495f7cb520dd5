"""The best quote of an instrument, from a channel that tells it whole each time. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.base import Health, Output
from feed.models import Level, Quote


class BestQuote:
    """One instrument's quote; said when it changes, and not while bid and ask are crossed.

    Args:
        native: The exchange's symbol, for ``Health``.
        topic: Of its quote; None where that is not wanted.
    """

    def __init__(self, native: str, topic: str | None) -> None:
        self._native = native
        self._topic = topic
        self._last: object = None
        self._is_crossed = False

    def take(
        self, bids: Sequence[Level], asks: Sequence[Level], ts: int | None, recv: int
    ) -> Sequence[Output]:
        """Return what follows from the best levels, checked, best first; a side may be empty."""
        bid, ask = bids[0] if bids else None, asks[0] if asks else None
        if self._topic is None or (bid, ask) == self._last:
            return ()
        self._last = (bid, ask)
        if bid and ask and float(bid[0]) >= float(ask[0]):
            # As before trading begins, or where a message came between two others.
            was_crossed, self._is_crossed = self._is_crossed, True
            return () if was_crossed else (self._health("invalid", "crossed"),)
        none = (None, None)
        quote = Quote(self._topic, 0, ts, recv, 0, *(bid or none), *(ask or none))
        if not self._is_crossed:
            return (quote,)
        self._is_crossed = False
        return (quote, self._health("live", None))

    def _health(self, state: str, reason: str | None) -> Health:
        return Health(self._native, ("quote",), state, reason)
