"""Bybit v5: spot, and linear (USDT and USDC) perpetuals and futures. Pure.

Source: bybit-exchange/docs, v5/websocket. ``orderbook.200`` feeds ``book`` and ``depth``;
``orderbook.1`` (every 10 ms, repeated each 3 s) feeds ``quote``, which else comes from the deeper
book. Update ids ``u`` are consecutive in every session measured: a jump is a broken book. A linear
ticker is a snapshot and then what changed. Spot and linear frames order their keys differently.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar, Literal

import msgspec
from msgspec.structs import asdict, replace

from adapters.base import Limits, Output, Plan, Refused, Send, Stream
from adapters.book import DepthPacer
from adapters.channels import BookStream, ChannelAdapter, find
from adapters.text import MAX_MICROS, Millis, decimal, levels, signed
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Side, Ticker, Trade
from feed.topics import symbol_text

#: Of 1, 50, 200 and 1,000 levels: 100 ms (linear) or 200 ms (spot) apart, like ``depth`` itself.
BOOK_CHANNEL = "orderbook.200"
QUOTE_CHANNEL = "orderbook.1"
#: More arguments a request are refused on spot; alike on linear.
ARGS_PER_REQUEST = 10
#: Quote assets of the spot listing, for names without one; longer ones first.
QUOTES = (
    "RLUSD USDT USDC USDE USD1 XUSD USDQ USDR EUR BTC ETH SOL BRL GBP AED PLN TRY MNT DAI USD"
).split()
SIDES: dict[str, Side] = {"Buy": "buy", "Sell": "sell"}

_DATED = re.compile(r"([A-Z0-9]+?)(USDT)?-([0-9]{1,2}[A-Z]{3}[0-9]{2})").fullmatch


class _Frame(msgspec.Struct):
    """Data (``topic``) or the reply to a request (``op``, for options ``COMMAND_RESP``)."""

    topic: str = ""
    type: str = ""
    ts: Millis = 0
    cts: Millis = 0
    data: msgspec.Raw = msgspec.Raw(b"null")
    op: str = ""
    success: bool = True
    ret_msg: str | None = None
    req_id: str | int | None = None


class _Book(msgspec.Struct):
    b: list[tuple[str, str]]
    a: list[tuple[str, str]]
    u: int


class _Trade(msgspec.Struct):
    T: Millis
    S: Literal["Buy", "Sell"]
    v: str
    p: str
    i: str


class _Ticker(msgspec.Struct, rename="camel"):
    """A ticker's fields, ``None`` where the frame does not have them."""

    last_price: str | None = None
    prev_price24h: str | None = None
    high_price24h: str | None = None
    low_price24h: str | None = None
    volume24h: str | None = None
    turnover24h: str | None = None
    bid1_price: str | None = None
    ask1_price: str | None = None
    mark_price: str | None = None
    index_price: str | None = None
    funding_rate: str | None = None
    next_funding_time: str | None = None
    open_interest: str | None = None


class _Outcome(msgspec.Struct):
    fail_topics: list[str] = msgspec.field(name="failTopics", default_factory=list)


class _PriceFilter(msgspec.Struct):
    tick_size: str = msgspec.field(name="tickSize")


class _LotFilter(msgspec.Struct, rename="camel"):
    base_precision: str | None = None
    qty_step: str | None = None


