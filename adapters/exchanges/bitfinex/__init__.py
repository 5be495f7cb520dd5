"""Bitfinex v2: spot and perpetuals."""

import re

from adapters.entry import Entry

ENTRIES = {
    "bitfinex": Entry(
        "bitfinex",
        "Bitfinex",
        "BitfinexVenue",
        re.compile(r"//api(?:-pub)?\.bitfinex\.com|/ws/2$|/v2/conf/"),
        re.compile(r'"event":"subscribed","channel":"\w+","chanId":'),
    ),
}
