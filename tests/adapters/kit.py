"""What tests of the ingest side share: a bus that remembers, a sink, waiting with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from feed.bus.base import Entry, Retention
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.errors import BusError
from feed.models import Book, Event

DEADLINE_S = 30.0
decode = msgspec.json.decode


async def eventually(claim: Callable[[], bool]) -> None:
    """Return once the claim holds; fail after a generous while."""
    async with asyncio.timeout(DEADLINE_S):
        while not claim():  # noqa: ASYNC110 - claims are about anything, not about one event
            await asyncio.sleep(0.005)


class RecordingBus(MemoryBus):
    """A memory bus that keeps every batch, and can be away.

    Attributes:
        batches: As given to ``publish``, those refused too.
        is_away: Everything raises ``BusError``.
        gate: Publishing waits until it is set.
    """

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        super().__init__(broker or MemoryBroker(), Retention(trade=1 << 20, book=1 << 20))
        self.batches: list[list[Entry]] = []
        self.checkpoints: list[Entry] = []
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, batch: Sequence[Entry], checkpoints: Sequence[Entry] = ()) -> None:
        self.batches.append(list(batch))
        await self.gate.wait()
        self._here()
        self.checkpoints.extend(checkpoints)
        await super().publish(batch, checkpoints)

    async def renew(self, exchange: str, owner: str, ttl_s: float) -> bool:
        self._here()
        return await super().renew(exchange, owner, ttl_s)

    async def beat(self, exchange: str) -> None:
        self._here()
        await super().beat(exchange)

    def _here(self) -> None:
        if self.is_away:
            raise BusError("away")

    def events(self, topic: str = "") -> list[dict[str, Any]]:
        """Return what was published, of one topic or of all, each entry once."""
        seen: dict[tuple[str, int], dict[str, Any]] = {}
        for batch in self.batches:
            for entry in batch:
                if entry.topic.startswith(topic):
                    seen.setdefault((entry.topic, entry.seq), decode(entry.payload[16:]))
        return list(seen.values())


@asynccontextmanager
async def recording_bus(broker: MemoryBroker | None = None) -> AsyncIterator[RecordingBus]:
    bus = RecordingBus(broker)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()


class ListSink:
    """Keeps what is put; implements ``Sink``."""

    def __init__(self) -> None:
        self.is_full = False
        self.room = asyncio.Event()
        self.events: list[Event] = []
        self.books: list[Book] = []

    def put(self, event: Event, now: int) -> None:
        self.events.append(event)

    def checkpoint(self, book: Book, now: int) -> None:
        self.books.append(book)

    async def drain(self) -> None:
        await self.room.wait()
        self.is_full = False

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]
