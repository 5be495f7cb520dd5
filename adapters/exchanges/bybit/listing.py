"""Bybit's instruments: its listings, and its symbols read without one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from adapters.base import Listing
from adapters.exchanges.bybit.frames import from_millis
from adapters.naming import contract, delivery, last_friday, pair_of, spot
from feed.errors import BadPayload
from feed.models import Instrument

#: ``BTCUSDT-25DEC26`` settles in USDT, ``BTC-25DEC26`` in USDC.
_DATED = re.compile(r"([A-Z0-9]+?)(USDT)?-([0-9]{1,2}[A-Z]{3}[0-9]{2})").fullmatch
#: ``BTCUSD`` and, by the trade's letter of the month and the year, ``BTCUSDZ26``.
_INVERSE = re.compile(r"([A-Z0-9]+?)USD(?:([FGHJKMNQUVXZ])([0-9]{2}))?").fullmatch
_MONTHS = {letter: month for month, letter in enumerate("FGHJKMNQUVXZ", 1)}


class _PriceFilter(msgspec.Struct):
    tick_size: str = msgspec.field(name="tickSize")


class _LotFilter(msgspec.Struct, rename="camel"):
    base_precision: str | None = None
    qty_step: str | None = None


class _Listed(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_coin: str
    quote_coin: str
    price_filter: _PriceFilter
    lot_size_filter: _LotFilter
    settle_coin: str | None = None
    delivery_time: str = "0"

    @property
    def expiry(self) -> int | None:
        return from_millis(self.delivery_time)


class _Listing(msgspec.Struct):
    instruments: list[_Listed] = msgspec.field(name="list")


class _Answer(msgspec.Struct):
    result: _Listing


_decode = msgspec.json.Decoder(_Answer).decode


def _read(exchange: str, bodies: Sequence[bytes]) -> Iterator[_Listed]:
    for body in bodies:
        try:
            yield from _decode(body).result.instruments
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``instruments-info`` of spot.

    Raises:
        BadPayload: Something else.
    """
    return [
        spot(
            exchange,
            one.symbol,
            one.base_coin,
            one.quote_coin,
            price_step=one.price_filter.tick_size,
            size_step=one.lot_size_filter.base_precision,
            state=one.status.lower(),
        )
        for one in _read(exchange, bodies)
    ]


def read_linear(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``instruments-info`` of linear.

    Raises:
        BadPayload: Something else.
    """
    return [
        contract(
            exchange,
            one.symbol,
            one.base_coin,
            one.quote_coin,
            expiry=one.expiry,
            price_step=one.price_filter.tick_size,
            size_step=one.lot_size_filter.qty_step,
            state=one.status.lower(),
        )
        for one in _read(exchange, bodies)
    ]


def read_inverse(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``instruments-info`` of inverse contracts.

    Raises:
        BadPayload: Something else.
    """
    return [
        contract(
            exchange,
            one.symbol,
            one.base_coin,
            one.quote_coin,
            settle=one.settle_coin or one.base_coin,
            expiry=one.expiry,
            inverse=True,
            size_unit="quote",
            price_step=one.price_filter.tick_size,
            size_step=one.lot_size_filter.qty_step,
            state=one.status.lower(),
        )
        for one in _read(exchange, bodies)
    ]


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``BTCUSDT`` by the quote assets we know; None for others."""
    pair = pair_of(native)
    return spot(exchange, native, *pair) if pair else None


def name_linear(exchange: str, native: str) -> Instrument | None:
    """Name ``BTCUSDT``, ``BTCPERP`` (USDC) and dated futures; None for others."""
    if dated := _DATED(native):
        base, quote, date = dated.groups()
        expiry = delivery(date, "%d%b%y")
        if expiry is None:
            return None
        return contract(exchange, native, base, quote or "USDC", expiry=expiry)
    for ending, quote in (("USDT", "USDT"), ("PERP", "USDC")):
        if native.endswith(ending) and native != ending:
            return contract(exchange, native, native.removesuffix(ending), quote)
    return None


def name_inverse(exchange: str, native: str) -> Instrument | None:
    """Name ``BTCUSD`` and ``BTCUSDZ26``, delivered on its month's last Friday; None for others."""
    found = _INVERSE(native)
    if found is None:
        return None
    base, letter, year = found.groups()
    expiry = last_friday(2000 + int(year), _MONTHS[letter]) if letter else None
    return contract(
        exchange, native, base, "USD", settle=base, expiry=expiry, inverse=True, size_unit="quote"
    )


SPOT = Listing(read_spot, name_spot)
LINEAR = Listing(read_linear, name_linear)
INVERSE = Listing(read_inverse, name_inverse)
