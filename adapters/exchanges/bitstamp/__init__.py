"""Bitstamp spot, WebSocket v2."""

import re

from adapters.entry import Entry

ENTRIES = {
    "bitstamp": Entry(
        "bitstamp",
        "Bitstamp",
        "BitstampVenue",
        re.compile(r"//ws\.bitstamp\.net|//www\.bitstamp\.net/api/|^/api/v2/order_book/"),
        re.compile(r'"channel":"(?:live_trades|order_book|diff_order_book)_|"event":"bts:'),
    ),
}
