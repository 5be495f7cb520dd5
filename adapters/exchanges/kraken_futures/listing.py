"""Kraken Futures' instruments: its listing, and its symbols read without one. Pure.

``PI_XBTUSD`` is an inverse perpetual: a contract is worth 1 USD and settles in the base.
``PF_XBTUSD`` is a linear one, counted in the base, that settles in the quote whatever the
collateral. ``FI_`` and ``FF_`` are their dated kin, ``PV_`` and ``FV_`` older linear ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from adapters.base import Listing
from adapters.exchanges.kraken_futures.frames import NONE, number_or_none
from adapters.naming import contract
from adapters.text import micros, step
from feed.errors import BadPayload
from feed.models import Instrument

#: What others call otherwise.
_ASSETS = {"XBT": "BTC", "XDG": "DOGE"}
_SYMBOL = re.compile(
    r"[PF]([IFV])_([A-Za-z0-9]+?)(USDT|USDC|USD|EUR|GBP|XBT)(?:_([0-9]{6}))?"
).fullmatch
#: In London, where dated contracts are delivered.
_DELIVERY_HOUR = 16


class _Listed(msgspec.Struct, rename="camel"):
    symbol: str
    tradeable: bool
    tick_size: msgspec.Raw = NONE
    contract_size: msgspec.Raw = NONE
    contract_value_trade_precision: int | None = None
    last_trading_time: str | None = None
    post_only: bool = False
    is_expired: bool = False

    @property
    def state(self) -> str:
        if self.is_expired:
            return "expired"
        if not self.tradeable:
            return "untradeable"
        return "post_only" if self.post_only else "trading"


class _Listing(msgspec.Struct):
    instruments: list[_Listed]


_decode = msgspec.json.Decoder(_Listing).decode


def read(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``instruments``; indices, which are listed too, are left out.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            for one in _decode(body).instruments:
                named = _named(exchange, one.symbol, one)
                if named is not None:
                    found.append(named)
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
    return found


def name(exchange: str, native: str) -> Instrument | None:
    """Name ``PF_XBTUSD`` or ``FI_ETHUSD_261225``; None for what is neither."""
    return _named(exchange, native, None)


def _named(exchange: str, native: str, listed: _Listed | None) -> Instrument | None:
    match = _SYMBOL(native)
    if match is None:
        return None
    family, base, quote, date = match.groups()
    base, quote = _ASSETS.get(base, base), _ASSETS.get(quote, quote)
    expiry = None if date is None else _expiry(date)
    if date is not None and expiry is None:
        return None
    size, price_step, size_step = "1", None, None
    if listed is not None:
        size = number_or_none(listed.contract_size) or size
        price_step = number_or_none(listed.tick_size)
        decimals = listed.contract_value_trade_precision
        size_step = None if decimals is None else step(decimals)
        if expiry is not None and listed.last_trading_time:
            expiry = micros(listed.last_trading_time)
    is_inverse = family == "I"
    unit: Literal["base", "quote"] = "quote" if is_inverse else "base"
    return contract(
        exchange,
        native,
        base,
        quote,
        settle=base if is_inverse else None,
        expiry=expiry,
        inverse=is_inverse,
        size_unit=unit if float(size) == 1 else "contract",
        contract_size=size,
        contract_currency=quote if is_inverse else base,
        price_step=price_step,
        size_step=size_step,
        state="trading" if listed is None else listed.state,
    )


def _expiry(date: str) -> int | None:
    """Return the time of delivery on a day such as ``261225``, µs; None where it is no day."""
    try:
        day = datetime.strptime(date, "%y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    is_summer = _last_sunday(day.year, 3) <= day < _last_sunday(day.year, 10)
    return int((day + timedelta(hours=_DELIVERY_HOUR - is_summer)).timestamp()) * 1_000_000


def _last_sunday(year: int, month: int) -> datetime:
    last = datetime(year, month, 31, tzinfo=UTC)
    return last - timedelta(days=last.isoweekday() % 7)


LISTING = Listing(read, name)
