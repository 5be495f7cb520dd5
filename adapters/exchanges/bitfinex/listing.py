"""Bitfinex's instruments: its listing, and its symbols read without one. Pure.

``tBTCUSD`` and ``tDOGE:USD`` are pairs, ``tBTCF0:USTF0`` a perpetual that settles in its quote;
sizes are in the base everywhere. Prices have five significant digits, so there is no step.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import contract, spot
from feed.errors import BadPayload
from feed.models import Instrument

#: What others call otherwise.
_ASSETS = {
    "ALG": "ALGO",
    "AMP": "AMPL",
    "ATO": "ATOM",
    "BCHABC": "XEC",
    "BCHN": "BCH",
    "DAT": "DATA",
    "DOG": "MDOGE",
    "DSH": "DASH",
    "EDO": "PNT",
    "EUS": "EURS",
    "EUT": "EURT",
    "IOT": "IOTA",
    "LUNA": "LUNC",
    "LUNA2": "LUNA",
    "MNA": "MANA",
    "QSH": "QASH",
    "QTM": "QTUM",
    "RBT": "RBTC",
    "SNG": "SNGLS",
    "STJ": "STORJ",
    "TERRAUST": "USTC",
    "TSD": "TUSD",
    "UDC": "USDC",
    "UST": "USDT",
    "VSY": "VSYS",
    "WAX": "WAXP",
    "XCH": "XCHF",
}
#: What the assets of perpetuals end in.
_PERPETUAL = "F0"

_decode = msgspec.json.Decoder(list[list[str]]).decode


def read(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``conf``: one list of pairs for each that was asked for.

    Raises:
        BadPayload: Something else.
    """
    found: dict[str, Instrument] = {}
    for body in bodies:
        try:
            pairs = _decode(body)
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        for native in (f"t{pair}" for listed in pairs for pair in listed):
            named = name(exchange, native)
            if named is not None:
                found[native] = named
    return list(found.values())


def name(exchange: str, native: str) -> Instrument | None:
    """Name a trading pair; None for what is none."""
    pair = native.removeprefix("t")
    base, colon, quote = pair.partition(":")
    if not colon and len(pair) == 6:
        base, quote = pair[:3], pair[3:]
    if pair == native or not base or not quote:
        return None
    is_perpetual = base.endswith(_PERPETUAL) and quote.endswith(_PERPETUAL)
    if is_perpetual:
        base, quote = base.removesuffix(_PERPETUAL), quote.removesuffix(_PERPETUAL)
    if not base or not quote:
        return None
    base, quote = _ASSETS.get(base, base), _ASSETS.get(quote, quote)
    return (contract if is_perpetual else spot)(exchange, native, base, quote)


LISTING = Listing(read, name)
