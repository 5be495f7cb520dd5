"""A publisher stops, dies or leaves, and another goes on: real processes, a real bus."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from itertools import pairwise

import pytest
from redis import Redis

from tests.adapters.busreader import (
    TOPICS,
    TRADES,
    Reader,
    bus_and_reader,
    ingesting,
    lost_trades,
    stream,
)
from tests.web import until

pytestmark = pytest.mark.redis

#: What is promised, and a second for a machine that does other things too.
TAKEOVER_S = 5.0 + 1.0


def restarts(reader: Reader, topics: list[str], former: int) -> list[str]:
    """Return what is wrong with the first entry of each topic above the epoch ``former``."""
    wrong = []
    for topic in topics:
        taken = reader.taken[topic]
        at = next(i for i, one in enumerate(taken) if one.epoch > former)
        before, first = taken[at - 1], taken[at]
        unused = (before.seq + 1, first.seq - 1)
        if not first.is_restart or (first.event["from"], first.event["to"]) != unused:
            wrong.append(f"after {before.seq} came {first.event}")
        if unused[0] > unused[1]:
            wrong.append(f"{topic}: nothing unused after {before.seq}")
    return wrong


def all_have_moved(reader: Reader, topics: list[str], former: int) -> bool:
    return all(reader.taken[topic][-1].epoch > former for topic in topics)


async def test_a_standby_takes_over_from_a_frozen_leader_who_ends_when_it_wakes() -> None:
    with (
        bus_and_reader() as (server, reader),
        ingesting(server.url) as leader,
        Redis.from_url(server.url) as client,
    ):
        await reader.has_all()
        with ingesting(server.url) as standby:
            await until(standby.stands_by, 30)
            await reader.goes_on()
            (former,) = reader.epochs()

            leader.signal(signal.SIGSTOP)
            stopped = time.monotonic()
            await until(lambda: all_have_moved(reader, list(TOPICS), former), 20)
            first = {
                topic: next(one for one in taken if one.epoch > former)
                for topic, taken in reader.taken.items()
            }
            late = {
                t: one.at - stopped for t, one in first.items() if one.at - stopped > TAKEOVER_S
            }
            assert not late
            assert not restarts(reader, list(TOPICS), former)

            await asyncio.sleep(max(0.0, stopped + 10.0 - time.monotonic()))
            leader.signal(signal.SIGCONT)
            assert await leader.ended() == 1
            await reader.goes_on()
            assert standby.process.poll() is None

        assert not reader.stale, "nobody could take what the former leader still wrote"
        assert len(reader.epochs()) == 2 and not reader.unexplained()
        for topic in TRADES:
            assert not lost_trades(reader.taken[topic])[1], "what is called proven is true"
        for topic in TOPICS:
            kept = stream(client, topic)
            assert all(a.epoch <= b.epoch and a.seq < b.seq for a, b in pairwise(kept)), topic
        said = [line for line in leader.said().splitlines() if line.startswith("feed: ")]
        assert len(said) == 1 and "sim" in said[0], leader.said()
        assert re.search("another process|newer publisher", said[0])
        assert leader.said().splitlines()[-1] == said[0]
        assert "Traceback" not in leader.said()


async def test_a_killed_publisher_that_is_started_again_begins_with_what_is_unused() -> None:
    with bus_and_reader() as (server, reader):
        with ingesting(server.url) as killed:
            await reader.has_all()
            await reader.goes_on()
            killed.signal(signal.SIGKILL)
            await killed.ended()
        (former,) = reader.epochs()
        with ingesting(server.url) as again:
            await until(lambda: all_have_moved(reader, list(TOPICS), former), 30)
            await reader.goes_on()
            assert again.process.poll() is None
    assert not restarts(reader, list(TOPICS), former)
    assert not reader.unexplained() and len(reader.epochs()) == 2


async def test_one_that_is_asked_to_stop_gives_its_lease_back_so_the_next_need_not_wait() -> None:
    lease_s = 120  # who had to wait for its end would come too late for every deadline here
    with bus_and_reader() as (server, reader):
        with ingesting(server.url, lease_s=lease_s) as stopped:
            await reader.has_all()
            await reader.goes_on()
            stopped.signal(signal.SIGTERM)
            assert await stopped.ended() == 0
        (former,) = reader.epochs()
        with ingesting(server.url, lease_s=lease_s) as again:
            await until(lambda: all_have_moved(reader, list(TOPICS), former), 20)
            await reader.goes_on()
            assert again.process.poll() is None
    assert not restarts(reader, list(TOPICS), former)
    assert not reader.unexplained() and len(reader.epochs()) == 2
    for topic in TOPICS:
        if topic.startswith("status."):
            last = [one for one in reader.taken[topic] if one.epoch == former][-1]
            assert last.event["reason"] == "publisher_stopped", "the farewell is the last word"


async def test_an_emptied_bus_leaves_one_publisher_whoever_finds_its_lease_gone_first() -> None:
    with bus_and_reader() as (server, reader), ingesting(server.url) as leader:
        await reader.has_all()
        with ingesting(server.url) as standby:
            await until(standby.stands_by, 30)
            await reader.goes_on()
            before = reader.ends()
            server.kill()
            server.start()
            # For longer than a lease, so that whoever lost it has noticed.
            await reader.goes_on(entries=150)
            ended = [one for one in (leader, standby) if one.process.poll() is not None]
            assert [one.process.returncode for one in ended] in ([], [1])
            assert standby not in ended

    assert not reader.stale
    assert all(reader.ends()[topic] > seq for topic, seq in before.items())
    for topic, taken in reader.taken.items():
        for a, b in pairwise(taken):
            assert a.seq < b.seq
            assert b.seq == a.seq + 1 or b.epoch > a.epoch, f"{topic}: {a.seq} to {b.event}"
