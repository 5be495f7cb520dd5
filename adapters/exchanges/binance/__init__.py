"""Binance: spot and USD-M futures."""

import re

from adapters.entry import Entry

ENTRIES = {
    # More telling patterns first: USD-M frames are spot frames with a ``pu`` or ``T`` more.
    "binance-usdm": Entry(
        "binance",
        "BinanceUsdm",
        "BinanceUsdmVenue",
        re.compile(r"//fstream\.binance\.com|//fapi\.binance\.com|/fapi/v\d/"),
        re.compile(r'"pu":\d|"e":"(?:bookTicker|markPriceUpdate|forceOrder)"'),
        by_default=True,
    ),
    "binance": Entry(
        "binance",
        "Binance",
        "BinanceVenue",
        re.compile(
            r"//(?:stream|api\d?|www|data-stream|data-api)\.binance\.(?:com|vision)|/api/v\d/depth"
        ),
        re.compile(r'"stream":"[^"]+@'),
        by_default=True,
    ),
}
