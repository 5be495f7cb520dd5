"""Kraken Futures' side of WebSocket v1, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.standing import BookStanding, Level, raw
from adapters.tape import received

#: Feed in a message -> the channel that it is of.
_CHANNELS = {
    "book": "book",
    "book_snapshot": "book",
    "trade": "trade",
    "trade_snapshot": "trade",
    "ticker": "ticker",
}
#: Trades that a subscription begins with.
_TRADES = 100


class _Frame(msgspec.Struct):
    event: str = ""
    feed: str = ""
    product_id: str = ""
    time: int = 0


class _Request(msgspec.Struct):
    event: str
    feed: str = ""
    product_ids: list[str] = []


class _Level(msgspec.Struct):
    price: msgspec.Raw
    qty: msgspec.Raw

    def text(self) -> Level:
        return str(self.price, "ascii"), str(self.qty, "ascii")


class _BookSnapshot(msgspec.Struct, tag="book_snapshot", tag_field="feed"):
    product_id: str
    timestamp: int
    seq: int
    bids: list[_Level]
    asks: list[_Level]


class _BookDelta(msgspec.Struct, tag="book", tag_field="feed"):
    product_id: str
    side: str
    seq: int
    price: msgspec.Raw
    qty: msgspec.Raw
    timestamp: int


class _TradeSnapshot(msgspec.Struct, tag="trade_snapshot", tag_field="feed"):
    product_id: str
    trades: list[msgspec.Raw]


class _Trade(msgspec.Struct, tag="trade", tag_field="feed"):
    product_id: str


class _Reply(msgspec.Struct, omit_defaults=True):
    event: str
    feed: str = ""
    product_ids: list[str] = []
    message: str = ""


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_book = msgspec.json.Decoder(_BookSnapshot | _BookDelta).decode
_decode_trade = msgspec.json.Decoder(_TradeSnapshot | _Trade).decode
_encode = msgspec.json.Encoder().encode


def _text(message: msgspec.Struct) -> str:
    return _encode(message).decode()


class _Book(BookStanding):
    """All levels; their number is that of the last change."""

    def __init__(self) -> None:
        super().__init__()
        self._last = ("", 0, 0)

    def take(self, frame: bytes) -> None:
        message = _decode_book(frame)
        self._last = message.product_id, message.timestamp, message.seq
        if isinstance(message, _BookSnapshot):
            self.start([one.text() for one in message.bids], [one.text() for one in message.asks])
            return
        level = str(message.price, "ascii"), str(message.qty, "ascii")
        bids, asks = ([level], []) if message.side == "buy" else ([], [level])
        self.sides.apply(bids, asks)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        bids, asks = (
            [_Level(raw(price), raw(size)) for price, size in side]
            for side in (self.sides.bids(), self.sides.asks())
        )
        return _encode(_BookSnapshot(*self._last, bids, asks))


class _Trades(Standing):
    """The last trades, newest first."""

    def __init__(self) -> None:
        self._product = ""
        self._trades: deque[msgspec.Raw] = deque(maxlen=_TRADES)

    def take(self, frame: bytes) -> None:
        message = _decode_trade(frame)
        self._product = message.product_id
        if isinstance(message, _TradeSnapshot):
            self._trades.clear()
            self._trades.extend(one.copy() for one in message.trades)
        else:
            self._trades.appendleft(msgspec.Raw(frame))

    def told(self) -> bytes | None:
        if not self._product:
            return None
        return _encode(_TradeSnapshot(self._product, list(self._trades)))


class KrakenFuturesVenue(Venue):
    """One ack a product; one that is unknown fails its whole request."""

    rules = Rules(frames=100, per_s=1.0, connects=100, connects_per_s=10.0)

    def __init__(self) -> None:
        self._products: set[str] = set()
        #: The exchange's time of the last message that tells it, ms.
        self._now = 0

    def scan(self, line: TapeLine) -> None:
        frame = received(line, _decode_frame)
        if frame is None:
            return
        self._now = frame.time or self._now
        if frame.product_id:
            self._products.add(frame.product_id)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        channel = _CHANNELS.get(frame.feed) if frame is not None and not frame.event else None
        if frame is None or channel is None or not frame.product_id:
            return None
        return Stream(channel, frame.product_id)

    def is_broadcast(self, line: TapeLine) -> bool:
        frame = received(line, _decode_frame)
        return frame is not None and not frame.event and frame.feed == "heartbeat"

    def connected(self, path: str) -> Ack:
        return Ack((), ('{"event":"info","version":1}',))

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return Ack((), (_text(_Reply("error", message="Json Error")),))
        if request.event == "ping":
            return Ack((), (_text(_Reply("pong")),))
        done = {"subscribe": "subscribed", "unsubscribe": "unsubscribed"}.get(request.event)
        if done is None:
            return Ack((), (_text(_Reply("alert", message="Bad request")),))
        if request.feed == "heartbeat":
            return Ack((), (_text(_Reply(done, "heartbeat")),))
        if request.feed not in _CHANNELS.values():
            return Ack((), (_text(_Reply("error", message="Invalid feed")),))
        if not self._products.issuperset(request.product_ids):
            return Ack((), (_text(_Reply("error", message="Invalid product id")),))
        streams = tuple(Stream(request.feed, one) for one in request.product_ids)
        acks = tuple(_text(_Reply(done, request.feed, [one])) for one in request.product_ids)
        return Ack(streams, acks, request.event == "unsubscribe")

    def rest_key(self, url: str) -> str | None:
        return "listing" if urlsplit(url).path.endswith("/api/v3/instruments") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        match stream.channel:
            case "book":
                return _Book()
            case "trade":
                return _Trades()
        return None

    def beats(self, streams: Collection[Stream]) -> tuple[str, ...]:
        return (f'{{"feed":"heartbeat","time":{self._now}}}',)
