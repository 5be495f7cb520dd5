"""Ingest: frames from raw bytes to encoded events, a second of one core's time, tape by tape.

    python -m bench.ingest [TAPE …] [--passes 3] [--kinds trade,quote,book,depth]
                           [--by-channel] [--every] [--no-books] [--peers] [--profile]

Frames of streams that feed none of the kinds are left out. Every other goes through the exchange's
real adapter and the sequencer, as in the runner and the publisher; only sockets and the bus are
missing. A REST body that the adapter asks for is there at once, and once. Each pass starts anew;
the best counts. The floor is what decoding the same frames into plain dicts costs, and nothing
else. ``--every`` takes recordings of every exchange, those of the tests too; ``--no-books`` leaves
out channels that feed a book. ``--peers`` gives Binance's frames to other programs too (``make
bench-peers-ingest`` installs them; ``bench.peers.ingest`` says what each of them does).
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from adapters import registry
from adapters.base import Adapter, Checkpoint, Fetch, Output
from adapters.connection import EVENTS
from adapters.ingest import calm_collector
from adapters.playback import bundled
from adapters.recording import Recording, load
from adapters.selection import by_stream, check_kinds
from adapters.tasks import now_us
from bench import report
from bench.peers import ingest as peers
from bench.processes import pinned
from feed.bus.base import Entry
from feed.errors import BadPayload, ConfigError
from feed.sequencer import Sequencer

KINDS = ("trade", "quote", "book", "depth")
#: Recordings too large to bundle, where they lie beside the checkout.
CAPTURES = report.REPO.parent / "shared" / "captures"
_LOADS = ("binance-spot/load_*.jsonl.gz", "binance-usdm/load_*.jsonl.gz")
#: As the publisher hands entries over.
_BATCH = 1_000
#: A short tape is taken by so many fresh adapters that it has this many frames.
LEAST_FRAMES = 2_000
_EPOCH = 1_732_280_000_000_000


class Row(msgspec.Struct, kw_only=True):
    """What came of one tape.

    Attributes:
        frames, events, encoded_mb: Of one pass; events without checkpoints.
        frames_per_s: The best pass.
        floor_per_s: Of decoding alone.
        bad: Frames that could not be understood; skipped, as always.
        channels: Channel -> frames.
        passes: Frames a second of every pass.
    """

    name: str
    exchange: str
    frames: int
    events: int
    encoded_mb: float
    frames_per_s: float
    floor_per_s: float
    bad: int
    channels: dict[str, int]
    passes: list[float]


class Pass:
    """One adapter set and one sequencer, fresh; ``run`` takes a whole tape.

    Args:
        channel: Only its frames are taken; None: those of every stream that feeds one of ``kinds``.
        no_books: Streams that feed a book are left out, whatever else they feed.

    Attributes:
        events, bad, size: See ``Row``.
    """

    def __init__(
        self,
        name: str,
        recording: Recording,
        kinds: frozenset[str],
        channel: str | None = None,
        *,
        no_books: bool = False,
    ) -> None:
        adapter = registry.entry(name).load_adapter()
        self.events = 0
        self.bad = 0
        self.size = 0
        self._recording = recording
        self._given: Counter[tuple[Adapter, str]] = Counter()
        self._sequencer = Sequencer(_EPOCH, {})
        self._entries: list[Entry] = []
        streams = {
            stream
            for stream in recording.streams
            if (instrument := adapter.instrument(stream.native))
            and adapter.carried((stream,), instrument, adapter.kinds & kinds)[0]
            and not (no_books and adapter.carried((stream,), instrument, {"book", "depth"})[0])
        }
        plans = by_stream(adapter, (), streams, (), adapter.kinds & kinds).plans
        self.work: list[tuple[Adapter, bytes]] = []
        self.channels: Counter[str] = Counter()
        wanted = [
            frame
            for frame in recording.frames
            if (frame.stream in streams and channel in (None, frame.stream.channel))
            or (frame.stream is None and channel is None)
        ]
        self.channels.update(frame.stream.channel for frame in wanted if frame.stream is not None)
        self.copies = 1 + LEAST_FRAMES // len(wanted) if self.channels else 0
        for _ in range(self.copies):
            made = [(plan, self._opened(adapter(plan, adapter.kinds & kinds))) for plan in plans]
            by_name = {stream: [one] for plan, one in made for stream in plan.streams}
            everybody = [one for _, one in made]
            self.work += [
                (one, frame.body)
                for frame in wanted
                for one in (everybody if frame.stream is None else by_name[frame.stream])
            ]

    def _opened(self, adapter: Adapter) -> Adapter:
        """Have it subscribe: an exchange may tell in its answer how it names what follows."""
        venue, path = self._recording.venue, adapter.plan_.path
        answers = [venue.connected(path)]
        answers += [venue.request(path, send.frame) for send in adapter.opened()]
        for answer in answers:
            for frame in (*(text.encode() for text in answer.frames), *answer.binary):
                deque(adapter.parse(frame, now_us()), maxlen=0)
        return adapter

    def run(self) -> float:
        """Take every frame; return the seconds of CPU it took."""
        stamp, carry_out, entries = self._sequencer.stamp, self._carry_out, self._entries
        gc.collect()
        started = time.process_time()
        for adapter, body in self.work:
            now = now_us()
            try:
                for output in adapter.parse(body, now):
                    if type(output) in EVENTS:
                        entries.append(stamp(output, now))  # type: ignore[arg-type]  # its type says
                    else:
                        carry_out(adapter, output, now)
            except BadPayload:
                self.bad += 1
            if len(entries) >= _BATCH:
                self._hand_over()
        self._hand_over()
        return time.process_time() - started

    def _carry_out(self, adapter: Adapter, output: Output, now: int) -> None:
        """Do what else follows from a frame, as ``adapters.connection`` and the publisher do."""
        if type(output) in EVENTS:
            self._entries.append(self._sequencer.stamp(output, now))  # type: ignore[arg-type]
        elif isinstance(output, Checkpoint):
            self._sequencer.checkpoint(output.book, now)
        elif isinstance(output, Fetch):
            key = self._recording.venue.rest_key(output.path) or ""
            # Each once, as the fake exchange does; more is never asked in time.
            bodies = islice(self._recording.bodies.get(key, ()), self._given[adapter, key], None)
            self._given[adapter, key] += 1
            for body in islice(bodies, 1):
                for answer in adapter.fetched(output.key, body, now):
                    self._carry_out(adapter, answer, now)

    def _hand_over(self) -> None:
        self.events += len(self._entries)
        self.size += sum([len(entry.payload) for entry in self._entries])
        self._entries.clear()


def floor(frames: Iterable[bytes]) -> float:
    """Return how many frames a second of CPU are decoded into plain objects, and nothing else.

    0 where they are no JSON: of compressed or binary frames there is no such floor.
    """
    decode = msgspec.json.Decoder().decode
    bodies = [body for body in frames if body[:1] in (b"{", b"[")]
    gc.collect()
    started = time.process_time()
    for body in bodies:
        decode(body)
    return len(bodies) / (time.process_time() - started) if bodies else 0.0


def measure(
    path: Path,
    name: str,
    recording: Recording,
    kinds: frozenset[str],
    passes: int,
    channel: str | None = None,
    *,
    no_books: bool = False,
) -> Row:
    """Run a tape, or one of its channels, so many times, each pass followed by its floor."""
    rates: list[float] = []
    floors: list[float] = []
    for _ in range(passes):
        one = Pass(name, recording, kinds, channel, no_books=no_books)
        if not one.work:
            break
        rates.append(len(one.work) / one.run())
        floors.append(floor(body for _, body in one.work))
    copies = one.copies or 1
    return Row(
        name=" ".join((name, path.name.partition(".")[0], *([channel] if channel else []))),
        exchange=name,
        frames=len(one.work) // copies,
        events=one.events // copies,
        encoded_mb=one.size / copies / 1e6,
        frames_per_s=max(rates, default=0.0),
        floor_per_s=max(floors, default=0.0),
        bad=one.bad // copies,
        channels=dict(one.channels),
        passes=rates,
    )


def every() -> list[Path]:
    """Return recordings of every exchange: the tests' own, and the long ones where they are."""
    own = (report.REPO / "tests" / "payloads").glob("*/session.jsonl")
    return [*sorted(own), *sorted(CAPTURES.glob("*/session_*.jsonl.gz"))]


