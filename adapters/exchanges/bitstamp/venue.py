"""Bitstamp's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.bitstamp.frames import BOOK, DIFFS, micros, stream_of
from adapters.standing import CutBook, Level
from adapters.tape import received


class _Frame(msgspec.Struct):
    event: str = ""
    channel: str = ""


class _Channel(msgspec.Struct):
    channel: str = ""


class _Request(msgspec.Struct):
    event: str
    data: _Channel = msgspec.field(default_factory=_Channel)


class _Book(msgspec.Struct):
    timestamp: str
    microtimestamp: str
    bids: list[Level]
    asks: list[Level]


class _BookFrame(msgspec.Struct):
    data: _Book


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_book = msgspec.json.Decoder(_Book).decode
_decode_book_frame = msgspec.json.Decoder(_BookFrame).decode
_encode = msgspec.json.Encoder().encode


def _message(event: str, channel: str, data: Mapping[str, object]) -> str:
    return _encode({"event": event, "channel": channel, "data": data}).decode()


class _Whole(Standing):
    """A whole book: its last message says it all."""

    def __init__(self) -> None:
        self._last: bytes | None = None

    def take(self, frame: bytes) -> None:
        self._last = frame

    def told(self) -> bytes | None:
        return self._last


class _Depth(Standing):
    """A REST book: the recorded one and what has been sent since."""

    def __init__(self, native: str, body: bytes) -> None:
        self.key = f"depth:{native}"
        self._at = _decode_book(body)
        self._book = CutBook(self._at.bids, self._at.asks, ())

    def take(self, frame: bytes) -> None:
        change = _decode_book_frame(frame).data
        if micros(change.microtimestamp) > micros(self._at.microtimestamp):
            self._book.apply(change.bids, change.asks)
            self._at = change

    def told(self) -> bytes:
        bids, asks = self._book.told()
        return _encode(msgspec.structs.replace(self._at, bids=bids, asks=asks))


class BitstampVenue(Venue):
    """One channel a request; a refusal does not say which."""

    rules = Rules(frames=100, per_s=1.0, streams=200)

    def __init__(self) -> None:
        self._natives: set[str] = set()

    def scan(self, line: TapeLine) -> None:
        frame = received(line, _decode_frame)
        stream = stream_of(frame.channel) if frame is not None else None
        if stream is not None:
            self._natives.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        is_data = frame is not None and not frame.event.startswith("bts:")
        return stream_of(frame.channel) if frame is not None and is_data else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        refusal = _message("bts:error", "", {"code": None, "message": "Bad subscription string."})
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return Ack((), (refusal,))
        if request.event == "bts:heartbeat":
            return Ack((), (_message("bts:heartbeat", "", {"status": "success"}),))
        stream = stream_of(request.data.channel)
        is_asked = request.event in ("bts:subscribe", "bts:unsubscribe")
        if not is_asked or stream is None or stream.native not in self._natives:
            return Ack((), (refusal,))
        done = request.event.replace("scribe", "scription_succeeded")
        answer = _message(done, request.data.channel, {})
        return Ack((stream,), (answer,), request.event == "bts:unsubscribe")

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url).path.strip("/").split("/")
        match parts[-2:]:
            case [_, "markets"]:
                return "listing"
            case ["order_book", native]:
                return f"depth:{native}"
        return None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        if stream.channel == BOOK:
            return _Whole()
        recorded = bodies.get(f"depth:{stream.native}")
        is_diff = stream.channel == DIFFS
        return _Depth(stream.native, recorded[0]) if is_diff and recorded else None

    def farewell(self, now_ms: int) -> str | None:
        return _message("bts:request_reconnect", "", {})
