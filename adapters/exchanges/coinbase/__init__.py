"""Coinbase Exchange."""

import re

from adapters.entry import Entry

ENTRIES = {
    "coinbase": Entry(
        "coinbase",
        "Coinbase",
        "CoinbaseVenue",
        re.compile(r"//(?:ws-feed|api)(?:\.pro|\.exchange)\.coinbase\.com"),
        re.compile(r'"type":"(?:l2update|last_match|match|subscriptions)"'),
        by_default=True,
    ),
}
