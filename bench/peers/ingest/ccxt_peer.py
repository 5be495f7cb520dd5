"""ccxt.pro as a peer of the ingest bench: the frames of a file through its WebSocket client.

    python ccxt_peer.py plain|encoded FRAMES EXCHANGE PASSES

Frames go in where its socket hands them over, and it parses them with orjson, which it takes where
it is installed. Nobody waits for its futures; its caches and its book of 1,000 levels are kept as
for a user who watches everything. It emits no deltas; encoded is what each watched value would be
as JSON: the trade, the best bid and ask, of a book its best 20.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

# Installed for its own process alone, so not where the types are checked.
import ccxt.pro  # type: ignore[import-not-found]
import orjson

_EXCHANGES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "binance": ("binance", "wss://stream.binance.com:9443/stream", "BTC/USDT", {"spot": True}),
    "binanceusdm": (
        "binanceusdm",
        "wss://fstream.binance.com/ws",
        "BTC/USDT:USDT",
        {"swap": True, "contract": True, "linear": True, "settle": "USDT", "settleId": "USDT"},
    ),
}


def _market(symbol: str, facts: dict[str, Any]) -> dict[str, Any]:
    kind = "spot" if facts.get("spot") else "swap"
    pair = {"base": "BTC", "quote": "USDT", "baseId": "BTC", "quoteId": "USDT"}
    return {"id": "BTCUSDT", "symbol": symbol, "type": kind, **pair, **facts}


async def _pass(mode: str, name: str, frames: list[str], snapshot: Any) -> dict[str, float]:
    kind, url, symbol, facts = _EXCHANGES[name]
    exchange = getattr(ccxt.pro, kind)()
    try:
        market = exchange.safe_market_structure(_market(symbol, facts))
        exchange.set_markets([market])
        client = exchange.client(url)
        book = exchange.order_book({}, 1000)
        if snapshot is not None:
            told = exchange.parse_order_book(snapshot, symbol)
            told["nonce"] = snapshot["lastUpdateId"]
            book.reset(told)
        exchange.orderbooks[symbol] = book
        take = client.handle_text_or_binary_message
        started = time.process_time()
        if mode == "encoded":
            for frame in frames:
                take(frame)
                head = frame[:64]
                if "@bookTicker" in head:
                    orjson.dumps(exchange.bidsasks[symbol])
                elif "@depth" in head:
                    best = exchange.orderbooks[symbol]
                    orjson.dumps([list(best["bids"][:20]), list(best["asks"][:20])])
                else:
                    orjson.dumps(exchange.trades[symbol][-1])
        else:
            for frame in frames:
                take(frame)
        seconds = time.process_time() - started
        if symbol not in exchange.orderbooks:
            raise SystemExit("it has lost its book")
    finally:
        await exchange.close()
    return {"frames": len(frames), "events": len(frames), "snapshots": 1, "seconds": seconds}


def main(mode: str, path: str, exchange: str, passes: int) -> None:
    frames, snapshot = [], None
    for line in Path(path).read_text().splitlines():
        head = line[:64]
        if "@depthSnapshot" in head:
            snapshot = snapshot or json.loads(line)["data"]
        # The one instrument that it is told of.
        elif head.startswith('{"stream":"btcusdt@'):
            frames.append(line)
    print(json.dumps([asyncio.run(_pass(mode, exchange, frames, snapshot)) for _ in range(passes)]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
