"""MEXC spot, API v3."""

import re

from adapters.entry import Entry

ENTRIES = {
    "mexc": Entry(
        "mexc",
        "Mexc",
        "MexcVenue",
        re.compile(r"//wbs(?:-api)?\.mexc\.com|//api\.mexc\.com/api/v3/"),
        re.compile(r"spot@public\."),
    ),
}
