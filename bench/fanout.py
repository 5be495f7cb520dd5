"""Fan-out: one server process on a core of its own, Valkey, the ``sim`` source and many clients.

    python -m bench.fanout [--rates 500,2000,5000] [--clients 1000] [--seconds 10]
    python -m bench.fanout --peers uws,plain --rounds 3        # ours and others, in turn
    python -m bench.fanout --suite [hot,cost]                  # the loads that have names

Open loop: the source publishes by the clock, whatever the clients do. Latency is from an entry's
``pub`` to the moment a client's process has it in hand. The server runs with its defaults, but for
heartbeats, which are switched off so that what a client gets can be told from its bytes alone.

With peers each load is run by every server, one after another, so that what else the machine does
falls on all of them. A server that is seconds behind is saturated: its rate is what it can do at
most, and nothing is waited for.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from redis import Redis

from bench import report
from bench.dialects import DIALECTS, Dialect
from bench.histogram import Histogram
from bench.peers import OURS, Peer, named
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
_CONNECT_S = 120.0
_DRAIN_S = 5.0
_NO_HEARTBEAT_S = 86_400
_LOOK_S = 0.05
#: A comma instead of a frame's header, an entry.
_BATCH_SAVES = 3
#: Fewer writes than so many a client's read: they are not what the server sends with.
_COUNTED = 0.5
#: Who is so far behind at the end of the measurement will not catch up by itself.
_SATURATED_S = 0.5


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one row does.

    Attributes:
        rate: Events a second, over all topics.
        clients, topics: How many clients, and how many random topics each is subscribed to.
        symbols, kinds: The source has a topic of each kind of each symbol.
        seconds, warm_up_s: How long is measured, and published before that.
        decode_every: Each so many-th client decodes what it gets.
        stalled: So many clients read nothing meanwhile; they count in no figure but memory.
        mode: ``all``, or ``latest``: then of quotes alone, and nothing counts as lost.
        max_hz: In ``latest``: how often a topic's value may come.
        batch: Entries may share a frame.
        is_same: Everybody has the same topics.
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
    kinds: tuple[str, ...] = ("trade", "quote")
    max_hz: float | None = None
    batch: bool = False
    is_same: bool = False

    @property
    def name(self) -> str:
        of = len(self.kinds) * self.symbols
        what = f"{self.clients:,} x {self.topics} of {of}, {self.rate:,}/s"
        if self.mode != "all":
            what += f", {self.mode}"
        if self.max_hz is not None:
            what += f" at {self.max_hz:g} Hz"
        if self.batch:
            what += ", batch"
        if self.is_same:
            what += ", same topics"
        return f"{what}, {self.stalled} stalled" if self.stalled else what

    @property
    def path(self) -> str:
        return "/v1/ws?batch=1" if self.batch else "/v1/ws"

    def subscriptions(self) -> list[list[str]]:
        """Return each client's topics; the same in every run."""
        kinds = [kind for kind in self.kinds if self.mode == "all" or kind == "quote"]
        carried = [f"{kind}.sim.SIM{i:03d}-USD" for i in range(self.symbols) for kind in kinds]
        seeds = [0] * self.clients if self.is_same else range(self.clients)
        return [random.Random(seed).sample(carried, self.topics) for seed in seeds]

    def command(self, topics: Sequence[str]) -> str:
        """Return what subscribes a client."""
        options = {} if self.max_hz is None else {"max_hz": self.max_hz}
        return json.dumps({"op": "subscribe", "topics": topics, "mode": self.mode, **options})


