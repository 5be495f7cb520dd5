"""End to end: from the moment a frame leaves the exchange to a client's hand, stage by stage.

    python -m bench.endtoend [TAPE …] [--paces 1x,10x,max,20000] [--clients 20] [--seconds 10]

Tapes are served by fake exchanges, ingest connects to them, and through Valkey and a web process
all of it goes to every client, in mode ``all``: real processes and real sockets, which share the
machine's cores as they like. A pace is a factor (``1x``: as recorded), ``max``, or a number of
events a second over all tapes together, sent by the clock, whatever becomes of them.

A frame's time starts just before the fake hands it to its socket. ``recv`` and ``pub`` are what the
entry itself says; a client's is when its process has read it. Which frame an entry was made of is
known from a dry run of the tape (``bench/track.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from adapters.playback import bundled
from bench import report
from bench.histogram import Histogram
from bench.journey import Given, Journey, Origins, Stage, unaccounted
from bench.playing import Playing
from bench.processes import BenchError, Child, allow_files, cost
from bench.track import Pace, Track, load, pace_of
from feed.bus.embedded import EmbeddedServer
from feed.errors import ConfigError
from feed.listing import pages

_NO_HEARTBEAT_S = 86_400
_LISTED_S = 20.0
_QUIET_S = 1.0
_LOOK_S = 0.05
_LATE_LIMIT_US = 10_000
_FULL = 0.95
_OTHERS = 0.15
#: The bundled tapes that are copied where a rate is asked for: of one minute, with every kind.
_DENSE = ("binance_btcusdt", "binance-usdm_btcusdt")


class Row(msgspec.Struct, kw_only=True):
    """What came of one pace.

    Attributes:
        name: The pace.
        rate: Events a second asked for; None where the tape or the machine decides.
        clients: All are subscribed to everything.
        topics, frames: What was played.
        events: Entries that reached each client.
        events_per_s: From the first to the last that a client got.
        stages: In the order of the way; the last one is the whole.
        cpu: Of a core, process by process, while the tapes ran.
        waited: Part of that time in which a process could have run but had no core.
        others_cpu: Of a core, everything else on the machine, the kernel's own work included.
        lost: Entries published that a client lacks, over all clients; of one that only counts,
            any difference in bytes is 1.
        declared: Entries that clients were told they would not get, over those looked at.
        odd: Entries that came twice or out of order, over the clients that are looked at.
        untraced: Entries, over the clients looked at, whose frame is not known; in no stage.
        late_ms: How late the exchanges sent, p99: latency does not include it.
        notes: Why the figures are to be doubted.
    """

    name: str
    rate: int | None
    clients: int
    topics: int
    frames: int
    events: int
    events_per_s: float
    stages: list[Stage]
    cpu: dict[str, float]
    waited: dict[str, float]
    others_cpu: float
    lost: int
    declared: int
    odd: int
    untraced: int
    late_ms: float
    notes: list[str]


class Tapes:
    """What is played.

    Args:
        paths: Empty: those bundled. Where there is more than one copy, Binance's alone: a tape
            that others may copy must name its instruments in text.
    """

    def __init__(self, paths: Sequence[Path], copies: int) -> None:
        if not paths:
            paths = bundled()
            if copies > 1:
                paths = [path for path in paths if path.name.startswith(_DENSE)]
        self.paths = paths
        self.copies = copies
        self.tracks = [Track(name, one) for name, one in load(paths, copies).items()]


def run(
    tapes: Tapes,
    pace: Pace,
    folder: Path,
    *,
    clients: int,
    keepers: int,
    seconds: float,
    warm_up_s: float,
) -> Row:
    """Play the tapes once at this pace, to so many clients.

    Args:
        keepers: So many clients are looked at; the others' bytes are compared with theirs.
        folder: For what the clients were given.
        seconds: What is due later is not played.
        warm_up_s: Frames that are sent sooner are in no stage; at ``max`` all are.

    Raises:
        BenchError: A process failed.
        ConfigError: The machine does not allow so many open files.
    """
    allow_files(clients + 200)
    cores = os.sched_getaffinity(0)
    with ExitStack() as stack:
        valkey = stack.enter_context(EmbeddedServer())
        playing = Playing(
            stack, valkey.url, tapes.paths, tapes.copies, tapes.tracks, pace, seconds, cores
        )
        serving = {"bus": valkey.url, "port": 0, "heartbeat_s": _NO_HEARTBEAT_S}
        web = stack.enter_context(Child("bench.server", serving, cores))
        port = web.hear()["port"]
        witness = stack.enter_context(Child("bench.witness", {}, cores))
        witness.hear()
        _await_topics(f"http://127.0.0.1:{port}", playing.topics)
        command = {"op": "subscribe", "topics": playing.topics, "mode": "all", "status": False}
        witness.ask(
            {
                "do": "connect",
                "port": port,
                "clients": clients,
                "keep_every": max(1, clients // keepers),
                "command": json.dumps(command),
            }
        )
        pids = {
            "exchange": playing.exchange.pid,
            "ingest": playing.ingest.pid,
            "valkey": valkey.process.pid,
            "web": web.pid,
            "clients": witness.pid,
        }
        playing.go()
        before, started = {name: cost(pid) for name, pid in pids.items()}, time.monotonic()
        busy_s = -_busy_s()
        sent = playing.finish()
        _drain(witness)
        wall = time.monotonic() - started - _QUIET_S
        used = {name: cost(pid).since(before[name]) for name, pid in pids.items()}
        busy_s += _busy_s()
        got = witness.ask({"do": "result", "into": str(folder)}, timeout_s=120)
        size = witness.ask({"do": "mark"})["bytes"]
        published = playing.published()
    start = min(at for times in sent.values() for at in times if at)
    journey = Journey(since=start + round(warm_up_s * 1e6 if playing.seconds else 0))
    lost = odd = declared = 0
    for path in map(Path, got["files"]):
        given = _read(path)
        journey.follow(given.entries, Origins(tapes.tracks, sent))
        missing, wrong = unaccounted(given.entries, published)
        lost, odd, declared = lost + missing, odd + wrong, declared + given.declared
    lost += sum(one != size[0] for one in size)
    late = Histogram()
    for value in playing.lateness(sent):
        late.add(value)
    events = journey.entries // len(got["files"])
    row = Row(
        name=pace.name,
        rate=pace.rate,
        clients=clients,
        topics=len(playing.topics),
        frames=playing.frames,
        events=events,
        events_per_s=events / max((journey.last - journey.first) / 1e6, 1e-9),
        stages=journey.summary(),
        cpu={name: one.cpu_s / wall for name, one in used.items()},
        waited={name: one.waited_s / wall for name, one in used.items()},
        others_cpu=max(0.0, busy_s - sum(one.cpu_s for one in used.values())) / wall,
        lost=lost,
        declared=declared,
        odd=odd,
        untraced=journey.untraced,
        late_ms=late.percentile(99) / 1000 if playing.seconds else 0.0,
        notes=[f"a client was closed: {reason}" for reason in got["closed"]],
    )
    row.notes += _doubts(row, len(cores))
    return row


def _await_topics(url: str, topics: Iterable[str]) -> None:
    """Return once the server at ``url`` knows these.

    Raises:
        BenchError: It does not come to know them.
    """
    deadline = time.monotonic() + _LISTED_S
    missing = set(topics)
    while missing:
        if time.monotonic() > deadline:
            raise BenchError(f"{url} does not carry {min(missing)}")
        time.sleep(_LOOK_S)
        for page in pages(url, "/v1/topics"):
            missing -= {row["topic"] for row in page["topics"]}


def _busy_s() -> float:
    """Return how long all cores together have been in use, or taken from this machine."""
    first = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> Given:
    kept = msgspec.msgpack.decode(path.read_bytes(), type=list[tuple[int, bytes]])
    path.unlink()
    return Given().take_all(kept)


def _drain(witness: Child) -> None:
    """Return once no client has been given anything for a while."""
    last, moved_at = -1, time.monotonic()
    while time.monotonic() - moved_at < _QUIET_S:
        size = sum(witness.ask({"do": "mark"})["bytes"])
        if size != last:
            last, moved_at = size, time.monotonic()
        time.sleep(_LOOK_S)


def _doubts(row: Row, cores: int) -> Iterator[str]:
    if row.late_ms * 1000 > _LATE_LIMIT_US:
        yield f"the exchanges sent {row.late_ms:.0f} ms later than due (p99)"
    if row.rate is not None and row.events_per_s < 0.98 * row.rate:
        yield f"{row.events_per_s:,.0f} events/s came through, not the {row.rate:,} asked for"
    if row.lost:
        yield f"{row.declared:,} of the entries lost were declared by a gap"
    if row.others_cpu > _OTHERS:
        yield f"others used {row.others_cpu:.0%} of a core"
    if (used := sum(row.cpu.values())) > _FULL * cores:
        yield f"the machine is full: {used:.2f} of {cores} cores"


COLUMNS = ("pace", "events", "events/s", "stage", "p50 ms", "p99", "p99.9", "max", "lost")
CPU_COLUMNS = (
    "CPU (waited for it)",
    "exchange",
    "ingest",
    "valkey",
    "web",
    "clients",
    "all",
    "others",
)


def cells(row: Row) -> list[list[str]]:
    """Return the lines of the row as the table shows them, one a stage."""
    head = [row.name, report.number(row.events), report.number(row.events_per_s)]
    lines: list[list[str]] = []
    for stage in row.stages:
        times = (stage.p50_ms, stage.p99_ms, stage.p999_ms, stage.max_ms)
        lost = report.number(row.lost + row.odd) if not lines else ""
        lines.append([*head, stage.name, *(f"{time:.2f}" for time in times), lost])
        head = ["", "", ""]
    return lines


def cpu_cells(row: Row) -> list[str]:
    """Return what each process used, as the second table shows it."""
    shown = [f"{used:.0%} ({row.waited[name]:.0%})" for name, used in row.cpu.items()]
    return [row.name, *shown, f"{sum(row.cpu.values()):.0%}", f"{row.others_cpu:.0%}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the paces; 2 where a tape cannot be read or the machine cannot."""
    parser = argparse.ArgumentParser(
        "bench.endtoend", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("tapes", nargs="*", type=Path, help="instead of those bundled")
    parser.add_argument("--paces", default="1x,10x,max,5000,20000")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--keep", type=int, default=3, help="clients looked at entry by entry")
    parser.add_argument("--seconds", type=float, default=10.0, help="the most that is played")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds of it not measured")
    parser.add_argument(
        "--copies", type=int, default=8,
        help="of each instrument of the Binance tapes, where a rate is asked for",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    facts = report.machine()
    report.heading("end to end: everything shares all cores", facts)
    try:
        paces = [pace_of(text) for text in given.paces.split(",")]
        loaded: dict[bool, Tapes] = {}
        with tempfile.TemporaryDirectory(prefix="endtoend-") as folder:
            for pace in paces:
                report.progress(f"{pace.name} …")
                is_rate = pace.rate is not None
                if is_rate not in loaded:
                    loaded[is_rate] = Tapes(given.tapes, given.copies if is_rate else 1)
                row = run(
                    loaded[is_rate],
                    pace,
                    Path(folder),
                    clients=given.clients,
                    keepers=given.keep,
                    seconds=given.seconds,
                    warm_up_s=given.warm_up,
                )
                rows.append(row)
    except (BenchError, ConfigError) as e:
        print(f"bench.endtoend: {e}", file=sys.stderr)
        return 2
    report.table(COLUMNS, [line for row in rows for line in cells(row)])
    report.table(CPU_COLUMNS, [cpu_cells(row) for row in rows])
    for row in rows:
        for text in row.notes:
            report.note(f"{row.name}: {text}")
        if row.untraced:
            report.note(f"{row.name}: {row.untraced:,} entries in no stage")
    report.json_line("endtoend", facts, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
