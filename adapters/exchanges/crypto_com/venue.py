"""Crypto.com's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.crypto_com.frames import decode
from adapters.standing import BookStanding, Level, raw
from adapters.tape import received

#: Trades that who subscribes is told.
_PAST = 50


class _Params(msgspec.Struct):
    channels: list[str] = []


class _Request(msgspec.Struct):
    method: str
    id: int | None = None
    params: _Params = msgspec.field(default_factory=_Params)


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_trades = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _Side(msgspec.Struct):
    bids: list[tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]] = []
    asks: list[tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]] = []


class _Told(_Side):
    """A book's message: a whole one, or a change of it."""

    update: _Side | None = None
    t: int = 0
    u: int | None = None


_decode_told = msgspec.json.Decoder(tuple[_Told]).decode


def _levels(side: list[tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]]) -> list[Level]:
    return [(str(one[0], "ascii").strip('"'), str(one[1], "ascii").strip('"')) for one in side]


class _Book(BookStanding):
    """A book; the numbers of orders are not kept."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, Any] = {}
        self._is_text = True

    def take(self, frame: bytes) -> None:
        self._last = _decode(frame)
        result = decode(frame).result
        assert result is not None
        (told,) = _decode_told(result.data)
        if told.update is not None:
            self.sides.apply(_levels(told.update.bids), _levels(told.update.asks))
            return
        self.start(_levels(told.bids), _levels(told.asks))
        first = next(iter([*told.bids, *told.asks]), None)
        self._is_text = first is None or bytes(first[0]).startswith(b'"')

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        last = self._last["result"]
        sides = {
            name: [self._level(level) for level in side]
            for name, side in (("bids", self.sides.bids()), ("asks", self.sides.asks()))
        }
        numbers = {name: last["data"][0][name] for name in ("t", "u") if name in last["data"][0]}
        result = last | {"channel": "book", "data": [sides | numbers]}
        return _encode(self._last | {"result": result})

    def _level(self, level: Level) -> list[object]:
        price, size = level
        return [price, size, "1"] if self._is_text else [raw(price), raw(size), 1]


class _Trades(Standing):
    """The last trades, newest first, as the answer to a request."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._trades: deque[msgspec.Raw] = deque(maxlen=_PAST)

    def take(self, frame: bytes) -> None:
        self._last = _decode(frame)
        result = decode(frame).result
        assert result is not None
        self._trades.extend(reversed(_decode_trades(result.data)))

    def told(self) -> bytes | None:
        if not self._last:
            return None
        result = self._last["result"] | {"data": list(reversed(self._trades))}
        return _encode(self._last | {"id": 1, "result": result})


class _Last(Standing):
    """A state: its last message tells all of it."""

    def __init__(self) -> None:
        self._last: bytes | None = None

    def take(self, frame: bytes) -> None:
        self._last = frame

    def told(self) -> bytes | None:
        return self._last


class CryptoComVenue(Venue):
    """All instruments on one socket. Books are acknowledged one by one, others not at all."""

    rules = Rules(frames=100, per_s=1.0, streams=400, code=1013)

    def __init__(self) -> None:
        self._natives: set[str] = set()
        self._listings: list[str] = []

    def scan(self, line: TapeLine) -> None:
        if self.rest_key_of(line) == "listing" and line.raw is not None:
            self._listings.append(line.raw)
        stream = self.stream_of(line)
        if stream is not None:
            self._natives.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, decode)
        return _stream(frame.result.subscription) if frame and frame.result else None

    def is_broadcast(self, line: TapeLine) -> bool:
        frame = received(line, decode)
        return frame is not None and frame.method == "public/heartbeat"

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return Ack((), ())  # as measured: no answer, and the socket stays open
        method, said = request.method, {"id": request.id, "method": request.method}
        if method == "public/respond-heartbeat":
            return Ack((), ())
        if method not in ("subscribe", "unsubscribe"):
            return _reply([said | {"code": 40003, "message": "No such method"}])
        if method == "unsubscribe":
            known = [one for one in map(_stream, request.params.channels) if one is not None]
            return Ack(tuple(known), (_encode(said | {"code": 0}).decode(),), unsubscribe=True)
        streams: list[Stream] = []
        replies: list[dict[str, Any]] = []
        for channel in request.params.channels:
            stream = _stream(channel)
            if stream is None or not self._is_listed(stream.native):
                refusal = {"code": 40003, "channel": channel, "message": "Unknown symbol"}
                replies.append(said | refusal)
                continue
            streams.append(stream)
            if channel.startswith("book."):
                replies.append(said | {"code": 0, "channel": channel})
        return Ack(tuple(streams), _reply(replies).frames)

    def rest_key(self, url: str) -> str | None:
        is_listing = urlsplit(url).path.endswith("/v1/public/get-instruments")
        return "listing" if is_listing else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        if stream.channel.startswith("book."):
            return _Book()
        return _Trades() if stream.channel == "trade" else _Last()

    def beats(self, streams: Collection[Stream]) -> tuple[str, ...]:
        return ('{"id":1,"method":"public/heartbeat","code":0}',)

    def _is_listed(self, native: str) -> bool:
        return native in self._natives or any(f'"{native}"' in one for one in self._listings)


def _stream(channel: str) -> Stream | None:
    """Read ``book.BTC_USDT.50``, ``candlestick.1m.BTC_USDT``; None where there is no instrument.

    An index is that of the perpetual, which always has one.
    """
    name, _, rest = channel.partition(".")
    native, _, depth = rest.partition(".")
    if name == "book":
        return Stream(f"book.{depth}", native) if native and depth.isdecimal() else None
    if name == "index":
        return Stream("index", f"{rest.removesuffix('-INDEX')}-PERP") if rest else None
    name, _, native = channel.rpartition(".")
    return Stream(name, native) if name and native else None


def _reply(messages: Sequence[dict[str, Any]]) -> Ack:
    return Ack((), tuple(_encode(one).decode() for one in messages))
