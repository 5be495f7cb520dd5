"""Hyperliquid: perpetuals, those of builders too, and spot."""

import re

from adapters.entry import Entry

ENTRIES = {
    "hyperliquid": Entry(
        "hyperliquid",
        "Hyperliquid",
        "HyperliquidVenue",
        re.compile(r"api\.hyperliquid(?:-testnet)?\.xyz|^/(?:ws|info)$"),
        re.compile(r'^\{"channel":"(?:l2Book|bbo|trades|active(?:Spot)?AssetCtx)","data"'),
    ),
}
