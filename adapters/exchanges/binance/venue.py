"""Binance's side of its protocol, spot and futures, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.binance.streams import owner_of
from adapters.standing import CutBook, Level


class _Frame(msgspec.Struct):
    """A received frame, wrapped or bare; answers have none of this."""

    stream: str = ""
    e: str = ""
    s: str = ""
    B: Any = None
    o: Any = None


class _Request(msgspec.Struct):
    method: str
    params: list[str] = []
    id: int | str | None = None


class _Update(msgspec.Struct):
    u: int
    b: list[Level]
    a: list[Level]
    E: int | None = None


class _Wrapped(msgspec.Struct):
    data: _Update


class _Snapshot(msgspec.Struct, omit_defaults=True):
    lastUpdateId: int
    bids: list[Level]
    asks: list[Level]
    E: int | None = None


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode
_decode_update = msgspec.json.Decoder(_Update).decode
_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode

#: Of bare payloads: ``e`` -> channel.
_CHANNELS = {"depthUpdate": "depth", "24hrTicker": "ticker", "markPriceUpdate": "markPrice"}
#: Levels a side that a REST book may be asked for: one with exactly so many was cut there.
_CUTS = (5000, 1000, 500, 100, 50, 20, 10, 5)


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


class _Depth(Standing):
    """A REST book: the recorded one and what has been sent since."""

    def __init__(self, native: str, body: bytes) -> None:
        self.key = f"depth:{native}"
        start = _decode_snapshot(body)
        self._id = start.lastUpdateId
        self._E = start.E
        self._book = CutBook(start.bids, start.asks, _CUTS)

    def take(self, frame: bytes) -> None:
        is_wrapped = frame.startswith(b'{"stream"')
        update = _decode_wrapped(frame).data if is_wrapped else _decode_update(frame)
        if update.u <= self._id:
            return
        self._id = update.u
        self._E = None if self._E is None else update.E
        self._book.apply(update.b, update.a)

    def told(self) -> bytes:
        return _encode(_Snapshot(self._id, *self._book.told(), self._E))


class BinanceVenue(Venue):
    """Streams are named by the URL (``/stream?streams=a/b``, ``/ws/a/b``, also below the futures'
    ``/public`` and ``/market``) or by ``SUBSCRIBE`` frames."""

    rules = Rules(
        frames=5,
        per_s=1.0,
        streams=1_024,
        connects=300,
        connects_per_s=300.0,
        reason="Too many requests",
    )

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
        native = frame.s or owner_of(frame.o)
        if not native or not (frame.e or frame.B is not None):
            return None
        return Stream(_CHANNELS.get(frame.e, frame.e or "bookTicker"), native)

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

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        recorded = bodies.get(f"depth:{stream.native}")
        is_depth = stream.channel.partition("@")[0] == "depth"
        return _Depth(stream.native, recorded[0]) if is_depth and recorded else None

    def farewell(self, now_ms: int) -> str | None:
        data = {"e": "serverShutdown", "E": now_ms}
        return _answer(stream="!serverShutdown", data=data)


class BinanceUsVenue(BinanceVenue):
    """Binance.US says the same, but for the farewell, which it does not document."""

    def farewell(self, now_ms: int) -> str | None:
        return None


class BinanceUsdmVenue(BinanceVenue):
    """The futures speak the same, but for the farewell, which is documented for spot alone."""

    rules = Rules(
        frames=10,
        per_s=1.0,
        streams=200,
        connects=300,
        connects_per_s=300.0,
        reason="Too many requests",
    )

    def farewell(self, now_ms: int) -> str | None:
        return None


class BinanceCoinmVenue(BinanceUsdmVenue):
    """COIN-M: the same on another host."""
