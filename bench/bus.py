"""What the bus costs: CPU an event to publish, CPU a message to read.

    python -m bench.bus [--events N] [--bus URL]

Without --bus an embedded Valkey serves. Prints a table, and one JSON line as the last. Figures are
of the client process alone: its CPU time, and what it got done by the wall clock while the server
and the other side had the other cores.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import uvloop

from bench.processes import BenchError
from bench.report import heading, json_line, machine, number, table
from feed.bus.base import Entry, Retention, Sink
from feed.bus.embedded import EmbeddedServer
from feed.bus.keys import channel
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.bus.redis import RedisBus
from feed.bus.resp import Subscriber, pack
from feed.hub import Hub
from feed.models import Trade
from feed.relay import Relay
from feed.sequencer import Sequencer

TOPICS = [f"trade.bench.S{number:03}-USD" for number in range(100)]
_KEPT = 100  # entries a ring keeps
CHUNK = 65_536  # what a busy socket gives at once


def make_entries(count: int) -> list[Entry]:
    """Real entries, in turns over the topics, above whatever an earlier run has left."""
    now = time.time_ns() // 1_000
    sequencer = Sequencer(now, {})
    return [
        sequencer.stamp(
            Trade(TOPICS[n % len(TOPICS)], 0, now, now, 0, str(n), "64123.45", "0.01234", "buy"),
            now,
        )
        for n in range(count)
    ]


async def publish(url: str, events: int, batch: int) -> dict[str, Any]:
    bus = RedisBus(url, Retention())
    await bus.start()
    await bus.publish(make_entries(len(TOPICS)))  # connects
    entries = make_entries(events)
    wall, cpu = time.perf_counter(), time.process_time()
    for begin in range(0, events, batch):
        await bus.publish(entries[begin : begin + batch])
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    await bus.close()
    return row(f"publish, {batch} at once", events, cpu, wall)


def publish_from_elsewhere(url: str, events: int) -> None:
    async def run() -> None:
        bus = RedisBus(url, Retention())
        await bus.start()
        entries = make_entries(events)
        for begin in range(0, events, 100):
            await bus.publish(entries[begin : begin + 100])
        await bus.close()

    uvloop.run(run())


async def read(url: str, events: int) -> dict[str, Any]:
    bus = RedisBus(url, Retention())
    await bus.start()
    got = 0
    done = asyncio.Event()
    wall = cpu = 0.0

    def sink(payload: bytes) -> None:
        nonlocal got, wall, cpu
        if not got:
            wall, cpu = time.perf_counter(), time.process_time()
        got += 1
        if got == events:
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            done.set()

    for topic in TOPICS:
        await bus.subscribe(topic, sink)
    publisher = multiprocessing.get_context("spawn").Process(
        target=publish_from_elsewhere, args=(url, events)
    )
    publisher.start()
    async with asyncio.timeout(300):
        await done.wait()
    publisher.join()
    await bus.close()
    return row("read from the server", events, cpu, wall)


async def read_canned(events: int) -> dict[str, Any]:
    chunks = _canned(make_entries(events))
    got: list[bytes] = []

    def sink(payload: bytes) -> None:
        if len(got) < 10:
            got.append(payload)

    subscriber = Subscriber(
        {channel(topic).encode(): sink for topic in TOPICS},
        lambda channel, payload: None,
        lambda payload: None,
    )
    wall, cpu = time.perf_counter(), time.process_time()
    for chunk in chunks:
        subscriber.data_received(chunk)
    return row("read canned bytes", events, time.process_time() - cpu, time.perf_counter() - wall)


class _Caught(MemoryBus):
    """Keeps the sinks, so that canned bytes can be read into them."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker(), Retention())
        self.sinks: dict[bytes, Sink] = {}

    async def subscribe(self, topic: str, sink: Sink) -> None:
        self.sinks[channel(topic).encode()] = sink
        await super().subscribe(topic, sink)


async def read_into_rings(events: int) -> dict[str, Any]:
    """As the web process reads: checked, in order, kept for who comes back; nobody subscribed."""
    bus = _Caught()
    await bus.start()
    full = len(TOPICS) * (1 + 2 * _KEPT)  # so many, and the rings are full
    entries = make_entries(full + events)
    await bus.publish(entries[: len(TOPICS)])  # they tell where the topics stand
    hub = Hub(lambda: None, lambda: None)
    relay = Relay(bus, hub, 60, Retention(trade=_KEPT))
    await relay.start()
    states = [relay.state(topic) for topic in TOPICS]
    async with asyncio.timeout(10):
        while not all(map(relay.is_live, states)):  # noqa: ASYNC110  # nothing tells of all
            await asyncio.sleep(0.01)
    warm_up, chunks = _canned(entries[len(TOPICS) : full]), _canned(entries[full:])
    subscriber = Subscriber(bus.sinks, lambda channel, payload: None, lambda payload: None)
    for chunk in warm_up:
        subscriber.data_received(chunk)
    wall, cpu = time.perf_counter(), time.process_time()
    for chunk in chunks:
        subscriber.data_received(chunk)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if hub.entries != len(entries):
        raise BenchError(f"{hub.entries} entries of {len(entries)} came through")
    await relay.close()
    await bus.close()
    return row("read canned bytes, checked, into the rings", events, cpu, wall)


def _canned(entries: Sequence[Entry]) -> list[bytes]:
    stream = b"".join(pack(("message", channel(entry.topic), entry.payload)) for entry in entries)
    return [stream[begin : begin + CHUNK] for begin in range(0, len(stream), CHUNK)]


def row(what: str, events: int, cpu_s: float, wall_s: float) -> dict[str, Any]:
    return {
        "what": what,
        "events": events,
        "cpu_us_per_event": round(cpu_s / events * 1e6, 3),
        "events_per_s": round(events / wall_s),
    }


async def measure(url: str, events: int) -> list[dict[str, Any]]:
    rows = [await publish(url, max(events // 10, batch), batch) for batch in (1, 10)]
    rows += [await publish(url, events, batch) for batch in (100, 1_000)]
    return [
        *rows,
        await read(url, events),
        await read_canned(events),
        await read_into_rings(events),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--bus", help="a server of your own, e.g. redis://localhost")
    options = parser.parse_args()
    server = EmbeddedServer()
    with server if not options.bus else nullcontext():
        rows = uvloop.run(measure(options.bus or server.url, options.events))
    facts = machine()
    heading("bus", facts)
    table(
        ("", "µs CPU/event", "events/s"),
        [
            (one["what"], f"{one['cpu_us_per_event']:.2f}", number(one["events_per_s"]))
            for one in rows
        ],
    )
    json_line("bus", facts, rows)


if __name__ == "__main__":
    main()
