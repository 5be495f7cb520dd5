"""Upbit."""

import re

from adapters.entry import Entry

ENTRIES = {
    "upbit": Entry(
        "upbit",
        "Upbit",
        "UpbitVenue",
        re.compile(r"//api\.upbit\.com"),
        re.compile(r'^\{"ty":"(?:trade|orderbook|ticker)","cd":"'),
    ),
}
