"""Coinbase Advanced Trade, the public feed. Pure.

Source: docs.cdp.coinbase.com, coinbase-app/advanced-trade-apis/websocket; captured sessions for
what is not said there. ``sequence_num`` counts a connection's messages over all channels: a hole is
at least one message of any of them, so all that cannot show its own loss is asked for afresh.
Trade ids are consecutive per product, those of the Coinbase Exchange; who subscribes is told the
last 100 trades, which fill what was missed. ``side`` is the maker's. A snapshot holds every level:
megabytes for the large books. Channels that are silent for a minute are closed, unless
``heartbeats`` is subscribed to as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import msgspec

from adapters.base import Leave, Limits, Output, Plan, Refused, Send, Stream
from adapters.channels import RESUBSCRIBE_US, BookStream, NumberedTrades, find
from adapters.exchanges.coinbase_advanced.frames import (
    Heartbeats,
    Level2,
    MarketTrades,
    Other,
    Subscriptions,
    TickerFields,
    Tickers,
    TradeFields,
    decode,
    decode_other,
)
from adapters.exchanges.coinbase_advanced.listing import LISTING
from adapters.text import decimal, levels, micros
from feed.errors import BadPayload
from feed.models import Side, Ticker, Trade

#: Snapshots are whole; clients see the best 1,000 a side.
BOOK_LEVELS = 1_000
#: Channel -> the kinds it feeds.
FEEDS = {
    "level2": ("book", "depth", "quote"),
    "market_trades": ("trade",),
    "ticker": ("ticker",),
}
#: The side given is that of the resting (maker) order; ours is the taker's.
TAKER_SIDE: Mapping[str, Side] = {"BUY": "sell", "SELL": "buy"}

_encode = msgspec.json.Encoder().encode
_HEARTBEATS = Send('{"type":"subscribe","channel":"heartbeats"}')


def _requests(type_: str, streams: Iterable[Stream]) -> list[Send]:
    """Return the requests, one a channel as is asked for."""
    products: dict[str, list[str]] = {}
    for stream in streams:
        products.setdefault(stream.channel, []).append(stream.native)
    return [
        Send(_encode({"type": type_, "product_ids": ids, "channel": channel}).decode())
        for channel, ids in products.items()
    ]


def _optional(text: str | None) -> str | None:
    return decimal(text) if text else None


class CoinbaseAdvanced(NumberedTrades):
    """Coinbase Advanced Trade, spot."""

    name = "coinbase-advanced"
    ws_url = "wss://advanced-trade-ws.coinbase.com"
    rest_url = "https://api.coinbase.com"
    path = "/"
    listing = LISTING
    listing_paths = ("/api/v3/brokerage/market/products",)
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    window = BOOK_LEVELS
    proofs = {
        "trade": "trade ids are consecutive",
        "book": "messages of a connection are numbered",
        "ticker": "messages of a connection are numbered",
    }
    # An address may send 8 messages a second. 90 streams are 30 products: their snapshots are big.
    limits = Limits(
        frames_per_s=4,
        streams_per_connection=90,
        connects=4,
        connects_window_s=1,
        max_frame_bytes=64 << 20,
    )
    ignored = {
        "candles": "candles are made from the trades, so that they mean the same everywhere",
        "status": "the listing is taken over REST",
        "ticker_batch": "the ticker of each trade is carried",
    }

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._asked = plan.streams
        self._books: dict[str, BookStream] = {
            one.native: self._book(one) for one in plan.streams if one.channel == "level2"
        }
        self._last: int | None = None
        #: Streams that are no books are not asked for again before.
        self._not_before = 0

    def opened(self) -> Sequence[Send]:
        return [_HEARTBEATS, *_requests("subscribe", self._asked)]

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            match decode(frame):
                case Level2() as message:
                    return self._level2(message, recv)
                case MarketTrades() as message:
                    return self._market_trades(message, recv)
                case Tickers() as message:
                    return self._tickers(message, recv)
                case Heartbeats(number, timestamp) | Subscriptions(number, timestamp):
                    return self._arrived(number, micros(timestamp), recv) or ()
        except (ValueError, RecursionError) as e:
            other = self._read_other(frame)
            if other is None or (other.type != "error" and other.channel not in self.ignored):
                raise BadPayload(self.name, frame, str(e)) from e
            return self._other(other, recv)
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Count a channel we do not know, whose loss is none; the others' numbers show it."""
        other = self._read_other(frame)
        if other is None or other.channel in (*FEEDS, "l2_data", "heartbeats", "subscriptions"):
            return ()
        return self._other(other, recv)

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        return [*_requests("unsubscribe", streams), *_requests("subscribe", streams)]

    def _arrived(self, number: int, ts: int, recv: int) -> list[Output] | None:
        """Return what follows from a message's number and time; None for one that came before."""
        last = self._last
        if last is not None and number != last + 1:
            if number == last or 0 < number < last:
                return None
            self._last = number
            return [*self._missing(recv), *self._pacer.advance(ts)]
        self._last = number
        return [*self._pacer.advance(ts)]

    def _missing(self, recv: int) -> list[Output]:
        """Doubt everything: books, and tickers that may not change again. Trades are numbered."""
        out: list[Output] = []
        again: list[Stream] = []
        for book in self._books.values():
            out += book.feed.broken("sequence", recv)
            if book.is_due(recv):
                again.append(book.stream)
        if recv >= self._not_before:
            self._not_before = recv + RESUBSCRIBE_US
            again += [one for one in self._asked if one.channel != "level2"]
        return [*out, *self.resync(again, recv)]

    def _level2(self, message: Level2, recv: int) -> Sequence[Output]:
        sent = micros(message.timestamp)
        changes = []
        for event in message.events:
            updates = event.updates
            bids = levels((u.price_level, u.new_quantity) for u in updates if u.side == "bid")
            asks = levels((u.price_level, u.new_quantity) for u in updates if u.side == "offer")
            # A snapshot's time may be the epoch.
            ts = (micros(updates[-1].event_time) or sent) if updates else sent
            book = find(self._books, event.product_id)
            changes.append((book, event.type == "snapshot", bids, asks, ts))
        out = self._arrived(message.sequence_num, sent, recv)
        if out is None:
            return ()
        for book, is_snapshot, bids, asks, ts in changes:
            out += (book.snapshot if is_snapshot else book.delta)(bids, asks, ts, recv)
        return out

    def _market_trades(self, message: MarketTrades, recv: int) -> Sequence[Output]:
        sent = micros(message.timestamp)
        # The newest comes first.
        events = [
            (event.type == "snapshot", sorted(self._trade(one, recv) for one in event.trades))
            for event in message.events
        ]
        out = self._arrived(message.sequence_num, sent, recv)
        if out is None:
            return ()
        for is_snapshot, trades in events:
            for number, native, fields in trades:
                ids = self._ids.get(native)
                if ids is None or (is_snapshot and (ids.last is None or number <= ids.last)):
                    continue
                said = ids.reach(number, recv)
                if said is not None:
                    out += said
                    out.append(Trade(ids.topic, 0, *fields))
            if is_snapshot:
                # What follows counts from here, whether it was news or not.
                for native, number in {native: number for number, native, _ in trades}.items():
                    if native in self._ids:
                        out += self._ids[native].known(number, recv)
        return out

    def _trade(
        self, trade: TradeFields, recv: int
    ) -> tuple[int, str, tuple[int, int, int, str, str, str, Side]]:
        """Return a trade's number, its product, and the fields that follow ``Trade.seq``."""
        find(self._topics, trade.product_id)
        price, size, ts = decimal(trade.price), decimal(trade.size), micros(trade.time)
        side = TAKER_SIDE[trade.side]
        return trade.number, trade.product_id, (ts, recv, 0, trade.trade_id, price, size, side)

    def _tickers(self, message: Tickers, recv: int) -> Sequence[Output]:
        ts = micros(message.timestamp)
        values = [self._ticker(one) for event in message.events for one in event.tickers]
        out = self._arrived(message.sequence_num, ts, recv)
        if out is None:
            return ()
        for native, *fields in values:
            shown = tuple(fields)
            topic = self._topics[native].get("ticker")
            # It is sent for sizes too, which are not shown.
            if self._is_news(topic, shown):
                out.append(Ticker(topic, 0, ts, recv, 0, *shown))
        return out

    def _ticker(self, ticker: TickerFields) -> tuple[str, *tuple[str | None, ...]]:
        find(self._topics, ticker.product_id)
        return (
            ticker.product_id,
            decimal(ticker.price),
            None,
            _optional(ticker.high_24_h),
            _optional(ticker.low_24_h),
            _optional(ticker.volume_24_h),
            None,
            _optional(ticker.best_bid),
            _optional(ticker.best_ask),
        )

    def _read_other(self, frame: bytes) -> Other | None:
        try:
            return decode_other(frame)
        except (ValueError, RecursionError):
            return None

    def _other(self, other: Other, recv: int) -> Sequence[Output]:
        if other.type == "error":
            return self._error(other)
        if other.sequence_num is None:
            return ()
        try:
            ts = micros(other.timestamp)
        except ValueError:
            ts = self._pacer.now
        return self._arrived(other.sequence_num, ts, recv) or ()

    def _error(self, error: Other) -> list[Output]:
        """Find out what was refused and ask for the rest: one bad product fails its request."""
        reason = f"{error.message}: {error.reason}".removesuffix(": ")
        words = set(re.findall(r"[\w-]+", reason))
        guilty = tuple(one for one in self._asked if words & {one.native, one.channel})
        if not guilty:
            return [Leave("error")]
        self._asked = tuple(one for one in self._asked if one not in guilty)
        out: list[Output] = [Refused(guilty, reason)]
        return [*out, *_requests("subscribe", self._asked)]
