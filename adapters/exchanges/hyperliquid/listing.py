"""Hyperliquid's instruments: its listings, and its coins read without one. Pure.

A perpetual's coin is ``BTC``, a builder's (HIP-3) ``xyz:TSLA``; sizes are in the coin, profits in
the builder's collateral, which is USDC where nothing is said. A spot pair's coin is ``PURR/USDC``
or, far more often, ``@107``, which the listing alone can name. Canonical names are in capitals.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import contract, spot
from adapters.text import step
from feed.errors import BadPayload
from feed.models import Instrument

COLLATERAL = "USDC"


class _Listed(msgspec.Struct, rename="camel"):
    """A perpetual, or a spot pair of two ``tokens``."""

    name: str
    sz_decimals: int = 0
    is_delisted: bool = False
    tokens: tuple[int, int] | None = None


class _Token(msgspec.Struct, rename="camel"):
    name: str
    index: int
    sz_decimals: int


class _Meta(msgspec.Struct, rename="camel"):
    """``meta``, an entry of ``allPerpMetas``, or ``spotMeta``, which alone has ``tokens``."""

    universe: list[_Listed]
    tokens: list[_Token] = []
    collateral_token: int = 0


_decode = msgspec.json.Decoder(_Meta | list[_Meta]).decode


def _named(
    exchange: str, one: _Listed, collateral: str, tokens: dict[int, _Token]
) -> Instrument | None:
    state = "delisted" if one.is_delisted else "trading"
    if one.tokens is None:
        size_step = step(one.sz_decimals)
        base = one.name.upper()
        return contract(exchange, one.name, base, collateral, size_step=size_step, state=state)
    bought, paid = (tokens.get(token) for token in one.tokens)
    if bought is None or paid is None:
        return None
    base, size_step = bought.name.upper(), step(bought.sz_decimals)
    return spot(exchange, one.name, base, paid.name.upper(), size_step=size_step, state=state)


def read(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``allPerpMetas`` (or ``meta``) and ``spotMeta``; of two with one name the first stands.

    Raises:
        BadPayload: Something else.
    """
    metas: list[_Meta] = []
    for body in bodies:
        try:
            given = _decode(body)
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        metas += given if isinstance(given, list) else [given]
    tokens = {token.index: token for meta in metas for token in meta.tokens}
    found: dict[str, Instrument] = {}
    for meta in metas:
        token = tokens.get(meta.collateral_token)
        collateral = token.name if token is not None else COLLATERAL
        for one in meta.universe:
            named = _named(exchange, one, collateral, tokens)
            if named is not None:
                found.setdefault(named.symbol, named)
    return list(found.values())


def name(exchange: str, native: str) -> Instrument | None:
    """Name a perpetual or a pair by its coin; None for ``@107``."""
    base, slash, quote = native.partition("/")
    if not base or native.startswith("@"):
        return None
    if slash:
        return spot(exchange, native, base.upper(), quote.upper()) if quote else None
    return contract(exchange, native, native.upper(), COLLATERAL)


LISTING = Listing(read, name)
