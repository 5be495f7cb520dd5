"""HTX spot. Pure.

Source: huobiapi.github.io, spot, "Websocket Market Data". The incremental book ``mbp.150`` (100 ms)
has a path of its own; each update names the one before it. ``depth.step0``, a whole book a second,
is read where a tape has it. ``tradeId`` is consecutive per symbol in every session measured; who
subscribes is first told the last trade there was. ``direction`` is the taker's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from adapters.base import Fetch, Mark, Output, Page, Plan, Send, Stream
from adapters.book import Book, BookFeed
from adapters.channels import NumberedTrades, find
from adapters.exchanges.htx.book import Answer, Change, MbpBook
from adapters.exchanges.htx.common import (
    WHOLE_CHANNEL,
    WHOLE_LEVELS,
    HtxChannels,
    Values,
    topic_of,
)
from adapters.exchanges.htx.frames import (
    Day,
    Frame,
    decode_best,
    decode_day,
    decode_pasts,
    decode_refresh,
    decode_trades,
    decode_update,
    integer,
    levels,
    number,
    optional,
)
from adapters.exchanges.htx.listing import SPOT
from adapters.exchanges.htx.swaps import HtxCoinSwap, HtxLinearSwap
from adapters.text import MAX_MICROS
from feed.errors import BadPayload
from feed.models import Instrument, Quote, Trade

__all__ = ["Htx", "HtxCoinSwap", "HtxLinearSwap"]

#: Of 5, 20, 150 and 400: every 100 ms, and served for all symbols.
BOOK_CHANNEL = "mbp.150"
#: Trades a page of the past, the most that is given.
PAGE = 2_000
#: Where the incremental books are, and everything else.
FEED_PATH, WS_PATH = "/feed", "/ws"


def _is_mbp(channel: str) -> bool:
    return channel.startswith("mbp.") and channel[4:].isdecimal()


class Htx(HtxChannels, NumberedTrades):
    """HTX spot."""

    name = "htx"
    ws_url = "wss://api.huobi.pro"
    rest_url = "https://api.huobi.pro"
    listing = SPOT
    listing_paths = ("/v1/common/symbols",)
    proofs = {
        "trade": "trade ids are consecutive",
        "book": "each update names the one before it",
    }
    #: Beside the books; of old tapes is ``ticker``.
    feeds = {
        "bbo": ("quote",),
        "trade.detail": ("trade",),
        "ticker": ("ticker",),
        "detail": ("ticker",),
    }
    passed_over = ("kline.", "mbp.refresh.", "depth.step", "etp")
    ignored = {
        "kline": "candles are made from the trades, so that they mean the same everywhere",
        "mbp.refresh": "the incremental book tells the same, with a proof",
        "depth": "its steps but the first join levels",
        "etp": "the net value of a fund is none of our kinds",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        told = {one: fed for one, fed in cls.feeds.items() if one != "ticker"}
        return {BOOK_CHANNEL: ("book", "depth"), **told}

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
        return fed | super().feeding(given)

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return int(channel[4:]) if _is_mbp(channel) else WHOLE_LEVELS

    @classmethod
    def is_incremental(cls, channel: str) -> bool:
        return _is_mbp(channel)

    @classmethod
    def path_of(cls, channel: str) -> str:
        return FEED_PATH if _is_mbp(channel) else WS_PATH

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, MbpBook] = {
            topic_of(one): self._mbp_book(one) for one in plan.streams if _is_mbp(one.channel)
        }

    def _mbp_book(self, stream: Stream) -> MbpBook:
        window = self.book_levels(stream.channel)
        feed = BookFeed(stream.native, self._fed(stream), window, self._pacer)
        return MbpBook(
            feed, lambda: (self._request("req", stream),), partial(self.resync, (stream,), 0)
        )

    def opened(self) -> Sequence[Send]:
        # What is held must reach back before the refresh, so that comes last.
        books = [one for one in self.plan_.streams if topic_of(one) in self._books]
        return [*super().opened(), *(self._request("req", one) for one in books)]

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        books = [one for one in streams if topic_of(one) in self._books]
        return [*super().resync(streams, recv), *(self._request("req", one) for one in books)]

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

    def _told(
        self, message: Frame, stream: Stream, topics: Mapping[str, str], recv: int
    ) -> Sequence[Output] | None:
        match stream.channel:
            case "trade.detail":
                return self._trades(message, stream.native, recv)
            case "bbo":
                return self._best(message, topics.get("quote"), recv)
            case "detail" | "ticker":
                values = _values(decode_day(message.tick))
                return self._day(message, topics.get("ticker"), values, recv)
            case "depth.step0":
                return self._whole(message, stream, recv)
            case channel if _is_mbp(channel):
                return self._update(message, self._books[message.ch], recv)
        return None

    def _trades(self, message: Frame, native: str, recv: int) -> list[Output]:
        given = sorted(decode_trades(message.tick).data, key=lambda one: one.tradeId)
        trades = [(one, number(one.price), number(one.amount)) for one in given]
        ids, since = self._ids.get(native), self._since(native)
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

    def _update(self, message: Frame, book: MbpBook, recv: int) -> list[Output]:
        update = decode_update(message.tick)
        bids, asks = levels(update.bids), levels(update.asks)
        ts = message.ts * 1_000
        out = [*self._pacer.advance(ts)]
        clock = self._pacer.now
        out += book.take(Change(update.seq, update.after, bids, asks, ts, recv, clock))
        return [*out, *self._pacer.advance(clock)]

    def _replied(self, reply: Frame, recv: int) -> Sequence[Output]:
        if reply.status != "ok" or not reply.rep:
            return super()._replied(reply, recv)
        book, refresh = find(self._books, reply.rep), decode_refresh(reply.data)
        fresh = Book(book.feed.book.levels)
        fresh.replace(levels(refresh.bids), levels(refresh.asks))
        out = book.refresh(Answer(refresh.seq, fresh), recv)
        return [*out, *self._pacer.advance(self._pacer.now)]


def _values(day: Day) -> Values:
    """Return last, open, high, low, the volumes, and the best prices where they are told."""
    last, volume = number(day.close), number(day.amount)
    rest = (optional(one) for one in (day.open, day.high, day.low))
    best = (optional(day.bid), optional(day.ask))
    return last, *rest, volume, number(day.vol), *best
