"""Bitget v2: spot, and futures of all margins."""

import re

from adapters.entry import Entry

ENTRIES = {
    "bitget": Entry(
        "bitget",
        "Bitget",
        "BitgetVenue",
        re.compile(r"//ws\.bitget\.com|^/v2/ws/public|/api/v2/spot/"),
        re.compile(r'"arg":\{"instType":"SPOT"'),
    ),
    "bitget-futures": Entry(
        "bitget",
        "BitgetFutures",
        "BitgetFuturesVenue",
        re.compile(r"//ws\.bitget\.com|^/v2/ws/public|/api/v2/mix/"),
        re.compile(r'"arg":\{"instType":"(?:USDT|USDC|COIN)-FUTURES"'),
    ),
}
