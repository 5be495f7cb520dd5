"""dYdX v4, by its indexer. Pure.

Source: docs.dydx.exchange, api_integration-indexer, and the indexer's own code (dydxprotocol,
v4-chain, indexer/services/socks). All messages of a connection are counted together; the answer to
a subscription gets its number when it is asked for and is sent when it is ready, so that others may
overtake it. Books cross by design (``book.py``) and carry no time: ``depth`` cannot be paced. What
changes while a snapshot is on its way to the indexer's socket is told by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import msgspec
from msgspec.structs import asdict, replace

from adapters.base import Leave, Limits, Output, Plan, Refused, Send, Stream
from adapters.book import Book
from adapters.channels import RESUBSCRIBE_US, BookStream, ChannelAdapter, find
from adapters.exchanges.dydx import frames
from adapters.exchanges.dydx.book import uncrossed
from adapters.exchanges.dydx.frames import Frame, Market, decode, levels
from adapters.exchanges.dydx.listing import LISTING
from adapters.text import decimal, micros, signed
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Side, Ticker, Trade

#: A snapshot holds no more a side; updates are of any level.
BOOK_LEVELS = 100
#: Subscriptions of a channel that a connection may have.
MARKETS_PER_CONNECTION = 32
#: Channel -> the kinds it feeds.
FEEDS = {
    "v4_orderbook": ("book", "depth", "quote"),
    "v4_trades": ("trade",),
    "v4_markets": ("ticker", "derivative"),
}
#: Subscribed to once, whatever the instruments.
SHARED = "v4_markets"
SIDES: dict[str, Side] = {"BUY": "buy", "SELL": "sell"}
#: Messages that answer a request of ours.
ANSWERS = frozenset({"subscribed", "unsubscribed", "error"})

_encode = msgspec.json.Encoder().encode
_NAMED = re.compile(r"\((v4_\w+)-([^)]+)\)").search


def _requests(type_: str, streams: Sequence[Stream]) -> list[Send]:
    """Return a request for each stream, and one for all of the shared channel."""
    asked = [{"channel": one.channel, "id": one.native} for one in streams if one.channel != SHARED]
    if len(asked) < len(streams):
        asked.append({"channel": SHARED})
    return [Send(_encode({"type": type_, **one}).decode()) for one in asked]


class Dydx(ChannelAdapter):
    """dYdX v4's perpetuals."""

    name = "dydx"
    ws_url = "wss://indexer.dydx.trade"
    rest_url = "https://indexer.dydx.trade"
    path = "/v4/ws"
    listing = LISTING
    listing_paths = ("/v4/perpetualMarkets",)
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    window = BOOK_LEVELS
    # 32 subscriptions of a channel; two requests a second for each stream. How many connections
    # an address may open is published nowhere: a prudent figure.
    limits = Limits(
        frames_per_s=5,
        streams_per_connection=len(FEEDS) * MARKETS_PER_CONNECTION,
        connects=30,
        connects_window_s=60,
        silent_after_s=15,
    )
    proofs = {
        "book": "a connection's messages are counted",
        "trade": "a connection's messages are counted",
        "ticker": "a connection's messages are counted",
        "derivative": "a connection's messages are counted",
    }
    ignored = {
        "v4_candles": "candles are made from the trades, so that they mean the same everywhere",
        "v4_block_height": "no kind of ours",
        "v4_subaccounts": "of one account",
        "v4_parent_subaccounts": "of one account",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        # The shared channel always: nothing else shows that a connection of quiet markets lives.
        return {**FEEDS, SHARED: ()}

    @classmethod
    def plan(cls, streams: Sequence[Stream], instruments: Mapping[str, Instrument]) -> list[Plan]:
        # The limit is a channel's, so instruments are counted, not streams.
        natives = list(dict.fromkeys(one.native for one in streams))
        return [
            Plan(
                cls.path,
                tuple(one for one in streams if one.native in part),
                {native: instruments[native] for native in part},
            )
            for at in range(0, len(natives), MARKETS_PER_CONNECTION)
            if (part := natives[at : at + MARKETS_PER_CONNECTION])
        ]

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        # Trades alone carry a time. A clock that stands between them would hold books back, so
        # the pacer's never runs, and ``depth`` follows every change of the best levels.
        self._books: dict[str, BookStream] = {
            one.native: self._book(one) for one in plan.streams if one.channel == "v4_orderbook"
        }
        self._markets = {native: Market() for native in plan.instruments}
        #: Market -> price of its last trade, which ``v4_markets`` doesn't tell.
        self._prices: dict[str, str] = {}
        #: The highest number seen, those below that have not come, and how many of these may be of
        #: answers that have been overtaken.
        self._last: int | None = None
        self._missing: set[int] = set()
        self._owed = len(_requests("subscribe", plan.streams))
        #: Before this time a stream is not asked for again.
        self._asked: dict[Stream, int] = {}

    def opened(self) -> Sequence[Send]:
        return _requests("subscribe", self.plan_.streams)

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = decode(frame)
            if message.type in ("subscribed", "channel_data", "channel_batch_data"):
                match message.channel:
                    case "v4_orderbook":
                        return self._orderbook(message, recv)
                    case "v4_trades":
                        return self._trades(message, recv)
                    case "v4_markets":
                        return self._updates(message, recv)
                known = message.channel in self.ignored
            else:
                known = message.type in ("connected", "unsubscribed", "error", "pong")
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e
        if not known:
            what = f"{message.type[:40]!r} of {message.channel[:40]!r}"
            raise BadPayload(self.name, frame, f"unknown message {what}")
        out = self._counted(message, recv) or []
        return out + self._error(message.message) if message.type == "error" else out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            if stream.channel == "v4_trades":
                # The last trades are told again, and those that are new among them emitted; that
                # they reach back far enough is proven by nothing.
                out += self._doubt(self._topics[stream.native].get("trade"), recv)
        for type_ in ("unsubscribe", "subscribe"):
            requests = _requests(type_, streams)
            self._owed += len(requests)
            out += requests
        return out

    def _counted(self, message: Frame, recv: int) -> list[Output] | None:
        """Take note of a message's number; return what is lost before it, None for a repeat."""
        number, last, missing = message.message_id, self._last, self._missing
        is_answer = message.type in ANSWERS
        is_hole = False
        if last is None:
            self._last = number
        elif number > last:
            self._last = number
            skipped = number - last - 1
            is_hole = len(missing) + skipped > self._owed
            if not is_hole:
                missing.update(range(last + 1, number))
        elif number in missing:
            missing.remove(number)
        elif not is_answer:
            return None
        if is_answer:
            self._owed = max(0, self._owed - 1)
        if not is_hole and len(missing) <= self._owed:
            return []
        missing.clear()
        return self._holed(recv)

    def _holed(self, recv: int) -> list[Output]:
        """Doubt all that the connection carries: the lost message may have been of any channel."""
        out: list[Output] = []
        for book in self._books.values():
            out += book.lost("sequence", recv)
        shared = next((one for one in self.plan_.streams if one.channel == SHARED), None)
        if shared is not None:
            out += self._again(shared, recv)
        for topics in self._topics.values():
            out += self._doubt(topics.get("trade"), recv)
        return out

    def _again(self, stream: Stream, recv: int) -> Sequence[Output]:
        """Ask for a stream afresh, if that was not just done."""
        if recv < self._asked.get(stream, 0):
            return ()
        self._asked[stream] = recv + RESUBSCRIBE_US
        return self.resync((stream,), recv)

    def _orderbook(self, message: Frame, recv: int) -> list[Output]:
        book = find(self._books, message.id)
        parts = [(levels(one.bids), levels(one.asks)) for one in frames.books(message)]
        out = self._counted(message, recv)
        if out is None:
            return []
        feed = book.feed
        for bids, asks in parts:
            if message.type == "subscribed":
                sides = uncrossed(Book(BOOK_LEVELS), bids, asks)
                is_whole = len(bids) < BOOK_LEVELS, len(asks) < BOOK_LEVELS
                try:
                    out += feed.snapshot(*sides, None, recv, complete=is_whole)
                except ValueError:  # a price twice
                    out += book.lost("snapshot", recv)
            elif feed.is_live:
                out += feed.delta(*uncrossed(feed.book, bids, asks), None, recv)
                if feed.book.is_thin:
                    out += self._again(book.stream, recv)
            else:
                out += book.lost("snapshot", recv)
        return out

    def _trades(self, message: Frame, recv: int) -> list[Output]:
        topic = find(self._topics, message.id).get("trade")
        trades = [
            (one, micros(one.created_at), decimal(one.price), decimal(one.size))
            for one in frames.trades(message)
        ]
        out = self._counted(message, recv)
        if out is None:
            return []
        if trades:
            self._prices[message.id] = trades[-1][2]
        if topic is None:
            return out
        # What is told at the subscription are trades of before: not emitted, but known.
        is_old = message.type == "subscribed" and topic not in self._known
        known = self._known[topic]
        for one, ts, price, size in trades:
            if known.is_new(one.id) and not is_old:
                self._doubted.discard(topic)
                out.append(Trade(topic, 0, ts, recv, 0, one.id, price, size, SIDES[one.side]))
        return out

    def _updates(self, message: Frame, recv: int) -> list[Output]:
        """Merge what has changed of the markets that are carried here."""
        merged: dict[str, Market] = {}
        for part in frames.markets(message):
            for native, given in chain(
                part.markets.items(), part.trading.items(), part.oracle_prices.items()
            ):
                known = merged.get(native) or self._markets.get(native)
                if known is not None:
                    new = {name: text for name, text in asdict(given).items() if text is not None}
                    merged[native] = replace(known, **new)
        told = [(native, market, *_figures(market)) for native, market in merged.items()]
        out = self._counted(message, recv)
        if out is None:
            return []
        for native, market, volume, derived in told:
            self._markets[native] = market
            topics = self._topics[native]
            last = self._prices.get(native)
            if self._is_news(topics.get("ticker"), (last, volume)):
                day = (last, None, None, None, None, volume, None, None)
                out.append(Ticker(topics["ticker"], 0, None, recv, 0, *day))
            if self._is_news(topics.get("derivative"), derived):
                mark, rate, interest = derived
                out.append(
                    Derivative(
                        topics["derivative"], 0, None, recv, 0, mark, None, rate, None, interest
                    )
                )
        return out

    def _error(self, reason: str) -> list[Output]:
        """Find out what is refused: it stands in brackets."""
        if "already subscribed" in reason:
            return []
        named = _NAMED(reason)
        refused = tuple(
            one
            for one in self.plan_.streams
            if named and (one.channel, one.native) == named.groups()
        )
        if refused and "Too many" not in reason:
            return [Refused(refused, reason)]
        return [Leave("error")]


def _figures(market: Market) -> tuple[str | None, tuple[str | None, str | None, str | None]]:
    """Return the day's volume, in USD, and mark, funding rate and open interest, all checked."""
    volume, mark, interest = (
        decimal(text) if text is not None else None
        for text in (market.volume, market.oracle_price, market.open_interest)
    )
    rate = signed(market.funding_rate) if market.funding_rate is not None else None
    return volume, (mark, rate, interest)
