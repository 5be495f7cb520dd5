"""A tape that is played to measure with: what each of its frames becomes, and when it is due.

Pure but for ``load``, which reads tapes. The events of a frame are found by a dry run through the
exchange's real adapter, so that an entry in a client's hand can be traced to the frame it was made
of. An entry is known again by all it says but ``seq``, ``recv`` and ``pub``.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from adapters import registry, tape
from adapters.base import Adapter, Fetch, Output, TapeLine
from adapters.connection import EVENTS
from adapters.recording import Recording
from adapters.selection import by_stream
from feed.bus.base import HEADER_BYTES
from feed.errors import BadPayload, ConfigError
from feed.sequencer import Sequencer

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder(order="sorted").encode
#: Between the first and the last copy: the beat of most books.
_SHIFT_S = 0.1
_EPOCH = 1_732_280_000_000_000


class Pace(msgspec.Struct, frozen=True):
    """How fast tapes are played; without either, as fast as taken.

    Attributes:
        speed: 1 is as recorded, 10 is ten times as fast.
        rate: Events a second over all tapes together, evenly.
    """

    speed: float | None = None
    rate: int | None = None

    @property
    def name(self) -> str:
        if self.rate is not None:
            return f"{self.rate:,}/s"
        return "max" if self.speed is None else f"{self.speed:g}x"


def pace_of(text: str) -> Pace:
    """Read ``10x``, ``max`` or ``20000``.

    Raises:
        ConfigError: None of these.
    """
    if text == "max":
        return Pace()
    try:
        if text.endswith("x") and float(text[:-1]) > 0:
            return Pace(speed=float(text[:-1]))
        if int(text) > 0:
            return Pace(rate=int(text))
    except ValueError:
        pass
    raise ConfigError(f"pace {text[:20]!r}: 1x, 10x, max, or events a second")


class Track:
    """One exchange's recording with what its frames become. Pure.

    Attributes:
        made: By frame, the identities of the entries it becomes.
        topics: Of all entries.
    """

    def __init__(self, name: str, recording: Recording) -> None:
        self.name = name
        self.recording = recording
        self.topics: set[str] = set()
        self.made: list[tuple[bytes, ...]] = []
        self._is_taken: list[bool] = []
        self._sequencer = Sequencer(_EPOCH, {})
        self._bodies = {key: list(bodies) for key, bodies in recording.bodies.items()}
        adapter = registry.entry(name).load_adapter()
        plans = by_stream(adapter, (), recording.streams, (), adapter.kinds).plans
        made = [(plan, adapter(plan, adapter.kinds)) for plan in plans]
        by_name = {stream: one for plan, one in made for stream in plan.streams}
        for frame in recording.frames:
            if frame.stream is None:
                takers = [one for _, one in made]
            else:
                takers = [by_name[frame.stream]] if frame.stream in by_name else []
            self.made.append(tuple(self._parsed(takers, frame.body)))
            self._is_taken.append(bool(takers))

    def at(self, pace: Pace, share: float, seconds: float | None) -> list[float | None]:
        """Return when each frame is due, seconds from the start; None: it is not played.

        Args:
            share: Of the rate, this track's part.
            seconds: What would be due later is not played.
        """
        due: list[float | None] = []
        events = 0
        for frame, made, is_taken in zip(
            self.recording.frames, self.made, self._is_taken, strict=True
        ):
            if pace.rate is not None:
                at = events / (pace.rate * share)
            else:
                at = 0.0 if pace.speed is None else frame.at / pace.speed
            events += len(made)
            due.append(at if is_taken and (seconds is None or at <= seconds) else None)
        return due

    def _parsed(self, takers: Iterable[Adapter], body: bytes) -> Iterator[bytes]:
        for taker in takers:
            try:
                yield from self._taken(taker, taker.parse(body, _EPOCH))
            except BadPayload:
                continue

    def _taken(self, adapter: Adapter, outputs: Iterable[Output]) -> Iterator[bytes]:
        for output in outputs:
            if type(output) in EVENTS:
                entry = self._sequencer.stamp(output, _EPOCH)  # type: ignore[arg-type]
                self.topics.add(entry.topic)
                yield identity(_decode(entry.payload[HEADER_BYTES:]))
            elif isinstance(output, Fetch):
                key = self.recording.venue.rest_key(output.path)
                bodies = self._bodies.get(key or "")
                if bodies:  # each once, as the fake exchange does
                    yield from self._taken(
                        adapter, adapter.fetched(output.key, bodies.pop(0), _EPOCH)
                    )


def identity(entry: Mapping[str, Any]) -> bytes:
    """Return what an entry is known by, wherever its fields stand."""
    return _encode({k: v for k, v in entry.items() if k not in ("seq", "recv", "pub")})


def load(paths: Sequence[Path], copies: int = 1) -> dict[str, Recording]:
    """Read tapes; return what each exchange on them says, all tapes from their first second on.

    Args:
        copies: Every instrument so many times, under names of its own: ``BTC-USDT``,
            ``BTC1-USDT``, …; a little apart, so that the largest frames of all do not coincide.

    Raises:
        ConfigError: Not a tape, of no exchange we know, or one that cannot be copied.
    """
    parts: dict[str, list[list[TapeLine]]] = {}
    for path in paths:
        lines = list(tape.read(path))
        names = registry.exchanges_of(lines)
        if not names:
            raise ConfigError(f"{path}: cannot tell whose tape this is")
        for name in names:
            parts.setdefault(name, []).append(lines)
    return {name: _recording(name, tapes, copies) for name, tapes in parts.items()}


def _recording(name: str, tapes: Sequence[Sequence[TapeLine]], copies: int) -> Recording:
    entry = registry.entry(name)
    if len(tapes) == copies == 1:
        return Recording(tapes[0], entry.load_venue()())
    parts: list[list[TapeLine]] = []
    for lines in tapes:
        natives = {one.native for one in Recording(lines, entry.load_venue()()).streams}
        renamed = (renaming(entry.load_adapter(), natives, i) for i in range(copies))
        for i, names in enumerate(renamed):
            shift_s = i * _SHIFT_S / copies
            parts.append(list(_part(lines, names, f"{len(parts)}:", shift_s)))
    whole = Recording(list(heapq.merge(*parts, key=attrgetter("t"))), entry.load_venue()())
    # A body without a URL is its tape's only instrument's, which only the tape alone can tell.
    whole.bodies = {
        key: bodies
        for part in parts
        for key, bodies in Recording(part, entry.load_venue()()).bodies.items()
    }
    return whole


def renaming(adapter: type[Adapter], natives: Iterable[str], copy: int) -> dict[str, str]:
    """Return native name -> that of its copy: the base with the copy's number behind it.

    Raises:
        ConfigError: The adapter could not read such a name.
    """
    if copy == 0:
        return {}
    names: dict[str, str] = {}
    for native in natives:
        instrument = adapter.instrument(native)
        base = instrument.base if instrument else ""
        name = native.replace(base, f"{base}{copy}", 1) if base else ""
        again = adapter.instrument(name) if name else None
        if again is None or again.base != f"{base}{copy}":
            raise ConfigError(f"{adapter.name}: {native} cannot be copied")
        names |= {native: name, native.lower(): name.lower()}
    return names


def _part(
    lines: Iterable[TapeLine], names: Mapping[str, str], conn: str, shift_s: float
) -> Iterator[TapeLine]:
    """Yield the lines from second ``shift_s`` on, in a time that only rises, renamed."""
    any_name = "|".join(map(re.escape, names))
    word = re.compile(rf"(?<![A-Za-z0-9])({any_name})(?![A-Za-z0-9])")

    def rename(text: str | None) -> str | None:
        return word.sub(lambda found: names[found[0]], text) if text and names else text

    first: float | None = None
    t = shift_s
    for line in lines:
        if line.t is not None:
            first = line.t if first is None else first
            t = max(t, line.t - first + shift_s)
        yield msgspec.structs.replace(
            line, t=t, conn=conn + (line.conn or ""), url=rename(line.url), raw=rename(line.raw)
        )
