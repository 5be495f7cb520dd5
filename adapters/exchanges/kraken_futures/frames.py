"""Kraken Futures' messages. Pure. Numbers are bare JSON numbers, read as raw text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from adapters.text import MAX_MICROS, Millis, Number, decimal, signed
from feed.models import Level, Side

NONE = msgspec.Raw(b"null")


class RawLevel(msgspec.Struct, gc=False):
    price: msgspec.Raw
    qty: msgspec.Raw


class BookSnapshot(msgspec.Struct, tag="book_snapshot", tag_field="feed"):
    product_id: str
    timestamp: Millis
    seq: Number
    bids: list[RawLevel]
    asks: list[RawLevel]


class BookDelta(msgspec.Struct, tag="book", tag_field="feed", gc=False):
    """One level."""

    product_id: str
    side: Side
    seq: Number
    price: msgspec.Raw
    qty: msgspec.Raw
    timestamp: Millis


class Fill(msgspec.Struct, gc=False):
    """A trade; ``side`` is the taker's. Those of 2019 have no ``uid``."""

    product_id: str
    side: Side
    seq: Number
    time: Millis
    price: msgspec.Raw
    qty: msgspec.Raw
    uid: str | None = None


class LiveFill(Fill, tag="trade", tag_field="feed", gc=False):
    pass


class FillSnapshot(msgspec.Struct, tag="trade_snapshot", tag_field="feed"):
    """The last 100 trades, newest first."""

    product_id: str
    trades: list[Fill]


class TickerFields(msgspec.Struct, tag="ticker", tag_field="feed", gc=False):
    """Prices are 0 where there is none; only perpetuals have funding."""

    product_id: str
    time: Millis
    last: msgspec.Raw = NONE
    open: msgspec.Raw = NONE
    high: msgspec.Raw = NONE
    low: msgspec.Raw = NONE
    volume: msgspec.Raw = NONE
    volume_quote: msgspec.Raw = msgspec.field(name="volumeQuote", default=NONE)
    bid: msgspec.Raw = NONE
    ask: msgspec.Raw = NONE
    mark: msgspec.Raw = msgspec.field(name="markPrice", default=NONE)
    index: msgspec.Raw = NONE
    relative_funding_rate: msgspec.Raw = NONE
    next_funding_rate_time: msgspec.Raw = NONE
    open_interest: msgspec.Raw = msgspec.field(name="openInterest", default=NONE)


class TickerLite(msgspec.Struct, tag="ticker_lite", tag_field="feed"):
    pass


class Heartbeat(msgspec.Struct, tag="heartbeat", tag_field="feed"):
    pass


class Reply(msgspec.Struct):
    """What is no data: ``event`` says what it is."""

    event: str
    feed: str = ""
    product_ids: list[str] = []
    message: str = ""


Data: TypeAlias = (
    BookSnapshot | BookDelta | FillSnapshot | LiveFill | TickerFields | TickerLite | Heartbeat
)
decode: Callable[[bytes], Data] = msgspec.json.Decoder(Data).decode
decode_reply = msgspec.json.Decoder(Reply).decode


def number(raw: msgspec.Raw) -> str:
    return decimal(str(raw, "ascii"))


def number_or_none(raw: msgspec.Raw) -> str | None:
    return None if raw == NONE else number(raw)


def price_or_none(raw: msgspec.Raw) -> str | None:
    """Return a price; 0 stands for none."""
    text = number_or_none(raw)
    return text if text and text.strip("0.") else None


def rate_or_none(raw: msgspec.Raw) -> str | None:
    return None if raw == NONE else signed(str(raw, "ascii"))


def time_or_none(raw: msgspec.Raw) -> int | None:
    """Return a time given in ms, in µs; 0 is what never comes."""
    text = number_or_none(raw)
    micros = int(text.partition(".")[0]) * 1_000 if text else 0
    if micros > MAX_MICROS:
        raise ValueError(f"no time: {micros}")
    return micros or None


def levels(given: Iterable[RawLevel]) -> list[Level]:
    return [(number(level.price), number(level.qty)) for level in given]
