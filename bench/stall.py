"""What clients that stop reading cost the others: p99 with and without them, and memory.

    python -m bench.stall [--rate 5000] [--clients 1000] [--stalled 1,100] [--seconds 20]

Runs in pairs, without and with stalled clients, each first in turn, so that what else the
machine does falls on both; the median of the pairs' ratios is what counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

import msgspec

from bench import report
from bench.fanout import Load, Row, run
from bench.processes import BenchError, Cores, pinned
from feed.errors import ConfigError


class Pair(msgspec.Struct, kw_only=True):
    """One run without and one with stalled clients.

    Attributes:
        ratio: Of the p99 of those who read.
        mib_per_stalled: Memory that each stalled client added to the server process.
    """

    stalled: int
    without: Row
    with_stalled: Row
    ratio: float
    mib_per_stalled: float


def measure(load: Load, stalled: int, cores: Cores, stalled_first: bool) -> Pair:
    """Run one pair.

    Raises:
        BenchError: A process failed.
    """
    rows: dict[int, Row] = {}
    for n in (stalled, 0) if stalled_first else (0, stalled):
        one = msgspec.structs.replace(load, stalled=n)
        report.progress(f"{one.name} …")
        rows[n] = run(one, cores)
    without, with_stalled = rows[0], rows[stalled]
    return Pair(
        stalled=stalled,
        without=without,
        with_stalled=with_stalled,
        ratio=with_stalled.p99_ms / without.p99_ms,
        mib_per_stalled=(with_stalled.rss_mib - without.rss_mib) / stalled,
    )


COLUMNS = ("stalled", "p99 ms without", "with", "ratio", "lost", "MiB per stalled", "waited")


def cells(pair: Pair) -> list[str]:
    """Return the pair as the table shows it."""
    without, stalled = pair.without, pair.with_stalled
    return [
        f"{pair.stalled} of them",
        f"{without.p99_ms:.1f}",
        f"{stalled.p99_ms:.1f}",
        f"{pair.ratio:.2f}",
        report.number(without.lost + stalled.lost),
        f"{pair.mib_per_stalled:.2f}",
        f"{without.cpu_waited:.0%} / {stalled.cpu_waited:.0%}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pairs; 2 where the machine cannot."""
    parser = argparse.ArgumentParser("bench.stall", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=int, default=5_000, help="events a second")
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--stalled", default="1,100", help="clients that stop reading")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args(arguments)
    load = Load(rate=given.rate, clients=given.clients, seconds=given.seconds)
    pairs: list[Pair] = []
    facts = report.machine()
    report.heading("stalled clients: what they cost the others", facts)
    try:
        cores = Cores.split()
        with pinned(cores.others):
            for stalled in map(int, given.stalled.split(",")):
                for i in range(given.pairs):
                    pairs.append(measure(load, stalled, cores, stalled_first=i % 2 == 1))
    except (BenchError, ConfigError) as e:
        print(f"bench.stall: {e}", file=sys.stderr)
        return 2
    report.table(COLUMNS, [cells(pair) for pair in pairs])
    for stalled in sorted({pair.stalled for pair in pairs}):
        ratio = statistics.median(pair.ratio for pair in pairs if pair.stalled == stalled)
        report.note(f"{stalled} stalled: the others' p99 is {ratio:.2f} times (median)")
    report.json_line("stall", facts, pairs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
