"""Deribit's instruments: its listing, and its names read without one. Pure.

``BTC-PERPETUAL`` and ``BTC-25DEC26`` are inverse: quoted in USD, settled in the coin, amounts in
USD. ``BTC_USDC-PERPETUAL`` and its like are linear, amounts in the base. Options of both kinds have
amounts in the base; prices of those on a coin are in the coin, their strikes in USD. In names a
strike's decimal point is a ``d``. Combinations of several instruments are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from adapters.base import Listing
from adapters.naming import contract, delivery, option, spot
from adapters.text import decimal
from feed.errors import BadPayload
from feed.models import Instrument

_NAME = re.compile(
    r"(?P<base>[A-Z0-9]+)(?:_(?P<quote>[A-Z0-9]+))?"
    r"(?:-(?P<day>PERPETUAL|[0-9]{1,2}[A-Z]{3}[0-9]{2}))?"
    r"(?:-(?P<strike>[0-9]+(?:d[0-9]+)?)-(?P<right>[CP]))?"
).fullmatch


class _Listed(msgspec.Struct):
    instrument_name: str
    base_currency: str
    quote_currency: str
    tick_size: msgspec.Raw
    min_trade_amount: msgspec.Raw
    contract_size: msgspec.Raw
    kind: str = ""
    counter_currency: str | None = None
    settlement_currency: str | None = None
    settlement_period: str = ""
    instrument_type: str = ""
    expiration_timestamp: int = 0
    option_type: Literal["call", "put"] = "call"
    strike: msgspec.Raw = msgspec.Raw(b"0")
    state: str = "open"
    is_active: bool = True


class _Answer(msgspec.Struct):
    result: list[_Listed]


_decode = msgspec.json.Decoder(_Answer).decode


def _number(raw: msgspec.Raw) -> str:
    """Return a number as names and steps have it: without a fraction of zero."""
    return decimal(str(raw, "ascii")).removesuffix(".0")


def _state(one: _Listed) -> str:
    if one.state == "open":
        return "trading" if one.is_active else "inactive"
    return one.state.lower()


def _read(exchange: str, one: _Listed) -> Instrument | None:
    price_step, size_step = _number(one.tick_size), _number(one.min_trade_amount)
    # What strikes and indices are in; an option on a coin is quoted in the coin itself.
    quote = one.counter_currency or one.quote_currency
    native, base, state = one.instrument_name, one.base_currency, _state(one)
    if one.kind == "spot":
        return spot(
            exchange,
            native,
            base,
            quote,
            price_step=price_step,
            size_step=size_step,
            state=state,
        )
    expiry = one.expiration_timestamp * 1_000
    if one.kind == "future":
        inverse = one.instrument_type == "reversed"
        return contract(
            exchange,
            native,
            base,
            quote,
            settle=one.settlement_currency,
            expiry=None if one.settlement_period == "perpetual" else expiry,
            inverse=inverse,
            size_unit="quote" if inverse else "base",
            contract_size=_number(one.contract_size),
            contract_currency=quote if inverse else base,
            price_step=price_step,
            size_step=size_step,
            state=state,
        )
    if one.kind == "option":
        return option(
            exchange,
            native,
            base,
            quote,
            expiry=expiry,
            strike=_number(one.strike),
            right="C" if one.option_type == "call" else "P",
            settle=one.settlement_currency,
            contract_size=_number(one.contract_size),
            contract_currency=base,
            price_step=price_step,
            size_step=size_step,
            state=state,
        )
    return None


def read(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``get_instruments``.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            named = [_read(exchange, one) for one in _decode(body).result]
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        found += [one for one in named if one is not None]
    return found


def name(exchange: str, native: str) -> Instrument | None:
    """Name an instrument by its symbol alone; None for combinations and what is no instrument."""
    match = _NAME(native)
    if match is None:
        return None
    base, given, day, strike, right = match.group("base", "quote", "day", "strike", "right")
    quote, settle = given or "USD", given or base
    if day is None:
        return spot(exchange, native, base, given) if given and strike is None else None
    expiry = None if day == "PERPETUAL" else delivery(day, "%d%b%y")
    if (expiry is None) != (day == "PERPETUAL"):
        return None
    if strike is not None:
        if expiry is None:
            return None
        return option(
            exchange,
            native,
            base,
            quote,
            expiry=expiry,
            strike=strike.replace("d", "."),
            right="C" if right == "C" else "P",
            settle=settle,
        )
    return contract(
        exchange,
        native,
        base,
        quote,
        settle=settle,
        expiry=expiry,
        inverse=given is None,
        size_unit="base" if given else "quote",
    )


LISTING = Listing(read, name)
