"""A program of somebody else's on the bus, an ingest process for it to read, and a bus that dies.

``Reader`` does what ``docs/bus.md`` asks of readers and no more: with redis-py alone, so that what
it finds is what anybody finds.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, NamedTuple, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import UnixDomainSocketConnection
from redis.exceptions import ConnectionError as LinkLost
from redis.retry import Retry

from tests.bus.helpers import Restartable
from tests.web import until

KINDS = ("trade", "quote", "book", "depth")
SYMBOLS = ("SIM000-USD", "SIM001-USD")
#: What the simulator never stops writing, and what it writes once.
BUSY = tuple(f"{kind}.sim.{symbol}" for kind in KINDS for symbol in SYMBOLS)
QUIET = ("status.sim.ALL", *(f"status.sim.{symbol}" for symbol in SYMBOLS))
TOPICS = (*BUSY, *QUIET)
TRADES = tuple(topic for topic in BUSY if topic.startswith("trade."))
BOOKS = tuple(topic for topic in BUSY if topic.startswith("book."))
STATES = tuple(topic for topic in TOPICS if topic.startswith(("quote.", "depth.", "status.")))


class Seen(NamedTuple):
    """An entry that the reader took; ``at`` by the monotonic clock, seconds."""

    epoch: int
    seq: int
    event: dict[str, Any]
    at: float

    @property
    def is_restart(self) -> bool:
        return bool(self.event["type"] == "gap" and self.event["cause"] == "publisher_restart")


def read(payload: bytes) -> Seen:
    epoch, seq = struct.unpack_from("!QQ", payload)
    event = json.loads(payload[16:])
    assert event["seq"] == seq, "the header and the event name one position"
    return Seen(epoch, seq, event, time.monotonic())


class Reader:
    """Follows topics from when it starts, over as many links as it takes; a context manager.

    Attributes:
        taken: Topic -> its entries, once each, as this reader took them.
        stale: Messages of an older epoch above the last position: who looks at positions alone
            takes them for news.
        links: How often it was connected.
    """

    def __init__(self, bus: str, topics: Sequence[str] = TOPICS) -> None:
        self.taken: dict[str, list[Seen]] = {topic: [] for topic in topics}
        self.stale: list[Seen] = []
        self.links = 0
        self._path = bus.removeprefix("unix://")
        self._stop = Event()
        self._thread = Thread(target=self._run, name="reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def ends(self) -> dict[str, int]:
        """Return the last position of each topic; 0 before the first."""
        return {t: taken[-1].seq if taken else 0 for t, taken in self.taken.items()}

    async def has_all(self, topics: Iterable[str] = TOPICS, within_s: float = 30.0) -> None:
        """Return once each topic has an entry."""
        await until(lambda: all(self.taken[topic] for topic in topics), within_s)

    async def goes_on(self, entries: int = 30, within_s: float = 30.0) -> None:
        """Return once each busy topic has had so many entries more."""
        before = {topic: len(self.taken[topic]) for topic in BUSY}
        await until(
            lambda: all(len(self.taken[t]) >= n + entries for t, n in before.items()), within_s
        )

    async def reaches(self, topic: str, seq: int) -> None:
        """Return once the topic's entry ``seq`` has come, or a later one."""
        await until(lambda: self.ends()[topic] >= seq)

    def jumps(self) -> list[str]:
        """Return every step between two entries of a topic that is not +1."""
        return [
            f"{topic}: {before.seq} to {after.event}"
            for topic, taken in self.taken.items()
            for before, after in pairwise(taken)
            if after.seq != before.seq + 1
        ]

    def unexplained(self) -> list[str]:
        """Return the jumps that no restart's entry explains to the position."""
        return [
            f"{topic}: {before.seq} to {after.event}"
            for topic, taken in self.taken.items()
            for before, after in pairwise(taken)
            if after.seq != before.seq + 1
            and not (
                after.is_restart
                and after.seq > before.seq
                and (after.event["from"], after.event["to"]) == (before.seq + 1, after.seq - 1)
            )
        ]

    def gaps(self, topic: str) -> list[Seen]:
        return [one for one in self.taken[topic] if one.event["type"] == "gap"]

    def epochs(self) -> set[int]:
        return {one.epoch for taken in self.taken.values() for one in taken}

    def _run(self) -> None:
        connection: Any = UnixDomainSocketConnection  # redis-py types it for no caller
        while not self._stop.is_set():
            once = Retry(NoBackoff(), 0)
            link = connection(path=self._path, socket_timeout=None, retry=once, protocol=2)
            client = Redis(unix_socket_path=self._path, socket_timeout=None, retry=once, protocol=2)
            try:
                self._follow(link, client)
            except (LinkLost, OSError):
                self._stop.wait(0.02)
            finally:
                link.disconnect()
                client.close()

    def _follow(self, link: Any, client: Any) -> None:
        """Subscribe, wait for the confirmation, read the streams, and go on live."""
        link.connect()
        link.send_command("SUBSCRIBE", *(f"feed:c:{{{topic}}}" for topic in self.taken))
        unconfirmed = len(self.taken)
        early: list[tuple[str, bytes]] = []
        while not self._stop.is_set():
            if not link.can_read(0.1):
                continue
            kind, channel, payload = link.read_response()
            if kind == b"message":
                topic = channel.decode().removeprefix("feed:c:{").removesuffix("}")
                early.append((topic, payload))
            else:
                unconfirmed -= 1
                if not unconfirmed:
                    self.links += 1
                    for topic in self.taken:
                        self._catch_up(topic, client)
            if not unconfirmed:
                for topic, payload in early:
                    self._hear(topic, read(payload), client)
                early.clear()

    def _hear(self, topic: str, one: Seen, client: Any) -> None:
        taken = self.taken[topic]
        if taken and one.seq > taken[-1].seq + 1 and one.epoch >= taken[-1].epoch:
            self._catch_up(topic, client)
        self._take(topic, one)

    def _catch_up(self, topic: str, client: Any) -> None:
        taken = self.taken[topic]
        after = f"({taken[-1].seq}" if taken else "-"
        for _, fields in client.xrange(f"feed:s:{{{topic}}}", after):
            self._take(topic, read(fields[b"p"]))

    def _take(self, topic: str, one: Seen) -> None:
        taken = self.taken[topic]
        assert one.event["topic"] == topic
        last = taken[-1] if taken else None
        if last is None or (one.epoch, one.seq) > (last.epoch, last.seq):
            taken.append(one)
        elif one.epoch < last.epoch and one.seq > last.seq:
            self.stale.append(one)


