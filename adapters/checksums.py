"""Checksums of books that several exchanges make alike, over the digits as sent. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, zip_longest
from zlib import crc32

from feed.models import Level


@lru_cache(maxsize=1 << 16)
def _text(level: Level) -> str:
    return f"{level[0]}:{level[1]}"


def alternating(bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """Return the signed CRC32 of ``bid:size:ask:size:…``, best first; the longer side goes on."""
    pairs = zip_longest(map(_text, bids), map(_text, asks))
    found = crc32(":".join(filter(None, chain.from_iterable(pairs))).encode())
    return found - (1 << 32) if found >> 31 else found