_DASHBOARDS = Load(
    rate=20_000, clients=5_000, topics=50, symbols=200, kinds=("quote",),
    mode="latest", max_hz=4, batch=True,
)  # fmt: skip
#: Loads by name. "cost" is the same number of deliveries to few and to many.
SUITE = {
    "rates": [Load(rate=rate) for rate in (500, 2_000, 5_000, 10_000)],
    "hot": [Load(rate=500, topics=1, symbols=1, kinds=("trade",))],
    "lone": [Load(rate=50)],
    "cost": [Load(rate=2_000, clients=100, decode_every=10), Load(rate=20, clients=10_000)],
    "latest": [replace(_DASHBOARDS, is_same=True), _DASHBOARDS],
    "stalled": [Load(rate=5_000, stalled=n) for n in (0, 10, 100)],
}


class Row(msgspec.Struct, kw_only=True):
    """What came of it.

    Attributes:
        cpu_waited: Time the server could have run while others had its core.
        writes_per_s, events_per_write: Of the server process; None where it uses send(), which the
            kernel does not count.
        bus_buffer_mib: What the bus had to hold for the server's reading link, at worst.
        behind_s: How far what has been delivered lagged at the end, in time of the source; in
            ``latest`` how old the values were, beyond the time that ``max_hz`` may hold them.
        lost: Deliveries missing or too many, over all clients; of a client that only counts, told
            from its bytes. Where the server is saturated, most of them would still have come.
        slip_ms: How late the source was at worst.
        client_cpu: Of a core, everything that shares the client's cores together.
        bridge_cpu: The part of it that brings entries to a broker.
        notes: Why the figures are to be doubted.
    """

    server: str
    name: str
    rate: int
    deliveries_per_s: float
    cpu_user: float
    cpu_system: float
    cpu_waited: float
    deliveries_per_cpu_s: float
    writes_per_s: float | None
    events_per_write: float | None
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    rss_mib: float
    bus_buffer_mib: float
    behind_s: float
    lost: int
    slip_ms: float
    client_cpu: float
    bridge_cpu: float
    client_lag_p99_ms: float
    connects_per_s: float
    notes: list[str]

    @property
    def is_saturated(self) -> bool:
        return self.behind_s > _SATURATED_S


class Sent(msgspec.Struct, array_like=True, frozen=True):
    """What was published to one topic: entries, and the bytes they cost a client."""

    entries: int = 0
    bytes: int = 0

    @classmethod
    def make(cls, dialect: Dialect, topic: str, lengths: Mapping[int, int]) -> Sent:
        """Return what so many entries (bytes of JSON -> how many) come to."""
        cost = sum(n * dialect.size(topic, length) for length, n in lengths.items())
        return cls(sum(lengths.values()), cost)


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


def run(load: Load, cores: Cores, server: Peer = OURS) -> Row:
    """Run one load against a server of its own.

    Raises:
        BenchError: A process failed.
    """
    allow_files(load.clients + 200)
    with ExitStack() as stack:
        valkey = stack.enter_context(EmbeddedServer())
        pin(valkey.process.pid, cores.others)
        kinds = ",".join(load.kinds)
        settings = {"bus": valkey.url, "sim_symbols": load.symbols, "sim_kinds": kinds}
        source = stack.enter_context(Child("bench.source", settings, cores.others))
        source.hear()
        serving = {"bus": valkey.url, "port": 0, "heartbeat_s": _NO_HEARTBEAT_S}
        if server.is_bridge:
            serving["cores"] = sorted(cores.server)
        on = cores.others if server.is_bridge else cores.server
        web = stack.enter_context(
            Child(server.module, serving, on, server.environment, server.program)
        )
        started = web.hear()
        port = started["port"]
        client = stack.enter_context(Child("bench.client", {}, cores.others))
        client.hear()
        subscriptions = load.subscriptions()
        message = {"do": "connect", "port": port, "path": load.path, "dialect": server.dialect}
        message["commands"] = [load.command(topics) for topics in subscriptions]
        message["decode_every"] = load.decode_every
        connected = client.ask(message, timeout_s=_CONNECT_S)["seconds"]
        time.sleep(DIALECTS[server.dialect].quiet_s)
        sharing = (client.pid, source.pid, valkey.process.pid)
        bridge = web.pid if server.is_bridge else None
        actors = _Actors(started.get("pid", web.pid), bridge, sharing, client, source, valkey.url)
        return _measure(load, server, actors, subscriptions, connected)


