"""The same tape gives the same bytes at ``Bus.publish`` at any speed, topic by topic."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from pathlib import Path

import pytest

from adapters.ingest import run_ingest
from adapters.playback import bundled
from adapters.registry import REGISTRY
from feed.config import Settings
from tests.adapters.kit import recording_bus
from tests.adapters.recordings import folder, retired

_TIMES = re.compile(rb'"(recv|pub)":\d+')
_SEQ = re.compile(rb'"seq":(\d+)')


def recorded() -> list[Path]:
    """Return the recorded sessions of every exchange, each once."""
    found = {
        path: None
        for name in REGISTRY
        for path in sorted(folder(name).glob("session_*.gz"))
        if retired(path) is None
    }
    return list(found)


def sessions() -> list[Path]:
    """Return whole sessions: about a minute at most."""
    few = ("binance-spot", "binance-usdm", "kraken-v2", "coinbase-exchange", "bybit")
    short = [path for path in bundled() if "20240808" not in path.name]
    return short + [path for path in recorded() if path.parent.name in few]


async def published(path: Path, speed: str) -> dict[str, list[bytes]]:
    """Play a tape; return what was published, but for ``recv``, ``pub`` and the first seq."""
    found: dict[str, list[bytes]] = defaultdict(list)
    first: dict[str, int] = {}
    async with recording_bus() as bus:
        name = path.parent.name
        await run_ingest(
            Settings(),
            bus,
            source="tape",
            tapes=[path],
            exchange=name if name in REGISTRY else None,
            speed=speed,
        )
        for batch in bus.batches:
            for entry in batch:
                start = first.setdefault(entry.topic, entry.seq)
                if not entry.topic.startswith("status."):
                    found[entry.topic].append(_plain(entry.payload[16:], start))
    return found


def _plain(payload: bytes, start: int) -> bytes:
    payload = _TIMES.sub(rb'"\1":0', payload)
    return _SEQ.sub(lambda match: b'"seq":%d' % (int(match[1]) - start), payload, count=1)


@pytest.mark.parametrize(
    "path", [*bundled(), *recorded()], ids=lambda path: f"{path.parent.name}-{path.name}"
)
async def test_twenty_times_as_fast_and_as_fast_as_taken_are_the_same(path: Path) -> None:
    slow, fast = await asyncio.gather(published(path, "20"), published(path, "max"))
    assert slow.keys() == fast.keys()
    for topic, payloads in slow.items():
        assert payloads == fast[topic], topic
    assert sum(map(len, fast.values())) > 50


async def test_as_recorded_and_as_fast_as_taken_are_the_same() -> None:
    paths = sessions()
    slow = asyncio.gather(*(published(path, "1") for path in paths))
    fast = [await published(path, "max") for path in paths]
    for path, one, other in zip(paths, await slow, fast, strict=True):
        assert one.keys() == other.keys()
        for topic, payloads in one.items():
            assert payloads == other[topic], f"{path.name} {topic}"
