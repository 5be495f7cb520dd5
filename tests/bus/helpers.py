"""Entries with little in them, and waiting without sleeping for luck."""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from feed.bus.base import Entry, Head, pack_header, unpack_header
from feed.bus.embedded import EmbeddedServer


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
