"""OKX v5: spot, perpetual swaps, dated futures and options."""

import re

from adapters.entry import Entry

ENTRIES = {
    "okx": Entry(
        "okx",
        "Okx",
        "OkxVenue",
        re.compile(r"okx\.com|okex\.com|/ws/v5/public$|/api/v5/(?:public|market)/"),
        re.compile(r'^\{"arg":\{"channel":"[\w-]+","inst'),
        by_default=True,
    ),
}
