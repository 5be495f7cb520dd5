"""Canonical names of instruments, from what an exchange says about them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from feed.models import Instrument
from feed.topics import symbol_text

#: Where dated contracts are delivered when the symbol tells the day alone, hours UTC.
DELIVERY_HOUR = 8


def spot(
    exchange: str,
    native: str,
    base: str,
    quote: str,
    *,
    price_step: str | None = None,
    size_step: str | None = None,
    state: str = "trading",
) -> Instrument:
    """Return a spot instrument under its canonical name."""
    return Instrument(
        exchange=exchange,
        symbol=f"{symbol_text(base)}-{symbol_text(quote)}",
        native=native,
        type="spot",
        base=base,
        quote=quote,
        price_step=price_step,
        size_step=size_step,
        state=state,
    )


def contract(
    exchange: str,
    native: str,
    base: str,
    quote: str,
    *,
    settle: str | None = None,
    expiry: int | None = None,
    inverse: bool = False,
    size_unit: Literal["base", "quote", "contract"] = "base",
    contract_size: str | None = None,
    contract_currency: str | None = None,
    price_step: str | None = None,
    size_step: str | None = None,
    state: str = "trading",
) -> Instrument:
    """Return a perpetual, or a future where it has an expiry, under its canonical name.

    Args:
        settle: What profits are paid in; None: the quote. Another one is part of the name.
        expiry: µs.
    """
    pair = _pair(base, quote, settle)
    return Instrument(
        exchange=exchange,
        symbol=f"{pair}-{'PERP' if expiry is None else day_text(expiry)}",
        native=native,
        type="perpetual" if expiry is None else "future",
        base=base,
        quote=quote,
        settle=settle or quote,
        inverse=inverse,
        size_unit=size_unit,
        contract_size=contract_size,
        contract_currency=contract_currency,
        price_step=price_step,
        size_step=size_step,
        expiry=expiry,
        state=state,
    )


def option(
    exchange: str,
    native: str,
    base: str,
    quote: str,
    *,
    expiry: int,
    strike: str,
    right: Literal["C", "P"],
    settle: str | None = None,
    size_unit: Literal["base", "quote", "contract"] = "base",
    contract_size: str | None = None,
    contract_currency: str | None = None,
    price_step: str | None = None,
    size_step: str | None = None,
    state: str = "trading",
) -> Instrument:
    """Return an option under its canonical name, e.g. ``BTC-USD:BTC-20261225-100000-C``.

    Args:
        settle: As for ``contract``.
        expiry: µs.
        strike: As the exchange writes it.
    """
    pair = _pair(base, quote, settle)
    return Instrument(
        exchange=exchange,
        symbol=f"{pair}-{day_text(expiry)}-{symbol_text(strike)}-{right}",
        native=native,
        type="option",
        base=base,
        quote=quote,
        settle=settle or quote,
        size_unit=size_unit,
        contract_size=contract_size,
        contract_currency=contract_currency,
        price_step=price_step,
        size_step=size_step,
        expiry=expiry,
        state=state,
    )


def _pair(base: str, quote: str, settle: str | None) -> str:
    """Return the pair, and what it settles in where that is not the quote."""
    pair = f"{symbol_text(base)}-{symbol_text(quote)}"
    return pair if settle in (None, quote) else f"{pair}:{symbol_text(settle or quote)}"


def day_text(expiry: int) -> str:
    """Return the day of an expiry in µs as names have it, ``20261225``."""
    return f"{datetime.fromtimestamp(expiry // 1_000_000, UTC):%Y%m%d}"


def delivery(text: str, layout: str) -> int | None:
    """Return when a contract named for a day is delivered, in µs; None where it is no such day.

    Args:
        layout: As for ``strptime``, e.g. ``%d%b%y``.
    """
    try:
        day = datetime.strptime(text, layout).replace(hour=DELIVERY_HOUR, tzinfo=UTC)
    except ValueError:
        return None
    return int(day.timestamp()) * 1_000_000
