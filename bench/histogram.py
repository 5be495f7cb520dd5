"""A histogram of whole numbers to three significant digits, however large they are. Pure.

Values share a bucket only where they differ by less than 1 in 1,024 (below 2,048: not at all), so
a percentile is off by less than that, and a bucket costs memory only once something fell into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_EXACT_BITS = 11
_HALF = 1 << (_EXACT_BITS - 1)


class Histogram:
    """Counts values of 0 and more; a negative one counts as 0 (clocks of two processes)."""

    __slots__ = ("_counts", "count", "max")

    def __init__(self, counts: Mapping[int, int] | None = None, greatest: int = 0) -> None:
        self._counts = dict(counts or {})
        self.count = sum(self._counts.values())
        self.max = greatest

    def add(self, value: int) -> None:
        """Count one value."""
        value = max(value, 0)
        bucket = _bucket(value)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        if value > self.max:
            self.max = value

    def percentile(self, percent: float) -> int:
        """Return the value that ``percent`` of all do not exceed; 0 where nothing was counted."""
        rank = percent / 100 * self.count
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return min(_greatest(bucket), self.max)
        return self.max

    def merge(self, others: Iterable[Histogram]) -> Histogram:
        """Return a histogram of all values in this one and the others."""
        merged = Histogram(self._counts, self.max)
        for other in others:
            for bucket, n in other._counts.items():
                merged._counts[bucket] = merged._counts.get(bucket, 0) + n
            merged.count += other.count
            merged.max = max(merged.max, other.max)
        return merged

    def dump(self) -> dict[str, object]:
        """Return what ``load`` makes the same histogram of, fit for JSON."""
        return {"counts": list(self._counts.items()), "max": self.max}

    @classmethod
    def load(cls, dumped: Mapping[str, object]) -> Histogram:
        counts, greatest = dumped["counts"], dumped["max"]
        assert isinstance(counts, list) and isinstance(greatest, int)
        return cls({bucket: n for bucket, n in counts}, greatest)


def _bucket(value: int) -> int:
    shift = value.bit_length() - _EXACT_BITS
    if shift <= 0:
        return value
    return shift * _HALF + (value >> shift)


def _greatest(bucket: int) -> int:
    """Return the greatest value that falls into ``bucket``."""
    if bucket < 2 * _HALF:
        return bucket
    shift = bucket // _HALF - 1
    return ((bucket - shift * _HALF + 1) << shift) - 1
