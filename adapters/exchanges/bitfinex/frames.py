"""Bitfinex's messages, and the checksum of its books. Pure.

Data are arrays that may grow at their end; numbers are bare, their digits those of JavaScript.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Annotated, TypeAlias
from zlib import crc32

import msgspec

from adapters.text import MAX_MICROS, Millis, Number, decimal, signed
from feed.models import Level, Side

#: Levels a side that the checksum is of.
PROVEN = 25

_NONE = msgspec.Raw(b"null")


class Envelope(msgspec.Struct, array_like=True, gc=False):
    """``[channel, payload, …]`` or ``[channel, "tag", payload, …]``.

    Behind it come, as far as ``conf`` asked for them, the frame's number and time.
    """

    channel: int
    first: msgspec.Raw
    second: msgspec.Raw = _NONE
    third: msgspec.Raw = _NONE
    fourth: msgspec.Raw = _NONE


class RawLevel(msgspec.Struct, array_like=True, gc=False):
    """Gone where ``count`` is 0; of the asks where ``amount`` is negative."""

    price: msgspec.Raw
    count: Annotated[int, msgspec.Meta(ge=0)]
    amount: msgspec.Raw


class Trade(msgspec.Struct, array_like=True, gc=False):
    """The taker has sold where ``amount`` is negative."""

    id: Number
    time: Millis
    amount: msgspec.Raw
    price: msgspec.Raw


#: Of a trade: id, time in µs, price, size, side.
Done: TypeAlias = tuple[int, int, str, str, Side]


class TickerFields(msgspec.Struct, array_like=True, gc=False):
    bid: msgspec.Raw
    bid_size: msgspec.Raw
    ask: msgspec.Raw
    ask_size: msgspec.Raw
    change: msgspec.Raw
    relative_change: msgspec.Raw
    last: msgspec.Raw
    volume: msgspec.Raw
    high: msgspec.Raw
    low: msgspec.Raw


class Status(msgspec.Struct, array_like=True, gc=False):
    """A perpetual's state. ``funding`` is of the running period, ``accrued`` of the next."""

    time: Millis
    _1: msgspec.Raw
    last: msgspec.Raw
    spot: msgspec.Raw
    _4: msgspec.Raw
    insurance: msgspec.Raw
    _6: msgspec.Raw
    funding_time: Millis | None
    accrued: msgspec.Raw = _NONE
    step: msgspec.Raw = _NONE
    _10: msgspec.Raw = _NONE
    funding: msgspec.Raw = _NONE
    _12: msgspec.Raw = _NONE
    _13: msgspec.Raw = _NONE
    mark: msgspec.Raw = _NONE
    _15: msgspec.Raw = _NONE
    _16: msgspec.Raw = _NONE
    open_interest: msgspec.Raw = _NONE


#: Of a perpetual: mark, index, funding rate and time in µs, open interest.
State: TypeAlias = tuple[str | None, str | None, str | None, int | None, str | None]


class Event(msgspec.Struct):
    """What is no data: an answer, or a notice (``info``)."""

    event: str
    channel: str = ""
    chan: int | None = msgspec.field(name="chanId", default=None)
    symbol: str = ""
    key: str = ""
    prec: str = ""
    flags: int = 0
    code: int | None = None
    msg: str = ""


decode = msgspec.json.Decoder(Envelope).decode
decode_event = msgspec.json.Decoder(Event).decode
decode_level = msgspec.json.Decoder(RawLevel).decode
decode_levels = msgspec.json.Decoder(list[RawLevel]).decode
_decode_trade = msgspec.json.Decoder(Trade).decode
decode_trades = msgspec.json.Decoder(list[Trade]).decode
_decode_ticker = msgspec.json.Decoder(TickerFields).decode
_decode_status = msgspec.json.Decoder(Status).decode
decode_int = msgspec.json.Decoder(int).decode


def is_list(payload: bytes) -> bool:
    """Whether a payload is a list of entries rather than one of them."""
    return payload[1:2] in (b"[", b"]")


def count_or_none(raw: msgspec.Raw) -> int | None:
    """Return a frame's number or time; None where there is none, or something else stands."""
    text = bytes(raw)
    return int(text) if text.isdigit() and len(text) < 17 else None


def number_or_none(raw: msgspec.Raw) -> str | None:
    return None if raw == _NONE else decimal(str(raw, "ascii"))


def rate_or_none(raw: msgspec.Raw) -> str | None:
    return None if raw == _NONE else signed(str(raw, "ascii"))


def micros_or_none(millis: int | None) -> int | None:
    """Return a time in ms as µs; None where there is none, or none that can be."""
    return millis * 1_000 if millis and millis <= MAX_MICROS // 1_000 else None


def amount(raw: msgspec.Raw) -> tuple[Side, str]:
    """Return what the sign of an amount says, and its size."""
    text = str(raw, "ascii")
    return ("sell", decimal(text[1:])) if text.startswith("-") else ("buy", decimal(text))


def read_trade(payload: bytes) -> Done:
    one = _decode_trade(payload)
    side, size = amount(one.amount)
    return one.id, one.time * 1_000, decimal(str(one.price, "ascii")), size, side


def read_day(payload: bytes) -> tuple[str | None, ...]:
    """Return a ticker's values as our ticker has them; where the day began is not told."""
    one = _decode_ticker(payload)
    last, high, low = map(number_or_none, (one.last, one.high, one.low))
    volume, bid, ask = map(number_or_none, (one.volume, one.bid, one.ask))
    return last, None, high, low, volume, None, bid, ask


def read_state(payload: bytes) -> tuple[int, State]:
    """Return a perpetual's state, and before it of when it is, µs."""
    one = _decode_status(payload)
    return one.time * 1_000, (
        number_or_none(one.mark),
        number_or_none(one.spot),
        rate_or_none(one.funding),
        micros_or_none(one.funding_time),
        number_or_none(one.open_interest),
    )


def sides(given: Sequence[RawLevel]) -> tuple[list[Level], list[Level]]:
    """Return bids and asks; a level that is gone has size 0."""
    bids: list[Level] = []
    asks: list[Level] = []
    for one in given:
        side, size = amount(one.amount)
        level = decimal(str(one.price, "ascii")), size if one.count else "0"
        (bids if side == "buy" else asks).append(level)
    return bids, asks


@lru_cache(maxsize=1 << 16)
def _written(text: str) -> str:
    """Return a number as JavaScript writes it: what is less than 0.000001 has an exponent."""
    if not text.startswith("0.000000"):
        return text
    digits = text[2:].lstrip("0")
    exponent = len(text) - 1 - len(digits)
    return f"{digits[:1]}{'.' if digits[1:] else ''}{digits[1:]}e-{exponent}"


def checksum(bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """Return Bitfinex's CRC32 of the best levels, best first; signed, as it is sent."""
    texts: list[str] = []
    for bid, ask in zip_longest(bids, asks):
        if bid is not None:
            texts += (_written(bid[0]), _written(bid[1]))
        if ask is not None:
            texts += (_written(ask[0]), "-" + _written(ask[1]))
    proof = crc32(":".join(texts).encode())
    return proof - (1 << 32) if proof >> 31 else proof
