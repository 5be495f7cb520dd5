"""Kraken Futures, WebSocket v1. Pure.

Source: docs.kraken.com, futures-websocket. Both books and trades are numbered by ``seq``,
consecutively per product and apart from each other. A book begins with a snapshot of every level,
then each message is one level; trades begin with the last 100, which bridge a lost connection. The
ticker comes at most once a second, so that ``quote`` comes from the book. Acks come product by
product; an error says neither what was asked nor which product is meant. Kraken announces the end
of this API for 1 March 2027.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import TypeAlias

import msgspec

from adapters.base import Limits, Output, Plan, Refused, Send, Stream
from adapters.channels import BookStream, NumberedTrades, find
from adapters.exchanges.kraken_futures.frames import (
    BookDelta,
    BookSnapshot,
    Data,
    Fill,
    FillSnapshot,
    Heartbeat,
    LiveFill,
    Reply,
    TickerFields,
    TickerLite,
    decode,
    decode_reply,
    levels,
    number,
    number_or_none,
    price_or_none,
    rate_or_none,
    time_or_none,
)
from adapters.exchanges.kraken_futures.listing import LISTING
from adapters.trade_ids import TradeIds
from feed.errors import BadPayload
from feed.models import Derivative, Level, Ticker, Trade

#: Snapshots are whole; clients see the best 1,000 a side.
BOOK_LEVELS = 1_000
#: Products a subscribe frame; no limit is published.
PRODUCTS_PER_FRAME = 50
#: Channel -> the kinds it feeds.
FEEDS = {
    "book": ("book", "depth", "quote"),
    "trade": ("trade",),
    "ticker": ("ticker", "derivative"),
}
#: Replies that say nothing new; ``pong`` answers our ping.
SILENT = frozenset({"info", "pong", "unsubscribed", "unsubscribed_failed"})

_encode = msgspec.json.Encoder().encode


#: With its price, size and time.
_Trade: TypeAlias = tuple[Fill, str, str, int]


def _trade(fill: Fill) -> _Trade:
    return fill, number(fill.price), number(fill.qty), fill.time * 1_000


def _request(event: str, streams: Sequence[Stream]) -> Send:
    products = [one.native for one in streams]
    request = {"event": event, "feed": streams[0].channel, "product_ids": products}
    return Send(_encode(request).decode())


class KrakenFutures(NumberedTrades):
    """Kraken Futures: inverse and linear perpetuals and dated futures."""

    name = "kraken-futures"
    ws_url = "wss://futures.kraken.com"
    rest_url = "https://futures.kraken.com"
    path = "/ws/v1"
    listing = LISTING
    listing_paths = ("/derivatives/api/v3/instruments",)
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    window = BOOK_LEVELS
    # 100 requests a second and 100 connections are allowed; of connects nothing is published. A
    # ping is due each 60 s, its form is published nowhere.
    limits = Limits(
        frames_per_s=20,
        streams_per_connection=300,
        connects=100,
        connects_window_s=600,
        silent_after_s=15,
        ping_every_s=30,
    )
    proofs = {
        "trade": "trades are numbered consecutively",
        "book": "messages are numbered consecutively",
    }
    ignored = {"ticker_lite": "the ticker has all of it"}

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, BookStream] = {
            one.native: self._book(one) for one in plan.streams if one.channel == "book"
        }
        #: Product -> the number of its book's next message.
        self._next: dict[str, int] = {}
        #: Subscriptions in the order asked for, each without what has been acknowledged.
        self._asked: deque[list[Stream]] = deque()

    def opened(self) -> Sequence[Send]:
        by_channel: dict[str, list[Stream]] = {}
        for stream in self.plan_.streams:
            by_channel.setdefault(stream.channel, []).append(stream)
        frames = [
            self._subscribe(own[at : at + PRODUCTS_PER_FRAME])
            for own in by_channel.values()
            for at in range(0, len(own), PRODUCTS_PER_FRAME)
        ]
        return [Send('{"event":"subscribe","feed":"heartbeat"}'), *frames]

    def ping(self) -> str | None:
        return '{"event":"ping"}'

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            match self._decoded(frame):
                case BookDelta() as delta:
                    return self._delta(delta, recv)
                case LiveFill() as fill:
                    return self._live(fill, recv)
                case TickerFields() as ticker:
                    return self._ticker(ticker, recv)
                case BookSnapshot() as snapshot:
                    return self._snapshot(snapshot, recv)
                case FillSnapshot() as snapshot:
                    return self._past(snapshot, recv)
                case Heartbeat():
                    # Where nothing else moves the clock: what waits has waited long enough.
                    return self._pacer.flush()
                case Reply() as reply:
                    return self._replied(reply)
                case TickerLite():
                    return ()
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for one in streams:
            out += [_request("unsubscribe", (one,)), self._subscribe([one])]
        return out

    def _decoded(self, frame: bytes) -> Data | Reply:
        try:
            return decode(frame)
        except msgspec.ValidationError:
            # Acks name a feed as well: what has no event is the bad message that it seems.
            if b'"event"' not in frame:
                raise
            return decode_reply(frame)

    def _subscribe(self, streams: Sequence[Stream]) -> Send:
        self._asked.append(list(streams))
        return _request("subscribe", streams)

    def _snapshot(self, snapshot: BookSnapshot, recv: int) -> list[Output]:
        book = find(self._books, snapshot.product_id)
        bids, asks = levels(snapshot.bids), levels(snapshot.asks)
        ts = snapshot.timestamp * 1_000
        self._next[snapshot.product_id] = snapshot.seq + 1
        return [*self._pacer.advance(ts), *book.snapshot(bids, asks, ts, recv)]

    def _delta(self, delta: BookDelta, recv: int) -> list[Output]:
        book = find(self._books, delta.product_id)
        level: Level = (number(delta.price), number(delta.qty))
        ts = delta.timestamp * 1_000
        out = [*self._pacer.advance(ts)]
        if book.feed.is_live:
            if delta.seq != self._next[delta.product_id]:
                return out + book.lost("sequence", recv)
            self._next[delta.product_id] += 1
        bids, asks = ([level], []) if delta.side == "buy" else ([], [level])
        return out + book.delta(bids, asks, ts, recv)

    def _past(self, snapshot: FillSnapshot, recv: int) -> Sequence[Output]:
        """Take the last trades: what happened before we came is old, what we missed is not."""
        find(self._topics, snapshot.product_id)
        trades = sorted(map(_trade, snapshot.trades), key=lambda one: one[0].seq)
        ids = self._ids.get(snapshot.product_id)
        if ids is None or not trades:
            return ()
        last = ids.last
        missed = [one for one in trades if last is not None and one[0].seq > last]
        return self._traded(ids, missed, recv) or ids.known(trades[-1][0].seq, recv)

    def _live(self, fill: LiveFill, recv: int) -> list[Output]:
        find(self._topics, fill.product_id)
        return self._traded(self._ids.get(fill.product_id), [_trade(fill)], recv)

    def _traded(self, ids: TradeIds | None, trades: Iterable[_Trade], recv: int) -> list[Output]:
        out: list[Output] = []
        for one, price, size, ts in trades:
            out += self._pacer.advance(ts)
            said = ids.reach(one.seq, recv) if ids is not None else None
            if ids is None or said is None:
                continue
            out += said
            out.append(Trade(ids.topic, 0, ts, recv, 0, one.uid, price, size, one.side))
        return out

    def _ticker(self, ticker: TickerFields, recv: int) -> list[Output]:
        topics = find(self._topics, ticker.product_id)
        day = (
            price_or_none(ticker.last),
            price_or_none(ticker.open),
            price_or_none(ticker.high),
            price_or_none(ticker.low),
            number_or_none(ticker.volume),
            number_or_none(ticker.volume_quote),
            price_or_none(ticker.bid),
            price_or_none(ticker.ask),
        )
        derived = (
            price_or_none(ticker.mark),
            price_or_none(ticker.index),
            rate_or_none(ticker.relative_funding_rate),
            time_or_none(ticker.next_funding_rate_time),
            number_or_none(ticker.open_interest),
        )
        ts = ticker.time * 1_000
        out = [*self._pacer.advance(ts)]
        has_price = day[0] or day[6] or day[7]  # none in a product that nobody ever traded
        if has_price and self._is_news(topics.get("ticker"), day):
            out.append(Ticker(topics["ticker"], 0, ts, recv, 0, *day))
        if self._is_news(topics.get("derivative"), derived):
            out.append(Derivative(topics["derivative"], 0, ts, recv, 0, *derived))
        return out

    def _replied(self, reply: Reply) -> Sequence[Output]:
        """Take a reply to one of our requests, which are answered in their order."""
        if reply.event in SILENT:
            return ()
        named = tuple(Stream(reply.feed, native) for native in reply.product_ids)
        match reply.event:
            case "subscribed":
                self._answered(named)
                return ()
            case "subscribed_failed":
                self._answered(named)
                return (Refused(named, reply.message or "subscribed_failed"),) if named else ()
            case "error" | "alert":
                return self._failed(reply.message or "no reason given")
        raise ValueError(f"unknown event {reply.event[:40]!r}")

    def _answered(self, streams: Collection[Stream]) -> None:
        for asked in self._asked:
            asked[:] = [one for one in asked if one not in streams]
        while self._asked and not self._asked[0]:
            self._asked.popleft()

    def _failed(self, reason: str) -> Sequence[Output]:
        """Find out what was refused: of several, each is asked for again alone.

        Where nothing waits for an answer it is about a ping.
        """
        if "already subscribed" in reason.lower() or not self._asked:
            return ()
        asked = self._asked.popleft()
        if len(asked) == 1:
            return (Refused(tuple(asked), reason),)
        return [self._subscribe([one]) for one in asked]
