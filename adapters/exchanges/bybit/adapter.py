"""Bybit v5: spot, linear (USDT and USDC) and inverse perpetuals and futures. Pure.

Source: bybit-exchange/docs, v5/websocket. ``orderbook.200`` feeds ``book`` and ``depth``;
``orderbook.1`` (every 10 ms, repeated each 3 s) feeds ``quote``, which else comes from the deeper
book. Update ids ``u`` are consecutive in every session measured: a jump is a broken book. A
contract's ticker is a snapshot and then what changed. Spot and linear frames order their keys
differently.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar

import msgspec
from msgspec.structs import asdict, replace

from adapters.base import Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.channels import RESUBSCRIBE_US, BookStream, ChannelAdapter, find, is_json
from adapters.exchanges.bybit.frames import (
    Frame,
    TickerFields,
    decode,
    decode_book,
    decode_liquidations,
    decode_outcome,
    decode_ticker,
    decode_trades,
    from_millis,
    is_snapshot,
)
from adapters.exchanges.bybit.listing import INVERSE, LINEAR, SPOT
from adapters.text import decimal, levels, signed
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Liquidation, Side, Ticker, Trade

#: Of 1, 50, 200 and 1,000 levels: 100 ms (linear) or 200 ms (spot) apart, like ``depth`` itself.
BOOK_CHANNEL = "orderbook.200"
QUOTE_CHANNEL = "orderbook.1"
#: More arguments a request are refused on spot; alike on linear.
ARGS_PER_REQUEST = 10
SIDES: dict[str, Side] = {"Buy": "buy", "Sell": "sell"}
#: Of a liquidation they tell the side of the position ("Buy": a long one); the order that closes
#: it is of the other side.
LIQUIDATION_SIDES: dict[str, Side] = {"Buy": "sell", "Sell": "buy"}
#: Channels of facts without a number, by which a loss would show.
UNNUMBERED = {"publicTrade": "trade", "allLiquidation": "liquidation"}

_encode = msgspec.json.Encoder().encode
_TOPIC = re.compile(rb'"topic"\s*:\s*"(?:(publicTrade|tickers|allLiquidation)\.)?([^"]{1,64})"')


def _request(op: str, streams: Iterable[Stream], req_id: str) -> Send:
    args = [_topic(one) for one in streams]
    return Send(_encode({"req_id": req_id, "op": op, "args": args}).decode())


def _optional(text: str | None) -> str | None:
    return decimal(text) if text else None


def _topic(stream: Stream) -> str:
    return f"{stream.channel}.{stream.native}"


class _Bybit(ChannelAdapter):
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
    }
    proofs = {"book": "update ids are consecutive"}
    #: Beside the books, where the market has it.
    feeds = {
        "publicTrade": ("trade",),
        "tickers": ("ticker", "derivative"),
        "allLiquidation": ("liquidation",),
    }
    #: Whether sizes, and so the day's volume too, are in the quote.
    is_inverse: ClassVar[bool] = False

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        return {BOOK_CHANNEL: ("book", "depth"), QUOTE_CHANNEL: ("quote",), **cls.feeds}

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
        return fed | super().feeding(given)

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return int(channel.partition(".")[2])

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        #: Bybit's topic -> its book, and the last update id seen.
        self._books: dict[str, BookStream] = {}
        self._updates: dict[str, int] = {}
        for stream in plan.streams:
            if stream.channel.startswith("orderbook."):
                self._books[_topic(stream)] = self._book(stream, truncate=True)
        self._tickers = {native: TickerFields() for native in plan.instruments}
        self._tickers_asked: dict[str, int] = {}
        self._requests: dict[str, tuple[Stream, ...]] = {}
        self._request_count = 0

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
            message = decode(frame)
            channel, _, rest = message.topic.partition(".")
            match channel:
                case "orderbook":
                    return self._orderbook(message, recv)
                case "publicTrade":
                    return self._trades(message, rest, recv)
                case "tickers":
                    return self._ticker(message, rest, recv)
                case "allLiquidation":
                    return self._liquidations(message, rest, recv)
                case "":
                    return self._replied(message)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e
        if channel not in self.ignored:
            raise BadPayload(self.name, frame, f"unknown topic {message.topic[:80]!r}")
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt what has no number: facts and merged tickers. Books prove themselves."""
        found = _TOPIC.search(frame)
        if found is None and is_json(frame):
            return ()  # a reply, or a type that carries nothing of ours
        channel, native = (found[1], found[2].decode(errors="replace")) if found else (None, None)
        if found is not None and channel is None:
            return ()
        out: list[Output] = []
        for stream in self.plan_.streams:
            if native not in (None, stream.native):
                continue
            if channel not in (None, stream.channel.encode()):
                continue
            out += self._doubt(self._unnumbered(stream), recv)
            if stream.channel == "tickers":
                if recv >= self._tickers_asked.get(stream.native, 0):
                    self._tickers_asked[stream.native] = recv + RESUBSCRIBE_US
                    out += self._afresh(stream)
        return out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            topic = self._unnumbered(stream)
            if topic is not None:
                # Nothing numbers them: what comes meanwhile is lost unseen.
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
            out += self._afresh(stream)
        return out

    def _unnumbered(self, stream: Stream) -> str | None:
        """Return the wanted topic of facts without a number that the stream feeds."""
        return self._topics[stream.native].get(UNNUMBERED.get(stream.channel, ""))

    def _subscribe(self, streams: tuple[Stream, ...]) -> Send:
        self._request_count += 1
        req_id = str(self._request_count)
        self._requests[req_id] = streams
        return _request("subscribe", streams, req_id)

    def _afresh(self, stream: Stream) -> Sequence[Output]:
        return (_request("unsubscribe", (stream,), "0"), self._subscribe((stream,)))

    def _orderbook(self, message: Frame, recv: int) -> list[Output]:
        book = find(self._books, message.topic)
        feed = book.feed
        data = decode_book(message.data)
        bids, asks = levels(data.b), levels(data.a)
        is_start = is_snapshot(message) or data.u == 1  # 1: their service was restarted
        ts = (message.cts or message.ts) * 1_000
        last, self._updates[message.topic] = self._updates.get(message.topic), data.u
        out = [*self._pacer.advance(ts)]
        if is_start:
            # The best quote comes as snapshots, the same one again when 3 s brought no other.
            is_quote = book.stream.channel == QUOTE_CHANNEL
            before = feed.book.best() if feed.is_live and is_quote else None
            if not book.start(bids, asks) or feed.book.is_crossed:
                return out + book.lost("snapshot", recv)
            return out if feed.book.best() == before else out + feed.restart(ts, recv)
        if feed.is_live and (last is None or data.u != last + 1):
            return out + book.lost("sequence", recv)
        return out + book.delta(bids, asks, ts, recv)

    def _trades(self, message: Frame, native: str, recv: int) -> list[Output]:
        topic = find(self._topics, native).get("trade")
        trades = [
            (one, one.T * 1_000, decimal(one.p), decimal(one.v))
            for one in decode_trades(message.data)
        ]
        out = [*self._pacer.advance(message.ts * 1_000)]
        if topic is not None:
            self._doubted.discard(topic)
            known = self._known[topic]
            for one, ts, price, size in trades:
                if known.is_new(one.i):
                    out.append(Trade(topic, 0, ts, recv, 0, one.i, price, size, SIDES[one.S]))
        return out

    def _liquidations(self, message: Frame, native: str, recv: int) -> list[Output]:
        topic = find(self._topics, native).get("liquidation")
        orders = [
            (one.T * 1_000, decimal(one.p), decimal(one.v), LIQUIDATION_SIDES[one.S])
            for one in decode_liquidations(message.data)
        ]
        out = [*self._pacer.advance(message.ts * 1_000)]
        if topic is not None:
            self._doubted.discard(topic)
            out += [
                Liquidation(topic, 0, ts, recv, 0, None, price, size, side)
                for ts, price, size, side in orders
            ]
        return out

    def _ticker(self, message: Frame, native: str, recv: int) -> list[Output]:
        known = find(self._tickers, native)
        given = decode_ticker(message.data)
        if not is_snapshot(message):
            # A delta whose snapshot was unreadable fills in what it has.
            new = {name: value for name, value in asdict(given).items() if value is not None}
            given = replace(known, **new)
        day = (
            _optional(given.lastPrice),
            _optional(given.prevPrice24h),
            _optional(given.highPrice24h),
            _optional(given.lowPrice24h),
            _optional(given.volume24h),
            # Of inverse contracts the turnover is in the base, and the volume is the quote's.
            _optional(given.volume24h if self.is_inverse else given.turnover24h),
            _optional(given.bid1Price),
            _optional(given.ask1Price),
        )
        derived = (
            _optional(given.markPrice),
            _optional(given.indexPrice),
            signed(given.fundingRate) if given.fundingRate else None,
            from_millis(given.nextFundingTime),
            _optional(given.openInterest),
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

    def _replied(self, reply: Frame) -> Sequence[Output]:
        """Take a reply. One bad topic fails its whole request: the others are asked for again."""
        if reply.type == "COMMAND_RESP":
            failed = set(decode_outcome(reply.data).fail_topics)
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
        words = set(re.findall(r"[\w.-]+", reason))
        named = tuple(one for one in asked if _topic(one) in words)
        if named or len(asked) == 1:
            rest = tuple(one for one in asked if one not in named) if named else ()
            out: list[Output] = [Refused(named or asked, reason)]
            return [*out, self._subscribe(rest)] if rest else out
        return [self._subscribe((one,)) for one in asked]


class Bybit(_Bybit):
    """Bybit spot."""

    name = "bybit"
    path = "/v5/public/spot"
    listing = SPOT
    listing_paths = ("/v5/market/instruments-info?category=spot&limit=1000",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker"})


class BybitLinear(_Bybit):
    """Bybit perpetuals and futures that settle in USDT or USDC; sizes are in the base."""

    name = "bybit-linear"
    path = "/v5/public/linear"
    listing = LINEAR
    listing_paths = ("/v5/market/instruments-info?category=linear&limit=1000",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker", "derivative", "liquidation"})


class BybitInverse(_Bybit):
    """Bybit perpetuals and futures that settle in their base; sizes are in USD."""

    name = "bybit-inverse"
    path = "/v5/public/inverse"
    listing = INVERSE
    listing_paths = ("/v5/market/instruments-info?category=inverse&limit=1000",)
    kinds = BybitLinear.kinds
    is_inverse = True
