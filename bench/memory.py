"""Memory: what one more idle connection costs the server, as the slope between two counts.

    python -m bench.memory [--counts 1000,3000,5000]

The clients are connected, have had their ``welcome`` and a heartbeat or two, and are subscribed to
nothing. Resident memory of the server process; what the kernel holds for a socket is not in it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise

import msgspec

from bench import report
from bench.processes import (
    BenchError,
    Child,
    Cores,
    allow_files,
    pin,
    pinned,
    rss_bytes,
)
from feed.bus.embedded import EmbeddedServer
from feed.errors import ConfigError

#: Resident memory counts as settled when it has not grown for so long.
_STILL_S = 1.0
_SETTLE_S = 20.0
_SLACK_BYTES = 64 << 10


class Row(msgspec.Struct, kw_only=True):
    """What came of one count.

    Attributes:
        slope_kib: For each connection more than in the row before; None in the first.
    """

    connections: int
    rss_mib: float
    slope_kib: float | None
    connects_per_s: float


def run(counts: Sequence[int], cores: Cores, heartbeat_s: float = 5.0) -> list[Row]:
    """Connect so many clients, count by count, to one server.

    Raises:
        BenchError: A process failed.
        ConfigError: The machine does not allow so many open files.
    """
    allow_files(max(counts) + 200)
    rows: list[Row] = []
    with ExitStack() as stack:
        valkey = stack.enter_context(EmbeddedServer())
        pin(valkey.process.pid, cores.others)
        settings = {"bus": valkey.url, "port": 0, "heartbeat_s": heartbeat_s}
        server = stack.enter_context(Child("bench.server", settings, cores.server))
        port = server.hear()["port"]
        client = stack.enter_context(Child("bench.client", {}, cores.others))
        client.hear()
        for before, count in pairwise((0, *counts)):
            message = {"do": "connect", "port": port, "commands": [None] * (count - before)}
            seconds = client.ask(message, timeout_s=120)["seconds"]
            time.sleep(heartbeat_s)
            rss = _settled(server.pid)
            slope = (rss - rows[-1].rss_mib * 2**20) / (count - before) if rows else None
            row = Row(
                connections=count,
                rss_mib=rss / 2**20,
                slope_kib=None if slope is None else slope / 1024,
                connects_per_s=(count - before) / seconds,
            )
            rows.append(row)
    return rows


def slope_kib(rows: Sequence[Row]) -> float:
    """Return the slope between the first and the last row, KiB a connection."""
    first, last = rows[0], rows[-1]
    return (last.rss_mib - first.rss_mib) * 1024 / (last.connections - first.connections)


def _settled(pid: int) -> int:
    """Return the resident memory once it stays where it is."""
    rss, since = rss_bytes(pid), time.monotonic()
    deadline = since + _SETTLE_S
    while time.monotonic() < min(since + _STILL_S, deadline):
        time.sleep(0.05)
        now = rss_bytes(pid)
        if abs(now - rss) > _SLACK_BYTES:
            rss, since = now, time.monotonic()
    return rss_bytes(pid)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the counts; 2 where the machine cannot."""
    parser = argparse.ArgumentParser("bench.memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--counts", default="1000,3000,5000", help="connections, ascending")
    parser.add_argument("--heartbeat", type=float, default=5.0, help="seconds between heartbeats")
    given = parser.parse_args(arguments)
    counts = [int(text) for text in given.counts.split(",")]
    facts = report.machine()
    report.heading("memory of idle connections", facts)
    try:
        cores = Cores.split()
        with pinned(cores.others):
            rows = run(counts, cores, given.heartbeat)
    except (BenchError, ConfigError) as e:
        print(f"bench.memory: {e}", file=sys.stderr)
        return 2
    shown = [
        [
            f"{row.connections:,}",
            f"{row.rss_mib:.1f}",
            "" if row.slope_kib is None else f"{row.slope_kib:.1f}",
            report.number(row.connects_per_s),
        ]
        for row in rows
    ]
    report.table(("connections", "RSS MiB", "KiB a connection more", "connects/s"), shown)
    if len(rows) > 1:
        ends = f"{rows[0].connections:,} and {rows[-1].connections:,}"
        report.note(f"{slope_kib(rows):.1f} KiB a connection between {ends}")
    report.json_line("memory", facts, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
