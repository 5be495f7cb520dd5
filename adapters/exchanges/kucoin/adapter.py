"""KuCoin's classic API: spot and futures. Pure.

Source: kucoin.com/docs-new. A REST answer tells where to connect, with a token. ``level2`` feeds
``book``, ``depth`` and ``quote``, joined to a REST snapshot by number; the exchange's own best
quote comes in steps of 100 ms and is left out. Nothing numbers the trades consecutively.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar, TypeAlias
from urllib.parse import quote, urlsplit

import msgspec

from adapters.base import Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.book import BookFeed
from adapters.channels import ChannelAdapter, is_json
from adapters.exchanges.kucoin.book import SequencedBook, Update
from adapters.exchanges.kucoin.frames import (
    Frame,
    decode,
    decode_bullet,
    decode_change,
    decode_day,
    decode_execution,
    decode_funding,
    decode_futures_day,
    decode_level2,
    decode_mark_index,
    decode_match,
    from_nanos,
    number,
    optional,
    rate,
)
from adapters.exchanges.kucoin.listing import FUTURES, SPOT
from adapters.text import decimal
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Ticker, Trade

#: More topics a request are refused.
TOPICS_PER_REQUEST = 100
#: Errors that more requests would not mend: too many of them, or of topics.
LIMIT_CODES = ("429", "509")
_TOPIC = re.compile(rb'"topic"\s*:\s*"(/[\w/]{1,40})(?::([^"]{1,64}))?"')

_encode = msgspec.json.Encoder().encode
#: Frame and receive time -> what follows.
Take: TypeAlias = Callable[[Frame, int], list[Output]]


def _topic(stream: Stream) -> str:
    return f"{stream.channel}:{stream.native}"


class _Kucoin(ChannelAdapter):
    """What both markets have in common."""

    path = ""
    door_path = "/api/v1/bullet-public#"
    # 100 messages in 10 s, 30 connects a minute; a topic is one channel of one symbol. A connection
    # is of use once it is welcomed, and is ended after a day. It wants a ping every 18 s; sooner
    # they also show that a quiet connection lives.
    limits = Limits(
        frames_per_s=8,
        streams_per_connection=300,
        connects=30,
        connects_window_s=60,
        silent_after_s=15.0,
        ping_every_s=10,
        max_age_s=86_400,
        settle_s=0.5,
    )
    proofs = {"book": "changes are numbered consecutively, as is the snapshot they join"}
    #: Path of a REST book, completed by the symbol.
    book_path: ClassVar[str]

    @classmethod
    def address(cls, body: bytes) -> str:
        try:
            told = decode_bullet(body).data
        except (ValueError, RecursionError) as e:
            raise BadPayload(cls.name, body, str(e)[:200]) from e
        endpoint = urlsplit(told.servers[0].endpoint) if told.servers else None
        if endpoint is None or endpoint.scheme not in ("ws", "wss") or not endpoint.netloc:
            raise BadPayload(cls.name, body, "no server to connect to")
        token = quote(told.token, "=-_.")
        return f"{endpoint.scheme}://{endpoint.netloc}{endpoint.path or '/'}?token={token}"

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, SequencedBook] = {}
        #: KuCoin's topic -> what takes its frames; of planned streams that feed something.
        self._takes: dict[str, Take] = {}
        #: Our trade topics by native symbol.
        self._trade_topics: dict[str, str] = {}
        self._requests: dict[str, tuple[Stream, ...]] = {}
        self._request_count = 0
        for stream in plan.streams:
            instrument = plan.instruments[stream.native]
            topics = self.topics([stream], instrument, self.wanted & self.kinds)
            if topics:
                self._takes[_topic(stream)] = self._taker(stream, instrument, topics)

    def _taker(self, stream: Stream, instrument: Instrument, topics: Mapping[str, str]) -> Take:
        native = stream.native
        if "trade" in topics:
            self._trade_topics[native] = topics["trade"]
            return partial(self._trade, native, topics["trade"])
        if "ticker" in topics:
            return partial(self._ticker, instrument, topics["ticker"])
        feed = BookFeed(native, topics, self.window, self._pacer)
        path = self.book_path.format(quote(native))
        book = SequencedBook(native, feed, self._pacer, path, self.window)
        self._books[native] = book
        return partial(self._level2, native, book)

    def opened(self) -> Sequence[Send]:
        by_channel: dict[str, list[Stream]] = {}
        for stream in self.plan_.streams:
            by_channel.setdefault(stream.channel, []).append(stream)
        return [
            self._subscribe(streams[at : at + TOPICS_PER_REQUEST])
            for streams in by_channel.values()
            for at in range(0, len(streams), TOPICS_PER_REQUEST)
        ]

    def ping(self) -> str | None:
        return '{"id":"ping","type":"ping"}'

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = decode(frame)
            take = self._takes.get(message.topic)
            if take is not None:
                return take(message, recv)
            if not message.topic:
                return self._said(message)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)[:200]) from e
        channel, _, native = message.topic.partition(":")
        is_unwanted = channel in self.feeds and native in self.plan_.instruments
        if channel not in self.ignored and not is_unwanted:
            raise BadPayload(self.name, frame, f"unknown topic {message.topic[:80]!r}")
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt the trades, which nothing numbers. Books prove themselves, the rest is repeated."""
        found = _TOPIC.search(frame)
        if found is None and is_json(frame):
            return ()
        native = None
        if found is not None:
            native = (found[2] or b"").decode(errors="replace")
            if "trade" not in self.feeds.get(found[1].decode(), ()):
                return ()
        out: list[Output] = []
        for own, topic in self._trade_topics.items():
            if native in (None, own):
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
            fed = self.feeds.get(stream.channel, ())
            if "trade" in fed and stream.native in self._trade_topics:
                topic = self._trade_topics[stream.native]
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
            out += [self._request("unsubscribe", (stream,)), self._subscribe((stream,))]
            if "book" in fed and stream.native in self._books:
                out += self._books[stream.native].restart("resync")
        return out

    def _request(self, what: str, streams: Sequence[Stream]) -> Send:
        """Return a request for streams of one channel."""
        self._request_count += 1
        natives = ",".join(one.native for one in streams)
        fields = {
            "id": str(self._request_count),
            "type": what,
            "topic": f"{streams[0].channel}:{natives}",
            "privateChannel": False,
            "response": True,
        }
        return Send(_encode(fields).decode())

    def _subscribe(self, streams: Sequence[Stream]) -> Send:
        send = self._request("subscribe", streams)
        self._requests[str(self._request_count)] = tuple(streams)
        return send

    def _said(self, message: Frame) -> Sequence[Output]:
        """Take what the service says. One bad topic may fail its whole request."""
        if message.type in ("welcome", "pong"):
            return ()
        asked = self._requests.pop(str(message.id), ())
        if message.type == "ack":
            return ()
        if message.type != "error":
            raise ValueError(f"unknown type {message.type[:40]!r}")
        told = bytes(message.data).decode()
        reason = f"{message.code} {told}"[:200]
        words = set(re.findall(r"[\w.-]+", told))
        named = tuple(one for one in asked if one.native in words)
        if len(asked) < 2 or str(message.code) in LIMIT_CODES:
            return (Refused(asked, reason),)
        if not named or named == asked:
            return [self._subscribe((one,)) for one in asked]
        rest = tuple(one for one in asked if one not in named)
        return [Refused(named, reason), self._subscribe(rest)]

    @abstractmethod
    def _trade(self, native: str, topic: str, message: Frame, recv: int) -> list[Output]: ...

    @abstractmethod
    def _level2(
        self, native: str, book: SequencedBook, message: Frame, recv: int
    ) -> list[Output]: ...

    @abstractmethod
    def _ticker(
        self, instrument: Instrument, topic: str, message: Frame, recv: int
    ) -> list[Output]: ...

    def _traded(self, trade: Trade) -> list[Output]:
        """Return the trade, unless it has come before."""
        topic, number = trade.topic, trade.id
        assert number is not None and trade.ts is not None
        out = [*self._pacer.advance(trade.ts)]
        self._doubted.discard(topic)
        if self._known[topic].is_new(number):
            out.append(trade)
        return out


