"""Hyperliquid's messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from adapters.text import Millis, decimal
from feed.models import Level


class RawLevel(msgspec.Struct, gc=False):
    px: str
    sz: str


class Book(msgspec.Struct, gc=False):
    """The best 20 levels a side, bids first; 5 of the ``fast`` variant."""

    coin: str
    time: Millis
    levels: tuple[list[RawLevel], list[RawLevel]]


class Bbo(msgspec.Struct, gc=False):
    coin: str
    time: Millis
    bbo: tuple[RawLevel | None, RawLevel | None]


class Trade(msgspec.Struct, gc=False):
    """``side`` is the taker's: ``B`` bought from asks, ``A`` sold to bids."""

    coin: str
    side: Literal["A", "B"]
    px: str
    sz: str
    time: Millis
    tid: int


class Ctx(msgspec.Struct, gc=False, rename="camel"):
    """24-hour figures; of perpetuals also what they are worth and cost."""

    prev_day_px: str | None = None
    day_ntl_vlm: str | None = None
    day_base_vlm: str | None = None
    mark_px: str | None = None
    oracle_px: str | None = None
    funding: str | None = None
    open_interest: str | None = None


class AssetCtx(msgspec.Struct, gc=False):
    coin: str
    ctx: Ctx


class Books(msgspec.Struct, tag_field="channel", tag="l2Book", gc=False):
    data: Book


class Bbos(msgspec.Struct, tag_field="channel", tag="bbo", gc=False):
    data: Bbo


class Trades(msgspec.Struct, tag_field="channel", tag="trades", gc=False):
    data: list[Trade]


class PerpCtx(msgspec.Struct, tag_field="channel", tag="activeAssetCtx", gc=False):
    data: AssetCtx


class SpotCtx(msgspec.Struct, tag_field="channel", tag="activeSpotAssetCtx", gc=False):
    data: AssetCtx


class Subscribed(msgspec.Struct, tag_field="channel", tag="subscriptionResponse"):
    pass


class Pong(msgspec.Struct, tag_field="channel", tag="pong"):
    pass


class Error(msgspec.Struct, tag_field="channel", tag="error"):
    """``data`` ends in the request that it is about."""

    data: str


class _Type(msgspec.Struct):
    channel: str


decode = msgspec.json.Decoder(
    Books | Bbos | Trades | PerpCtx | SpotCtx | Subscribed | Pong | Error
).decode
decode_type = msgspec.json.Decoder(_Type).decode


def side_of(given: Sequence[RawLevel]) -> dict[str, str]:
    """Return a side as price -> size; ValueError where a price comes twice."""
    side = {one.px: one.sz for one in given}
    if len(side) != len(given):
        raise ValueError("two levels of a book have one price")
    return side


def changes(known: Mapping[str, str], side: Mapping[str, str]) -> list[Level]:
    """Return what makes one side of a whole book into the next.

    Most levels are as they were and need not be read again.

    Raises:
        ValueError: A price or a size is not a number.
    """
    gone: list[Level] = [(decimal(price), "0") for price in known if price not in side]
    return gone + [
        (decimal(price), decimal(size)) for price, size in side.items() if known.get(price) != size
    ]
