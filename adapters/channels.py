"""What exchanges have in common where one subscribes to channels of instruments. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from sys import maxsize
from typing import ClassVar, Protocol, TypeGuard, TypeVar

import msgspec

from adapters.base import Adapter, Mark, Output, Plan, Stream, upstream_gap
from adapters.book import BookFeed, DepthPacer
from adapters.trade_ids import RecentIds, TradeIds, marks
from feed.models import Instrument, Level

#: A stream whose snapshot is bad or does not come is subscribed again, but not sooner, µs.
RESUBSCRIBE_US = 5_000_000

_T = TypeVar("_T")
_decode_any = msgspec.json.Decoder().decode


class _HasFeed(Protocol):
    feed: BookFeed


class ChannelAdapter(Adapter):
    """An adapter whose streams all go to one path, where each channel feeds certain kinds.

    Attributes:
        path: Below ``ws_url``.
        chars_per_connection: Most characters of ``channel.native`` in all, where that is limited.
        feeds: Channel -> the kinds it feeds; of several that feed one the last counts.
        window: Levels a side of the book, where that is the same for every channel.
    """

    path: ClassVar[str]
    chars_per_connection: ClassVar[int] = maxsize
    feeds: ClassVar[Mapping[str, Collection[str]]]
    window: ClassVar[int]
    #: The connection's books, under the names that their messages have.
    _books: Mapping[str, _HasFeed]

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        """Return channel -> the kinds that a live subscription to it is for; none: for any."""
        return cls.feeds

    @classmethod
    def streams(cls, instrument: Instrument, kinds: Collection[str]) -> list[Stream]:
        wanted = cls.kinds & set(kinds)
        return [
            Stream(channel, instrument.native)
            for channel, fed in cls.offered(instrument).items()
            if not fed or not wanted.isdisjoint(fed)
        ]

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        """Return kind -> the one channel that feeds it, of an instrument with these channels."""
        given = set(channels)
        return {
            kind: channel
            for channel, fed in cls.feeds.items()
            if channel in given
            for kind in fed
            if kind in cls.kinds
        }

    @classmethod
    def book_levels(cls, channel: str) -> int:
        """Return the levels a side of the book that a channel feeds."""
        return cls.window

    @classmethod
    def plan(cls, streams: Sequence[Stream], instruments: Mapping[str, Instrument]) -> list[Plan]:
        return [
            Plan(cls.path, part, {one.native: instruments[one.native] for one in part})
            for part in pack(streams, cls.limits.streams_per_connection, cls.chars_per_connection)
        ]

    @classmethod
    def carried(
        cls, streams: Collection[Stream], instrument: Instrument, kinds: Collection[str]
    ) -> tuple[tuple[str, ...], int | None]:
        topics = cls.topics(streams, instrument, kinds)
        channels = [one.channel for one in streams if one.native == instrument.native]
        levels = cls.book_levels(cls.feeding(channels)["book"]) if "book" in topics else None
        return tuple(topics.values()), levels

    @classmethod
    def topics(
        cls, streams: Collection[Stream], instrument: Instrument, kinds: Collection[str]
    ) -> dict[str, str]:
        """Return kind -> topic of what these streams of the instrument feed."""
        channels = [one.channel for one in streams if one.native == instrument.native]
        return {
            kind: f"{kind}.{cls.name}.{instrument.symbol}"
            for kind in cls.feeding(channels)
            if kind in kinds
        }

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._pacer = DepthPacer()
        #: Instrument -> kind -> topic of what its streams feed and is wanted.
        self._topics = {
            native: self.topics(plan.streams, instrument, self.wanted)
            for native, instrument in plan.instruments.items()
        }
        #: Topic -> the values last emitted, where only new ones are.
        self._shown: dict[str, tuple[str | int | None, ...]] = {}
        #: Topic -> its last trades, where their ids have no order.
        self._known: defaultdict[str, RecentIds] = defaultdict(RecentIds)
        #: Topics whose last entry is a gap that says that something may be missing.
        self._doubted: set[str] = set()

    def whole(self, native: str, ts: int | None, recv: int) -> Sequence[Output]:
        own = [one.feed for one in self._books.values() if one.feed.native == native]
        return [output for feed in own for output in feed.whole(ts, recv)] if own else ()

    def _fed(self, stream: Stream) -> dict[str, str]:
        """Return kind -> topic of what the stream feeds and is wanted."""
        own = [one.channel for one in self.plan_.streams if one.native == stream.native]
        fed = self.feeding(own)
        topics = self._topics[stream.native]
        return {kind: topic for kind, topic in topics.items() if fed[kind] == stream.channel}

    def _book(self, stream: Stream, *, truncate: bool = False) -> BookStream:
        """Return the book that a stream feeds, before its snapshot."""
        levels, afresh = self.book_levels(stream.channel), partial(self.resync, (stream,))
        topics = self._fed(stream)
        return BookStream(stream, topics, levels, self._pacer, afresh, truncate=truncate)

    def _is_news(self, topic: str | None, values: tuple[str | int | None, ...]) -> TypeGuard[str]:
        """Whether the topic is wanted and its values are not those last emitted."""
        if topic is None or self._shown.get(topic) == values:
            return False
        self._shown[topic] = values
        return True

    def _doubt(self, topic: str | None, recv: int) -> list[Output]:
        """Declare that events of a topic may be missing: once, until it is doubted no more."""
        if topic is None or topic in self._doubted:
            return []
        self._doubted.add(topic)
        return [upstream_gap(topic, recv, "upstream_sequence", None)]


class NumberedTrades(ChannelAdapter):
    """One whose trades are numbered consecutively, instrument by instrument."""

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._ids = {
            native: TradeIds(topics["trade"], native)
            for native, topics in self._topics.items()
            if "trade" in topics
        }

    def marks(self) -> dict[str, Mark]:
        return marks(self._ids)

    def resume(self, native: str, mark: Mark) -> None:
        if native in self._ids:
            self._ids[native].resume(mark)


class BookStream:
    """A stream whose subscription begins with a snapshot, and the book it feeds.

    Args:
        topics: kind -> topic of what it feeds.
        levels: Levels a side of the book.
        afresh: Receive time -> how to subscribe to it afresh.
    """

    def __init__(
        self,
        stream: Stream,
        topics: Mapping[str, str],
        levels: int,
        pacer: DepthPacer,
        afresh: Callable[[int], Sequence[Output]],
        *,
        truncate: bool = False,
    ) -> None:
        self.stream = stream
        self.feed = BookFeed(stream.native, topics, levels, pacer, truncate=truncate)
        self._pacer = pacer
        self._afresh = afresh
        self._not_before = 0

    def snapshot(
        self, bids: Sequence[Level], asks: Sequence[Level], ts: int | None, recv: int
    ) -> list[Output]:
        """Begin with a snapshot, which may be bad, and return what follows."""
        if not self.start(bids, asks) or self.feed.book.is_crossed:
            return self.lost("snapshot", recv)
        return self.feed.restart(ts, recv)

    def delta(
        self, bids: Sequence[Level], asks: Sequence[Level], ts: int | None, recv: int
    ) -> list[Output]:
        """Apply changed levels, if there is a book, and return what follows."""
        feed = self.feed
        if not feed.is_live:
            return self.lost("snapshot", recv)
        events = feed.delta(bids, asks, ts, recv)
        return self.lost("crossed", recv) if feed.book.is_crossed else events

    def told(
        self, bids: Sequence[Level], asks: Sequence[Level], ts: int, recv: int
    ) -> list[Output]:
        """Take the book where it is told whole again and again: what has changed goes out.

        Raises:
            ValueError: Two levels have one price; nothing has changed.
        """
        changes = self.feed.book.changes_to(bids, asks)
        out = [*self._pacer.advance(ts)]
        if self.feed.is_live:
            return out + self.delta(*changes, ts, recv)
        return out + self.snapshot(bids, asks, ts, recv)

    def start(self, bids: Iterable[Level], asks: Iterable[Level]) -> bool:
        """Replace the levels by a snapshot's; False where two have one price and nothing changed.

        ``feed.restart`` then shows it, once it is proven.
        """
        try:
            self.feed.book.replace(bids, asks)
        except ValueError:
            return False
        return True

    def lost(self, reason: str, recv: int) -> list[Output]:
        """Give the book up and ask for it afresh, if that was not just done.

        To be called for every message that finds no book: so a snapshot that never came, or was
        bad itself, is asked for again.
        """
        out = self.feed.broken(reason, recv)
        return [*out, *self._afresh(recv)] if self.is_due(recv) else out

    def is_due(self, recv: int) -> bool:
        """Whether it was not just asked for afresh; from here on it was."""
        if recv < self._not_before:
            return False
        self._not_before = recv + RESUBSCRIBE_US
        return True


def is_json(frame: bytes) -> bool:
    """Whether a frame is whole JSON, so that a type we don't know is all that is wrong with it."""
    try:
        _decode_any(frame)
    except (ValueError, RecursionError):
        return False
    return True


def find(table: Mapping[str, _T], native: str) -> _T:
    """Return the entry of an exchange's symbol.

    Raises:
        ValueError: Not one of this connection.
    """
    found = table.get(native)
    if found is None:
        raise ValueError(f"{native[:40]!r} is not carried here")
    return found


def pack(
    streams: Sequence[Stream], most: int, most_chars: int = maxsize
) -> list[tuple[Stream, ...]]:
    """Return the streams in connection-sized groups, all of one instrument in the same one.

    Args:
        most: Streams a connection.
        most_chars: Characters of ``channel.native`` a connection, in all.
    """
    by_native: dict[str, list[Stream]] = {}
    for stream in streams:
        by_native.setdefault(stream.native, []).append(stream)
    groups: list[tuple[Stream, ...]] = []
    group: list[Stream] = []
    chars = 0
    for own in by_native.values():
        own_chars = sum(len(one.channel) + len(one.native) + 1 for one in own)
        if group and (len(group) + len(own) > most or chars + own_chars > most_chars):
            groups.append(tuple(group))
            group, chars = [], 0
        group += own
        chars += own_chars
    return [*groups, tuple(group)] if group else groups
