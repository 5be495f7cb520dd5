"""Which exchanges there are: name -> adapter and venue, loaded when asked for. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import cast

import msgspec

from adapters.base import Adapter, TapeLine, Venue
from feed.errors import ConfigError

#: What ``feed ingest`` runs when asked by name, though no adapter of an exchange: ``sim.py``.
SIM = "sim"


class Entry(msgspec.Struct, frozen=True):
    """One exchange.

    Attributes:
        module: Of the adapter below ``adapters``; the venue's is ``adapters.venues.<module>``.
        adapter, venue: The classes' names there.
        url: Finds in a recorded or requested URL (or its path) that it is this exchange's.
        frame: Finds the same in a received frame of a tape that has no URL; None where another
            exchange's frames look alike, which then is the one to assume.
    """

    module: str
    adapter: str
    venue: str
    url: re.Pattern[str]
    frame: re.Pattern[str] | None

    def load_adapter(self) -> type[Adapter]:
        return cast(type[Adapter], getattr(import_module(f"adapters.{self.module}"), self.adapter))

    def load_venue(self) -> type[Venue]:
        return cast(
            type[Venue], getattr(import_module(f"adapters.venues.{self.module}"), self.venue)
        )


#: More telling patterns first: USD-M frames are spot frames with a ``pu`` or ``T`` more.
REGISTRY: dict[str, Entry] = {
    "binance-usdm": Entry(
        "binance",
        "BinanceUsdm",
        "BinanceUsdmVenue",
        re.compile(r"//fstream\.binance\.com|//fapi\.binance\.com|/fapi/v\d/"),
        re.compile(r'"pu":\d|"e":"(?:bookTicker|markPriceUpdate|forceOrder)"'),
    ),
    "binance": Entry(
        "binance",
        "Binance",
        "BinanceVenue",
        re.compile(
            r"//(?:stream|api\d?|www|data-stream|data-api)\.binance\.(?:com|vision)|/api/v\d/depth"
        ),
        re.compile(r'"stream":"[^"]+@'),
    ),
    "coinbase": Entry(
        "coinbase",
        "Coinbase",
        "CoinbaseVenue",
        re.compile(r"//(?:ws-feed|api)(?:\.pro|\.exchange)\.coinbase\.com"),
        re.compile(r'"type":"(?:l2update|last_match|match|subscriptions)"'),
    ),
    "kraken": Entry(
        "kraken",
        "Kraken",
        "KrakenVenue",
        re.compile(r"//ws\.kraken\.com/v2|//api\.kraken\.com"),
        re.compile(r'"channel":"(?:book|trade|ticker|heartbeat|status|instrument)"'),
    ),
    "bybit": Entry(
        "bybit",
        "Bybit",
        "BybitVenue",
        re.compile(r"/v5/public/spot|category=spot"),
        re.compile(r'"topic":"(?:orderbook|publicTrade|tickers)\.'),
    ),
    "bybit-linear": Entry(
        "bybit",
        "BybitLinear",
        "BybitLinearVenue",
        re.compile(r"/v5/public/linear|category=linear"),
        None,
    ),
}


def entry(name: str) -> Entry:
    """Return the exchange's entry.

    Raises:
        ConfigError: No such exchange; names those there are.
    """
    try:
        return REGISTRY[name]
    except KeyError:
        near = get_close_matches(name, [*REGISTRY, SIM], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(sorted([*REGISTRY, SIM]))
        raise ConfigError(f"unknown exchange {name[:40]!r}{hint} (there are: {known})") from None


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the exchanges to run: those named, each once, or all but ``sim``.

    Raises:
        ConfigError: A name we do not know.
    """
    for name in names:
        if name != SIM:
            entry(name)
    return tuple(dict.fromkeys(names)) or tuple(sorted(REGISTRY))


def exchanges_of(lines: Iterable[TapeLine]) -> list[str]:
    """Return whose tape this is: by its URLs, or by its frames where it has none.

    One recorder may have been connected to several, so there may be more than one.
    """
    found: set[str] = set()
    by_frame: str | None = None
    has_urls = False
    for line in lines:
        if line.url is not None:
            has_urls = True
            found.update(name for name, one in REGISTRY.items() if one.url.search(line.url))
        elif line.dir == "in" and line.raw is not None and by_frame is None:
            by_frame = next(
                (
                    name
                    for name, one in REGISTRY.items()
                    if one.frame is not None and one.frame.search(line.raw)
                ),
                None,
            )
    if by_frame is not None and not has_urls:
        return [by_frame]
    return sorted(found)


def owner(path: str, names: Collection[str]) -> str | None:
    """Return which of the exchanges a requested path belongs to; the only one gets all."""
    if len(names) == 1:
        return next(iter(names))
    return next((name for name in names if REGISTRY[name].url.search(path)), None)
