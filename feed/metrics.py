"""What a server says of itself, for Prometheus: read when it is asked for, added up over workers.

Nothing is counted here: values are read from counters that the parts keep anyway, so a delivery
costs what it costs without metrics. No label grows with the topics or the clients.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from operator import add
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from feed.topic_state import Phase, received_at

if TYPE_CHECKING:
    from feed.gateway import Gateway

#: Family -> value of its label (empty where it has none) -> value. Of a histogram: upper bounds,
#: each with what it counted itself, and ``sum``.
Values: TypeAlias = dict[str, dict[str, float]]

_LAG_EVERY_S = 0.1
_LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_OVER = "+Inf"


class Family(NamedTuple):
    """A metric.

    Attributes:
        merge: What the values of several workers make together.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""
    merge: Literal["sum", "max", "min"] = "sum"


FAMILIES = (
    Family("feed_build_info", "gauge", "The version that runs.", "version", "max"),
    Family("feed_clients", "gauge", "Clients connected.", "transport"),
    Family("feed_clients_behind", "gauge", "Clients whose socket takes no more just now."),
    Family("feed_connects_total", "counter", "Clients let in."),
    Family("feed_connects_refused_total", "counter", "Clients refused: too many, or at its end."),
    Family("feed_evictions_total", "counter", "Clients ended because they took nothing."),
    Family("feed_subscriptions", "gauge", "Topics that clients want, once for each client."),
    Family("feed_topics", "gauge", "Topics joined on the bus.", "phase"),
    Family("feed_bus_up", "gauge", "Whether every worker's link delivers.", merge="min"),
    Family("feed_bus_link_losses_total", "counter", "Links to the bus that were lost."),
    Family("feed_bus_entries_total", "counter", "Entries taken from the bus."),
    Family("feed_bus_entries_bad_total", "counter", "Payloads skipped because they are no entry."),
    Family("feed_repairs_total", "counter", "Holes for which a topic's stream was read again."),
    Family("feed_encodes_total", "counter", "Bodies made of entries; not one for each client."),
    Family("feed_sent_bytes_total", "counter", "Bytes handed to clients' sockets."),
    Family("feed_dropped_entries_total", "counter", "Entries given up for clients too far behind."),
    Family("feed_gaps_total", "counter", "Gaps given to connections.", "cause"),
    Family("feed_snapshots_total", "counter", "Snapshots given."),
    Family("feed_resumes_total", "counter", "Topics come back to with since.", "recovered"),
    Family("feed_exchange_up", "gauge", "Whether an exchange is live.", "exchange", "min"),
    Family(
        "feed_newest_entry_age_seconds",
        "gauge",
        "Age of the newest entry of an exchange's topics that clients want.",
        "exchange",
        "min",
    ),
    Family("feed_loop_lag_seconds", "histogram", "How late the event loop calls what is due."),
    Family("feed_workers", "gauge", "Worker processes that there should be."),
    Family("feed_workers_unanswered", "gauge", "Workers whose values are missing here."),
    Family("feed_worker_clients", "gauge", "Clients of each worker.", "worker"),
    Family("feed_worker_restarts_total", "counter", "Workers started again after they ended."),
    Family("process_cpu_seconds_total", "counter", "CPU time of all processes."),
    Family("process_resident_memory_bytes", "gauge", "Resident memory of all processes."),
    Family("process_virtual_memory_bytes", "gauge", "Virtual memory of all processes."),
    Family("process_open_fds", "gauge", "Open files of all processes."),
    Family("process_max_fds", "gauge", "Files that all processes may open."),
    Family("process_start_time_seconds", "gauge", "When the oldest process began.", merge="min"),
)


