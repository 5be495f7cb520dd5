"""OKX v5's messages. Pure.

Times are text in ms, which the decoders read as numbers. A level is price, size, a field that is
out of use, and the number of orders.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from adapters.text import MAX_MICROS, Millis, Number, decimal
from feed.models import Level, Side


class Arg(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is subscribed to, as it is asked for and as each message names it."""

    channel: str
    instId: str = ""
    instType: str = ""


class RawLevel(msgspec.Struct, array_like=True, gc=False):
    price: str
    size: str


class Book(msgspec.Struct, gc=False):
    asks: list[RawLevel]
    bids: list[RawLevel]
    ts: Millis
    checksum: int = 0
    seqId: int | None = None
    prevSeqId: int | None = None


class Books(msgspec.Struct, gc=False):
    arg: Arg
    action: Literal["snapshot", "update"]
    data: list[Book]


class Bests(msgspec.Struct, gc=False):
    arg: Arg
    data: list[Book]


class Trade(msgspec.Struct, gc=False):
    """Trades of one taker order at one price; ``tradeId`` is the last one's."""

    tradeId: Number
    px: str
    sz: str
    side: Side
    ts: Millis
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Trades(msgspec.Struct, gc=False):
    arg: Arg
    data: list[Trade]


class TickerFields(msgspec.Struct, gc=False):
    """24 hours; what there never was is empty."""

    last: str
    askPx: str
    bidPx: str
    open24h: str
    high24h: str
    low24h: str
    volCcy24h: str
    vol24h: str
    ts: Millis


class Tickers(msgspec.Struct, gc=False):
    arg: Arg
    data: list[TickerFields]


class MarkPrice(msgspec.Struct, gc=False):
    markPx: str
    ts: Millis


class MarkPrices(msgspec.Struct, gc=False):
    arg: Arg
    data: list[MarkPrice]


class Index(msgspec.Struct, gc=False):
    idxPx: str
    ts: Millis


class Indices(msgspec.Struct, gc=False):
    arg: Arg
    data: list[Index]


class Funding(msgspec.Struct, gc=False):
    """``fundingRate`` is paid at ``fundingTime``; ``ts`` came later than the channel."""

    fundingTime: str
    fundingRate: str = ""
    ts: Millis | None = None


class Fundings(msgspec.Struct, gc=False):
    arg: Arg
    data: list[Funding]


class OpenInterest(msgspec.Struct, gc=False):
    """``oi`` is in contracts."""

    oi: str
    ts: Millis


class OpenInterests(msgspec.Struct, gc=False):
    arg: Arg
    data: list[OpenInterest]


class Liquidated(msgspec.Struct, gc=False):
    side: Side
    bkPx: str
    sz: str
    ts: Millis


class Liquidations(msgspec.Struct, gc=False):
    """Of one instrument; a message may be of several."""

    instId: str
    details: list[Liquidated]


class LiquidationOrders(msgspec.Struct, gc=False):
    arg: Arg
    data: list[Liquidations]


class Other(msgspec.Struct):
    """Any message: data of a channel (``arg``), or an answer (``event``)."""

    arg: Arg | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    event: str = ""
    code: str = ""
    msg: str = ""
    id: str = ""


class _Past(msgspec.Struct):
    data: list[Trade]


decode = msgspec.json.Decoder(Other).decode
# ``strict=False``: numbers come as text.
decode_books = msgspec.json.Decoder(Books, strict=False).decode
decode_bests = msgspec.json.Decoder(Bests, strict=False).decode
decode_trades = msgspec.json.Decoder(Trades, strict=False).decode
decode_tickers = msgspec.json.Decoder(Tickers, strict=False).decode
decode_marks = msgspec.json.Decoder(MarkPrices, strict=False).decode
decode_indices = msgspec.json.Decoder(Indices, strict=False).decode
decode_fundings = msgspec.json.Decoder(Fundings, strict=False).decode
decode_interests = msgspec.json.Decoder(OpenInterests, strict=False).decode
decode_liquidations = msgspec.json.Decoder(LiquidationOrders, strict=False).decode
_decode_past = msgspec.json.Decoder(_Past, strict=False).decode


def decode_past(body: bytes) -> list[Trade]:
    """Return trades of the past, oldest first; each is one, not a taker order's."""
    return _decode_past(body).data[::-1]


def levels(given: Iterable[RawLevel]) -> list[Level]:
    """Return the levels with both numbers checked; ValueError where one is none."""
    return [(decimal(level.price), decimal(level.size)) for level in given]


def from_millis(text: str) -> int | None:
    """Return a time given as text in ms, in µs; None where it is empty."""
    micros = int(decimal(text)) * 1_000 if text else None
    if micros is not None and micros > MAX_MICROS:
        raise ValueError(f"no time: {micros}")
    return micros
