"""Crypto.com Exchange v1. Pure.

Source: exchange-developer.crypto.com, exchange/v1/docs, websocket. A book begins with a snapshot;
each update names the one before it by ``pu``, and where nothing changes an empty one comes every
5 s. Where a subscription is to whole books (tapes of 2021), every message is a snapshot. The
checksum ``cs`` is documented nowhere. Trades carry no order: who subscribes is first told the last
50 or so, in the answer that has the request's id. ``s`` is the taker's side.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from adapters.base import Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.channels import BookStream, ChannelAdapter, find, is_json
from adapters.exchanges.crypto_com.frames import (
    PUSHED,
    Frame,
    Result,
    decode,
    decode_snapshot,
    decode_ticker,
    decode_trades,
    decode_update,
    decode_value,
    levels,
    number,
    optional,
    rate,
    trade_id,
)
from adapters.exchanges.crypto_com.listing import LISTING
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Side, Ticker, Trade

#: Of 10 and 50 levels; updates come every 10 ms.
BOOK_CHANNEL = "book.50"
BOOK_PARAMS = {"book_subscription_type": "SNAPSHOT_AND_UPDATE", "book_update_frequency": 10}
#: Channels a request.
CHANNELS_PER_REQUEST = 100
#: Funding is paid at the end of each hour.
HOUR_US = 3_600_000_000
SIDES: dict[str, Side] = {"BUY": "buy", "SELL": "sell"}

Values: TypeAlias = tuple[str | int | None, ...]
_encode = msgspec.json.Encoder().encode
_SUBSCRIPTION = re.compile(rb'"subscription"\s*:\s*"([^"]{1,64})"')


def _underlying(native: str) -> str:
    """Return the symbol of a contract's index: ``BTCUSD-INDEX``."""
    return f"{native.partition('-')[0]}-INDEX"


def _channel(stream: Stream) -> str:
    """Return the exchange's name of a stream: ``book.BTC_USDT.50``, ``index.BTCUSD-INDEX``."""
    name, dot, rest = stream.channel.partition(".")
    if name == "book":
        return f"book.{stream.native}.{rest}"
    if name == "index":
        return f"index.{_underlying(stream.native)}"
    return f"{name}{dot}{rest}.{stream.native}"


class _State(msgspec.Struct):
    """What the channels of a contract have told of it."""

    mark: str | None = None
    index: str | None = None
    funding_rate: str | None = None
    funding_time: int | None = None
    open_interest: str | None = None


