"""Bithumb: spot, mostly against the won."""

import re

from adapters.entry import Entry

ENTRIES = {
    "bithumb": Entry(
        "bithumb",
        "Bithumb",
        "BithumbVenue",
        re.compile(r"//(?:ws-api|api)\.bithumb\.com"),
        None,
    ),
}
