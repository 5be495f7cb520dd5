"""OKX's instruments: their names tell what they are, the listing their steps and sizes. Pure.

Source: okx.com/docs-v5, "Get instruments" and the table of contract types. ``BTC-USD-SWAP`` is
margined and paid in BTC, ``BTC-USD_UM-SWAP`` in dollars; both follow the index ``BTC-USD``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, cast

import msgspec
from msgspec.structs import replace

from adapters.base import Listing
from adapters.exchanges.okx.frames import from_millis
from adapters.naming import contract, delivery, option, spot
from feed.errors import BadPayload
from feed.models import Instrument

_SPOT = re.compile(r"([^-_]+)-([^-_]+)").fullmatch
_CONTRACT = re.compile(
    r"([^-_]+)-([^-_]+?)(?:_(UM|CM))?-(?:SWAP|([0-9]{6})(?:-([0-9.]+)-([CP]))?)"
).fullmatch
#: Our type -> OKX's.
TYPES = {"spot": "SPOT", "perpetual": "SWAP", "future": "FUTURES", "option": "OPTION"}


class _Listed(msgspec.Struct):
    instId: str
    instType: str
    state: str
    tickSz: str = ""
    lotSz: str = ""
    ctVal: str = ""
    ctMult: str = ""
    ctValCcy: str = ""
    expTime: str = ""


class _Listing(msgspec.Struct):
    data: list[_Listed]


_decode = msgspec.json.Decoder(_Listing).decode


def read(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``instruments`` of any types; what its name does not tell is left out.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            for one in _decode(body).data:
                named = name(exchange, one.instId)
                if named is not None:
                    found.append(_detailed(named, one))
        except (ValueError, ArithmeticError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
    return found


def _detailed(named: Instrument, listed: _Listed) -> Instrument:
    size = None
    if listed.ctVal:
        size = f"{Decimal(listed.ctVal) * Decimal(listed.ctMult or '1'):f}"
    # A perpetual or a pair has an end only when it is about to be delisted.
    expiry = from_millis(listed.expTime) if named.expiry is not None else None
    return replace(
        named,
        price_step=listed.tickSz or None,
        size_step=listed.lotSz or None,
        contract_size=size,
        contract_currency=listed.ctValCcy or None,
        expiry=expiry or named.expiry,
        state="trading" if listed.state == "live" else listed.state.lower(),
    )


def name(exchange: str, native: str) -> Instrument | None:
    """Name ``BTC-USDT``, ``BTC-USDT-SWAP``, ``BTC-USD-261225``, ``BTC-USD-261225-90000-C``.

    None for others: families that we do not know, spreads.
    """
    if pair := _SPOT(native):
        return spot(exchange, native, *pair.groups())
    found = _CONTRACT(native)
    if found is None:
        return None
    base, quote, margin, day, strike, right = found.groups()
    is_inverse = quote == "USD" and margin != "UM"
    settle = base if is_inverse else quote
    expiry = delivery(day, "%y%m%d") if day else None
    if day and expiry is None:
        return None
    if strike and expiry is not None:
        return option(
            exchange,
            native,
            base,
            quote,
            expiry=expiry,
            strike=strike,
            right=cast(Literal["C", "P"], right),
            settle=settle,
            size_unit="contract",
        )
    return contract(
        exchange,
        native,
        base,
        quote,
        settle=settle,
        expiry=expiry,
        inverse=is_inverse,
        size_unit="contract",
    )


def index(native: str) -> str:
    """Return the index that a contract follows: ``BTC-USD`` of ``BTC-USD_UM-SWAP``."""
    return "-".join(native.split("-")[:2]).partition("_")[0]


LISTING = Listing(read, name)
