"""Storms: everybody connects, is refused, or resumes at the same moment.

    python -m bench.storm [--clients 5000] [--topics 50] [--rate 100]

Each client reads one topic; the source publishes throughout. Times run from the start of the storm,
for every client, so they include its wait for the others. Each row has a server of its own, with
its defaults, but for the rate of connects, which is unlimited where nobody is to be refused.

- connect: connect and subscribe, until ``synced``.
- refuse: everybody but one is refused by the rate, before anything is done for them.
- refuse late: refused for its origin, after its handshake has been read, to compare.
- resume: reconnect to a server that has seen none of the topics, with ``since``; until the first
  entry. What that costs the bus is in the notes: commands for topics, not for clients.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import msgspec
from redis import Redis

from bench import report
from bench.histogram import Histogram
from bench.processes import BenchError, Child, Cores, allow_files, cost, pin, pinned
from feed.bus.embedded import EmbeddedServer
from feed.errors import ConfigError

_STORM_S = 120.0
#: What a web process asks the bus for on behalf of topics.
_OF_TOPICS = frozenset({"subscribe", "unsubscribe", "xrange", "xrevrange", "get", "mget"})


class Row(msgspec.Struct, kw_only=True):
    """What came of one storm.

    Attributes:
        per_s: Clients a second, until the last was served or refused.
        cpu_us, cpu_waited: Of the server: CPU a client, and the part of the time that others had
            its core.
        client_cpu: Of a core, the clients' process.
        p50_ms, p99_ms, max_ms: To ``synced``, or (resume) to the first entry.
        statuses: Of the handshakes.
        recovered: Clients that were told so.
        bus: Commands to the bus on behalf of topics, by name.
    """

    name: str
    clients: int
    seconds: float
    per_s: float
    cpu_us: float
    cpu_waited: float
    client_cpu: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    statuses: dict[str, int]
    recovered: int
    bus: dict[str, int]


class Ground:
    """Where storms take place: a bus, a source and a crowd. A context manager's inside.

    Args:
        topics: How many, two a symbol.
        away_s: Before and after each storm.
    """

    def __init__(
        self, stack: ExitStack, cores: Cores, clients: int, topics: int, away_s: float
    ) -> None:
        self._cores = cores
        self._clients = clients
        self._away_s = away_s
        self._valkey = stack.enter_context(EmbeddedServer())
        pin(self._valkey.process.pid, cores.others)
        symbols = max(1, topics // 2)
        settings = {"bus": self._valkey.url, "sim_symbols": symbols, "sim_kinds": "trade,quote"}
        self.source = stack.enter_context(Child("bench.source", settings, cores.others))
        self.source.hear()
        self.crowd = stack.enter_context(Child("bench.crowd", {}, cores.others))
        self.crowd.hear()
        self._redis = stack.enter_context(Redis.from_url(self._valkey.url))
        carried = [
            f"{kind}.sim.SIM{i:03d}-USD" for i in range(symbols) for kind in ("trade", "quote")
        ]
        self._topics = [carried[i % len(carried)] for i in range(clients)]
        self.gather()

    def gather(self) -> None:
        """Have a new crowd."""
        self.crowd.ask({"do": "gather", "topics": self._topics})

    def storm(self, name: str, figure: str, connects_per_s: float = 0.0, headers: str = "") -> Row:
        """Let the crowd loose on a new server, and cut it off again.

        Args:
            figure: Which of the crowd's times count.

        Raises:
            BenchError: A process failed.
        """
        report.progress(f"{name} …")
        settings = {"bus": self._valkey.url, "port": 0, "connects_per_s": connects_per_s}
        with Child("bench.server", settings, self._cores.server) as server:
            port = server.hear()["port"]
            time.sleep(self._away_s)
            bus = self._commands()
            before, crowd_before = cost(server.pid), cost(self.crowd.pid)
            got = self.crowd.ask({"do": "rush", "port": port, "headers": headers}, _STORM_S)
            used = cost(server.pid).since(before)
            crowd = cost(self.crowd.pid).since(crowd_before)
            asked = {
                name: n - bus.get(name, 0)
                for name, n in self._commands().items()
                if n > bus.get(name, 0) and name in _OF_TOPICS
            }
            time.sleep(self._away_s)  # everybody gets an entry that it may resume from
            self.crowd.ask({"do": "leave"})
        times = Histogram.load(got[figure])
        return Row(
            name=name,
            clients=self._clients,
            seconds=got["seconds"],
            per_s=self._clients / got["seconds"],
            cpu_us=used.cpu_s / self._clients * 1e6,
            cpu_waited=used.waited_s / got["seconds"],
            client_cpu=crowd.cpu_s / got["seconds"],
            p50_ms=times.percentile(50) / 1000,
            p99_ms=times.percentile(99) / 1000,
            max_ms=times.max / 1000,
            statuses=got["statuses"],
            recovered=got["recovered"],
            bus=asked,
        )

    def _commands(self) -> dict[str, int]:
        """Return how often each command has been called on the bus."""
        stats: Mapping[str, Mapping[str, int]] = self._redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(of["calls"]) for name, of in stats.items()}


def run(clients: int, topics: int, rate: int, away_s: float, cores: Cores) -> list[Row]:
    """Run every storm once.

    Raises:
        BenchError: A process failed.
        ConfigError: The machine does not allow so many open files.
    """
    allow_files(clients + 200)
    with ExitStack() as stack:
        ground = Ground(stack, cores, clients, topics, away_s)
        ground.source.ask({"do": "start", "events": rate * 600, "rate": rate})
        refused = [
            ground.storm("refuse", "synced", connects_per_s=1e-6),
            ground.storm("refuse late", "synced", headers="Origin: https://evil.example\r\n"),
        ]
        ground.gather()  # nobody has a position now
        return [ground.storm("connect", "synced"), *refused, ground.storm("resume", "first")]


COLUMNS = (
    "storm", "clients", "seconds", "clients/s", "CPU µs each", "waited", "clients' CPU",
    "p50 ms", "p99", "max",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return the row as the table shows it."""
    return [
        row.name,
        report.number(row.clients),
        f"{row.seconds:.2f}",
        report.number(row.per_s),
        report.number(row.cpu_us),
        f"{row.cpu_waited:.0%}",
        f"{row.client_cpu:.0%}",
        f"{row.p50_ms:.0f}",
        f"{row.p99_ms:.0f}",
        f"{row.max_ms:.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the storms; 2 where the machine cannot."""
    parser = argparse.ArgumentParser("bench.storm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=5_000)
    parser.add_argument("--topics", type=int, default=50, help="an even number")
    parser.add_argument("--rate", type=int, default=100, help="events a second, over all topics")
    parser.add_argument("--away", type=float, default=1.0, help="seconds between storms")
    given = parser.parse_args(arguments)
    facts = report.machine()
    report.heading("storms: server on one core, everything else on the others", facts)
    try:
        cores = Cores.split()
        with pinned(cores.others):
            rows = run(given.clients, given.topics, given.rate, given.away, cores)
    except (BenchError, ConfigError) as e:
        print(f"bench.storm: {e}", file=sys.stderr)
        return 2
    report.table(COLUMNS, [cells(row) for row in rows])
    for row in rows:
        if row.name in ("connect", "resume"):
            names = ", ".join(f"{n} {name}" for name, n in sorted(row.bus.items()))
            each = sum(row.bus.values()) / given.topics
            report.note(f"{row.name}: {each:.1f} commands a topic on the bus ({names})")
        report.note(f"{row.name}: {row.statuses}, {row.recovered} recovered")
    report.json_line("storm", facts, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
