"""Binance's instruments: its listings, and its symbols read without one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.base import Listing
from adapters.naming import QUOTES, contract, delivery, pair_of, spot
from feed.errors import BadPayload
from feed.models import Instrument

#: Quote assets of Binance.US, which has dollars too.
_US_QUOTES = ("USDT", "BUSD", "USDC", "USD", "TUSD", "DAI", "PAX", "EUR", "BTC", "ETH", "BNB")
_DATED = re.compile(r"(?P<pair>.+)_(?P<date>\d{6})").fullmatch
_INVERSE = re.compile(r"(?P<base>.+)USD_(?:PERP|(?P<date>\d{6}))").fullmatch


class _Filter(msgspec.Struct):
    filterType: str
    tickSize: str | None = None
    stepSize: str | None = None


class _Symbol(msgspec.Struct, rename="camel"):
    """COIN-M alone has ``contractStatus``, in the place of ``status``, and ``contractSize``."""

    symbol: str
    base_asset: str
    quote_asset: str
    filters: list[_Filter]
    status: str = ""
    contract_status: str = ""
    contract_size: int | None = None
    contract_type: str | None = None
    margin_asset: str | None = None
    delivery_date: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return what is the same for every type."""
        steps = {one.filterType: one.tickSize or one.stepSize for one in self.filters}
        return {
            "price_step": steps.get("PRICE_FILTER"),
            "size_step": steps.get("LOT_SIZE"),
            "state": (self.status or self.contract_status).lower(),
        }

    def expiry(self) -> int | None:
        """Return when a contract is delivered, µs; None for a perpetual."""
        dated = None if "PERPETUAL" in (self.contract_type or "") else _DATED(self.symbol)
        if dated is None:
            return None
        exact = self.delivery_date
        return exact * 1000 if exact else delivery(dated["date"], "%y%m%d")


class _Listing(msgspec.Struct):
    symbols: list[_Symbol]


_decode = msgspec.json.Decoder(_Listing).decode


def _symbols(exchange: str, bodies: Sequence[bytes]) -> list[_Symbol]:
    try:
        return [symbol for body in bodies for symbol in _decode(body).symbols]
    except (ValueError, RecursionError) as e:
        raise BadPayload(exchange, b"".join(bodies)[:200], str(e)[:200]) from e


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/api/v3/exchangeInfo``.

    Raises:
        BadPayload: Not that.
    """
    return [
        spot(exchange, one.symbol, one.base_asset, one.quote_asset, **one.facts())
        for one in _symbols(exchange, bodies)
    ]


def read_futures(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/fapi/v1/exchangeInfo``.

    Raises:
        BadPayload: Not that.
    """
    return [
        contract(
            exchange,
            one.symbol,
            one.base_asset,
            one.quote_asset,
            settle=one.margin_asset,
            expiry=one.expiry(),
            **one.facts(),
        )
        for one in _symbols(exchange, bodies)
    ]


def read_inverse(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/dapi/v1/exchangeInfo``.

    Raises:
        BadPayload: Not that.
    """
    return [
        _inverse(
            exchange, one.symbol, one.base_asset, one.expiry(), one.contract_size, **one.facts()
        )
        for one in _symbols(exchange, bodies)
    ]


def _inverse(
    exchange: str,
    native: str,
    base: str,
    expiry: int | None,
    contract_size: int | None = None,
    **facts: Any,
) -> Instrument:
    # Of all contracts that ever were, those of Bitcoin are of 100 USD and the others of 10.
    size = contract_size or (100 if base == "BTC" else 10)
    return contract(
        exchange,
        native,
        base,
        "USD",
        settle=base,
        expiry=expiry,
        inverse=True,
        size_unit="contract",
        contract_size=str(size),
        contract_currency="USD",
        **facts,
    )


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name a spot instrument by its symbol alone; None where its quote asset is not known."""
    pair = pair_of(native, _US_QUOTES if exchange == "binance-us" else QUOTES)
    return None if pair is None else spot(exchange, native, *pair)


def name_future(exchange: str, native: str) -> Instrument | None:
    """Name a future by its symbol alone; None where its quote asset is not known."""
    dated = _DATED(native)
    pair = pair_of(dated["pair"] if dated else native)
    if pair is None:
        return None
    expiry = delivery(dated["date"], "%y%m%d") if dated else None
    if dated and expiry is None:
        return None
    return contract(exchange, native, *pair, expiry=expiry)


def name_inverse(exchange: str, native: str) -> Instrument | None:
    """Name a COIN-M contract by its symbol alone; None where it does not look like one."""
    parts = _INVERSE(native)
    if parts is None:
        return None
    expiry = delivery(parts["date"], "%y%m%d") if parts["date"] else None
    if parts["date"] and expiry is None:
        return None
    return _inverse(exchange, native, parts["base"], expiry)


SPOT = Listing(read_spot, name_spot)
FUTURES = Listing(read_futures, name_future)
INVERSE = Listing(read_inverse, name_inverse)
