"""dYdX v4, by its indexer: perpetuals."""

import re

from adapters.entry import Entry

ENTRIES = {
    "dydx": Entry(
        "dydx",
        "Dydx",
        "DydxVenue",
        re.compile(r"//indexer\.[\w.]*dydx\.\w+|^/v4/(?:ws$|perpetualMarkets)"),
        re.compile(r'"channel":"v4_(?:orderbook|trades|markets)"'),
    ),
}
