"""Bithumb's messages, in the format ``DEFAULT``. Pure; numbers come bare and keep their text."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from adapters.text import MAX_MICROS, decimal

#: The book's times come in µs, though documented in ms like all others.
Time = Annotated[int, msgspec.Meta(ge=0, le=MAX_MICROS)]
_FIRST_MICROS = 100_000_000_000_000


class Problem(msgspec.Struct):
    name: str
    message: str = ""


class Head(msgspec.Struct, gc=False):
    """What any message is: data of a ``type``, a sign of life, or an error."""

    type: str = ""
    code: str = ""
    status: str = ""
    error: Problem | None = None


class Trade(msgspec.Struct, gc=False):
    """``stream_type`` is ``SNAPSHOT`` of the last trade before we came."""

    code: str
    trade_price: msgspec.Raw
    trade_volume: msgspec.Raw
    ask_bid: Literal["ASK", "BID"]
    trade_timestamp: Time
    sequential_id: int
    stream_type: str = ""


class Unit(msgspec.Struct, gc=False):
    """The n-th best of both sides; 0 where a side has no such level."""

    ask_price: msgspec.Raw
    bid_price: msgspec.Raw
    ask_size: msgspec.Raw
    bid_size: msgspec.Raw


class Orderbook(msgspec.Struct, gc=False):
    code: str
    units: list[Unit] = msgspec.field(name="orderbook_units")
    timestamp: Time


class Ticker(msgspec.Struct, gc=False):
    code: str
    trade_price: msgspec.Raw
    acc_trade_volume_24h: msgspec.Raw
    acc_trade_price_24h: msgspec.Raw
    timestamp: Time


decode = msgspec.json.Decoder(Head).decode
decode_trade = msgspec.json.Decoder(Trade).decode
decode_orderbook = msgspec.json.Decoder(Orderbook).decode
decode_ticker = msgspec.json.Decoder(Ticker).decode


def number(raw: msgspec.Raw) -> str:
    """Return a bare number's text, an exponent written out; ValueError for anything else."""
    return decimal(str(raw, "ascii"))


def micros(time: int) -> int:
    """Return a time in ms or µs as µs."""
    return time if time >= _FIRST_MICROS else time * 1_000
