"""Upbit (Korea), the public WebSocket. Pure.

Source: docs.upbit.com, WebSocket; captured sessions. Every ``orderbook`` is the whole book of 15 or
30 levels a side: nothing numbers them and nothing has to, ``book`` gets what has changed. Trade ids
are unique, neither consecutive nor in order. A request takes the place of the one before, so each
asks for all of the connection; it is answered with where everything stands, and the last trade
told then shows whether one was missed. Frames are binary, and hold JSON.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import msgspec

from adapters.base import Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.book import CLOCK_STEP_US, BookFeed
from adapters.channels import ChannelAdapter, find, is_json
from adapters.exchanges.upbit.frames import (
    Orderbook,
    Other,
    ShortOrderbook,
    ShortTicker,
    ShortTrade,
    Ticker,
    Trade,
    decode,
    decode_other,
    number,
)
from adapters.exchanges.upbit.listing import LISTING
from adapters.whole_book import WholeBook, levels
from feed import models
from feed.errors import BadPayload
from feed.models import Side

#: Levels a side of a book at most.
LEVELS = 30
#: The taker's.
SIDES: Mapping[str, Side] = {"BID": "buy", "ASK": "sell"}
#: Channel -> the kinds it feeds.
FEEDS = {
    "orderbook": ("book", "depth", "quote"),
    "trade": ("trade",),
    "ticker": ("ticker",),
}

_encode = msgspec.json.Encoder().encode
_TYPE = re.compile(rb'"ty(?:pe)?"\s*:\s*"([\w.]{1,20})"')
_CODE = re.compile(rb'"(?:code|cd)"\s*:\s*"([\w-]{1,40})"')


class Upbit(ChannelAdapter):
    """Upbit spot."""

    name = "upbit"
    ws_url = "wss://api.upbit.com"
    rest_url = "https://api.upbit.com"
    path = "/websocket/v1"
    listing = LISTING
    listing_paths = ("/v1/market/all",)
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    window = LEVELS
    # 5 connects a second an address; 5 messages a second and 100 a minute a connection, pings
    # among them. A connection without traffic is ended after 120 s; a ping shows that it lives.
    limits = Limits(
        frames_per_s=1,
        streams_per_connection=300,
        connects=5,
        connects_window_s=1,
        silent_after_s=25,
        ping_every_s=10,
    )
    ignored = {
        "candle": "candles are made from the trades, so that they mean the same everywhere",
    }

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._asked = plan.streams
        self._request_count = 0
        self._books: dict[str, WholeBook] = {
            one.native: WholeBook(
                BookFeed(one.native, self._topics[one.native], LEVELS, self._pacer)
            )
            for one in plan.streams
            if one.channel == "orderbook"
        }
        #: Instrument -> the time of its last book, µs.
        self._told: dict[str, int] = {}

    def opened(self) -> Sequence[Send]:
        return [self._request()]

    def ping(self) -> str | None:
        return "PING"

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            match decode(frame):
                case Trade() | ShortTrade() as trade:
                    return self._trade(trade, recv)
                case Orderbook() | ShortOrderbook() as book:
                    return self._orderbook(book, recv)
                case Ticker() | ShortTicker() as ticker:
                    return self._ticker(ticker, recv)
        except (ValueError, RecursionError) as e:
            try:
                return self._other(decode_other(frame))
            except (ValueError, RecursionError):
                raise BadPayload(self.name, frame, str(e)[:200]) from e
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt the trades it may have been for, and a book until it is told again."""
        type_, code = _TYPE.search(frame), _CODE.search(frame)
        if type_ is None and is_json(frame):
            return ()
        is_book = type_ is None or type_[1] == b"orderbook"
        is_trade = type_ is None or type_[1] == b"trade"
        native = code[1].decode() if code is not None else None
        out: list[Output] = []
        for one, topics in self._topics.items():
            if native not in (None, one):
                continue
            if is_trade:
                out += self._doubt(topics.get("trade"), recv)
            if is_book and one in self._books:
                out += self._books[one].feed.broken("unreadable", recv)
        return out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        return [self._request()]

    def _request(self) -> Send:
        """Ask for all of this connection."""
        self._request_count += 1
        codes: dict[str, list[str]] = {}
        for stream in self._asked:
            codes.setdefault(stream.channel, []).append(stream.native)
        fields = [{"type": channel, "codes": natives} for channel, natives in codes.items()]
        ticket = {"ticket": f"pricefeed-{self._request_count}"}
        return Send(_encode([ticket, *fields, {"format": "SIMPLE"}]).decode())

    def _trade(self, trade: Trade | ShortTrade, recv: int) -> Sequence[Output]:
        topic = find(self._topics, trade.code).get("trade")
        price, size = number(trade.trade_price), number(trade.trade_volume)
        ts, trade_id = trade.trade_timestamp * 1_000, trade.sequential_id
        out = [*self._pacer.advance(ts)]
        if topic is None:
            return out
        known = self._known[topic]
        is_first = not known
        if not known.is_new(trade_id):
            return out
        if trade.stream_type == "SNAPSHOT":
            if is_first:
                return out
            # The last trade of before a request that we have not heard of: nor of others, perhaps.
            out.append(upstream_gap(topic, recv, "upstream_sequence", None))
        self._doubted.discard(topic)
        side = SIDES[trade.ask_bid]
        out.append(models.Trade(topic, 0, ts, recv, 0, str(trade_id), price, size, side))
        return out

    def _orderbook(self, message: Orderbook | ShortOrderbook, recv: int) -> Sequence[Output]:
        native, ts, units = message.code, message.timestamp * 1_000, message.orderbook_units
        book = find(self._books, native)
        bids = levels((one.bid_price, one.bid_size) for one in units)
        asks = levels((one.ask_price, one.ask_size) for one in units)
        out = [*self._pacer.advance(ts)]
        if 0 < self._told.get(native, 0) - ts < CLOCK_STEP_US:
            return out
        self._told[native] = ts
        return out + book.told(bids, asks, ts, recv)

    def _ticker(self, ticker: Ticker | ShortTicker, recv: int) -> Sequence[Output]:
        topic = find(self._topics, ticker.code).get("ticker")
        ts, last = ticker.timestamp * 1_000, number(ticker.trade_price)
        volumes = number(ticker.acc_trade_volume_24h), number(ticker.acc_trade_price_24h)
        out = [*self._pacer.advance(ts)]
        shown = last, *volumes
        if not self._is_news(topic, shown):
            return out
        # Its opening, high and low prices are of the day since 0:00 UTC, not of 24 hours.
        out.append(
            models.Ticker(topic, 0, ts, recv, 0, last, None, None, None, *volumes, None, None)
        )
        return out

    def _other(self, other: Other) -> Sequence[Output]:
        """Take a sign of life, an error, which fails the whole request, or what is left out."""
        if other.error is None:
            type_ = other.type or other.ty
            if other.status != "UP" and type_.partition(".")[0] not in self.ignored:
                raise ValueError("neither data nor a sign of life")
            return ()
        reason = f"{other.error.name}: {other.error.message}"[:200]
        words = set(re.findall(r"[\w-]+", reason))
        named = tuple(one for one in self._asked if one.native in words)
        rest = tuple(one for one in self._asked if one not in named)
        if not named or not rest:
            return (Refused(self._asked, reason),)
        self._asked = rest
        return (Refused(named, reason), self._request())