def tapes() -> list[Path]:
    """Return the bundled tapes, and the long recordings where they are."""
    loads = [path for pattern in _LOADS for path in sorted(CAPTURES.glob(pattern))]
    return [*bundled(), *loads]


def profile(run: Callable[[], object], lines: int = 25) -> None:
    """Run under the profiler and print where the time went, to standard error."""
    profiler = cProfile.Profile()
    profiler.runcall(run)
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(lines)


COLUMNS = (
    "tape", "frames", "events", "MB out", "frames/s", "floor/s", "share of floor", "bad", "channels"
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return the row as the table shows it."""
    number = report.number
    most = islice(sorted(row.channels.items(), key=lambda item: -item[1]), 3)
    return [
        row.name,
        number(row.frames),
        number(row.events),
        f"{row.encoded_mb:.1f}",
        number(row.frames_per_s),
        number(row.floor_per_s),
        f"{row.frames_per_s / row.floor_per_s:.0%}" if row.floor_per_s else "",
        number(row.bad),
        ", ".join(f"{channel} {n:,}" for channel, n in most),
    ]


def _recordings(path: Path, *, is_sure: bool) -> dict[str, Recording]:
    """Return what is on a tape; nothing where it is not sure that we know its exchange."""
    folder = path.parent.name
    try:
        return load(path, folder if folder in registry.REGISTRY else None, is_hint=True)
    except ConfigError as e:
        if is_sure:
            raise
        report.note(str(e))
        return {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tapes; 2 where one cannot be read."""
    calm_collector()  # as `feed ingest` does
    parser = argparse.ArgumentParser("bench.ingest", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tapes", nargs="*", type=Path, help="instead of those bundled")
    parser.add_argument("--passes", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--by-channel", action="store_true", help="a row for each channel, too")
    parser.add_argument("--every", action="store_true", help="recordings of every exchange")
    parser.add_argument("--no-books", action="store_true", help="without channels that feed books")
    parser.add_argument("--peers", action="store_true", help="compare with other programs")
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    given = parser.parse_args(arguments)
    names = given.kinds.split(",")
    rows: list[Row] = []
    others: list[peers.Row] = []
    facts = report.machine()
    report.heading(f"ingest on one core: {', '.join(names)}", facts)
    try:
        check_kinds(names)
        with pinned({max(os.sched_getaffinity(0))}):
            for path in given.tapes or (every() if given.every else tapes()):
                report.progress(f"{path.parent.name}/{path.name} …")
                for exchange, recording in _recordings(path, is_sure=not given.every).items():
                    kinds = frozenset(names)
                    if given.profile:
                        profile(Pass(exchange, recording, kinds, no_books=given.no_books).run)
                        continue
                    whole = measure(
                        path, exchange, recording, kinds, given.passes, no_books=given.no_books
                    )
                    if not whole.channels:
                        report.note(f"{whole.name}: no frames of these kinds")
                        continue
                    rows.append(whole)
                    if given.by_channel:
                        rows += [
                            measure(
                                path,
                                exchange,
                                recording,
                                kinds,
                                given.passes,
                                channel,
                                no_books=given.no_books,
                            )
                            for channel in sorted(whole.channels)
                        ]
                    if given.peers:
                        others += peers.measure(
                            whole.name, exchange, recording, set(whole.channels), given.passes
                        )
    except ConfigError as e:
        print(f"bench.ingest: {e}", file=sys.stderr)
        return 2
    report.table(COLUMNS, [cells(row) for row in rows])
    if given.peers:
        report.table(
            peers.COLUMNS,
            [peers.cells(one, ours) for one in others for ours in rows if ours.name == one.tape],
        )
    report.json_line("ingest", facts, [*rows, *others])
    return 0


if __name__ == "__main__":
    sys.exit(main())