class _Actors(NamedTuple):
    """The processes of a run.

    Attributes:
        server, bridge: The pids of what is measured, and of what feeds it.
        sharing: The pids of the others on the other cores.
        bus: Its URL.
    """

    server: int
    bridge: int | None
    sharing: Sequence[int]
    client: Child
    source: Child
    bus: str

    def costs(self) -> tuple[Cost, float, float]:
        """Return the server's cost, and CPU: of the bridge, and of all on the other cores."""
        bridge = 0.0 if self.bridge is None else cost(self.bridge).cpu_s
        return cost(self.server), bridge, bridge + sum(cost(pid).cpu_s for pid in self.sharing)


def _measure(
    load: Load,
    server: Peer,
    actors: _Actors,
    subscriptions: Sequence[Sequence[str]],
    connected_s: float,
) -> Row:
    client, source = actors.client, actors.source
    start = time.time_ns() // 1000 + round(load.warm_up_s * 1e6)
    client.ask({"do": "base", "window": (start, start + round(load.seconds * 1e6))})
    events = round(load.rate * (load.warm_up_s + load.seconds))
    source.ask({"do": "start", "events": events, "rate": load.rate})
    time.sleep(load.warm_up_s)
    client.ask({"do": "stall", "clients": load.stalled, "reads_on": False})
    (web_0, bridge_0, others_0), at_0 = actors.costs(), time.monotonic()
    mark_0 = client.ask({"do": "mark"})
    buffered = _watch_buffer(actors.bus, load.seconds)
    (web_1, bridge_1, others_1), at_1 = actors.costs(), time.monotonic()
    mark_1 = client.ask({"do": "mark"})
    rss = rss_bytes(actors.server)
    client.ask({"do": "stall", "clients": load.stalled, "reads_on": True})
    finished = source.ask({"do": "finish"}, timeout_s=load.seconds + 30)
    lengths = msgspec.convert(finished["sent"], dict[str, dict[int, int]], str_keys=True)
    dialect = DIALECTS[server.dialect]
    sent = {topic: Sent.make(dialect, topic, of) for topic, of in lengths.items()}
    owed = [due(sent, topics) for topics in subscriptions]
    reading = load.clients - load.stalled
    all_bytes = sum(one.bytes for one in owed[:reading])
    arrived = (mark_1["bytes"] - mark_1["base_bytes"]) / max(1, all_bytes)
    is_all = load.mode == "all"
    behind_s = max(0.0, 1 - arrived) * (load.warm_up_s + load.seconds)
    if is_all and behind_s <= _SATURATED_S:
        _drain(client, all_bytes)
    got = msgspec.convert(client.ask({"do": "result"}), Got)
    latency = Histogram.load(got.latency)
    if not is_all:
        behind_s = max(0.0, latency.percentile(50) / 1e6 - 1 / (load.max_hz or math.inf))

    entry_bytes = sum(s.bytes for s in owed) / max(1, sum(s.entries for s in owed))
    if load.batch:
        entry_bytes -= _BATCH_SAVES
    seconds = mark_1["at"] - mark_0["at"]
    deliveries = (mark_1["bytes"] - mark_0["bytes"]) / entry_bytes / seconds
    used = web_1.since(web_0)
    wall = at_1 - at_0
    writes = used.writes / wall
    is_counted = used.writes > _COUNTED * (mark_1["reads"] - mark_0["reads"])
    missing = sum(
        differences(owed[:reading], sent, subscriptions, got, entry_bytes) if is_all else ()
    )
    row = Row(
        server=server.name,
        name=load.name,
        rate=load.rate,
        deliveries_per_s=deliveries,
        cpu_user=used.user_s / wall,
        cpu_system=used.system_s / wall,
        cpu_waited=used.waited_s / wall,
        deliveries_per_cpu_s=deliveries / max(used.cpu_s / wall, 1e-9),
        writes_per_s=writes if is_counted else None,
        events_per_write=deliveries / writes if is_counted else None,
        p50_ms=latency.percentile(50) / 1000,
        p99_ms=latency.percentile(99) / 1000,
        p999_ms=latency.percentile(99.9) / 1000,
        max_ms=latency.max / 1000,
        rss_mib=rss / 2**20,
        bus_buffer_mib=buffered / 2**20,
        behind_s=behind_s,
        lost=missing,
        slip_ms=finished["late_s"] * 1000,
        client_cpu=(others_1 - others_0) / wall,
        bridge_cpu=(bridge_1 - bridge_0) / wall,
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
    """Yield what says that something else than the server was measured, or that it gave up."""
    if row.is_saturated:
        yield (
            f"saturated at {report.number(row.deliveries_per_s)} deliveries/s: "
            f"{row.behind_s:.1f} s behind at the end, latency is of what had come by then"
        )
    if row.cpu_waited > _WAITED:
        who = "others (or its own threads)"
        yield f"{who} had the server's core: it waited {row.cpu_waited:.0%} of the time"
    if row.client_cpu > _BUSY:
        lag = f"their loop lags by {row.client_lag_p99_ms:.0f} ms (p99)"
        yield f"the clients' cores are busy ({row.client_cpu:.0%}), maybe the bottleneck; {lag}"
    if row.bridge_cpu:
        yield f"besides, its bridge used {row.bridge_cpu:.0%} of a core"
    if row.client_lag_p99_ms * 1000 > _LAG_LIMIT_US:
        yield f"the client's loop lags by {row.client_lag_p99_ms:.0f} ms (p99), latency includes it"
    if row.slip_ms > _SLIP_LIMIT_S * 1000:
        yield f"the source fell {row.slip_ms:.0f} ms behind its schedule"


def compared(ours: Sequence[Row], theirs: Sequence[Row]) -> str:
    """Return how we compare, as the medians over the rounds."""
    pairs = list(zip(ours, theirs, strict=True))
    work = statistics.median(a.deliveries_per_cpu_s / b.deliveries_per_cpu_s for a, b in pairs)
    said = f"{work:.2f} times the deliveries/CPU-s of {theirs[0].server}, "
    if any(row.is_saturated for row in (*ours, *theirs)):
        behind = statistics.median(b.behind_s - a.behind_s for a, b in pairs)
        return said + f"which is {behind:.1f} s further behind"
    return said + f"{statistics.median(a.p99_ms / b.p99_ms for a, b in pairs):.2f} times its p99"


def median(rows: Sequence[Row]) -> Row:
    """Return the row in the middle by deliveries/CPU-s; the lower one of two."""
    return sorted(rows, key=lambda row: row.deliveries_per_cpu_s)[(len(rows) - 1) // 2]


COLUMNS = (
    "load", "server", "deliveries/s", "CPU user", "system", "waited", "deliveries/CPU-s",
    "writes/s", "events/write", "p50 ms", "p99", "p99.9", "RSS MiB", "bus MiB", "lost",
    "clients' CPU",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return the row as the table shows it."""
    number = report.number
    return [
        row.name,
        row.server,
        number(row.deliveries_per_s),
        f"{row.cpu_user:.0%}",
        f"{row.cpu_system:.0%}",
        f"{row.cpu_waited:.0%}",
        number(row.deliveries_per_cpu_s),
        "-" if row.writes_per_s is None else number(row.writes_per_s),
        "-" if row.events_per_write is None else f"{row.events_per_write:.1f}",
        f"{row.p50_ms:.1f}",
        f"{row.p99_ms:.1f}",
        f"{row.p999_ms:.1f}",
        f"{row.rss_mib:.0f}",
        f"{row.bus_buffer_mib:.1f}",
        "saturated" if row.is_saturated else number(row.lost),
        f"{row.client_cpu:.0%}",
    ]


def _in_turn(
    load: Load, servers: Sequence[Peer], rounds: int, cores: Cores, remarks: list[str]
) -> dict[str, list[Row]]:
    """Run a load with every server in turn, every other round from the other end.

    Args:
        remarks: Is added why a peer has no rows.

    Raises:
        BenchError: Our own server failed.
    """
    able = [server for server in servers if load.mode == "all" or server.conflates]
    remarks += [f"{load.name}: {one.name} cannot conflate" for one in servers if one not in able]
    rows: dict[str, list[Row]] = {server.name: [] for server in able}
    for i in range(rounds):
        for server in able if i % 2 == 0 else reversed(able):
            if server.name not in rows:
                continue
            report.progress(f"{load.name}, {server.name} …")
            try:
                rows[server.name].append(run(load, cores, server))
            except BenchError as e:
                if server is OURS:
                    raise
                remarks.append(f"{load.name}: {server.name} failed: {e}")
                del rows[server.name]
    return rows


def _show(found: Sequence[Mapping[str, Sequence[Row]]]) -> None:
    """Print the table, the remarks, and how we compare. Each load's rows come by server."""
    shown = [median(rows) for by_server in found for rows in by_server.values()]
    report.table(COLUMNS, [cells(row) for row in shown])
    for row in shown:
        for text in row.notes:
            report.note(f"{row.name}, {row.server}: {text}")
    for by_server in found:
        ours = by_server[OURS.name]
        for name, rows in by_server.items():
            if name != OURS.name:
                report.note(f"{ours[0].name}: {OURS.name} has {compared(ours, rows)}")


def _loads(given: argparse.Namespace) -> list[Load]:
    load = Load(
        rate=0,
        clients=given.clients,
        topics=given.topics,
        symbols=given.symbols,
        seconds=given.seconds,
        warm_up_s=given.warm_up,
        decode_every=max(1, min(100, given.clients // 10)),
        stalled=given.stalled,
        mode=given.mode,
    )
    return [replace(load, rate=int(rate)) for rate in given.rates.split(",")]


def _named_loads(names: str, seconds: float) -> list[Load]:
    """Return the loads of the suite with these names.

    Raises:
        ConfigError: There is none of such a name.
    """
    loads: list[Load] = []
    for name in names.split(","):
        if name not in SUITE:
            raise ConfigError(f"no load is called {name!r}; there are {', '.join(SUITE)}")
        loads += [replace(load, seconds=seconds) for load in SUITE[name]]
    return loads


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
    parser.add_argument(
        "--suite", nargs="?", const=",".join(SUITE), help="named loads instead: all, or these"
    )
    parser.add_argument("--peers", default="", help="other servers, by name; or all")
    parser.add_argument("--rounds", type=int, default=1, help="the median of so many is shown")
    given = parser.parse_args(arguments)
    facts = report.machine()
    try:
        loads = _named_loads(given.suite, given.seconds) if given.suite else _loads(given)
        peers = named(name for name in given.peers.split(",") if name)
        remarks = [text for peer in peers if (text := peer.missing())]
        servers = [OURS, *(peer for peer in peers if not peer.missing())]
        cores = Cores.split()
        report.heading("fan-out: server on one core, everything else on the others", facts)
        with pinned(cores.others):
            found = [_in_turn(load, servers, given.rounds, cores, remarks) for load in loads]
    except (BenchError, ConfigError) as e:
        print(f"bench.fanout: {e}", file=sys.stderr)
        return 2
    _show(found)
    for text in remarks:
        report.note(text)
    rows = [row for by_server in found for rows in by_server.values() for row in rows]
    report.json_line("fanout", facts, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
