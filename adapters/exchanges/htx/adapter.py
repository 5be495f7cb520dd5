"""HTX spot. Pure.

Source: huobiapi.github.io, spot, "Websocket Market Data". The incremental book ``mbp.150`` (100 ms)
has a path of its own; each update names the one before it. ``depth.step0``, a whole book a second,
is read where a tape has it. ``tradeId`` is consecutive per symbol in every session measured; who
subscribes is first told the last trade there was. ``direction`` is the taker's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import msgspec

from adapters.base import Fetch, Limits, Mark, Output, Page, Plan, Refused, Send, Stream
from adapters.book import Book, BookFeed, DepthPacer
from adapters.channels import BookStream, ChannelAdapter, find, pack
from adapters.exchanges.htx.book import Answer, Change, MbpBook
from adapters.exchanges.htx.frames import (
    Day,
    Frame,
    decode,
    decode_best,
    decode_day,
    decode_depth,
    decode_pasts,
    decode_refresh,
    decode_trades,
    decode_update,
    integer,
    levels,
    number,
    optional,
)
from adapters.exchanges.htx.listing import name_spot, read_spot
from adapters.text import MAX_MICROS
from adapters.trade_ids import TradeIds, marks
from feed.errors import BadPayload
from feed.models import Instrument, Quote, Ticker, Trade

#: Of 5, 20, 150 and 400: every 100 ms, and served for all symbols.
BOOK_CHANNEL = "mbp.150"
#: Levels a side of ``depth.step0``; the other steps join levels.
WHOLE_CHANNEL, WHOLE_LEVELS = "depth.step0", 150
#: Trades a page of the past, the most that is given.
PAGE = 2_000
#: Where the incremental books are, and everything else.
FEED_PATH, WS_PATH = "/feed", "/ws"

Values: TypeAlias = tuple[str | None, ...]
_encode = msgspec.json.Encoder().encode


def _topic(stream: Stream) -> str:
    return f"market.{stream.native}.{stream.channel}"


def _stream(topic: str) -> Stream:
    """Read ``market.btcusdt.trade.detail``; ValueError for what is none."""
    market, _, rest = topic.partition(".")
    native, _, channel = rest.partition(".")
    if market != "market" or not native or not channel:
        raise ValueError(f"{topic[:60]!r} is no topic")
    return Stream(channel, native)


def _is_mbp(channel: str) -> bool:
    return channel.startswith("mbp.") and channel[4:].isdecimal()


def _request(op: str, stream: Stream) -> Send:
    """Return a request whose id says what it asked for, since an error tells nothing but that."""
    topic = _topic(stream)
    return Send(_encode({op: topic, "id": f"{op} {topic}"}).decode())


class Htx(ChannelAdapter):
    """HTX spot."""

    name = "htx"
    ws_url = "wss://api.huobi.pro"
    rest_url = "https://api.huobi.pro"
    listing_paths = ("/v1/common/symbols",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker"})
    proofs = {
        "trade": "trade ids are consecutive",
        "book": "each update names the one before it",
    }
    # Books may be asked for ten times a second on a connection; nothing else is published. Pings
    # come every 5 s, and two that are missed are its end.
    limits = Limits(
        frames_per_s=10,
        streams_per_connection=100,
        connects=20,
        connects_window_s=10,
        silent_after_s=15,
    )
    #: How the channels of ``ignored`` begin.
    passed_over = ("kline.", "mbp.refresh.", "depth.step", "etp")
    ignored = {
        "kline": "candles are made from the trades, so that they mean the same everywhere",
        "mbp.refresh": "the incremental book tells the same, with a proof",
        "depth": "its steps but the first join levels",
        "etp": "the net value of a fund is none of our kinds",
    }

    @classmethod
    def instruments(cls, bodies: Sequence[bytes]) -> list[Instrument]:
        return read_spot(cls.name, bodies)

    @classmethod
    def instrument(cls, native: str) -> Instrument | None:
        return name_spot(cls.name, native)

    @classmethod
    def streams(cls, instrument: Instrument, kinds: Collection[str]) -> list[Stream]:
        offered = {
            BOOK_CHANNEL: ("book", "depth"),
            "bbo": ("quote",),
            "trade.detail": ("trade",),
            "detail": ("ticker",),
        }
        return [
            Stream(channel, instrument.native)
            for channel, fed in offered.items()
            if not set(kinds).isdisjoint(fed)
        ]

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        given = set(channels)
        fed: dict[str, str] = {}
        if WHOLE_CHANNEL in given:
            fed |= dict.fromkeys(("book", "depth", "quote"), WHOLE_CHANNEL)
        # Not the quote: ``bbo``, which tells it at once, is on another connection.
        deepest = max(filter(_is_mbp, given), key=cls.book_levels, default=None)
        if deepest is not None:
            fed |= dict.fromkeys(("book", "depth"), deepest)
        for kind, channel in (
            ("quote", "bbo"),
            ("trade", "trade.detail"),
            ("ticker", "ticker"),
            ("ticker", "detail"),
        ):
            if channel in given:
                fed[kind] = channel
        return fed

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return int(channel[4:]) if _is_mbp(channel) else WHOLE_LEVELS

    @classmethod
    def plan(cls, streams: Sequence[Stream], instruments: Mapping[str, Instrument]) -> list[Plan]:
        incremental = {one.native for one in streams if _is_mbp(one.channel)}
        by_path: dict[str, list[Stream]] = {}
        for one in streams:
            if one.channel == WHOLE_CHANNEL and one.native in incremental:
                continue  # one of the two feeds the book
            by_path.setdefault(FEED_PATH if _is_mbp(one.channel) else WS_PATH, []).append(one)
        return [
            Plan(path, part, {one.native: instruments[one.native] for one in part})
            for path, own in by_path.items()
            for part in pack(own, cls.limits.streams_per_connection)
        ]

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._pacer = DepthPacer()
        self._topics = {
            native: self.topics(plan.streams, instrument, self.wanted)
            for native, instrument in plan.instruments.items()
        }
        #: HTX's topic -> the stream, and kind -> our topic of what it feeds.
        self._carried = {_topic(one): (one, self._fed(one)) for one in plan.streams}
        self._books = {_topic(one): self._book(one) for one in plan.streams if _is_mbp(one.channel)}
        self._wholes = {
            _topic(one): BookStream(one, self._fed(one), WHOLE_LEVELS, self._pacer)
            for one in plan.streams
            if one.channel == WHOLE_CHANNEL
        }
        self._ids = {
            native: TradeIds(topics["trade"], native)
            for native, topics in self._topics.items()
            if "trade" in topics
        }
        #: When the trades of a symbol were subscribed to, by the exchange's clock, µs.
        self._since: dict[str, int] = {}
        #: Our topic -> the last quote's number; the values last emitted.
        self._quoted: dict[str, int] = {}
        self._shown: dict[str, Values] = {}

    def _fed(self, stream: Stream) -> dict[str, str]:
        own = [one.channel for one in self.plan_.streams if one.native == stream.native]
        fed = self.feeding(own)
        topics = self._topics[stream.native]
        return {kind: topic for kind, topic in topics.items() if fed[kind] == stream.channel}

    def _book(self, stream: Stream) -> MbpBook:
        window = self.book_levels(stream.channel)
        feed = BookFeed(stream.native, self._fed(stream), window, self._pacer)
        return MbpBook(feed, lambda: (_request("req", stream),), partial(self.resync, (stream,), 0))

    def opened(self) -> Sequence[Send]:
        # What is held must reach back before the refresh, so that comes last.
        return [
            *(_request("sub", one) for one in self.plan_.streams),
            *(_request("req", one) for one in self.plan_.streams if _topic(one) in self._books),
        ]

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = decode(frame)
            if message.ping is not None:
                return (Send(_encode({"pong": message.ping}).decode()),)
            if not message.ch:
                return self._replied(message, recv)
            carried = self._carried.get(message.ch)
            if carried is None:
                return self._uncarried(message.ch)
            stream, topics = carried
            match stream.channel:
                case "trade.detail":
                    return self._trades(message, stream.native, recv)
                case "bbo":
                    return self._best(message, topics.get("quote"), recv)
                case "detail" | "ticker":
                    return self._day(message, topics.get("ticker"), recv)
                case "depth.step0":
                    return self._whole(message, stream, recv)
                case channel if _is_mbp(channel):
                    return self._update(message, self._books[message.ch], recv)
            return self._uncarried(message.ch)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for one in streams:
            out += [_request("unsub", one), _request("sub", one)]
            if _topic(one) in self._books:
                out.append(_request("req", one))
        return out

    def whole(self, native: str, ts: int | None, recv: int) -> Sequence[Output]:
        found: list[Output] = []
        feeds = {topic: book.feed for topic, book in self._books.items()}
        feeds |= {topic: book.feed for topic, book in self._wholes.items()}
        for topic, feed in feeds.items():
            if self._carried[topic][0].native == native:
                found += feed.whole(ts, recv)
        return found

    def marks(self) -> dict[str, Mark]:
        return marks(self._ids)

    def resume(self, native: str, mark: Mark) -> None:
        if native in self._ids:
            self._ids[native].resume(mark)

    def backfill(self, native: str, after: Mark) -> Fetch | None:
        # The last trades there are; they cannot be asked for from an id.
        path = f"/market/history/trade?symbol={native}&size={PAGE}"
        return Fetch(path, f"trades:{native}@{after.id}")

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        native = key.removeprefix("trades:").rpartition("@")[0]
        topic = self._ids[native].topic
        try:
            trades = tuple(
                (
                    one.number,
                    Trade(
                        topic,
                        0,
                        one.ts * 1_000,
                        recv,
                        0,
                        str(one.number),
                        number(one.price),
                        number(one.amount),
                        one.direction,
                        backfill=True,
                    ),
                )
                for one in decode_pasts(body)
            )
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, body, str(e)[:200]) from e
        return (Page(native, trades),)

    def _uncarried(self, topic: str) -> Sequence[Output]:
        """Pass over what is left out on purpose; ValueError for anything else."""
        channel = _stream(topic).channel
        if not channel.startswith(self.passed_over):
            raise ValueError(f"{topic[:60]!r} is not carried here")
        return ()

    def _trades(self, message: Frame, native: str, recv: int) -> list[Output]:
        given = sorted(decode_trades(message.tick).data, key=lambda one: one.tradeId)
        trades = [(one, number(one.price), number(one.amount)) for one in given]
        ids, since = self._ids.get(native), self._since.get(native, MAX_MICROS)
        if ids is not None and ids.last is None:
            # Who comes is told the last trades of before.
            told = [one.tradeId for one in given if one.ts * 1_000 < since]
            if told:
                ids.known(told[-1], recv)
        out: list[Output] = []
        for one, price, size in trades:
            ts = one.ts * 1_000
            if ts >= since:
                out += self._pacer.advance(ts)
            if ids is None:
                continue
            said = ids.reach(one.tradeId, recv)
            if said is None:
                out += ids.known(one.tradeId, recv)
                continue
            out += said
            trade_id = str(one.tradeId)
            out.append(Trade(ids.topic, 0, ts, recv, 0, trade_id, price, size, one.direction))
        return out

    def _best(self, message: Frame, topic: str | None, recv: int) -> list[Output]:
        best = decode_best(message.tick)
        time, seq = integer(best.quoteTime), integer(best.seqId)
        bid, ask = optional(best.bid), optional(best.ask)
        bid_size = optional(best.bidSize) if bid else None
        ask_size = optional(best.askSize) if ask else None
        if time is None or time > MAX_MICROS // 1_000:
            raise ValueError("a quote without its time")
        ts = time * 1_000
        out = [*self._pacer.advance(message.ts * 1_000)]
        if topic is None or (seq is not None and seq < self._quoted.get(topic, 0)):
            return out
        if seq is not None:
            self._quoted[topic] = seq
        if self._is_news(topic, (bid, bid_size, ask, ask_size)):
            out.append(Quote(topic, 0, ts, recv, 0, bid, bid_size, ask, ask_size))
        return out

    def _day(self, message: Frame, topic: str | None, recv: int) -> list[Output]:
        values = _values(decode_day(message.tick))
        ts = message.ts * 1_000
        out = [*self._pacer.advance(ts)]
        if topic is not None and self._is_news(topic, values):
            out.append(Ticker(topic, 0, ts, recv, 0, *values))
        return out

    def _whole(self, message: Frame, stream: Stream, recv: int) -> list[Output]:
        if message.update:  # of 2019
            raise ValueError("a change, where whole books are sent")
        book, depth = self._wholes[message.ch], decode_depth(message.tick)
        bids, asks = levels(depth.bids), levels(depth.asks)
        feed, afresh = book.feed, partial(self.resync, (stream,), recv)
        ts = message.ts * 1_000
        changes = feed.book.changes_to(bids, asks)
        out = [*self._pacer.advance(ts)]
        if feed.is_live:
            events = feed.delta(*changes, ts, recv)
            return out + (book.lost("crossed", recv, afresh) if feed.book.is_crossed else events)
        if not book.start(bids, asks) or feed.book.is_crossed:
            return out + book.lost("snapshot", recv, afresh)
        return out + feed.restart(ts, recv)

    def _update(self, message: Frame, book: MbpBook, recv: int) -> list[Output]:
        update = decode_update(message.tick)
        bids, asks = levels(update.bids), levels(update.asks)
        ts = message.ts * 1_000
        out = [*self._pacer.advance(ts)]
        clock = self._pacer.now
        out += book.take(Change(update.seq, update.after, bids, asks, ts, recv, clock))
        return [*out, *self._pacer.advance(clock)]

    def _replied(self, reply: Frame, recv: int) -> Sequence[Output]:
        """Take a refresh, an ack or a refusal."""
        if reply.status == "ok" and reply.rep:
            book, refresh = find(self._books, reply.rep), decode_refresh(reply.data)
            fresh = Book(book.feed.book.levels)
            fresh.replace(levels(refresh.bids), levels(refresh.asks))
            out = book.refresh(Answer(refresh.seq, fresh), recv)
            return [*out, *self._pacer.advance(self._pacer.now)]
        if reply.status == "ok" and reply.subbed:
            stream = _stream(reply.subbed)
            if stream.channel == "trade.detail":
                self._since.setdefault(stream.native, reply.ts * 1_000)
            return ()
        if reply.status == "ok" and reply.unsubbed:
            return ()
        op, _, topic = str(reply.id).partition(" ")
        if reply.status != "error" or not topic:
            raise ValueError(f"neither data nor an answer to us: {reply.error or ''}"[:100])
        if op != "sub":  # a refresh that does not come is asked for again
            return ()
        stream, _ = find(self._carried, topic)
        return (Refused((stream,), reply.error or "no reason given"),)

    def _is_news(self, topic: str, values: Values) -> bool:
        if self._shown.get(topic) == values:
            return False
        self._shown[topic] = values
        return True


def _values(day: Day) -> Values:
    """Return last, open, high, low, the volumes, and the best prices where they are told."""
    last, volume = number(day.close), number(day.amount)
    rest = (optional(one) for one in (day.open, day.high, day.low))
    best = (optional(day.bid), optional(day.ask))
    return last, *rest, volume, number(day.vol), *best
