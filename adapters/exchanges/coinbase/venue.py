"""Coinbase Exchange's side of its feed, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.standing import BookStanding, Level
from adapters.tape import received

#: The names under which the same book messages were subscribed to over the years.
_BOOKS = ("level2_batch", "level2", "level2_50")
#: Message type -> channel; of the book's two the tape tells the name.
_CHANNELS = {
    "snapshot": "",
    "l2update": "",
    "match": "matches",
    "last_match": "matches",
    "ticker": "ticker",
    "heartbeat": "heartbeat",
}


class _Channel(msgspec.Struct):
    name: str
    product_ids: list[str] = []


class _Frame(msgspec.Struct):
    type: str = ""
    product_id: str = ""
    channels: list[_Channel] = []


class _Request(msgspec.Struct):
    type: str
    product_ids: list[str] = []
    channels: list[str | _Channel] = []

    def asked(self) -> list[_Channel]:
        """Return the channels, each with the products it is asked for."""
        named = [_Channel(one) if isinstance(one, str) else one for one in self.channels]
        return [_Channel(one.name, one.product_ids or self.product_ids) for one in named]


class _Book(msgspec.Struct, omit_defaults=True):
    """A ``snapshot`` or an ``l2update``."""

    type: str
    product_id: str
    bids: list[Level] = []
    asks: list[Level] = []
    changes: list[tuple[str, str, str]] = []
    time: str | None = None


_decode_book = msgspec.json.Decoder(_Book).decode
_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


def _error(reason: str) -> Ack:
    fields: dict[str, Any] = {"type": "error", "message": "Failed to subscribe", "reason": reason}
    return Ack((), (_encode(fields).decode(),))


class _Standing(BookStanding):
    def __init__(self, product: str) -> None:
        super().__init__()
        self._product = product
        self._time: str | None = None

    def take(self, frame: bytes) -> None:
        book = _decode_book(frame)
        self._time = book.time
        if book.type == "snapshot":
            self.start(book.bids, book.asks)
            return
        bids, asks = (
            [(price, size) for side, price, size in book.changes if side == name]
            for name in ("buy", "sell")
        )
        self.sides.apply(bids, asks)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        bids, asks = self.sides.bids(), self.sides.asks()
        return _encode(_Book("snapshot", self._product, bids, asks, time=self._time))


class CoinbaseVenue(Venue):
    """Each request is answered with the channels it asked for, as a first one is in truth."""

    rules = Rules(frames=100, per_s=1.0, connects=20, connects_per_s=1.0)

    def __init__(self) -> None:
        self._book = _BOOKS[0]
        self._products: set[str] = set()
        #: Product -> a recorded heartbeat of it.
        self._beats: dict[str, str] = {}

    def scan(self, line: TapeLine) -> None:
        frame = received(line, _decode_frame)
        if frame is None:
            return
        for channel in frame.channels:
            self._products.update(channel.product_ids)
            if channel.name in _BOOKS:
                self._book = channel.name
        if frame.product_id:
            self._products.add(frame.product_id)
        if frame.type == "heartbeat" and line.raw is not None:
            self._beats[frame.product_id] = line.raw

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        channel = _CHANNELS.get(frame.type) if frame else None
        if frame is None or channel is None or not frame.product_id:
            return None
        return Stream(channel or self._book, frame.product_id)

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return _error("Malformed JSON")
        if request.type not in ("subscribe", "unsubscribe"):
            return _error(f"{request.type} is not a valid type")
        asked = request.asked()
        for channel in asked:
            if channel.name not in (*_BOOKS, *_CHANNELS.values()):
                return _error(f"{channel.name} is not a valid channel")
            for product in channel.product_ids:
                if product not in self._products:
                    return _error(f"{product} is not a valid product")
        streams = tuple(
            Stream(self._book if channel.name in _BOOKS else channel.name, product)
            for channel in asked
            for product in channel.product_ids
        )
        is_subscribe = request.type == "subscribe"
        answer = {"type": "subscriptions", "channels": asked if is_subscribe else []}
        return Ack(streams, (_encode(answer).decode(),), not is_subscribe)

    def rest_key(self, url: str) -> str | None:
        return "listing" if urlsplit(url).path.rstrip("/").endswith("/products") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        return _Standing(stream.native) if stream.channel in _BOOKS else None

    def beats(self, streams: Collection[Stream]) -> tuple[str, ...]:
        asked = sorted(one.native for one in streams if one.channel == "heartbeat")
        return tuple(self._beats[product] for product in asked if product in self._beats)
