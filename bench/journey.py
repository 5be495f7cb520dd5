"""What became of every frame on its way: from the exchange's hand to a client's, by stage. Pure.

``depth`` is in no stage: it is held back on purpose, up to 100 ms of exchange time, and then says
when the change came that it tells of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bench.dialects import frames
from bench.histogram import Histogram
from bench.track import Track, identity

#: From where to where; the last one is the whole way.
STAGES = ("exchange to recv", "recv to pub", "pub to client", "exchange to client")

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Arrival(NamedTuple):
    """One entry in a client's hand.

    Attributes:
        at, recv, pub: µs.
        identity: See ``bench.track``.
    """

    at: int
    topic: str
    seq: int
    recv: int
    pub: int
    identity: bytes


class Given:
    """What one client was given.

    Attributes:
        entries: In the order of arrival.
        declared: Entries that the server said it would not get (gaps of the connection).
    """

    def __init__(self) -> None:
        self.entries: list[Arrival] = []
        self.declared = 0

    def take(self, at: int, payload: bytes | str) -> None:
        """Take one message."""
        said = _decode(payload)
        if said.get("seq") is not None and "pub" in said:
            known_by = identity(said)
            self.entries.append(
                Arrival(at, said["topic"], said["seq"], said["recv"], said["pub"], known_by)
            )
        elif said["type"] == "gap":
            self.declared += said["to"] - said["from"] + 1

    def take_all(self, kept: Iterable[tuple[int, bytes]]) -> Given:
        """Take what was read from a socket, read by read, however it was cut."""
        rest = b""
        for at, data in kept:
            rest += data
            whole = list(frames(rest))
            for payload, _ in whole:
                self.take(at, payload)
            if whole:
                rest = rest[whole[-1][1] :]
        return self


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of the way, ms."""

    name: str
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Origins:
    """Finds the moment at which the frame behind an entry was sent; each frame's events once.

    Args:
        sent: By track, when each frame was sent, µs; 0: never.
    """

    def __init__(self, tracks: Iterable[Track], sent: Mapping[str, Sequence[int]]) -> None:
        self._sent: dict[bytes, deque[int]] = {}
        for track in tracks:
            for at, made in zip(sent[track.name], track.made, strict=True):
                if at:
                    for one in made:
                        self._sent.setdefault(one, deque()).append(at)

    def take(self, identity: bytes) -> int | None:
        """Return when its frame was sent, µs; None for an entry that no frame made."""
        times = self._sent.get(identity)
        return times.popleft() if times else None


class Journey:
    """Stage by stage, how long the entries took.

    Args:
        since: Entries of frames sent before are not measured, µs.

    Attributes:
        stages: In the order of ``STAGES``, µs.
        entries: All.
        untraced: Those whose frame is not known (a restart's ``gap``, for one), or that came
            before it was sent, which no entry can.
        first, last: When the first and the last one came, µs; 0: none came.
    """

    def __init__(self, since: int = 0) -> None:
        self.stages = tuple(Histogram() for _ in STAGES)
        self.entries = 0
        self.untraced = 0
        self.first = self.last = 0
        self._since = since

    def follow(self, came: Iterable[Arrival], origins: Origins) -> None:
        """Take one client's entries; ``origins`` are of this client alone."""
        for one in came:
            self.entries += 1
            self.first = min(self.first or one.at, one.at)
            self.last = max(self.last, one.at)
            sent = origins.take(one.identity)
            if one.topic.startswith("depth."):
                continue
            if sent is None or one.recv < sent:
                self.untraced += 1
            elif sent >= self._since:
                steps = (one.recv - sent, one.pub - one.recv, one.at - one.pub, one.at - sent)
                for histogram, step in zip(self.stages, steps, strict=True):
                    histogram.add(step)

    def summary(self) -> list[Stage]:
        """Return the stages in figures."""
        return [
            Stage(
                name=name,
                p50_ms=histogram.percentile(50) / 1000,
                p99_ms=histogram.percentile(99) / 1000,
                p999_ms=histogram.percentile(99.9) / 1000,
                max_ms=histogram.max / 1000,
            )
            for name, histogram in zip(STAGES, self.stages, strict=True)
        ]


def unaccounted(came: Iterable[Arrival], published: Mapping[str, int]) -> tuple[int, int]:
    """Return how many entries a client lacks, and how many it had too often or out of order.

    Args:
        published: Topic -> how many entries it was given on the bus meanwhile.
    """
    count: dict[str, int] = {}
    last: dict[str, int] = {}
    odd = 0
    for one in came:
        before = last.get(one.topic)
        if before is not None and one.seq <= before:
            odd += 1
            continue
        last[one.topic] = one.seq
        count[one.topic] = count.get(one.topic, 0) + 1
    lost = sum(max(0, n - count.get(topic, 0)) for topic, n in published.items())
    return lost, odd
