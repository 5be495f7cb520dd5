"""Bitget's instruments: its listings, and its symbols read without one. Pure.

All sizes are in the base. ``BTCUSD`` and ``BTCUSDZ26`` are margined and paid in BTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from adapters.base import Listing
from adapters.naming import contract, last_friday, pair_of, spot
from adapters.text import MAX_MICROS, decimal
from feed.errors import BadPayload
from feed.models import Instrument

#: ``BTCUSDZ26``: the last Friday of December 2026.
_DATED = re.compile(r"(.+?)(USDT|USDC|USD)([HMUZ])([0-9]{2})").fullmatch
_PERPETUAL = re.compile(r"(.+?)(USDT|USDC|USD|PERP)").fullmatch
_MONTHS = {"H": 3, "M": 6, "U": 9, "Z": 12}
_T = TypeVar("_T")


class _Pair(msgspec.Struct):
    symbol: str
    baseCoin: str
    quoteCoin: str
    status: str
    pricePrecision: str
    quantityPrecision: str


class _Pairs(msgspec.Struct):
    data: list[_Pair]


class _Contract(msgspec.Struct):
    symbol: str
    baseCoin: str
    quoteCoin: str
    symbolStatus: str
    pricePlace: str
    priceEndStep: str
    sizeMultiplier: str
    deliveryTime: str = ""


class _Contracts(msgspec.Struct):
    data: list[_Contract]


_decode_pairs = msgspec.json.Decoder(_Pairs).decode
_decode_contracts = msgspec.json.Decoder(_Contracts).decode


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``spot/public/symbols``.

    Raises:
        BadPayload: Something else.
    """
    return [one for body in bodies for one in _guarded(exchange, body, _spot(exchange, body))]


def read_futures(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``mix/market/contracts`` of any product types.

    Raises:
        BadPayload: Something else.
    """
    return [one for body in bodies for one in _guarded(exchange, body, _futures(exchange, body))]


def _guarded(exchange: str, body: bytes, found: Iterator[_T]) -> list[_T]:
    try:
        return list(found)
    except (ValueError, RecursionError) as e:
        raise BadPayload(exchange, body, str(e)[:200]) from e


def _spot(exchange: str, body: bytes) -> Iterator[Instrument]:
    for one in _decode_pairs(body).data:
        yield spot(
            exchange,
            one.symbol,
            one.baseCoin,
            one.quoteCoin,
            price_step=_step(one.pricePrecision),
            size_step=_step(one.quantityPrecision),
            state="trading" if one.status == "online" else one.status.lower(),
        )


def _futures(exchange: str, body: bytes) -> Iterator[Instrument]:
    for one in _decode_contracts(body).data:
        named = _contract(
            exchange, one.symbol, one.baseCoin, one.quoteCoin, _time(one.deliveryTime)
        )
        yield replace(
            named,
            price_step=_step(one.pricePlace, one.priceEndStep),
            size_step=decimal(one.sizeMultiplier),
            state="trading" if one.symbolStatus == "normal" else one.symbolStatus.lower(),
        )


def _step(places: str, unit: str = "1") -> str:
    """Return ``unit`` of the last of so many decimal places."""
    return decimal(f"{int(unit)}e-{int(places)}")


def _time(text: str) -> int | None:
    micros = int(decimal(text)) * 1_000 if text else 0
    if micros > MAX_MICROS:
        raise ValueError(f"no time: {micros}")
    return micros or None


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``BTCUSDT`` by the quote assets we know; None for others."""
    pair = pair_of(native)
    return spot(exchange, native, *pair) if pair else None


def name_future(exchange: str, native: str) -> Instrument | None:
    """Name ``BTCUSDT``, ``BTCPERP`` (USDC), ``BTCUSD`` and dated ones; None for others."""
    if dated := _DATED(native):
        base, quote, letter, year = dated.groups()
        return _contract(
            exchange, native, base, quote, last_friday(2000 + int(year), _MONTHS[letter])
        )
    if found := _PERPETUAL(native):
        base, quote = found.groups()
        return _contract(exchange, native, base, "USDC" if quote == "PERP" else quote, None)
    return None


def _contract(exchange: str, native: str, base: str, quote: str, expiry: int | None) -> Instrument:
    is_inverse = quote == "USD"
    settle = base if is_inverse else quote
    return contract(exchange, native, base, quote, settle=settle, expiry=expiry, inverse=is_inverse)


SPOT = Listing(read_spot, name_spot)
FUTURES = Listing(read_futures, name_future)
