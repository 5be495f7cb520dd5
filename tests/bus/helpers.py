"""Entries with little in them, and waiting without sleeping for luck."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from feed.bus.base import Entry, Head, Retention, pack_header, unpack_header
from feed.bus.embedded import EmbeddedServer
from feed.bus.redis import RedisBus
from feed.errors import BusError

TOPIC = "trade.kraken.BTC-USD"
BOOK = "book.kraken.BTC-USD"


def entry(topic: str, seq: int, epoch: int = 1, body: bytes = b"{}") -> Entry:
    return Entry(topic, seq, pack_header(epoch, seq) + body)


def entries(topic: str, seqs: Sequence[int], epoch: int = 1) -> list[Entry]:
    return [entry(topic, seq, epoch) for seq in seqs]


def seqs(payloads: Sequence[bytes]) -> list[int]:
    return [Head(*unpack_header(payload)).seq for payload in payloads]


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Return once ``condition`` holds; fail the test when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Restartable:
    """A server that can come back, emptied, at the address it had."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pf-"))
        self._link = self._folder / "s"
        self.url = f"unix://{self._link}"
        self.server = EmbeddedServer()
        self.start()

    def start(self) -> None:
        self.server.start()
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(self.server.url.removeprefix("unix://"))

    def kill(self) -> None:
        self.server.process.kill()
        self.server.stop()

    def close(self) -> None:
        self.server.stop()
        self._link.unlink()
        self._folder.rmdir()


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisBus]:
    bus = RedisBus(url, options.pop("retention", Retention()), **{"timeout_s": 10.0, **options})
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()


@contextmanager
def configured(client: Redis, **settings: str) -> Iterator[None]:
    """Change settings of the server, and put the former ones back."""
    former = {name: str(client.config_get(name)[name]) for name in settings}
    for name, value in settings.items():
        client.config_set(name, value)
    try:
        yield
    finally:
        for name, value in former.items():
            client.config_set(name, value)


@contextmanager
def frozen(server: Restartable) -> Iterator[None]:
    os.kill(server.server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.server.process.pid, signal.SIGCONT)


async def receives_again(bus: RedisBus, got: list[bytes], topic: str = TOPIC) -> None:
    """Return when ``got``, the topic's sink, has taken one more; publishing may take two tries."""
    before = len(got)
    for is_last in (False, True):
        try:
            await bus.publish([entry(topic, 1_000 + before)])
            break
        except BusError:  # the connection was lost and nobody has published since
            if is_last:
                raise
    await until(lambda: len(got) > before)
