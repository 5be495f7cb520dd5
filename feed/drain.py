"""When each client is let go as the process ends, and when it may come back. Pure.

The clients of a server that ends come back to another at once, so they leave one by one: evenly
over a window. Each comes back within a second or so of its own close, because with a rolling
restart the next server is up already and every second more is one without prices; at the pace of
the closes that is no herd. One that finds only the old server again is told there how long that
still drains (``feed.admission``). Clients that are closed all at once instead, because there is no
more time, are spread over a window when they come back.
"""

from __future__ import annotations

_LOW_MS, _SPAN_MS = 250, 1_000
_GOLDEN = 0.6180339887498949


def spread(i: int) -> float:
    """Return the ``i``-th of an endless row of numbers in [0, 1), any stretch of it is even."""
    return i * _GOLDEN % 1.0


class Schedule:
    """Lets so many clients go within ``window_s``.

    Args:
        clients: How many there are.
        window_s: 0: all at once.
    """

    def __init__(self, clients: int, window_s: float) -> None:
        self.clients = clients
        self.window_s = window_s

    def due(self, elapsed_s: float) -> int:
        """Return how many clients' turn has come; the first one's is at once."""
        if elapsed_s >= self.window_s:
            return self.clients
        return min(self.clients, int(elapsed_s / self.window_s * self.clients) + 1)

    def retry_after_ms(self, i: int) -> int:
        """Return when the ``i``-th client, closed in its turn, may come back."""
        return _LOW_MS + int(spread(i) * _SPAN_MS)

    def retry_late_ms(self, i: int) -> int:
        """Return when the ``i``-th of those that are closed all at once may come back."""
        return _LOW_MS + int(spread(i) * max(_SPAN_MS, self.window_s * 1_000))
