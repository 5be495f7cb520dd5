"""Gate v4's messages. Pure.

Numbers come as text or bare, by channel and age: futures sizes are text since connections ask for
decimal ones, and were integers before. ``Digits`` takes both, ``text`` gives back what was sent.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from adapters.text import MAX_MICROS, Millis, Number, decimal
from feed.models import Level

#: Text, or a bare number: an ``int``, or the text of one with a point.
Digits: TypeAlias = Any
L = TypeVar("L")


class Error(msgspec.Struct):
    code: int = 0
    message: str = ""


class Frame(msgspec.Struct):
    """Data (``update``), an answer (``subscribe``, ``unsubscribe``) or a pong (no event)."""

    channel: str
    event: str = ""
    time: Digits = 0
    time_ms: Millis = 0
    id: Digits = None
    error: Error | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")


class SpotTrade(msgspec.Struct, gc=False):
    """``side`` is the taker's."""

    currency_pair: str
    id: int
    side: Literal["buy", "sell"]
    amount: Digits
    price: Digits
    create_time_ms: Digits


class FuturesTrade(msgspec.Struct, gc=False):
    """A positive ``size`` is of a buying taker. Internal ones are takeovers of liquidated positions
    by the insurance fund or by other traders: not matched in the book."""

    contract: str
    id: int
    size: Digits
    price: Digits
    create_time: int = 0
    create_time_ms: Digits = None
    is_internal: bool = False


class BookTicker(msgspec.Struct, gc=False):
    """The best bid and ask; an empty side's price is empty. ``t`` is 0 where nothing ever came."""

    s: str
    b: Digits
    B: Digits
    a: Digits
    A: Digits
    t: Millis = 0


class PriceSize(msgspec.Struct, gc=False):
    p: Digits
    s: Digits


class Update(msgspec.Struct, Generic[L], gc=False):
    """Of ``obu`` (``s`` is ``ob.BTC_USDT.400``) and of ``order_book_update``.

    ``U`` and ``u`` are the first and last update in it; one without levels moves them on. A full
    one replaces the book.
    """

    s: str
    t: Millis
    u: Number
    U: Number | None = None
    full: bool = False
    b: list[L] = []
    a: list[L] = []


class Snapshot(msgspec.Struct, Generic[L], gc=False):
    """The REST book, asked for ``with_id``."""

    id: Number
    bids: list[L]
    asks: list[L]


class SpotTicker(msgspec.Struct, gc=False):
    currency_pair: str
    last: Digits
    high_24h: Digits = None
    low_24h: Digits = None
    base_volume: Digits = None
    quote_volume: Digits = None
    highest_bid: Digits = None
    lowest_ask: Digits = None


class FuturesTicker(msgspec.Struct, gc=False):
    """Volume and open interest (``total_size``) are in contracts."""

    contract: str
    last: Digits
    high_24h: Digits = None
    low_24h: Digits = None
    volume_24h: Digits = None
    volume_24h_quote: Digits = None
    mark_price: Digits = None
    index_price: Digits = None
    funding_rate: Digits = None
    funding_next_apply: int | None = None
    total_size: Digits = None


class Notice(msgspec.Struct):
    type: str = ""


Pair: TypeAlias = tuple[Digits, Digits]


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    # A bare number with a point stays its own text.
    return msgspec.json.Decoder(kind, float_hook=str)


decode = msgspec.json.Decoder(Frame, float_hook=str).decode
decode_spot_trade = _decoder(SpotTrade).decode
decode_futures_trades = _decoder(list[FuturesTrade]).decode
decode_book_ticker = _decoder(BookTicker).decode
decode_spot_ticker = _decoder(SpotTicker).decode
decode_futures_tickers = _decoder(list[FuturesTicker]).decode
decode_notice = _decoder(Notice).decode
#: Levels as pairs, and as futures' ``order_book_update`` and REST books have them.
UPDATES = _decoder(Update[Pair])
UPDATES_OF_OBJECTS = _decoder(Update[PriceSize])
SNAPSHOTS = _decoder(Snapshot[Pair])
SNAPSHOTS_OF_OBJECTS = _decoder(Snapshot[PriceSize])


def text(value: Digits) -> str:
    """Return a number as it was sent.

    Raises:
        ValueError: Neither text nor a number.
    """
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise ValueError(f"{value!r} is not a number"[:80])


def optional(value: Digits) -> str | None:
    """Return a number without sign, as it was sent; None where there is none."""
    return None if value is None or value == "" else decimal(text(value))


def price_levels(given: list[Any]) -> list[Level]:
    """Return levels of either form with their digits checked."""
    return [
        (decimal(text(one.p)), decimal(text(one.s)))
        if type(one) is PriceSize
        else (decimal(text(one[0])), decimal(text(one[1])))
        for one in given
    ]


def from_millis(value: Digits) -> int:
    """Return a time in ms, which may have a fraction, in µs."""
    whole, _, fraction = decimal(text(value)).partition(".")
    micros = int(whole) * 1_000 + int(fraction[:3].ljust(3, "0"))
    if micros > MAX_MICROS:
        raise ValueError(f"no time: {micros}")
    return micros


def seconds(value: Any) -> int:
    """Return a time in s as µs; 0 is none."""
    if type(value) is not int or not 0 <= value <= MAX_MICROS // 1_000_000:
        raise ValueError(f"no time: {value!r}"[:80])
    return value * 1_000_000


def told(message: Frame) -> int:
    """Return when a message was sent, in µs: once in whole seconds."""
    return message.time_ms * 1_000 or seconds(message.time)
