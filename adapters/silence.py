"""Which streams of a living connection have fallen silent. Pure.

A stream is judged by all the topics it feeds together: a living mark price must not hide a dead
book, while a best price that stands still is proven by the book it is made from. Facts such as
trades are left out, because no trade is no fault.

Nothing here is counted by event. A slow tick looks at what the status board knows anyhow; intervals
shorter than a tick are taken for one tick, which the floor makes irrelevant. Times are seconds of
listening: while we cannot or will not read, what waits unread is no silence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from math import ceil, inf, log2

import msgspec

from adapters.base import Adapter, Plan, Stream

#: So many times its median interval a stream may be silent.
FACTOR = 30.0
#: How far back the median looks, in spans of ten minutes.
SPAN_S = 600.0
SPANS = 6
#: Buckets are a quarter of a doubling wide, the first ends at one second, the last is all above.
_PER_DOUBLING = 4
_BUCKETS = 64
#: So many beats missed are a silence.
MISSED_BEATS = 3
#: Kinds of facts that nobody owes us; a book is owed.
UNJUDGED = frozenset({"trade", "liquidation"})


class Rhythm:
    """How often something comes: the median of its last hour's intervals, to within a fifth.

    Nothing is forgotten by time alone: after an hour of silence its last hour is still the one
    before.
    """

    __slots__ = ("_spans",)

    def __init__(self) -> None:
        #: (number of the span, intervals by bucket), oldest first.
        self._spans: list[tuple[int, list[int]]] = []

    def add(self, interval_s: float, now: float) -> None:
        """Count an interval that has just ended."""
        span = int(now // SPAN_S)
        spans = self._spans
        if not spans or spans[-1][0] != span:
            spans.append((span, [0] * _BUCKETS))
            while spans[0][0] <= span - SPANS:
                del spans[0]
        spans[-1][1][_bucket(interval_s)] += 1

    def median_s(self) -> float | None:
        """Return the upper end of the median's bucket; None before the first interval."""
        counts = [sum(column) for column in zip(*(one for _, one in self._spans), strict=True)]
        half = sum(counts) / 2
        if not half:
            return None
        bucket = next(i for i, reached in enumerate(accumulate(counts)) if reached >= half)
        return float(2.0 ** (bucket / _PER_DOUBLING))


def _bucket(interval_s: float) -> int:
    if interval_s <= 1.0:
        return 0
    return min(_BUCKETS - 1, ceil(log2(interval_s) * _PER_DOUBLING))


class Watched(msgspec.Struct, frozen=True):
    """What is judged together.

    Attributes:
        streams: Of one instrument; taken afresh together.
        topics: What they feed; they fall silent together.
    """

    streams: tuple[Stream, ...]
    topics: tuple[str, ...]

    @property
    def native(self) -> str:
        return self.streams[0].native


def watched(
    adapter: type[Adapter], plan: Plan, fed: Collection[str], kinds: Collection[str]
) -> list[Watched]:
    """Return what is judged of a connection: streams that may feed one topic go together.

    Args:
        fed: The topics that the connection feeds.
        kinds: The kinds wanted.
    """
    found: list[Watched] = []
    for stream in plan.streams:
        carried, _ = adapter.carried((stream,), plan.instruments[stream.native], kinds)
        topics = {t for t in carried if t in fed and t.partition(".")[0] not in UNJUDGED}
        if not topics:
            continue
        streams = [stream]
        for one in [one for one in found if not topics.isdisjoint(one.topics)]:
            found.remove(one)
            topics |= set(one.topics)
            streams = [*one.streams, *streams]
        found.append(Watched(tuple(streams), tuple(sorted(topics))))
    return found


