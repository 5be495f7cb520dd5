"""Kraken Futures, WebSocket v1."""

import re

from adapters.entry import Entry

ENTRIES = {
    "kraken-futures": Entry(
        "kraken_futures",
        "KrakenFutures",
        "KrakenFuturesVenue",
        re.compile(r"//futures\.kraken\.com|/ws/v1$|/derivatives/api/v3/"),
        re.compile(r'"feed":"(?:book|trade|ticker)(?:_snapshot|_lite)?"'),
    ),
}
