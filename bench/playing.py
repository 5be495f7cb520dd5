"""Tapes through everything up to the bus, by real processes: fake exchanges and ingest.

Shared by the benches that play tapes: the fakes are told when each frame is due, say when each one
left, and the ingest process reaches them over ``--endpoint``. Clocks start when ``go`` is called,
after the clients are there.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from redis import Redis

from bench.processes import BenchError, Child
from bench.track import Pace, Track
from feed.bus.keys import stream_key

_LOOK_S = 0.05
#: What the fakes may take beyond the time the tapes take.
_SLACK_S = 120.0


class Playing:
    """The processes that play. Inside an ``ExitStack``, which ends them.

    Attributes:
        topics: All that will have entries.
        seconds: How long the tapes take at this pace; 0 where it is as fast as taken.
        exchange, ingest: The processes.
    """

    def __init__(
        self,
        stack: ExitStack,
        bus: str,
        paths: Sequence[Path],
        copies: int,
        tracks: Sequence[Track],
        pace: Pace,
        seconds: float | None,
        cores: Collection[int],
    ) -> None:
        self.tracks = tracks
        self.topics = sorted(set().union(*(track.topics for track in tracks)))
        weights = {track.name: sum(map(len, track.made)) for track in tracks}
        total = sum(weights.values())
        self._due = {
            track.name: track.at(pace, weights[track.name] / total, seconds) for track in tracks
        }
        played = [at for due in self._due.values() for at in due if at is not None]
        self.frames = len(played)
        self.seconds = max(played, default=0.0)
        self._bus = bus
        self.exchange = stack.enter_context(Child("bench.exchange", {}, cores))
        self.exchange.hear()
        urls = self.exchange.ask(
            {
                "do": "load",
                "tapes": [str(path.resolve()) for path in paths],
                "copies": copies,
                "at": self._due,
            },
            timeout_s=_SLACK_S,
        )["urls"]
        settings = {
            "bus": bus,
            "exchanges": list(urls),
            "endpoints": [f"{name}={url}" for name, url in urls.items()],
        }
        self.ingest = stack.enter_context(Child("bench.ingester", settings, cores))
        self.ingest.hear()

    def published(self) -> dict[str, int]:
        """Return how many entries each topic was ever given on the bus."""
        with Redis.from_url(self._bus) as bus, bus.pipeline(transaction=False) as pipeline:
            for topic in self.topics:
                pipeline.xinfo_stream(stream_key(topic))
            found = pipeline.execute(raise_on_error=False)
        return {
            topic: int(said["entries-added"]) if isinstance(said, Mapping) else 0
            for topic, said in zip(self.topics, found, strict=True)
        }

    def go(self) -> None:
        """Start the tapes."""
        self.exchange.ask({"do": "go"})

    def finish(self) -> dict[str, list[int]]:
        """Wait until every frame has left; return when each did: exchange -> µs, 0: not played.

        Raises:
            BenchError: They do not.
        """
        deadline = time.monotonic() + self.seconds + _SLACK_S
        while (answer := self.exchange.ask({"do": "sent"}))["left"]:
            if time.monotonic() > deadline:
                raise BenchError(f"{answer['left']} frames were never sent")
            time.sleep(_LOOK_S)
        sent: dict[str, list[int]] = answer["sent"]
        return sent

    def lateness(self, sent: Mapping[str, Sequence[int]]) -> Iterable[int]:
        """Yield by how much each frame left later than due, µs; the earliest was in time."""
        delays = [
            at - round(due * 1e6)
            for name, times in sent.items()
            for at, due in zip(times, self._due[name], strict=True)
            if at and due is not None
        ]
        earliest = min(delays, default=0)
        return (delay - earliest for delay in delays)
