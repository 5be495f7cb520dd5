"""KuCoin's messages. Pure; keys come in any order.

Where numbers come bare, or have come both ways over the years, their text is kept as it is.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from adapters.text import MAX_MICROS, Millis, Number, decimal, signed

NOTHING = msgspec.Raw(b"null")


class Frame(msgspec.Struct, gc=False):
    """Data (``topic``), or what the service says itself (``type``)."""

    topic: str = ""
    data: msgspec.Raw = NOTHING
    subject: str = ""
    type: str = ""
    id: str | int | None = None
    code: int | str | None = None


class Match(msgspec.Struct, gc=False):
    """A trade of spot; ``time`` in ns."""

    symbol: str
    side: Literal["buy", "sell"]
    price: str
    size: str
    trade_id: str = msgspec.field(name="tradeId")
    time: str


class Execution(msgspec.Struct, gc=False):
    """A trade of futures; ``size`` in contracts, ``ts`` in ns."""

    symbol: str
    side: Literal["buy", "sell"]
    price: msgspec.Raw
    size: msgspec.Raw
    trade_id: str = msgspec.field(name="tradeId")
    ts: int


class Changes(msgspec.Struct, gc=False):
    """Levels as price, size and the number of the change, which comes as text."""

    asks: list[tuple[str, str, Number]]
    bids: list[tuple[str, str, Number]]


class Level2(msgspec.Struct, gc=False, rename="camel"):
    """Changes of a spot book; in 2021 without a time."""

    sequence_start: Number
    sequence_end: Number
    symbol: str
    changes: Changes
    time: Millis | None = None


class Change(msgspec.Struct, gc=False):
    """One change of a futures book, as ``price,side,size``."""

    sequence: Number
    change: str
    timestamp: Millis


class Snapshot(msgspec.Struct, gc=False):
    """A book by REST; spot has ``time`` in ms and the sequence as text, futures ``ts`` in ns."""

    sequence: int | str
    bids: list[tuple[msgspec.Raw, msgspec.Raw]] | None
    asks: list[tuple[msgspec.Raw, msgspec.Raw]] | None
    time: Millis | None = None
    ts: int | None = None


class SnapshotAnswer(msgspec.Struct, gc=False):
    data: Snapshot


class Day(msgspec.Struct, gc=False, rename="camel"):
    """The last 24 hours on spot."""

    symbol: str
    datetime: Millis
    last_traded_price: msgspec.Raw = NOTHING
    open: msgspec.Raw = NOTHING
    high: msgspec.Raw = NOTHING
    low: msgspec.Raw = NOTHING
    vol: msgspec.Raw = NOTHING
    vol_value: msgspec.Raw = NOTHING
    buy: msgspec.Raw = NOTHING
    sell: msgspec.Raw = NOTHING


class DayData(msgspec.Struct, gc=False):
    data: Day


class FuturesDay(msgspec.Struct, gc=False, rename="camel"):
    """The last 24 hours of a contract; ``ts`` in ns."""

    ts: int
    last_price: msgspec.Raw = NOTHING
    high_price: msgspec.Raw = NOTHING
    low_price: msgspec.Raw = NOTHING
    volume: msgspec.Raw = NOTHING
    turnover: msgspec.Raw = NOTHING


class MarkIndex(msgspec.Struct, gc=False, rename="camel"):
    mark_price: msgspec.Raw
    index_price: msgspec.Raw
    timestamp: Millis


class Funding(msgspec.Struct, gc=False, rename="camel"):
    funding_rate: msgspec.Raw
    timestamp: Millis


class Server(msgspec.Struct):
    endpoint: str


class Bullet(msgspec.Struct):
    token: str
    servers: list[Server] = msgspec.field(name="instanceServers")


class BulletAnswer(msgspec.Struct):
    data: Bullet


decode = msgspec.json.Decoder(Frame).decode
decode_match = msgspec.json.Decoder(Match).decode
decode_execution = msgspec.json.Decoder(Execution).decode
decode_level2 = msgspec.json.Decoder(Level2, strict=False).decode
decode_change = msgspec.json.Decoder(Change).decode
decode_snapshot = msgspec.json.Decoder(SnapshotAnswer).decode
decode_day = msgspec.json.Decoder(DayData).decode
decode_futures_day = msgspec.json.Decoder(FuturesDay).decode
decode_mark_index = msgspec.json.Decoder(MarkIndex).decode
decode_funding = msgspec.json.Decoder(Funding).decode
decode_bullet = msgspec.json.Decoder(BulletAnswer).decode


def text(raw: msgspec.Raw) -> str:
    """Return a value's text, without the quotes where it has some."""
    return str(raw, "ascii").strip('"')


def number(raw: msgspec.Raw) -> str:
    """Return the number that comes bare or as text; ValueError for anything else."""
    return decimal(text(raw))


def optional(raw: msgspec.Raw) -> str | None:
    """As ``number``; None for ``null``."""
    return None if raw == NOTHING else number(raw)


def rate(raw: msgspec.Raw) -> str:
    """As ``number``, of a rate that may be negative."""
    return signed(text(raw))


def from_nanos(nanos: int | str) -> int:
    """Return a time in ns as µs; ValueError where it is none."""
    if isinstance(nanos, str) and not (nanos.isascii() and nanos.isdigit()):
        raise ValueError(f"no time: {nanos[:40]!r}")
    micros = int(nanos) // 1_000
    if not 0 <= micros <= MAX_MICROS:
        raise ValueError("no time in nanoseconds")
    return micros
