"""The dYdX indexer's messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from adapters.text import Number, decimal
from feed.models import Level


class Frame(msgspec.Struct, gc=False):
    """Any message; ``contents`` is a list in ``channel_batch_data``."""

    type: str
    message_id: Number
    channel: str = ""
    id: str = ""
    contents: msgspec.Raw = msgspec.Raw(b"")
    message: str = ""


class PriceLevel(msgspec.Struct, gc=False):
    price: str
    size: str


RawLevel: TypeAlias = PriceLevel | tuple[str, str]


class Book(msgspec.Struct, gc=False):
    """The levels of a snapshot are objects, those of an update pairs; one side may be absent."""

    bids: list[RawLevel] = []
    asks: list[RawLevel] = []


class Trade(msgspec.Struct, gc=False, rename="camel"):
    """``side`` is the taker's."""

    id: str
    side: Literal["BUY", "SELL"]
    size: str
    price: str
    created_at: str


class Trades(msgspec.Struct, gc=False):
    """Those told at the subscription come newest first."""

    trades: list[Trade]


class Market(msgspec.Struct, gc=False):
    """A market's figures; an update has what has changed. Funding is of one hour."""

    oracle_price: str | None = msgspec.field(name="oraclePrice", default=None)
    volume: str | None = msgspec.field(name="volume24H", default=None)
    funding_rate: str | None = msgspec.field(name="nextFundingRate", default=None)
    open_interest: str | None = msgspec.field(name="openInterest", default=None)


class Markets(msgspec.Struct, gc=False, rename="camel"):
    """``markets`` is whole, the others are updates."""

    markets: dict[str, Market] = {}
    trading: dict[str, Market] = {}
    oracle_prices: dict[str, Market] = {}


decode = msgspec.json.Decoder(Frame).decode
_decode_book = msgspec.json.Decoder(Book).decode
_decode_books = msgspec.json.Decoder(list[Book]).decode
_decode_trades = msgspec.json.Decoder(Trades).decode
_decode_more_trades = msgspec.json.Decoder(list[Trades]).decode
_decode_markets = msgspec.json.Decoder(Markets).decode
_decode_more_markets = msgspec.json.Decoder(list[Markets]).decode


def is_batch(frame: Frame) -> bool:
    return frame.type == "channel_batch_data"


def books(frame: Frame) -> list[Book]:
    contents = frame.contents
    return _decode_books(contents) if is_batch(frame) else [_decode_book(contents)]


def trades(frame: Frame) -> list[Trade]:
    """Return a message's trades, oldest first."""
    if is_batch(frame):
        return [one for part in _decode_more_trades(frame.contents) for one in part.trades]
    found = _decode_trades(frame.contents).trades
    return found[::-1] if frame.type == "subscribed" else found


def markets(frame: Frame) -> list[Markets]:
    contents = frame.contents
    return _decode_more_markets(contents) if is_batch(frame) else [_decode_markets(contents)]


def levels(given: Iterable[RawLevel]) -> list[Level]:
    """Return a side's levels; ValueError where one is not a number."""
    return [
        (decimal(one.price), decimal(one.size))
        if isinstance(one, PriceLevel)
        else (decimal(one[0]), decimal(one[1]))
        for one in given
    ]
