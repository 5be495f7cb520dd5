"""KuCoin's side of its protocol, spot and futures, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.exchanges.kucoin.adapter import TOPICS_PER_REQUEST, Kucoin, KucoinFutures
from adapters.exchanges.kucoin.book import CUTS
from adapters.exchanges.kucoin.frames import decode_change, decode_level2, text
from adapters.standing import Level, Sides, raw
from adapters.tape import received

WELCOME = '{"id":"made-up","type":"welcome"}'


class _Frame(msgspec.Struct):
    topic: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Request(msgspec.Struct):
    type: str
    id: str | int | None = None
    topic: str = ""


class _Snapshot(msgspec.Struct):
    """A REST book: its levels apart, whatever else it has as it is."""

    data: dict[str, msgspec.Raw]


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode
_decode_levels = msgspec.json.Decoder(list[tuple[msgspec.Raw, msgspec.Raw]]).decode
_encode = msgspec.json.Encoder().encode


def _told(**fields: object) -> str:
    return _encode(fields).decode()


class _Depth(Standing):
    """A REST book: the recorded one and what has been sent since, cut as the recorded one was."""

    def __init__(
        self,
        native: str,
        body: bytes,
        read: Callable[[bytes], tuple[int, list[Level], list[Level]]],
    ) -> None:
        self.key = f"depth:{native}"
        self._read = read
        self._fields = _decode_snapshot(body).data
        self._last = int(text(self._fields["sequence"]))
        bids, asks = (
            [(text(price), text(size)) for price, size in _decode_levels(self._fields[name])]
            for name in ("bids", "asks")
        )
        self._is_quoted = b'"' in bytes(self._fields["bids"])
        # Past its last level nothing is known of a side that was cut.
        self._cut = next((cut for cut in CUTS if cut in (len(bids), len(asks))), None)
        self._worst_bid = float(bids[-1][0]) if len(bids) in CUTS else None
        self._worst_ask = float(asks[-1][0]) if len(asks) in CUTS else None
        self._sides = Sides()
        self._sides.apply(bids, asks)

    def take(self, frame: bytes) -> None:
        last, bids, asks = self._read(frame)
        if last > self._last:
            self._last = last
            self._sides.apply(bids, asks)

    def told(self) -> bytes:
        worst_bid, worst_ask = self._worst_bid, self._worst_ask
        bids = [
            one for one in self._sides.bids() if worst_bid is None or float(one[0]) >= worst_bid
        ]
        asks = [
            one for one in self._sides.asks() if worst_ask is None or float(one[0]) <= worst_ask
        ]
        quote = '"' if b'"' in bytes(self._fields["sequence"]) else ""
        fields = self._fields | {
            "sequence": raw(f"{quote}{self._last}{quote}"),
            "bids": self._levels(bids),
            "asks": self._levels(asks),
        }
        return _encode({"code": "200000", "data": fields})

    def _levels(self, levels: list[Level]) -> msgspec.Raw:
        shown = levels if self._cut is None else levels[: self._cut]
        if self._is_quoted:
            return msgspec.Raw(_encode(shown))
        return msgspec.Raw(_encode([(raw(price), raw(size)) for price, size in shown]))


class KucoinVenue(Venue):
    """Spot. Where to connect is told by REST; of a tape of both markets the topics tell which."""

    rules = Rules(frames=100, per_s=10.0, streams=300, connects=30, connects_per_s=60.0)

    endpoint: ClassVar[str] = Kucoin.ws_url
    is_futures: ClassVar[bool] = False
    book_channel: ClassVar[str] = "/market/level2"

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
        if frame is None or frame.topic.startswith("/contract") != self.is_futures:
            return None
        return self._stream(*frame.topic.split(":", 1)) if ":" in frame.topic else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), (WELCOME,))

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return Ack((), (_told(id="made-up", type="error", code=400, data="bad request"),))
        if request.type == "ping":
            return Ack((), (_told(id=request.id, type="pong"),))
        if request.type not in ("subscribe", "unsubscribe"):
            return self._error(request.id, 400, f"type {request.type} is invalid")
        channel, _, names = request.topic.partition(":")
        natives = names.split(",")
        if len(natives) > TOPICS_PER_REQUEST:
            limit = f"exceed max subscription count limitation of {TOPICS_PER_REQUEST} per time"
            return self._error(request.id, 509, limit)
        streams = []
        for native in natives:
            stream = self._stream(channel, native)
            if stream is None or not self._is_listed(native):
                return self._error(request.id, 404, f"topic {channel}:{native} is not found")
            streams.append(stream)
        answer = _told(id=request.id, type="ack")
        return Ack(tuple(streams), (answer,), request.type == "unsubscribe")

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        if parts.path.endswith("/bullet-public"):
            return "door"
        symbol = parse_qs(parts.query).get("symbol")
        return self._rest_key(parts.path, symbol[0] if symbol else None)

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def made(self, key: str) -> bytes | None:
        if key != "door":
            return None
        server = {"endpoint": f"{self.endpoint}/", "encrypt": True, "protocol": "websocket"}
        timing = {"pingInterval": 18_000, "pingTimeout": 10_000}
        data = {"token": "made-up", "instanceServers": [server | timing]}
        return _encode({"code": "200000", "data": data})

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        recorded = bodies.get(f"depth:{stream.native}")
        if stream.channel != self.book_channel or not recorded:
            return None
        return _Depth(stream.native, recorded[0], self._read)

    def _stream(self, channel: str, name: str) -> Stream | None:
        """Name a stream; None for those of no instrument (an index, a whole market)."""
        # ``BTC-USDT_1min`` is a candle of ``BTC-USDT``.
        native, underscore, span = name.partition("_")
        is_instrument = KucoinFutures.instrument(native) if self.is_futures else "-" in native
        return Stream(f"{channel}{underscore}{span}", native) if is_instrument else None

    def _rest_key(self, path: str, symbol: str | None) -> str | None:
        if path.endswith("/symbols"):
            return "listing"
        is_book = "/market/orderbook/level2" in path
        return f"depth:{symbol}" if is_book and symbol is not None else None

    def _read(self, frame: bytes) -> tuple[int, list[Level], list[Level]]:
        """Read a book's update: number of its last change, bids, asks."""
        level2 = decode_level2(_decode_frame(frame).data)
        bids, asks = (
            [(price, size) for price, size, _ in side if float(price)]
            for side in (level2.changes.bids, level2.changes.asks)
        )
        return level2.sequence_end, bids, asks

    def _is_listed(self, native: str) -> bool:
        return native in self._natives or any(f'"{native}"' in one for one in self._listings)

    def _error(self, request_id: Any, code: int, reason: str) -> Ack:
        return Ack((), (_told(id=request_id, type="error", code=code, data=reason),))


class KucoinFuturesVenue(KucoinVenue):
    """Futures."""

    endpoint = KucoinFutures.ws_url
    is_futures = True
    book_channel = "/contractMarket/level2"

    def _rest_key(self, path: str, symbol: str | None) -> str | None:
        if path.endswith("/contracts/active"):
            return "listing"
        return f"depth:{symbol}" if "/level2/" in path and symbol is not None else None

    def _read(self, frame: bytes) -> tuple[int, list[Level], list[Level]]:
        change = decode_change(_decode_frame(frame).data)
        price, side, size = change.change.split(",")
        changed = [(price, size)]
        return (change.sequence, *((changed, []) if side == "buy" else ([], changed)))
