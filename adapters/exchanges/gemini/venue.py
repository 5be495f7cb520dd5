"""Gemini's side of its streams, and of version 2, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.standing import BookStanding
from adapters.tape import received

_BOOK, _BEST, _TRADES, _OLD = "depth@100ms", "bookTicker", "trade", "l2"
_CHANNELS = (_BOOK, _BEST, _TRADES, "markPrice", "fundingAmount")


class _Frame(msgspec.Struct):
    e: str = ""
    s: str = ""
    t: int | None = None
    u: int | None = None
    type: str = ""
    symbol: str = ""


class _Named(msgspec.Struct):
    name: str
    symbols: list[str] = []


class _Request(msgspec.Struct):
    id: str | int | None = None
    method: str = ""
    params: list[str] = []
    type: str = ""
    subscriptions: list[_Named] = []


_decode = msgspec.json.Decoder().decode
_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


class _Book(BookStanding):
    """A stream's first update is the whole book."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, Any] = {}

    def take(self, frame: bytes) -> None:
        self._last = _decode(frame)
        if self.is_begun:
            self.sides.apply(self._last["b"], self._last["a"])
        else:
            self.start(self._last["b"], self._last["a"])

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        whole = {"U": self._last["u"], "b": self.sides.bids(), "a": self.sides.asks()}
        return _encode(self._last | whole)


class _OldBook(BookStanding):
    def __init__(self, symbol: str) -> None:
        super().__init__()
        self._symbol = symbol

    def take(self, frame: bytes) -> None:
        message = _decode(frame)
        if message["type"] != "l2_updates":
            return
        bids, asks = (
            [(price, size) for side, price, size in message["changes"] if side == name]
            for name in ("buy", "sell")
        )
        if "trades" in message or "auction_events" in message:
            self.start(bids, asks)
        else:
            self.sides.apply(bids, asks)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        bids, asks = self.sides.bids(), self.sides.asks()
        changes = [("buy", *one) for one in bids] + [("sell", *one) for one in asks]
        lists = {"changes": changes, "trades": [], "auction_events": []}
        return _encode({"type": "l2_updates", "symbol": self._symbol} | lists)


def _stream(frame: _Frame) -> Stream | None:
    if frame.type:
        is_data = frame.type in ("l2_updates", "trade") and frame.symbol
        return Stream(_OLD, frame.symbol) if is_data else None
    native = frame.s.upper()
    if not native:
        return None
    if frame.e == "depthUpdate":
        return Stream(_BOOK, native)
    if frame.e in _CHANNELS:
        return Stream(frame.e, native)
    if frame.e:
        return None
    return Stream(_BEST if frame.t is None else _TRADES, native)


class GeminiVenue(Venue):
    """Tapes of either kind are served in their own words."""

    # Nothing is published.
    rules = Rules(frames=20, per_s=1.0, connects=20, connects_per_s=1.0)

    def __init__(self) -> None:
        self._natives: set[str] = set()

    def scan(self, line: TapeLine) -> None:
        stream = self.stream_of(line)
        if stream is not None:
            self._natives.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        return _stream(frame) if frame is not None else None

    def is_broadcast(self, line: TapeLine) -> bool:
        frame = received(line, _decode_frame)
        return frame is not None and frame.type == "heartbeat"

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return self._reply(None, -1013, "Invalid parameters")
        if request.type:
            streams = [
                Stream(one.name, symbol)
                for one in request.subscriptions
                for symbol in one.symbols
                if symbol in self._natives
            ]
            return Ack(tuple(streams), (), request.type == "unsubscribe")
        if request.method == "ping":
            return self._reply(request.id)
        if request.method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            return self._reply(request.id, -1020, "Unsupported operation")
        streams = []
        for one in request.params:
            symbol, _, channel = one.partition("@")
            if symbol.upper() not in self._natives or channel not in _CHANNELS:
                return self._reply(request.id, -1013, f"Invalid stream {one}")
            streams.append(Stream(channel, symbol.upper()))
        reply = self._reply(request.id)
        return Ack(tuple(streams), reply.frames, request.method == "UNSUBSCRIBE")

    def rest_key(self, url: str) -> str | None:
        return "listing" if urlsplit(url).path.endswith("/symbols/details/all") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        match stream.channel:
            case "depth@100ms":
                return _Book()
            case "l2":
                return _OldBook(stream.native)
        return None

    def _reply(self, number: str | int | None, code: int = 0, reason: str = "") -> Ack:
        fields: dict[str, Any] = {"id": number, "status": 400 if code else 200}
        if code:
            fields["error"] = {"code": code, "msg": reason}
        return Ack((), (_encode(fields).decode(),))
