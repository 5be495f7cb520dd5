"""MEXC's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs, urlsplit

import msgspec

from adapters import tape
from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.mexc.book import LIMIT
from adapters.exchanges.mexc.frames import read, read_update, stream_of
from adapters.standing import CutBook, Level

#: Most subscriptions of a connection; further ones are refused.
_MOST = 30


class _Request(msgspec.Struct):
    method: str
    params: list[str] = []
    id: int = 0


class _Snapshot(msgspec.Struct, omit_defaults=True):
    lastUpdateId: int
    bids: list[Level]
    asks: list[Level]
    timestamp: int | None = None


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode
_encode = msgspec.json.Encoder().encode


def _reply(id: int, msg: str, code: int = 0) -> str:
    return _encode({"id": id, "code": code, "msg": msg}).decode()


class _Depth(Standing):
    """A REST book: the recorded one and what has been sent since."""

    def __init__(self, native: str, body: bytes) -> None:
        self.key = f"depth:{native}"
        start = _decode_snapshot(body)
        self._version = start.lastUpdateId
        self._timestamp = start.timestamp
        self._book = CutBook(start.bids, start.asks, {LIMIT, 1_000})

    def take(self, frame: bytes) -> None:
        wrapper = read(frame)
        if wrapper.body is None:
            return
        update = read_update(wrapper.body)
        if update.last > self._version:
            self._version = update.last
            self._timestamp = wrapper.ts and wrapper.ts // 1_000
            self._book.apply(update.bids, update.asks)

    def told(self) -> bytes:
        return _encode(_Snapshot(self._version, *self._book.told(), self._timestamp))


class MexcVenue(Venue):
    """Data is binary, answers are text. A symbol that is not on the tape is refused."""

    rules = Rules(frames=100, per_s=1.0, streams=_MOST)

    def __init__(self) -> None:
        self._natives: set[str] = set()

    def scan(self, line: TapeLine) -> None:
        stream = self.stream_of(line)
        if stream is not None:
            self._natives.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        if line.dir != "in" or tape.is_text(line):
            return None
        try:
            return stream_of(read(tape.body(line)).name)
        except ValueError:
            return None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return Ack((), (_reply(0, "msg format invalid", 1),))
        if request.method == "PING":
            return Ack((), (_reply(request.id, "PONG"),))
        if request.method not in ("SUBSCRIPTION", "UNSUBSCRIPTION"):
            return Ack((), (_reply(request.id, "method invalid", 1),))
        named = {name: stream_of(name) for name in request.params}
        streams = [one for one in named.values() if one and one.native in self._natives]
        refused = [name for name, one in named.items() if one not in streams]
        served = [name for name in named if name not in refused]
        frames = [_reply(request.id, ",".join(served))] if served else []
        if refused:
            reason = f"Not Subscribed successfully! [{','.join(refused)}].  Reason： Blocked! "
            frames.append(_reply(request.id, reason))
        return Ack(tuple(streams), tuple(frames), request.method == "UNSUBSCRIPTION")

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        name = parts.path.rpartition("/")[2]
        if name == "exchangeInfo":
            return "listing"
        symbol = parse_qs(parts.query).get("symbol")
        return f"depth:{symbol[0]}" if name == "depth" and symbol else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        recorded = bodies.get(f"depth:{stream.native}")
        is_depth = stream.channel.startswith("aggre.depth")
        return _Depth(stream.native, recorded[0]) if is_depth and recorded else None
