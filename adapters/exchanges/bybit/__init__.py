"""Bybit v5: spot, linear and inverse contracts."""

import re

from adapters.entry import Entry

ENTRIES = {
    "bybit": Entry(
        "bybit",
        "Bybit",
        "BybitVenue",
        re.compile(r"/v5/public/spot|category=spot"),
        re.compile(r'"topic":"(?:orderbook|publicTrade|tickers)\.'),
        by_default=True,
    ),
    "bybit-linear": Entry(
        "bybit",
        "BybitLinear",
        "BybitLinearVenue",
        re.compile(r"/v5/public/linear|category=linear"),
        None,
        by_default=True,
    ),
    "bybit-inverse": Entry(
        "bybit",
        "BybitInverse",
        "BybitInverseVenue",
        re.compile(r"/v5/public/inverse|category=inverse"),
        None,
    ),
}
