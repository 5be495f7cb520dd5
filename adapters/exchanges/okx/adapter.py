"""OKX v5, the public channels. Pure.

Source: okx.com/docs-v5, order-book-trading and public-data. A book update names the id of the one
before it (``prevSeqId``); until that was there, a checksum came with each. Trades come a taker
order and price at a time, with the last one's id and their number: ids are consecutive. Funding,
mark price, open interest and index have a channel each; liquidations come for all contracts of a
type at once, and an index for all that follow it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from urllib.parse import quote

from adapters.base import (
    Fetch,
    Limits,
    Mark,
    Output,
    Page,
    Plan,
    Send,
    Stream,
)
from adapters.best import BestQuote
from adapters.chained import ChainedBook
from adapters.channels import NumberedTrades, find, is_json
from adapters.exchanges.okx import frames
from adapters.exchanges.okx.derived import Derived
from adapters.exchanges.okx.frames import Arg
from adapters.exchanges.okx.listing import LISTING, TYPES, index
from adapters.exchanges.okx.requests import Requests
from adapters.text import decimal
from adapters.trade_ids import TradeIds
from feed.errors import BadPayload
from feed.models import Instrument, Liquidation, Ticker, Trade

#: 400 levels, 100 ms apart; what is faster asks for a key.
BOOK_CHANNEL = "books"
LEVELS = {"books50-l2-tbt": 50, "books": 400, "books-l2-tbt": 400}
#: Channel -> the kinds it feeds; of several that feed one the last counts.
FEEDS = {
    **dict.fromkeys(LEVELS, ("book", "depth", "quote")),
    "bbo-tbt": ("quote",),
    "trades": ("trade",),
    "tickers": ("ticker",),
    "mark-price": ("derivative",),
    "index-tickers": ("derivative",),
    "funding-rate": ("derivative",),
    "open-interest": ("derivative",),
    "liquidation-orders": ("liquidation",),
}
#: Channels of contracts alone; only perpetuals have funding, and options no liquidations.
DERIVATIVES = ("mark-price", "index-tickers", "open-interest")
#: Trades a page of the past, the most that is given.
PAGE = 100

#: How nearly every message with data begins.
_HEAD = b'{"arg":{"channel":"'
_VARIANT = re.compile(r"^((?:index-|mark-price-)?candle)\w+$")
_CHANNEL = re.compile(rb'"channel"\s*:\s*"([^"]{1,64})"')


def _key(arg: Arg) -> str:
    return f"{arg.channel}.{arg.instId}"


def _optional(text: str) -> str | None:
    return decimal(text) if text else None


def _trade(topic: str, one: frames.Trade, recv: int, backfill: bool = False) -> Trade:
    price, size = decimal(one.px), decimal(one.sz)
    ts, id_ = one.ts * 1_000, str(one.tradeId)
    return Trade(topic, 0, ts, recv, 0, id_, price, size, one.side, backfill)


def _reach(ids: TradeIds, one: frames.Trade, recv: int) -> Sequence[Output] | None:
    """As ``TradeIds.reach``, to the last of the trades that a message joins."""
    first, last = one.tradeId - one.count + 1, one.tradeId
    if ids.last is not None:
        first = last if last <= ids.last else max(first, ids.last + 1)
    said = ids.reach(first, recv)
    if said is not None:
        ids.last, ids.ts, ids.expected = last, one.ts * 1_000, last + 1
    return said


class Okx(NumberedTrades):
    """OKX, all types of instruments on one path."""

    name = "okx"
    ws_url = "wss://ws.okx.com:8443"
    rest_url = "https://www.okx.com"
    path = "/ws/v5/public"
    listing = LISTING
    listing_paths = tuple(
        f"/api/v5/public/instruments?instType={type_}"
        for type_ in (
            *("SPOT", "SWAP", "FUTURES"),
            *("OPTION&instFamily=BTC-USD", "OPTION&instFamily=ETH-USD"),
        )
    )
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    proofs = {
        "trade": "trade ids are consecutive",
        "book": "each update names the id of the one before",
    }
    checksum = "CRC32 of the best 25 levels a side, where a message has no id (before 2026)"
    # 480 requests an hour and connection. A contract is 9 streams, and a connection should have
    # fewer than 30 books. OKX ends a connection after 30 s of silence; a ping sooner shows that a
    # quiet one lives.
    limits = Limits(
        frames_per_s=3,
        streams_per_connection=250,
        connects=3,
        connects_window_s=1,
        silent_after_s=15,
        ping_every_s=10,
    )
    ignored = {
        "candle": "candles are made from the trades, so that they mean the same everywhere",
        "index-candle": "not a kind we carry",
        "mark-price-candle": "not a kind we carry",
        "books5": "the best levels alone; depth is made from the book, which is proven",
        "books-elp": "orders that are not open to everybody",
        "books-rpi": "orders that are not open to everybody",
        "trades-all": "the same trades one by one, on another path",
        "option-trades": "the same trades again",
        "price-limit": "not a kind we carry",
        "opt-summary": "not a kind we carry",
        "estimated-price": "not a kind we carry",
        "call-auction-details": "not a kind we carry",
        "adl-warning": "not a kind we carry",
        "economic-calendar": "not a kind we carry",
        "public-block-trades": "not trades on the book",
        "public-struc-block-trades": "not trades on the book",
        "block-tickers": "not trades on the book",
        "status": "says the engine's state; the streams themselves show it",
        "instruments": "the listing is taken over REST",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        channels = [BOOK_CHANNEL, "bbo-tbt", "trades", "tickers"]
        if instrument.type != "spot":
            channels += DERIVATIVES
        if instrument.type == "perpetual":
            channels.append("funding-rate")
        if instrument.type in ("perpetual", "future"):
            channels.append("liquidation-orders")
        return {one: FEEDS[one] for one in channels} | {BOOK_CHANNEL: ("book", "depth")}

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return LEVELS[channel]

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._args = {one: self._arg(one) for one in plan.streams}
        self._books: dict[str, ChainedBook] = {
            _key(self._args[one]): self._chained(one)
            for one in plan.streams
            if one.channel in LEVELS
        }
        self._quotes = {
            one.native: BestQuote(one.native, self._topics[one.native].get("quote"))
            for one in plan.streams
            if one.channel == "bbo-tbt"
        }
        self._derived = Derived(
            {native: topics.get("derivative") for native, topics in self._topics.items()},
            self._pacer,
        )
        self._requests = Requests(self._args)
        self._takers: dict[bytes, Callable[[bytes, int], Sequence[Output]]] = {
            **dict.fromkeys((one.encode() for one in LEVELS), self._updates),
            b"bbo-tbt": self._bests,
            b"trades": self._trades,
            b"tickers": self._tickers,
            b"mark-price": self._derived.marks,
            b"index-tickers": self._derived.indices,
            b"funding-rate": self._derived.fundings,
            b"open-interest": self._derived.interests,
            b"liquidation-orders": self._liquidations,
        }

    def _arg(self, stream: Stream) -> Arg:
        """Return what to subscribe to; several streams may share it."""
        if stream.channel == "index-tickers":
            return Arg(stream.channel, index(stream.native))
        if stream.channel == "liquidation-orders":
            type_ = TYPES[self.plan_.instruments[stream.native].type]
            return Arg(stream.channel, instType=type_)
        return Arg(stream.channel, stream.native)

    def _chained(self, stream: Stream) -> ChainedBook:
        topics, levels = self._fed(stream), self.book_levels(stream.channel)
        return ChainedBook(stream, topics, levels, self._pacer, partial(self.resync, (stream,)))

    def opened(self) -> Sequence[Send]:
        return self._requests.opened()

    def ping(self) -> str | None:
        return "ping"

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            if frame.startswith(_HEAD):
                take = self._takers.get(frame[len(_HEAD) : frame.find(b'"', len(_HEAD))])
                if take is not None:
                    return take(frame, recv)
            if frame == b"pong":
                return ()
            return self._other(frame, recv)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)[:200]) from e

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt the liquidations: they alone carry no number, nor the whole state."""
        channel = _CHANNEL.search(frame)
        if channel[1] != b"liquidation-orders" if channel else is_json(frame):
            return ()
        return self._doubt_all((arg for arg in self._args.values() if arg.instType), recv)

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        args = [self._args[one] for one in streams]
        return [
            *self._doubt_all((arg for arg in args if arg.instType), recv),
            *chain.from_iterable(self._requests.afresh(arg) for arg in args),
        ]

    def backfill(self, native: str, after: Mark) -> Fetch | None:
        # A page is of what is older than an id, newest first.
        end = after.id + PAGE + 1
        path = f"/api/v5/market/history-trades?instId={quote(native)}&type=1&after={end}"
        return Fetch(f"{path}&limit={PAGE}", f"trades:{native}@{after.id}")

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        native = key.removeprefix("trades:").rpartition("@")[0]
        try:
            trades = [
                (one.tradeId, _trade(self._ids[native].topic, one, recv, backfill=True))
                for one in frames.decode_past(body)
            ]
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, body, str(e)[:200]) from e
        return (Page(native, tuple(trades)),)

    def _doubt_all(self, args: Iterable[Arg], recv: int) -> list[Output]:
        """Declare that liquidations of these types may be missing, once until one comes."""
        doubted = set(args)
        topics = [
            self._topics[stream.native].get("liquidation")
            for stream, arg in self._args.items()
            if arg in doubted
        ]
        return [gap for topic in topics for gap in self._doubt(topic, recv)]

    def _updates(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_books(frame)
        book = find(self._books, _key(message.arg))
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
                number=one.seqId,
                before=one.prevSeqId,
                checksum=one.checksum if one.seqId is None else None,
            )
        return out

    def _bests(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_bests(frame)
        best = find(self._quotes, message.arg.instId)
        given = [(one.ts, frames.levels(one.bids), frames.levels(one.asks)) for one in message.data]
        out: list[Output] = []
        for millis, bids, asks in given:
            out += self._pacer.advance(millis * 1_000)
            out += best.take(bids, asks, millis * 1_000, recv)
        return out

    def _trades(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_trades(frame)
        native = message.arg.instId
        topic = find(self._topics, native).get("trade")
        if topic is None:
            return ()
        ids = self._ids[native]
        trades = [(one, _trade(topic, one, recv)) for one in message.data]
        out: list[Output] = []
        for one, trade in trades:
            said = _reach(ids, one, recv)
            if said is None:
                continue
            # The first trade told may be an old one, which does not turn the clock back.
            out += self._pacer.advance(max(one.ts * 1_000, self._pacer.now))
            out += said
            out.append(trade)
        return out

    def _tickers(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_tickers(frame)
        native = message.arg.instId
        topic = find(self._topics, native).get("ticker")
        # The other volume of a contract is in the base, not the quote.
        is_spot = self.plan_.instruments[native].type == "spot"
        given = [
            (
                one.ts * 1_000,
                (
                    _optional(one.last),
                    _optional(one.open24h),
                    _optional(one.high24h),
                    _optional(one.low24h),
                    _optional(one.vol24h),
                    _optional(one.volCcy24h) if is_spot else None,
                    _optional(one.bidPx),
                    _optional(one.askPx),
                ),
            )
            for one in message.data
        ]
        out: list[Output] = []
        for ts, day in given:
            out += self._pacer.advance(ts)
            if self._is_news(topic, day):
                out.append(Ticker(topic, 0, ts, recv, 0, *day))
        return out

    def _liquidations(self, frame: bytes, recv: int) -> Sequence[Output]:
        given = [
            (one.instId, each, decimal(each.bkPx), decimal(each.sz))
            for one in frames.decode_liquidations(frame).data
            for each in one.details
        ]
        out: list[Output] = []
        for native, one, price, size in given:
            # All contracts of the type come, ours among them.
            topic = self._topics.get(native, {}).get("liquidation")
            if topic is not None:
                self._doubted.discard(topic)
                ts = one.ts * 1_000
                out.append(Liquidation(topic, 0, ts, recv, 0, None, price, size, one.side))
        return out

    def _other(self, frame: bytes, recv: int) -> Sequence[Output]:
        """Take an answer, what is left out on purpose, or data that begins otherwise."""
        found = frames.decode(frame)
        if found.event:
            return self._requests.answered(found)
        channel = found.arg.channel if found.arg else ""
        take = self._takers.get(channel.encode())
        if take is not None:
            return take(frame, recv)
        if _VARIANT.sub(r"\1", channel) not in self.ignored:
            raise ValueError(f"unknown channel {channel[:40]!r}")
        return ()
