"""Bitget v2's messages. Pure. Times of the data are text in ms, read as numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from adapters.text import Millis, decimal
from feed.models import Level, Side


class Arg(msgspec.Struct, frozen=True):
    """What is subscribed to, as it is asked for and as each message names it."""

    instType: str
    channel: str
    instId: str


class Book(msgspec.Struct, gc=False):
    """``seq`` and ``pseq`` have replaced the checksum in 2026; of a snapshot it was 0."""

    asks: list[tuple[str, str]]
    bids: list[tuple[str, str]]
    ts: Millis
    seq: int | None = None
    pseq: int | None = None
    checksum: int = 0


class Books(msgspec.Struct, gc=False):
    action: Literal["snapshot", "update"]
    arg: Arg
    data: list[Book]


class Trade(msgspec.Struct, gc=False):
    ts: Millis
    price: str
    size: str
    side: Side
    tradeId: str


class Trades(msgspec.Struct, gc=False):
    action: Literal["snapshot", "update"]
    arg: Arg
    data: list[Trade]


class TickerFields(msgspec.Struct, gc=False):
    """24 hours; of contracts the state as well. What there is not is empty or missing."""

    ts: Millis
    lastPr: str = ""
    open24h: str = ""
    high24h: str = ""
    low24h: str = ""
    baseVolume: str = ""
    quoteVolume: str = ""
    bidPr: str = ""
    askPr: str = ""
    markPrice: str = ""
    indexPrice: str = ""
    fundingRate: str = ""
    nextFundingTime: str = ""
    holdingAmount: str = ""


class Tickers(msgspec.Struct, gc=False):
    arg: Arg
    data: list[TickerFields]


class Other(msgspec.Struct):
    """Any message: data (``action``), or an answer (``event``; of old, ``op``)."""

    action: str = ""
    arg: Arg | None = None
    event: str = ""
    op: str = ""
    code: int | str = ""
    msg: str = ""


decode = msgspec.json.Decoder(Other).decode
# ``strict=False``: numbers come as text.
decode_books = msgspec.json.Decoder(Books, strict=False).decode
decode_trades = msgspec.json.Decoder(Trades, strict=False).decode
decode_tickers = msgspec.json.Decoder(Tickers, strict=False).decode


def levels(given: Iterable[tuple[str, str]]) -> list[Level]:
    """Return the levels with both numbers checked; ValueError where one is none."""
    return [(decimal(price), decimal(size)) for price, size in given]
