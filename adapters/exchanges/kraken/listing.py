"""Kraken's instruments: its REST listing, and its WebSocket symbols. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.base import Listing
from adapters.naming import spot
from adapters.text import step
from feed.errors import BadPayload
from feed.models import Instrument

#: What REST calls otherwise than WebSocket v2.
_ASSETS = {"XBT": "BTC", "XDG": "DOGE"}


class _Pair(msgspec.Struct):
    pair_decimals: int
    lot_decimals: int
    wsname: str = ""
    status: str = "online"
    tick_size: str | None = None


class _Listing(msgspec.Struct):
    result: dict[str, _Pair]


_decode = msgspec.json.Decoder(_Listing).decode


def read_spot(exchange: str, bodies: Sequence[bytes]) -> list[Instrument]:
    """Read ``AssetPairs``.

    Raises:
        BadPayload: Something else.
    """
    found = []
    for body in bodies:
        try:
            pairs = _decode(body).result.values()
        except (ValueError, RecursionError) as e:
            raise BadPayload(exchange, body, str(e)[:200]) from e
        for pair in pairs:
            base, slash, quote = pair.wsname.partition("/")
            if not slash:  # dark pools have no name on the WebSocket
                continue
            base, quote = _ASSETS.get(base, base), _ASSETS.get(quote, quote)
            found.append(
                spot(
                    exchange,
                    f"{base}/{quote}",
                    base,
                    quote,
                    price_step=pair.tick_size or step(pair.pair_decimals),
                    size_step=step(pair.lot_decimals),
                    state="trading" if pair.status == "online" else pair.status.lower(),
                )
            )
    return found


def name_spot(exchange: str, native: str) -> Instrument | None:
    """Name ``BTC/USD``; None for what is no pair."""
    base, _, quote = native.partition("/")
    return spot(exchange, native, base, quote) if base and quote else None


def rest_name(native: str) -> str:
    """Return what REST calls a pair: ``XBTUSD`` for ``BTC/USD``."""
    old = {new: name for name, new in _ASSETS.items()}
    return "".join(old.get(asset, asset) for asset in native.split("/"))


LISTING = Listing(read_spot, name_spot)
