"""Kraken spot, WebSocket v2. Pure.

Source: docs.kraken.com, spot-websocket-v2 and book-checksum-v2. A checksum comes with every book
message and is the only proof there is: after a wrong one that symbol alone is subscribed afresh.
Trade ids are consecutive per symbol. Each symbol is acknowledged on its own, and its ack says the
depth that is served.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain

import msgspec

from adapters.base import Fetch, Leave, Limits, Mark, Output, Page, Plan, Refused, Send, Stream
from adapters.channels import BookStream, NumberedTrades, find
from adapters.exchanges.kraken.frames import (
    Frame,
    checksum,
    decode,
    decode_books,
    decode_past,
    decode_tickers,
    decode_trades,
    is_snapshot,
    levels,
    number,
    past_micros,
    price_or_none,
)
from adapters.exchanges.kraken.listing import LISTING, rest_name
from adapters.text import decimal, micros
from feed.errors import BadPayload
from feed.models import Instrument, Side, Ticker, Trade

#: Of 10, 25, 100, 500 and 1,000: the checksum proves the best 10 alone, ``depth`` wants 20, and
#: what lies deeper than 100 costs a long snapshot of levels that nothing proves.
BOOK_DEPTH = 100
#: Served when a subscription names none.
DEFAULT_DEPTH = 10
#: Symbols a subscribe frame.
SYMBOLS_PER_FRAME = 50
#: Channel -> the kinds it feeds.
FEEDS = {"book": ("book", "depth", "quote"), "trade": ("trade",), "ticker": ("ticker",)}

_encode = msgspec.json.Encoder().encode


def _name(channel: str) -> str:
    """Return Kraken's name of a channel; the depth in ``book-100`` is our addition."""
    return channel.partition("-")[0]


def _depth(channel: str) -> int:
    return int(channel.partition("-")[2] or DEFAULT_DEPTH)


def _request(method: str, streams: Sequence[Stream], req_id: int) -> Send:
    channel = streams[0].channel
    params: dict[str, object] = {
        "channel": _name(channel),
        "symbol": [one.native for one in streams],
    }
    if _name(channel) == "book":
        params["depth"] = _depth(channel)
    elif _name(channel) == "ticker":
        params["event_trigger"] = "trades"  # not at every change of the best price
    elif _name(channel) == "trade":
        params["snapshot"] = False  # the last 50 trades are old news
    return Send(_encode({"method": method, "params": params, "req_id": req_id}).decode())


