"""Binance's side of its protocol, spot and futures, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from adapters.base import Ack, Stream, TapeLine, Venue


class _Frame(msgspec.Struct):
    """A received frame, wrapped or bare; answers have none of this."""

    stream: str = ""
    e: str = ""
    s: str = ""
    B: Any = None


class _Request(msgspec.Struct):
    method: str
    params: list[str] = []
    id: int | str | None = None


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode

#: Of bare payloads: ``e`` -> channel.
_CHANNELS = {"depthUpdate": "depth", "24hrTicker": "ticker", "markPriceUpdate": "markPrice"}


def _stream(name: str) -> Stream | None:
    """Read a stream's name; None for those of no instrument (``!bookTicker``)."""
    native, _, channel = name.partition("@")
    if not channel or native.startswith("!"):
        return None
    return Stream(channel, native.upper())


def _streams(names: Iterable[str]) -> tuple[Stream, ...]:
    return tuple(stream for name in names if (stream := _stream(name)) is not None)


def _answer(**fields: object) -> str:
    return _encode(fields).decode()


class BinanceVenue(Venue):
    """Streams are named by the URL (``/stream?streams=a/b``, ``/ws/a/b``, also below the futures'
    ``/public`` and ``/market``) or by ``SUBSCRIBE`` frames."""

    def __init__(self) -> None:
        #: Symbols whose depth updates are on the tape.
        self._books: set[str] = set()

    def scan(self, line: TapeLine) -> None:
        stream = self.stream_of(line)
        if stream is not None and stream.channel.partition("@")[0] == "depth":
            self._books.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        if line.dir != "in" or line.raw is None:
            return None
        try:
            frame = _decode_frame(line.raw)
        except (ValueError, RecursionError):
            return None
        if frame.stream:
            return _stream(frame.stream)
        if not frame.s or not (frame.e or frame.B is not None):
            return None
        return Stream(_CHANNELS.get(frame.e, frame.e or "bookTicker"), frame.s)

    def is_broadcast(self, line: TapeLine) -> bool:
        return line.dir == "in" and line.raw is not None and '"serverShutdown"' in line.raw

    def connected(self, path: str) -> Ack:
        url = urlsplit(path)
        _, found, raw = url.path.partition("/ws/")
        wanted = unquote(raw) if found else "".join(parse_qs(url.query).get("streams", []))
        return Ack(_streams(wanted.split("/")), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError) as e:
            return Ack((), (_answer(error={"code": 3, "msg": f"Invalid JSON: {e}"}),))
        if request.method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            error = {"code": 2, "msg": f"Invalid request: unknown method {request.method}"}
            return Ack((), (_answer(error=error, id=request.id),))
        return Ack(
            _streams(request.params),
            (_answer(result=None, id=request.id),),
            request.method == "UNSUBSCRIBE",
        )

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        name = parts.path.rpartition("/")[2]
        if name == "exchangeInfo":
            return "listing"
        symbol = parse_qs(parts.query).get("symbol")
        return f"depth:{symbol[0]}" if name == "depth" and symbol else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        if line.url is not None:
            return self.rest_key(line.url)
        head = "" if line.raw is None else line.raw[:200]
        if '"lastUpdateId"' in head and len(self._books) == 1:
            return f"depth:{next(iter(self._books))}"
        return "listing" if '"serverTime"' in head else None


class BinanceUsdmVenue(BinanceVenue):
    """The futures speak the same."""
