"""Bitstamp's instruments: its listing, and its symbols read without one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import spot
from adapters.text import step
from feed.errors import BadPayload
from feed.models import Instrument

#: Quote assets; longer ones first.
_QUOTES = "pyusd rlusd usdt usdc eurc usd eur gbp pax btc eth".split()


class _Market(msgspec.Struct):
    symbol: str = msgspec.field(name="market_symbol")
    base: str = msgspec.field(name="base_currency")
    quote: str = msgspec.field(name="counter_currency")
    trading: str
    base_decimals: int | None = None
    counter_decimals: int | None = None
    type: str = msgspec.field(name="market_type", default="SPOT")


_decode = msgspec.json.Decoder(list[_Market]).decode


def read_markets(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/api/v2/markets/``; of the perpetuals there nothing is carried.

    Raises:
        BadPayload: Not that.
    """
    try:
        markets = [one for body in bodies for one in _decode(body)]
    except (ValueError, RecursionError) as e:
        raise BadPayload(exchange, b"".join(bodies)[:200], str(e)[:200]) from e
    return [
        spot(
            exchange,
            one.symbol,
            one.base,
            one.quote,
            price_step=step(one.counter_decimals),
            size_step=step(one.base_decimals),
            state="trading" if one.trading == "Enabled" else one.trading.lower(),
        )
        for one in markets
        if one.type == "SPOT"
    ]


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``btcusd`` by the quote assets we know; None for others."""
    quote = next((one for one in _QUOTES if native.endswith(one) and native != one), None)
    if quote is None:
        return None
    return spot(exchange, native, native.removesuffix(quote).upper(), quote.upper())


MARKETS = Listing(read_markets, name_spot)
