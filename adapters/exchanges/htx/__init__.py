"""HTX, formerly Huobi: spot, linear contracts, swaps that settle in the coin."""

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
    "htx-linear-swap": Entry(
        "htx",
        "HtxLinearSwap",
        "HtxLinearSwapVenue",
        re.compile(r"/linear-swap-(?:ws|notification|api)|/ws_index"),
        re.compile(r'"(?:ch|topic)":"(?:market|public)\.[A-Z0-9]+-USDT[.-]'),
    ),
    "htx-coin-swap": Entry(
        "htx",
        "HtxCoinSwap",
        "HtxCoinSwapVenue",
        re.compile(r"/swap-(?:ws|notification|api)|/ws_index"),
        re.compile(r'"(?:ch|topic)":"(?:market|public)\.[A-Z0-9]+-USD\.'),
    ),
}