class Kucoin(_Kucoin):
    """Spot. The REST book has 100 levels a side; of the whole one a key is asked."""

    name = "kucoin"
    ws_url = "wss://ws-api-spot.kucoin.com"
    rest_url = "https://api.kucoin.com"
    listing = SPOT
    listing_paths = ("/api/v2/symbols",)
    kinds = frozenset({"trade", "quote", "book", "depth", "ticker"})
    feeds = {
        "/market/match": ("trade",),
        "/market/level2": ("book", "depth", "quote"),
        "/market/snapshot": ("ticker",),
    }
    window = 100
    book_path = "/api/v1/market/orderbook/level2_100?symbol={}"
    ignored = {
        "/market/candles": "candles are made from the trades",
        "/market/ticker": "the best quote in steps of 100 ms; ours is made of the book",
        "/spotMarket/level1": "the best quote; ours is made of the book, which is proven",
        "/spotMarket/level2Depth5": "the best levels alone; depth is made from the book",
        "/spotMarket/level2Depth50": "the best levels alone; depth is made from the book",
        "/spotMarket/level3": "single orders are not a kind we carry",
        "/callauction/callauctionData": "no trading yet: an auction before it",
        "/callauction/level2Depth50": "no trading yet: an auction before it",
        "/indicator/index": "an index for margin, not a kind we carry of spot",
        "/indicator/markPrice": "a mark price for margin, not a kind we carry of spot",
        "/margin/fundingBook": "lending is not a kind we carry",
        "/margin/position": "of an account",
    }

    def _trade(self, native: str, topic: str, message: Frame, recv: int) -> list[Output]:
        match = decode_match(message.data)
        if match.symbol != native:
            raise ValueError(f"{match.symbol[:40]!r} in the topic of {native}")
        ts, price, size = from_nanos(match.time), decimal(match.price), decimal(match.size)
        return self._traded(Trade(topic, 0, ts, recv, 0, match.trade_id, price, size, match.side))

    def _level2(self, native: str, book: SequencedBook, message: Frame, recv: int) -> list[Output]:
        level2 = decode_level2(message.data)
        first, last, changes = level2.sequence_start, level2.sequence_end, level2.changes
        if level2.symbol != native or first > last:
            raise ValueError(f"of {level2.symbol[:40]!r}, numbers {first} to {last}")
        bids, asks = (
            [(decimal(price), decimal(size), at) for price, size, at in side]
            for side in (changes.bids, changes.asks)
        )
        ts = None if level2.time is None else level2.time * 1_000
        return book.take(Update(first, last, bids, asks, ts, recv))

    def _ticker(
        self, instrument: Instrument, topic: str, message: Frame, recv: int
    ) -> list[Output]:
        day = decode_day(message.data).data
        if day.symbol != instrument.native:
            raise ValueError(f"{day.symbol[:40]!r} in the topic of {instrument.native}")
        values = (
            *(optional(day.last_traded_price), optional(day.open)),
            *(optional(day.high), optional(day.low)),
            *(optional(day.vol), optional(day.vol_value)),
            *(optional(day.buy), optional(day.sell)),
        )
        ts = day.datetime * 1_000
        out = [*self._pacer.advance(ts)]
        if self._is_news(topic, values):
            out.append(Ticker(topic, 0, ts, recv, 0, *values))
        return out


