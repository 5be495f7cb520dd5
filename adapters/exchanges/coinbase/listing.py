"""Coinbase Exchange's instruments: its REST listing, and its product ids. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import spot
from feed.errors import BadPayload
from feed.models import Instrument


class _Product(msgspec.Struct):
    id: str
    base_currency: str
    quote_currency: str
    base_increment: str
    quote_increment: str
    status: str = "online"
    trading_disabled: bool = False


_decode = msgspec.json.Decoder(list[_Product]).decode


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/products``.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            products = _decode(body)
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        found += [
            spot(
                exchange,
                one.id,
                one.base_currency,
                one.quote_currency,
                price_step=one.quote_increment,
                size_step=one.base_increment,
                state=_state(one),
            )
            for one in products
        ]
    return found


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``BTC-USD``; None for what is no pair."""
    base, _, quote = native.partition("-")
    return spot(exchange, native, base, quote) if base and quote else None


def _state(product: _Product) -> str:
    if product.status != "online":
        return product.status.lower()
    return "disabled" if product.trading_disabled else "trading"


LISTING = Listing(read_spot, name_spot)
