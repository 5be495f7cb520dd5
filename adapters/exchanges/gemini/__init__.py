"""Gemini: spot and perpetuals."""

import re

from adapters.entry import Entry

ENTRIES = {
    "gemini": Entry(
        "gemini",
        "Gemini",
        "GeminiVenue",
        re.compile(
            r"//(?:ws|api)\.gemini\.com|^/v2/marketdata|^/\?snapshot=-1$|/v1/symbols/details/"
        ),
        re.compile(r'"type":"l2_updates"|"e":"depthUpdate","E":\d{19}'),
    ),
}