class Ingest:
    """A running ``feed ingest`` of the simulator."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def said(self) -> str:
        """Return its stderr."""
        return self._log.read_text()

    def stands_by(self) -> bool:
        """Whether it has found that another one publishes."""
        return "another process publishes it; standing by" in self.said()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, within_s: float = 20.0) -> int:
        """Return the exit code."""
        await until(lambda: self.process.poll() is not None, within_s)
        return int(self.process.returncode)


@contextmanager
def ingesting(bus: str, **settings: object) -> Iterator[Ingest]:
    """Run one, killed at the end if it still runs; what it said is shown when the test fails.

    Args:
        settings: ``FEED_*``, lower case.
    """
    settings = {
        "sim_rate": 200,
        "sim_symbols": len(SYMBOLS),
        "sim_kinds": ",".join(KINDS),
        "retention_state": 5_000,
        "bus": bus,
        **settings,
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")}
    env |= {f"FEED_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.NamedTemporaryFile("w+b", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "feed", "ingest", "--exchange", "sim"], env=env, stderr=log
        )
        ingest = Ingest(process, Path(log.name))
        try:
            yield ingest
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            sys.stderr.write(ingest.said())


@contextmanager
def bus_and_reader() -> Iterator[tuple[Restartable, Reader]]:
    """Start a server that may be killed and emptied, and a reader that was there from the start."""
    server = Restartable()
    try:
        with Reader(server.url) as reader:
            yield server, reader
    finally:
        server.close()


def stream(client: Any, topic: str, after: int = 0) -> list[Seen]:
    """Return what the stream holds above a position."""
    found = client.xrange(f"feed:s:{{{topic}}}", f"({after}")
    return [read(fields[b"p"]) for _, fields in found]


def lost_trades(taken: Sequence[Seen]) -> tuple[int, list[str]]:
    """Return how many trades the gaps declare, and what is wrong with the ids besides.

    The simulator numbers each symbol's trades: what is missing shows in the ids. A gap that does
    not say how many are lost may stand for any.
    """
    declared: int | None = 0
    total = 0
    last: int | None = None
    wrong = []
    for one in taken:
        if one.event["type"] == "gap":
            lost = one.event["lost"]
            declared = None if lost is None or declared is None else declared + lost
            total += lost or 0
            continue
        id = int(one.event["id"])
        if last is not None and declared is not None and id - last - 1 != declared:
            wrong.append(f"{declared} declared lost between {last} and {one.event}")
        declared, last = 0, id
    return total, wrong


def window(entries: Iterable[Seen]) -> dict[str, dict[str, str]]:
    """Return the levels of a book, by its entries alone."""
    levels: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}
    for one in entries:
        if one.event.get("snapshot"):
            levels = {"bids": {}, "asks": {}}
        for side, held in levels.items():
            for price, size in one.event.get(side, ()):
                if size == "0":
                    held.pop(price, None)
                else:
                    held[price] = size
    return levels
