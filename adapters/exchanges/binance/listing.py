"""Binance's instruments: its listings, and its symbols read without one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.naming import contract, delivery, spot
from feed.errors import BadPayload
from feed.models import Instrument

#: Quote assets of spot and USD-M; longer ones are tried first.
_QUOTES = sorted(
    (
        "USDT USDC FDUSD BUSD TUSD USDP USDS USD1 RLUSD XUSD BFUSD PAX DAI UST USD AEUR EURI EUR "
        "GBP AUD TRY BRL RUB UAH NGN ZAR PLN RON ARS CZK JPY MXN COP IDRT BIDR BVND BKRW VAI BTC "
        "ETH BNB XRP TRX DOGE DOT SOL"
    ).split(),
    key=len,
    reverse=True,
)
_DATED = re.compile(r"(?P<pair>.+)_(?P<date>\d{6})").fullmatch


class _Filter(msgspec.Struct):
    filterType: str
    tickSize: str | None = None
    stepSize: str | None = None


class _Symbol(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_asset: str
    quote_asset: str
    filters: list[_Filter]
    contract_type: str | None = None
    margin_asset: str | None = None
    delivery_date: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return what is the same for every type."""
        steps = {one.filterType: one.tickSize or one.stepSize for one in self.filters}
        return {
            "price_step": steps.get("PRICE_FILTER"),
            "size_step": steps.get("LOT_SIZE"),
            "state": self.status.lower(),
        }


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
    found = []
    for one in _symbols(exchange, bodies):
        is_perpetual = "PERPETUAL" in (one.contract_type or "")
        dated = None if is_perpetual else _DATED(one.symbol)
        expiry = dated and (
            one.delivery_date * 1000 if one.delivery_date else delivery(dated["date"], "%y%m%d")
        )
        found.append(
            contract(
                exchange,
                one.symbol,
                one.base_asset,
                one.quote_asset,
                settle=one.margin_asset,
                expiry=expiry,
                **one.facts(),
            )
        )
    return found


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name a spot instrument by its symbol alone; None where its quote asset is not known."""
    pair = _split(native)
    return None if pair is None else spot(exchange, native, *pair)


def name_future(exchange: str, native: str) -> Instrument | None:
    """Name a future by its symbol alone; None where its quote asset is not known."""
    dated = _DATED(native)
    pair = _split(dated["pair"] if dated else native)
    if pair is None:
        return None
    expiry = delivery(dated["date"], "%y%m%d") if dated else None
    if dated and expiry is None:
        return None
    return contract(exchange, native, *pair, expiry=expiry)


def _split(pair: str) -> tuple[str, str] | None:
    for quote in _QUOTES:
        if pair.endswith(quote) and pair != quote:
            return pair.removesuffix(quote), quote
    return None
