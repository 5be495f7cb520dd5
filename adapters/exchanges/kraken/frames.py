"""Kraken's WebSocket v2 messages, and the checksum of its books. Pure.

Prices and quantities are bare JSON numbers whose very digits enter the checksum: raw text.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import Literal, TypeAlias
from zlib import crc32

import msgspec

from adapters.text import Number, decimal
from feed.models import Level, Side


class Frame(msgspec.Struct):
    """Data (``channel``) or the reply to a request (``method``)."""

    channel: str = ""
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")
    method: str = ""
    success: bool = True
    error: str | None = None
    symbol: str | None = None
    req_id: int | None = None
    result: Served | None = None


class Served(msgspec.Struct):
    channel: str
    symbol: str | None = None
    depth: int | None = None


class RawLevel(msgspec.Struct, gc=False):
    price: msgspec.Raw
    qty: msgspec.Raw


class Book(msgspec.Struct, gc=False):
    symbol: str
    bids: list[RawLevel]
    asks: list[RawLevel]
    checksum: int
    timestamp: str | None = None


class Trade(msgspec.Struct, gc=False):
    symbol: str
    side: Side
    price: msgspec.Raw
    qty: msgspec.Raw
    trade_id: Number
    timestamp: str


#: Of REST: price, volume, time in s, ``b`` or ``s``, order type, misc, trade id.
Past: TypeAlias = tuple[str, str, msgspec.Raw, Literal["b", "s"], str, str, Number]


class _Pasts(msgspec.Struct):
    """``Trades``: under the pair's own name its trades, oldest first, and ``last`` beside it."""

    result: dict[str, msgspec.Raw]


_NONE = msgspec.Raw(b"null")


class Ticker(msgspec.Struct, gc=False):
    symbol: str
    last: msgspec.Raw = _NONE
    high: msgspec.Raw = _NONE
    low: msgspec.Raw = _NONE
    volume: msgspec.Raw = _NONE
    bid: msgspec.Raw = _NONE
    ask: msgspec.Raw = _NONE
    timestamp: str | None = None


decode = msgspec.json.Decoder(Frame).decode
decode_books = msgspec.json.Decoder(list[Book]).decode
decode_trades = msgspec.json.Decoder(list[Trade]).decode
_decode_pasts = msgspec.json.Decoder(_Pasts).decode
_decode_past = msgspec.json.Decoder(list[Past]).decode
decode_tickers = msgspec.json.Decoder(list[Ticker]).decode


def decode_past(body: bytes) -> list[Past]:
    """Return one pair's trades of the past; ValueError for anything else."""
    result = _decode_pasts(body).result
    result.pop("last", None)
    (trades,) = result.values()
    return _decode_past(trades)


def past_micros(raw: msgspec.Raw) -> int:
    """Return a time in seconds, a bare number, as µs without a float's rounding."""
    seconds, _, fraction = number(raw).partition(".")
    return int(seconds) * 1_000_000 + int(fraction[:6].ljust(6, "0"))


def is_snapshot(message: Frame) -> bool:
    """Whether it is a snapshot; ValueError where it is no update either."""
    if message.type not in ("snapshot", "update"):
        raise ValueError(f"neither snapshot nor update: {message.type[:40]!r}")
    return message.type == "snapshot"


def number(raw: msgspec.Raw) -> str:
    return decimal(str(raw, "ascii"))


def price_or_none(raw: msgspec.Raw) -> str | None:
    """Return a ticker's price; a pair without one has 0 or ``null`` there."""
    text = str(raw, "ascii")
    return None if text == "null" or not decimal(text).strip("0.") else decimal(text)


def levels(given: Iterable[RawLevel]) -> list[Level]:
    return [(number(level.price), number(level.qty)) for level in given]


@lru_cache(maxsize=1 << 16)
def _digits(level: Level) -> str:
    return "".join(text.replace(".", "").lstrip("0") for text in level)


def checksum(bids: Iterable[Level], asks: Iterable[Level]) -> int:
    """Return Kraken's CRC32 of the best 10 levels a side, best first."""
    return crc32("".join(map(_digits, chain(asks, bids))).encode())
