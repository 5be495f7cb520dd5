"""The bus freezes, dies or comes back empty beside a running ingest process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from redis import Redis

from adapters.sim import CHECKPOINT_EVERY
from tests.adapters.busreader import (
    BOOKS,
    BUSY,
    QUIET,
    STATES,
    TOPICS,
    TRADES,
    Reader,
    bus_and_reader,
    ingesting,
    lost_trades,
    read,
    stream,
    window,
)
from tests.bus.helpers import Restartable, frozen
from tests.web import until

pytestmark = pytest.mark.redis


@contextmanager
def killed(server: Restartable) -> Any:
    """It comes back empty, at the same address."""
    server.kill()
    try:
        yield
    finally:
        server.start()


def health(reader: Reader) -> dict[str, Any]:
    """Return what each status topic says last, without when it said so."""
    told = {}
    for topic in QUIET:
        last = [one.event for one in reader.taken[topic] if one.event["type"] == "status"][-1]
        told[topic] = {name: last.get(name) for name in ("kinds", "state", "reason", "since")}
    return told


def has_values(reader: Reader) -> bool:
    return all(any(one.event["type"] != "gap" for one in reader.taken[topic]) for topic in STATES)


def book_of(client: Any, topic: str) -> tuple[int, dict[str, dict[str, str]]] | None:
    """Return the book as a newcomer makes it, and of which position; None if it cannot."""
    payload = client.get(f"feed:book:{{{topic}}}")
    if payload is None:
        return None
    start = read(payload)
    entries = stream(client, topic, start.seq)
    seqs = [one.seq for one in entries]
    if seqs != list(range(start.seq + 1, start.seq + 1 + len(seqs))):
        return None
    return (seqs or [start.seq])[-1], window([start, *entries])


async def made(client: Any, topic: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the book as a newcomer makes it, once it can."""
    await until(lambda: book_of(client, topic) is not None)
    found = book_of(client, topic)
    assert found is not None
    return found


@pytest.mark.parametrize("away_s", [0.0, 4.0], ids=["at-once", "longer-than-a-lease"])
async def test_a_bus_that_comes_back_empty_is_told_everything_and_positions_grow(
    away_s: float,
) -> None:
    # So slow that no book comes to its next usual checkpoint meanwhile.
    with bus_and_reader() as (server, reader), ingesting(server.url, sim_rate=80) as ingest:
        await reader.has_all()
        await reader.goes_on()
        before, told = reader.ends(), health(reader)

        with killed(server):
            await asyncio.sleep(away_s)
        await reader.goes_on()

        with Redis.from_url(server.url) as client:
            await until(lambda: client.sismember("feed:catalogs", "sim") == 1)
            catalogue = json.loads(client.get("feed:catalog:sim") or b"{}")
            carried = {t for one in catalogue["instruments"] for t in one["topics"]}
            assert carried | set(catalogue["topics"]) == set(TOPICS)

            with Reader(server.url) as newcomer:
                await until(lambda: has_values(newcomer))
                assert health(newcomer) == told
                for topic, seq in before.items():
                    assert newcomer.ends()[topic] >= seq, topic

            for topic in BOOKS:
                seq, levels = await made(client, topic)
                await reader.reaches(topic, seq)
                mine = [one for one in reader.taken[topic] if one.seq <= seq]
                assert levels == window(mine), topic
                assert len(mine) < CHECKPOINT_EVERY, "too slow a machine to tell"
        assert ingest.process.poll() is None
    assert reader.links >= 2
    assert not reader.unexplained() and not reader.stale
    for topic in TRADES:
        assert lost_trades(reader.taken[topic]) == (0, []), "all of it fits in the backlog"


async def test_nothing_is_lost_while_the_bus_is_frozen_for_some_seconds() -> None:
    with bus_and_reader() as (server, reader), ingesting(server.url) as ingest:
        await reader.has_all()
        await reader.goes_on()
        with frozen(server):
            await asyncio.sleep(6.0)
        await reader.goes_on()
        assert ingest.process.poll() is None
    assert not reader.jumps() and not reader.stale
    assert not any(reader.gaps(topic) for topic in TOPICS)
    assert len(reader.epochs()) == 1
    for topic in TRADES:
        assert lost_trades(reader.taken[topic]) == (0, [])


@pytest.mark.parametrize(
    ("away", "bounds", "loses_all"),
    [
        pytest.param(frozen, {"backlog_max_s": 1}, True, id="frozen-too-old"),
        pytest.param(killed, {"backlog_max_s": 1}, True, id="killed-too-old"),
        pytest.param(frozen, {"backlog_max_bytes": 65_536}, False, id="frozen-too-much"),
    ],
)
async def test_what_does_not_fit_is_declared_once_a_topic_where_it_is_missing(
    away: Callable[[Restartable], AbstractContextManager[None]],
    bounds: dict[str, int],
    loses_all: bool,
) -> None:
    with bus_and_reader() as (server, reader), ingesting(server.url, **bounds) as ingest:
        await reader.has_all()
        await reader.goes_on()
        with away(server):
            await asyncio.sleep(6.0)
        await reader.goes_on()
        assert ingest.process.poll() is None

    assert not reader.unexplained() and not reader.stale
    if away is frozen:
        assert not reader.jumps() and len(reader.epochs()) == 1
    gaps = {
        topic: [one for one in reader.gaps(topic) if not one.is_restart] for topic in reader.taken
    }
    assert all(len(found) <= 1 for found in gaps.values()), gaps
    losers = {topic for topic, found in gaps.items() if found}
    assert losers == set(BUSY) if loses_all else losers
    assert not losers & set(QUIET), "health is never given up"
    for topic in losers:
        (gap,) = gaps[topic]
        assert gap.event["cause"] == "upstream_disconnect" and gap.event["lost"] > 0, gap
    for topic in TRADES:
        lost, wrong = lost_trades(reader.taken[topic])
        assert not wrong
        assert (lost > 0) == (topic in losers)
    for topic in losers & set(BOOKS):
        (gap,) = gaps[topic]
        after = next(one for one in reader.taken[topic] if one.seq == gap.seq + 1)
        assert after.event.get("snapshot") is True, "a book starts afresh after a hole"
