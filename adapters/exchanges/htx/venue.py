"""HTX's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from adapters import tape
from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.htx.frames import (
    Frame,
    RawLevel,
    Update,
    decode,
    decode_refresh,
    decode_update,
)
from adapters.standing import BookStanding, Level, raw


class _Request(msgspec.Struct):
    sub: str = ""
    unsub: str = ""
    req: str = ""
    ping: int | None = None
    pong: int | None = None
    id: str | int | None = None


_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


def _packed(message: dict[str, Any]) -> bytes:
    return gzip.compress(_encode(message), mtime=0)


def _texts(given: Iterable[RawLevel]) -> list[Level]:
    return [(str(price, "ascii"), str(size, "ascii")) for price, size in given]


class _Last(Standing):
    """What is told by the last frame alone: a state, a whole book, the last trade."""

    is_text = False

    def __init__(self) -> None:
        self._last: bytes | None = None

    def take(self, frame: bytes) -> None:
        self._last = frame

    def told(self) -> bytes | None:
        return self._last


class _Book(BookStanding):
    """An incremental book: who asks is sent the refresh, as late as the last update."""

    is_text = False

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._topic = topic
        self._seq = 0
        #: Updates of before the refresh, which lags them.
        self._held: list[Update] = []

    def take(self, frame: bytes) -> None:
        message = decode(frame)
        if message.rep:
            refresh = decode_refresh(message.data)
            self._seq = refresh.seq
            self.start(_texts(refresh.bids), _texts(refresh.asks))
            for held in self._held:
                self._apply(held)
            self._held.clear()
            return
        update = decode_update(message.tick)
        if self.is_begun:
            self._apply(update)
        else:
            self._held.append(update)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        bids, asks = (
            [[raw(price), raw(size)] for price, size in side]
            for side in (self.sides.bids(), self.sides.asks())
        )
        data = {"seqNum": self._seq, "bids": bids, "asks": asks}
        return _packed({"id": "told", "status": "ok", "ts": 0, "rep": self._topic, "data": data})

    def _apply(self, update: Update) -> None:
        if update.seq > self._seq:
            self.sides.apply(_texts(update.bids), _texts(update.asks))
            self._seq = update.seq


class HtxVenue(Venue):
    """Spot. Books are asked for where they are subscribed to: the tape has the answer, in its
    place, or the fake knows how the book stands."""

    rules = Rules(frames=12, per_s=1.0, code=1003)

    def __init__(self) -> None:
        self._natives: set[str] = set()
        self._listings: list[str] = []
        #: When a topic was acknowledged on the tape, ms.
        self._acked: dict[str, int] = {}

    def scan(self, line: TapeLine) -> None:
        if self.rest_key_of(line) == "listing" and line.raw is not None:
            self._listings.append(line.raw)
        frame = _received(line)
        if frame is not None and frame.subbed:
            self._acked.setdefault(frame.subbed, frame.ts)
        stream = self.stream_of(line)
        if stream is not None:
            self._natives.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = _received(line)
        return _stream(frame.ch or frame.rep) if frame is not None else None

    def is_broadcast(self, line: TapeLine) -> bool:
        frame = _received(line)
        return frame is not None and frame.ping is not None

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return _refusal("not json, is not json string", None)
        if request.pong is not None:
            return Ack((), ())
        if request.ping is not None:
            return Ack((), (), binary=(_packed({"pong": request.ping}),))
        topic = request.sub or request.unsub or request.req
        stream = _stream(topic)
        if stream is None:
            return _refusal(f"invalid topic {topic}", request.id)
        if not self._is_listed(stream.native):
            return _refusal(f"invalid symbol {stream.native}", request.id)
        if request.req:
            return Ack((), ())
        done = "subbed" if request.sub else "unsubbed"
        at = self._acked.get(topic, 0)
        answer = _packed({"id": request.id, "status": "ok", done: topic, "ts": at})
        return Ack((stream,), (), unsubscribe=bool(request.unsub), binary=(answer,))

    def rest_key(self, url: str) -> str | None:
        return "listing" if urlsplit(url).path.endswith("/common/symbols") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        is_book = stream.channel.startswith("mbp.") and ".refresh." not in stream.channel
        return _Book(f"market.{stream.native}.{stream.channel}") if is_book else _Last()

    def beats(self, streams: Collection[Stream]) -> tuple[bytes, ...]:
        return (_packed({"ping": 1}),)

    def _is_listed(self, native: str) -> bool:
        return native in self._natives or any(f'"{native}"' in one for one in self._listings)


def _received(line: TapeLine) -> Frame | None:
    """Return what a received frame says; None for any other line, and for what is no message."""
    if line.dir != "in":
        return None
    try:
        return decode(tape.body(line))
    except (ValueError, RecursionError):
        return None


def _stream(topic: str) -> Stream | None:
    """Read a topic (``market.btcusdt.mbp.150``); None where it names no instrument."""
    market, _, rest = topic.partition(".")
    native, _, channel = rest.partition(".")
    return Stream(channel, native) if market == "market" and native and channel else None


def _refusal(reason: str, request_id: str | int | None) -> Ack:
    said = {"status": "error", "err-code": "bad-request", "err-msg": reason, "ts": 0}
    if request_id is not None:
        said["id"] = request_id
    return Ack((), (), binary=(_packed(said),))
