"""dYdX's instruments: the indexer's listing, and tickers read without one. Pure.

All are perpetuals priced in USD, margined and paid in USDC, which therefore stands for both. The
base of a market that anybody may list carries its pool and address: ``FARTCOIN,RAYDIUM,9BB6…-USD``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import contract
from feed.errors import BadPayload
from feed.models import Instrument

_QUOTE = "USDC"
_ENDING = "-USD"


class _Listed(msgspec.Struct, rename="camel"):
    ticker: str
    status: str
    tick_size: str
    step_size: str


class _Answer(msgspec.Struct):
    markets: dict[str, _Listed]


_decode = msgspec.json.Decoder(_Answer).decode


def _base(ticker: str) -> str | None:
    base = ticker.removesuffix(_ENDING).partition(",")[0]
    return base if base and ticker.endswith(_ENDING) else None


def read(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``perpetualMarkets``; of two with one name the first stands.

    Raises:
        BadPayload: Something else.
    """
    found: dict[str, Instrument] = {}
    for body in bodies:
        try:
            listed = _decode(body).markets.values()
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        for one in listed:
            base = _base(one.ticker)
            if base is None:
                continue
            named = contract(
                exchange,
                one.ticker,
                base,
                _QUOTE,
                price_step=one.tick_size,
                size_step=one.step_size,
                state="trading" if one.status == "ACTIVE" else one.status.lower(),
            )
            found.setdefault(named.symbol, named)
    return list(found.values())


def name(exchange: str, native: str) -> Instrument | None:
    """Name ``BTC-USD``; None for what is no market."""
    base = _base(native)
    return None if base is None else contract(exchange, native, base, _QUOTE)


LISTING = Listing(read, name)
