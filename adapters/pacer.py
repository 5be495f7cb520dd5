"""So many in so long: when the next one may happen. Pure; times are seconds of any clock."""

from __future__ import annotations

from collections import deque


class Pacer:
    """Hands out places in time, never more than ``count`` of them within ``window_s``."""

    def __init__(self, count: int, window_s: float) -> None:
        self._window_s = window_s
        self._places: deque[float] = deque(maxlen=max(1, count))

    def reserve(self, now: float) -> float:
        """Take the next free place and return how long to wait for it, in seconds."""
        at = now
        if len(self._places) == self._places.maxlen:
            at = max(now, self._places[0] + self._window_s)
        self._places.append(at)
        return at - now
