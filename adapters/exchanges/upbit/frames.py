"""Upbit's messages, in the formats ``SIMPLE`` and ``DEFAULT``: the same with short or whole names.

Pure; numbers come bare and keep their text.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from adapters.text import Millis, decimal

_SHORT = {
    "code": "cd",
    "trade_price": "tp",
    "trade_volume": "tv",
    "ask_bid": "ab",
    "trade_timestamp": "ttms",
    "sequential_id": "sid",
    "stream_type": "st",
    "ask_price": "ap",
    "bid_price": "bp",
    "ask_size": "as",
    "bid_size": "bs",
    "orderbook_units": "obu",
    "timestamp": "tms",
    "acc_trade_volume_24h": "atv24h",
    "acc_trade_price_24h": "atp24h",
}


class Trade(msgspec.Struct, gc=False, tag_field="type", tag="trade"):
    """``SNAPSHOT`` is the last trade of before the request."""

    code: str
    trade_price: msgspec.Raw
    trade_volume: msgspec.Raw
    ask_bid: Literal["ASK", "BID"]
    trade_timestamp: Millis
    sequential_id: int
    stream_type: str = "REALTIME"


class ShortTrade(msgspec.Struct, gc=False, tag_field="ty", tag="trade", rename=_SHORT):
    code: str
    trade_price: msgspec.Raw
    trade_volume: msgspec.Raw
    ask_bid: Literal["ASK", "BID"]
    trade_timestamp: Millis
    sequential_id: int
    stream_type: str = "REALTIME"


class Unit(msgspec.Struct, gc=False):
    """The n-th best of both sides; 0 where a side has no such level."""

    ask_price: msgspec.Raw
    bid_price: msgspec.Raw
    ask_size: msgspec.Raw
    bid_size: msgspec.Raw


class ShortUnit(msgspec.Struct, gc=False, rename=_SHORT):
    ask_price: msgspec.Raw
    bid_price: msgspec.Raw
    ask_size: msgspec.Raw
    bid_size: msgspec.Raw


class Orderbook(msgspec.Struct, gc=False, tag_field="type", tag="orderbook"):
    """The whole book, or as much of it as is ever told."""

    code: str
    timestamp: Millis
    orderbook_units: list[Unit]


class ShortOrderbook(msgspec.Struct, gc=False, tag_field="ty", tag="orderbook", rename=_SHORT):
    code: str
    timestamp: Millis
    orderbook_units: list[ShortUnit]


class Ticker(msgspec.Struct, gc=False, tag_field="type", tag="ticker"):
    code: str
    trade_price: msgspec.Raw
    acc_trade_volume_24h: msgspec.Raw
    acc_trade_price_24h: msgspec.Raw
    timestamp: Millis


class ShortTicker(msgspec.Struct, gc=False, tag_field="ty", tag="ticker", rename=_SHORT):
    code: str
    trade_price: msgspec.Raw
    acc_trade_volume_24h: msgspec.Raw
    acc_trade_price_24h: msgspec.Raw
    timestamp: Millis


class Problem(msgspec.Struct):
    name: str = ""
    message: str = ""


class Other(msgspec.Struct):
    """Any message whatever: a sign of life, an error, or data that is not read."""

    type: str = ""
    ty: str = ""
    status: str = ""
    error: Problem | None = None


Message: TypeAlias = Trade | ShortTrade | Orderbook | ShortOrderbook | Ticker | ShortTicker
_decode_short = msgspec.json.Decoder(ShortTrade | ShortOrderbook | ShortTicker).decode
_decode_whole = msgspec.json.Decoder(Trade | Orderbook | Ticker).decode
decode_other = msgspec.json.Decoder(Other).decode


def decode(frame: bytes) -> Message:
    """Read a message of data in either format.

    Raises:
        ValueError, RecursionError: None of them.
    """
    message: Message = _decode_short(frame) if b'"ty":' in frame else _decode_whole(frame)
    return message


def number(raw: msgspec.Raw) -> str:
    """Return a bare number's text, an exponent written out; ValueError for anything else."""
    return decimal(str(raw, "ascii"))
