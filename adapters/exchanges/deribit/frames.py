"""Deribit's JSON-RPC messages. Pure; prices and amounts are bare JSON numbers, kept as raw text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Literal, TypeVar

import msgspec

from adapters.text import Millis, Number, decimal, signed
from feed.models import Level, Side

_T = TypeVar("_T")
_NONE = msgspec.Raw(b"null")


class Error(msgspec.Struct):
    code: int = 0
    message: str = "no reason given"


class Params(msgspec.Struct):
    channel: str = ""
    type: str = ""


class Frame(msgspec.Struct):
    """A notification (``method``) or the reply to a request (``result`` or ``error``)."""

    id: int | None = None
    method: str = ""
    params: Params = msgspec.field(default_factory=Params)
    result: msgspec.Raw = msgspec.Raw(b"")
    error: Error | None = None


class Notice(msgspec.Struct, Generic[_T], gc=False):
    """What a subscription brings."""

    channel: str
    data: _T


class Subscription(msgspec.Struct, Generic[_T], gc=False):
    params: Notice[_T]


Change = tuple[Literal["new", "change", "delete"], msgspec.Raw, msgspec.Raw]


class Book(msgspec.Struct, gc=False):
    """All levels, or what has changed since ``prev_change_id``; an empty book starts from 0."""

    type: Literal["snapshot", "change"]
    timestamp: Millis
    change_id: int
    bids: list[Change]
    asks: list[Change]
    prev_change_id: int | None = None


class Trade(msgspec.Struct, gc=False):
    """``direction`` is the taker's; ``trade_seq`` counts the instrument's trades."""

    trade_seq: Number
    trade_id: str
    timestamp: Millis
    price: msgspec.Raw
    amount: msgspec.Raw
    direction: Side
    instrument_name: str


class Quote(msgspec.Struct, gc=False):
    timestamp: Millis
    instrument_name: str
    best_bid_price: msgspec.Raw
    best_bid_amount: msgspec.Raw
    best_ask_price: msgspec.Raw
    best_ask_amount: msgspec.Raw


class Stats(msgspec.Struct, gc=False):
    """24 hours: ``volume`` in the base, ``volume_notional`` in the quote."""

    high: msgspec.Raw = _NONE
    low: msgspec.Raw = _NONE
    volume: msgspec.Raw = _NONE
    volume_notional: msgspec.Raw = _NONE


class Ticker(msgspec.Struct, gc=False):
    timestamp: Millis
    instrument_name: str
    stats: Stats
    last_price: msgspec.Raw = _NONE
    best_bid_price: msgspec.Raw = _NONE
    best_ask_price: msgspec.Raw = _NONE
    mark_price: msgspec.Raw = _NONE
    index_price: msgspec.Raw = _NONE
    current_funding: msgspec.Raw = _NONE
    open_interest: msgspec.Raw = _NONE


class _Past(msgspec.Struct):
    trades: list[Trade]


class _PastAnswer(msgspec.Struct):
    result: _Past


decode = msgspec.json.Decoder(Frame).decode
decode_book = msgspec.json.Decoder(Subscription[Book]).decode
decode_trades = msgspec.json.Decoder(Subscription[list[Trade]]).decode
decode_quote = msgspec.json.Decoder(Subscription[Quote]).decode
decode_ticker = msgspec.json.Decoder(Subscription[Ticker]).decode
decode_accepted = msgspec.json.Decoder(list[str]).decode
_decode_past = msgspec.json.Decoder(_PastAnswer).decode


def decode_past(body: bytes) -> list[Trade]:
    """Return the trades of ``get_last_trades_by_instrument``; ValueError for anything else."""
    return _decode_past(body).result.trades


def number(raw: msgspec.Raw) -> str:
    return decimal(str(raw, "ascii"))


def number_or_none(raw: msgspec.Raw) -> str | None:
    return None if raw == _NONE else number(raw)


def rate_or_none(raw: msgspec.Raw) -> str | None:
    return None if raw == _NONE else signed(str(raw, "ascii"))


def price_or_none(raw: msgspec.Raw) -> str | None:
    """Return a price; 0 says that there is none."""
    text = number_or_none(raw)
    return text if text is not None and text.strip("0.") else None


def levels(changes: Iterable[Change]) -> list[Level]:
    """Return what changes in a book, a deleted level with size 0.

    Raises:
        ValueError: A price or an amount is not a number.
    """
    return [
        (number(price), "0" if action == "delete" else number(amount))
        for action, price, amount in changes
    ]
