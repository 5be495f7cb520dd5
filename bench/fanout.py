"""Fan-out: one server process on a core of its own, Valkey, the ``sim`` source and many clients.

    python -m bench.fanout [--rates 500,2000,5000] [--clients 1000] [--seconds 10]

Open loop: the source publishes by the clock, whatever the clients do. Latency is from an entry's
``pub`` to the moment a client's process has it in hand. The server runs with its defaults, but for
heartbeats, which are switched off so that what a client gets can be told from its bytes alone.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import msgspec
from redis import Redis

from bench import report
from bench.histogram import Histogram
from bench.processes import (
    BenchError,
    Child,
    Cores,
    Cost,
    allow_files,
    cost,
    pin,
    pinned,
    rss_bytes,
)
from feed.bus.embedded import EmbeddedServer
from feed.errors import ConfigError

#: The core that everybody but the server shares must have so much left, or it is the bottleneck.
_BUSY = 0.9
_WAITED = 0.05
_LAG_LIMIT_US = 50_000
_SLIP_LIMIT_S = 0.05
_QUIET_S = 0.5
_DRAIN_S = 5.0
_NO_HEARTBEAT_S = 86_400
_LOOK_S = 0.05


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one row does.

    Attributes:
        rate: Events a second, over all topics.
        clients, topics: How many clients, and how many random topics each is subscribed to.
        symbols: The source has two topics (trade and quote) of each.
        seconds, warm_up_s: How long is measured, and published before that.
        decode_every: Each so many-th client decodes what it gets.
        stalled: So many clients read nothing meanwhile; they count in no figure but memory.
        mode: ``all``, or ``latest``: then of quotes alone, and nothing counts as lost.
    """

    rate: int
    clients: int = 1_000
    topics: int = 20
    symbols: int = 100
    seconds: float = 10.0
    warm_up_s: float = 2.0
    decode_every: int = 100
    stalled: int = 0
    mode: str = "all"

    @property
    def name(self) -> str:
        what = f"{self.clients:,} x {self.topics} of {2 * self.symbols}, {self.rate:,}/s"
        if self.mode != "all":
            what += f", {self.mode}"
        return f"{what}, {self.stalled} stalled" if self.stalled else what

    def subscriptions(self) -> list[list[str]]:
        """Return each client's topics; the same in every run."""
        kinds = ("trade", "quote") if self.mode == "all" else ("quote",)
        carried = [f"{kind}.sim.SIM{i:03d}-USD" for i in range(self.symbols) for kind in kinds]
        return [random.Random(i).sample(carried, self.topics) for i in range(self.clients)]


class Row(msgspec.Struct, kw_only=True):
    """What came of it.

    Attributes:
        cpu_waited: Time the server could have run while others had its core.
        writes_per_s, events_per_write: Of the server process, a second.
        bus_buffer_mib: What the bus had to hold for the server's reading link, at worst.
        lost: Deliveries missing or too many, over all clients; of a client that only counts, told
            from its bytes.
        slip_ms: How late the source was at worst.
        client_cpu: Of a core, everything that shares the client's cores together.
        notes: Why the figures are to be doubted.
    """

    name: str
    rate: int
    deliveries_per_s: float
    cpu_user: float
    cpu_system: float
    cpu_waited: float
    deliveries_per_cpu_s: float
    writes_per_s: float
    events_per_write: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    rss_mib: float
    bus_buffer_mib: float
    lost: int
    slip_ms: float
    client_cpu: float
    client_lag_p99_ms: float
    connects_per_s: float
    notes: list[str]


class Sent(msgspec.Struct, array_like=True, frozen=True):
    """What was published to one topic: entries, and the bytes of their frames."""

    entries: int = 0
    bytes: int = 0


class Got(msgspec.Struct, frozen=True):
    """What arrived, client by client.

    Attributes:
        bytes: From the first published entry on.
        counts: Topic -> entries, of a client that decodes; else None.
        disorder: Entries that did not follow the one before in their topic.
        closed: Why clients were closed, if any was.
        latency: A dumped histogram, µs.
    """

    bytes: list[int]
    counts: list[dict[str, int] | None]
    disorder: int
    closed: list[str]
    latency: dict[str, object]


def run(load: Load, cores: Cores, server: str = "bench.server") -> Row:
    """Run one load against a server of its own.

    Args:
        server: Module of the child process that serves.

    Raises:
        BenchError: A process failed.
    """
    allow_files(load.clients + 200)
    with ExitStack() as stack:
        valkey = stack.enter_context(EmbeddedServer())
        pin(valkey.process.pid, cores.others)
        settings = {"bus": valkey.url, "sim_symbols": load.symbols, "sim_kinds": "trade,quote"}
        source = stack.enter_context(Child("bench.source", settings, cores.others))
        source.hear()
        serving = {"bus": valkey.url, "port": 0, "heartbeat_s": _NO_HEARTBEAT_S}
        web = stack.enter_context(Child(server, serving, cores.server))
        port = web.hear()["port"]
        client = stack.enter_context(Child("bench.client", {}, cores.others))
        client.hear()
        subscriptions = load.subscriptions()
        connected = _connect(client, port, load, subscriptions)
        return _measure(load, _Actors(web, client, source, valkey), subscriptions, connected)


