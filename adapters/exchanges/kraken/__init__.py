"""Kraken spot, WebSocket v2."""

import re

from adapters.entry import Entry

ENTRIES = {
    "kraken": Entry(
        "kraken",
        "Kraken",
        "KrakenVenue",
        re.compile(r"//ws\.kraken\.com/v2|//api\.kraken\.com"),
        re.compile(r'"channel":"(?:book|trade|ticker|heartbeat|status|instrument)"'),
        by_default=True,
    ),
}
