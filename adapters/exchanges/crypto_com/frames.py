"""Crypto.com's messages. Pure. Numbers are text today; tapes of 2021 have them bare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from adapters.text import Millis, Number, decimal, signed
from feed.models import Level

_NONE = msgspec.Raw(b"null")
#: The id of what was not asked for.
PUSHED = -1


class Result(msgspec.Struct):
    subscription: str
    channel: str
    data: msgspec.Raw


class Frame(msgspec.Struct):
    """Data (``result``), a heartbeat, an ack or a refusal (``code``, ``channel``)."""

    method: str = ""
    id: int | None = None
    code: int = 0
    channel: str = ""
    message: str | None = None
    result: Result | None = None


#: Price, size and the number of orders.
RawLevel: TypeAlias = tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]


class Snapshot(msgspec.Struct, gc=False):
    """A whole book; ``u`` was not there in 2021."""

    bids: list[RawLevel]
    asks: list[RawLevel]
    t: Millis
    u: Number | None = None


class Changes(msgspec.Struct, gc=False):
    bids: list[RawLevel]
    asks: list[RawLevel]


class Update(msgspec.Struct, gc=False):
    """A change of a book, and which one it follows."""

    update: Changes
    t: Millis
    u: Number
    pu: Number


class Trade(msgspec.Struct, gc=False):
    d: msgspec.Raw
    t: Millis
    p: msgspec.Raw
    q: msgspec.Raw
    s: Literal["BUY", "SELL"]


class Ticker(msgspec.Struct, gc=False):
    """Last (``a``), best bid and ask, high, low, volumes and open interest; ``vv`` is in USD."""

    t: Millis
    a: msgspec.Raw = _NONE
    b: msgspec.Raw = _NONE
    k: msgspec.Raw = _NONE
    h: msgspec.Raw = _NONE
    l: msgspec.Raw = _NONE  # noqa: E741 - the exchange's name of it
    v: msgspec.Raw = _NONE
    vv: msgspec.Raw = _NONE
    oi: msgspec.Raw = _NONE


class Value(msgspec.Struct, gc=False):
    """Of ``mark``, ``index`` and ``funding``."""

    v: msgspec.Raw
    t: Millis


decode = msgspec.json.Decoder(Frame).decode
decode_snapshot = msgspec.json.Decoder(tuple[Snapshot]).decode
decode_update = msgspec.json.Decoder(tuple[Update]).decode
decode_trades = msgspec.json.Decoder(list[Trade]).decode
decode_ticker = msgspec.json.Decoder(tuple[Ticker]).decode
decode_value = msgspec.json.Decoder(tuple[Value]).decode


def _text(raw: msgspec.Raw) -> str:
    text = str(raw, "ascii")
    return text[1:-1] if text.startswith('"') else text


def number(raw: msgspec.Raw) -> str:
    return decimal(_text(raw))


def rate(raw: msgspec.Raw) -> str:
    return signed(_text(raw))


def optional(raw: msgspec.Raw) -> str | None:
    """Return a number that may be missing."""
    text = _text(raw)
    return None if text == "null" else decimal(text)


def trade_id(raw: msgspec.Raw) -> str:
    """Return an id, which has up to 19 digits; ValueError for anything else."""
    text = _text(raw)
    if not (text.isascii() and text.isdecimal() and len(text) <= 40):
        raise ValueError(f"{text[:40]!r} is no trade's id")
    return text


def levels(given: Iterable[RawLevel]) -> list[Level]:
    return [(number(price), number(size)) for price, size, _ in given]
