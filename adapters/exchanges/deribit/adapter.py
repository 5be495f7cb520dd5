"""Deribit, JSON-RPC over WebSocket. Pure.

Source: docs.deribit.com, subscriptions and articles. ``raw`` channels want an account, so books,
trades and tickers come every 100 ms; ``quote`` comes at every change. A book's message names the
one before it. ``trade_seq`` counts an instrument's trades; ``trade_id`` does not, it is the
currency's. The server asks whether we live (``test_request``) and ends connections without answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import msgspec

from adapters.base import Fetch, Leave, Limits, Mark, Output, Page, Plan, Refused, Send, Stream
from adapters.channels import RESUBSCRIBE_US, BookStream, NumberedTrades, find, is_json
from adapters.exchanges.deribit.frames import (
    Frame,
    decode,
    decode_accepted,
    decode_book,
    decode_past,
    decode_quote,
    decode_ticker,
    decode_trades,
    levels,
    number,
    number_or_none,
    price_or_none,
    rate_or_none,
)
from adapters.exchanges.deribit.listing import LISTING
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Quote, Ticker, Trade

#: Books are sent whole; clients see the best 1,000 a side.
BOOK_LEVELS = 1_000
#: Channels a request: 10 kB of the 32 kB that a frame may have.
CHANNELS_PER_REQUEST = 200
#: Seconds, the least allowed; the server's own and its question come alternately.
HEARTBEAT_S = 10
#: Trades a page of the past, the most that is given.
PAGE = 1_000
TOO_MANY_REQUESTS = 10028
#: Ids of requests whose answer says nothing.
OTHER = 0
#: Channel -> the kinds it feeds; the book feeds ``quote`` where that has no channel of its own.
FEEDS = {
    "book": ("book", "depth", "quote"),
    "quote": ("quote",),
    "trades": ("trade",),
    "ticker": ("ticker", "derivative"),
}
INTERVAL = {"book": ".100ms", "quote": "", "trades": ".100ms", "ticker": ".100ms"}

_encode = msgspec.json.Encoder().encode
_NAME = r"(book|trades|ticker|quote)\.([^.\"]+)(?:\.(?:raw|100ms|agg2))?"
_OURS = re.compile(_NAME).fullmatch
#: As notifications are written; any other spelling takes the longer way.
_HEAD = re.compile(
    rb'\{"jsonrpc":"2\.0","method":"subscription","params":\{"channel":"' + _NAME.encode() + b'"'
).match
_CHANNEL = re.compile(rb'"channel"\s*:\s*"([^"]{1,96})"')


def _name(channel: str) -> str:
    return channel.partition(".")[0]


def _channel(stream: Stream) -> str:
    """Return Deribit's name of a stream: ``book.BTC-PERPETUAL.100ms`` of ``book.100ms``."""
    name, dot, interval = stream.channel.partition(".")
    return f"{name}.{stream.native}{dot}{interval}"


def _request(method: str, params: dict[str, object], id_: int) -> Send:
    request = {"jsonrpc": "2.0", "id": id_, "method": f"public/{method}", "params": params}
    return Send(_encode(request).decode())


