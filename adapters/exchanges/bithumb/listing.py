"""Bithumb's instruments: its listing, and its symbols read without one. Pure."""

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


def read(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/v1/market/all``.

    Raises:
        BadPayload: Something else.
    """
    (body,) = bodies
    try:
        listed = _decode(body)
    except (ValueError, RecursionError) as e:
        raise BadPayload(exchange, body, str(e)[:200]) from e
    named = [name(exchange, one.market) for one in listed]
    return [one for one in named if one is not None]


def name(exchange: str, native: str) -> Instrument | None:
    """Name ``KRW-BTC``, the quote first; None for others."""
    quote, _, base = native.partition("-")
    return spot(exchange, native, base, quote) if base and quote else None


LISTING = Listing(read, name)
