"""MEXC spot: protobuf frames of API v3. Pure.

Source: mexcdevelop/apidocs (spot_v3_en) and mexcdevelop/websocket-proto. Trades and best quotes
come every 10 ms, books every 100 ms, tickers every 3 s. A trade has an id of its own, but they are
not consecutive. A refusal names the subscriptions it is about; each request is of one instrument.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TypeAlias
from urllib.parse import quote

import msgspec

from adapters.base import Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.book import BookFeed
from adapters.channels import ChannelAdapter
from adapters.diff_book import WINDOW
from adapters.exchanges.mexc.book import LIMIT, MexcBook
from adapters.exchanges.mexc.frames import (
    decode_reply,
    kind_of,
    name_of,
    names,
    read,
    read_best,
    read_day,
    read_deals,
    read_of,
    stream_of,
)
from adapters.exchanges.mexc.listing import LISTING
from adapters.trade_ids import RecentIds
from feed.errors import BadPayload
from feed.models import Instrument, Quote, Ticker, Trade

TRADES = "aggre.deals"
QUOTES = "aggre.bookTicker"
BOOK = "aggre.depth"
TICKERS = "miniTicker"
#: Channel -> our kinds that a live subscription to it is for.
LIVE: Mapping[str, Collection[str]] = {
    f"{TRADES}@10ms": ("trade",),
    f"{QUOTES}@10ms": ("quote",),
    f"{BOOK}@100ms": ("book", "depth"),
    f"{TICKERS}@24H": ("ticker",),
}

_encode = msgspec.json.Encoder().encode
#: Of a frame that cannot be read: its subscription's name.
_LIKE_A_NAME = re.compile(rb"spot@public\.[A-Za-z.]+\.v3\.api\.pb[@\w+:.-]*")
#: Frame and receive time -> what follows.
Take: TypeAlias = Callable[[bytes, int], Sequence[Output]]


def _request(method: str, streams: Iterable[Stream]) -> Send:
    params = [name_of(stream) for stream in streams]
    return Send(_encode({"method": method, "params": params}).decode())


def _nothing(frame: bytes, recv: int) -> Sequence[Output]:
    return ()


class Mexc(ChannelAdapter):
    """MEXC spot."""

    name = "mexc"
    ws_url = "wss://wbs-api.mexc.com"
    rest_url = "https://api.mexc.com"
    path = "/ws"
    listing = LISTING
    listing_paths = ("/api/v3/exchangeInfo",)
    kinds = frozenset(chain.from_iterable(LIVE.values()))
    window = WINDOW
    proofs = {"book": "each update begins with the version after the last one's"}
    #: 30 subscriptions a connection, 100 messages a second, 24 h; without data a minute. No number
    #: of connects is published: a prudent one.
    limits = Limits(
        frames_per_s=50,
        streams_per_connection=30,
        connects=100,
        connects_window_s=300,
        max_age_s=86_400,
        ping_every_s=20,
    )
    ignored = {
        "kline": "candles are made from the trades, so that they mean the same everywhere",
        "limit.depth": "the best levels alone; depth is made from the book, which is proven",
        "increase.depth": "the former book, without versions that follow",
        "increase.depth.batch": "the former book, without versions that follow",
        "deals": "the former trades; now they come as aggre.deals",
        "bookTicker": "the former best quotes; now they come as aggre.bookTicker",
        "bookTicker.batch": "best quotes, late",
        "miniTickers": "of all symbols at once, while ours come on their own channels",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        return LIVE

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        # Of two speeds one feeds.
        first: dict[str, str] = {}
        for channel in channels:
            first.setdefault(channel.partition("@")[0], channel)
        fed: dict[str, str] = {}
        if BOOK in first:
            fed |= dict.fromkeys(("book", "depth", "quote"), first[BOOK])
        for kind, channel in (("quote", QUOTES), ("trade", TRADES), ("ticker", TICKERS)):
            if channel in first:
                fed[kind] = first[channel]
        return fed

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, MexcBook] = {}
        #: Subscription -> what takes its frames.
        self._takes: dict[bytes, Take] = {
            name_of(stream).encode(): _nothing for stream in plan.streams
        }
        self._trade_topics: dict[str, str] = {}
        for native, instrument in plan.instruments.items():
            topics = self.topics(plan.streams, instrument, self.wanted)
            own = [one.channel for one in plan.streams if one.native == native]
            by_channel: dict[str, dict[str, str]] = {}
            for kind, channel in self.feeding(own).items():
                if kind in topics:
                    by_channel.setdefault(channel, {})[kind] = topics[kind]
            for channel, fed in by_channel.items():
                name = name_of(Stream(channel, native)).encode()
                self._takes[name] = self._taker(channel, native, fed)

    def _taker(self, channel: str, native: str, topics: dict[str, str]) -> Take:
        match channel.partition("@")[0]:
            case "aggre.deals":
                self._trade_topics[native] = topics["trade"]
                return partial(self._trades, native, topics["trade"], RecentIds())
            case "aggre.bookTicker":
                return partial(self._quote, native, topics["quote"])
            case "miniTicker":
                return partial(self._ticker, native, topics["ticker"])
            case _:
                feed = BookFeed(native, topics, WINDOW, self._pacer)
                path = f"/api/v3/depth?symbol={quote(native)}&limit={LIMIT}"
                book = self._books[native] = MexcBook(native, feed, self._pacer, path)
                return book.take

    def opened(self) -> Sequence[Send]:
        by_native: dict[str, list[Stream]] = {}
        for stream in self.plan_.streams:
            by_native.setdefault(stream.native, []).append(stream)
        return [_request("SUBSCRIPTION", own) for own in by_native.values()]

    def ping(self) -> str | None:
        return '{"method":"PING"}'

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            if frame.startswith(b"{"):
                return self._replied(frame)
            # The name is field 1, and nearly always the first: byte 1 is its length.
            take = self._takes.get(frame[2 : 2 + frame[1]] if len(frame) > 2 else b"")
            if take is not None:
                return take(frame, recv)
            name = read(frame).name
            take = self._takes.get(name.encode())
            if take is not None:
                return take(frame, recv)
            if kind_of(name) not in self.ignored:
                raise ValueError(f"unknown channel {name[:80]!r}")
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)[:200]) from e
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt trades, which carry no number. Books prove themselves, quotes and tickers renew."""
        if frame.startswith(b"{"):
            return ()
        found = _LIKE_A_NAME.match(frame, 2)
        stream = stream_of(found[0].decode()) if found else None
        if stream is not None and not stream.channel.startswith(TRADES):
            return ()
        out: list[Output] = []
        for native, topic in self._trade_topics.items():
            if stream is None or stream.native == native:
                out += self._doubt(topic, recv)
        return out

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        try:
            return self._books[key.removeprefix("depth:")].fetched(body, recv)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, body, str(e)[:200]) from e

    def fetch_failed(self, key: str, recv: int) -> Iterable[Output]:
        return self._books[key.removeprefix("depth:")].fetch_failed()

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            kind, native = stream.channel.partition("@")[0], stream.native
            if kind == TRADES and native in self._trade_topics:
                # Nothing numbers them: what comes meanwhile is lost unseen.
                topic = self._trade_topics[native]
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
            elif kind == BOOK and native in self._books:
                out += self._books[native].restart("resync")
        out += [_request(method, streams) for method in ("UNSUBSCRIPTION", "SUBSCRIPTION")]
        return out

    def _trades(
        self, native: str, topic: str, known: RecentIds, frame: bytes, recv: int
    ) -> Sequence[Output]:
        deals = read_deals(read_of(native, frame).body or b"")
        self._doubted.discard(topic)
        out: list[Output] = []
        for deal in deals:
            if deal.id is not None and not known.is_new(deal.id):
                continue
            out += self._advance(deal.ts)
            out.append(Trade(topic, 0, deal.ts, recv, 0, deal.id, deal.price, deal.size, deal.side))
        return out

    def _quote(self, native: str, topic: str, frame: bytes, recv: int) -> Sequence[Output]:
        wrapper = read_of(native, frame)
        if wrapper.body is None:
            return ()
        bid, ask = read_best(wrapper.body)
        sides = (*(bid or (None, None)), *(ask or (None, None)))
        return (*self._advance(wrapper.ts), Quote(topic, 0, wrapper.ts, recv, 0, *sides))

    def _ticker(self, native: str, topic: str, frame: bytes, recv: int) -> Sequence[Output]:
        wrapper = read_of(native, frame)
        if wrapper.body is None:
            return ()
        day = read_day(wrapper.body)
        event = Ticker(
            topic,
            0,
            wrapper.ts,
            recv,
            0,
            day.last,
            None,
            day.high,
            day.low,
            day.volume,
            day.quote_volume,
            None,
            None,
        )
        return (*self._advance(wrapper.ts), event)

    def _advance(self, ts: int | None) -> Sequence[Output]:
        return () if ts is None else self._pacer.advance(ts)

    def _replied(self, frame: bytes) -> Sequence[Output]:
        """Take an answer: it says again what was asked for, or what of it is refused, and why."""
        reply = decode_reply(frame)
        if reply.msg == "PONG":
            return ()
        named = list(names(reply.msg))
        if reply.code == 0 and ",".join(named) == reply.msg:
            return ()
        refused = frozenset(named)
        streams = tuple(one for one in self.plan_.streams if name_of(one) in refused)
        return (Refused(streams, reply.msg[:200]),)
