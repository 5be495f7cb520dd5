"""HTX's perpetuals and futures: linear ones, and swaps that settle in the coin. Pure.

Source: the contracts' pages of htx.com/opend (USDT-M and coin-M, "WebSocket Market Data"). Sizes
count contracts. ``depth.size_150.high_freq`` begins with a snapshot, then versions are consecutive.
Trade ids carry no order. Mark price and index are on a path of their own, whose messages feed
``derivative``; liquidations are notifications, on another one, and so is the funding rate, which is
not carried: one topic is fed by one connection.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar

import msgspec

from adapters.base import Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.channels import BookStream, find, is_json
from adapters.exchanges.htx.common import (
    WHOLE_CHANNEL,
    WHOLE_LEVELS,
    HtxChannels,
    topic_of,
)
from adapters.exchanges.htx.frames import (
    Frame,
    Notice,
    RawLevel,
    decode_basis,
    decode_contract_best,
    decode_contract_day,
    decode_contract_trades,
    decode_event,
    decode_forced,
    decode_mark,
    decode_notice,
    inflate,
    levels,
    number,
    optional,
    plain,
    trade_id,
)
from adapters.exchanges.htx.listing import COIN_SWAPS, LINEAR
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Liquidation, Quote, Side, Trade

BOOK_CHANNEL = "depth.size_150.high_freq"
MARK_CHANNEL, INDEX_CHANNEL = "mark_price.1min", "basis.1min.open"
LIQUIDATION_CHANNEL = "liquidation_orders"
INDEX_PATH = "/ws_index"
SIDES: dict[str, Side | None] = {"buy": "buy", "sell": "sell", "": None}

_encode = msgspec.json.Encoder().encode
_BOOK = re.compile(r"depth\.size_([0-9]+)\.high_freq").fullmatch
_TOPIC = re.compile(rb'"(?:ch|topic)"\s*:\s*"([^"]{1,80})"')
#: Channels whose events no number counts -> the kind.
_UNNUMBERED = {"trade.detail": "trade", LIQUIDATION_CHANNEL: "liquidation"}


def _notice(stream: Stream) -> str:
    """Return the topic of a notification."""
    return f"public.{stream.native}.{stream.channel}"


class _HtxSwaps(HtxChannels):
    """What linear contracts and coin-margined ones have in common."""

    ws_url = "wss://api.hbdm.com"
    rest_url = "https://api.hbdm.com"
    kinds = HtxChannels.kinds | {"derivative", "liquidation"}
    proofs = {"book": "versions are consecutive"}
    #: Beside the books. The index is told together with the mark.
    feeds = {
        "bbo": ("quote",),
        "trade.detail": ("trade",),
        "detail": ("ticker",),
        MARK_CHANNEL: ("derivative",),
        LIQUIDATION_CHANNEL: ("liquidation",),
    }
    passed_over = (
        *("kline.", "depth.step", "index.", "basis.", "mark_price.", "premium_index."),
        *("estimated_rate.", "funding_rate", "contract_info", "contract_elements"),
    )
    ignored = {
        "kline": "candles are made from the trades, so that they mean the same everywhere",
        "depth": "its steps but the first join levels",
        "mark_price, basis": "candles of other lengths tell the same",
        "index, premium_index": "the basis tells the index",
        "estimated_rate": "of the period after the running one",
        "funding_rate": "is told on another connection than the mark price",
        "contract_info, contract_elements": "the listing is taken over REST",
    }
    #: Paths of the market data and of the notifications.
    path: ClassVar[str]
    notices_path: ClassVar[str]

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        return {BOOK_CHANNEL: ("book", "depth"), **cls.feeds, INDEX_CHANNEL: ("derivative",)}

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        given = set(channels)
        whole = WHOLE_CHANNEL if WHOLE_CHANNEL in given else None
        book = max(filter(_BOOK, given), key=cls.book_levels, default=whole)
        fed = dict.fromkeys(("book", "depth", "quote"), book) if book else {}
        return fed | super().feeding(given)

    @classmethod
    def book_levels(cls, channel: str) -> int:
        match = _BOOK(channel)
        return int(match[1]) if match else WHOLE_LEVELS

    @classmethod
    def is_incremental(cls, channel: str) -> bool:
        return _BOOK(channel) is not None

    @classmethod
    def path_of(cls, channel: str) -> str:
        if channel == LIQUIDATION_CHANNEL:
            return cls.notices_path
        return INDEX_PATH if channel in (MARK_CHANNEL, INDEX_CHANNEL) else cls.path

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, BookStream] = {
            topic_of(one): self._book(one)
            for one in plan.streams
            if self.is_incremental(one.channel)
        }
        #: HTX's topic of a book -> its last version.
        self._versions: dict[str, int] = {}
        self._marks: dict[str, tuple[str | None, str | None]] = {}
        self._notices = {
            _notice(one): one for one in plan.streams if one.channel == LIQUIDATION_CHANNEL
        }

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            text = inflate(frame)
            if self._notices and b'"op":' in text:
                return self._noticed(decode_notice(text), recv)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e
        return super().parse(text, recv)

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt what carries no number: trades and liquidations. Books prove themselves."""
        try:
            text = inflate(frame)
        except ValueError:
            text = b""
        found = _TOPIC.search(text)
        if found is None and is_json(text):
            return ()
        told = found[1].decode(errors="replace") if found else None
        out: list[Output] = []
        for stream in self.plan_.streams:
            if told in (None, topic_of(stream), _notice(stream)):
                kind = _UNNUMBERED.get(stream.channel, "")
                out += self._doubt(self._topics[stream.native].get(kind), recv)
        return out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            topic = self._topics[stream.native].get(_UNNUMBERED.get(stream.channel, ""))
            if topic is not None:
                # Nothing numbers them: what comes meanwhile is lost unseen.
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
        return [*out, *super().resync(streams, recv)]

    def _request(self, op: str, stream: Stream) -> Send:
        if stream.channel == LIQUIDATION_CHANNEL:
            topic = _notice(stream)
            notice = {"op": op, "cid": f"{op} {topic}", "topic": topic}
            return Send(_encode(notice).decode())
        if not self.is_incremental(stream.channel):
            return super()._request(op, stream)
        topic = topic_of(stream)
        request = {op: topic, "data_type": "incremental", "id": f"{op} {topic}"}
        return Send(_encode(request).decode())

    def _told(
        self, message: Frame, stream: Stream, topics: Mapping[str, str], recv: int
    ) -> Sequence[Output] | None:
        match stream.channel:
            case "trade.detail":
                return self._trades(message, stream.native, topics.get("trade"), recv)
            case "bbo":
                return self._best(message, topics.get("quote"), recv)
            case "detail":
                day = decode_contract_day(message.tick)
                last, volume = number(day.close), number(day.vol)
                rest = (optional(one) for one in (day.open, day.high, day.low))
                best = (_price(day.bid), _price(day.ask))
                values = (last, *rest, volume, optional(day.trade_turnover), *best)
                return self._day(message, topics.get("ticker"), values, recv)
            case "mark_price.1min":
                mark = plain(decode_mark(message.tick).close)
                index = self._marks.get(stream.native, (None, None))[1]
                return self._derivative(message, stream.native, (mark, index), recv)
            case "basis.1min.open":
                index = plain(decode_basis(message.tick).index_price)
                known = self._marks.get(stream.native, (None, None))[0]
                return self._derivative(message, stream.native, (known, index), recv)
            case "depth.step0":
                return self._whole(message, stream, recv)
        if self.is_incremental(stream.channel):
            return self._event(message, self._books[message.ch], recv)
        return None

    def _event(self, message: Frame, book: BookStream, recv: int) -> list[Output]:
        event = decode_event(message.tick)
        bids, asks = levels(event.bids), levels(event.asks)
        ts = message.ts * 1_000
        if event.event == "snapshot":
            out = book.told(bids, asks, ts, recv)
            self._versions[message.ch] = event.version
            return out
        out = [*self._pacer.advance(ts)]
        if book.feed.is_live and event.version - 1 != self._versions.get(message.ch):
            return out + book.lost("sequence", recv)
        self._versions[message.ch] = event.version
        return out + book.delta(bids, asks, ts, recv)

    def _trades(self, message: Frame, native: str, topic: str | None, recv: int) -> list[Output]:
        given = [
            (trade_id(one.id), one.ts * 1_000, number(one.price), number(one.amount), one.direction)
            for one in decode_contract_trades(message.tick).data
        ]
        given.sort(key=lambda one: int(one[0]))
        known, since = self._known[native], self._since(native)
        is_first = not known
        out: list[Output] = []
        for id_, ts, price, size, direction in given:
            # Of the first ones, the last one of before we came.
            if not known.is_new(id_) or (is_first and ts < since):
                continue
            if ts >= since:
                out += self._pacer.advance(ts)
            if topic is not None:
                self._doubted.discard(topic)
                out.append(Trade(topic, 0, ts, recv, 0, id_, price, size, SIDES[direction]))
        return out

    def _best(self, message: Frame, topic: str | None, recv: int) -> list[Output]:
        best = decode_contract_best(message.tick)
        bid, ask = (
            (None, None) if one is None else (number(one[0]), number(one[1]))
            for one in (best.bid, best.ask)
        )
        ts = best.ts * 1_000
        out = [*self._pacer.advance(message.ts * 1_000)]
        if topic is None or best.mrid < self._quoted.get(topic, 0):
            return out
        self._quoted[topic] = best.mrid
        if self._is_news(topic, (*bid, *ask)):
            out.append(Quote(topic, 0, ts, recv, 0, *bid, *ask))
        return out

    def _derivative(
        self, message: Frame, native: str, known: tuple[str | None, str | None], recv: int
    ) -> list[Output]:
        """Take the mark price or the index, and tell what is known of both if that is new."""
        self._marks[native] = known
        topic = self._topics[native].get("derivative")
        ts = message.ts * 1_000
        out = [*self._pacer.advance(ts)]
        if self._is_news(topic, known):
            out.append(Derivative(topic, 0, ts, recv, 0, *known, None, None, None))
        return out

    def _noticed(self, notice: Notice, recv: int) -> Sequence[Output]:
        match notice.op:
            case "ping":
                return (Send(_encode({"op": "pong", "ts": notice.ts}).decode()),)
            case "sub" if notice.code:
                stream = find(self._notices, notice.topic)
                return (Refused((stream,), notice.error or f"code {notice.code}"),)
            case "sub" | "unsub":
                return ()
            case "notify" if notice.topic in self._notices:
                return self._liquidations(notice, self._notices[notice.topic], recv)
            case "notify" if notice.topic.endswith(self.passed_over):
                return ()
        raise ValueError(f"no notice of ours: {notice.op[:20]} {notice.topic[:60]}")

    def _liquidations(self, notice: Notice, stream: Stream, recv: int) -> list[Output]:
        topic = self._topics[stream.native].get("liquidation")
        out: list[Output] = []
        for one in decode_forced(notice.data):
            price, size, ts = number(one.price), number(one.volume), one.created_at * 1_000
            if topic is not None:
                self._doubted.discard(topic)
                out.append(Liquidation(topic, 0, ts, recv, 0, None, price, size, one.direction))
        return out


class HtxLinearSwap(_HtxSwaps):
    """Contracts that settle in USDT."""

    name = "htx-linear-swap"
    path = "/linear-swap-ws"
    notices_path = "/linear-swap-notification"
    listing = LINEAR
    listing_paths = ("/linear-swap-api/v1/swap_contract_info?business_type=all",)


class HtxCoinSwap(_HtxSwaps):
    """Perpetuals in USD that settle in the coin."""

    name = "htx-coin-swap"
    path = "/swap-ws"
    notices_path = "/swap-notification"
    listing = COIN_SWAPS
    listing_paths = ("/swap-api/v1/swap_contract_info",)


def _price(level: RawLevel | None) -> str | None:
    return None if level is None else number(level[0])
