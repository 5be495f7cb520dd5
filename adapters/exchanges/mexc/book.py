"""MEXC's order book: versions follow one another, from a REST snapshot on. Pure.

Source: mexcdevelop/apidocs, spot v3, "How to Properly Maintain a Local Copy of the Order Book".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Output
from adapters.diff_book import DiffBook, Snapshot, Update
from adapters.exchanges.mexc.frames import read_of, read_update
from adapters.text import Millis, Number, levels
from feed.models import Level

#: The most levels a side that can be asked for.
LIMIT = 5_000
_CUTS: frozenset[int] = frozenset()
#: A wrapper around nothing is shorter: a name, a symbol, times.
_LONGEST_EMPTY = 200


class _Snapshot(msgspec.Struct):
    version: Number = msgspec.field(name="lastUpdateId")
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    timestamp: Millis | None = None


_decode = msgspec.json.Decoder(_Snapshot).decode


def _numbers(side: list[Level]) -> list[tuple[float, float]]:
    return [(float(price), float(size)) for price, size in side]


class MexcBook(DiffBook):
    """One symbol's book."""

    def take(self, frame: bytes, recv: int) -> Sequence[Output]:
        is_empty = len(frame) < _LONGEST_EMPTY and read_of(self.native, frame).body is None
        return () if is_empty else super().take(frame, recv)

    def read(self, frame: bytes) -> Update:
        wrapper = read_of(self.native, frame)
        if wrapper.ts is None or wrapper.body is None:
            raise ValueError("of no time, or without a body")
        update = read_update(wrapper.body)
        numbers = _numbers(update.bids), _numbers(update.asks)
        return Update(
            update.first, update.last, None, update.bids, update.asks, wrapper.ts, numbers
        )

    def read_snapshot(self, body: bytes) -> Snapshot:
        snapshot = _decode(body)
        ts = None if snapshot.timestamp is None else snapshot.timestamp * 1_000
        bids, asks = levels(snapshot.bids), levels(snapshot.asks)
        return Snapshot(snapshot.version, bids, asks, _CUTS, ts)
