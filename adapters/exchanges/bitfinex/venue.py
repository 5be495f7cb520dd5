"""Bitfinex's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.tape import received

#: Flags of ``conf``: times and numbers.
_TIMESTAMP, _SEQ_ALL = 32_768, 65_536
#: Of a key of ``status``, before the symbol.
_DERIVATIVE = "deriv:"
#: Trades that a subscription begins with.
_TRADES = 30


class _Event(msgspec.Struct):
    event: str
    channel: str = ""
    chan: int | None = msgspec.field(name="chanId", default=None)
    symbol: str = ""
    key: str = ""
    prec: str = ""
    length: str | int = msgspec.field(name="len", default="")
    flags: int = 0
    cid: int | None = None

    @property
    def native(self) -> str:
        return self.symbol or self.key.removeprefix(_DERIVATIVE)

    @property
    def is_carried(self) -> bool:
        """Whether it is of a trading pair's channel that our adapter knows."""
        return (
            self.channel in ("book", "trades", "ticker", "status")
            and self.prec in ("", "P0")
            and self.native.startswith("t")
        )


class _Level(msgspec.Struct, array_like=True):
    price: msgspec.Raw
    count: int
    amount: msgspec.Raw


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_level = msgspec.json.Decoder(_Level).decode
_decode_levels = msgspec.json.Decoder(list[_Level]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def _text(fields: object) -> str:
    return _encode(fields).decode()


def _parts(frame: bytes) -> list[bytes]:
    return [bytes(part) for part in _decode_parts(frame)]


def _joined(parts: Sequence[bytes]) -> bytes:
    return _encode([msgspec.Raw(part) for part in parts])


def _stamps_at(parts: Sequence[bytes]) -> int:
    """Return where a frame's number and time begin: behind its payload."""
    is_tagged = parts[1].startswith(b'"') and parts[1] != b'"hb"'
    return 3 if is_tagged else 2


def _data(line: TapeLine) -> list[bytes]:
    """Return the parts of a received array; [] for any other line."""
    given = received(line, _decode_parts)
    parts = [bytes(part) for part in given or ()]
    return parts if len(parts) > 1 and parts[0].isdigit() else []


class _Book(Standing):
    """The levels with their counts, best first."""

    def __init__(self) -> None:
        self._bids: dict[float, _Level] = {}
        self._asks: dict[float, _Level] = {}
        self._last: list[bytes] = []

    def take(self, frame: bytes) -> None:
        parts = _parts(frame)
        payload = parts[1]
        if payload.startswith(b'"'):
            return
        self._last = parts
        if payload[1:2] in (b"[", b"]"):
            self._bids.clear()
            self._asks.clear()
            levels = _decode_levels(payload)
        else:
            levels = [_decode_level(payload)]
        for level in levels:
            side = self._asks if bytes(level.amount).startswith(b"-") else self._bids
            if level.count:
                side[float(bytes(level.price))] = level
            else:
                side.pop(float(bytes(level.price)), None)

    def told(self) -> bytes | None:
        if not self._last:
            return None
        bids = [self._bids[price] for price in sorted(self._bids, reverse=True)]
        asks = [self._asks[price] for price in sorted(self._asks)]
        return _joined([self._last[0], _encode([*bids, *asks]), *self._last[2:]])


class _Trades(Standing):
    """The last trades, newest first."""

    def __init__(self) -> None:
        self._trades: list[bytes] = []
        self._last: list[bytes] = []

    def take(self, frame: bytes) -> None:
        parts = _parts(frame)
        if parts[1] == b'"te"':
            self._trades = [parts[2], *self._trades][:_TRADES]
        elif not parts[1].startswith(b'"'):
            self._trades = _parts(parts[1])
        else:
            return
        self._last = [parts[0], *parts[_stamps_at(parts) :]]

    def told(self) -> bytes | None:
        if not self._last:
            return None
        return _joined([self._last[0], _joined(self._trades), *self._last[1:]])


class _State(Standing):
    """The last frame but heartbeats."""

    def __init__(self) -> None:
        self._last: bytes | None = None

    def take(self, frame: bytes) -> None:
        if not _parts(frame)[1].startswith(b'"'):
            self._last = frame

    def told(self) -> bytes | None:
        return self._last


class _Numbers:
    """Numbers one connection's arrays, from 1."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, frame: bytes) -> bytes:
        if not frame.startswith(b"["):
            return frame
        parts = _parts(frame)
        at = _stamps_at(parts)
        if at >= len(parts):
            return frame
        self._last += 1
        parts[at] = b"%d" % self._last
        return _joined(parts)


class BitfinexVenue(Venue):
    """Channels have the numbers that they have on the tape. What ``conf`` asked for stays so."""

    rules = Rules(frames=30, per_s=1.0, streams=30, connects=20, connects_per_s=60.0)

    def __init__(self) -> None:
        #: A channel's number -> what it is of.
        self._streams: dict[int, Stream] = {}
        #: (channel, symbol) -> the recorded ack.
        self._acks: dict[tuple[str, str], dict[str, Any]] = {}
        self._flags = 0
        #: The last time on the tape, ms.
        self._now = 0

    def scan(self, line: TapeLine) -> None:
        event = received(line, _decode_event)
        if event is None or line.raw is None:
            self._note_time(line)
        elif event.event == "conf":
            self._flags = event.flags
        elif event.event == "subscribed" and event.chan is not None and event.is_carried:
            length = f"-{event.length}" if event.length else ""
            self._streams[event.chan] = Stream(event.channel + length, event.native)
            self._acks[event.channel, event.native] = _decode(line.raw)

    def stream_of(self, line: TapeLine) -> Stream | None:
        parts = _data(line)
        return self._streams.get(int(parts[0])) if parts else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), (_text({"event": "info", "version": 2, "platform": {"status": 1}}),))

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_event(frame)
        except (ValueError, RecursionError):
            return Ack((), ())  # not even refused
        match request.event:
            case "conf":
                flags = {"event": "conf", "status": "OK", "flags": self._flags}
                return Ack((), (_text(flags),))
            case "ping":
                return Ack((), (_text({"event": "pong", "ts": self._now, "cid": request.cid}),))
            case "subscribe":
                return self._subscribed(request)
            case "unsubscribe":
                return self._unsubscribed(request)
        invalid = f"event: invalid ({request.event})"
        return Ack((), (_text({"event": "error", "msg": invalid, "code": 10000}),))

    def rest_key(self, url: str) -> str | None:
        return "listing" if "/v2/conf/pub:list:pair:" in urlsplit(url).path else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        match stream.channel.partition("-")[0]:
            case "book":
                return _Book()
            case "trades":
                return _Trades()
        return _State()

    def numbering(self) -> Callable[[bytes], bytes] | None:
        return _Numbers() if self._flags & _SEQ_ALL else None

    def beats(self, streams: Collection[Stream]) -> tuple[str, ...]:
        stamps = [
            stamp for flag, stamp in ((_SEQ_ALL, 0), (_TIMESTAMP, self._now)) if self._flags & flag
        ]
        return tuple(
            _text([number, "hb", *stamps])
            for number, stream in self._streams.items()
            if stream in streams
        )

    def farewell(self, now_ms: int) -> str | None:
        return _text({"event": "info", "code": 20051, "msg": "Stopping. Please try to reconnect"})

    def _subscribed(self, request: _Event) -> Ack:
        ack = self._acks.get((request.channel, request.native))
        if ack is not None:
            return Ack((self._streams[ack["chanId"]],), (_text(ack),))
        if request.key:
            return Ack((), ())  # the exchange does not answer either
        refusal = {
            "channel": request.channel,
            "symbol": request.symbol,
            "event": "error",
            "msg": "symbol: invalid",
            "code": 10300,
            "pair": request.symbol[1:],
        }
        return Ack((), (_text(refusal),))

    def _unsubscribed(self, request: _Event) -> Ack:
        stream = self._streams.get(request.chan or 0)
        if stream is None:
            invalid = {"event": "error", "msg": "unsubscribe: invalid", "code": 10400}
            return Ack((), (_text(invalid),))
        done = {"event": "unsubscribed", "status": "OK", "chanId": request.chan}
        return Ack((stream,), (_text(done),), unsubscribe=True)

    def _note_time(self, line: TapeLine) -> None:
        parts = _data(line)
        if not parts or not self._flags & _TIMESTAMP:
            return
        at = _stamps_at(parts) + bool(self._flags & _SEQ_ALL)
        if at < len(parts) and parts[at].isdigit():
            self._now = int(parts[at])
