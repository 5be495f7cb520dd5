"""Crypto.com's instruments: its listing, and its symbols read without one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import contract, delivery, spot
from adapters.text import Millis
from feed.errors import BadPayload
from feed.models import Instrument

#: ``BTCUSD-PERP``, ``BTCUSD-261225``.
_CONTRACT = re.compile(r"([A-Z0-9]+?)(USDT|USDC|USD)-(PERP|[0-9]{6})").fullmatch
_SPOT = re.compile(r"([A-Z0-9]+)_([A-Z0-9]+)").fullmatch
#: What the listing calls the quote of contracts, at times.
_QUOTES = {"USD_Stable_Coin": "USD"}


class _Listed(msgspec.Struct):
    symbol: str
    inst_type: str
    base_ccy: str = ""
    quote_ccy: str = ""
    price_tick_size: str | None = None
    qty_tick_size: str | None = None
    tradable: bool = True
    expiry_timestamp_ms: Millis = 0


class _Data(msgspec.Struct):
    data: list[_Listed]


class _Answer(msgspec.Struct):
    result: _Data


_decode = msgspec.json.Decoder(_Answer).decode


def read(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``get-instruments``; what is neither pair, perpetual nor future is left out.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            listed = _decode(body).result.data
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        for one in listed:
            quote = _QUOTES.get(one.quote_ccy, one.quote_ccy)
            state = "trading" if one.tradable else "halted"
            if one.inst_type == "CCY_PAIR":
                pair = spot(
                    exchange,
                    one.symbol,
                    one.base_ccy,
                    quote,
                    price_step=one.price_tick_size,
                    size_step=one.qty_tick_size,
                    state=state,
                )
                found.append(pair)
            elif one.inst_type in ("PERPETUAL_SWAP", "FUTURE"):
                is_dated = one.inst_type == "FUTURE"
                found.append(
                    contract(
                        exchange,
                        one.symbol,
                        one.base_ccy,
                        quote,
                        expiry=one.expiry_timestamp_ms * 1_000 if is_dated else None,
                        price_step=one.price_tick_size,
                        size_step=one.qty_tick_size,
                        state=state,
                    )
                )
    return found


def name(exchange: str, native: str) -> Instrument | None:
    """Name ``BTC_USDT``, ``BTCUSD-PERP`` and ``BTCUSD-261225``; None for others."""
    if pair := _SPOT(native):
        return spot(exchange, native, pair[1], pair[2])
    found = _CONTRACT(native)
    if found is None:
        return None
    base, quote, until = found.groups()
    if until == "PERP":
        return contract(exchange, native, base, quote)
    expiry = delivery(until, "%y%m%d")
    return None if expiry is None else contract(exchange, native, base, quote, expiry=expiry)


LISTING = Listing(read, name)
