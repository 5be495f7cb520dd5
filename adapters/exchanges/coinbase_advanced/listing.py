"""Coinbase Advanced Trade's instruments: its REST listing, and its product ids. Pure.

Of the same book under two names (``BTC-USDC`` is an alias of ``BTC-USD``) only one is listed: the
feed has no other. Products of other venues than Coinbase's own spot market are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import spot
from feed.errors import BadPayload
from feed.models import Instrument


class _Product(msgspec.Struct):
    product_id: str
    base_currency_id: str
    quote_currency_id: str
    base_increment: str
    quote_increment: str
    price_increment: str = ""
    product_type: str = "SPOT"
    status: str = "online"
    trading_disabled: bool = False
    alias: str = ""


class _Listing(msgspec.Struct):
    products: list[_Product]


_decode = msgspec.json.Decoder(_Listing).decode


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/api/v3/brokerage/market/products``.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            products = _decode(body).products
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        found += [
            spot(
                exchange,
                one.product_id,
                one.base_currency_id,
                one.quote_currency_id,
                price_step=one.price_increment or one.quote_increment,
                size_step=one.base_increment,
                state=_state(one),
            )
            for one in products
            if one.product_type == "SPOT" and not one.alias
        ]
    return found


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``BTC-USD``; None for what is no pair."""
    base, _, quote = native.partition("-")
    return spot(exchange, native, base, quote) if base and quote and "-" not in quote else None


def _state(product: _Product) -> str:
    if product.status != "online":
        return product.status.lower()
    return "disabled" if product.trading_disabled else "trading"


LISTING = Listing(read_spot, name_spot)
