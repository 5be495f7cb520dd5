"""Coinbase Exchange's messages. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from adapters.text import Number
from feed.models import Side


class Snapshot(msgspec.Struct, tag="snapshot"):
    product_id: str
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    time: str | None = None


class Update(msgspec.Struct, tag="l2update"):
    product_id: str
    changes: list[tuple[Literal["buy", "sell"], str, str]]
    time: str


class Match(msgspec.Struct, tag="match"):
    product_id: str
    trade_id: Number
    side: Side
    price: str
    size: str
    time: str


class LastMatch(msgspec.Struct, tag="last_match"):
    product_id: str
    trade_id: Number


class Past(msgspec.Struct):
    """One trade of ``/products/<id>/trades``; ``side`` is the maker's here as well."""

    trade_id: Number
    side: Side
    price: str
    size: str
    time: str


class TickerFields(msgspec.Struct, tag="ticker"):
    product_id: str
    price: str
    open_24h: str | None = None
    high_24h: str | None = None
    low_24h: str | None = None
    volume_24h: str | None = None
    best_bid: str | None = None
    best_ask: str | None = None
    time: str | None = None


class Heartbeat(msgspec.Struct, tag="heartbeat"):
    product_id: str
    time: str
    last_trade_id: Number = 0  # before the first trade


class Subscriptions(msgspec.Struct, tag="subscriptions"):
    pass


class Error(msgspec.Struct, tag="error"):
    message: str = ""
    reason: str = ""


class _Type(msgspec.Struct):
    type: str


decode = msgspec.json.Decoder(
    Snapshot | Update | Match | LastMatch | TickerFields | Heartbeat | Subscriptions | Error
).decode
decode_past = msgspec.json.Decoder(list[Past]).decode
decode_type = msgspec.json.Decoder(_Type).decode
