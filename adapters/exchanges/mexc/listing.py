"""MEXC's instruments: its listing, and its symbols read without one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import pair_of, spot
from adapters.text import step
from feed.errors import BadPayload
from feed.models import Instrument

_STATES = {"1": "trading", "2": "paused", "3": "offline"}


class _Listed(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_asset: str
    quote_asset: str
    base_asset_precision: int | None = None
    quote_precision: int | None = None


class _Listing(msgspec.Struct):
    symbols: list[_Listed]


_decode = msgspec.json.Decoder(_Listing).decode


def read_listing(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/api/v3/exchangeInfo``.

    Raises:
        BadPayload: Not that.
    """
    try:
        listed = [one for body in bodies for one in _decode(body).symbols]
    except (ValueError, RecursionError) as e:
        raise BadPayload(exchange, b"".join(bodies)[:200], str(e)[:200]) from e
    return [
        spot(
            exchange,
            one.symbol,
            one.base_asset,
            one.quote_asset,
            price_step=step(one.quote_precision),
            size_step=step(one.base_asset_precision),
            state=_STATES.get(one.status, one.status.lower()),
        )
        for one in listed
    ]


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``BTCUSDT`` by the quote assets we know; None for others."""
    pair = pair_of(native)
    return spot(exchange, native, *pair) if pair else None


LISTING = Listing(read_listing, name_spot)
