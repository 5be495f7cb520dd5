"""Kraken's side of WebSocket v2, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.standing import BookStanding, Level, raw
from adapters.tape import received

#: What a book can be asked for; one whose ack is not on the tape is of the least that holds it.
_DEPTHS = (10, 25, 100, 500, 1000)


class _Entry(msgspec.Struct):
    symbol: str = ""
    bids: list[Any] = []


class _Result(msgspec.Struct):
    channel: str
    symbol: str = ""
    depth: int | None = None


class _Frame(msgspec.Struct):
    channel: str = ""
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")
    method: str = ""
    success: bool = True
    result: _Result | None = None


class _Params(msgspec.Struct):
    channel: str = ""
    symbol: list[str] = []


class _Request(msgspec.Struct):
    method: str
    params: _Params = msgspec.field(default_factory=_Params)
    req_id: int | None = None


class _Level(msgspec.Struct):
    price: msgspec.Raw
    qty: msgspec.Raw

    def text(self) -> Level:
        return str(self.price, "ascii"), str(self.qty, "ascii")


class _Book(msgspec.Struct, omit_defaults=True):
    symbol: str
    bids: list[_Level]
    asks: list[_Level]
    checksum: int
    timestamp: str | None = None


class _BookFrame(msgspec.Struct):
    channel: str
    type: str
    data: list[_Book]


_decode_book = msgspec.json.Decoder(_BookFrame).decode
_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_data = msgspec.json.Decoder(list[_Entry]).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def _reply(fields: dict[str, Any], req_id: int | None) -> str:
    return _encode(fields if req_id is None else fields | {"req_id": req_id}).decode()


class _Standing(BookStanding):
    """A book of ``depth`` levels; the checksum of its last change is that of the whole."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._depth = depth
        self._last: _Book | None = None

    def take(self, frame: bytes) -> None:
        message = _decode_book(frame)
        (self._last,) = message.data
        bids = [level.text() for level in self._last.bids]
        asks = [level.text() for level in self._last.asks]
        if message.type == "snapshot":
            self.start(bids, asks)
        else:
            self.sides.apply(bids, asks)
            self.sides.cut(self._depth)

    def told(self) -> bytes | None:
        if self._last is None or not self.is_begun:
            return None
        bids, asks = (
            [_Level(raw(price), raw(size)) for price, size in side]
            for side in (self.sides.bids(), self.sides.asks())
        )
        book = msgspec.structs.replace(self._last, bids=bids, asks=asks)
        return _encode(_BookFrame("book", "snapshot", [book]))


class KrakenVenue(Venue):
    """One ack a symbol; of a book it says the depth that the tape has, whatever was asked."""

    rules = Rules(
        frames=20, per_s=1.0, connects=150, connects_per_s=600.0, reason="Exceeded msg rate"
    )

    def __init__(self) -> None:
        #: (channel, symbol) -> the recorded ack.
        self._acks: dict[tuple[str, str], dict[str, Any]] = {}
        self._depths: dict[str, int] = {}
        self._symbols: set[str] = set()

    def scan(self, line: TapeLine) -> None:
        frame = received(line, _decode_frame)
        if frame is None:
            return
        served = frame.result
        if frame.method == "subscribe" and frame.success and served and line.raw:
            self._acks.setdefault((served.channel, served.symbol), _decode(line.raw))
            self._symbols.add(served.symbol)
            if served.depth:
                self._depths.setdefault(served.symbol, served.depth)
        for entry in self._entries(frame):
            self._symbols.add(entry.symbol)
            if frame.channel == "book" and frame.type == "snapshot":
                fitting = (depth for depth in _DEPTHS if depth >= len(entry.bids))
                self._depths.setdefault(entry.symbol, next(fitting, _DEPTHS[-1]))

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        entries = self._entries(frame) if frame else []
        if not frame or not entries:
            return None
        return self._stream(frame.channel, entries[0].symbol)

    def is_broadcast(self, line: TapeLine) -> bool:
        frame = received(line, _decode_frame)
        return frame is not None and frame.channel in ("heartbeat", "status")

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return Ack((), (_reply({"error": "Malformed request", "success": False}, None),))
        method, req_id = request.method, request.req_id
        if method == "ping":
            return Ack((), (_reply({"method": "pong"}, req_id),))
        if method not in ("subscribe", "unsubscribe"):
            refusal = {"error": "Method not supported", "method": method, "success": False}
            return Ack((), (_reply(refusal, req_id),))
        channel = request.params.channel
        known = [symbol for symbol in request.params.symbol if symbol in self._symbols]
        frames = tuple(
            _reply(self._answer(method, channel, symbol), req_id)
            for symbol in request.params.symbol
        )
        streams = tuple(self._stream(channel, symbol) for symbol in known)
        return Ack(streams, frames, method == "unsubscribe")

    def rest_key(self, url: str) -> str | None:
        return "listing" if urlsplit(url).path.endswith("/AssetPairs") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        name, _, depth = stream.channel.partition("-")
        return _Standing(int(depth)) if name == "book" else None

    def beats(self, streams: Collection[Stream]) -> tuple[str, ...]:
        return ('{"channel":"heartbeat"}',)

    def _entries(self, frame: _Frame) -> list[_Entry]:
        """Return a data frame's entries that have a symbol."""
        try:
            entries = _decode_data(frame.data) if frame.channel else []
        except (ValueError, RecursionError):
            return []
        return [entry for entry in entries if entry.symbol]

    def _stream(self, channel: str, symbol: str) -> Stream:
        """Name a stream as the adapter does: a book with its depth."""
        if channel == "book":
            return Stream(f"book-{self._depths.get(symbol, _DEPTHS[0])}", symbol)
        return Stream(channel, symbol)

    def _answer(self, method: str, channel: str, symbol: str) -> dict[str, Any]:
        if symbol not in self._symbols:
            error = f"Currency pair not supported {symbol}"
            return {"error": error, "method": method, "success": False, "symbol": symbol}
        recorded = self._acks.get((channel, symbol))
        if recorded is not None and method == "subscribe":
            return recorded
        result: dict[str, Any] = {"channel": channel, "symbol": symbol}
        if channel == "book":
            result["depth"] = self._depths.get(symbol, _DEPTHS[0])
        return {"method": method, "result": result, "success": True}
