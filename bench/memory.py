"""Memory: what one more idle connection, and one more subscription, costs the server.

    python -m bench.memory [--counts 1000,3000,5000] [--topics 20,120,220] [--subscribers 500]

Both are slopes between rows. Idle clients are connected, have had their ``welcome`` and a heartbeat
or two, and are subscribed to nothing; all rows share a server. Subscribers have so many random
topics each, and no event comes; each row has a server of its own, and in each the same topics are
joined, so that it is subscriptions that the rows differ by. Resident memory of the server process;
what the kernel holds for a socket is not in it.
"""

from __future__ import annotations

import argparse
import json
import random
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
        topics: Each connection is subscribed to so many.
        slope_kib: For each connection more than in the row before, KiB; None where that is
            another number of topics.
        slope_bytes: For each subscription more than in the row before; None in idle rows.
    """

    name: str
    connections: int
    topics: int
    rss_mib: float
    slope_kib: float | None = None
    slope_bytes: float | None = None
    connects_per_s: float


def idle(counts: Sequence[int], cores: Cores, heartbeat_s: float) -> list[Row]:
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
                name="idle",
                connections=count,
                topics=0,
                rss_mib=rss / 2**20,
                slope_kib=None if slope is None else slope / 1024,
                connects_per_s=(count - before) / seconds,
            )
            rows.append(row)
    return rows


def subscribed(
    clients: int, topics: Sequence[int], symbols: int, cores: Cores, heartbeat_s: float
) -> list[Row]:
    """Connect so many clients to a new server for each number of topics.

    Args:
        symbols: Two topics of each to choose from.

    Raises:
        BenchError: A process failed.
        ConfigError: The machine does not allow so many open files.
    """
    allow_files(clients + 200)
    carried = [f"{kind}.sim.SIM{i:03d}-USD" for i in range(symbols) for kind in ("trade", "quote")]
    rows: list[Row] = []
    with ExitStack() as stack:
        valkey = stack.enter_context(EmbeddedServer())
        pin(valkey.process.pid, cores.others)
        listing = {"bus": valkey.url, "sim_symbols": symbols, "sim_kinds": "trade,quote"}
        source = stack.enter_context(Child("bench.source", listing, cores.others))
        source.hear()
        settings = {"bus": valkey.url, "port": 0, "heartbeat_s": heartbeat_s}
        for count in topics:
            commands = [
                json.dumps({"op": "subscribe", "topics": random.Random(i).sample(carried, count)})
                for i in range(clients)
            ]
            with (
                Child("bench.server", settings, cores.server) as server,
                Child("bench.client", {}, cores.others) as client,
            ):
                port = server.hear()["port"]
                client.hear()
                message = {"do": "connect", "port": port, "commands": commands}
                seconds = client.ask(message, timeout_s=120)["seconds"]
                time.sleep(heartbeat_s)
                rss = _settled(server.pid)
            row = Row(
                name=f"{count} topics",
                connections=clients,
                topics=count,
                rss_mib=rss / 2**20,
                connects_per_s=clients / seconds,
            )
            if rows:
                row.slope_bytes = slope_bytes((rows[-1], row))
            rows.append(row)
    return rows


def slope_kib(rows: Sequence[Row]) -> float:
    """Return the slope between the first and the last row, KiB a connection."""
    first, last = rows[0], rows[-1]
    return (last.rss_mib - first.rss_mib) * 1024 / (last.connections - first.connections)


def slope_bytes(rows: Sequence[Row]) -> float:
    """Return the slope between the first and the last row, bytes a subscription."""
    first, last = rows[0], rows[-1]
    more = last.connections * last.topics - first.connections * first.topics
    return (last.rss_mib - first.rss_mib) * 2**20 / more


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


COLUMNS = (
    "clients", "connections", "topics each", "RSS MiB", "KiB a connection more",
    "bytes a subscription more", "connects/s",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return the row as the table shows it."""
    return [
        row.name,
        report.number(row.connections),
        report.number(row.topics),
        f"{row.rss_mib:.1f}",
        "" if row.slope_kib is None else f"{row.slope_kib:.1f}",
        "" if row.slope_bytes is None else report.number(row.slope_bytes),
        report.number(row.connects_per_s),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the counts; 2 where the machine cannot."""
    parser = argparse.ArgumentParser("bench.memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--counts", default="1000,3000,5000", help="idle connections, ascending")
    parser.add_argument("--topics", default="20,120,220", help="of each subscriber, ascending")
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--symbols", type=int, default=200, help="two topics each to choose from")
    parser.add_argument("--heartbeat", type=float, default=5.0, help="seconds between heartbeats")
    given = parser.parse_args(arguments)
    counts = [int(text) for text in given.counts.split(",")]
    topics = [int(text) for text in given.topics.split(",")]
    facts = report.machine()
    report.heading("memory of connections and subscriptions", facts)
    try:
        cores = Cores.split()
        with pinned(cores.others):
            report.progress("idle connections …")
            idle_rows = idle(counts, cores, given.heartbeat)
            report.progress("subscriptions …")
            subscribed_rows = subscribed(
                given.subscribers, topics, given.symbols, cores, given.heartbeat
            )
    except (BenchError, ConfigError) as e:
        print(f"bench.memory: {e}", file=sys.stderr)
        return 2
    rows = [*idle_rows, *subscribed_rows]
    report.table(COLUMNS, [cells(row) for row in rows])
    if len(idle_rows) > 1:
        ends = f"{counts[0]:,} and {counts[-1]:,}"
        report.note(f"{slope_kib(idle_rows):.1f} KiB a connection between {ends}")
    if len(subscribed_rows) > 1:
        ends = f"{topics[0]:,} and {topics[-1]:,} topics"
        report.note(f"{slope_bytes(subscribed_rows):.0f} bytes a subscription between {ends}")
    report.json_line("memory", facts, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
