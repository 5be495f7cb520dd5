"""Which recordings there are of each exchange, and which of them are not read."""

from __future__ import annotations

from pathlib import Path

from tests.adapters.tapes import CAPTURES

#: Folders of recordings that are not called like the exchange.
FOLDERS = {
    "binance": "binance-spot",
    "bitget-futures": "bitget",
    "bybit-inverse": "bybit",
    "bybit-linear": "bybit",
    "coinbase": "coinbase-exchange",
    "dydx": "dydx-v4",
    "kraken": "kraken-v2",
}
#: Recordings that are not read -> why.
RETIRED: dict[str, str] = {
    "bithumb/session_20210602": "of an API that is gone (pubwss.bithumb.com)",
}


def folder(exchange: str) -> Path:
    """Return where an exchange's recordings are; it need not be there."""
    return CAPTURES / FOLDERS.get(exchange, exchange)


def retired(path: Path) -> str | None:
    """Return why a recording is not read; None where it is."""
    return RETIRED.get(f"{path.parent.name}/{path.name.partition('.')[0]}")
