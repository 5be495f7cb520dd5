"""Tapes as recorders leave them: of some symbols, begun too late, without REST, with a reconnect.

None of it makes a frame unreadable or crosses what is published; what stays provable is published.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest
from msgspec.structs import replace

from adapters import tape
from adapters.base import Fetch, Output, Stream, TapeLine
from adapters.registry import REGISTRY
from feed.models import Gap
from tests.adapters.recordings import folder, retired
from tests.adapters.sessions import Session, clients_books, only, payload, published
from tests.adapters.tapes import captures, run

#: A line, and the stream of one that is data.
Lines: TypeAlias = list[tuple[TapeLine, Stream | None]]
#: Of longer recordings the beginning is enough.
MOST_LINES = 1_500
#: These number all frames of a connection, so that every frame left out is a loss to all books.
NUMBERED = {"bitfinex", "coinbase-advanced", "dydx"}
#: What the frames of these are of is told by acks alone.
TOLD_BY_ACKS = {"bitfinex"}

_encode = msgspec.json.Encoder().encode


def _recordings() -> Iterator[Any]:
    for name in REGISTRY:
        yield pytest.param(name, payload(name), id=name)
        for one in captures(folder(name).name, "session*.jsonl.gz"):
            (path,) = one.values
            if retired(path) is None:
                yield pytest.param(name, path, id=f"{name}-{path.name}", marks=one.marks)


recorded = pytest.mark.parametrize(("name", "path"), list(_recordings()))


@cache
def lines_of(name: str, path: Path) -> Lines:
    lines = list(islice(tape.read(path), MOST_LINES))
    venue = REGISTRY[name].load_venue()()
    for line in lines:
        venue.scan(line)
    found = [(line, venue.stream_of(line) if line.dir == "in" else None) for line in lines]
    if not any(stream for _, stream in found):
        pytest.skip(f"{path.name} has nothing of {name}")
    return found


def natives_of(lines: Lines) -> list[str]:
    return sorted({stream.native for _, stream in lines if stream})


def some_symbols(lines: Lines) -> Lines:
    kept = set(natives_of(lines)[::2])
    return [(line, stream) for line, stream in lines if not stream or stream.native in kept]


def begun_late(lines: Lines) -> Lines:
    """Leave out the first 30 %, snapshots and acks too."""
    received = [at for at, (line, _) in enumerate(lines) if line.dir == "in"]
    begin = received[len(received) * 3 // 10]
    return [(line, s) for at, (line, s) in enumerate(lines) if at >= begin or line.dir == "connect"]


def begun_late_with_acks(lines: Lines) -> Lines:
    late = {id(line) for line, _ in begun_late(lines)}
    return [(line, stream) for line, stream in lines if stream is None or id(line) in late]


def without_rest(lines: Lines) -> Lines:
    return [(line, stream) for line, stream in lines if line.dir != "rest"]


def reconnected(lines: Lines) -> Lines:
    """Break off in the middle and begin again on other connections."""
    again = [(replace(line, conn=f"{line.conn}-2"), stream) for line, stream in lines]
    return [*lines[: len(lines) // 2], *again]


def with_losses(lines: Lines) -> Lines:
    chance = random.Random(1)
    return [(line, stream) for line, stream in lines if not stream or chance.random() > 0.02]


def with_repeats(lines: Lines) -> Lines:
    chance = random.Random(1)
    return [
        one for one in lines for _ in range(1 + (one[1] is not None and chance.random() < 0.02))
    ]


ODD: tuple[Callable[[Lines], Lines], ...] = (
    some_symbols,
    begun_late,
    begun_late_with_acks,
    without_rest,
    reconnected,
    with_losses,
    with_repeats,
)


def session(name: str, lines: Lines, path: Path) -> Session:
    path.write_bytes(b"".join(_encode(line) + b"\n" for line, _ in lines))
    entry = REGISTRY[name]
    return Session(entry.load_adapter(), entry.load_venue()(), path)


def outputs_of(played: Session) -> list[Output]:
    """Play it whole, every frame readable; what cannot be fetched has failed."""
    reader, rest = played.adapter(), played.rest()
    more: list[Output] = []

    def answer(fetch: Fetch) -> bytes | None:
        body = rest(fetch)
        if body is None:
            more.extend(reader.fetch_failed(fetch.key, 0))
        return body

    done = run(reader, played.frames, answer)
    assert done.bad == []
    return done.outputs


@recorded
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
def test_an_odd_tape_is_read_and_nothing_crossed_is_published(
    name: str, path: Path, odd: Callable[[Lines], Lines], tmp_path: Path
) -> None:
    if odd is begun_late and name in TOLD_BY_ACKS:
        pytest.skip("nothing is told of its channels")
    played = session(name, odd(lines_of(name, path)), tmp_path / "odd.jsonl")
    clients_books(outputs_of(played))


def facts(played: Session, natives: Sequence[str]) -> dict[str, list[bytes]]:
    """Return the trades and books of some instruments; depth follows the connection's clock."""
    named = [played.cls.instrument(native) for native in natives]
    symbols = {one.symbol for one in named if one}
    return {
        topic: events
        for topic, events in published(outputs_of(played)).items()
        if topic.startswith(("trade", "book")) and topic.split(".", 2)[2] in symbols
    }


@recorded
def test_an_instrument_is_told_the_same_with_its_neighbours_or_without(
    name: str, path: Path, tmp_path: Path
) -> None:
    if name in NUMBERED:
        pytest.skip("all frames of a connection are numbered")
    lines = lines_of(name, path)
    half = some_symbols(lines)
    natives = natives_of(half)
    both = [session(name, one, tmp_path / "tape.jsonl") for one in (lines, half)]
    assert facts(both[0], natives) == facts(both[1], natives)


@recorded
def test_books_of_a_tape_begun_late_wait_for_a_snapshot(
    name: str, path: Path, tmp_path: Path
) -> None:
    """A delta before its snapshot is no loss, as nothing was live before it."""
    if name in NUMBERED:
        pytest.skip("all frames of a connection are numbered")
    played = session(name, begun_late(lines_of(name, path)), tmp_path / "late.jsonl")
    assert [one for one in only(Gap, outputs_of(played)) if one.topic.startswith("book")] == []