class Deribit(NumberedTrades):
    """Deribit's spot pairs, perpetuals, futures and options."""

    name = "deribit"
    ws_url = "wss://www.deribit.com"
    rest_url = "https://www.deribit.com"
    path = "/ws/api/v2"
    listing = LISTING
    listing_paths = tuple(
        f"/api/v2/public/get_instruments?currency=any&kind={kind}"
        for kind in ("future", "option", "spot")
    )
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    window = BOOK_LEVELS
    # Subscriptions: 3.3/s are sustained, 10 at once. 32 connections an address. How many streams
    # a connection may have is published nowhere: a prudent figure.
    limits = Limits(
        frames_per_s=3,
        streams_per_connection=500,
        connects=30,
        connects_window_s=60,
        silent_after_s=3.0 * HEARTBEAT_S,
    )
    proofs = {
        "book": "prev_change_id is the change_id before",
        "trade": "trade_seq is consecutive",
    }
    ignored = {
        "book": "grouped ones are cut and rounded; the whole book is carried",
        "trades": "those of a whole kind of instruments come instrument by instrument",
        "chart": "candles are made from the trades, so that they mean the same everywhere",
        "incremental_ticker": "the whole ticker is carried",
        "perpetual": "the ticker has the funding",
        "estimated_expiration_price": "no kind of ours",
        "deribit_price_index": "the ticker has the index",
        "deribit_price_ranking": "no kind of ours",
        "deribit_price_statistics": "no kind of ours",
        "deribit_volatility_index": "no kind of ours",
        "markprice": "the ticker has the mark",
        "instrument": "the listing is taken over REST",
        "platform_state": "says the engine's state; the streams themselves show it",
        "announcements": "for people",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        told = ("ticker",) if instrument.type == "spot" else FEEDS["ticker"]
        offered = {**FEEDS, "book": ("book", "depth"), "ticker": told}
        return {name + INTERVAL[name]: fed for name, fed in offered.items()}

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        fed: dict[str, str] = {}
        for channel in sorted(channels, key=lambda one: list(FEEDS).index(_name(one))):
            fed |= dict.fromkeys(FEEDS[_name(channel)], channel)
        return fed

    @classmethod
    def topics(
        cls, streams: Collection[Stream], instrument: Instrument, kinds: Collection[str]
    ) -> dict[str, str]:
        spot = {"derivative"} if instrument.type == "spot" else set()
        return super().topics(streams, instrument, set(kinds) - spot)

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        #: Deribit's channel -> its book, and the id of the last change.
        self._books: dict[str, BookStream] = {
            _channel(one): self._book(one) for one in plan.streams if _name(one.channel) == "book"
        }
        self._changes: dict[str, int] = {}
        #: Deribit's channel -> before this time an unreadable state is not asked for again.
        self._asked: dict[str, int] = {}
        self._requests: dict[int, tuple[Stream, ...]] = {}
        self._request_count = OTHER

    def opened(self) -> Sequence[Send]:
        streams = self.plan_.streams
        return [
            _request("set_heartbeat", {"interval": HEARTBEAT_S}, OTHER),
            *(
                self._subscribe(streams[at : at + CHANNELS_PER_REQUEST])
                for at in range(0, len(streams), CHANNELS_PER_REQUEST)
            ),
        ]

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        head = _HEAD(frame)
        try:
            name = head[1].decode() if head else ""
            if not name:
                message = decode(frame)
                if message.method != "subscription":
                    return self._answered(message)
                ours = _OURS(message.params.channel)
                name = ours[1] if ours else ""
            match name:
                case "quote":
                    return self._quote(frame, recv)
                case "trades":
                    return self._trades(frame, recv)
                case "ticker":
                    return self._ticker(frame, recv)
                case "book":
                    return self._change(frame, recv)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e
        if _name(message.params.channel) not in self.ignored:
            raise BadPayload(self.name, frame, f"unknown channel {message.params.channel[:80]!r}")
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Ask again for states, which nothing numbers; books and trades show a loss themselves."""
        found = _CHANNEL.search(frame)
        if found is None and is_json(frame):
            return ()  # a reply
        channel = found[1].decode(errors="replace") if found else None
        out: list[Output] = []
        for stream in self.plan_.streams:
            own = _channel(stream)
            if _name(own) in ("quote", "ticker") and channel in (None, own):
                if recv >= self._asked.get(own, 0):
                    self._asked[own] = recv + RESUBSCRIBE_US
                    out += self.resync((stream,), recv)
        return out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        channels = [_channel(one) for one in streams]
        return [
            _request("unsubscribe", {"channels": channels}, OTHER),
            self._subscribe(tuple(streams)),
        ]

    def backfill(self, native: str, after: Mark) -> Fetch | None:
        path = (
            f"/api/v2/public/get_last_trades_by_instrument?instrument_name={native}"
            f"&start_seq={after.id + 1}&end_seq={after.id + PAGE}&count={PAGE}&sorting=asc"
        )
        return Fetch(path, f"trades:{native}@{after.id}")

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        native = key.removeprefix("trades:").rpartition("@")[0]
        topic = self._ids[native].topic
        try:
            trades = sorted(
                (
                    one.trade_seq,
                    Trade(
                        topic,
                        0,
                        one.timestamp * 1_000,
                        recv,
                        0,
                        one.trade_id,
                        number(one.price),
                        number(one.amount),
                        one.direction,
                        backfill=True,
                    ),
                )
                for one in decode_past(body)
            )
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, body, str(e)[:200]) from e
        return (Page(native, tuple(trades)),)

    def _subscribe(self, streams: tuple[Stream, ...]) -> Send:
        self._request_count += 1
        self._requests[self._request_count] = streams
        channels = [_channel(one) for one in streams]
        return _request("subscribe", {"channels": channels}, self._request_count)

    def _change(self, frame: bytes, recv: int) -> list[Output]:
        message = decode_book(frame).params
        channel, data = message.channel, message.data
        book = find(self._books, channel)
        bids, asks = levels(data.bids), levels(data.asks)
        ts = data.timestamp * 1_000
        last, self._changes[channel] = self._changes.get(channel), data.change_id
        out = [*self._pacer.advance(ts)]
        if data.type == "snapshot" or data.prev_change_id == 0:  # 0: the book is new
            return out + book.snapshot(bids, asks, ts, recv)
        if book.feed.is_live:
            if data.change_id == last:
                return out  # the same message again
            if data.prev_change_id != last:
                return out + book.lost("sequence", recv)
        return out + book.delta(bids, asks, ts, recv)

    def _trades(self, frame: bytes, recv: int) -> list[Output]:
        trades = [
            (one, number(one.price), number(one.amount))
            for one in decode_trades(frame).params.data
            if find(self._topics, one.instrument_name)
        ]
        out: list[Output] = []
        for one, price, size in trades:
            ids = self._ids.get(one.instrument_name)
            ts = one.timestamp * 1_000
            out += self._pacer.advance(ts)
            said = ids.reach(one.trade_seq, recv) if ids is not None else None
            if ids is None or said is None:
                continue
            ids.ts = ts
            out += said
            out.append(Trade(ids.topic, 0, ts, recv, 0, one.trade_id, price, size, one.direction))
        return out

    def _quote(self, frame: bytes, recv: int) -> list[Output]:
        data = decode_quote(frame).params.data
        topics = find(self._topics, data.instrument_name)
        bid, ask = price_or_none(data.best_bid_price), price_or_none(data.best_ask_price)
        bid_size = number_or_none(data.best_bid_amount)
        ask_size = number_or_none(data.best_ask_amount)
        ts = data.timestamp * 1_000
        out = [*self._pacer.advance(ts)]
        values = (
            *((bid, bid_size) if bid is not None else (None, None)),
            *((ask, ask_size) if ask is not None else (None, None)),
        )
        if self._is_news(topics.get("quote"), values):
            out.append(Quote(topics["quote"], 0, ts, recv, 0, *values))
        return out

    def _ticker(self, frame: bytes, recv: int) -> list[Output]:
        data = decode_ticker(frame).params.data
        topics = find(self._topics, data.instrument_name)
        day = (
            price_or_none(data.last_price),
            None,
            number_or_none(data.stats.high),
            number_or_none(data.stats.low),
            number_or_none(data.stats.volume),
            number_or_none(data.stats.volume_notional),
            price_or_none(data.best_bid_price),
            price_or_none(data.best_ask_price),
        )
        mark, index = number_or_none(data.mark_price), number_or_none(data.index_price)
        rate, interest = rate_or_none(data.current_funding), number_or_none(data.open_interest)
        ts = data.timestamp * 1_000
        out = [*self._pacer.advance(ts)]
        if self._is_news(topics.get("ticker"), day):
            out.append(Ticker(topics["ticker"], 0, ts, recv, 0, *day))
        if self._is_news(topics.get("derivative"), (mark, index, rate, interest)):
            # Funding is paid all the time: there is no next one.
            derived = (mark, index, rate, None, interest)
            out.append(Derivative(topics["derivative"], 0, ts, recv, 0, *derived))
        return out

    def _answered(self, message: Frame) -> Sequence[Output]:
        """Take a heartbeat or a reply, which names what was accepted."""
        if message.method == "heartbeat":
            out: list[Output] = [*self._pacer.flush()]
            if message.params.type == "test_request":
                out.append(_request("test", {}, OTHER))
            return out
        asked = self._requests.pop(OTHER if message.id is None else message.id, ())
        if message.error is not None:
            return self._refused(asked, message.error.code, message.error.message)
        if not message.result:
            raise ValueError("neither a notification nor a reply")
        if not asked:
            return ()
        accepted = set(decode_accepted(message.result))
        refused = tuple(one for one in asked if _channel(one) not in accepted)
        return (Refused(refused, "not accepted"),) if refused else ()

    def _refused(self, asked: tuple[Stream, ...], code: int, reason: str) -> Sequence[Output]:
        """Find out what is refused: one bad channel may fail its whole request."""
        if code == TOO_MANY_REQUESTS:
            return (Leave("rate_limited"),)
        if not asked:
            raise ValueError(f"refuses what was not asked for: {reason[:80]}")
        if len(asked) == 1:
            return (Refused(asked, reason),)
        half = len(asked) // 2
        return [self._subscribe(asked[:half]), self._subscribe(asked[half:])]
