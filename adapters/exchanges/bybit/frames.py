"""Bybit v5's messages. Pure; keys come in another order on spot than on linear."""

from __future__ import annotations

from typing import Literal

import msgspec

from adapters.text import MAX_MICROS, Millis, decimal


class Frame(msgspec.Struct):
    """Data (``topic``) or the reply to a request (``op``, for options ``COMMAND_RESP``)."""

    topic: str = ""
    type: str = ""
    ts: Millis = 0
    cts: Millis = 0
    data: msgspec.Raw = msgspec.Raw(b"null")
    op: str = ""
    success: bool = True
    ret_msg: str | None = None
    req_id: str | int | None = None


class Book(msgspec.Struct):
    b: list[tuple[str, str]]
    a: list[tuple[str, str]]
    u: int


class Trade(msgspec.Struct):
    T: Millis
    S: Literal["Buy", "Sell"]
    v: str
    p: str
    i: str


class Liquidation(msgspec.Struct):
    """``S`` is the side of the position, ``p`` its bankruptcy price."""

    T: Millis
    S: Literal["Buy", "Sell"]
    v: str
    p: str


class TickerFields(msgspec.Struct):
    """A ticker's fields, ``None`` where the frame does not have them."""

    lastPrice: str | None = None
    prevPrice24h: str | None = None
    highPrice24h: str | None = None
    lowPrice24h: str | None = None
    volume24h: str | None = None
    turnover24h: str | None = None
    bid1Price: str | None = None
    ask1Price: str | None = None
    markPrice: str | None = None
    indexPrice: str | None = None
    fundingRate: str | None = None
    nextFundingTime: str | None = None
    openInterest: str | None = None


class Outcome(msgspec.Struct):
    fail_topics: list[str] = msgspec.field(name="failTopics", default_factory=list)


decode = msgspec.json.Decoder(Frame).decode
decode_book = msgspec.json.Decoder(Book).decode
decode_trades = msgspec.json.Decoder(list[Trade]).decode
decode_liquidations = msgspec.json.Decoder(list[Liquidation]).decode
decode_ticker = msgspec.json.Decoder(TickerFields).decode
decode_outcome = msgspec.json.Decoder(Outcome).decode


def from_millis(text: str | None) -> int | None:
    """Return a time given as text in ms, in µs; 0 is what never comes."""
    micros = int(decimal(text)) * 1_000 if text else 0
    if micros > MAX_MICROS:
        raise ValueError(f"no time: {micros}")
    return micros or None


def is_snapshot(message: Frame) -> bool:
    """Whether it is a snapshot; ValueError where it is no delta either."""
    if message.type not in ("snapshot", "delta"):
        raise ValueError(f"neither snapshot nor delta: {message.type[:40]!r}")
    return message.type == "snapshot"