class _Actors:
    """The processes of a run, and what they have used up."""

    def __init__(self, web: Child, client: Child, source: Child, valkey: EmbeddedServer) -> None:
        self.web = web
        self.client = client
        self.source = source
        self.bus = valkey.url
        self._pids = (client.pid, source.pid, valkey.process.pid)

    def costs(self) -> tuple[Cost, float]:
        """Return the server's cost, and the CPU of those that share the other cores."""
        return cost(self.web.pid), sum(cost(pid).cpu_s for pid in self._pids)


def _connect(client: Child, port: int, load: Load, subscriptions: Sequence[Sequence[str]]) -> float:
    """Connect and subscribe everybody; return how long that took."""
    commands = [
        json.dumps({"op": "subscribe", "topics": topics, "mode": load.mode})
        for topics in subscriptions
    ]
    message = {"do": "connect", "port": port, "commands": commands}
    answer = client.ask({**message, "decode_every": load.decode_every}, timeout_s=120)
    time.sleep(_QUIET_S)
    return float(answer["seconds"])


def _measure(
    load: Load, actors: _Actors, subscriptions: Sequence[Sequence[str]], connected_s: float
) -> Row:
    web, client, source = actors.web, actors.client, actors.source
    start = time.time_ns() // 1000 + round(load.warm_up_s * 1e6)
    client.ask({"do": "base", "window": (start, start + round(load.seconds * 1e6))})
    events = round(load.rate * (load.warm_up_s + load.seconds))
    source.ask({"do": "start", "events": events, "rate": load.rate})
    time.sleep(load.warm_up_s)
    client.ask({"do": "stall", "clients": load.stalled, "reads_on": False})
    (web_0, others_0), mark_0, at_0 = actors.costs(), client.ask({"do": "mark"}), time.monotonic()
    buffered = _watch_buffer(actors.bus, load.seconds)
    (web_1, others_1), mark_1, at_1 = actors.costs(), client.ask({"do": "mark"}), time.monotonic()
    rss = rss_bytes(web.pid)
    client.ask({"do": "stall", "clients": load.stalled, "reads_on": True})
    finished = source.ask({"do": "finish"}, timeout_s=load.seconds + 30)
    sent = msgspec.convert(finished["sent"], dict[str, Sent])
    owed = [due(sent, topics) for topics in subscriptions]
    reading = load.clients - load.stalled
    if load.mode == "all":
        _drain(client, sum(one.bytes for one in owed[:reading]))
    got = msgspec.convert(client.ask({"do": "result"}), Got)

    entry_bytes = sum(s.bytes for s in owed) / max(1, sum(s.entries for s in owed))
    seconds = mark_1["at"] - mark_0["at"]
    deliveries = (mark_1["bytes"] - mark_0["bytes"]) / entry_bytes / seconds
    used = web_1.since(web_0)
    wall = at_1 - at_0
    writes = used.writes / wall
    latency = Histogram.load(got.latency)
    is_all = load.mode == "all"
    missing = sum(
        differences(owed[:reading], sent, subscriptions, got, entry_bytes) if is_all else ()
    )
    row = Row(
        name=load.name,
        rate=load.rate,
        deliveries_per_s=deliveries,
        cpu_user=used.user_s / wall,
        cpu_system=used.system_s / wall,
        cpu_waited=used.waited_s / wall,
        deliveries_per_cpu_s=deliveries / max(used.cpu_s / wall, 1e-9),
        writes_per_s=writes,
        events_per_write=deliveries / max(writes, 1e-9),
        p50_ms=latency.percentile(50) / 1000,
        p99_ms=latency.percentile(99) / 1000,
        p999_ms=latency.percentile(99.9) / 1000,
        max_ms=latency.max / 1000,
        rss_mib=rss / 2**20,
        bus_buffer_mib=buffered / 2**20,
        lost=missing,
        slip_ms=finished["late_s"] * 1000,
        client_cpu=(others_1 - others_0) / wall,
        client_lag_p99_ms=mark_1["lag_p99_us"] / 1000,
        connects_per_s=load.clients / connected_s,
        notes=[f"a client was closed: {reason}" for reason in got.closed],
    )
    if got.disorder and is_all:
        row.notes.append(f"{got.disorder} entries out of order")
    row.notes += _doubts(row)
    return row


def due(sent: Mapping[str, Sent], topics: Sequence[str]) -> Sent:
    """Return what a client of these topics must have got."""
    found = [sent.get(topic, Sent()) for topic in topics]
    return Sent(sum(one.entries for one in found), sum(one.bytes for one in found))


