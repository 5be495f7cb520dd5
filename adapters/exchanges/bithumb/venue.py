"""Bithumb's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.bithumb.adapter import FEEDS
from adapters.tape import received

UP = '{"status":"UP"}'


class _Frame(msgspec.Struct):
    type: str = ""
    code: str = ""


class _Field(msgspec.Struct):
    """A part of a request: the ticket, a type with its codes, or the format."""

    ticket: str | None = None
    type: str | None = None
    codes: list[str] = []


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(list[_Field]).decode
_encode = msgspec.json.Encoder().encode


class _Last(Standing):
    """The last message, which who subscribes is told first."""

    def __init__(self) -> None:
        self._last: bytes | None = None

    def take(self, frame: bytes) -> None:
        self._last = frame.replace(b'"REALTIME"', b'"SNAPSHOT"')

    def told(self) -> bytes | None:
        return self._last


class BithumbVenue(Venue):
    """One request names all; codes that are not listed are passed over in silence."""

    # Only the connects are published.
    rules = Rules(frames=100, per_s=1.0, connects=10, connects_per_s=1.0)

    def __init__(self) -> None:
        self._natives: set[str] = set()

    def scan(self, line: TapeLine) -> None:
        stream = self.stream_of(line)
        if stream is not None:
            self._natives.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        if frame is None or frame.type not in FEEDS or not frame.code:
            return None
        return Stream(frame.type, frame.code)

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        if frame == "PING":
            return Ack((), (UP,))
        try:
            fields = _decode_request(frame)
        except (ValueError, RecursionError):
            return _refused("WRONG_FORMAT", "Format 이 맞지 않습니다.")
        if not any(field.ticket for field in fields):
            return _refused("NO_TICKET", "티켓이 존재하지 않거나, 유효하지 않습니다.")
        types = [field for field in fields if field.type is not None]
        if not types:
            return _refused("NO_TYPE", "type 필드가 존재하지 않습니다.")
        if not all(field.codes for field in types):
            return _refused("INVALID_PARAM", "codes 필드가 비어 있습니다.")
        streams = [
            Stream(field.type, code)
            for field in types
            for code in field.codes
            if field.type in FEEDS and code in self._natives
        ]
        return Ack(tuple(streams), ())

    def rest_key(self, url: str) -> str | None:
        return "listing" if urlsplit(url).path.endswith("/market/all") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        return _Last()


def _refused(name: str, message: str) -> Ack:
    return Ack((), (_encode({"error": {"name": name, "message": message}}).decode(),))
