"""Bitget v2, public channels: spot, and futures margined in USDT, USDC or coins. Pure.

Source: bitget.com/docs/classic, websocket. ``books`` is a snapshot of up to 500 levels and then
what changed, 100 ms apart; each update names the one before it. ``books1`` is the best quote, each
time whole. A ticker is whole as well, with the state of a contract. Trade ids are no count: what
comes first is of before we came, and is but remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import msgspec

from adapters.base import Leave, Limits, Output, Plan, Refused, Send, Stream
from adapters.best import BestQuote
from adapters.chained import ChainedBook
from adapters.channels import ChannelAdapter, find, is_json
from adapters.exchanges.bitget import frames
from adapters.exchanges.bitget.frames import Arg
from adapters.exchanges.bitget.listing import FUTURES, SPOT
from adapters.text import MAX_MICROS, decimal, signed
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Ticker, Trade

#: Levels a side of a snapshot, at most; the exchange says what leaves them.
BOOK_LEVELS = 500
#: 4,096 bytes a request are allowed, of which an argument takes some 70.
ARGS_PER_REQUEST = 40
#: Code: too many requests.
TOO_MANY = "30006"

_encode = msgspec.json.Encoder().encode
#: How nearly every message with data begins.
_HEAD = re.compile(rb'\{"action":"\w+","arg":\{"instType":"[\w-]+","channel":"(\w+)"').match
_CHANNEL = re.compile(rb'"channel"\s*:\s*"([^"]{1,64})"')
_NATIVE = re.compile(rb'"instId"\s*:\s*"([^"]{1,64})"')
_VARIANT = re.compile(r"^candle\w+$")


def _optional(text: str) -> str | None:
    return decimal(text) if text else None


def _request(op: str, args: Sequence[Arg]) -> Send:
    return Send(_encode({"op": op, "args": args}).decode())


class _Bitget(ChannelAdapter):
    """What both markets have in common."""

    ws_url = "wss://ws.bitget.com"
    rest_url = "https://api.bitget.com"
    path = "/v2/ws/public"
    proofs = {"book": "each update names the number of the one before"}
    checksum = "CRC32 of the best 25 levels a side, where an update has no number (before 2026)"
    # 10 messages a second, 240 requests an hour; fewer than 50 channels a connection are advised.
    # It wants a ping every 30 s; sooner they also show that a quiet connection lives.
    limits = Limits(
        frames_per_s=5,
        streams_per_connection=48,
        connects=300,
        connects_window_s=300,
        silent_after_s=15,
        ping_every_s=10,
    )
    ignored = {
        "candle": "candles are made from the trades, so that they mean the same everywhere",
        "books5": "the best levels alone; depth is made from the book, which is proven",
        "books15": "the best levels alone; depth is made from the book, which is proven",
        "auction": "auctions are no trades",
    }
    window = BOOK_LEVELS
    feeds: ClassVar[Mapping[str, Collection[str]]] = {
        "books": ("book", "depth", "quote"),
        "books1": ("quote",),
        "trade": ("trade",),
        "ticker": ("ticker",),
    }

    @classmethod
    def inst_type(cls, instrument: Instrument) -> str:
        """Return Bitget's name of the instrument's market."""
        if instrument.type == "spot":
            return "SPOT"
        return f"{'COIN' if instrument.inverse else instrument.quote}-FUTURES"

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        return {**cls.feeds, "books": ("book", "depth")}

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._types = {
            native: self.inst_type(instrument) for native, instrument in plan.instruments.items()
        }
        self._args = {
            one: Arg(self._types[one.native], one.channel, one.native) for one in plan.streams
        }
        self._books: dict[str, ChainedBook] = {
            one.native: self._chained(one) for one in plan.streams if one.channel == "books"
        }
        self._quotes = {
            one.native: BestQuote(one.native, self._topics[one.native].get("quote"))
            for one in plan.streams
            if one.channel == "books1"
        }
        self._takers: dict[bytes, Callable[[bytes, int], Sequence[Output]]] = {
            b"books": self._updates,
            b"books1": self._bests,
            b"trade": self._trades,
            b"ticker": self._tickers,
        }

    def _chained(self, stream: Stream) -> ChainedBook:
        topics, afresh = self._fed(stream), partial(self.resync, (stream,))
        return ChainedBook(stream, topics, BOOK_LEVELS, self._pacer, afresh)

    def opened(self) -> Sequence[Send]:
        args = list(self._args.values())
        return [
            _request("subscribe", args[at : at + ARGS_PER_REQUEST])
            for at in range(0, len(args), ARGS_PER_REQUEST)
        ]

    def ping(self) -> str | None:
        return "ping"

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            head = _HEAD(frame)
            take = self._takers.get(head[1]) if head else None
            if take is not None:
                return take(frame, recv)
            if frame == b"pong":
                return ()
            return self._other(frame, recv)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)[:200]) from e

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt the trades: they alone carry neither a number nor the whole state."""
        channel, native = _CHANNEL.search(frame), _NATIVE.search(frame)
        if channel[1] != b"trade" if channel else is_json(frame):
            return ()
        name = native[1].decode(errors="replace") if native else None
        return self._doubt_all(
            (
                one.native
                for one in self.plan_.streams
                if one.channel == "trade" and name in (None, one.native)
            ),
            recv,
        )

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        # Nothing numbers trades: what comes meanwhile is lost unseen.
        traded = (one.native for one in streams if one.channel == "trade")
        return [*self._doubt_all(traded, recv), *self._afresh([self._args[one] for one in streams])]

    def _afresh(self, args: Sequence[Arg]) -> Sequence[Output]:
        return [_request(op, args) for op in ("unsubscribe", "subscribe")]

    def _doubt_all(self, natives: Iterable[str], recv: int) -> list[Output]:
        """Declare that trades of these may be missing, once until one comes."""
        topics = [self._topics[native].get("trade") for native in natives]
        return [gap for topic in topics for gap in self._doubt(topic, recv)]

    def _of(self, arg: Arg) -> dict[str, str]:
        """Return the topics of an instrument of this connection; ValueError for others."""
        if self._types.get(arg.instId) != arg.instType:
            raise ValueError(f"{arg.instType[:40]} {arg.instId[:40]!r} is not carried here")
        return self._topics[arg.instId]

    def _updates(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_books(frame)
        self._of(message.arg)
        book = find(self._books, message.arg.instId)
        is_start = message.action == "snapshot"
        given = [(one, frames.levels(one.bids), frames.levels(one.asks)) for one in message.data]
        out: list[Output] = []
        for one, bids, asks in given:
            out += self._pacer.advance(one.ts * 1_000)
            out += book.take(
                bids,
                asks,
                one.ts * 1_000,
                recv,
                is_start=is_start,
                number=one.seq,
                before=one.pseq,
                # That of a snapshot was always 0.
                checksum=one.checksum if one.pseq is None and not is_start else None,
            )
        return out

    def _bests(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_books(frame)
        self._of(message.arg)
        best = find(self._quotes, message.arg.instId)
        given = [(one.ts, frames.levels(one.bids), frames.levels(one.asks)) for one in message.data]
        out: list[Output] = []
        for millis, bids, asks in given:
            out += self._pacer.advance(millis * 1_000)
            out += best.take(bids, asks, millis * 1_000, recv)
        return out

    def _trades(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_trades(frame)
        topic = self._of(message.arg).get("trade")
        # In what order several come is documented nowhere; ids rise with time.
        given = [
            (one, decimal(one.price), decimal(one.size))
            for one in sorted(message.data, key=lambda one: (one.ts, len(one.tradeId), one.tradeId))
        ]
        out: list[Output] = []
        if topic is None:
            return out
        known = self._known[topic]
        is_old = message.action == "snapshot"
        for one, price, size in given:
            if not known.is_new(one.tradeId) or is_old:
                continue
            ts = one.ts * 1_000
            self._doubted.discard(topic)
            out += self._pacer.advance(ts)
            out.append(Trade(topic, 0, ts, recv, 0, one.tradeId, price, size, one.side))
        return out

    def _tickers(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_tickers(frame)
        topics = self._of(message.arg)
        given = [(one.ts * 1_000, _day(one), _state(one)) for one in message.data]
        out: list[Output] = []
        for ts, day, state in given:
            out += self._pacer.advance(ts)
            if self._is_news(topics.get("ticker"), day):
                out.append(Ticker(topics["ticker"], 0, ts, recv, 0, *day))
            if self._is_news(topics.get("derivative"), state):
                out.append(Derivative(topics["derivative"], 0, ts, recv, 0, *state))
        return out

    def _other(self, frame: bytes, recv: int) -> Sequence[Output]:
        """Take an answer, what is left out on purpose, or data that begins otherwise."""
        found = frames.decode(frame)
        if found.event == "error":
            return self._refused(found)
        if found.event in ("subscribe", "unsubscribe") or found.op == "unsubscribe":
            return ()
        channel = found.arg.channel if found.arg and found.action else ""
        take = self._takers.get(channel.encode())
        if take is not None:
            return take(frame, recv)
        if _VARIANT.sub("candle", channel) not in self.ignored:
            raise ValueError(f"unknown message of {channel[:40]!r}")
        return ()

    def _refused(self, error: frames.Other) -> Sequence[Output]:
        """Take a refusal, which names its one argument."""
        if str(error.code) == TOO_MANY:
            return (Leave("rate_limited"),)
        reason = f"{error.code} {error.msg}"[:200]
        streams = tuple(one for one, arg in self._args.items() if arg == error.arg)
        if not streams:
            raise ValueError(f"refuses what was not asked for: {reason[:80]}")
        return (Refused(streams, reason),)


def _day(one: frames.TickerFields) -> tuple[str | None, ...]:
    """Return the figures of 24 hours, as in ``Ticker``."""
    return (
        _optional(one.lastPr),
        _optional(one.open24h),
        _optional(one.high24h),
        _optional(one.low24h),
        _optional(one.baseVolume),
        _optional(one.quoteVolume),
        _optional(one.bidPr),
        _optional(one.askPr),
    )


def _state(
    one: frames.TickerFields,
) -> tuple[str | None, str | None, str | None, int | None, str | None]:
    """Return the state of a contract, as in ``Derivative``; a dated one has no funding."""
    millis = int(decimal(one.nextFundingTime)) if one.nextFundingTime else 0
    if millis * 1_000 > MAX_MICROS:
        raise ValueError(f"no time: {millis}")
    rate = signed(one.fundingRate) if one.fundingRate else None
    return (
        _optional(one.markPrice),
        _optional(one.indexPrice),
        rate if millis else None,
        millis * 1_000 or None,
        _optional(one.holdingAmount),
    )


class Bitget(_Bitget):
    """Bitget spot."""

    name = "bitget"
    listing = SPOT
    listing_paths = ("/api/v2/spot/public/symbols",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker"})


class BitgetFutures(_Bitget):
    """Bitget perpetuals and dated futures; sizes are in the base, whatever the margin."""

    name = "bitget-futures"
    listing = FUTURES
    listing_paths = tuple(
        f"/api/v2/mix/market/contracts?productType={margin}-FUTURES"
        for margin in ("USDT", "USDC", "COIN")
    )
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker", "derivative"})
    feeds = {**_Bitget.feeds, "ticker": ("ticker", "derivative")}
