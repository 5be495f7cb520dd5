"""Gemini's instruments: its listing, and its symbols read without one. Pure.

``tick_size`` is the step of sizes there, ``quote_increment`` that of prices. A contract is one unit
of the base.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import contract, pair_of, spot
from adapters.text import decimal
from feed.errors import BadPayload
from feed.models import Instrument

#: Quote assets of pairs: the coins whose names end in dollars before those.
_QUOTES = "RLUSD GUSD USDC USDT USD DAI EUR GBP SGD BTC ETH SOL FIL LTC BCH".split()
#: And of perpetuals.
_PERPETUAL_QUOTES = ("GUSD", "USDC", "USDT", "USD")
_PERPETUAL = "PERP"


class _Symbol(msgspec.Struct):
    symbol: str
    base_currency: str
    quote_currency: str
    tick_size: msgspec.Raw
    quote_increment: msgspec.Raw
    status: str = "open"
    product_type: str = "spot"


_decode = msgspec.json.Decoder(list[_Symbol]).decode


def read_symbols(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/v1/symbols/details/all``.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            found += [_instrument(exchange, one) for one in _decode(body)]
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
    return found


def _instrument(exchange: str, one: _Symbol) -> Instrument:
    make = spot if one.product_type == "spot" else contract
    return make(
        exchange,
        one.symbol.upper(),
        one.base_currency,
        one.quote_currency,
        price_step=decimal(bytes(one.quote_increment).decode()),
        size_step=decimal(bytes(one.tick_size).decode()),
        state="trading" if one.status == "open" else one.status.lower(),
    )


def name_symbol(exchange: str, native: str) -> Instrument | None:
    """Name ``BTCUSD`` and ``BTCGUSDPERP`` by the quote assets we know; None for others."""
    if native.endswith(_PERPETUAL):
        pair = pair_of(native.removesuffix(_PERPETUAL), _PERPETUAL_QUOTES)
        return contract(exchange, native, *pair) if pair else None
    pair = pair_of(native, _QUOTES)
    return spot(exchange, native, *pair) if pair else None


LISTING = Listing(read_symbols, name_symbol)
