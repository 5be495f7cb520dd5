"""Bitget v2's side of its protocol, spot and futures, for the fake that serves a tape. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.bitget.frames import Arg
from adapters.standing import BookStanding
from adapters.tape import received


class _Frame(msgspec.Struct):
    arg: Arg | None = None
    event: str = ""


class _Request(msgspec.Struct):
    op: str
    args: list[Arg] = []


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _Book(BookStanding):
    """A book, told as a snapshot: its number is that of the last change, and it has no checksum."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, Any] = {}

    def take(self, frame: bytes) -> None:
        self._last = _decode(frame)
        for one in self._last["data"]:
            if self._last["action"] == "snapshot":
                self.start(one["bids"], one["asks"])
            else:
                self.sides.apply(one["bids"], one["asks"])

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        last = self._last["data"][-1]
        sides = {"bids": self.sides.bids(), "asks": self.sides.asks()}
        zero = {key: 0 for key in ("pseq", "checksum") if key in last}
        return _encode(self._last | {"action": "snapshot", "data": [last | sides | zero]})


class BitgetVenue(Venue):
    """Spot. A tape may hold both markets: each message says which it is of."""

    rules = Rules(frames=10, per_s=1.0, streams=1_000, connects=300, connects_per_s=300.0)

    #: ``instType`` of this market, and where its listing is.
    types: ClassVar[re.Pattern[str]] = re.compile("SPOT")
    listing: ClassVar[str] = "/spot/public/symbols"

    def __init__(self) -> None:
        #: Those of this market that are on the tape, or listed.
        self._known: set[tuple[str, str]] = set()
        self._listings: list[str] = []

    def scan(self, line: TapeLine) -> None:
        if self.rest_key_of(line) is not None and line.raw is not None:
            self._listings.append(line.raw)
        arg = self._ours(line)
        if arg is not None:
            self._known.add((arg.instType, arg.instId))

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        arg = self._ours(line)
        if frame is None or frame.event or arg is None:
            return None
        return Stream(arg.channel, arg.instId)

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        if frame == "ping":
            return Ack((), ("pong",))
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return _refusal(30002, f"Unrecognized request:{frame[:200]}")
        if request.op not in ("subscribe", "unsubscribe"):
            return _refusal(30003, f"Invalid op:{request.op[:40]}")
        streams: list[Stream] = []
        answers: list[str] = []
        for arg in request.args:
            if self._is_known(arg):
                streams.append(Stream(arg.channel, arg.instId))
                answers.append(_encode({"event": request.op, "arg": arg}).decode())
            else:
                named = f"instType:{arg.instType},channel:{arg.channel},instId:{arg.instId}"
                more = {"arg": arg, "op": request.op}
                answers += _refusal(30001, f"{named} doesn't exist", **more).frames
        return Ack(tuple(streams), tuple(answers), request.op == "unsubscribe")

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        if not parts.path.endswith(self.listing):
            return None
        product = parse_qs(parts.query).get("productType", [])
        return ":".join(["listing", *(one.upper() for one in product)])

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        return _Book() if stream.channel == "books" else None

    def _ours(self, line: TapeLine) -> Arg | None:
        frame = received(line, _decode_frame)
        if frame is None or frame.arg is None or not self.types.fullmatch(frame.arg.instType):
            return None
        return frame.arg

    def _is_known(self, arg: Arg) -> bool:
        if not self.types.fullmatch(arg.instType):
            return False
        listed = any(f'"symbol":"{arg.instId}"' in one for one in self._listings)
        return listed or (arg.instType, arg.instId) in self._known


class BitgetFuturesVenue(BitgetVenue):
    """Futures of all margins."""

    types = re.compile("(?:USDT|USDC|COIN)-FUTURES")
    listing = "/mix/market/contracts"


def _refusal(code: int, reason: str, **more: Any) -> Ack:
    fields = {"event": "error", "code": code, "msg": reason}
    return Ack((), (_encode(fields | more).decode(),))
