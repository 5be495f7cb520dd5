"""Bybit v5's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.standing import BookStanding
from adapters.tape import received

#: Arguments a request, on spot.
_MOST_ARGS = 10


class _Frame(msgspec.Struct):
    topic: str = ""
    op: str = ""
    success: bool = False


class _Request(msgspec.Struct):
    op: str
    args: list[str] = []
    req_id: str | int | None = None


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _Book(BookStanding):
    """A book of ``depth`` levels: an update does not say which ones it pushes out."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._depth = depth
        self._last: dict[str, Any] = {}

    def take(self, frame: bytes) -> None:
        self._last = _decode(frame)
        data = self._last["data"]
        if self._last["type"] == "snapshot" or data["u"] == 1:
            self.start(data["b"], data["a"])
        else:
            self.sides.apply(data["b"], data["a"])
            self.sides.cut(self._depth)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        data = self._last["data"] | {"b": self.sides.bids(), "a": self.sides.asks()}
        return _encode(self._last | {"type": "snapshot", "data": data})


class _Ticker(Standing):
    """A contract's ticker: its deltas name what has changed."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}

    def take(self, frame: bytes) -> None:
        message = _decode(frame)
        known = self._last.get("data", {}) if message["type"] == "delta" else {}
        self._last = message | {"type": "snapshot", "data": known | message["data"]}

    def told(self) -> bytes | None:
        return _encode(self._last) if self._last else None


def _stream(topic: str) -> Stream | None:
    """Read a topic (``orderbook.200.BTCUSDT``); None where it names no instrument."""
    channel, _, native = topic.rpartition(".")
    return Stream(channel, native) if channel and native else None


class BybitVenue(Venue):
    """Spot. A tape may hold several markets: a connection's URL says which it is of."""

    rules = Rules(frames=500, per_s=1.0, connects=500, connects_per_s=300.0)

    category: ClassVar[str] = "spot"

    def __init__(self) -> None:
        #: Connection -> whether it is of this market.
        self._is_ours: dict[str, bool] = {}
        self._ack: dict[str, Any] = {"success": True, "ret_msg": "", "op": "subscribe"}
        self._natives: set[str] = set()
        self._listings: list[str] = []

    def scan(self, line: TapeLine) -> None:
        if line.url is not None and line.conn is not None and line.dir != "rest":
            self._is_ours[line.conn] = urlsplit(line.url).path.endswith(f"/{self.category}")
        if self.rest_key_of(line) == "listing" and line.raw is not None:
            self._listings.append(line.raw)
        stream = self.stream_of(line)
        if stream is not None:
            self._natives.add(stream.native)
        frame = self._ours(line)
        if frame is not None and frame.op == "subscribe" and frame.success and line.raw:
            self._ack = _decode(line.raw)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = self._ours(line)
        return _stream(frame.topic) if frame is not None else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return self._reply({"success": False, "ret_msg": "error:invalid json", "op": ""}, None)
        op, req_id = request.op, request.req_id
        if op == "ping":
            return self._reply({"success": True, "ret_msg": "pong", "op": "ping"}, req_id)
        if op not in ("subscribe", "unsubscribe"):
            return self._reply({"success": False, "ret_msg": "error:unknown op", "op": op}, req_id)
        if self.category == "spot" and len(request.args) > _MOST_ARGS:
            reason = f"args size >{_MOST_ARGS}"
            return self._reply({"success": False, "ret_msg": reason, "op": op}, req_id)
        streams = []
        for topic in request.args:
            stream = _stream(topic)
            if stream is None or not self._is_listed(stream.native):
                reason = f"error:handler not found,topic:{topic}"
                return self._reply({"success": False, "ret_msg": reason, "op": op}, req_id)
            streams.append(stream)
        answer = self._reply(self._ack | {"op": op}, req_id)
        return Ack(tuple(streams), answer.frames, op == "unsubscribe")

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        is_ours = parse_qs(parts.query).get("category") == [self.category]
        return "listing" if is_ours and parts.path.endswith("/instruments-info") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        name, _, depth = stream.channel.partition(".")
        if name == "orderbook":
            return _Book(int(depth))
        return _Ticker() if name == "tickers" else None

    def _ours(self, line: TapeLine) -> _Frame | None:
        if line.conn is not None and not self._is_ours.get(line.conn, True):
            return None
        return received(line, _decode_frame)

    def _is_listed(self, native: str) -> bool:
        return native in self._natives or any(f'"{native}"' in one for one in self._listings)

    def _reply(self, fields: dict[str, Any], req_id: str | int | None) -> Ack:
        named = fields if req_id is None else fields | {"req_id": req_id}
        return Ack((), (_encode(named).decode(),))


class BybitLinearVenue(BybitVenue):
    """Linear perpetuals and futures."""

    category = "linear"


class BybitInverseVenue(BybitVenue):
    """Inverse perpetuals and futures."""

    category = "inverse"
