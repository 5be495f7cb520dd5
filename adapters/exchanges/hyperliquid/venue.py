"""Hyperliquid's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.tape import received

#: Trades told to who subscribes.
_TOLD_TRADES = 30
#: Channel of data -> channel to subscribe to.
_CHANNELS = {
    "l2Book": "l2Book",
    "bbo": "bbo",
    "trades": "trades",
    "activeAssetCtx": "activeAssetCtx",
    "activeSpotAssetCtx": "activeAssetCtx",
}


class _Coin(msgspec.Struct):
    coin: str = ""


class _Frame(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"{}")


class _Subscription(msgspec.Struct):
    type: str
    coin: str = ""


class _Request(msgspec.Struct):
    method: str
    subscription: _Subscription | None = None


class _TradesFrame(msgspec.Struct):
    channel: str
    data: list[msgspec.Raw]


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_coin = msgspec.json.Decoder(_Coin | list[_Coin]).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_trades = msgspec.json.Decoder(_TradesFrame).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _State(Standing):
    """The last message stands: all but trades come whole."""

    def __init__(self) -> None:
        self._last: bytes | None = None

    def take(self, frame: bytes) -> None:
        self._last = frame

    def told(self) -> bytes | None:
        return self._last


class _LastTrades(Standing):
    def __init__(self) -> None:
        self._trades: deque[msgspec.Raw] = deque(maxlen=_TOLD_TRADES)

    def take(self, frame: bytes) -> None:
        self._trades += _decode_trades(frame).data

    def told(self) -> bytes | None:
        return _encode(_TradesFrame("trades", list(self._trades))) if self._trades else None


class HyperliquidVenue(Venue):
    """What is asked for is repeated in the answer, and in the error."""

    rules = Rules(frames=2_000, per_s=60.0, streams=1_000, connects=30, connects_per_s=60.0)

    def __init__(self) -> None:
        self._coins: set[str] = set()
        self._listings: list[str] = []

    def scan(self, line: TapeLine) -> None:
        if self.rest_key_of(line) is not None and line.raw is not None:
            self._listings.append(line.raw)
        stream = self.stream_of(line)
        if stream is not None:
            self._coins.add(stream.native)

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        channel = _CHANNELS.get(frame.channel) if frame else None
        if frame is None or channel is None:
            return None
        found = _decode_coin(frame.data)
        coin = found[0].coin if isinstance(found, list) and found else getattr(found, "coin", "")
        return Stream(channel, coin) if coin else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), ())

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return _answer("error", f"Error parsing JSON into valid websocket request: {frame}")
        if request.method == "ping":
            return Ack((), ('{"channel":"pong"}',))
        asked, method = request.subscription, request.method
        if asked is None or method not in ("subscribe", "unsubscribe"):
            return _answer("error", f"Error parsing JSON into valid websocket request: {frame}")
        whole = _decode(frame)["subscription"]
        if asked.type not in _CHANNELS or not self._is_listed(asked.coin):
            return _answer("error", f"Invalid subscription {_encode(whole).decode()}")
        answer = _answer("subscriptionResponse", {"method": method, "subscription": whole})
        stream = Stream(asked.type, asked.coin)
        return Ack((stream,), answer.frames, method == "unsubscribe")

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        return f"info#{parts.fragment}" if parts.path.endswith("/info") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        return _LastTrades() if stream.channel == "trades" else _State()

    def _is_listed(self, coin: str) -> bool:
        return coin in self._coins or any(f'"{coin}"' in one for one in self._listings)


def _answer(channel: str, data: Any) -> Ack:
    return Ack((), (_encode({"channel": channel, "data": data}).decode(),))
