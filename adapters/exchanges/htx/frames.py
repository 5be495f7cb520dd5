"""HTX's messages. Pure.

Every frame of the exchange is gzip; a tape may hold the text. Prices and sizes are bare JSON
numbers, in the documentation of ``bbo`` also text: their digits are taken as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from adapters.text import Millis, Number, decimal
from feed.models import Level, Side

#: What a frame may be at most when it is inflated, bytes.
MAX_INFLATED = 16 << 20
#: ``zlib``'s name of the gzip format.
_GZIP = 31
_MAGIC = b"\x1f\x8b"
_NONE = msgspec.Raw(b"null")


class Frame(msgspec.Struct):
    """Data (``ch``), the refresh of a book (``rep``), a ping, or the answer to a request."""

    ch: str = ""
    ts: Millis = 0
    tick: msgspec.Raw = _NONE
    rep: str = ""
    data: msgspec.Raw = _NONE
    ping: int | None = None
    id: str | int | None = None
    status: str = ""
    subbed: str = ""
    unsubbed: str = ""
    update: bool = False
    error: str | None = msgspec.field(name="err-msg", default=None)


class Notice(msgspec.Struct):
    """What comes where there are notifications: those, pings, and answers to requests."""

    op: str
    topic: str = ""
    ts: int | str = 0
    data: msgspec.Raw = _NONE
    code: int = msgspec.field(name="err-code", default=0)
    error: str | None = msgspec.field(name="err-msg", default=None)


#: Price and size.
RawLevel: TypeAlias = tuple[msgspec.Raw, msgspec.Raw]


class Depth(msgspec.Struct, gc=False):
    """A whole book."""

    bids: list[RawLevel]
    asks: list[RawLevel]


class Update(msgspec.Struct, gc=False):
    """A change of a book; a side that has not changed may be missing."""

    seq: Number = msgspec.field(name="seqNum")
    after: Number = msgspec.field(name="prevSeqNum")
    bids: list[RawLevel] = []
    asks: list[RawLevel] = []


class Refresh(msgspec.Struct, gc=False):
    """A whole book, and the update it is as late as."""

    seq: Number = msgspec.field(name="seqNum")
    bids: list[RawLevel]
    asks: list[RawLevel]


class Best(msgspec.Struct, gc=False):
    quoteTime: msgspec.Raw
    bid: msgspec.Raw = _NONE
    bidSize: msgspec.Raw = _NONE
    ask: msgspec.Raw = _NONE
    askSize: msgspec.Raw = _NONE
    seqId: msgspec.Raw = _NONE


class Event(msgspec.Struct, gc=False):
    """A whole book of contracts, or a change of it, one version after the other."""

    event: Literal["snapshot", "update"]
    version: Number
    bids: list[RawLevel] = []
    asks: list[RawLevel] = []


class ContractBest(msgspec.Struct, gc=False):
    ts: Millis
    mrid: Number
    bid: RawLevel | None = None
    ask: RawLevel | None = None


class ContractTrade(msgspec.Struct, gc=False):
    """One trade of contracts; the side is empty where the exchange settles by itself."""

    id: msgspec.Raw
    ts: Millis
    price: msgspec.Raw
    amount: msgspec.Raw
    direction: Literal["buy", "sell", ""]


class ContractTrades(msgspec.Struct, gc=False):
    data: list[ContractTrade]


class ContractDay(msgspec.Struct, gc=False):
    """24 hours: ``vol`` counts contracts, ``trade_turnover`` the quote, linear alone."""

    open: msgspec.Raw = _NONE
    high: msgspec.Raw = _NONE
    low: msgspec.Raw = _NONE
    close: msgspec.Raw = _NONE
    vol: msgspec.Raw = _NONE
    trade_turnover: msgspec.Raw = _NONE
    bid: RawLevel | None = None
    ask: RawLevel | None = None


class Mark(msgspec.Struct, gc=False):
    """The candle of the mark price, whose close is the last one."""

    close: msgspec.Raw


class Basis(msgspec.Struct, gc=False):
    index_price: msgspec.Raw


class Forced(msgspec.Struct, gc=False):
    """A liquidation: ``volume`` counts contracts."""

    direction: Side
    price: msgspec.Raw
    volume: msgspec.Raw
    created_at: Millis


class Trade(msgspec.Struct, gc=False):
    """One trade. Its ``id`` has up to 27 digits and is said to go; ``tradeId`` takes its place."""

    tradeId: Number
    ts: Millis
    price: msgspec.Raw
    amount: msgspec.Raw
    direction: Side


class Trades(msgspec.Struct, gc=False):
    """What one order has matched, newest first."""

    data: list[Trade]


class Past(msgspec.Struct, gc=False):
    """A trade of REST."""

    number: Number = msgspec.field(name="trade-id")
    ts: Millis
    price: msgspec.Raw
    amount: msgspec.Raw
    direction: Side


class _PastTick(msgspec.Struct):
    data: list[Past]


class _Pasts(msgspec.Struct):
    """``history/trade``: the newest first."""

    data: list[_PastTick]


class Day(msgspec.Struct, gc=False):
    """24 hours: ``detail``, or ``ticker``, which has the best prices too."""

    open: msgspec.Raw = _NONE
    high: msgspec.Raw = _NONE
    low: msgspec.Raw = _NONE
    close: msgspec.Raw = _NONE
    amount: msgspec.Raw = _NONE
    vol: msgspec.Raw = _NONE
    bid: msgspec.Raw = _NONE
    ask: msgspec.Raw = _NONE


_decode = msgspec.json.Decoder(Frame).decode
_decode_pasts = msgspec.json.Decoder(_Pasts).decode
decode_notice = msgspec.json.Decoder(Notice).decode
decode_depth = msgspec.json.Decoder(Depth).decode
decode_update = msgspec.json.Decoder(Update).decode
decode_refresh = msgspec.json.Decoder(Refresh).decode
decode_best = msgspec.json.Decoder(Best).decode
decode_trades = msgspec.json.Decoder(Trades).decode
decode_day = msgspec.json.Decoder(Day).decode
decode_event = msgspec.json.Decoder(Event).decode
decode_contract_best = msgspec.json.Decoder(ContractBest).decode
decode_contract_trades = msgspec.json.Decoder(ContractTrades).decode
decode_contract_day = msgspec.json.Decoder(ContractDay).decode
decode_mark = msgspec.json.Decoder(Mark).decode
decode_basis = msgspec.json.Decoder(Basis).decode
decode_forced = msgspec.json.Decoder(list[Forced]).decode


def inflate(frame: bytes) -> bytes:
    """Return a frame's text.

    Raises:
        ValueError: It is gzip, but cut off, damaged, or longer than ``MAX_INFLATED``.
    """
    if not frame.startswith(_MAGIC):
        return frame
    inflater = zlib.decompressobj(_GZIP)
    try:
        text = inflater.decompress(frame, MAX_INFLATED)
    except zlib.error as e:
        raise ValueError(f"not gzip: {e}") from e
    if not inflater.eof or inflater.unused_data:
        raise ValueError("not one whole gzip member of a size we take")
    return text


def decode(frame: bytes) -> Frame:
    """Return what a frame says; ValueError where it is no frame."""
    return _decode(inflate(frame))


def decode_pasts(body: bytes) -> list[Past]:
    """Return the trades of REST, oldest first."""
    return sorted(
        (one for tick in _decode_pasts(body).data for one in tick.data),
        key=lambda one: one.number,
    )


def number(raw: msgspec.Raw) -> str:
    return decimal(str(raw, "ascii"))


def plain(raw: msgspec.Raw) -> str:
    """Return a number that comes as text."""
    return decimal(str(raw, "ascii").strip('"'))


def optional(raw: msgspec.Raw) -> str | None:
    """Return a number that may come as text, or not at all; 0 is none either."""
    text = str(raw, "ascii").strip('"')
    if text in ("null", ""):
        return None
    found = decimal(text)
    return found if found.strip("0.") else None


def trade_id(raw: msgspec.Raw) -> str:
    """Return an id, which has up to 19 digits; ValueError for anything else."""
    text = str(raw, "ascii").strip('"')
    if not (text.isascii() and text.isdecimal() and len(text) <= 40):
        raise ValueError(f"{text[:40]!r} is no trade's id")
    return text


def integer(raw: msgspec.Raw) -> int | None:
    """Return a whole number that may come as text, or not at all.

    Raises:
        ValueError: Something else.
    """
    text = str(raw, "ascii").strip('"')
    if text == "null":
        return None
    if not text.isdecimal() or not text.isascii() or len(text) > 16:
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(text)


def levels(given: Iterable[RawLevel]) -> list[Level]:
    return [(number(price), number(size)) for price, size in given]
