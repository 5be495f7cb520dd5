"""OKX v5's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.okx.frames import Arg
from adapters.exchanges.okx.listing import TYPES, index, name
from adapters.standing import BookStanding
from adapters.tape import received

_CONNECTION = "made-up"


class _Datum(msgspec.Struct):
    instId: str = ""


class _Frame(msgspec.Struct):
    arg: Arg | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    event: str = ""


class _Request(msgspec.Struct):
    op: str
    args: list[Arg] = []
    id: str = ""


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_data = msgspec.json.Decoder(list[_Datum]).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _Book(BookStanding):
    """A book, told in the form that the tape has: by ids, or by the checksum."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, Any] = {}

    def take(self, frame: bytes) -> None:
        self._last = _decode(frame)
        for one in self._last["data"]:
            bids, asks = ([level[:2] for level in one[side]] for side in ("bids", "asks"))
            if self._last["action"] == "snapshot":
                self.start(bids, asks)
            else:
                self.sides.apply(bids, asks)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        last = self._last["data"][-1]
        sides = {"bids": self.sides.bids(), "asks": self.sides.asks()}
        whole = {side: [[*level, "0", "1"] for level in levels] for side, levels in sides.items()}
        before = {"prevSeqId": -1} if "seqId" in last else {}
        return _encode(self._last | {"action": "snapshot", "data": [last | whole | before]})


class OkxVenue(Venue):
    """One ack, or one error, an argument. An index and the liquidations of a type are one argument
    for many instruments; on a tape an index belongs to the first contract that follows it.
    """

    rules = Rules(frames=480, per_s=3_600.0, connects=3, connects_per_s=1.0)

    def __init__(self) -> None:
        self._natives: dict[str, str] = {}
        #: Index -> the contract its frames count for.
        self._followers: dict[str, str] = {}

    def scan(self, line: TapeLine) -> None:
        frame = received(line, _decode_frame)
        if frame is None or frame.arg is None:
            return
        for native in (frame.arg.instId, self._first(frame)):
            named = name("", native)
            if named is None or frame.arg.channel == "index-tickers":
                continue
            self._natives[native] = TYPES[named.type]
            if named.type != "spot":
                self._followers.setdefault(index(native), native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        if frame is None or frame.arg is None or frame.event:
            return None
        arg = frame.arg
        native = arg.instId or self._first(frame)
        if arg.channel == "index-tickers":
            native = self._followers.get(native, "")
        return Stream(arg.channel, native) if native else None

    def is_broadcast(self, line: TapeLine) -> bool:
        frame = received(line, _decode_frame)
        return frame is not None and frame.event == "notice"

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        if frame == "ping":
            return Ack((), ("pong",))
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return self._error("60012", f"Invalid request: {frame[:200]}", "")
        if request.op not in ("subscribe", "unsubscribe"):
            return self._error("60012", f"Invalid request: {frame[:200]}", request.id)
        streams: list[Stream] = []
        answers: list[str] = []
        for arg in request.args:
            found = self._streams(arg)
            streams += found
            if found:
                answers += self._reply({"event": request.op, "arg": arg}, request.id).frames
            else:
                key = f"instId:{arg.instId}" if arg.instId else f"instType:{arg.instType}"
                reason = f"Wrong URL or channel:{arg.channel},{key} doesn't exist."
                answers += self._error("60018", reason, request.id).frames
        return Ack(tuple(streams), tuple(answers), request.op == "unsubscribe")

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if parts.path.endswith("/public/instruments"):
            kind = [asked.get("instType", ""), asked.get("instFamily", "")]
            return ":".join(["listing", *filter(None, kind)])
        if parts.path.endswith("/market/history-trades"):
            return f"trades:{asked.get('instId')}@{asked.get('after')}"
        return None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        is_book = stream.channel in ("books", "books-l2-tbt", "books50-l2-tbt")
        return _Book() if is_book else None

    def farewell(self, now_ms: int) -> str | None:
        reason = "The connection will soon be closed for a service upgrade. Please reconnect."
        notice = {"event": "notice", "code": "64008", "msg": reason, "connId": _CONNECTION}
        return _encode(notice).decode()

    def _first(self, frame: _Frame) -> str:
        """Return the first instrument that the data name."""
        try:
            data = _decode_data(frame.data) if frame.data else []
        except (ValueError, RecursionError):
            return ""  # candles name none
        return data[0].instId if data else ""

    def _streams(self, arg: Arg) -> list[Stream]:
        """Return what an argument asks for; empty where it is unknown."""
        if arg.instType:
            natives = [one for one, type_ in self._natives.items() if type_ == arg.instType]
        elif arg.channel == "index-tickers":
            natives = [self._followers[arg.instId]] if arg.instId in self._followers else []
        else:
            natives = [arg.instId] if arg.instId in self._natives else []
        return [Stream(arg.channel, native) for native in natives]

    def _error(self, code: str, reason: str, id_: str) -> Ack:
        return self._reply({"event": "error", "code": code, "msg": reason}, id_)

    def _reply(self, fields: dict[str, Any], id_: str) -> Ack:
        named = {"id": id_} if id_ else {}
        return Ack((), (_encode({**named, **fields, "connId": _CONNECTION}).decode(),))
