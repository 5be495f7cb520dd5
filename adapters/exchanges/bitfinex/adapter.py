"""Bitfinex v2: spot and perpetuals. Pure.

Source: docs.bitfinex.com, ws-general, ws-public-* and ws-websocket-checksum. Data name a channel's
number alone; its ack says what it is of. Every array of a connection is numbered, whatever its
channel: a hole may be anybody's, so all books are asked for afresh and all trades declared. A book
is its snapshot and then one level a message; about every 2.5 s comes a checksum over the best 25.
A trade comes as ``te`` and again as ``tu``; ids rise but are not consecutive. ``quote`` comes from
the book: tickers are 15 s apart. The state of a perpetual is repeated each second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TypeAlias

import msgspec

from adapters.base import Leave, Limits, Output, Plan, Refused, Send, Stream, upstream_gap
from adapters.channels import BookStream, ChannelAdapter
from adapters.exchanges.bitfinex.frames import (
    PROVEN,
    Done,
    Event,
    State,
    checksum,
    count_or_none,
    decode,
    decode_event,
    decode_int,
    decode_level,
    decode_levels,
    decode_trades,
    is_list,
    micros_or_none,
    read_day,
    read_state,
    read_trade,
    sides,
)
from adapters.exchanges.bitfinex.listing import LISTING
from feed.errors import BadPayload
from feed.models import Derivative, Instrument, Ticker, Trade

#: Of 1, 25, 100 and 250; what leaves these levels is deleted.
BOOK_LEVELS = 250
#: Five significant digits; fewer join levels, ``R0`` has single orders.
PRECISION = "P0"
#: No frame comes so many numbers late.
FAR = 100_000
#: Channel -> the kinds it feeds.
FEEDS = {
    "book": ("book", "depth", "quote"),
    "trades": ("trade",),
    "ticker": ("ticker",),
    "status": ("derivative",),
}
#: Flags of ``conf``: times, numbers, checksums.
TIMESTAMP, SEQ_ALL, OB_CHECKSUM = 32_768, 65_536, 131_072
FLAGS = TIMESTAMP | SEQ_ALL | OB_CHECKSUM
#: Of a key of ``status``, before the symbol.
_DERIVATIVE = "deriv:"
#: Errors that say nothing new: subscribed already, and not (or no longer) subscribed.
_HARMLESS = frozenset({10301, 10400, 10401})
#: Notices: the server restarts, and is back from maintenance.
_RESTART, _MAINTAINED = 20051, 20061

_encode = msgspec.json.Encoder().encode
#: What a frame does once its number is known to be the next.
_Change: TypeAlias = Callable[[int | None, int], Iterable[Output]]


def _name(channel: str) -> str:
    """Return Bitfinex's name of a channel; the levels in ``book-250`` are our addition."""
    return channel.partition("-")[0]


def _subscribe(stream: Stream) -> Send:
    channel, _, levels = stream.channel.partition("-")
    request = {"event": "subscribe", "channel": channel}
    if channel == "status":
        request["key"] = _DERIVATIVE + stream.native
    else:
        request["symbol"] = stream.native
    if channel == "book":
        request |= {"prec": PRECISION, "freq": "F0", "len": levels}
    return Send(_encode(request).decode())


def _nothing(ts: int | None, recv: int) -> Iterable[Output]:
    return ()


