"""Coinbase Advanced Trade's side of its feed, for the fake that serves a tape. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.standing import BookStanding
from adapters.tape import received

#: The messages' name of a channel -> the name it is asked for by.
_CHANNELS = {"l2_data": "level2", "market_trades": "market_trades", "ticker": "ticker"}
_SIDES = {"bid": 0, "offer": 1}
#: Trades that who subscribes is told.
_TOLD = 100
_NUMBER = re.compile(rb'("sequence_num"\s*:\s*)([0-9]{1,15})')


class _Named(msgspec.Struct):
    product_id: str


class _Event(msgspec.Struct):
    product_id: str = ""
    trades: list[_Named] = []
    tickers: list[_Named] = []

    @property
    def product(self) -> str:
        named = [*self.trades[:1], *self.tickers[:1]]
        return self.product_id or (named[0].product_id if named else "")


class _Frame(msgspec.Struct):
    channel: str = ""
    sequence_num: int | None = None
    events: list[_Event] = []


class _Request(msgspec.Struct):
    type: str
    channel: str = ""
    product_ids: list[str] = []


_decode = msgspec.json.Decoder().decode
_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


def _message(channel: str, event: dict[str, Any], timestamp: str) -> bytes:
    """Return a message that is still to be numbered."""
    fields = {"channel": channel, "timestamp": timestamp, "sequence_num": 0, "events": [event]}
    return _encode(fields)


def _error(reason: str) -> Ack:
    fields = {"type": "error", "message": "failure to subscribe", "reason": reason}
    return Ack((), (_encode(fields).decode(),))


class _Book(BookStanding):
    def __init__(self, product: str) -> None:
        super().__init__()
        self._product = product
        self._times = ("", "")

    def take(self, frame: bytes) -> None:
        message = _decode(frame)
        for event in message["events"]:
            changes: tuple[list[tuple[str, str]], ...] = ([], [])
            for one in event["updates"]:
                changes[_SIDES[one["side"]]].append((one["price_level"], one["new_quantity"]))
                self._times = message["timestamp"], one["event_time"]
            if event["type"] == "snapshot":
                self.start(*changes)
            else:
                self.sides.apply(*changes)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        timestamp, event_time = self._times
        updates = [
            {"side": side, "event_time": event_time, "price_level": price, "new_quantity": size}
            for side, given in (("bid", self.sides.bids()), ("offer", self.sides.asks()))
            for price, size in given
        ]
        event = {"type": "snapshot", "product_id": self._product, "updates": updates}
        return _message("l2_data", event, timestamp)


class _Trades(Standing):
    def __init__(self) -> None:
        self._timestamp = ""
        self._trades: deque[Any] = deque(maxlen=_TOLD)

    def take(self, frame: bytes) -> None:
        message = _decode(frame)
        self._timestamp = message["timestamp"]
        for event in message["events"]:
            self._trades.extend(reversed(event["trades"]))

    def told(self) -> bytes | None:
        if not self._trades:
            return None
        event = {"type": "snapshot", "trades": [*reversed(self._trades)]}
        return _message("market_trades", event, self._timestamp)


class _Ticker(Standing):
    def __init__(self) -> None:
        self._last: dict[str, Any] = {}

    def take(self, frame: bytes) -> None:
        self._last = _decode(frame)

    def told(self) -> bytes | None:
        if not self._last:
            return None
        event = self._last["events"][-1] | {"type": "snapshot"}
        return _message("ticker", event, self._last["timestamp"])


class _Numbers:
    """Numbers one connection's messages. What the tape has lost stays lost."""

    def __init__(self, holes: Sequence[int]) -> None:
        self._holes = holes
        self._next = 0
        #: The greatest number, as recorded, of those that came.
        self._upto: int | None = None

    def __call__(self, frame: bytes) -> bytes:
        found = _NUMBER.search(frame)
        if found is None:
            return frame
        recorded = int(found[2])
        if recorded > (self._upto or 0):
            if self._upto is not None:
                passed = bisect_right(self._holes, recorded) - bisect_right(self._holes, self._upto)
                self._next += passed
            self._upto = recorded
        number = b"%d" % self._next
        self._next += 1
        return frame[: found.start(2)] + number + frame[found.end(2) :]


class CoinbaseAdvancedVenue(Venue):
    """Each request is answered with what it asked for, as a first one is in truth."""

    rules = Rules(frames=8, per_s=1.0, connects=8, connects_per_s=1.0)

    def __init__(self) -> None:
        self._products: set[str] = set()
        self._beat: str | None = None
        #: Connection -> the last number recorded.
        self._last: dict[str | None, int] = {}
        #: Recorded numbers before which something is missing.
        self._holes: list[int] = []

    def scan(self, line: TapeLine) -> None:
        frame = received(line, _decode_frame)
        if frame is None:
            return
        self._products.update(event.product for event in frame.events if event.product)
        if frame.channel == "heartbeats" and self._beat is None:
            self._beat = line.raw
        number, last = frame.sequence_num, self._last.get(line.conn)
        if number is None:
            return
        if last is not None and number > last + 1:
            self._holes = sorted([*self._holes, number])
        self._last[line.conn] = number

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        channel = _CHANNELS.get(frame.channel) if frame else None
        if frame is None or channel is None:
            return None
        product = next((event.product for event in frame.events if event.product), None)
        return Stream(channel, product) if product else None

    def is_broadcast(self, line: TapeLine) -> bool:
        frame = received(line, _decode_frame)
        return frame is not None and frame.channel == "heartbeats"

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return _error("malformed JSON")
        if request.type not in ("subscribe", "unsubscribe"):
            return _error(f"{request.type} is no type")
        channel, products = request.channel, request.product_ids
        if channel not in ("heartbeats", *_CHANNELS.values()):
            return _error(f"{channel} is no channel")
        for product in products:
            if product not in self._products:
                return _error(f"{product} is no product")
        is_subscribe = request.type == "subscribe"
        of = {channel: products or [channel]} if is_subscribe else {}
        ack = _message("subscriptions", {"subscriptions": of}, "2026-08-09T21:05:48.228846629Z")
        streams = tuple(Stream(channel, product) for product in products)
        return Ack(streams, (ack.decode(),), not is_subscribe)

    def numbering(self) -> Callable[[bytes], bytes]:
        return _Numbers(self._holes)

    def rest_key(self, url: str) -> str | None:
        return "listing" if urlsplit(url).path.endswith("/market/products") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        match stream.channel:
            case "level2":
                return _Book(stream.native)
            case "market_trades":
                return _Trades()
        return _Ticker()

    def beats(self, streams: Collection[Stream]) -> tuple[str, ...]:
        return () if self._beat is None else (self._beat,)
