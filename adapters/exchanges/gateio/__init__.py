"""Gate v4: spot and USDT-settled perpetuals."""

import re

from adapters.entry import Entry

ENTRIES = {
    "gateio": Entry(
        "gateio",
        "GateIo",
        "GateIoVenue",
        re.compile(r"/ws/v4/?$|/api/v4/spot/"),
        re.compile(r'"channel":"spot\.'),
    ),
    "gateio-futures": Entry(
        "gateio",
        "GateIoFutures",
        "GateIoFuturesVenue",
        re.compile(r"/v4/ws/usdt$|/api/v4/futures/usdt/"),
        re.compile(r'"channel":"futures\.'),
    ),
}
