"""The dYdX indexer's side of its protocol, for the fake that serves a tape. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import msgspec

from adapters.base import Ack, Rules, Standing, Stream, TapeLine, Venue
from adapters.standing import BookStanding
from adapters.tape import received

#: Trades told to who subscribes.
_TOLD_TRADES = 100
_DATA = frozenset({"subscribed", "channel_data", "channel_batch_data"})
_MARKETS = "v4_markets"
#: Numbers are the connection's, so each one gets its own.
_NUMBER = re.compile(rb'"message_id":[0-9]+').sub


class _Markets(msgspec.Struct, rename="camel"):
    markets: dict[str, msgspec.Raw] = {}
    trading: dict[str, msgspec.Raw] = {}
    oracle_prices: dict[str, msgspec.Raw] = {}


class _Frame(msgspec.Struct):
    type: str
    channel: str = ""
    id: str = ""
    contents: msgspec.Raw = msgspec.Raw(b"{}")


class _Request(msgspec.Struct):
    type: str = ""
    channel: str = ""
    id: str = ""


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_markets = msgspec.json.Decoder(_Markets | list[_Markets]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def _message(type_: str, **fields: Any) -> str:
    return _encode({"type": type_, "connection_id": "fake", "message_id": 0, **fields}).decode()


def _parts(frame: bytes) -> tuple[bool, list[dict[str, Any]]]:
    """Return whether a message is a whole one, and its contents, one or several."""
    message = _decode(frame)
    contents = message["contents"]
    return message["type"] == "subscribed", contents if isinstance(contents, list) else [contents]


class _Book(BookStanding):
    def __init__(self, market: str) -> None:
        super().__init__()
        self._market = market

    def take(self, frame: bytes) -> None:
        is_start, parts = _parts(frame)
        for part in parts:
            sides = [
                [
                    (one["price"], one["size"]) if isinstance(one, dict) else (one[0], one[1])
                    for one in part.get(side, ())
                ]
                for side in ("bids", "asks")
            ]
            if is_start:
                self.start(*sides)
            else:
                self.sides.apply(*sides)

    def told(self) -> bytes | None:
        if not self.is_begun:
            return None
        bids, asks = (
            [{"price": price, "size": size} for price, size in side]
            for side in (self.sides.bids(), self.sides.asks())
        )
        contents = {"bids": bids, "asks": asks}
        told = _message("subscribed", channel="v4_orderbook", id=self._market, contents=contents)
        return told.encode()


class _Trades(Standing):
    def __init__(self, market: str) -> None:
        self._market = market
        #: Oldest first.
        self._trades: deque[Any] = deque(maxlen=_TOLD_TRADES)

    def take(self, frame: bytes) -> None:
        is_start, parts = _parts(frame)
        for part in parts:
            self._trades += part["trades"][::-1] if is_start else part["trades"]

    def told(self) -> bytes | None:
        contents = {"trades": list(self._trades)[::-1]}
        told = _message("subscribed", channel="v4_trades", id=self._market, contents=contents)
        return told.encode()


class DydxVenue(Venue):
    """A book and trades begin with ``subscribed``; that of the markets is an answer, as recorded.

    A message of ``v4_markets`` is of many markets: it goes by the first one that has a book or
    trades on the tape, and who asks for the channel gets them all.
    """

    rules = Rules(frames=20, per_s=1.0, streams=96, connects=30, connects_per_s=60.0)

    def __init__(self) -> None:
        self._natives: dict[str, None] = {}
        self._markets: str | None = None
        self._listings: list[str] = []

    def scan(self, line: TapeLine) -> None:
        if self.rest_key_of(line) == "listing" and line.raw is not None:
            self._listings.append(line.raw)
        frame = received(line, _decode_frame)
        if frame is None or frame.type not in _DATA:
            return
        if frame.channel == _MARKETS:
            if frame.type == "subscribed" and self._markets is None:
                self._markets = line.raw
        elif frame.id:
            self._natives[frame.id] = None

    def stream_of(self, line: TapeLine) -> Stream | None:
        frame = received(line, _decode_frame)
        if frame is None or frame.type not in _DATA:
            return None
        if frame.channel != _MARKETS:
            return Stream(frame.channel, frame.id) if frame.id else None
        if frame.type == "subscribed":
            return None
        given = _decode_markets(frame.contents)
        named = [
            native
            for part in (given if isinstance(given, list) else [given])
            for native in (*part.trading, *part.oracle_prices)
            if native in self._natives
        ]
        return Stream(_MARKETS, named[0]) if named else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return False

    def connected(self, path: str) -> Ack:
        return Ack((), (_message("connected"),))

    def request(self, path: str, frame: str) -> Ack:
        try:
            request = _decode_request(frame)
        except (ValueError, RecursionError):
            return Ack((), (_message("error", message="Invalid message: could not parse"),))
        type_, channel, market = request.type, request.channel, request.id
        if type_ == "ping":
            return Ack((), ())
        if type_ not in ("subscribe", "unsubscribe"):
            return Ack((), (_message("error", message=f"Invalid message type: {type_}"),))
        shared = channel == _MARKETS
        if not shared and not self._is_listed(market):
            reason = f"Invalid subscription id for channel: ({channel}-{market})"
            return Ack((), (_message("error", message=reason),))
        asked = tuple(Stream(channel, one) for one in (self._natives if shared else (market,)))
        if type_ == "unsubscribe":
            named = {} if shared else {"id": market}
            frames = (_message("unsubscribed", channel=channel, **named),)
            return Ack(asked, frames, unsubscribe=True, counts=1)
        return Ack(asked, (self._markets,) if shared and self._markets else (), counts=1)

    def rest_key(self, url: str) -> str | None:
        return "listing" if urlsplit(url).path.endswith("/perpetualMarkets") else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url) if line.dir == "rest" and line.url is not None else None

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        match stream.channel:
            case "v4_orderbook":
                return _Book(stream.native)
            case "v4_trades":
                return _Trades(stream.native)
        return None

    def numbering(self) -> Callable[[bytes], bytes]:
        numbers = count()
        return lambda frame: _NUMBER(b'"message_id":%d' % next(numbers), frame, 1)

    def _is_listed(self, market: str) -> bool:
        return market in self._natives or any(f'"{market}"' in one for one in self._listings)
