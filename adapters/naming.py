"""Canonical names of instruments, from what an exchange says about them. Pure."""

from __future__ import annotations

from calendar import FRIDAY, monthcalendar
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from feed.models import Instrument
from feed.topics import symbol_text

#: Where dated contracts are delivered when the symbol tells the day alone, hours UTC.
DELIVERY_HOUR = 8
#: Quote assets of exchanges that write pairs without a separator, present and past. Where a symbol
#: ends in two of them, the earlier is meant (``pair_of``): EUR is quote of far more than AEUR is.
#: Dollars themselves come last, since exchanges that have the coins seldom have them.
QUOTES = tuple(
    (
        "USDT USDC FDUSD BUSD TUSD HUSD GUSD RLUSD XUSD BFUSD USDP USDS USDD USDE USD1 USDG USDQ "
        "USDR USDK PAX DAI UST VAI EURI EURC EURT EUROC EUR AEUR GBP AUD TRY BRL RUB UAH NGN ZAR "
        "PLN RON ARS CZK JPY MXN COP SGD AED IDRT BIDR BVND BKRW KZT BTC ETH BNB XRP TRX DOGE DOT "
        "SOL MNT BGB HT OKB KCS U USD"
    ).split()
)
#: Assets that tell which of two quotes a symbol ends in: ``BNBUSD`` is no BN in BUSD.
_BASES = frozenset(
    (
        "BTC ETH EUR XRP SOL DOGE LTC BCH USDC "
        "BNB SHIB ARB CKB BOB "
        "BAT DOT GRT VET ONT ANT BNT LPT OXT QNT APT SNT HNT FET ICNT PNUT POPCAT USDT XAUT "
        "PAXG USDG YGG OMG MOG MOODENG TRX AVAX STX IMX DYDX GMX SNX ZRX PERL"
    ).split()
)


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


def last_friday(year: int, month: int) -> int:
    """Return when a contract named for a month is delivered, in µs."""
    day = max(week[FRIDAY] for week in monthcalendar(year, month))
    return int(datetime(year, month, day, DELIVERY_HOUR, tzinfo=UTC).timestamp()) * 1_000_000


def pair_of(native: str, quotes: Sequence[str] = QUOTES) -> tuple[str, str] | None:
    """Return base and quote of a pair written without a separator; None if it has no such quote.

    Args:
        native: In capitals, ``BTCUSDT``.
        quotes: Where a symbol ends in several, the first counts whose base is well known; if none
            is, the first.
    """
    found = [
        (native.removesuffix(quote), quote)
        for quote in quotes
        if native.endswith(quote) and native != quote
    ]
    if not found:
        return None
    return next((pair for pair in found if pair[0] in _BASES), found[0])
