"""Binance's trades of the past by id, over REST and without a key. Pure.

Source: binance-spot-api-docs, rest-api, "Old trade lookup" (``historicalTrades``, 25 of 6,000 a
minute) and "Compressed/Aggregate trades list"; the futures' ``aggTrades`` of the same name. The
futures' ``historicalTrades`` asks for a key, and is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from adapters.base import Page
from adapters.text import Millis, Number, decimal
from feed.models import Trade

#: Trades a page, the most that is given.
LIMIT = 1_000


class _Trade(msgspec.Struct, gc=False):
    id: Number
    p: str = msgspec.field(name="price")
    q: str = msgspec.field(name="qty")
    T: Millis = msgspec.field(name="time")
    m: bool = msgspec.field(name="isBuyerMaker")


class _AggTrade(msgspec.Struct, gc=False):
    p: str
    q: str
    T: Millis
    m: bool
    id: Number = msgspec.field(name="a")


Rows: TypeAlias = list[_Trade] | list[_AggTrade]
#: Channel -> reads its page.
DECODERS: dict[str, Callable[[bytes], Rows]] = {
    "trade": msgspec.json.Decoder(list[_Trade]).decode,
    "aggTrade": msgspec.json.Decoder(list[_AggTrade]).decode,
}


def page(channel: str, native: str, topic: str, body: bytes, recv: int) -> Page:
    """Read one page of a channel's trades.

    Raises:
        ValueError: It cannot be understood.
    """
    found: list[tuple[int, Trade | None]] = []
    for row in DECODERS[channel](body):
        price, size = decimal(row.p), decimal(row.q)
        trade = Trade(
            topic,
            0,
            row.T * 1000,
            recv,
            0,
            str(row.id),
            price,
            size,
            "sell" if row.m else "buy",
            backfill=True,
        )
        found.append((row.id, trade if float(price) else None))
    return Page(native, tuple(found))