class KucoinFutures(_Kucoin):
    """Perpetuals and futures. Sizes count contracts; what one is worth is in the listing."""

    name = "kucoin-futures"
    ws_url = "wss://ws-api-futures.kucoin.com"
    rest_url = "https://api-futures.kucoin.com"
    listing = FUTURES
    listing_paths = ("/api/v1/contracts/active",)
    kinds = frozenset({"trade", "quote", "book", "depth", "ticker", "derivative"})
    feeds = {
        "/contractMarket/execution": ("trade",),
        "/contractMarket/level2": ("book", "depth", "quote"),
        "/contractMarket/snapshot": ("ticker",),
        "/contract/instrument": ("derivative",),
    }
    window = 1_000
    book_path = "/api/v1/level2/snapshot?symbol={}"
    ignored = {
        "/contractMarket/limitCandle": "candles are made from the trades",
        "/contractMarket/candle": "candles are made from the trades",
        "/contractMarket/ticker": "replaced by tickerV2; the quote is made of the book",
        "/contractMarket/tickerV2": "the best quote; ours is made of the book, which is proven",
        "/contractMarket/level2Depth5": "the best levels alone; depth is made from the book",
        "/contractMarket/level2Depth50": "the best levels alone; depth is made from the book",
        "/contractMarket/level3": "single orders are not a kind we carry",
        "/contractMarket/level3v2": "single orders are not a kind we carry",
        "/contract/announcement": "the settlement of funding, not a kind we carry",
        "/contract/details": "the listing, which recorders have put among the messages",
        "/contract/positionAll": "of an account",
        "/contract/position": "of an account",
        "/contractAccount/wallet": "of an account",
    }

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        #: Topic -> mark, index and funding rate, as far as they have come, and their latest time.
        self._states: dict[str, tuple[str | None, str | None, str | None, int]] = {}
        super().__init__(plan, kinds)

    def _taker(self, stream: Stream, instrument: Instrument, topics: Mapping[str, str]) -> Take:
        if "derivative" in topics:
            return partial(self._derivative, topics["derivative"])
        return super()._taker(stream, instrument, topics)

    def _trade(self, native: str, topic: str, message: Frame, recv: int) -> list[Output]:
        done = decode_execution(message.data)
        if done.symbol != native:
            raise ValueError(f"{done.symbol[:40]!r} in the topic of {native}")
        ts, price, size = from_nanos(done.ts), number(done.price), number(done.size)
        return self._traded(Trade(topic, 0, ts, recv, 0, done.trade_id, price, size, done.side))

    def _level2(self, native: str, book: SequencedBook, message: Frame, recv: int) -> list[Output]:
        told = decode_change(message.data)
        price, side, size = told.change.split(",")
        if side not in ("buy", "sell"):
            raise ValueError(f"no side: {side[:40]!r}")
        at, ts = told.sequence, told.timestamp * 1_000
        changed = [(decimal(price), decimal(size), at)]
        sides = (changed, []) if side == "buy" else ([], changed)
        return book.take(Update(at, at, *sides, ts, recv))

    def _ticker(
        self, instrument: Instrument, topic: str, message: Frame, recv: int
    ) -> list[Output]:
        day = decode_futures_day(message.data)
        ts = from_nanos(day.ts)
        # ``volume`` counts the base and ``turnover`` the quote; of inverse contracts, which are of
        # one unit of the quote, it is the other way round.
        volumes = optional(day.volume), optional(day.turnover)
        base, quoted = volumes[::-1] if instrument.inverse else volumes
        last, high = optional(day.last_price), optional(day.high_price)
        values = (last, None, high, optional(day.low_price), base, quoted, None, None)
        out = [*self._pacer.advance(ts)]
        if self._is_news(topic, values):
            out.append(Ticker(topic, 0, ts, recv, 0, *values))
        return out

    def _derivative(self, topic: str, message: Frame, recv: int) -> list[Output]:
        mark, index, funding, latest = self._states.get(topic, (None, None, None, 0))
        out: list[Output] = []
        if message.subject == "mark.index.price":
            told = decode_mark_index(message.data)
            mark, index, ts = number(told.mark_price), number(told.index_price), told.timestamp
            out += self._pacer.advance(ts * 1_000)
        elif message.subject == "funding.rate":
            # Documented as a prediction each minute and the rate each 8 hours; both have been the
            # rate of the running period wherever they could be compared.
            new = decode_funding(message.data)
            funding, ts = rate(new.funding_rate), new.timestamp  # of its minute: no clock
        else:
            raise ValueError(f"unknown subject {message.subject[:40]!r}")
        latest = max(latest, ts * 1_000)
        self._states[topic] = mark, index, funding, latest
        if self._is_news(topic, (mark, index, funding)):
            out.append(Derivative(topic, 0, latest, recv, 0, mark, index, funding, None, None))
        return out
