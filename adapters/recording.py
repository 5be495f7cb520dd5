"""A tape as its exchange would say it again: frames by stream, REST bodies by key. Pure but for
``load``, which reads the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from adapters import registry, tape
from adapters.base import Stream, TapeLine, Venue
from feed.errors import ConfigError


class Frame(NamedTuple):
    """One frame to send; ``at`` in seconds since the tape's first; ``stream`` None: to all."""

    at: float
    stream: Stream | None
    body: bytes
    is_text: bool


def once(lines: Sequence[TapeLine], venue: Venue) -> Iterator[tuple[TapeLine, Stream | None]]:
    """Yield the lines, received ones with their stream; each stream of one connection at a time.

    A recorder may have had the same stream on several: mixed, they would make neither's book. It
    goes on with one that began after the first had ended.
    """
    ends = {line.conn: at for at, line in enumerate(lines) if line.dir == "in"}
    begins: dict[str | None, int] = {}
    owners: dict[Stream, str | None] = {}
    for at, line in enumerate(lines):
        stream = venue.stream_of(line) if line.dir == "in" else None
        if line.dir == "in":
            begins.setdefault(line.conn, at)
        if stream is not None:
            owner = owners.setdefault(stream, line.conn)
            if owner != line.conn and ends[owner] > begins[line.conn]:
                continue
            owners[stream] = line.conn
        yield line, stream


class Recording:
    """What one exchange said on a tape, ready to be said again. Pure.

    Attributes:
        frames: In the order received.
        streams: Every stream that has frames.
        bodies: REST key -> recorded bodies, in order.
    """

    def __init__(self, lines: Sequence[TapeLine], venue: Venue) -> None:
        for line in lines:
            venue.scan(line)
        self.venue = venue
        self.frames: list[Frame] = []
        self.bodies: dict[str, list[bytes]] = {}
        first_at: float | None = None
        at = 0.0
        for line, stream in once(lines, venue):
            if line.dir == "rest":
                key = venue.rest_key_of(line)
                if key is not None:
                    self.bodies.setdefault(key, []).append(tape.body(line))
            if line.dir != "in":
                continue
            if stream is None and not venue.is_broadcast(line):
                continue
            if line.t is not None:
                first_at = line.t if first_at is None else first_at
                # Clocks step; order never does.
                at = max(at, line.t - first_at)
            self.frames.append(Frame(at, stream, tape.body(line), tape.is_text(line)))
        self.streams = frozenset(f.stream for f in self.frames if f.stream is not None)

    @property
    def length_s(self) -> float:
        return self.frames[-1].at if self.frames else 0.0


def listing_of(
    paths: Sequence[str], venue: Venue, bodies: Mapping[str, Sequence[bytes]]
) -> list[bytes]:
    """Return the bodies of a recorded listing, one a path; empty where it is not there whole.

    Args:
        bodies: REST key -> recorded bodies. Of paths with one key each has the next body.
    """
    taken: Counter[str] = Counter()
    found: list[bytes] = []
    for path in paths:
        key = venue.rest_key(path) or ""
        found += bodies.get(key, ())[taken[key] :][:1]
        taken[key] += 1
    return found if len(found) == len(paths) else []


def load(path: Path, exchange: str | None = None, *, is_hint: bool = False) -> dict[str, Recording]:
    """Read a tape; return what each exchange on it said.

    Args:
        exchange: Read it as this exchange's; None: as its URLs and frames tell.
        is_hint: ``exchange`` counts only where they tell nothing.

    Raises:
        ConfigError: Not a tape, or of no exchange we know.
    """
    lines = list(tape.read(path))
    names = registry.exchanges_of(lines) if exchange is None or is_hint else []
    if exchange and not names:
        names = [exchange]
    if not names:
        raise ConfigError(f"{path}: cannot tell whose tape this is; name it with --exchange")
    found = {name: Recording(lines, registry.entry(name).load_venue()()) for name in names}
    if not any(recording.streams for recording in found.values()):
        raise ConfigError(f"{path}: no frame on it is one of {', '.join(names)}")
    return {name: recording for name, recording in found.items() if recording.streams}
