"""KuCoin: spot and futures, the classic API."""

import re

from adapters.entry import Entry

ENTRIES = {
    "kucoin": Entry(
        "kucoin",
        "Kucoin",
        "KucoinVenue",
        re.compile(
            r"//(?:api|ws-api|ws-api-spot|push-private|push1-v2)\.kucoin\.com"
            r"|/api/v\d/(?:symbols$|market/orderbook/level2)"
        ),
        re.compile(r'"topic":"/(?:market|spotMarket)/'),
    ),
    "kucoin-futures": Entry(
        "kucoin",
        "KucoinFutures",
        "KucoinFuturesVenue",
        re.compile(
            r"//(?:api|ws-api|push)-futures\.kucoin\.com"
            r"|/api/v\d/(?:contracts/active|level2/(?:snapshot|depth))"
        ),
        re.compile(r'"topic":"/(?:contractMarket|contract)/'),
    ),
}
