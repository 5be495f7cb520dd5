"""HTX's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

import gzip
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from adapters import tape
from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.htx.frames import (
    Frame,
    Notice,
    RawLevel,
    Update,
    decode,
    decode_event,
    decode_notice,
    decode_refresh,
    decode_update,
    inflate,
)
from adapters.standing import BookStanding, Level, raw


class _Request(msgspec.Struct):
    op: str = ""
    topic: str = ""
    cid: str | None = None
    sub: str = ""
    unsub: str = ""
    req: str = ""
    ping: int | None = None
    pong: int | None = None
    id: str | int | None = None


_decode_request = msgspec.json.Decoder(_Request).decode
_decode = msgspec.json.Decoder().decode
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


class _Events(BookStanding):
    """A book of contracts: who asks is sent a snapshot of the last version."""

    is_text = False

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, Any] = {}

    def take(self, frame: bytes) -> None:
        self._last = _decode(inflate(frame))
        event = decode_event(decode(frame).tick)
        bids, asks = _texts(event.bids), _texts(event.asks)
        if event.event == "snapshot":
            self.start(bids, asks)
        else:
            self.sides.apply(bids, asks)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        bids, asks = (
            [[raw(price), raw(size)] for price, size in side]
            for side in (self.sides.bids(), self.sides.asks())
        )
        tick = self._last["tick"] | {"event": "snapshot", "bids": bids, "asks": asks}
        return _packed(self._last | {"tick": tick})


class HtxVenue(Venue):
    """Spot. Books are asked for where they are subscribed to: the tape has the answer, in its
    place, or the fake knows how the book stands."""

    rules = Rules(frames=12, per_s=1.0, code=1003)
    #: What a symbol of this market looks like, and where its listing is.
    native: ClassVar[re.Pattern[str]] = re.compile(r"[a-z0-9]+")
    listing: ClassVar[str] = "/common/symbols"

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
        frame, notice = _received(line), _noticed(line)
        if notice is not None:
            return self._stream(notice.topic) if notice.op == "notify" else None
        return self._stream(frame.ch or frame.rep) if frame is not None else None

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
        if request.pong is not None or request.op == "pong":
            return Ack((), ())
        if request.op:
            return self._notices(request)
        if request.ping is not None:
            return Ack((), (), binary=(_packed({"pong": request.ping}),))
        topic = request.sub or request.unsub or request.req
        stream = self._stream(topic)
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
        return "listing" if urlsplit(url).path.endswith(self.listing) else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        is_book = stream.channel.startswith("mbp.") and ".refresh." not in stream.channel
        if stream.channel.endswith(".high_freq"):
            return _Events()
        if stream.channel == "liquidation_orders":
            return None
        return _Book(f"market.{stream.native}.{stream.channel}") if is_book else _Last()

    def beats(self, streams: Collection[Stream]) -> tuple[bytes, ...]:
        return (_packed({"ping": 1}),)

    def _notices(self, request: _Request) -> Ack:
        """Answer a request for notifications."""
        stream = self._stream(request.topic)
        said = {"op": request.op, "cid": request.cid, "topic": request.topic, "ts": 0}
        if stream is None or not self._is_listed(stream.native):
            refusal = {"err-code": 2011, "err-msg": "doesn't support the business"}
            return Ack((), (), binary=(_packed(said | refusal),))
        answer = _packed(said | {"err-code": 0})
        return Ack((stream,), (), unsubscribe=request.op == "unsub", binary=(answer,))

    def _stream(self, topic: str) -> Stream | None:
        """Read ``market.btcusdt.mbp.150``; None where it names no instrument of this market."""
        market, _, rest = topic.partition(".")
        native, _, channel = rest.partition(".")
        is_ours = market in ("market", "public") and self.native.fullmatch(native) and channel
        return Stream(channel, native) if is_ours else None

    def _is_listed(self, native: str) -> bool:
        return native in self._natives or any(f'"{native}"' in one for one in self._listings)


class HtxLinearSwapVenue(HtxVenue):
    """Contracts that settle in USDT."""

    native = re.compile(r"[A-Z0-9]+-USDT(?:-[0-9]{6})?")
    listing = "/linear-swap-api/v1/swap_contract_info"


class HtxCoinSwapVenue(HtxVenue):
    """Perpetuals that settle in the coin."""

    native = re.compile(r"[A-Z0-9]+-USD")
    listing = "/swap-api/v1/swap_contract_info"


def _received(line: TapeLine) -> Frame | None:
    """Return what a received frame says; None for any other line, and for what is no message."""
    if line.dir != "in":
        return None
    try:
        return decode(tape.body(line))
    except (ValueError, RecursionError):
        return None


def _noticed(line: TapeLine) -> Notice | None:
    """Return what a received notification says; None for any other line."""
    if line.dir != "in":
        return None
    try:
        return decode_notice(inflate(tape.body(line)))
    except (ValueError, RecursionError):
        return None


def _refusal(reason: str, request_id: str | int | None) -> Ack:
    said = {"status": "error", "err-code": "bad-request", "err-msg": reason, "ts": 0}
    if request_id is not None:
        said["id"] = request_id
    return Ack((), (), binary=(_packed(said),))
