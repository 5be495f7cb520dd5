"""Binance's instruments: its listings, and its symbols read without one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from feed.errors import BadPayload
from feed.models import Instrument
from feed.topics import symbol_text

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
        _spot(exchange, one.symbol, one.base_asset, one.quote_asset, **one.facts())
        for one in _symbols(exchange, bodies)
    ]


def read_futures(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/fapi/v1/exchangeInfo``.

    Raises:
        BadPayload: Not that.
    """
    found = []
    for one in _symbols(exchange, bodies):
        dated = None if "PERPETUAL" in (one.contract_type or "") else _DATED(one.symbol)
        expiry = one.delivery_date * 1000 if dated and one.delivery_date else None
        settle = one.margin_asset or one.quote_asset
        base, quote = one.base_asset, one.quote_asset
        found.append(
            _future(exchange, one.symbol, base, quote, settle, dated, expiry, **one.facts())
        )
    return found


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name a spot instrument by its symbol alone; None where its quote asset is not known."""
    pair = _split(native)
    return None if pair is None else _spot(exchange, native, *pair)


def name_future(exchange: str, native: str) -> Instrument | None:
    """Name a future by its symbol alone; None where its quote asset is not known."""
    dated = _DATED(native)
    pair = _split(dated["pair"] if dated else native)
    if pair is None:
        return None
    try:
        return _future(exchange, native, *pair, pair[1], dated, None)
    except ValueError:  # no such day
        return None


def _split(pair: str) -> tuple[str, str] | None:
    for quote in _QUOTES:
        if pair.endswith(quote) and pair != quote:
            return pair.removesuffix(quote), quote
    return None


def _spot(exchange: str, native: str, base: str, quote: str, **facts: Any) -> Instrument:
    symbol = f"{symbol_text(base)}-{symbol_text(quote)}"
    return Instrument(
        exchange=exchange,
        symbol=symbol,
        native=native,
        type="spot",
        base=base,
        quote=quote,
        **facts,
    )


def _future(
    exchange: str,
    native: str,
    base: str,
    quote: str,
    settle: str,
    dated: re.Match[str] | None,
    expiry: int | None,
    **facts: Any,
) -> Instrument:
    pair = f"{symbol_text(base)}-{symbol_text(quote)}"
    if settle != quote:
        pair += f":{symbol_text(settle)}"
    if dated and expiry is None:
        # Delivery is at 08:00 UTC.
        day = datetime.strptime(dated["date"] + "08+0000", "%y%m%d%H%z")
        expiry = int(day.timestamp()) * 1_000_000
    return Instrument(
        exchange=exchange,
        symbol=f"{pair}-20{dated['date']}" if dated else f"{pair}-PERP",
        native=native,
        type="future" if dated else "perpetual",
        base=base,
        quote=quote,
        settle=settle,
        expiry=expiry,
        **facts,
    )
