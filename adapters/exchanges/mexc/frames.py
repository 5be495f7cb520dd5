"""MEXC's messages: protobuf for data, JSON for answers. Pure.

Source: mexcdevelop/websocket-proto. A field that is left out is empty or 0; unknown ones are passed
over. Field numbers of ``PushDataV3ApiWrapper``: 1 channel, 3 symbol, 5 when it was made, 6 when it
was sent, from 301 on what it is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from adapters.base import Stream
from adapters.exchanges.mexc.wire import fields, message, number, text
from adapters.text import MAX_MICROS, decimal
from feed.models import Level, Side

_SIDES: dict[int, Side] = {1: "buy", 2: "sell"}
#: Of a subscription's name: what it is of, and the two parts behind it.
_NAME = re.compile(r"spot@public\.([A-Za-z.]+?)\.v3\.api\.pb(?:@([^@]+))?(?:@([^@]+))?").fullmatch
#: Of all symbols at once: the part behind it is a time zone.
ALL_TICKERS = "miniTickers"
#: Channels that are named with their speed, before the symbol.
_AGGREGATED = "aggre."
#: Longest message whose lengths all fit one byte.
_SHORT = 128


class Frame(NamedTuple):
    """A wrapper.

    Attributes:
        name: As subscribed to.
        ts: When it was sent, or else made, µs; None where it says neither.
        body: What it is about: a message; None where there is none, and so nothing to tell.
    """

    name: str
    symbol: str
    ts: int | None
    body: bytes | None


class Deal(NamedTuple):
    """A trade; ``id`` is sent since 2026."""

    id: str | None
    price: str
    size: str
    side: Side
    ts: int | None


class Update(NamedTuple):
    """Changed levels, of the versions from ``first`` to ``last``."""

    first: int
    last: int
    bids: list[Level]
    asks: list[Level]


class Day(NamedTuple):
    """The last 24 hours; None where nothing is told."""

    last: str | None
    high: str | None
    low: str | None
    volume: str | None
    quote_volume: str | None


class Reply(msgspec.Struct):
    """The answer to a request; a ``code`` of 0 is told of refusals too."""

    msg: str
    code: int = 0


decode_reply = msgspec.json.Decoder(Reply).decode


def name_of(stream: Stream) -> str:
    """Return what a stream is subscribed to by: ``miniTicker@24H`` has its option last."""
    kind, _, option = stream.channel.partition("@")
    parts = [option, stream.native] if kind.startswith(_AGGREGATED) else [stream.native, option]
    return "@".join([f"spot@public.{kind}.v3.api.pb", *filter(None, parts)])


def stream_of(name: str) -> Stream | None:
    """Read a subscription's name; None where it names no symbol."""
    parts = _NAME(name)
    if parts is None or parts[1] == ALL_TICKERS:
        return None
    kind, first, second = parts.groups()
    native, option = (second, first) if kind.startswith(_AGGREGATED) else (first, second)
    if native is None:
        return None
    return Stream(f"{kind}@{option}" if option else kind, native)


def kind_of(name: str) -> str:
    """Return what a subscription is of, ``aggre.deals``; empty where it is none of today's."""
    parts = _NAME(name)
    return parts[1] if parts else ""


def read(frame: bytes) -> Frame:
    """Read a wrapper.

    Raises:
        ValueError: Not one.
    """
    name = symbol = ""
    made = sent = 0
    body: bytes | None = None
    for field, value in fields(frame):
        if field > 300:
            body = message(value)
        elif field == 1:
            name = text(value)
        elif field == 3:
            symbol = text(value)
        elif field == 5:
            made = number(value)
        elif field == 6:
            sent = number(value)
    if not name:
        raise ValueError("of no channel")
    return Frame(name, symbol, _micros(sent or made), body)


def read_of(native: str, frame: bytes) -> Frame:
    """Read a wrapper of this symbol.

    Raises:
        ValueError: Not one, or of another.
    """
    wrapper = read(frame)
    if wrapper.symbol not in ("", native):
        raise ValueError(f"{wrapper.symbol[:40]!r} in the stream of {native}")
    return wrapper


def read_deals(body: bytes) -> list[Deal]:
    """Read ``PublicAggreDealsV3Api``.

    Raises:
        ValueError: Not one.
    """
    return [_deal(message(value)) for field, value in fields(body) if field == 1]


def _deal(item: bytes) -> Deal:
    price = size = id = ""
    side = time = 0
    for field, value in fields(item):
        if field == 1:
            price = text(value)
        elif field == 2:
            size = text(value)
        elif field == 3:
            side = number(value)
        elif field == 4:
            time = number(value)
        elif field == 5:
            id = text(value)
    if side not in _SIDES:
        raise ValueError(f"a deal of the type {side}")
    return Deal(id or None, decimal(price), decimal(size), _SIDES[side], _micros(time))


def read_best(body: bytes) -> tuple[Level | None, Level | None]:
    """Read ``PublicAggreBookTickerV3Api``: the best bid and ask.

    Raises:
        ValueError: Not one.
    """
    bid = bid_size = ask = ask_size = ""
    for field, value in fields(body):
        if field == 1:
            bid = text(value)
        elif field == 2:
            bid_size = text(value)
        elif field == 3:
            ask = text(value)
        elif field == 4:
            ask_size = text(value)
    return _level_or_none(bid, bid_size), _level_or_none(ask, ask_size)


def _level_or_none(price: str, size: str) -> Level | None:
    if not price and not size:
        return None
    level = decimal(price), decimal(size)
    return level if float(level[0]) else None


def read_update(body: bytes) -> Update:
    """Read ``PublicAggreDepthsV3Api``.

    Raises:
        ValueError: Not one.
    """
    bids: list[Level] = []
    asks: list[Level] = []
    first = last = ""
    for field, value in fields(body):
        if field == 1:
            asks.append(_level(message(value)))
        elif field == 2:
            bids.append(_level(message(value)))
        elif field == 4:
            first = text(value)
        elif field == 5:
            last = text(value)
    update = Update(_version(first), _version(last), bids, asks)
    if update.first > update.last:
        raise ValueError("versions that cannot be")
    return update


def _level(item: bytes) -> Level:
    if len(item) < _SHORT and item.startswith(b"\n"):  # nearly all: the price, and then the size
        at = item[1] + 2
        if item[at : at + 1] == b"\x12" and item[at + 1] == len(item) - at - 2:
            return decimal(item[2:at].decode()), decimal(item[at + 2 :].decode())
    known = dict(fields(item))
    return decimal(text(known.get(1))), decimal(text(known.get(2)))


def read_day(body: bytes) -> Day:
    """Read ``PublicMiniTickerV3Api``; its volume is the turnover.

    Raises:
        ValueError: Not one.
    """
    known = dict(fields(body))
    texts = (text(known.get(field)) for field in (2, 5, 6, 8, 7))
    return Day(*(decimal(one) if one else None for one in texts))


def _version(text_: str) -> int:
    if not (text_.isascii() and text_.isdigit() and len(text_) < 20):
        raise ValueError(f"{text_[:40]!r} is no version")
    return int(text_)


def _micros(millis: int) -> int | None:
    if millis > MAX_MICROS // 1_000:
        raise ValueError(f"no time: {millis}")
    return millis * 1_000 or None


def names(listed: str) -> Iterator[str]:
    """Yield the subscriptions that an answer's text names."""
    return (one for one in re.split(r"[\s,\[\]]+", listed) if one.startswith("spot@"))
