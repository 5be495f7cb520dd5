"""Bithumb's public WebSocket v1 (Upbit's in shape). Pure.

Source: apidocs.bithumb.com, WebSocket. Every ``orderbook`` message is the whole book of 15 or 30
levels a side, so nothing numbers them and nothing has to: ``book`` gets what has changed. Trade ids
are unique, but neither consecutive nor in order. A request may take the place of the one before,
so each asks for all of the connection.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import chain

import msgspec

from adapters.base import Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.book import BookFeed
from adapters.channels import ChannelAdapter, find, is_json
from adapters.exchanges.bithumb.frames import (
    Head,
    decode,
    decode_orderbook,
    decode_ticker,
    decode_trade,
    micros,
    number,
)
from adapters.exchanges.bithumb.listing import LISTING
from adapters.whole_book import WholeBook, levels
from feed.errors import BadPayload
from feed.models import Side, Ticker, Trade

#: Levels a side of a book at most.
LEVELS = 30
SIDES: dict[str, Side] = {"BID": "buy", "ASK": "sell"}
FEEDS = {"trade": ("trade",), "orderbook": ("book", "depth", "quote"), "ticker": ("ticker",)}

_encode = msgspec.json.Encoder().encode
_CODE = re.compile(rb'"type"\s*:\s*"(\w{1,20})"(?:\s*,\s*"code"\s*:\s*"([\w-]{1,40})")?')


class Bithumb(ChannelAdapter):
    """Bithumb spot. Symbols have the quote first: ``KRW-BTC``."""

    name = "bithumb"
    ws_url = "wss://ws-api.bithumb.com"
    rest_url = "https://api.bithumb.com"
    path = "/websocket/v1"
    listing = LISTING
    listing_paths = ("/v1/market/all",)
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    window = LEVELS
    # 10 connects a second; of frames and streams no limit is published: prudent ones. A connection
    # without any traffic is ended after 120 s; a ping sooner shows that a quiet one lives.
    limits = Limits(
        frames_per_s=4,
        streams_per_connection=300,
        connects=10,
        connects_window_s=1,
        silent_after_s=15.0,
        ping_every_s=10,
    )
    ignored = {
        "myOrder": "of an account",
        "myAsset": "of an account",
    }

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, WholeBook] = {
            one.native: WholeBook(
                BookFeed(one.native, self._of_book(one.native), LEVELS, self._pacer)
            )
            for one in plan.streams
            if one.channel == "orderbook"
        }
        #: What is asked for: all but what was refused.
        self._asked = plan.streams
        self._request_count = 0

    def _of_book(self, native: str) -> dict[str, str]:
        topics = self._topics[native]
        return {kind: topics[kind] for kind in FEEDS["orderbook"] if kind in topics}

    def opened(self) -> Sequence[Send]:
        return (self._request(),)

    def ping(self) -> str | None:
        return "PING"

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            head = decode(frame)
            match head.type:
                case "trade":
                    return self._trade(frame, recv)
                case "orderbook":
                    return self._orderbook(frame, recv)
                case "ticker":
                    return self._ticker(frame, recv)
                case "":
                    return self._said(head)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)[:200]) from e
        if head.type not in self.ignored:
            raise BadPayload(self.name, frame, f"unknown type {head.type[:40]!r}")
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt the trades, which nothing numbers; the rest is whole in the next message."""
        found = _CODE.search(frame)
        if found is None and is_json(frame):
            return ()
        if found is not None and found[1] != b"trade":
            return ()
        native = found[2].decode() if found is not None and found[2] else None
        out: list[Output] = []
        for own, topics in self._topics.items():
            if native in (None, own):
                out += self._doubt(topics.get("trade"), recv)
        return out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            topic = self._topics[stream.native].get("trade")
            if stream.channel == "trade" and topic is not None:
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
        return [*out, self._request()]

    def _request(self) -> Send:
        """Ask for all of this connection."""
        self._request_count += 1
        by_channel: dict[str, list[str]] = {}
        for stream in self._asked:
            by_channel.setdefault(stream.channel, []).append(stream.native)
        fields = [{"type": channel, "codes": codes} for channel, codes in by_channel.items()]
        ticket = {"ticket": f"pricefeed-{self._request_count}"}
        return Send(_encode([ticket, *fields, {"format": "DEFAULT"}]).decode())

    def _said(self, head: Head) -> Sequence[Output]:
        """Take a sign of life, or an error, which fails the whole request."""
        if head.error is None:
            if head.status != "UP":
                raise ValueError("neither data nor a sign of life")
            return ()
        reason = f"{head.error.name} {head.error.message}"[:200]
        words = set(re.findall(r"[\w-]+", head.error.message))
        named = tuple(one for one in self._asked if one.native in words)
        rest = tuple(one for one in self._asked if one not in named)
        if not named or not rest:
            return (Refused(self._asked, reason),)
        self._asked = rest
        return (Refused(named, reason), self._request())

    def _trade(self, frame: bytes, recv: int) -> list[Output]:
        trade = decode_trade(frame)
        topic = find(self._topics, trade.code).get("trade")
        price, size = number(trade.trade_price), number(trade.trade_volume)
        ts = micros(trade.trade_timestamp)
        out = [*self._pacer.advance(ts)]
        if topic is None or trade.stream_type == "SNAPSHOT":
            return out
        self._doubted.discard(topic)
        if not self._known[topic].is_new(trade.sequential_id):
            return out
        trade_id, side = str(trade.sequential_id), SIDES[trade.ask_bid]
        out.append(Trade(topic, 0, ts, recv, 0, trade_id, price, size, side))
        return out

    def _orderbook(self, frame: bytes, recv: int) -> list[Output]:
        told = decode_orderbook(frame)
        book = find(self._books, told.code)
        bids = levels((one.bid_price, one.bid_size) for one in told.units)
        asks = levels((one.ask_price, one.ask_size) for one in told.units)
        ts = micros(told.timestamp)
        return [*self._pacer.advance(ts), *book.told(bids, asks, ts, recv)]

    def _ticker(self, frame: bytes, recv: int) -> list[Output]:
        day = decode_ticker(frame)
        topic = find(self._topics, day.code).get("ticker")
        # Its opening, high and low prices are of the day in Korea, not of 24 hours.
        last = number(day.trade_price)
        volumes = number(day.acc_trade_volume_24h), number(day.acc_trade_price_24h)
        ts = micros(day.timestamp)
        out = [*self._pacer.advance(ts)]
        values = (last, *volumes)
        if self._is_news(topic, values):
            out.append(Ticker(topic, 0, ts, recv, 0, last, None, None, None, *volumes, None, None))
        return out
