"""Binance: spot, USD-M and COIN-M futures, and Binance.US."""

import re

from adapters.entry import Entry

ENTRIES = {
    # More telling patterns first: COIN-M frames are USD-M frames of other symbols, which are spot
    # frames with a ``pu`` or ``T`` more; Binance.US cannot be told from spot.
    "binance-coinm": Entry(
        "binance",
        "BinanceCoinm",
        "BinanceCoinmVenue",
        re.compile(r"//dstream\.binance\.com|//dapi\.binance\.com|/dapi/v\d/"),
        # BTCUSD_PERP and BTCUSD_260327, but not BTCBUSD_210129 and ETHBUSD_210129 of USD-M.
        re.compile(r'"[A-Z0-9]+(?:USD_PERP|(?<![CH]B)USD_\d{6})["@]', re.IGNORECASE),
    ),
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
            r"//(?:stream|api\d?|www|data-stream|data-api)\.binance\.(?:com|vision)|^/api/v\d/depth"
        ),
        re.compile(r'"stream":"[^"]+@'),
        by_default=True,
    ),
    "binance-us": Entry(
        "binance",
        "BinanceUs",
        "BinanceUsVenue",
        re.compile(r"//(?:stream|api|www)\.binance\.us\b"),
        None,
    ),
}
