"""Bitstamp's messages, and the names of its channels. Pure."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from adapters.base import Stream
from adapters.text import MAX_MICROS
from feed.models import Side

TRADES = "live_trades"
BOOK = "order_book"
DIFFS = "diff_order_book"
SIDES: dict[int, Side] = {0: "buy", 1: "sell"}

_NAME = re.compile(
    r"(live_trades|live_orders|order_book|detail_order_book|diff_order_book|funding_rate)_(.+)"
).fullmatch


class Frame(msgspec.Struct):
    event: str
    channel: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Trade(msgspec.Struct):
    """Numbers come twice, as such and as text; older messages have the numbers alone."""

    id: int
    amount: str = msgspec.field(name="amount_str")
    price: str = msgspec.field(name="price_str")
    type: Literal[0, 1]
    microtimestamp: str


class Levels(msgspec.Struct):
    """A whole book or what has changed in it; over REST the former."""

    microtimestamp: str
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


class Error(msgspec.Struct):
    message: str | None = None


decode = msgspec.json.Decoder(Frame).decode
decode_trade = msgspec.json.Decoder(Trade).decode
decode_levels = msgspec.json.Decoder(Levels).decode
decode_error = msgspec.json.Decoder(Error).decode


def stream_of(channel: str) -> Stream | None:
    """Read ``live_trades_btcusd``; None for what is no channel of a market."""
    parts = _NAME(channel)
    return Stream(parts[1], parts[2]) if parts else None


def name_of(stream: Stream) -> str:
    return f"{stream.channel}_{stream.native}"


def micros(text: str) -> int:
    """Return a ``microtimestamp``.

    Raises:
        ValueError: Not one.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > MAX_MICROS:
        raise ValueError(f"no time: {text[:40]!r}")
    return int(text)
