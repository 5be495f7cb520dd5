"""HTX, formerly Huobi: spot."""

import re

from adapters.entry import Entry

ENTRIES = {
    "htx": Entry(
        "htx",
        "Htx",
        "HtxVenue",
        re.compile(
            r"api(?:-aws)?\.huobi\.pro|^/(?:ws|feed)$|/v1/common/symbols|/market/history/trade"
        ),
        re.compile(r'"(?:ch|rep)":"market\.[a-z0-9]+\.'),
    ),
}
