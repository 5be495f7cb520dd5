"""Deribit: spot, perpetuals, futures and options."""

import re

from adapters.entry import Entry

ENTRIES = {
    "deribit": Entry(
        "deribit",
        "Deribit",
        "DeribitVenue",
        re.compile(r"deribit\.com/|^/(?:ws/)?api/v2(?:/public/|$)"),
        re.compile(r'"method":"subscription","params":\{"channel":"(?:book|trades|ticker|quote)\.'),
    ),
}
