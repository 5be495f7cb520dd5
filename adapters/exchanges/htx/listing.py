"""HTX's instruments: its listing, and its symbols read without one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import contract, delivery, pair_of, spot
from adapters.text import decimal, step
from feed.errors import BadPayload
from feed.models import Instrument

#: ``BTC-USDT``, ``BTC-USDT-261225``; ``BTC-USD``.
_LINEAR = re.compile(r"([A-Z0-9]+)-(USDT|HUSD|USDC)(?:-([0-9]{6}))?").fullmatch
_COIN = re.compile(r"([A-Z0-9]+)-USD").fullmatch


class _Pair(msgspec.Struct, rename="kebab"):
    symbol: str
    base_currency: str
    quote_currency: str
    price_precision: int
    amount_precision: int
    state: str = "online"


class _Listing(msgspec.Struct):
    data: list[_Pair]


class _Contract(msgspec.Struct):
    contract_code: str
    contract_size: msgspec.Raw
    price_tick: msgspec.Raw
    contract_status: int = 1


class _Contracts(msgspec.Struct):
    data: list[_Contract]


_decode_contracts = msgspec.json.Decoder(_Contracts).decode
_decode = msgspec.json.Decoder(_Listing).decode


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``common/symbols``.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            pairs = _decode(body).data
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        found += [
            spot(
                exchange,
                one.symbol,
                one.base_currency.upper(),
                one.quote_currency.upper(),
                price_step=step(one.price_precision),
                size_step=step(one.amount_precision),
                state="trading" if one.state == "online" else one.state.lower(),
            )
            for one in pairs
        ]
    return found


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``btcusdt`` by the quote assets we know; None for others."""
    pair = pair_of(native.upper()) if native.isalnum() else None
    return spot(exchange, native, *pair) if pair else None


def read_linear(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``swap_contract_info`` of linear contracts.

    Raises:
        BadPayload: Something else.
    """
    return [
        named
        for code, size, step, state in _contracts(exchange, bodies)
        if (named := name_linear(exchange, code, size, step, state)) is not None
    ]


def read_coin_swaps(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``swap_contract_info`` of swaps that settle in the coin.

    Raises:
        BadPayload: Something else.
    """
    return [
        named
        for code, size, step, state in _contracts(exchange, bodies)
        if (named := name_coin_swap(exchange, code, size, step, state)) is not None
    ]


def name_linear(
    exchange: str,
    native: str,
    size: str | None = None,
    step: str | None = None,
    state: str = "trading",
) -> Instrument | None:
    """Name ``BTC-USDT`` and ``BTC-USDT-261225``; None for others."""
    found = _LINEAR(native)
    if found is None:
        return None
    base, quote, day = found.groups()
    expiry = delivery(day, "%y%m%d") if day else None
    if day and expiry is None:
        return None
    return contract(
        exchange,
        native,
        base,
        quote,
        expiry=expiry,
        size_unit="contract",
        contract_size=size,
        contract_currency=base,
        price_step=step,
        size_step="1",
        state=state,
    )


def name_coin_swap(
    exchange: str,
    native: str,
    size: str | None = None,
    step: str | None = None,
    state: str = "trading",
) -> Instrument | None:
    """Name ``BTC-USD``; None for others."""
    found = _COIN(native)
    if found is None:
        return None
    return contract(
        exchange,
        native,
        found[1],
        "USD",
        settle=found[1],
        inverse=True,
        size_unit="contract",
        contract_size=size,
        contract_currency="USD",
        price_step=step,
        size_step="1",
        state=state,
    )


def _contracts(exchange: str, bodies: Sequence[bytes]) -> Iterator[tuple[str, str, str, str]]:
    """Yield code, contract size, price step and state."""
    for body in bodies:
        try:
            for one in _decode_contracts(body).data:
                size = decimal(str(one.contract_size, "ascii"))
                step = decimal(str(one.price_tick, "ascii"))
                # 1: listed; others: to come, suspended, delivered and so on.
                state = "trading" if one.contract_status == 1 else f"status_{one.contract_status}"
                yield one.contract_code, size, step, state
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e


SPOT = Listing(read_spot, name_spot)
LINEAR = Listing(read_linear, name_linear)
COIN_SWAPS = Listing(read_coin_swaps, name_coin_swap)
