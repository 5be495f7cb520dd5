"""KuCoin's instruments: its listings, and its symbols read without one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.exchanges.kucoin.frames import number, text
from adapters.naming import contract, last_friday, spot
from adapters.text import Millis
from feed.errors import BadPayload
from feed.models import Instrument

#: Futures call it by its other code.
_ASSETS = {"XBT": "BTC"}
_PERPETUAL = re.compile(r"([A-Z0-9]+?)(USDT|USDC|USD)M").fullmatch
#: ``XBTMH21``: the month is a letter; delivered on its last Friday.
_DATED = re.compile(r"([A-Z0-9]+?)M([FGHJKMNQUVXZ])([0-9]{2})").fullmatch
_MONTHS = "FGHJKMNQUVXZ"


class _Symbol(msgspec.Struct, rename="camel"):
    symbol: str
    base_currency: str
    quote_currency: str
    price_increment: str
    base_increment: str
    enable_trading: bool


class _Symbols(msgspec.Struct):
    data: list[_Symbol]


class _Contract(msgspec.Struct, rename="camel"):
    """``multiplier`` is negative where the contract is inverse."""

    symbol: str
    base_currency: str
    quote_currency: str
    settle_currency: str
    multiplier: msgspec.Raw
    is_inverse: bool
    tick_size: msgspec.Raw
    lot_size: msgspec.Raw
    status: str
    expire_date: Millis | None = None


class _Contracts(msgspec.Struct):
    data: list[_Contract]


_decode_symbols = msgspec.json.Decoder(_Symbols).decode
_decode_contracts = msgspec.json.Decoder(_Contracts).decode


def _asset(code: str) -> str:
    return _ASSETS.get(code, code)


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/api/v2/symbols``.

    Raises:
        BadPayload: Something else.
    """
    (body,) = bodies
    try:
        listed = _decode_symbols(body).data
    except (ValueError, RecursionError) as e:
        raise BadPayload(exchange, body, str(e)[:200]) from e
    return [
        spot(
            exchange,
            one.symbol,
            one.base_currency,
            one.quote_currency,
            price_step=one.price_increment,
            size_step=one.base_increment,
            state="trading" if one.enable_trading else "disabled",
        )
        for one in listed
    ]


def read_futures(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``/api/v1/contracts/active``.

    Raises:
        BadPayload: Something else.
    """
    (body,) = bodies
    try:
        return [_named(exchange, one) for one in _decode_contracts(body).data]
    except (ValueError, RecursionError) as e:
        raise BadPayload(exchange, body, str(e)[:200]) from e


def _named(exchange: str, one: _Contract) -> Instrument:
    base, quote = _asset(one.base_currency), _asset(one.quote_currency)
    status = one.status.lower()
    return contract(
        exchange,
        one.symbol,
        base,
        quote,
        settle=_asset(one.settle_currency),
        expiry=None if one.expire_date is None else one.expire_date * 1_000,
        inverse=one.is_inverse,
        size_unit="contract",
        contract_size=text(one.multiplier).removeprefix("-"),
        contract_currency=quote if one.is_inverse else base,
        price_step=number(one.tick_size),
        size_step=number(one.lot_size),
        state="trading" if status == "open" else status,
    )


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``BTC-USDT``; None for others."""
    base, _, quote = native.partition("-")
    return spot(exchange, native, base, quote) if base and quote else None


def name_futures(exchange: str, native: str) -> Instrument | None:
    """Name ``XBTUSDTM``, ``XBTUSDM`` (inverse) and ``XBTMH21`` (inverse, dated); None for others.

    What a contract is worth is told by the listing alone.
    """
    expiry = None
    if perpetual := _PERPETUAL(native):
        base, quote = _asset(perpetual[1]), perpetual[2]
    elif dated := _DATED(native):
        base, quote = _asset(dated[1]), "USD"
        expiry = last_friday(2000 + int(dated[3]), _MONTHS.index(dated[2]) + 1)
    else:
        return None
    is_inverse = quote == "USD"
    return contract(
        exchange,
        native,
        base,
        quote,
        settle=base if is_inverse else quote,
        expiry=expiry,
        inverse=is_inverse,
        size_unit="contract",
        contract_currency=quote if is_inverse else base,
    )


SPOT = Listing(read_spot, name_spot)
FUTURES = Listing(read_futures, name_futures)