class Bitfinex(ChannelAdapter):
    """Bitfinex, public channels."""

    name = "bitfinex"
    ws_url = "wss://api-pub.bitfinex.com"
    rest_url = "https://api-pub.bitfinex.com"
    path = "/ws/2"
    listing = LISTING
    listing_paths = ("/v2/conf/pub:list:pair:exchange,pub:list:pair:futures",)
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    # 30 channels a connection and 20 connects a minute are allowed. Each channel has a heartbeat
    # every 15 s.
    limits = Limits(
        frames_per_s=10,
        streams_per_connection=30,
        connects=15,
        connects_window_s=60,
        silent_after_s=25,
        ping_every_s=20,
    )
    proofs = {
        "trade": "all frames of a connection are numbered",
        "book": "all frames of a connection are numbered, and a checksum comes every few seconds",
    }
    checksum = "CRC32 of the best 25 levels a side, over the digits as sent"
    ignored = {
        "candles": "candles are made from the trades, so that they mean the same everywhere",
        "R0": "books of single orders are not carried",
        "fte": "funding is lending, not trading",
        "ftu": "funding is lending, not trading",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        return {
            f"book-{BOOK_LEVELS}" if channel == "book" else channel: fed
            for channel, fed in FEEDS.items()
            if channel != "status" or instrument.type == "perpetual"
        }

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        return {kind: channel for channel in channels for kind in FEEDS.get(_name(channel), ())}

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return int(channel.partition("-")[2])

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._books: dict[str, BookStream] = {
            one.native: self._book(one) for one in plan.streams if _name(one.channel) == "book"
        }
        #: Bitfinex's channel and symbol -> what we planned.
        self._planned = {(_name(one.channel), one.native): one for one in plan.streams}
        #: What the channels' numbers stand for; None: nothing of ours, as a tape may have it.
        self._channels: dict[int, Stream | None] = {}
        self._flags = FLAGS
        #: The number of the last frame.
        self._last: int | None = None

    def opened(self) -> Sequence[Send]:
        conf = Send(_encode({"event": "conf", "flags": FLAGS}).decode())
        return [conf, *map(_subscribe, self.plan_.streams)]

    def ping(self) -> str | None:
        return '{"event":"ping"}'

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            if frame.startswith(b"{"):
                return self._told(decode_event(frame))
            return self._data(frame, recv)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            topic = self._topics[stream.native].get("trade")
            if stream.channel == "trades" and topic is not None:
                # Nothing numbers a topic's trades: what comes meanwhile is lost unseen.
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
            out += self._afresh(stream)
        return out

    def _afresh(self, stream: Stream) -> list[Output]:
        numbers = [number for number, one in self._channels.items() if one == stream]
        back = [_encode({"event": "unsubscribe", "chanId": number}) for number in numbers]
        return [*(Send(one.decode()) for one in back), _subscribe(stream)]

    def _data(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Read a frame whole, then see by its number whether it is the next, then do it."""
        given = decode(frame)
        first = bytes(given.first)
        change: _Change = _nothing
        behind = given.second, given.third
        if first != b'"hb"':
            if given.channel not in self._channels:
                raise ValueError(f"nobody said what channel {given.channel} is")
            stream = self._channels[given.channel]
            tag, payload = "", first
            if first.startswith(b'"'):
                tag, payload = str(first[1:-1], "ascii"), bytes(given.second)
                behind = given.third, given.fourth
            if stream is not None:
                change = self._read(stream, tag, payload)
        number, ts = self._stamps(*behind)
        out = self._arrived(number, recv)
        if out is None:
            return ()
        if ts is not None:
            out += self._pacer.advance(ts)
        out += change(ts, recv)
        return out

    def _stamps(self, first: msgspec.Raw, second: msgspec.Raw) -> tuple[int | None, int | None]:
        """Return a frame's number and time in µs, of what stands behind its payload."""
        if not self._flags & SEQ_ALL:
            first, second = msgspec.Raw(b""), first
        millis = count_or_none(second) if self._flags & TIMESTAMP else None
        return count_or_none(first), micros_or_none(millis)

    def _arrived(self, number: int | None, recv: int) -> list[Output] | None:
        """Return what follows from a frame's number; None for one that came before.

        A number far off, whichever way, is a hole: what is spoiled must not make all else old.
        """
        last = self._last
        if number is None:
            return []
        if last is not None and last - FAR < number <= last:
            return None
        self._last = number
        if last is None or number == last + 1:
            return []
        out: list[Output] = []
        for book in self._books.values():
            out += book.lost("sequence", recv)
        for topics in self._topics.values():
            if "trade" in topics:
                out.append(upstream_gap(topics["trade"], recv, "upstream_sequence", None))
        return out

    def _read(self, stream: Stream, tag: str, payload: bytes) -> _Change:
        match _name(stream.channel), tag:
            case "book", "":
                is_start = is_list(payload)
                levels = decode_levels(payload) if is_start else [decode_level(payload)]
                book = self._books[stream.native]
                return partial(book.snapshot if is_start else book.delta, *sides(levels))
            case "book", "cs":
                return partial(self._proof, self._books[stream.native], decode_int(payload))
            case "trades", "te" | "tu":
                return partial(self._trade, stream.native, read_trade(payload))
            case "trades", "" if is_list(payload):
                decode_trades(payload)  # they happened before we came
                return _nothing
            case "ticker", "":
                return partial(self._ticker, stream.native, read_day(payload))
            case "status", "":
                return partial(self._status, stream.native, *read_state(payload))
        if tag in self.ignored:
            return _nothing
        raise ValueError(f"unknown {tag[:40]!r} of {stream.channel}")

    def _proof(self, book: BookStream, proof: int, ts: int | None, recv: int) -> Iterable[Output]:
        if not book.feed.is_live or checksum(*book.feed.book.top(PROVEN)) == proof:
            return ()
        return book.lost("checksum", recv)

    def _trade(self, native: str, trade: Done, ts: int | None, recv: int) -> Iterable[Output]:
        topic = self._topics[native].get("trade")
        number, at, price, size, side = trade
        if topic is None or not self._known[topic].is_new(number):
            return ()
        return (Trade(topic, 0, at, recv, 0, str(number), price, size, side),)

    def _ticker(
        self, native: str, day: tuple[str | None, ...], ts: int | None, recv: int
    ) -> Iterable[Output]:
        topic = self._topics[native].get("ticker")
        if not self._is_news(topic, day):
            return ()
        return (Ticker(topic, 0, ts, recv, 0, *day),)

    def _status(
        self,
        native: str,
        at: int,
        state: State,
        ts: int | None,
        recv: int,
    ) -> Iterable[Output]:
        topic = self._topics[native].get("derivative")
        if not self._is_news(topic, state):
            return ()
        return (Derivative(topic, 0, at, recv, 0, *state),)

    def _told(self, event: Event) -> Sequence[Output]:
        match event.event:
            case "subscribed":
                if event.chan is None:
                    raise ValueError("an ack without the channel's number")
                self._channels[event.chan] = self._stream_of(event)
            case "unsubscribed":
                if event.chan is not None:
                    self._channels.pop(event.chan, None)
            case "conf":
                self._flags = event.flags
            case "info":
                if event.code == _RESTART:
                    return (Leave("restart", serves_on=True),)
                if event.code == _MAINTAINED:
                    return (Leave("maintenance"),)
            case "error":
                return self._failed(event)
            case "pong":
                pass
            case other:
                raise ValueError(f"unknown event {other[:40]!r}")
        return ()

    def _failed(self, event: Event) -> Sequence[Output]:
        """Take note of what is refused: an error repeats what was asked for."""
        if event.code in _HARMLESS:
            return ()
        stream = self._stream_of(event)
        if stream is None:
            raise ValueError(f"refuses what was not asked for: {event.msg[:80]}")
        return (Refused((stream,), event.msg or f"error {event.code}"),)

    def _stream_of(self, event: Event) -> Stream | None:
        """Return which of our streams is meant; None for what is none."""
        if event.prec not in ("", PRECISION):
            return None
        named = event.channel, event.symbol or event.key.removeprefix(_DERIVATIVE)
        return self._planned.get(named)
