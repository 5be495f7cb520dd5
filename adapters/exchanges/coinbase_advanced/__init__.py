"""Coinbase Advanced Trade."""

import re

from adapters.entry import Entry

ENTRIES = {
    "coinbase-advanced": Entry(
        "coinbase_advanced",
        "CoinbaseAdvanced",
        "CoinbaseAdvancedVenue",
        re.compile(r"//advanced-trade-ws\.coinbase\.com|/api/v3/brokerage/market/"),
        re.compile(r'"channel":"(?:l2_data|market_trades)"|"sequence_num":'),
    ),
}
