"""Replay: play a tape into servers that speak protocol v1, and print what arrived where and when.

    python -m bench.replay TAPE [--pace 1x] [--seconds 30] [--events]
    python -m bench.replay TAPE --bus redis://localhost/9 --url ws://localhost:8000/v1/ws --url …

The tape is served as a fake exchange, a real ingest process publishes it to the bus, and one client
a server is subscribed to everything on it, in mode ``all``. All servers are given the same entries
at the same time, so that servers, versions or settings can be compared: start one ``feed serve``
for each on the same bus. Without ``--url`` and ``--bus``, a Valkey and a ``feed serve`` of its own
are started, with the ``FEED_*`` settings of the environment.

The bus is written to: take one that nothing else needs, without an ingest of the same exchange.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from bench import report
from bench.journey import Arrival, Given, Journey, Origins, Stage, unaccounted
from bench.playing import Playing
from bench.processes import BenchError, Child
from bench.track import Pace, Track, load, pace_of
from feed.bus.embedded import EmbeddedServer
from feed.config import Settings
from feed.errors import ConfigError

_JOIN_S = 20.0
_QUIET_S = 1.0
_LOOK_S = 0.1


class Row(msgspec.Struct, kw_only=True):
    """What one server delivered.

    Attributes:
        name: Its URL.
        entries, kinds: What arrived, in all and by kind.
        events_per_s: From the first to the last.
        first_s, last_s: When they arrived, from the first frame's leaving the exchange.
        stages: Of the way; see ``bench.endtoend``.
        lost: Entries on the bus that did not arrive.
        declared: How many the server said it would not deliver.
        odd: Entries that came twice or out of order.
        untraced: Entries made of no frame of the tape; they count in no stage.
        closed: Why the server closed the connection, if it did.
    """

    name: str
    pace: str
    entries: int
    kinds: dict[str, int]
    events_per_s: float
    first_s: float
    last_s: float
    stages: list[Stage]
    lost: int
    declared: int
    odd: int
    untraced: int
    closed: str | None


class Listener:
    """One client of one server.

    Attributes:
        kept: What came since it was subscribed, with the time, µs.
        closed: Why the connection ended.
    """

    def __init__(self, url: str, socket: ClientConnection) -> None:
        self.url = url
        self.kept: list[tuple[int, str | bytes]] = []
        self.closed: str | None = None
        self._socket = socket

    async def join(self, topics: Sequence[str]) -> None:
        """Subscribe; a server may take a moment to hear of new topics.

        Raises:
            BenchError: It does not come to know them.
        """
        wanted = list(topics)
        deadline = time.monotonic() + _JOIN_S
        while wanted:
            if time.monotonic() > deadline:
                raise BenchError(f"{self.url} does not carry {wanted[0]}")
            command = {"op": "subscribe", "topics": wanted, "mode": "all", "status": False}
            await self._socket.send(json.dumps(command))
            wanted = await self._refused()
            if wanted:
                await asyncio.sleep(_LOOK_S)

    async def _refused(self) -> list[str]:
        """Read up to ``synced``; return the topics that the server does not know yet.

        Raises:
            BenchError: It refuses the command.
        """
        refused: list[str] = []
        async for message in self._socket:
            said: dict[str, Any] = json.loads(message)
            match said["type"]:
                case "subscribed":
                    refused += [one["topic"] for one in said["results"] if not one["ok"]]
                case "error":
                    raise BenchError(f"{self.url}: {said['message']}")
                case "synced":
                    break
                case _:
                    self.kept.append((time.time_ns() // 1000, message))
        return refused

    async def listen(self) -> None:
        """Keep everything until cancelled, or closed by the server."""
        try:
            async for message in self._socket:
                self.kept.append((time.time_ns() // 1000, message))
            self.closed = "closed by the server"
        except ConnectionClosed as e:
            self.closed = str(e)

    def given(self) -> Given:
        given = Given()
        for at, message in self.kept:
            given.take(at, message)
        return given


async def run(
    stack: ExitStack,
    paths: Sequence[Path],
    pace: Pace,
    seconds: float | None,
    bus: str,
    urls: Sequence[str],
) -> tuple[list[Row], dict[str, list[Arrival]]]:
    """Play the tapes once; return what came of each server, and all of it.

    Raises:
        BenchError: A process failed, or a server does not do its part.
        ConfigError: A tape cannot be read, or a server not be reached.
    """
    tracks = [Track(name, one) for name, one in load(paths).items()]
    playing = Playing(
        stack, bus, paths, 1, tracks, pace, seconds, os.sched_getaffinity(0)
    )  # fmt: skip
    async with AsyncExitStack() as sockets:
        listeners: list[Listener] = []
        for url in urls:
            try:
                socket = await sockets.enter_async_context(
                    connect(url, compression=None, max_size=None, max_queue=None, proxy=None)
                )
            except (OSError, WebSocketException) as e:
                raise ConfigError(f"cannot reach {url}: {e}") from e
            listener = Listener(url, socket)
            await listener.join(playing.topics)
            listeners.append(listener)
        tasks = [asyncio.create_task(one.listen()) for one in listeners]
        before = playing.published()
        await asyncio.to_thread(playing.go)
        sent = await asyncio.to_thread(playing.finish)
        await _quiet(listeners)
        after = playing.published()
        for task in tasks:
            task.cancel()
    published = {topic: n - before[topic] for topic, n in after.items()}
    if not any(published.values()):
        raise BenchError(f"nothing was published to {bus}: has it another ingest of the exchange?")
    start = min(at for times in sent.values() for at in times if at)
    rows: list[Row] = []
    given = {one.url: one.given() for one in listeners}
    came = {url: one.entries for url, one in given.items()}
    for one in listeners:
        journey = Journey()
        journey.follow(came[one.url], Origins(tracks, sent))
        lost, odd = unaccounted(came[one.url], published)
        span_s = (journey.last - journey.first) / 1e6
        row = Row(
            name=one.url,
            pace=pace.name,
            entries=journey.entries,
            kinds=dict(Counter(entry.topic.partition(".")[0] for entry in came[one.url])),
            events_per_s=journey.entries / max(span_s, 1e-6),
            first_s=(journey.first - start) / 1e6,
            last_s=(journey.last - start) / 1e6,
            stages=journey.summary(),
            lost=lost,
            declared=given[one.url].declared,
            odd=odd,
            untraced=journey.untraced,
            closed=one.closed,
        )
        rows.append(row)
    return rows, came


async def _quiet(listeners: Iterable[Listener]) -> None:
    """Return once nobody has been given anything for a while."""
    last, moved_at = -1, time.monotonic()
    while time.monotonic() - moved_at < _QUIET_S:
        kept = sum(len(one.kept) for one in listeners)
        if kept != last:
            last, moved_at = kept, time.monotonic()
        await asyncio.sleep(_LOOK_S)


COLUMNS = ("server", "entries", "events/s", "stage", "p50 ms", "p99", "p99.9", "max", "lost")


def cells(row: Row) -> list[list[str]]:
    """Return the lines of the row as the table shows them, one a stage."""
    head = [row.name, report.number(row.entries), report.number(row.events_per_s)]
    lines: list[list[str]] = []
    for stage in row.stages:
        times = (stage.p50_ms, stage.p99_ms, stage.p999_ms, stage.max_ms)
        lost = "" if lines else report.number(row.lost)
        lines.append([*head, stage.name, *(f"{time:.2f}" for time in times), lost])
        head = ["", "", ""]
    return lines


def event_lines(came: dict[str, list[Arrival]]) -> Iterable[str]:
    """Yield one line an entry in the order of arrival: when, after how long, where, which."""
    everything = [(one, url) for url, entries in came.items() for one in entries]
    everything.sort(key=lambda pair: pair[0].at)
    first = everything[0][0].at if everything else 0
    yield "seconds\tms_since_pub\tserver\ttopic\tseq"
    for one, url in everything:
        late_ms = (one.at - one.pub) / 1000
        yield f"{(one.at - first) / 1e6:.6f}\t{late_ms:.3f}\t{url}\t{one.topic}\t{one.seq}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay; 2 where a tape cannot be read or a server not be reached."""
    parser = argparse.ArgumentParser("bench.replay", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tapes", nargs="+", type=Path, metavar="TAPE")
    parser.add_argument("--url", action="append", default=[], help="ws://…/v1/ws; again for more")
    parser.add_argument("--bus", help="redis://… or unix://…, which the servers read")
    parser.add_argument("--pace", default="1x", help="1x, 10x, max, or events a second")
    parser.add_argument("--seconds", type=float, help="the most that is played; else all")
    parser.add_argument("--events", action="store_true", help="print each entry first, as TSV")
    given = parser.parse_args(arguments)
    facts = report.machine()
    report.heading(f"replay: {', '.join(path.name for path in given.tapes)}", facts)
    try:
        if bool(given.url) != bool(given.bus):
            raise ConfigError("--url and --bus go together: the servers read what the bus is given")
        pace = pace_of(given.pace)
        with ExitStack() as stack:
            bus, urls = given.bus, given.url
            if not urls:
                bus = stack.enter_context(EmbeddedServer()).url
                settings = Settings.from_env(os.environ, bus=bus, port=0)
                web = stack.enter_context(
                    Child("bench.server", msgspec.to_builtins(settings), os.sched_getaffinity(0))
                )
                urls = [f"ws://127.0.0.1:{web.hear()['port']}/v1/ws"]
            report.progress(f"{pace.name} into {', '.join(urls)} …")
            rows, came = uvloop.run(run(stack, given.tapes, pace, given.seconds, bus, urls))
    except (BenchError, ConfigError) as e:
        print(f"bench.replay: {e}", file=sys.stderr)
        return 2
    if given.events:
        for line in event_lines(came):
            print(line)
    report.table(COLUMNS, [line for row in rows for line in cells(row)])
    for row in rows:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(row.kinds.items()))
        report.note(f"{row.name}: {kinds}; from {row.first_s:.3f} s to {row.last_s:.3f} s")
        if row.lost:
            report.note(f"{row.name}: {row.declared:,} of the lost were declared by a gap")
        if row.odd or row.untraced:
            report.note(
                f"{row.name}: {row.odd} twice or out of order, {row.untraced} not of the tape"
            )
        if row.closed:
            report.note(f"{row.name}: {row.closed}")
    report.json_line("replay", facts, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
