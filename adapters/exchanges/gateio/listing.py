"""Gate's instruments: its listings, and its symbols read without one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from adapters.base import Listing
from adapters.exchanges.gateio.frames import Digits, text
from adapters.naming import contract, spot
from adapters.text import step
from feed.errors import BadPayload
from feed.models import Instrument

#: ``BTC_USDT``; dated contracts have a third part.
_PAIR = re.compile(r"([^_]+)_([^_]+)").fullmatch
#: What the perpetuals of this market settle in.
SETTLE = "USDT"
T = TypeVar("T")


class _Pair(msgspec.Struct):
    id: str
    base: str
    quote: str
    precision: int
    amount_precision: int
    trade_status: str


class _Contract(msgspec.Struct):
    """With decimal sizes its step is told nowhere."""

    name: str
    type: str
    quanto_multiplier: Digits
    order_price_round: Digits
    in_delisting: bool = False
    enable_decimal: bool = False
    status: str = "trading"


_decode_pairs = msgspec.json.Decoder(list[_Pair], float_hook=str)
_decode_contracts = msgspec.json.Decoder(list[_Contract], float_hook=str)


def _read(
    exchange: str, decoder: msgspec.json.Decoder[list[T]], bodies: Sequence[bytes]
) -> list[T]:
    found: list[T] = []
    for body in bodies:
        try:
            found += decoder.decode(body)
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
    return found


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``currency_pairs``.

    Raises:
        BadPayload: Something else.
    """
    return [
        spot(
            exchange,
            one.id,
            one.base,
            one.quote,
            price_step=step(one.precision),
            size_step=step(one.amount_precision),
            state="trading" if one.trade_status == "tradable" else one.trade_status,
        )
        for one in _read(exchange, _decode_pairs, bodies)
    ]


def read_futures(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read the futures' ``contracts``.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for one in _read(exchange, _decode_contracts, bodies):
        named = name_futures(exchange, one.name)
        if named is None or one.type != "direct":
            continue
        details: dict[str, Any] = {
            "contract_size": text(one.quanto_multiplier),
            "price_step": text(one.order_price_round),
            "size_step": None if one.enable_decimal else "1",
            "state": "delisting" if one.in_delisting else one.status,
        }
        found.append(msgspec.structs.replace(named, **details))
    return found


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``BTC_USDT``; None for what is no pair."""
    pair = _PAIR(native)
    return spot(exchange, native, pair[1], pair[2]) if pair else None


def name_futures(exchange: str, native: str) -> Instrument | None:
    """Name ``BTC_USDT``, a perpetual; None for dated ones and those that settle otherwise."""
    pair = _PAIR(native)
    if pair is None or pair[2] != SETTLE:
        return None
    return contract(
        exchange, native, pair[1], pair[2], size_unit="contract", contract_currency=pair[1]
    )


SPOT = Listing(read_spot, name_spot)
FUTURES = Listing(read_futures, name_futures)