class Silence:
    """Watches the streams of one connection, and of those that come after it in its place.

    Args:
        floor_s: A shorter silence never counts.
        again_s: A stream is not taken afresh again sooner.
    """

    def __init__(
        self, watched: Iterable[Watched], *, floor_s: float = 60.0, again_s: float = 300.0
    ) -> None:
        self._watched = tuple(watched)
        self._floor_s = floor_s
        self._again_s = again_s
        self._now = 0.0
        self._rhythms = [Rhythm() for _ in self._watched]
        #: By position: the newest event's receive time as last seen, and since when it stands.
        self._newest: list[tuple[int, float] | None] = [None] * len(self._watched)
        self._silent: set[int] = set()
        self._resynced: dict[Stream, float] = {}

    def restart(self) -> None:
        """Begin anew with a new connection; how often a stream speaks is remembered."""
        self._newest = [None] * len(self._watched)
        self._silent.clear()

    def tick(self, listened_s: float, last_event: Mapping[str, int]) -> list[Watched]:
        """Look at what has come since the last tick; return what has just fallen silent.

        Args:
            listened_s: How long we have listened since.
            last_event: Topic -> receive time of its last event, in any unit.
        """
        self._now = now = self._now + listened_s
        fallen: list[Watched] = []
        for i, one in enumerate(self._watched):
            newest = max([last_event.get(topic, 0) for topic in one.topics])
            before = self._newest[i]
            if before is None or newest != before[0]:
                self._newest[i] = (newest, now)
                if before is not None and before[0]:  # else it is the first ever
                    self._rhythms[i].add(now - before[1], now)
                self._silent.discard(i)
            elif newest and i not in self._silent and now - before[1] > self.threshold_s(i):
                self._silent.add(i)
                fallen.append(one)
        return fallen

    def threshold_s(self, position: int) -> float:
        """Return the silence after which the watched one counts as silent."""
        return max(self._floor_s, FACTOR * (self._rhythms[position].median_s() or 0.0))

    def silent(self) -> dict[str, list[Stream]]:
        """Return what is silent now, by instrument."""
        found: dict[str, list[Stream]] = {}
        for i in sorted(self._silent):
            found.setdefault(self._watched[i].native, []).extend(self._watched[i].streams)
        return found

    def speaks(self, native: str) -> bool:
        """Whether anything judged of an instrument is not silent."""
        return any(
            one.native == native and i not in self._silent for i, one in enumerate(self._watched)
        )

    def fallen(self, native: str) -> list[Watched]:
        """Return what is silent now of an instrument."""
        return [one for i in self._silent if (one := self._watched[i]).native == native]

    def due(self, streams: Iterable[Stream]) -> list[Stream]:
        """Return which of these may be taken afresh; that counts as done.

        Each has its own pause: those of one instrument fall silent one after the other, and the
        first must not hold up the book.
        """
        last = self._resynced
        due = [one for one in streams if self._now - last.get(one, -inf) >= self._again_s]
        last.update(dict.fromkeys(due, self._now))
        return due


class Beats:
    """The beats that the exchange sends of each instrument; silent when three have been missed.

    An instrument counts from its first beat on.

    Args:
        every_s: Time between two.
    """

    def __init__(self, every_s: float) -> None:
        self._after_s = MISSED_BEATS * every_s
        #: What has beaten since the last tick.
        self.heard: set[str] = set()
        self._quiet_s: dict[str, float] = {}

    @property
    def silent(self) -> list[str]:
        """Whose beat is missing."""
        return [one for one, quiet_s in self._quiet_s.items() if quiet_s >= self._after_s]

    def tick(self, listened_s: float) -> tuple[list[str], list[str]]:
        """Return whose beat has just stopped, and whose has come back."""
        stopped: list[str] = []
        back: list[str] = []
        for native in self.heard:
            if self._quiet_s.get(native, 0.0) >= self._after_s:
                back.append(native)
            self._quiet_s[native] = 0.0
        for native, quiet_s in self._quiet_s.items():
            if native not in self.heard:
                self._quiet_s[native] = quiet_s + listened_s
                if quiet_s < self._after_s <= quiet_s + listened_s:
                    stopped.append(native)
        self.heard.clear()
        return stopped, back