class Histogram:
    """Counts of what was observed, by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def values(self) -> dict[str, float]:
        names = [*map(str, self._bounds), _OVER]
        return {"sum": self._sum, **dict(zip(names, map(float, self._counts), strict=True))}


class Meter:
    """Reads one process's values, and measures how late its loop is."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._version = version("pricefeed")
        self._lag = Histogram(_LAG_BOUNDS)

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            due = time.monotonic() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._lag.observe(max(0.0, time.monotonic() - due))

    def read(self) -> Values:
        """Return the values of this process."""
        gateway = self._gateway
        hub, relay, tally = gateway.hub, gateway.relay, gateway.hub.tally
        clients = Counter(client.transport for client in gateway.clients)
        states = relay.states()
        phases = Counter(state.phase for state in states)
        return {
            "feed_build_info": {self._version: 1},
            "feed_clients": {name: clients[name] for name in ("websocket", "sse")},
            "feed_clients_behind": _one(sum(c.outbox.blocked for c in gateway.clients)),
            "feed_connects_total": _one(gateway.entered),
            "feed_connects_refused_total": _one(gateway.door.refused),
            "feed_evictions_total": _one(gateway.evicted),
            "feed_subscriptions": _one(sum(state.interest for state in states)),
            "feed_topics": {phase.value: phases[phase] for phase in Phase},
            "feed_bus_up": _one(relay.liveness.is_linked),
            "feed_bus_link_losses_total": _one(relay.lost_links),
            "feed_bus_entries_total": _one(hub.entries),
            "feed_bus_entries_bad_total": _one(relay.entries.bad),
            "feed_repairs_total": _one(relay.repairs),
            "feed_encodes_total": _one(hub.encodes),
            "feed_sent_bytes_total": _one(
                gateway.left_written + sum(c.written for c in gateway.clients)
            ),
            "feed_dropped_entries_total": _one(
                gateway.left_dropped + sum(c.outbox.dropped for c in gateway.clients)
            ),
            "feed_gaps_total": dict(tally.gaps.items()),
            "feed_snapshots_total": _one(tally.snapshots),
            "feed_resumes_total": {"true": tally.resumed, "false": tally.not_resumed},
            "feed_exchange_up": {
                name: float(relay.liveness.exchange(name) == "live")
                for name in relay.index.catalogues
            },
            "feed_newest_entry_age_seconds": _ages(gateway),
            "feed_loop_lag_seconds": self._lag.values(),
            **process(),
        }

    async def scrape(self) -> Values:
        """Return the values of a server that is this process alone."""
        own = self.read()
        return merge([own, of_workers({0: own}, 0, 0)])


def _one(value: float) -> dict[str, float]:
    return {"": float(value)}  # also of a claim


def _ages(gateway: Gateway) -> dict[str, float]:
    """Return the age of the newest entry of each exchange, in seconds."""
    newest: dict[str, int] = {}
    for state in gateway.relay.states():
        if not state.interest or state.kind == "status":
            continue
        if (at := received_at(state.newest)) is not None:
            exchange = state.topic.exchange
            newest[exchange] = max(at, newest.get(exchange, 0))
    return {exchange: max(0.0, time.time() - at / 1e6) for exchange, at in newest.items()}


def process() -> Values:
    """Return what the kernel says of this process; nothing where it is not Linux."""
    found = ProcessCollector(registry=None).collect()
    return {s.name: _one(s.value) for metric in found for s in metric.samples}


def of_workers(answered: Mapping[int, Values], unanswered: int, restarts: int) -> Values:
    """Return the values that tell workers apart.

    Args:
        answered: Values of the workers that have told them, by number.
    """
    return {
        "feed_workers": _one(len(answered) + unanswered),
        "feed_workers_unanswered": _one(unanswered),
        "feed_worker_clients": {
            str(number): sum(values.get("feed_clients", {}).values())
            for number, values in answered.items()
        },
        "feed_worker_restarts_total": _one(restarts),
    }


def lasting(values: Values) -> Values:
    """Return what remains true of a process that has ended: what it counted."""
    counted = {family.name for family in FAMILIES if family.kind != "gauge"}
    return {name: values[name] for name in values if name in counted}


def merge(all_values: Sequence[Values]) -> Values:
    """Return the values of several processes together."""
    whole: Values = {}
    for name, _, _, _, how in FAMILIES:
        for values in all_values:
            for label, value in values.get(name, {}).items():
                found = whole.setdefault(name, {})
                former = found.get(label)
                found[label] = value if former is None else _MERGE[how](former, value)
    return whole


_MERGE: Mapping[str, Callable[[float, float], float]] = {"sum": add, "max": max, "min": min}


class _Given(Collector):
    """Values as Prometheus' own library wants them."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            values = self._values.get(family.name)
            if values:
                yield _metric(family, values)


def _metric(family: Family, values: Mapping[str, float]) -> Metric:
    name, kind, help, label, _ = family
    if kind == "histogram":
        buckets, count = [], 0.0
        for bound, n in values.items():
            if bound != "sum":
                count += n
                buckets.append((bound, count))
        return HistogramMetricFamily(name, help, buckets, values["sum"])
    make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    metric = make(name, help, labels=[label] if label else [])
    for text, value in sorted(values.items()):
        metric.add_metric([text] if label else [], value)
    return metric


def render(values: Values, accept: str) -> tuple[bytes, str]:
    """Return the text and its content type.

    Args:
        accept: Of the request; Prometheus asks for OpenMetrics there.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Given(values)), content_type
