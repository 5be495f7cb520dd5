"""The bus dies and comes back empty under a running publisher: what clients of the web are told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest

from feed.bus.base import Retention
from feed.bus.redis import RedisBus
from tests.adapters.busreader import BUSY, ingesting
from tests.bus.helpers import Restartable
from tests.web import Client, Web, running, until

pytestmark = pytest.mark.redis

RETENTION = Retention(state=5_000)


@asynccontextmanager
async def web_on(server: Restartable) -> AsyncIterator[Web]:
    """Serve from a bus on which the simulator's catalogue is, or is soon."""
    bus = RedisBus(server.url, RETENTION)
    async with running(bus, retention_state=RETENTION.state) as web:
        await until(lambda: "sim" in web.gateway.relay.index.catalogues)
        yield web


def positions(client: Client, topic: str) -> list[int]:
    return [one["seq"] for one in client.ledger.of(topic) if one["seq"] is not None]


async def advance(client: Client, entries: int = 20) -> None:
    """Read until each topic has had so many entries more."""
    before = {topic: len(positions(client, topic)) for topic in BUSY}
    ahead = dict.fromkeys(BUSY, entries)

    def counts(one: dict[str, Any]) -> bool:
        topic = one.get("topic")
        if topic in ahead and one["seq"] is not None:
            ahead[topic] -= 1
        return all(left <= 0 for left in ahead.values())

    await client.read(counts)
    assert all(len(positions(client, t)) >= n + entries for t, n in before.items())


async def resumed(web: Web, since: dict[str, int], was_given: bool = True) -> dict[str, bool]:
    """Come back with these positions; return which topics are said to miss nothing.

    Whoever is told so must then get every position from there on; the others are told which they
    do not get. The ledger sees to both.

    Args:
        was_given: False where nobody ever had such positions: then they may be followed by less.
    """
    async with web.client() as client:
        client.ledger.at.update(since if was_given else dict.fromkeys(since))
        await client.say(
            op="subscribe", id=1, topics=list(since), since=since, mode="all", status=False
        )
        answer = await client.type("subscribed", "error")
        assert answer["type"] == "subscribed", answer
        told = {one["topic"]: one["recovered"] for one in answer["results"]}
        newest = {one["topic"]: one["seq"] for one in answer["results"]}
        await client.type("synced")
        await advance(client)
        for topic, is_whole in told.items():
            of = client.ledger.of(topic)
            if is_whole:
                got = [one["seq"] for one in of if one["type"] != "snapshot"]
                # A restart's entry stands for the unused positions before it.
                assert got[0] == since[topic] + 1 or _explains(of[0], since[topic]), of[0]
                assert not [one for one in of if one["type"] == "gap" and one["seq"] is None], topic
                assert got[-1] > newest[topic]
            else:
                assert (of[0]["type"], of[0]["cause"]) == ("gap", "resume_too_old"), of[0]
                assert of[0]["from"] == min(since[topic] + 1, of[0]["to"]), of[0]
        return told


def _explains(one: dict[str, Any], since: int) -> bool:
    return one.get("cause") == "publisher_restart" and one["from"] == since + 1


#: The server, the web process, its client, and the positions it had of each topic before.
Restarted: TypeAlias = tuple[Restartable, Web, Client, dict[str, list[int]]]


@pytest.fixture
async def restarted() -> AsyncIterator[Restarted]:
    """Let a web process and a client of it see the bus die and come back empty."""
    server = Restartable()
    try:
        with ingesting(server.url) as ingest:
            async with web_on(server) as web, web.client() as client:
                answer = await client.subscribe(*BUSY, all=BUSY, mode="all")
                assert all(one["ok"] for one in answer["results"]), answer
                await advance(client)
                server.kill()
                await client.read(lambda one: one["type"] == "health" and one["bus"] == "stale")
                before = {topic: positions(client, topic) for topic in BUSY}
                await asyncio.sleep(1.0)  # what comes meanwhile waits in the publisher
                server.start()
                await client.read(lambda one: one["type"] == "health" and one["bus"] == "live")
                await advance(client)
                yield server, web, client, before
                assert ingest.process.poll() is None
    finally:
        server.close()


async def test_who_is_connected_is_told_of_the_outage_and_gets_every_position(
    restarted: Restarted,
) -> None:
    _, _, client, before = restarted
    for topic in BUSY:
        seqs = positions(client, topic)
        assert seqs == sorted(set(seqs)) and seqs[-1] > before[topic][-1]
    told = [one["bus"] for one in client.seen if one["type"] == "health"]
    assert told == ["stale", "live"]
    assert not client.ledger.lost, "the publisher kept what came while the bus was away"


async def test_a_web_process_that_saw_the_outage_keeps_its_word_to_who_comes_back(
    restarted: Restarted,
) -> None:
    _, web, client, before = restarted
    for since in (
        {topic: seqs[5] for topic, seqs in before.items()},
        {topic: seqs[-1] for topic, seqs in before.items()},
        {topic: positions(client, topic)[-5] for topic in BUSY},
    ):
        await resumed(web, since)


async def test_a_fresh_web_process_never_claims_what_the_emptied_bus_cannot_give(
    restarted: Restarted,
) -> None:
    server, _, client, before = restarted
    async with web_on(server) as fresh:
        gone = {topic: seqs[5] for topic, seqs in before.items()}
        assert set((await resumed(fresh, gone)).values()) == {False}

        # The stream may begin just after these, or lack one: either answer may be right.
        await resumed(fresh, {topic: seqs[-1] for topic, seqs in before.items()})

        ahead = {topic: positions(client, topic)[-1] + (1 << 40) for topic in BUSY}
        assert set((await resumed(fresh, ahead, was_given=False)).values()) == {False}

        kept = {topic: positions(client, topic)[-5] for topic in BUSY}
        assert set((await resumed(fresh, kept)).values()) == {True}


async def test_what_a_standby_on_an_emptied_bus_cannot_know_is_declared() -> None:
    """The leader is frozen while the bus restarts, so nobody tells what it had published."""
    server = Restartable()
    try:
        with ingesting(server.url) as leader, ingesting(server.url) as other:
            await until(lambda: leader.stands_by() or other.stands_by(), 30)
            if leader.stands_by():
                leader, other = other, leader
            async with web_on(server) as web, web.client() as client:
                await client.subscribe(*BUSY, all=BUSY, mode="all")
                await advance(client)
                leader.signal(signal.SIGSTOP)
                server.kill()
                await client.read(lambda one: one["type"] == "health" and one["bus"] == "stale")
                server.start()
                await client.read(lambda one: one["type"] == "health" and one["bus"] == "live")
                await advance(client)
                for topic in BUSY:
                    of = client.ledger.of(topic)
                    (gap,) = [one for one in of if one["type"] == "gap" and one["seq"] is None]
                    after = of[of.index(gap) + 1]
                    assert gap["cause"] == "bus_loss" and gap["to"] > gap["from"]
                    if topic.startswith("book."):
                        assert after["type"] == "snapshot" or after.get("snapshot") is True, after
    finally:
        server.close()
