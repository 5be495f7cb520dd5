"""Attempt number -> seconds to wait. Pure: the random source is handed in."""

from __future__ import annotations

from random import Random

_MAX_DOUBLINGS = 32  # beyond it 2.0**n would overflow one day, and every cap is long reached


def delay(attempt: int, rng: Random, *, base_s: float = 0.25, cap_s: float = 30.0) -> float:
    """Return how long to wait before trying again: full jitter, doubling up to ``cap_s``.

    Evenly spread from 0 on, so that many who lost the same server don't come back together.

    Args:
        attempt: 0 before the first retry, and again after whatever the caller counts as success.
        base_s: Longest wait of attempt 0.
    """
    return rng.uniform(0.0, min(cap_s, base_s * 2.0 ** min(attempt, _MAX_DOUBLINGS)))
