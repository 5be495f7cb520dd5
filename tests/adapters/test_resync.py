"""One symbol's book breaks on a shared connection: what each exchange is asked, over real sockets.

Always: ``invalid`` first, then a fresh snapshot, then live; the neighbour's book is untouched, the
connection stays, and the broken book alone is asked for again, once.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from random import Random
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from adapters.base import Adapter
from adapters.exchanges.binance.adapter import Binance
from adapters.exchanges.bybit.adapter import Bybit
from adapters.exchanges.coinbase.adapter import Coinbase
from adapters.exchanges.kraken.adapter import Kraken
from adapters.exchanges.kraken.frames import checksum
from adapters.exchanges.kraken_futures.adapter import KrakenFutures
from adapters.runner import Runner, endpoints
from adapters.selection import by_symbol
from adapters.status import StatusBoard
from feed.models import Book, Gap, SymbolStatus
from tests.adapters.kit import ListSink, eventually
from tests.adapters.test_runner import exchange

TIME = "2026-08-02T04:23:45.665579Z"


class Script:
    """An exchange's side: two books, whose best bid's size is the number of the last change.

    Attributes:
        cls: The adapter.
        natives: The symbol that breaks, and its neighbour.
        by_request: Whether streams are asked for by frames; else they are in the URL.
        reason: Why the book is given up.
    """

    cls: type[Adapter]
    natives: tuple[str, str]
    by_request = True
    reason: str

    def __init__(self) -> None:
        self.n = dict.fromkeys(self.natives, 100)
        self.is_broken = False

    def snapshot(self, native: str) -> str:
        raise NotImplementedError

    def change(self, native: str) -> str:
        raise NotImplementedError

    def broken(self, native: str) -> str:
        """Return a change that the adapter cannot join."""
        raise NotImplementedError

    def rest(self, path: str) -> tuple[int, str]:
        return 404, ""


class KrakenScript(Script):
    cls, natives, reason = Kraken, ("XRP/USD", "ETH/USD"), "checksum"

    def _book(self, native: str, type_: str, proof: int = 0) -> str:
        size = str(self.n[native])
        proof = proof or checksum([("1.10", size)], [("1.20", "3.0")])
        asks = '{"price":1.20,"qty":3.0}' if type_ == "snapshot" else ""
        return (
            f'{{"channel":"book","type":"{type_}","data":[{{"symbol":"{native}","bids":'
            f'[{{"price":1.10,"qty":{size}}}],"asks":[{asks}],"checksum":{proof},'
            f'"timestamp":"{TIME}"}}]}}'
        )

    def snapshot(self, native: str) -> str:
        return self._book(native, "snapshot")

    def change(self, native: str) -> str:
        self.n[native] += 1
        return self._book(native, "update")

    def broken(self, native: str) -> str:
        return self._book(native, "update", proof=12345)


class BybitScript(Script):
    cls, natives, reason = Bybit, ("BTCUSDT", "ETHUSDT"), "sequence"

    def _book(self, native: str, type_: str) -> str:
        asks = [["101", "1"]] if type_ == "snapshot" else []
        n = self.n[native]
        data = {"s": native, "b": [["100", str(n)]], "a": asks, "u": n, "seq": 1}
        topic = f"orderbook.200.{native}"
        return json.dumps({"topic": topic, "type": type_, "ts": n, "data": data, "cts": n})

    def snapshot(self, native: str) -> str:
        return self._book(native, "snapshot")

    def change(self, native: str) -> str:
        self.n[native] += 1
        return self._book(native, "delta")

    def broken(self, native: str) -> str:
        self.n[native] += 2
        return self._book(native, "delta")


class KrakenFuturesScript(Script):
    cls, natives, reason = KrakenFutures, ("PF_XBTUSD", "PI_XBTUSD"), "sequence"

    def snapshot(self, native: str) -> str:
        n = self.n[native]
        bids, asks = [{"price": 100, "qty": n}], [{"price": 101, "qty": 1}]
        levels = {"bids": bids, "asks": asks}
        return self._message("book_snapshot", native, **levels)

    def change(self, native: str) -> str:
        self.n[native] += 1
        return self._message("book", native, side="buy", price=100, qty=self.n[native])

    def broken(self, native: str) -> str:
        self.n[native] += 1
        return self.change(native)

    def _message(self, feed: str, native: str, **fields: object) -> str:
        n = self.n[native]
        named = {"feed": feed, "product_id": native, "seq": n, "timestamp": n}
        return json.dumps({**named, **fields})


class CoinbaseScript(Script):
    cls, natives, reason = Coinbase, ("BTC-USD", "ETH-USD"), "crossed"

    def _message(self, type_: str, native: str, **fields: object) -> str:
        return json.dumps({"type": type_, "product_id": native, "time": TIME, **fields})

    def snapshot(self, native: str) -> str:
        bids = [["100", str(self.n[native])]]
        return self._message("snapshot", native, bids=bids, asks=[["101", "1"]])

    def change(self, native: str) -> str:
        self.n[native] += 1
        changes = [["buy", "100", str(self.n[native])]]
        return self._message("l2update", native, changes=changes)

    def broken(self, native: str) -> str:
        return self._message("l2update", native, changes=[["buy", "102", "1"]])


class BinanceScript(Script):
    cls, natives, by_request, reason = Binance, ("BTCUSDT", "ETHUSDT"), False, "sequence"

    def _update(self, native: str) -> str:
        n = self.n[native]
        data = {"e": "depthUpdate", "E": n, "s": native, "U": n, "u": n, "b": [["100", f"{n}"]]}
        stream = f"{native.lower()}@depth@100ms"
        whole = {"stream": stream, "data": {**data, "a": []}}
        return json.dumps(whole, separators=(",", ":"))

    def change(self, native: str) -> str:
        self.n[native] += 1
        return self._update(native)

    def broken(self, native: str) -> str:
        self.n[native] += 2
        return self._update(native)

    def rest(self, path: str) -> tuple[int, str]:
        symbol = parse_qs(urlsplit(path).query).get("symbol", [""])[0]
        if symbol not in self.n:
            return 404, ""
        n = self.n[symbol]
        bids, asks = [["100", str(n)]], [["101", "1"]]
        return 200, json.dumps({"lastUpdateId": n, "bids": bids, "asks": asks})


SCRIPTS = [KrakenScript, KrakenFuturesScript, BybitScript, CoinbaseScript, BinanceScript]


@pytest.mark.parametrize("kind", SCRIPTS, ids=lambda kind: kind.cls.name)
async def test_a_broken_book_alone_is_asked_for_again(kind: type[Script]) -> None:
    script = kind()
    mine, neighbour = script.natives
    asked: list[str] = []
    served: set[str] = set()
    connections = 0
    breaks = asyncio.Event()

    async def handler(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1

        async def talk() -> None:
            while True:
                for native in script.natives:
                    if native == mine and breaks.is_set() and not script.is_broken:
                        script.is_broken = True
                        await socket.send(script.broken(native))
                    elif native in served:
                        await socket.send(script.change(native))
                await asyncio.sleep(0.002)

        if not script.by_request:
            served.update(script.natives)
        talker = asyncio.create_task(talk())
        try:
            with suppress(ConnectionClosed):
                async for message in socket:
                    asked.append(str(message))
                    for native in script.natives:
                        if native not in message:
                            continue
                        if "unsubscribe" in message:
                            served.discard(native)
                        else:
                            await socket.send(script.snapshot(native))
                            served.add(native)
        finally:
            talker.cancel()

    async with exchange(handler, script.rest) as url:
        sink = ListSink()
        instruments = [one for n in script.natives if (one := script.cls.instrument(n))]
        symbols = [one.symbol for one in instruments]
        picked = by_symbol(script.cls, instruments, symbols, frozenset({"book"}))
        board = StatusBoard(script.cls.name, picked.topics, connections=1, threshold_ms=None, now=1)
        rng = Random(1)
        rng.uniform = lambda a, b: 0.0  # type: ignore[method-assign]
        ws_url, rest_url = endpoints(script.cls, url)
        runner = Runner(script.cls, picked, ws_url, rest_url, sink, board, rng=rng)
        topic = f"book.{script.cls.name}.{symbols[0]}"
        other = f"book.{script.cls.name}.{symbols[1]}"

        def states() -> list[tuple[str, str | None]]:
            told = [s for s in sink.of(SymbolStatus) if s.topic.endswith(symbols[0])]
            return [(s.kinds["book"], s.reason) for s in told]

        def books(of: str) -> list[Book]:
            return [one for one in sink.of(Book) if one.topic == of]

        running = asyncio.create_task(runner.run())
        try:
            await eventually(lambda: states()[-1:] == [("live", None)])
            await eventually(lambda: len(books(topic)) > 5 and len(books(other)) > 5)
            first_asked = len(asked)
            breaks.set()
            await eventually(lambda: ("invalid", script.reason) in states())
            await eventually(lambda: states()[-1] == ("live", None))
            many = len(books(topic)) + 5
            await eventually(lambda: len(books(topic)) > many)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert states()[-2:] == [("invalid", script.reason), ("live", None)]
        # invalid, the gap, the snapshot; and not before it a delta.
        kinds = [
            "gap" if isinstance(one, Gap) else "snapshot" if one.snapshot else "delta"
            for one in sink.events
            if isinstance(one, Book | Gap) and one.topic == topic
        ]
        at = kinds.index("gap")
        assert kinds[at + 1] == "snapshot"
        assert kinds.count("snapshot") == 2
        invalid = next(
            i
            for i, one in enumerate(sink.events)
            if isinstance(one, SymbolStatus) and one.kinds["book"] == "invalid"
        )
        gap = next(i for i, one in enumerate(sink.events) if isinstance(one, Gap))
        assert invalid < gap
        # The neighbour: one snapshot, and each change once.
        sizes = [int(one.bids[0][1]) for one in books(other)]
        assert [one.snapshot for one in books(other)].count(True) == 1
        assert sizes == list(range(sizes[0], sizes[0] + len(sizes)))
        assert [one for one in sink.of(Gap) if one.topic == other] == []
        assert connections == 1
        again = asked[first_asked:]
        assert len(again) == (2 if script.by_request else 0)
        assert all(mine in one and neighbour not in one for one in again)
        if again:
            assert ["unsubscribe" in one for one in again] == [True, False]
