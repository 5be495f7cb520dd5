"""Upbit's instruments: its listing, and its symbols read without one. Pure.

Symbols have the quote first: ``KRW-BTC`` is BTC-KRW.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import spot
from feed.errors import BadPayload
from feed.models import Instrument


class _Market(msgspec.Struct):
    market: str


_decode = msgspec.json.Decoder(list[_Market]).decode


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/v1/market/all``.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            markets = _decode(body)
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        found += [name_spot(exchange, one.market) for one in markets]
    return [one for one in found if one is not None]


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``KRW-BTC``; None for what is no pair."""
    quote, _, base = native.partition("-")
    return spot(exchange, native, base, quote) if base and quote and "-" not in base else None


LISTING = Listing(read_spot, name_spot)
