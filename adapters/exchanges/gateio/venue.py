"""Gate v4's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.standing import BookStanding, Sides, raw
from adapters.tape import received

#: Levels a side that a REST book is asked for, and that ``order_book_update`` tells of.
_LEVELS = 100


class _Named(msgspec.Struct):
    """What a result may be named by."""

    currency_pair: str = ""
    contract: str = ""
    s: str = ""


class _Frame(msgspec.Struct):
    channel: str = ""
    event: str = ""
    error: Any = None
    result: _Named | list[_Named] | None = None


class _Request(msgspec.Struct):
    channel: str
    event: str = ""
    payload: list[str] = []
    id: int | None = None


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode = msgspec.json.Decoder(float_hook=str).decode
_encode = msgspec.json.Encoder().encode


def _pairs(levels: Sequence[Any]) -> list[tuple[str, str]]:
    """Return levels of either form as texts."""
    return [
        (str(one["p"]), str(one["s"])) if isinstance(one, dict) else (str(one[0]), str(one[1]))
        for one in levels
    ]


class _Full(BookStanding):
    """A book of ``obu``: it is told as a full update."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self._levels = levels
        self._last: dict[str, Any] = {}

    def take(self, frame: bytes) -> None:
        self._last = _decode(frame)
        result = self._last["result"]
        bids, asks = _pairs(result.get("b", [])), _pairs(result.get("a", []))
        if result.get("full"):
            self.start(bids, asks)
        else:
            self.sides.apply(bids, asks)
            self.sides.cut(self._levels)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        last = self._last["result"]
        result = {name: last[name] for name in ("t", "s", "u")}
        levels = {"b": self.sides.bids(), "a": self.sides.asks()}
        return _encode(self._last | {"result": result | {"full": True} | levels})


class _Rest(Standing):
    """A REST book: the recorded one and what has been sent since."""

    def __init__(self, native: str, body: bytes) -> None:
        self.key = f"depth:{native}"
        self._body = _decode(body)
        self._is_of_objects = any(isinstance(one, dict) for one in self._body["bids"])
        self._sides = Sides()
        self._sides.apply(_pairs(self._body["bids"]), _pairs(self._body["asks"]))

    def take(self, frame: bytes) -> None:
        update = _decode(frame)["result"]
        if update["u"] > self._body["id"]:
            self._body["id"] = update["u"]
            self._sides.apply(_pairs(update["b"]), _pairs(update["a"]))
            self._sides.cut(_LEVELS)

    def told(self) -> bytes:
        sides = {"asks": self._sides.asks(), "bids": self._sides.bids()}
        if self._is_of_objects:
            of_objects = {
                name: [{"s": raw(size), "p": price} for price, size in levels]
                for name, levels in sides.items()
            }
            return _encode({"id": self._body["id"], **of_objects})
        return _encode({"id": self._body["id"], **sides})


class GateIoVenue(Venue):
    """Spot."""

    rules = Rules(frames=100, per_s=1.0, connects=300, connects_per_s=60.0)
    market: ClassVar[str] = "spot"
    path: ClassVar[str] = "/ws/v4"
    #: REST path of the book and the name of its symbol; and of the listing.
    book_path: ClassVar[tuple[str, str]] = ("/spot/order_book", "currency_pair")
    listing_path: ClassVar[str] = "/spot/currency_pairs"
    unknown: ClassVar[str] = "unknown currency pair {}"

    def __init__(self) -> None:
        #: Connection -> whether it is of this market.
        self._is_ours: dict[str, bool] = {}
        self._natives: set[str] = set()
        self._listings: list[str] = []

    def scan(self, line: TapeLine) -> None:
        if line.url is not None and line.conn is not None and line.dir != "rest":
            self._is_ours[line.conn] = urlsplit(line.url).path.rstrip("/") == self.path
        if self.rest_key_of(line) == "listing" and line.raw is not None:
            self._listings.append(line.raw)
        stream = self.stream_of(line)
        if stream is not None:
            self._natives.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        if line.conn is not None and not self._is_ours.get(line.conn, True):
            return None
        frame = received(line, _decode_frame)
        if frame is None or frame.event in ("subscribe", "unsubscribe") or frame.error is not None:
            return None
        market, _, channel = frame.channel.partition(".")
        named = frame.result[0] if isinstance(frame.result, list) and frame.result else frame.result
        if market != self.market or not isinstance(named, _Named):
            return None
        if channel == "obu":
            return _stream(channel, named.s)
        native = named.currency_pair or named.contract or named.s
        return Stream(channel, native) if native else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return self._reply("", "", error={"code": 1, "message": "invalid request"})
        channel, event = request.channel, request.event
        market, _, name = channel.partition(".")
        if name == "ping":
            return self._reply(f"{market}.pong", "", result=None)
        asked: dict[str, Any] = {"id": request.id, "payload": request.payload}
        names = request.payload[:1] if name == "order_book_update" else request.payload
        streams = tuple(_stream(name, one) for one in names)
        for stream in streams:
            if market != self.market or not self._is_listed(stream.native):
                error = {"code": 2, "message": self.unknown.format(stream.native)}
                result = {"status": "fail"}
                return self._reply(channel, event, **asked, error=error, result=result)
        answer = self._reply(channel, event, **asked, result={"status": "success"})
        return Ack(streams, answer.frames, event == "unsubscribe")

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        path, name = self.book_path
        if parts.path.endswith(path):
            symbol = parse_qs(parts.query).get(name)
            return f"depth:{symbol[0]}" if symbol else None
        return "listing" if parts.path.endswith(self.listing_path) else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        name, _, levels = stream.channel.partition(".")
        if name == "obu":
            return _Full(int(levels))
        recorded = bodies.get(f"depth:{stream.native}")
        if name == "order_book_update" and recorded:
            return _Rest(stream.native, recorded[0])
        return None

    def _is_listed(self, native: str) -> bool:
        return native in self._natives or any(f'"{native}"' in one for one in self._listings)

    def _reply(self, channel: str, event: str, **fields: object) -> Ack:
        return Ack((), (_encode({"channel": channel, "event": event, **fields}).decode(),))


def _stream(channel: str, name: str) -> Stream:
    """Return a channel's stream by its name: ``ob.BTC_USDT.400`` where it is a book's."""
    if channel != "obu":
        return Stream(channel, name)
    native, _, levels = name.removeprefix("ob.").rpartition(".")
    return Stream(f"obu.{levels}", native)


class GateIoFuturesVenue(GateIoVenue):
    """Perpetuals that settle in USDT."""

    market = "futures"
    path = "/v4/ws/usdt"
    book_path = ("/futures/usdt/order_book", "contract")
    listing_path = "/futures/usdt/contracts"
    unknown = "unknown contract {}"
