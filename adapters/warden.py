"""An exchange that stands for nothing beyond its published limits (fault ``strict``). Pure.

Times are seconds of any clock.
"""

from __future__ import annotations

from collections import deque

from adapters.base import Rules


class Window:
    """Counts what happens, to see whether it was too much in too short a time."""

    def __init__(self, most: int, per_s: float) -> None:
        self._most = most
        self._per_s = per_s
        self._times: deque[float] = deque()

    def is_full(self, now: float) -> bool:
        """Count one more; return whether that was more than the limit allows."""
        while self._times and now - self._times[0] >= self._per_s:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) > self._most


class Warden:
    """Watches one connection."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._frames = Window(rules.frames, rules.per_s)

    def frame(self, now: float) -> str | None:
        """Take note of a client's frame; return the reason to close, if there is one."""
        return self._rules.reason if self._frames.is_full(now) else None

    def streams(self, count: int) -> str | None:
        """Return the reason to close a connection that has asked for so much, if there is one."""
        most = self._rules.streams
        return self._rules.reason if most is not None and count > most else None