class _Listed(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_coin: str
    quote_coin: str
    price_filter: _PriceFilter
    lot_size_filter: _LotFilter
    settle_coin: str | None = None
    delivery_time: str = "0"


class _Listing(msgspec.Struct):
    instruments: list[_Listed] = msgspec.field(name="list")


class _Answer(msgspec.Struct):
    result: _Listing


_decode = msgspec.json.Decoder(_Frame).decode
_decode_book = msgspec.json.Decoder(_Book).decode
_decode_trades = msgspec.json.Decoder(list[_Trade]).decode
_decode_ticker = msgspec.json.Decoder(_Ticker).decode
_decode_outcome = msgspec.json.Decoder(_Outcome).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


def _request(op: str, streams: Iterable[Stream], req_id: str) -> Send:
    args = [_topic(one) for one in streams]
    return Send(_encode({"req_id": req_id, "op": op, "args": args}).decode())


def _optional(text: str | None) -> str | None:
    return signed(text) if text else None


def _millis(text: str | None) -> int | None:
    """Return a time given as text in ms, in µs; 0 is what never comes."""
    micros = int(decimal(text)) * 1_000 if text else 0
    if micros > MAX_MICROS:
        raise ValueError(f"no time: {micros}")
    return micros or None


def _topic(stream: Stream) -> str:
    return f"{stream.channel}.{stream.native}"


def _is_snapshot(message: _Frame) -> bool:
    if message.type not in ("snapshot", "delta"):
        raise ValueError(f"neither snapshot nor delta: {message.type[:40]!r}")
    return message.type == "snapshot"


class _BybitBase(ChannelAdapter):
    """What both markets have in common."""

    ws_url = "wss://stream.bybit.com"
    rest_url = "https://api.bybit.com"
    #: No frame rate is published: a prudent one. 500 connects in 5 min and 21,000 characters of
    #: arguments a connection are allowed.
    limits = Limits(
        frames_per_s=10,
        streams_per_connection=400,
        connects=400,
        connects_window_s=300,
        ping_every_s=20,
    )
    chars_per_connection = 20_000
    ignored = {
        "kline": "candles are made from the trades, so that they mean the same everywhere",
        "allLiquidation": "liquidations are not carried of this exchange",
    }
    #: What ``tickers`` feeds.
    ticker_kinds: ClassVar[tuple[str, ...]] = ("ticker",)

    @classmethod
    def instruments(cls, bodies: Sequence[bytes]) -> list[Instrument]:
        try:
            answers = [_decode_answer(body) for body in bodies]
            return [cls.listed(one) for answer in answers for one in answer.result.instruments]
        except (ValueError, RecursionError) as e:
            raise BadPayload(cls.name, bodies[0] if bodies else b"", str(e)) from e

    @classmethod
    def listed(cls, one: _Listed) -> Instrument:
        """Return the instrument of an entry of the listing."""
        raise NotImplementedError

    @classmethod
    def streams(cls, instrument: Instrument, kinds: Collection[str]) -> list[Stream]:
        offered = {
            BOOK_CHANNEL: ("book", "depth"),
            QUOTE_CHANNEL: ("quote",),
            "publicTrade": ("trade",),
            "tickers": cls.ticker_kinds,
        }
        wanted = set(kinds)
        return [
            Stream(channel, instrument.native)
            for channel, fed in offered.items()
            if not wanted.isdisjoint(fed)
        ]

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        given = list(channels)
        fed: dict[str, str] = {}
        books = [one for one in given if one.startswith("orderbook.")]
        deepest = max(books, key=cls.book_levels, default=QUOTE_CHANNEL)
        if deepest != QUOTE_CHANNEL:
            fed |= {"book": deepest, "depth": deepest}
        if books:
            fed["quote"] = QUOTE_CHANNEL if QUOTE_CHANNEL in books else deepest
        if "publicTrade" in given:
            fed["trade"] = "publicTrade"
        if "tickers" in given:
            fed |= dict.fromkeys(cls.ticker_kinds, "tickers")
        return fed

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return int(channel.partition(".")[2])

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._pacer = DepthPacer()
        self._topics = {
            native: self.topics(plan.streams, instrument, self.wanted)
            for native, instrument in plan.instruments.items()
        }
        #: Bybit's topic -> its book, and the last update id seen.
        self._books: dict[str, BookStream] = {}
        self._updates: dict[str, int] = {}
        for stream in plan.streams:
            if stream.channel.startswith("orderbook."):
                self._books[_topic(stream)] = self._book(stream)
        self._tickers = {native: _Ticker() for native in plan.instruments}
        #: Our topic -> the values last emitted.
        self._shown: dict[str, tuple[str | int | None, ...]] = {}
        self._requests: dict[str, tuple[Stream, ...]] = {}
        self._request_count = 0

    def _book(self, stream: Stream) -> BookStream:
        own = [one.channel for one in self.plan_.streams if one.native == stream.native]
        fed = self.feeding(own)
        topics = {
            kind: topic
            for kind, topic in self._topics[stream.native].items()
            if fed[kind] == stream.channel
        }
        depth = self.book_levels(stream.channel)
        return BookStream(stream, topics, depth, self._pacer, truncate=True)

    def opened(self) -> Sequence[Send]:
        streams = self.plan_.streams
        return [
            self._subscribe(streams[at : at + ARGS_PER_REQUEST])
            for at in range(0, len(streams), ARGS_PER_REQUEST)
        ]

    def ping(self) -> str | None:
        return '{"op":"ping"}'

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = _decode(frame)
            channel, _, rest = message.topic.partition(".")
            match channel:
                case "orderbook":
                    return self._orderbook(message, recv)
                case "publicTrade":
                    return self._trades(message, rest, recv)
                case "tickers":
                    return self._ticker(message, rest, recv)
                case "":
                    return self._replied(message)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e
        if channel not in self.ignored:
            raise BadPayload(self.name, frame, f"unknown topic {message.topic[:80]!r}")
        return ()

    def resync(self, native: str) -> Sequence[Output]:
        own = [one.stream for one in self._books.values() if one.stream.native == native]
        return [send for stream in own for send in self._afresh(stream)]

    def _subscribe(self, streams: tuple[Stream, ...]) -> Send:
        self._request_count += 1
        req_id = str(self._request_count)
        self._requests[req_id] = streams
        return _request("subscribe", streams, req_id)

    def _afresh(self, stream: Stream) -> Sequence[Output]:
        return (_request("unsubscribe", (stream,), "0"), self._subscribe((stream,)))

    def _orderbook(self, message: _Frame, recv: int) -> list[Output]:
        book = find(self._books, message.topic)
        feed, afresh = book.feed, partial(self._afresh, book.stream)
        data = _decode_book(message.data)
        bids, asks = levels(data.b), levels(data.a)
        is_snapshot = _is_snapshot(message) or data.u == 1  # 1: their service was restarted
        ts = (message.cts or message.ts) * 1_000
        last, self._updates[message.topic] = self._updates.get(message.topic), data.u
        out = [*self._pacer.advance(ts)]
        if is_snapshot:
            # The best quote comes as snapshots, the same one again when 3 s brought no other.
            is_quote = book.stream.channel == QUOTE_CHANNEL
            before = feed.book.best() if feed.is_live and is_quote else None
            if not book.start(bids, asks) or feed.book.is_crossed:
                return out + book.lost("snapshot", recv, afresh)
            return out if feed.book.best() == before else out + feed.restart(ts, recv)
        if not feed.is_live:
            return out + book.lost("snapshot", recv, afresh)
        if last is None or data.u != last + 1:
            return out + book.lost("sequence", recv, afresh)
        events = feed.delta(bids, asks, ts, recv)
        if feed.book.is_crossed:
            return out + book.lost("crossed", recv, afresh)
        return out + events

    def _trades(self, message: _Frame, native: str, recv: int) -> list[Output]:
        topic = find(self._topics, native).get("trade")
        trades = [
            (one, one.T * 1_000, decimal(one.p), decimal(one.v))
            for one in _decode_trades(message.data)
        ]
        out = [*self._pacer.advance(message.ts * 1_000)]
        if topic is not None:
            out += [
                Trade(topic, 0, ts, recv, 0, one.i, price, size, SIDES[one.S])
                for one, ts, price, size in trades
            ]
        return out

    def _ticker(self, message: _Frame, native: str, recv: int) -> list[Output]:
        known = find(self._tickers, native)
        given = _decode_ticker(message.data)
        if not _is_snapshot(message):
            # A delta whose snapshot was unreadable fills in what it has.
            new = {name: value for name, value in asdict(given).items() if value is not None}
            given = replace(known, **new)
        day = (
            _optional(given.last_price),
            _optional(given.prev_price24h),
            _optional(given.high_price24h),
            _optional(given.low_price24h),
            _optional(given.volume24h),
            _optional(given.turnover24h),
            _optional(given.bid1_price),
            _optional(given.ask1_price),
        )
        derived = (
            _optional(given.mark_price),
            _optional(given.index_price),
            _optional(given.funding_rate),
            _millis(given.next_funding_time),
            _optional(given.open_interest),
        )
        self._tickers[native] = given
        ts = message.ts * 1_000
        out = [*self._pacer.advance(ts)]
        topics = self._topics[native]
        if self._is_news(topics.get("ticker"), day):
            out.append(Ticker(topics["ticker"], 0, ts, recv, 0, *day))
        if self._is_news(topics.get("derivative"), derived):
            out.append(Derivative(topics["derivative"], 0, ts, recv, 0, *derived))
        return out

    def _is_news(self, topic: str | None, values: tuple[str | int | None, ...]) -> bool:
        """Whether the topic is wanted and one of its values has changed."""
        if topic is None or self._shown.get(topic) == values:
            return False
        self._shown[topic] = values
        return True

    def _replied(self, reply: _Frame) -> Sequence[Output]:
        """Take a reply. One bad topic fails its whole request: the others are asked for again."""
        if reply.type == "COMMAND_RESP":
            failed = set(_decode_outcome(reply.data).fail_topics)
            refused = tuple(one for one in self.plan_.streams if _topic(one) in failed)
            return (Refused(refused, "failTopics"),) if refused else ()
        if reply.op in ("ping", "pong", "unsubscribe"):
            return ()
        asked = self._requests.pop(str(reply.req_id), ())
        reason = reply.ret_msg or "no reason given"
        if reply.op == "subscribe" and (reply.success or "already subscribed" in reason):
            return ()
        if not asked:
            raise ValueError(f"refuses what was not asked for: {reason[:80]}")
        named = tuple(one for one in asked if _topic(one) in reason)
        if named or len(asked) == 1:
            rest = tuple(one for one in asked if one not in named) if named else ()
            out: list[Output] = [Refused(named or asked, reason)]
            return [*out, self._subscribe(rest)] if rest else out
        return [self._subscribe((one,)) for one in asked]


class Bybit(_BybitBase):
    """Bybit spot."""

    name = "bybit"
    path = "/v5/public/spot"
    listing_paths = ("/v5/market/instruments-info?category=spot&limit=1000",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker"})

    @classmethod
    def listed(cls, one: _Listed) -> Instrument:
        return cls.spot(
            one.symbol,
            one.base_coin,
            one.quote_coin,
            price_step=one.price_filter.tick_size,
            size_step=one.lot_size_filter.base_precision,
            state=one.status.lower(),
        )

    @classmethod
    def instrument(cls, native: str) -> Instrument | None:
        quote = next((q for q in QUOTES if native.endswith(q) and native != q), None)
        return cls.spot(native, native.removesuffix(quote), quote) if quote else None


class BybitLinear(_BybitBase):
    """Bybit perpetuals and futures that settle in USDT or USDC; sizes are in the base."""

    name = "bybit-linear"
    path = "/v5/public/linear"
    listing_paths = ("/v5/market/instruments-info?category=linear&limit=1000",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker", "derivative"})
    ticker_kinds = ("ticker", "derivative")

    @classmethod
    def listed(cls, one: _Listed) -> Instrument:
        found = cls._contract(one.symbol, one.base_coin, one.quote_coin, _millis(one.delivery_time))
        return replace(
            found,
            price_step=one.price_filter.tick_size,
            size_step=one.lot_size_filter.qty_step,
            state=one.status.lower(),
        )

    @classmethod
    def instrument(cls, native: str) -> Instrument | None:
        if dated := _DATED(native):
            try:
                # Futures deliver at 08:00 UTC.
                day = datetime.strptime(dated[3], "%d%b%y").replace(hour=8, tzinfo=UTC)
            except ValueError:
                return None
            return cls._contract(
                native, dated[1], dated[2] or "USDC", int(day.timestamp()) * 1_000_000
            )
        for ending, quote in (("USDT", "USDT"), ("PERP", "USDC")):
            if native.endswith(ending) and native != ending:
                return cls._contract(native, native.removesuffix(ending), quote, None)
        return None

    @classmethod
    def _contract(cls, native: str, base: str, quote: str, expiry: int | None) -> Instrument:
        """Return a contract, a perpetual without ``expiry`` (µs)."""
        day = None if expiry is None else datetime.fromtimestamp(expiry / 1e6, UTC)
        ending = "PERP" if day is None else f"{day:%Y%m%d}"
        return Instrument(
            exchange=cls.name,
            symbol=f"{symbol_text(base)}-{symbol_text(quote)}-{ending}",
            native=native,
            type="perpetual" if expiry is None else "future",
            base=base,
            quote=quote,
            settle=quote,
            expiry=expiry,
        )
