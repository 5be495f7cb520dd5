"""Bitstamp spot. Pure.

Source: bitstamp.net/websocket/v2. Live books are the whole ones (``order_book``, the best 100
levels a side, at every change): ``diff_order_book`` reaches deeper, but its messages carry no
number, so a lost one would leave a wrong book that nothing shows. On tapes it is read where it is
all there is.
Trade ids grow, over all markets together. A refused subscription is not named in the refusal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from urllib.parse import quote

import msgspec

from adapters.base import Leave, Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.book import BookFeed
from adapters.channels import ChannelAdapter, find, is_json
from adapters.exchanges.bitstamp.book import Change, DiffBook, WholeBook
from adapters.exchanges.bitstamp.frames import (
    BOOK,
    DIFFS,
    SIDES,
    TRADES,
    Frame,
    decode,
    decode_error,
    decode_levels,
    decode_trade,
    micros,
    name_of,
    stream_of,
)
from adapters.exchanges.bitstamp.listing import MARKETS
from adapters.text import decimal
from feed.errors import BadPayload
from feed.models import Instrument, Trade

#: Levels a side of a whole book, and of the one made of changes.
LEVELS = {BOOK: 100, DIFFS: 1_000}
_BOOK_KINDS = ("book", "depth", "quote")

SUBSCRIBE, UNSUBSCRIBE = "bts:subscribe", "bts:unsubscribe"

_encode = msgspec.json.Encoder().encode
#: Of a frame that cannot be read: its channel.
_CHANNEL = re.compile(rb'"channel"\s*:\s*"([a-z_]+_[\w/-]{1,40})"')


class Bitstamp(ChannelAdapter):
    """Bitstamp spot."""

    name = "bitstamp"
    ws_url = "wss://ws.bitstamp.net"
    rest_url = "https://www.bitstamp.net"
    path = "/"
    listing_paths = ("/api/v2/markets/",)
    kinds = frozenset({"trade", "quote", "book", "depth"})
    feeds = {TRADES: ("trade",), DIFFS: _BOOK_KINDS, BOOK: _BOOK_KINDS}
    listing = MARKETS
    #: No limits are published but the age, of 90 days: prudent ones.
    limits = Limits(
        frames_per_s=10,
        streams_per_connection=100,
        connects=60,
        connects_window_s=60,
        silent_after_s=15.0,
        max_age_s=90 * 86_400,
        ping_every_s=10,
    )
    ignored = {
        "live_orders": "single orders: not a kind we carry",
        "detail_order_book": "the book by single orders; order_book has the same levels",
        "funding_rate": "of the perpetuals, which are not carried",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        return {channel: fed for channel, fed in cls.feeds.items() if channel != DIFFS}

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return LEVELS[channel]

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        #: Channel with symbol -> its book.
        self._books: dict[str, WholeBook | DiffBook] = {}
        #: (event, channel with symbol) -> stream of requests without an answer, and the refusals.
        self._unanswered: dict[tuple[str, str], Stream] = {}
        self._refusals: list[str] = []
        #: Books of changes whose subscription was acknowledged since the last exchange time.
        self._begun: list[DiffBook] = []
        for stream in plan.streams:
            if stream.channel != TRADES and (topics := self._fed(stream)):
                self._books[name_of(stream)] = self._made(stream, topics)

    def _made(self, stream: Stream, topics: dict[str, str]) -> WholeBook | DiffBook:
        feed = BookFeed(stream.native, topics, LEVELS[stream.channel], self._pacer)
        if stream.channel == BOOK:
            return WholeBook(feed)
        path = f"/api/v2/order_book/{quote(stream.native)}/?group=1"
        return DiffBook(stream.native, feed, self._pacer, path)

    def opened(self) -> Sequence[Send]:
        return [self._request(SUBSCRIBE, stream) for stream in self.plan_.streams]

    def ping(self) -> str | None:
        return '{"event":"bts:heartbeat"}'

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = decode(frame)
            match message.event:
                case "data" | "trade" | "order_created" | "order_changed" | "order_deleted":
                    return self._told(message, recv)
                case "bts:subscription_succeeded" | "bts:unsubscription_succeeded":
                    asked = message.event.replace("scription_succeeded", "scribe")
                    self._unanswered.pop((asked, message.channel), None)
                    book = self._books.get(message.channel)
                    if asked == SUBSCRIBE and isinstance(book, DiffBook):
                        self._begun.append(book)
                    return self._refused()
                case "bts:error":
                    reason = decode_error(message.data).message
                    self._refusals.append(reason or "no reason given")
                    return self._refused()
                case "bts:request_reconnect":
                    return (Leave("request_reconnect", serves_on=True),)
                case "bts:heartbeat":
                    return ()
            stream = stream_of(message.channel)
            if stream is None or stream.channel not in self.ignored:
                raise ValueError(f"unknown event {message.event[:40]!r}")
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)[:200]) from e
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt what nothing proves: trades, and a book of changes. A whole one is told again."""
        found = _CHANNEL.search(frame)
        if found is None and is_json(frame):
            return ()
        stream = stream_of(found[1].decode()) if found else None
        out: list[Output] = []
        for native, topics in self._topics.items():
            if stream in (None, Stream(TRADES, native)):
                out += self._doubt(topics.get("trade"), recv)
        for name, book in self._books.items():
            if stream is None or name == name_of(stream):
                out += book.resync(recv)
        return out

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        book = self._books[name_of(Stream(DIFFS, key.removeprefix("depth:")))]
        assert isinstance(book, DiffBook)
        try:
            return book.fetched(Change.of(decode_levels(body), recv))
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, body, str(e)[:200]) from e

    def fetch_failed(self, key: str, recv: int) -> Iterable[Output]:
        book = self._books[name_of(Stream(DIFFS, key.removeprefix("depth:")))]
        assert isinstance(book, DiffBook)
        return book.fetch_failed()

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            topic = self._topics[stream.native].get("trade")
            if stream.channel == TRADES and topic is not None:
                # Nothing numbers them: what comes meanwhile is lost unseen.
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
            out += [self._request(event, stream) for event in (UNSUBSCRIBE, SUBSCRIBE)]
            if (book := self._books.get(name_of(stream))) is not None:
                out += book.resync(recv)
        return out

    def _request(self, event: str, stream: Stream) -> Send:
        name = name_of(stream)
        self._unanswered[event, name] = stream
        return Send(_encode({"event": event, "data": {"channel": name}}).decode())

    def _refused(self) -> Sequence[Output]:
        """Return what was refused, once as many are left without an answer as were refused."""
        if len(self._unanswered) > len(self._refusals) or not self._refusals:
            return ()
        left = self._unanswered.items()
        streams = tuple(stream for (event, _), stream in left if event == SUBSCRIBE)
        reason = self._refusals[-1]
        self._unanswered.clear()
        self._refusals.clear()
        return (Refused(streams, reason),)

    def _told(self, message: Frame, recv: int) -> Sequence[Output]:
        stream = stream_of(message.channel)
        if stream is None:
            raise ValueError(f"{message.channel[:40]!r} is no channel")
        if stream.channel in self.ignored:
            return ()
        if stream.channel == TRADES:
            return self._trade(message, stream.native, recv)
        if (book := self._books.get(message.channel)) is None:
            find(self.plan_.instruments, stream.native)
            return ()  # another one feeds it, or nobody wants it
        told = decode_levels(message.data)
        if isinstance(book, WholeBook):
            return book.take(micros(told.microtimestamp), told, recv)
        change = Change.of(told, recv)
        self._seen(change.ts)
        return book.take(change)

    def _seen(self, ts: int) -> None:
        """Take note that the subscriptions acknowledged before have been in force since."""
        for book in self._begun:
            book.since = book.since or ts
        self._begun.clear()

    def _trade(self, message: Frame, native: str, recv: int) -> Sequence[Output]:
        topic = find(self._topics, native).get("trade")
        trade = decode_trade(message.data)
        ts, id = micros(trade.microtimestamp), str(trade.id)
        price, size = decimal(trade.price), decimal(trade.amount)
        self._seen(ts)
        out = self._pacer.advance(ts)
        if topic is None:
            return out
        self._doubted.discard(topic)
        if not self._known[topic].is_new(id):
            return out
        return (*out, Trade(topic, 0, ts, recv, 0, id, price, size, SIDES[trade.type]))
