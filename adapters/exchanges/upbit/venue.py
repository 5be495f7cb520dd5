"""Upbit's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.tape import received

_CHANNELS = ("orderbook", "trade", "ticker")
_UP = b'{"status":"UP"}'


class _Frame(msgspec.Struct):
    """Of either format."""

    type: str = ""
    code: str = ""
    ty: str = ""
    cd: str = ""


class _Field(msgspec.Struct):
    """A part of a request: the ticket, a type with its codes, or the format."""

    ticket: str | None = None
    type: str | None = None
    codes: list[str] = []


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(list[_Field]).decode
_encode = msgspec.json.Encoder().encode


class _Last(Standing):
    """The last message, which who asks is told first."""

    is_text = False

    def __init__(self) -> None:
        self._last: bytes | None = None

    def take(self, frame: bytes) -> None:
        self._last = frame.replace(b'"REALTIME"', b'"SNAPSHOT"')

    def told(self) -> bytes | None:
        return self._last


def _refused(name: str, message: str) -> Ack:
    return Ack((), (), binary=(_encode({"error": {"name": name, "message": message}}),))


class UpbitVenue(Venue):
    """Every request names all that is wanted; codes that are not listed are named in the error."""

    # 100 a minute, too.
    rules = Rules(frames=5, per_s=1.0, connects=5, connects_per_s=1.0)

    def __init__(self) -> None:
        self._natives: set[str] = set()

    def scan(self, line: TapeLine) -> None:
        stream = self.stream_of(line)
        if stream is not None:
            self._natives.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        if frame is None:
            return None
        channel, native = frame.type or frame.ty, frame.code or frame.cd
        return Stream(channel, native) if channel in _CHANNELS and native else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        if frame == "PING":
            return Ack((), (), binary=(_UP,))
        try:
            fields = _decode_request(frame)
        except (ValueError, RecursionError):
            return _refused("WRONG_FORMAT", "the format is wrong")
        if not any(field.ticket for field in fields):
            return _refused("NO_TICKET", "there is no ticket")
        types = [field for field in fields if field.type is not None]
        if not types:
            return _refused("NO_TYPE", "there is no type")
        streams = [Stream(field.type or "", code) for field in types for code in field.codes]
        if not streams:
            return _refused("NO_CODES", "there are no codes")
        for one in streams:
            if one.channel not in _CHANNELS or one.native not in self._natives:
                return _refused("INVALID_PARAM", f"{one.channel} of {one.native} is not known")
        return Ack(tuple(streams), ())

    def rest_key(self, url: str) -> str | None:
        return "listing" if urlsplit(url).path.endswith("/market/all") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        return _Last()