class Kraken(NumberedTrades):
    """Kraken spot, WebSocket v2."""

    name = "kraken"
    ws_url = "wss://ws.kraken.com"
    rest_url = "https://api.kraken.com"
    path = "/v2"
    listing = LISTING
    listing_paths = ("/0/public/AssetPairs",)
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    # No figures are published but Cloudflare's ~150 connects in 10 min: prudent ones.
    limits = Limits(frames_per_s=5, streams_per_connection=300, connects=100, connects_window_s=600)
    proofs = {
        "trade": "trade ids are consecutive",
        "book": "every message carries the checksum",
    }
    checksum = "CRC32 of the best 10 levels a side, over the digits as sent"
    ignored = {
        "status": "says the engine's state; the streams themselves show it",
        "ohlc": "candles are made from the trades, so that they mean the same everywhere",
        "instrument": "the listing is taken over REST",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        return {f"{one}-{BOOK_DEPTH}" if one == "book" else one: fed for one, fed in FEEDS.items()}

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        return {kind: channel for channel in channels for kind in FEEDS.get(_name(channel), ())}

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return _depth(channel)

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, BookStream] = {
            one.native: self._served(one) for one in plan.streams if _name(one.channel) == "book"
        }
        by_channel: dict[str, list[Stream]] = {}
        for stream in plan.streams:
            by_channel.setdefault(stream.channel, []).append(stream)
        frames = [
            tuple(own[at : at + SYMBOLS_PER_FRAME])
            for own in by_channel.values()
            for at in range(0, len(own), SYMBOLS_PER_FRAME)
        ]
        #: ``req_id`` of the first subscriptions -> what they ask for.
        self._requests = dict(enumerate(frames, 1))

    def opened(self) -> Sequence[Send]:
        return [_request("subscribe", asked, req_id) for req_id, asked in self._requests.items()]

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = decode(frame)
            match message.channel:
                case "book":
                    return self._book_messages(message, recv)
                case "trade":
                    return self._trades(message, recv)
                case "ticker":
                    return self._tickers(message, recv)
                case "heartbeat":  # comes when nothing else does
                    return self._pacer.flush()
                case "" if message.method:
                    return self._replied(message)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e
        if message.channel not in self.ignored:
            raise BadPayload(self.name, frame, f"unknown channel {message.channel[:40]!r}")
        return ()

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        again = len(self._requests) + 1
        # Of a book, with the depth that is served.
        served = [
            self._books[one.native].stream if _name(one.channel) == "book" else one
            for one in streams
        ]
        return [
            _request(method, (one,), again)
            for one in served
            for method in ("unsubscribe", "subscribe")
        ]

    def backfill(self, native: str, after: Mark) -> Fetch | None:
        # ``since`` is a time in ns, exclusive; what shares the last trade's is told apart by id
        # (source: docs.kraken.com, rest-api, get-recent-trades).
        if after.ts is None:
            return None
        since = after.ts * 1_000 - 1
        path = f"/0/public/Trades?pair={rest_name(native)}&since={since}&count=1000"
        return Fetch(path, f"trades:{native}@{after.id}")

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        native = key.removeprefix("trades:").rpartition("@")[0]
        topic = self._ids[native].topic
        trades: list[tuple[int, Trade | None]] = []
        try:
            for one in decode_past(body):
                ts, price, size = past_micros(one[2]), decimal(one[0]), decimal(one[1])
                side: Side = "buy" if one[3] == "b" else "sell"
                trades.append(
                    (
                        one[6],
                        Trade(topic, 0, ts, recv, 0, str(one[6]), price, size, side, backfill=True),
                    )
                )
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, body, str(e)[:200]) from e
        return (Page(native, tuple(trades)),)

    def _served(self, stream: Stream) -> BookStream:
        topics, depth = self._topics[stream.native], _depth(stream.channel)
        afresh = partial(self.resync, (stream,))
        return BookStream(stream, topics, depth, self._pacer, afresh, truncate=True)

    def _book_messages(self, message: Frame, recv: int) -> list[Output]:
        is_start = is_snapshot(message)
        given = [
            (
                find(self._books, one.symbol),
                levels(one.bids),
                levels(one.asks),
                one.checksum,
                micros(one.timestamp) if one.timestamp else None,
            )
            for one in decode_books(message.data)
        ]
        out: list[Output] = []
        for book, bids, asks, proof, ts in given:
            feed = book.feed
            if ts is not None:
                out += self._pacer.advance(ts)
            events, is_proven = list[Output](), False
            if is_start:
                is_proven = book.start(bids, asks) and checksum(*feed.book.top(10)) == proof
                events = feed.restart(ts, recv) if is_proven else []
            elif feed.is_live:
                events = feed.delta(bids, asks, ts, recv)
                is_proven = checksum(*feed.book.top(10)) == proof
            if not is_proven:
                events = book.lost("checksum", recv)
            out += events
        return out

    def _trades(self, message: Frame, recv: int) -> list[Output]:
        is_start = is_snapshot(message)
        trades = [
            (one, number(one.price), number(one.qty), micros(one.timestamp))
            for one in decode_trades(message.data)
            if find(self._topics, one.symbol)
        ]
        out: list[Output] = []
        shown: dict[str, tuple[int, int]] = {}
        for one, price, size, ts in trades:
            ids = self._ids.get(one.symbol)
            if ids is None:
                continue
            if is_start:  # they happened before we came: not emitted, but counted on from
                shown[one.symbol] = max(shown.get(one.symbol, (0, 0)), (one.trade_id, ts))
                continue
            said = ids.reach(one.trade_id, recv)
            if said is None:
                continue
            ids.ts = ts
            out += self._pacer.advance(ts)
            out += said
            out.append(Trade(ids.topic, 0, ts, recv, 0, str(one.trade_id), price, size, one.side))
        for symbol, (newest, ts) in shown.items():
            out += self._ids[symbol].known(newest, recv)
            self._ids[symbol].ts = ts
        return out

    def _tickers(self, message: Frame, recv: int) -> list[Output]:
        is_snapshot(message)
        out: list[Output] = []
        for one in decode_tickers(message.data):
            topic = find(self._topics, one.symbol).get("ticker")
            ts = micros(one.timestamp) if one.timestamp else None
            last, high, low = (
                price_or_none(one.last),
                price_or_none(one.high),
                price_or_none(one.low),
            )
            bid, ask = price_or_none(one.bid), price_or_none(one.ask)
            volume = None if str(one.volume, "ascii") == "null" else number(one.volume)
            if topic is None or (last is None and bid is None and ask is None):
                continue  # not asked for, or a pair that nobody ever traded
            out.append(Ticker(topic, 0, ts, recv, 0, last, None, high, low, volume, None, bid, ask))
        return out

    def _replied(self, reply: Frame) -> Sequence[Output]:
        """Take an ack: trust the depth it says. Take note of what is refused."""
        if reply.method != "subscribe":
            return ()
        if not reply.success:
            return (self._refused(reply),)
        served = reply.result
        book = self._books.get(served.symbol or "") if served else None
        if served and served.channel == "book" and served.depth and book:
            stream = Stream(f"book-{served.depth}", book.stream.native)
            if stream != book.stream and not book.feed.is_live:
                self._books[stream.native] = self._served(stream)
        return ()

    def _refused(self, reply: Frame) -> Output:
        reason = reply.error or "no reason given"
        if "msg rate" in reason.lower():
            return Leave("rate_limited")
        asked = self._requests.get(reply.req_id or 0, self.plan_.streams if reply.symbol else ())
        streams = tuple(one for one in asked if reply.symbol in (None, one.native))
        if not streams:
            raise ValueError(f"refuses what was not asked for: {reason[:80]}")
        return Refused(streams, reason)
