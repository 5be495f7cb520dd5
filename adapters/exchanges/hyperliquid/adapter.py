"""Hyperliquid. Pure.

Source: hyperliquid.gitbook.io, api/websocket. Nothing is numbered: books come whole about twice a
second, so a lost one heals by itself; trades have ids without order, and who subscribes is first
told the last ones. Streams of single coins have been seen to fall silent on a living connection:
they are subscribed afresh.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

import msgspec

from adapters.base import Leave, Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.channels import RESUBSCRIBE_US, BookStream, ChannelAdapter, find, is_json
from adapters.exchanges.hyperliquid.frames import (
    AssetCtx,
    Bbo,
    Bbos,
    Book,
    Books,
    Error,
    PerpCtx,
    SpotCtx,
    Trades,
    changes,
    decode,
    decode_type,
    side_of,
)
from adapters.exchanges.hyperliquid.listing import LISTING
from adapters.text import decimal, signed
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Quote, Side, Ticker, Trade

BOOK_LEVELS = 20
#: A book that stands still is said again after so much exchange time, µs: it comes all the time,
#: and a topic of which nothing comes would be taken for dead.
RESTATE_US = 30_000_000
#: Channel -> the kinds it feeds; the book feeds ``quote`` where ``bbo`` is not subscribed to.
FEEDS = {
    "l2Book": ("book", "depth", "quote"),
    "bbo": ("quote",),
    "trades": ("trade",),
    "activeAssetCtx": ("ticker", "derivative"),
}
SIDES: dict[str, Side] = {"B": "buy", "A": "sell"}
#: Price -> size of bids and of asks.
Sides: TypeAlias = tuple[dict[str, str], dict[str, str]]
NO_SIDES: Sides = ({}, {})

_encode = msgspec.json.Encoder().encode
_CHANNEL = re.compile(rb'"channel"\s*:\s*"(\w{1,40})"')
_COIN = re.compile(rb'"coin"\s*:\s*"([^"]{1,64})"')
_NAMED = re.compile(r'"(type|coin)"\s*:\s*"([^"]+)"')


def _request(method: str, stream: Stream) -> Send:
    subscription = {"type": stream.channel, "coin": stream.native}
    return Send(_encode({"method": method, "subscription": subscription}).decode())


class Hyperliquid(ChannelAdapter):
    """Hyperliquid's perpetuals and spot pairs."""

    name = "hyperliquid"
    ws_url = "wss://api.hyperliquid.xyz"
    rest_url = "https://api.hyperliquid.xyz"
    path = "/ws"
    listing = LISTING
    listing_paths = ('/info#{"type":"allPerpMetas"}', '/info#{"type":"spotMeta"}')
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    window = BOOK_LEVELS
    # An address may have 1,000 subscriptions, send 2,000 messages a minute and open 30 connections
    # in it. A connection on which nothing was sent for a minute is closed.
    limits = Limits(
        frames_per_s=10,
        streams_per_connection=500,
        connects=30,
        connects_window_s=60,
        ping_every_s=10,
        silent_after_s=25,
    )
    ignored = {
        "candle": "candles are made from the trades, so that they mean the same everywhere",
        "allMids": "a price between others is none",
        "allDexsAssetCtxs": "each coin's own is carried",
        "notification": "private",
        "post": "answers a request that we don't make",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        told = ("ticker",) if instrument.type == "spot" else FEEDS["activeAssetCtx"]
        return {**FEEDS, "l2Book": ("book", "depth"), "activeAssetCtx": told}

    @classmethod
    def topics(
        cls, streams: Collection[Stream], instrument: Instrument, kinds: Collection[str]
    ) -> dict[str, str]:
        spot = {"derivative"} if instrument.type == "spot" else set()
        return super().topics(streams, instrument, set(kinds) - spot)

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, BookStream] = {
            one.native: self._book(one) for one in plan.streams if one.channel == "l2Book"
        }
        #: Coin -> both sides of its last book, as sent.
        self._sides: dict[str, Sides] = {}
        #: Coin -> exchange time of the last ``book`` event.
        self._said: dict[str, int] = {}
        #: Coin -> price of its last trade, which the context doesn't tell.
        self._prices: dict[str, str] = {}
        #: Before this time an unreadable state is not asked for again.
        self._asked: dict[Stream, int] = {}

    def opened(self) -> Sequence[Send]:
        return [_request("subscribe", one) for one in self.plan_.streams]

    def ping(self) -> str | None:
        return '{"method":"ping"}'

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            match decode(frame):
                case Bbos(data):
                    return self._bbo(data, recv)
                case Trades() as trades:
                    return self._trades(trades, recv)
                case Books(data):
                    return self._whole(data, recv)
                case PerpCtx(data) | SpotCtx(data):
                    return self._ctx(data, recv)
                case Error(reason):
                    return self._error(reason)
        except (ValueError, RecursionError) as e:
            if self._is_ignored(frame):
                return ()
            raise BadPayload(self.name, frame, str(e)) from e
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Declare trades lost, and ask again for states; the next book comes by itself."""
        channel, coin = _CHANNEL.search(frame), _COIN.search(frame)
        if coin is None and is_json(frame):
            return ()
        name = channel[1].decode().replace("activeSpot", "active") if channel else None
        native = coin[1].decode(errors="replace") if coin else None
        out: list[Output] = []
        for stream in self.plan_.streams:
            if name not in (None, stream.channel) or native not in (None, stream.native):
                continue
            if stream.channel == "trades":
                out += self._doubt(self._topics[stream.native].get("trade"), recv)
            elif stream.channel != "l2Book" and recv >= self._asked.get(stream, 0):
                self._asked[stream] = recv + RESUBSCRIBE_US
                out += self.resync((stream,), recv)
        return out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            topic = self._topics[stream.native].get("trade")
            if stream.channel == "trades" and topic is not None:
                # The last trades are told again, and those that are new among them emitted; that
                # they reach back far enough is proven by nothing.
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
            out += [_request(method, stream) for method in ("unsubscribe", "subscribe")]
        return out

    def _is_ignored(self, frame: bytes) -> bool:
        try:
            return decode_type(frame).channel in self.ignored
        except (ValueError, RecursionError):
            return False

    def _whole(self, data: Book, recv: int) -> list[Output]:
        book = find(self._books, data.coin)
        feed = book.feed
        bids, asks = side_of(data.levels[0]), side_of(data.levels[1])
        old_bids, old_asks = self._sides.get(data.coin, NO_SIDES) if feed.is_live else NO_SIDES
        changed = changes(old_bids, bids), changes(old_asks, asks)
        self._sides[data.coin] = bids, asks
        ts = data.time * 1_000
        out = [*self._pacer.advance(ts)]
        if not feed.is_live:
            self._said[data.coin] = ts
            return out + book.snapshot(*changed, ts, recv)
        events = book.delta(*changed, ts, recv)
        if not events and ts >= self._said[data.coin] + RESTATE_US:
            events = feed.whole(ts, recv)
        if events:
            self._said[data.coin] = ts
        return out + events

    def _bbo(self, data: Bbo, recv: int) -> list[Output]:
        topics, ts = find(self._topics, data.coin), data.time * 1_000
        bid, ask = data.bbo
        values = (
            *((decimal(bid.px), decimal(bid.sz)) if bid is not None else (None, None)),
            *((decimal(ask.px), decimal(ask.sz)) if ask is not None else (None, None)),
        )
        out = [*self._pacer.advance(ts)]
        if self._is_news(topics.get("quote"), values):
            out.append(Quote(topics["quote"], 0, ts, recv, 0, *values))
        return out

    def _trades(self, message: Trades, recv: int) -> list[Output]:
        trades = [
            (one, find(self._topics, one.coin).get("trade"), decimal(one.px), decimal(one.sz))
            for one in message.data
        ]
        # What comes first of a coin are trades of before: not emitted, but known from now on.
        old = {topic for _, topic, _, _ in trades} - self._known.keys()
        out: list[Output] = []
        for one, topic, price, size in trades:
            if topic is None:
                continue
            self._doubted.discard(topic)
            if not self._known[topic].is_new(one.tid):
                continue
            self._prices[one.coin] = price
            if topic not in old:
                ts = one.time * 1_000
                out += self._pacer.advance(ts)
                out.append(Trade(topic, 0, ts, recv, 0, str(one.tid), price, size, SIDES[one.side]))
        return out

    def _ctx(self, data: AssetCtx, recv: int) -> list[Output]:
        topics, ctx = find(self._topics, data.coin), data.ctx
        opened, base, quote, mark, index, interest = (
            decimal(text) if text is not None else None
            for text in (
                ctx.prev_day_px,
                ctx.day_base_vlm,
                ctx.day_ntl_vlm,
                ctx.mark_px,
                ctx.oracle_px,
                ctx.open_interest,
            )
        )
        rate = signed(ctx.funding) if ctx.funding is not None else None
        last = self._prices.get(data.coin)
        out: list[Output] = []
        if self._is_news(topics.get("ticker"), (last, opened, base, quote)):
            day = (last, opened, None, None, base, quote, None, None)
            out.append(Ticker(topics["ticker"], 0, None, recv, 0, *day))
        if self._is_news(topics.get("derivative"), (mark, index, rate, interest)):
            derived = (mark, index, rate, None, interest)
            out.append(Derivative(topics["derivative"], 0, None, recv, 0, *derived))
        return out

    def _error(self, reason: str) -> Sequence[Output]:
        """Find out what is refused: the request is repeated in the text."""
        if reason.startswith("Already"):  # (un)subscribed
            return ()
        named = dict(_NAMED.findall(reason))
        stream = Stream(named.get("type", ""), named.get("coin", ""))
        if stream in self.plan_.streams:
            return (Refused((stream,), reason[:200]),)
        return (Leave("error"),)
