"""Deribit's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.standing import BookStanding, Level, raw
from adapters.tape import received


class _Params(msgspec.Struct):
    channel: str = ""
    channels: list[str] = []


class _Frame(msgspec.Struct):
    method: str = ""
    params: _Params = msgspec.field(default_factory=_Params)


class _Request(msgspec.Struct):
    method: str
    id: int | str | None = None
    params: _Params = msgspec.field(default_factory=_Params)


_Change = tuple[Literal["new", "change", "delete"], msgspec.Raw, msgspec.Raw]


class _Book(msgspec.Struct, omit_defaults=True):
    type: str
    timestamp: int
    instrument_name: str
    change_id: int
    bids: list[_Change]
    asks: list[_Change]
    prev_change_id: int | None = None


class _Notice(msgspec.Struct):
    channel: str
    data: _Book


class _BookFrame(msgspec.Struct):
    jsonrpc: str
    method: str
    params: _Notice


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_book = msgspec.json.Decoder(_BookFrame).decode
_encode = msgspec.json.Encoder().encode


def _levels(changes: Sequence[_Change]) -> list[Level]:
    return [
        (str(price, "ascii"), "0" if action == "delete" else str(amount, "ascii"))
        for action, price, amount in changes
    ]


def _changes(levels: Sequence[Level]) -> list[_Change]:
    return [("new", raw(price), raw(amount)) for price, amount in levels]


class _BookStanding(BookStanding):
    def __init__(self) -> None:
        super().__init__()
        self._last: _BookFrame | None = None

    def take(self, frame: bytes) -> None:
        self._last = _decode_book(frame)
        book = self._last.params.data
        bids, asks = _levels(book.bids), _levels(book.asks)
        if book.type == "snapshot" or book.prev_change_id == 0:
            self.start(bids, asks)
        else:
            self.sides.apply(bids, asks)

    def told(self) -> bytes | None:
        if self._last is None or not self.is_begun:
            return None
        whole = msgspec.structs.replace(
            self._last.params.data,
            type="snapshot",
            prev_change_id=None,
            bids=_changes(self.sides.bids()),
            asks=_changes(self.sides.asks()),
        )
        notice = _Notice(self._last.params.channel, whole)
        return _encode(_BookFrame("2.0", "subscription", notice))


class _State(Standing):
    """A ticker or a quote: the last one stands."""

    def __init__(self) -> None:
        self._last: bytes | None = None

    def take(self, frame: bytes) -> None:
        self._last = frame

    def told(self) -> bytes | None:
        return self._last


def _stream(channel: str) -> Stream | None:
    """Read ``book.BTC-PERPETUAL.100ms``; None where it is not of one instrument."""
    parts = channel.split(".")
    if parts[0] == "quote" and len(parts) == 2:
        return Stream("quote", parts[1])
    if parts[0] in ("book", "trades", "ticker") and len(parts) == 3:
        return Stream(f"{parts[0]}.{parts[2]}", parts[1])
    return None


class DeribitVenue(Venue):
    """Channels of instruments that the tape does not know are left out of the answer."""

    rules = Rules(frames=20, per_s=3.0, connects=32, connects_per_s=1.0)

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
        frame = received(line, _decode_frame)
        is_data = frame is not None and frame.method == "subscription"
        return _stream(frame.params.channel) if frame is not None and is_data else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return self._reply(None, error={"code": -32700, "message": "Parse error"})
        match request.method.removeprefix("public/"):
            case "set_heartbeat":
                return self._reply(request.id, result="ok")
            case "test":
                return self._reply(request.id, result={"version": "1.2.26"})
            case "subscribe" | "unsubscribe" as method:
                known = {
                    channel: stream
                    for channel in request.params.channels
                    if (stream := _stream(channel)) is not None and self._is_listed(stream.native)
                }
                answer = self._reply(request.id, result=list(known))
                return Ack(tuple(known.values()), answer.frames, method == "unsubscribe")
        return self._reply(request.id, error={"code": -32601, "message": "Method not found"})

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        if parts.path.endswith("/get_instruments"):
            return "listing"
        if parts.path.endswith("/get_last_trades_by_instrument"):
            asked = parse_qs(parts.query)
            return f"trades:{asked['instrument_name'][0]}@{int(asked['start_seq'][0]) - 1}"
        return None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        name = stream.channel.partition(".")[0]
        if name == "book":
            return _BookStanding()
        return None if name == "trades" else _State()

    def beats(self, streams: Collection[Stream]) -> tuple[str, ...]:
        return ('{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}',)

    def _is_listed(self, native: str) -> bool:
        return native in self._natives or any(f'"{native}"' in one for one in self._listings)

    def _reply(self, id_: int | str | None, **fields: Any) -> Ack:
        return Ack((), (_encode({"jsonrpc": "2.0", "id": id_, **fields}).decode(),))
