"""HTX's instruments: its listing, and its symbols read without one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.naming import spot
from feed.errors import BadPayload
from feed.models import Instrument

#: Quote assets of spot; longer ones first.
_QUOTES = "usdt usdc usdd husd tusd usd1 euroc btc eth trx eur try brl gbp rub uah ht".split()


class _Pair(msgspec.Struct, rename="kebab"):
    symbol: str
    base_currency: str
    quote_currency: str
    price_precision: int
    amount_precision: int
    state: str = "online"


class _Listing(msgspec.Struct):
    data: list[_Pair]


_decode = msgspec.json.Decoder(_Listing).decode


def _step(decimals: int) -> str:
    return f"0.{'0' * (decimals - 1)}1" if decimals > 0 else "1"


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``common/symbols``.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            pairs = _decode(body).data
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        found += [
            spot(
                exchange,
                one.symbol,
                one.base_currency.upper(),
                one.quote_currency.upper(),
                price_step=_step(one.price_precision),
                size_step=_step(one.amount_precision),
                state="trading" if one.state == "online" else one.state.lower(),
            )
            for one in pairs
        ]
    return found


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``btcusdt`` by the quote assets we know; None for others."""
    quote = next((one for one in _QUOTES if native.endswith(one) and native != one), None)
    if quote is None or not native.isalnum():
        return None
    return spot(exchange, native, native.removesuffix(quote).upper(), quote.upper())
