"""cryptofeed as a peer of the ingest bench: the frames of a file through its message handler.

    python cryptofeed_peer.py plain|encoded FRAMES EXCHANGE PASSES

Encoded as its own backends do it: ``to_dict``, of a book the changes, then its own JSON encoder.
It knows trades as ``aggTrade`` alone: where the tape has ``trade``, the frames are renamed before.
Its only HTTP request, for the book, is answered by the snapshot in the file.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

# Installed for its own process alone, so not where the types are checked.
from cryptofeed.defines import L2_BOOK, TICKER, TRADES  # type: ignore[import-not-found]
from cryptofeed.exchanges import Binance, BinanceFutures  # type: ignore[import-not-found]
from cryptofeed.symbols import Symbols  # type: ignore[import-not-found]
from yapic import json as encoder  # type: ignore[import-not-found]

_CLASSES = {"BINANCE": (Binance, "BTC-USDT"), "BINANCE_FUTURES": (BinanceFutures, "BTC-USDT-PERP")}


class _Recorded:
    """Stands where cryptofeed's HTTP connection is."""

    def __init__(self, body: str) -> None:
        self.body = body
        self.reads = 0

    async def read(self, address: str) -> str:
        self.reads += 1
        return self.body


async def _pass(mode: str, exchange: str, frames: list[str], snapshot: str) -> dict[str, float]:
    make, symbol = _CLASSES[exchange]
    events = 0

    async def count(event: Any, received: float) -> None:
        nonlocal events
        events += 1

    async def encode(event: Any, received: float) -> None:
        await count(event, received)
        encoder.dumps(event.to_dict(numeric_type=str))

    async def encode_book(book: Any, received: float) -> None:
        await count(book, received)
        encoder.dumps(book.to_dict(delta=book.delta is not None, numeric_type=str))

    kinds = (TRADES, TICKER, L2_BOOK)
    callbacks: dict[str, Any] = dict.fromkeys(kinds, count)
    if mode == "encoded":
        callbacks = {TRADES: encode, TICKER: encode, L2_BOOK: encode_book}
    feed = make(symbols=[symbol], channels=list(kinds), callbacks=callbacks)
    feed.http_conn = recorded = _Recorded(snapshot)
    handle = feed.message_handler
    started = time.process_time()
    for frame in frames:
        await handle(frame, None, time.time())
    seconds = time.process_time() - started
    return {
        "frames": len(frames),
        "events": events,
        "snapshots": recorded.reads,
        "seconds": seconds,
    }


def main(mode: str, path: str, exchange: str, passes: int) -> None:
    symbol = _CLASSES[exchange][1]
    Symbols.set(exchange, {symbol: "BTCUSDT"}, {})
    frames, snapshot = [], "{}"
    for line in Path(path).read_text().splitlines():
        head = line[:64]
        if "@depthSnapshot" in head:
            snapshot = json.dumps(json.loads(line)["data"])
            continue
        if '@trade"' in head:
            line = line.replace('"e":"trade"', '"e":"aggTrade"').replace('"t":', '"a":')
        frames.append(line)
    print(json.dumps([asyncio.run(_pass(mode, exchange, frames, snapshot)) for _ in range(passes)]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