def _watch_buffer(url: str, seconds: float) -> int:
    """Wait; return how many bytes the bus had to hold for the server's reading link at worst."""
    worst, end = 0, time.monotonic() + seconds
    with Redis.from_url(url, protocol=2) as bus:
        while (left := end - time.monotonic()) > 0:
            links = [link for link in bus.client_list() if link["name"] == "feed-reader"]
            worst = max(worst, *(int(link["omem"]) for link in links), 0)
            time.sleep(min(_LOOK_S, left))
    return worst


def _drain(client: Child, owed: int) -> None:
    """Wait until everything has arrived, or nothing more does."""
    last, moved_at = -1, time.monotonic()
    while time.monotonic() - moved_at < _DRAIN_S:
        mark = client.ask({"do": "mark"})
        arrived = mark["bytes"] - mark["base_bytes"]
        if arrived >= owed:
            return
        if arrived != last:
            last, moved_at = arrived, time.monotonic()
        time.sleep(0.05)


def differences(
    owed: Sequence[Sent],
    sent: Mapping[str, Sent],
    subscriptions: Sequence[Sequence[str]],
    got: Got,
    entry_bytes: float,
) -> Iterator[int]:
    """Yield of each client by how many entries it differs from what was published for it.

    Args:
        owed: Of the first clients; the others, which stalled, are not looked at.
    """
    for topics, one, size, counts in zip(subscriptions, owed, got.bytes, got.counts, strict=False):
        if counts is not None:
            yield sum(abs(counts.get(name, 0) - sent.get(name, Sent()).entries) for name in topics)
        elif size == one.bytes:
            yield 0
        else:
            yield max(1, round(abs(one.bytes - size) / entry_bytes))


def _doubts(row: Row) -> Iterator[str]:
    """Yield what says that something else than the server was measured."""
    if row.cpu_waited > _WAITED:
        yield f"others used the server's core: it waited {row.cpu_waited:.0%} of the time"
    if row.client_cpu > _BUSY:
        yield f"the clients' cores are busy ({row.client_cpu:.0%}): they may be the bottleneck"
    if row.client_lag_p99_ms * 1000 > _LAG_LIMIT_US:
        yield f"the client's loop lags by {row.client_lag_p99_ms:.0f} ms (p99), latency includes it"
    if row.slip_ms > _SLIP_LIMIT_S * 1000:
        yield f"the source fell {row.slip_ms:.0f} ms behind its schedule"


COLUMNS = (
    "load", "deliveries/s", "CPU user", "system", "waited", "deliveries/CPU-s",
    "writes/s", "events/write", "p50 ms", "p99", "p99.9", "RSS MiB", "bus MiB", "lost",
    "clients' CPU",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return the row as the table shows it."""
    number = report.number
    return [
        row.name,
        number(row.deliveries_per_s),
        f"{row.cpu_user:.0%}",
        f"{row.cpu_system:.0%}",
        f"{row.cpu_waited:.0%}",
        number(row.deliveries_per_cpu_s),
        number(row.writes_per_s),
        f"{row.events_per_write:.1f}",
        f"{row.p50_ms:.1f}",
        f"{row.p99_ms:.1f}",
        f"{row.p999_ms:.1f}",
        f"{row.rss_mib:.0f}",
        f"{row.bus_buffer_mib:.1f}",
        number(row.lost),
        f"{row.client_cpu:.0%}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows; 2 where the machine cannot."""
    parser = argparse.ArgumentParser("bench.fanout", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rates", default="500,2000,5000", help="events a second, one row each")
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--topics", type=int, default=20, help="topics of each client")
    parser.add_argument("--symbols", type=int, default=100, help="two topics each")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--mode", choices=("all", "latest"), default="all")
    parser.add_argument("--stalled", type=int, default=0, help="clients that stop reading")
    parser.add_argument("--warm-up", type=float, default=2.0)
    given = parser.parse_args(arguments)
    loads = [
        Load(
            rate=rate,
            clients=given.clients,
            topics=given.topics,
            symbols=given.symbols,
            seconds=given.seconds,
            warm_up_s=given.warm_up,
            decode_every=max(1, min(100, given.clients // 10)),
            stalled=given.stalled,
            mode=given.mode,
        )
        for rate in map(int, given.rates.split(","))
    ]
    rows: list[Row] = []
    try:
        cores = Cores.split()
        facts = report.machine()
        report.heading("fan-out: server on one core, everything else on the others", facts)
        with pinned(cores.others):
            for load in loads:
                report.progress(f"{load.name} …")
                rows.append(run(load, cores))
    except (BenchError, ConfigError) as e:
        print(f"bench.fanout: {e}", file=sys.stderr)
        return 2
    report.table(COLUMNS, [cells(row) for row in rows])
    for row in rows:
        for text in row.notes:
            report.note(f"{row.name}: {text}")
    report.json_line("fanout", facts, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