class CryptoCom(ChannelAdapter):
    """Crypto.com Exchange: sizes are in the base, of contracts too."""

    name = "crypto-com"
    ws_url = "wss://stream.crypto.com"
    rest_url = "https://api.crypto.com"
    path = "/exchange/v1/market"
    listing = LISTING
    listing_paths = ("/exchange/v1/public/get-instruments",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker", "derivative"})
    # Index, funding and open interest are told together with the mark.
    feeds = {"trade": ("trade",), "ticker": ("ticker",), "mark": ("derivative",)}
    proofs = {"book": "each update names the one before it"}
    # 100 requests a second, counted from the start of the second one connects in; 400 channels.
    # Heartbeats come every 30 s; nothing else is sure to where trades alone are subscribed to.
    limits = Limits(
        frames_per_s=10,
        streams_per_connection=400,
        connects=10,
        connects_window_s=10,
        silent_after_s=35,
        settle_s=1.0,
    )
    ignored = {
        "candlestick": "candles are made from the trades, so that they mean the same everywhere",
        "settlement": "the price of a delivery is none of our kinds",
        "estimatedfunding": "of the period after the running one",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        offered = {
            BOOK_CHANNEL: ("book", "depth", "quote"),
            "trade": ("trade",),
            "ticker": ("ticker",),
        }
        if instrument.type != "spot":
            # Open interest is in the ticker.
            offered |= {"ticker": ("ticker", "derivative")}
            offered |= dict.fromkeys(("mark", "index", "funding"), ("derivative",))
        return offered

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        given = set(channels)
        books = [one for one in given if one.startswith("book.")]
        deepest = max(books, key=cls.book_levels, default=None)
        fed = dict.fromkeys(("book", "depth", "quote"), deepest) if deepest else {}
        return fed | super().feeding(given)

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return int(channel.partition(".")[2])

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        #: The exchange's channel -> the streams that ask for it.
        self._carried: dict[str, list[Stream]] = {}
        for stream in plan.streams:
            self._carried.setdefault(_channel(stream), []).append(stream)
        self._books: dict[str, BookStream] = {
            _channel(one): self._book(one, truncate=True)
            for one in plan.streams
            if one.channel.startswith("book")
        }
        #: The exchange's channel of a book -> the last update in it; None where there are none.
        self._updates: dict[str, int | None] = {}
        self._by_index: dict[str, list[str]] = {}
        for native in plan.instruments:
            self._by_index.setdefault(f"index.{_underlying(native)}", []).append(native)
        self._states = {native: _State() for native in plan.instruments}
        #: Request id -> the channels it asks for.
        self._requests: dict[int, tuple[str, ...]] = {}
        self._request_count = 0

    def opened(self) -> Sequence[Send]:
        return self._subscribe(list(self._carried))

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = decode(frame)
            result = message.result
            if result is None:
                return self._told(message)
            match result.channel:
                case "book" | "book.update":
                    return self._book_message(result, recv)
                case "trade":
                    return self._trades(result, message.id, recv)
                case "ticker":
                    return self._ticker(result, recv)
                case "mark" | "index" | "funding":
                    return self._value(result, recv)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e
        if result.channel not in self.ignored:
            raise BadPayload(self.name, frame, f"unknown channel {result.channel[:40]!r}")
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt the trades a frame may have been of; books prove themselves, states come again."""
        found = _SUBSCRIPTION.search(frame)
        if found is None and is_json(frame):
            return ()
        told = found[1].decode(errors="replace") if found else None
        out: list[Output] = []
        for stream in self.plan_.streams:
            if stream.channel == "trade" and told in (None, _channel(stream)):
                out += self._doubt(self._topics[stream.native].get("trade"), recv)
        return out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        channels = list(dict.fromkeys(map(_channel, streams)))
        return [self._request("unsubscribe", tuple(channels)), *self._subscribe(channels)]

    def _subscribe(self, channels: Sequence[str]) -> list[Send]:
        books = [one for one in channels if one.startswith("book.")]
        others = [one for one in channels if not one.startswith("book.")]
        size = CHANNELS_PER_REQUEST
        return [
            self._request("subscribe", tuple(part[at : at + size]))
            for part in (books, others)
            for at in range(0, len(part), size)
        ]

    def _request(self, method: str, channels: tuple[str, ...]) -> Send:
        self._request_count += 1
        params: dict[str, object] = {"channels": channels}
        if method == "subscribe":
            self._requests[self._request_count] = channels
            if channels[0].startswith("book."):
                params |= BOOK_PARAMS
        request = {"id": self._request_count, "method": method, "params": params}
        return Send(_encode(request).decode())

    def _book_message(self, result: Result, recv: int) -> list[Output]:
        book = find(self._books, result.subscription)
        if result.channel == "book":
            (whole,) = decode_snapshot(result.data)
            bids, asks, ts = levels(whole.bids), levels(whole.asks), whole.t * 1_000
            out = book.told(bids, asks, ts, recv)
            self._updates[result.subscription] = whole.u
            return out
        (change,) = decode_update(result.data)
        bids, asks = levels(change.update.bids), levels(change.update.asks)
        ts = change.t * 1_000
        last = self._updates.get(result.subscription)
        out = [*self._pacer.advance(ts)]
        if book.feed.is_live and change.pu != last:
            return out + book.lost("sequence", recv)
        self._updates[result.subscription] = change.u
        return out + book.delta(bids, asks, ts, recv)

    def _trades(self, result: Result, message_id: int | None, recv: int) -> list[Output]:
        (stream,) = find(self._carried, result.subscription)
        given = [
            (one.t * 1_000, trade_id(one.d), number(one.p), number(one.q), SIDES[one.s])
            for one in decode_trades(result.data)
        ]
        given.sort(key=lambda one: (one[0], int(one[1])))
        topic = self._topics[stream.native].get("trade")
        is_first = stream.native not in self._known
        known = self._known[stream.native]
        # Who subscribes is first told what was traded before; ids of messages are new since 2022.
        is_past = is_first if message_id is None else message_id != PUSHED
        out: list[Output] = []
        if is_past and not is_first and topic is not None:
            if not any(one[1] in known for one in given):
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
        for ts, number_, price, size, side in given:
            if not known.is_new(number_) or (is_past and is_first):
                continue
            if not is_past:
                out += self._pacer.advance(ts)
            if topic is not None:
                self._doubted.discard(topic)
                out.append(Trade(topic, 0, ts, recv, 0, number_, price, size, side))
        return out

    def _ticker(self, result: Result, recv: int) -> list[Output]:
        (stream,) = find(self._carried, result.subscription)
        (day,) = decode_ticker(result.data)
        instrument = self.plan_.instruments[stream.native]
        last, bid, ask = optional(day.a), optional(day.b), optional(day.k)
        high, low, volume = optional(day.h), optional(day.l), optional(day.v)
        value, interest = optional(day.vv), optional(day.oi)
        ts = day.t * 1_000
        out = [*self._pacer.advance(ts)]
        topic = self._topics[stream.native].get("ticker")
        worth = value if instrument.quote == "USD" else None
        values = (last, None, high, low, volume, worth, bid, ask)
        if self._is_news(topic, values):
            out.append(Ticker(topic, 0, ts, recv, 0, *values))
        if interest is not None:
            self._states[stream.native].open_interest = interest
            out += self._derivative(stream.native, ts, recv)
        return out

    def _value(self, result: Result, recv: int) -> list[Output]:
        streams = find(self._carried, result.subscription)
        (told,) = decode_value(result.data)
        text, ts = rate(told.v), told.t * 1_000
        if result.channel != "funding":
            text = number(told.v)
        out = [*self._pacer.advance(ts)]
        natives = self._by_index.get(result.subscription, [one.native for one in streams])
        for native in natives:
            state = self._states[native]
            match result.channel:
                case "mark":
                    state.mark = text
                case "index":
                    state.index = text
                case _:
                    state.funding_rate = text
                    state.funding_time = (ts // HOUR_US + 1) * HOUR_US
            out += self._derivative(native, ts, recv)
        return out

    def _derivative(self, native: str, ts: int, recv: int) -> list[Output]:
        """Return what is known of a contract, if that is wanted and new."""
        topic = self._topics[native].get("derivative")
        state = self._states[native]
        values = msgspec.structs.astuple(state)
        if not self._is_news(topic, values):
            return []
        return [Derivative(topic, 0, ts, recv, 0, *values)]

    def _told(self, message: Frame) -> Sequence[Output]:
        """Answer a heartbeat; take an ack or a refusal."""
        if message.method == "public/heartbeat":
            answer = {"id": message.id, "method": "public/respond-heartbeat"}
            return (Send(_encode(answer).decode()),)
        if message.method not in ("subscribe", "unsubscribe"):
            raise ValueError(f"neither data nor an answer: {message.method[:40]!r}")
        if message.code == 0 or message.method == "unsubscribe":
            return ()
        reason = message.message or f"code {message.code}"
        asked = self._requests.get(message.id or 0, ())
        if message.channel:
            return (Refused(tuple(find(self._carried, message.channel)), reason),)
        if not asked:
            raise ValueError(f"refuses what was not asked for: {reason[:80]}")
        if len(asked) == 1:
            return (Refused(tuple(find(self._carried, asked[0])), reason),)
        # It does not say which: they are asked for one by one.
        self._requests.pop(message.id or 0)
        return [self._request("subscribe", (one,)) for one in asked]
