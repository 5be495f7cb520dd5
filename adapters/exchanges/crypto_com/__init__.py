"""Crypto.com Exchange v1: spot, perpetuals and futures on one socket."""

import re

from adapters.entry import Entry

ENTRIES = {
    "crypto-com": Entry(
        "crypto_com",
        "CryptoCom",
        "CryptoComVenue",
        re.compile(r"stream\.crypto\.com|api\.crypto\.com|/exchange/v1/(?:market|public/)"),
        re.compile(r'"result":\{[^{[]*"subscription":"'),
    ),
}
