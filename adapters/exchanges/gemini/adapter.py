"""Gemini's streams, and the market data of version 2 that they replace. Pure.

Source: developer.gemini.com, websocket (streams, message-format; archived/v2).

Live, the streams are used: their book updates begin with the number that the one before ended with
(``U``, ``u``), each message has its time, and the best prices come at once. Version 2 has none of
that and is archived, though it was still served in August 2026; recordings of it are read. A book's
first update is all of it, which nothing marks: so after asking afresh, what comes before the old
subscription's end is acknowledged is not looked at. Perpetuals' ``markPrice`` and ``fundingAmount``
are in no documentation, but are sent; the index that comes with them is scaled by a factor nobody
tells, and the funding's rate is too coarse: neither is carried.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import msgspec

from adapters.base import Leave, Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.channels import BookStream, ChannelAdapter, find, is_json
from adapters.exchanges.gemini.frames import (
    Frame,
    OldTrade,
    decode,
    decode_old_book,
    decode_old_trade,
)
from adapters.exchanges.gemini.listing import LISTING
from adapters.text import decimal, levels
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Quote, Side, Ticker, Trade

#: Books are whole; clients see the best 1,000 a side.
BOOK_LEVELS = 1_000
BOOK, BEST, TRADES = "depth@100ms", "bookTicker", "trade"
MARK, FUNDING = "markPrice", "fundingAmount"
#: Version 2's only one.
OLD = "l2"
#: Channel -> the kinds it feeds.
FEEDS = {
    BOOK: ("book", "depth"),
    BEST: ("quote", "ticker"),
    TRADES: ("trade",),
    FUNDING: ("derivative",),
    MARK: ("derivative",),
    OLD: ("book", "depth", "quote", "trade"),
}
#: Nothing is published of how many a request may ask for.
STREAMS_PER_REQUEST = 50
_BAD_REQUEST = 400
_CANDLES = "candles are made from the trades, so that they mean the same everywhere"
_ARCHIVED = "of the archived version 2; the streams are read"

_encode = msgspec.json.Encoder().encode
_SYMBOL = re.compile(rb'"s(?:ymbol)?"\s*:\s*"([^"]{1,64})"')
_TRADE = re.compile(rb'"(?:t|event_id)"\s*:')
_STATES = re.compile(rb'"(?:markPrice|fundingAmount)"|"B"\s*:')


def _optional(text: str) -> str | None:
    return decimal(text) if text else None


class Gemini(ChannelAdapter):
    """Gemini, spot and perpetuals; sizes are in the base."""

    name = "gemini"
    ws_url = "wss://ws.gemini.com"
    rest_url = "https://api.gemini.com"
    #: Each book begins whole.
    path = "/?snapshot=-1"
    listing = LISTING
    listing_paths = ("/v1/symbols/details/all",)
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    window = BOOK_LEVELS
    proofs = {"book": "an update begins with the number that the one before ended with"}
    # Nothing is published: prudent ones.
    limits = Limits(
        frames_per_s=5,
        streams_per_connection=150,
        connects=5,
        connects_window_s=10,
        silent_after_s=15,
        ping_every_s=5,
        max_frame_bytes=64 << 20,
    )
    ignored = {
        "contractStatus": "prediction markets are not carried",
        "mark_price_updates": _ARCHIVED,
        "funding_amount_updates": _ARCHIVED,
        "auction_open": "auctions are no trades",
        "auction_indicative": "auctions are no trades",
        "auction_result": "auctions are no trades",
    } | {
        f"candles_{period}_updates": _CANDLES
        for period in ("1m", "5m", "15m", "30m", "1h", "6h", "1d")
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        contract = (FUNDING, MARK) if instrument.type == "perpetual" else ()
        return {one: FEEDS[one] for one in (BOOK, BEST, TRADES, *contract)}

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, BookStream] = {
            one.native: self._begun(one) for one in plan.streams if "book" in FEEDS[one.channel]
        }
        #: Instrument -> the number its book has come to; not in it: the next message is all of it.
        self._updates: dict[str, int] = {}
        #: Instrument -> the request that ends its book's old subscription, not yet acknowledged.
        self._leaving: dict[str, str] = {}
        self._best: dict[str, int] = {}
        #: Instrument -> mark price, and when funding is paid next.
        self._marks: dict[str, tuple[str | None, int | None]] = {}
        self._requests: dict[str, tuple[Stream, ...]] = {}
        self._request_count = 0

    def _begun(self, stream: Stream) -> BookStream:
        def afresh(recv: int) -> Sequence[Output]:
            return self._afresh((stream,))

        return BookStream(stream, self._fed(stream), BOOK_LEVELS, self._pacer, afresh)

    def opened(self) -> Sequence[Send]:
        streams = [one for one in self.plan_.streams if one.channel != OLD]
        old = [one for one in self.plan_.streams if one.channel == OLD]
        return [
            *(
                self._request("SUBSCRIBE", streams[at : at + STREAMS_PER_REQUEST])
                for at in range(0, len(streams), STREAMS_PER_REQUEST)
            ),
            *([self._old_request("subscribe", old)] if old else ()),
        ]

    def ping(self) -> str | None:
        return '{"id":"ping","method":"ping"}'

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = decode(frame)
            if message.t is not None:
                return self._trade(message, recv)
            if message.type:
                return self._old(message.type, frame, recv)
            match message.e:
                case "depthUpdate":
                    return self._depth(message, recv)
                case "markPrice" | "fundingAmount":
                    return self._mark(message, recv)
                case "" | "bookTicker" if message.u is not None:
                    return self._best_prices(message, recv)
                case "" if message.id is not None:
                    return self._replied(message)
            if message.e not in self.ignored:
                raise ValueError(f"unknown: {message.e[:80]!r}")
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt what no number proves: trades, books of version 2, and a book that is to begin.

        What comes after an unreadable beginning would be taken for the whole book.
        """
        if _STATES.search(frame) is not None:
            return ()
        is_whole, is_update = is_json(frame), b'"depthUpdate"' in frame
        is_old_book = not is_whole or b'"l2_updates"' in frame
        is_trade = not (is_whole or is_update) or (
            _TRADE.search(frame) is not None and not is_old_book
        )
        found = _SYMBOL.search(frame)
        native = found[1].decode(errors="replace").upper() if found else None
        out: list[Output] = []
        for one, topics in self._topics.items():
            if native not in (None, one):
                continue
            if is_trade:
                out += self._doubt(topics.get("trade"), recv)
            book = self._books.get(one)
            if book is None:
                continue
            if book.stream.channel == OLD:
                is_doubted = is_old_book
            else:
                is_doubted = (is_update or not is_whole) and one not in self._updates
            if is_doubted:
                self._updates[one] = 0
                out += book.lost("unreadable", recv)
        return out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            topic = self._topics[stream.native].get("trade")
            if stream.channel in (TRADES, OLD) and topic is not None:
                # Nothing numbers them: what comes meanwhile is lost unseen.
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
        return [*out, *self._afresh(streams)]

    def _request(self, method: str, streams: Sequence[Stream]) -> Send:
        self._request_count += 1
        number = str(self._request_count)
        if method == "SUBSCRIBE":
            self._requests[number] = tuple(streams)
        params = [f"{one.native.lower()}@{one.channel}" for one in streams]
        return Send(_encode({"id": number, "method": method, "params": params}).decode())

    def _old_request(self, type_: str, streams: Sequence[Stream]) -> Send:
        named = [{"name": OLD, "symbols": [one.native for one in streams]}]
        return Send(_encode({"type": type_, "subscriptions": named}).decode())

    def _afresh(self, streams: Sequence[Stream]) -> Sequence[Output]:
        old = [one for one in streams if one.channel == OLD]
        if old:
            return [self._old_request(type_, old) for type_ in ("unsubscribe", "subscribe")]
        leave = self._request("UNSUBSCRIBE", streams)
        for one in streams:
            if one.channel == BOOK:
                self._leaving[one.native] = str(self._request_count)
        return [leave, self._request("SUBSCRIBE", streams)]

    def _depth(self, message: Frame, recv: int) -> Sequence[Output]:
        native, update = message.s.upper(), message.u
        book = find(self._books, native)
        if update is None or isinstance(message.b, str) or isinstance(message.a, str):
            raise ValueError("a book without levels or number")
        bids, asks = levels(message.b), levels(message.a)
        last = self._updates.get(native)
        out = [*self._pacer.advance(message.ts)]
        if native in self._leaving:
            return out + book.lost("snapshot", recv)
        if last is None:
            self._updates[native] = update
            return out + book.snapshot(bids, asks, message.ts, recv)
        if book.feed.is_live:
            if update <= last:
                return out
            if message.U > last + 1:
                return out + book.lost("sequence", recv)
            self._updates[native] = update
        return out + book.delta(bids, asks, message.ts, recv)

    def _best_prices(self, message: Frame, recv: int) -> Sequence[Output]:
        native, update, ts = message.s.upper(), message.u, message.ts
        topics = find(self._topics, native)
        if update is None or not isinstance(message.b, str) or not isinstance(message.a, str):
            raise ValueError("best prices without prices or number")
        bid, ask = _optional(message.b), _optional(message.a)
        # A price of nothing is none.
        bid_size = None if bid is None else decimal(message.B)
        ask_size = None if ask is None else decimal(message.A)
        last = _optional(message.c)
        out = [*self._pacer.advance(ts)]
        is_crossed = bid is not None and ask is not None and float(bid) >= float(ask)
        if update < self._best.get(native, 0) or is_crossed:
            return out
        self._best[native] = update
        best = (bid, bid_size, ask, ask_size)
        if self._is_news(topics.get("quote"), best):
            out.append(Quote(topics["quote"], 0, ts, recv, 0, *best))
        day = (last, None, None, None, None, None, bid, ask)
        if self._is_news(topics.get("ticker"), day):
            out.append(Ticker(topics["ticker"], 0, ts, recv, 0, *day))
        return out

    def _trade(self, message: Frame, recv: int) -> Sequence[Output]:
        topic = find(self._topics, message.s.upper()).get("trade")
        price, size, number, ts = decimal(message.p), decimal(message.q), str(message.t), message.ts
        if message.m is None:
            raise ValueError("a trade without a side")
        side: Side = "sell" if message.m else "buy"
        out = [*self._pacer.advance(ts)]
        if topic is not None and self._is_new(topic, number):
            out.append(Trade(topic, 0, ts, recv, 0, number, price, size, side))
        return out

    def _mark(self, message: Frame, recv: int) -> Sequence[Output]:
        native, price = message.s.upper(), decimal(message.p)
        topic = find(self._topics, native).get("derivative")
        mark, funding_time = self._marks.get(native, (None, None))
        ts: int | None = message.ts
        if message.e == "markPrice":
            mark = price
            out = [*self._pacer.advance(message.ts)]
        else:
            # Its time is that of the payment; one that has been made says nothing of the next.
            ts, out = None, []
            funding_time = funding_time if message.R else message.T // 1_000
        self._marks[native] = mark, funding_time
        values = (mark, None, None, funding_time, None)
        if self._is_news(topic, values):
            out.append(Derivative(topic, 0, ts, recv, 0, *values))
        return out

    def _is_new(self, topic: str, number: str) -> bool:
        """Take note of a trade; return whether it has not come before."""
        self._doubted.discard(topic)
        return self._known[topic].is_new(number)

    def _replied(self, reply: Frame) -> Sequence[Output]:
        number = str(reply.id)
        asked = self._requests.pop(number, ())
        for native in [one for one, request in self._leaving.items() if request == number]:
            del self._leaving[native]
            self._updates.pop(native, None)
        if reply.error is None:
            return ()
        reason = f"{reply.error.code}: {reply.error.msg or reply.error.message}"
        if not asked or reply.status != _BAD_REQUEST:
            return (Leave("error"),)
        words = set(re.findall(r"\w+", reason.upper()))
        named = tuple(one for one in asked if one.native in words)
        if named or len(asked) == 1:
            rest = tuple(one for one in asked if one not in named) if named else ()
            out: list[Output] = [Refused(named or asked, reason)]
            return [*out, self._request("SUBSCRIBE", rest)] if rest else out
        return [self._request("SUBSCRIBE", (one,)) for one in asked]

    def _old(self, type_: str, frame: bytes, recv: int) -> Sequence[Output]:
        """Read a message of version 2. Books have no time there, so that nothing is paced."""
        match type_:
            case "l2_updates":
                return self._old_book(frame, recv)
            case "trade":
                found = self._old_trade(decode_old_trade(frame), recv)
                return (found,) if found and self._is_new(found.topic, found.id or "") else ()
            case "heartbeat":
                return ()
        if type_ not in self.ignored:
            raise ValueError(f"unknown type {type_[:80]!r}")
        return ()

    def _old_book(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = decode_old_book(frame)
        book = find(self._books, message.symbol)
        bids = levels((price, size) for side, price, size in message.changes if side == "buy")
        asks = levels((price, size) for side, price, size in message.changes if side == "sell")
        trades = [self._old_trade(one, recv) for one in message.trades or ()]
        if message.is_snapshot:
            # The trades are of before we came: what comes again is known by them.
            for trade in trades:
                if trade is not None:
                    self._is_new(trade.topic, trade.id or "")
            return book.snapshot(bids, asks, None, recv)
        return book.delta(bids, asks, None, recv)

    def _old_trade(self, trade: OldTrade, recv: int) -> Trade | None:
        """Return a trade checked; None where its topic is not wanted."""
        topic = find(self._topics, trade.symbol).get("trade")
        price, size, ts = decimal(trade.price), decimal(trade.quantity), trade.timestamp * 1_000
        if topic is None:
            return None
        return Trade(topic, 0, ts, recv, 0, trade.number, price, size, trade.side)
