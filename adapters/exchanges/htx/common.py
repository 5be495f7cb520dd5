"""What HTX's spot and contracts have in common. Pure.

Topics are ``market.<symbol>.<channel>``; each is asked for alone, and the answer has the request's
id. ``depth.step0`` is the whole book each time. Pings come every 5 s, and two that are missed end
the connection. Who subscribes to trades is first told the last one there was.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar, TypeAlias

import msgspec

from adapters.base import Limits, Output, Plan, Refused, Send, Stream
from adapters.channels import ChannelAdapter, find, pack
from adapters.exchanges.htx.frames import Frame, decode, decode_depth, levels
from adapters.text import MAX_MICROS
from feed.errors import BadPayload
from feed.models import Instrument, Ticker

#: The whole book and its levels a side; the other steps join levels.
WHOLE_CHANNEL, WHOLE_LEVELS = "depth.step0", 150

Values: TypeAlias = tuple[str | None, ...]
_encode = msgspec.json.Encoder().encode


def topic_of(stream: Stream) -> str:
    return f"market.{stream.native}.{stream.channel}"


def stream_of(topic: str) -> Stream:
    """Read ``market.btcusdt.trade.detail``; ValueError for what is none."""
    market, _, rest = topic.partition(".")
    native, _, channel = rest.partition(".")
    if market != "market" or not native or not channel:
        raise ValueError(f"{topic[:60]!r} is no topic")
    return Stream(channel, native)


class HtxChannels(ChannelAdapter):
    """One market of HTX.

    Attributes:
        passed_over: How the channels of ``ignored`` begin.
    """

    kinds = frozenset({"book", "depth", "quote", "trade", "ticker"})
    # Books may be asked for ten times a second on a connection; nothing else is published.
    limits = Limits(
        frames_per_s=10,
        streams_per_connection=100,
        connects=20,
        connects_window_s=10,
        silent_after_s=15,
    )
    passed_over: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def is_incremental(cls, channel: str) -> bool:
        """Whether a channel is a book told by its changes."""

    @classmethod
    @abstractmethod
    def path_of(cls, channel: str) -> str:
        """Return where a channel is served."""

    @classmethod
    def plan(cls, streams: Sequence[Stream], instruments: Mapping[str, Instrument]) -> list[Plan]:
        incremental = {one.native for one in streams if cls.is_incremental(one.channel)}
        by_path: dict[str, list[Stream]] = {}
        for one in streams:
            if one.channel == WHOLE_CHANNEL and one.native in incremental:
                continue  # one of the two feeds the book
            by_path.setdefault(cls.path_of(one.channel), []).append(one)
        return [
            Plan(path, part, {one.native: instruments[one.native] for one in part})
            for path, own in by_path.items()
            for part in pack(own, cls.limits.streams_per_connection)
        ]

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        #: HTX's topic -> the stream, and kind -> our topic of what it feeds.
        self._carried = {topic_of(one): (one, self._fed(one)) for one in plan.streams}
        self._wholes = {
            topic_of(one): self._book(one) for one in plan.streams if one.channel == WHOLE_CHANNEL
        }
        #: When the trades of a symbol were subscribed to, by the exchange's clock, µs.
        self._subscribed: dict[str, int] = {}
        #: Our topic -> the last quote's number; the values last emitted.
        self._quoted: dict[str, int] = {}

    def opened(self) -> Sequence[Send]:
        return [self._request("sub", one) for one in self.plan_.streams]

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = decode(frame)
            if message.ping is not None:
                return (Send(_encode({"pong": message.ping}).decode()),)
            if not message.ch:
                return self._replied(message, recv)
            carried = self._carried.get(message.ch)
            said = None if carried is None else self._told(message, *carried, recv)
            return self._uncarried(message.ch) if said is None else said
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        return [self._request(op, one) for one in streams for op in ("unsub", "sub")]

    def whole(self, native: str, ts: int | None, recv: int) -> Sequence[Output]:
        own = [one.feed for one in self._wholes.values() if one.feed.native == native]
        wholes = [output for feed in own for output in feed.whole(ts, recv)]
        return [*wholes, *super().whole(native, ts, recv)]

    @abstractmethod
    def _told(
        self, message: Frame, stream: Stream, topics: Mapping[str, str], recv: int
    ) -> Sequence[Output] | None:
        """Take a message of a stream that feeds these topics; None where it is passed over."""

    def _request(self, op: str, stream: Stream) -> Send:
        """Return a request whose id says what it asked for: an error tells nothing but that."""
        topic = topic_of(stream)
        return Send(_encode({op: topic, "id": f"{op} {topic}"}).decode())

    def _since(self, native: str) -> int:
        """Return when the trades of a symbol were subscribed to; in the future if not yet, µs."""
        return self._subscribed.get(native, MAX_MICROS)

    def _uncarried(self, topic: str) -> Sequence[Output]:
        """Pass over what is left out on purpose; ValueError for anything else."""
        if not stream_of(topic).channel.startswith(self.passed_over):
            raise ValueError(f"{topic[:60]!r} is not carried here")
        return ()

    def _whole(self, message: Frame, stream: Stream, recv: int) -> list[Output]:
        """Take a whole book; what has changed goes out."""
        if message.update:  # of 2019
            raise ValueError("a change, where whole books are sent")
        book, depth = self._wholes[message.ch], decode_depth(message.tick)
        bids, asks = levels(depth.bids), levels(depth.asks)
        return book.told(bids, asks, message.ts * 1_000, recv)

    def _day(self, message: Frame, topic: str | None, values: Values, recv: int) -> list[Output]:
        """Tell a day's figures if they are wanted and new."""
        ts = message.ts * 1_000
        out = [*self._pacer.advance(ts)]
        if self._is_news(topic, values):
            out.append(Ticker(topic, 0, ts, recv, 0, *values))
        return out

    def _replied(self, reply: Frame, recv: int) -> Sequence[Output]:
        """Take an ack or a refusal."""
        if reply.status == "ok" and reply.subbed:
            stream = stream_of(reply.subbed)
            if stream.channel == "trade.detail":
                self._subscribed.setdefault(stream.native, reply.ts * 1_000)
            return ()
        if reply.status == "ok" and reply.unsubbed:
            return ()
        op, _, topic = str(reply.id).partition(" ")
        if reply.status != "error" or not topic:
            raise ValueError(f"neither data nor an answer to us: {reply.error or ''}"[:100])
        if op != "sub":  # what was asked so is asked for again
            return ()
        stream, _ = find(self._carried, topic)
        return (Refused((stream,), reply.error or "no reason given"),)
