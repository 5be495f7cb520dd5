"""What breaks between us and the server, for real: it is told, repaired, and nothing hangs.

Rounds are ten times shorter than in production here, except where the times are the point.
"""

import asyncio
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from feed.bus.base import Entry, LinkDown, LinkUp, Notice
from feed.bus.embedded import EmbeddedServer
from feed.bus.redis import RedisBus
from feed.errors import BusError
from tests.bus.helpers import (
    BOOK,
    TOPIC,
    Restartable,
    configured,
    entries,
    entry,
    frozen,
    opened,
    receives_again,
    seqs,
    until,
)
from tests.fault_proxy import FaultProxy

pytestmark = pytest.mark.redis

#: More than the rounds that condemn a link.
_FEW_ROUNDS_S = 0.6


class Listener:
    """A bus with two topics subscribed, and what it was told."""

    def __init__(self, bus: RedisBus) -> None:
        self.bus = bus
        self.told: list[Notice] = []
        self.got: list[bytes] = []
        self.other: list[bytes] = []

    async def start(self) -> None:
        self.bus.watch(self.told.append)
        await self.bus.subscribe(TOPIC, self.got.append)
        await self.bus.subscribe(BOOK, self.other.append)

    async def hears_down(self, timeout_s: float = 20.0) -> str:
        """Return the reason of the ``LinkDown`` that must come, and of nothing else."""
        await until(lambda: bool(self.told), timeout_s)
        (down,) = self.told
        assert isinstance(down, LinkDown)
        return down.reason

    async def hears_up(self, timeout_s: float = 20.0) -> None:
        """Return when the link is back, told once, with everything that was subscribed."""
        await until(lambda: LinkUp() in self.told, timeout_s)
        assert [type(notice) for notice in self.told] == [LinkDown, LinkUp]
        self.told.clear()
        await receives_again(self.bus, self.got)
        await receives_again(self.bus, self.other, BOOK)


@asynccontextmanager
async def listening(url: str, **options: Any) -> AsyncIterator[Listener]:
    options = {"round_s": 0.1, "timeout_s": 1.0, **options}
    async with opened(url, **options) as bus:
        listener = Listener(bus)
        await listener.start()
        yield listener


class Switch:
    """One address that leads to either of two servers, as a name service's does.

    Connections stay with the server that they were made to.
    """

    def __init__(self, folder: Path) -> None:
        self._link = folder / "bus"
        self.url = f"unix://{self._link}"
        self.servers = [EmbeddedServer(), EmbeddedServer()]
        self.raw: list[Any] = []

    def start(self) -> None:
        for server in self.servers:
            server.start()
            self.raw.append(Redis.from_url(server.url))
        self.lead_to(0)

    def lead_to(self, number: int) -> None:
        target = self.servers[number].url.removeprefix("unix://")
        fresh = self._link.with_name("fresh")
        fresh.symlink_to(target)
        fresh.replace(self._link)

    def stop(self) -> None:
        for client in self.raw:
            client.close()
        for server in self.servers:
            server.stop()


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    switch = Switch(tmp_path)
    try:
        switch.start()
        yield switch
    finally:
        switch.stop()


@pytest.fixture
def raw(own_server: Restartable) -> Iterator[Any]:
    with Redis.from_url(own_server.url) as client:
        yield client


@pytest.fixture
async def proxy(own_server: Restartable, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    path = own_server.url.removeprefix("unix://")
    async with FaultProxy(path, tmp_path / "proxy") as proxy:
        yield proxy


def through(proxy: FaultProxy) -> str:
    return f"unix://{proxy.address}"


async def test_a_frozen_server_is_replaced_within_five_seconds_as_we_are_shipped(
    switch: Switch,
) -> None:
    clock = asyncio.get_running_loop().time
    async with listening(switch.url, round_s=1.0, timeout_s=2.0) as listener:
        process = switch.servers[0].process
        os.kill(process.pid, signal.SIGSTOP)
        begin = clock()
        try:
            switch.lead_to(1)
            # Whichever is seen first: its silence, or that new connections lead elsewhere.
            await listener.hears_down()
            noticed = clock() - begin
            await listener.hears_up()
            replaced = clock() - begin
        finally:
            os.kill(process.pid, signal.SIGCONT)
    assert noticed < 5 and replaced < 6  # 3 to 4 s; the rest is for a busy machine


async def test_a_frozen_server_is_noticed_within_five_seconds_as_we_are_shipped(
    own_server: Restartable,
) -> None:
    clock = asyncio.get_running_loop().time
    async with listening(own_server.url, round_s=1.0, timeout_s=2.0) as listener:
        with frozen(own_server):
            begin = clock()
            assert await listener.hears_down() == "no sign of life for 3 PINGs"
            assert clock() - begin < 5
        await listener.hears_up()


async def test_a_black_hole_is_noticed_and_what_it_held_ends_with_it(proxy: FaultProxy) -> None:
    async with listening(through(proxy)) as listener:
        proxy.blackhole()
        assert "no sign of life" in await listener.hears_down()
        with pytest.raises(BusError):
            await listener.bus.history(TOPIC, 0)
        proxy.release()
        await listener.hears_up()


async def test_a_link_that_is_silent_in_one_direction_only_is_noticed(proxy: FaultProxy) -> None:
    async with listening(through(proxy)) as listener:
        for direction in (proxy.up, proxy.down):
            direction.hold()
            assert "no sign of life" in await listener.hears_down()
            direction.release()
            await listener.hears_up()


async def test_reset_connections_are_made_anew(proxy: FaultProxy) -> None:
    async with listening(through(proxy)) as listener:
        for _ in range(3):
            proxy.reset()
            await listener.hears_up()


async def test_a_far_and_slow_server_is_no_lost_one(proxy: FaultProxy) -> None:
    proxy.latency(0.08)  # a PONG takes longer than a round
    async with listening(through(proxy), rounds=6, timeout_s=10.0) as listener:
        before = proxy.accepted
        await until(lambda: proxy.accepted > before + 4)  # probes
        assert listener.told == []


async def test_a_probe_behind_megabytes_is_no_lost_one(
    proxy: FaultProxy, own_server: Restartable
) -> None:
    """The reader gets 4 MB at 2 MB/s: no probe comes back for many times the rounds it takes."""
    async with listening(through(proxy)) as listener, opened(own_server.url) as publisher:
        proxy.down.bytes_s = 2_000_000
        body = bytes(20_000)
        await publisher.publish([entry(TOPIC, seq, body=body) for seq in range(1, 201)])
        await until(lambda: len(listener.got) == 200)
        assert listener.told == []


async def test_a_loop_that_is_busy_for_longer_than_the_rounds_blames_nobody(
    own_server: Restartable,
) -> None:
    async with listening(own_server.url, round_s=0.02) as listener:
        for _ in range(8):
            # Nothing else runs for five rounds, three of which condemn.
            time.sleep(0.1)  # noqa: ASYNC251
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        await receives_again(listener.bus, listener.got)
        assert listener.told == []


async def test_a_lost_way_for_probes_costs_no_link_that_delivers(
    proxy: FaultProxy, own_server: Restartable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "feed.bus.reader")

    def logged(text: str) -> int:
        return sum(text in record.message for record in caplog.records)

    async with listening(through(proxy)) as listener, opened(own_server.url) as publisher:
        await proxy.refuse()
        await until(lambda: logged("cannot be probed") == 1)
        await asyncio.sleep(_FEW_ROUNDS_S)
        await publisher.publish([entry(TOPIC, 1)])
        await until(lambda: seqs(listener.got) == [1])
        await proxy.accept()
        await until(lambda: logged("is probed again") == 1)
        assert listener.told == [] and logged("cannot be probed") == 1


async def test_a_paused_server_is_down_until_it_goes_on(raw: Any, own_server: Restartable) -> None:
    async with listening(own_server.url) as listener:
        raw.execute_command("CLIENT", "PAUSE", 1_500, "ALL")
        assert "no sign of life" in await listener.hears_down()
        await listener.hears_up()


async def test_a_server_that_pauses_writes_keeps_its_readers(
    raw: Any, own_server: Restartable
) -> None:
    """PUBLISH waits as well, so there is nothing to miss; commands that read are answered."""
    async with listening(own_server.url, timeout_s=0.2) as listener:
        raw.execute_command("CLIENT", "PAUSE", 1_000, "WRITE")
        await asyncio.sleep(_FEW_ROUNDS_S)
        assert await listener.bus.history(TOPIC, 0) == []
        raw.execute_command("CLIENT", "UNPAUSE")
        await receives_again(listener.bus, listener.got)
        assert listener.told == []


async def test_a_full_server_loses_no_link(raw: Any, own_server: Restartable) -> None:
    async with listening(own_server.url) as listener:
        with configured(raw, maxmemory="1", **{"maxmemory-policy": "noeviction"}):
            with pytest.raises(BusError, match="OOM"):
                await listener.bus.publish([entry(TOPIC, 1)])
            await asyncio.sleep(_FEW_ROUNDS_S)
        await listener.bus.publish([entry(TOPIC, 1)])
        await until(lambda: seqs(listener.got) == [1])
        assert listener.told == []


async def test_with_no_connection_left_a_link_stays_and_a_lost_one_is_told_why(
    raw: Any, own_server: Restartable
) -> None:
    async with listening(own_server.url) as listener:
        with configured(raw, maxclients="1"):
            await asyncio.sleep(_FEW_ROUNDS_S)
            raw.publish(f"feed:c:{{{TOPIC}}}", entry(TOPIC, 1).payload)
            await until(lambda: seqs(listener.got) == [1])
            assert listener.told == []
            raw.client_kill_filter(_type="pubsub")
            await listener.hears_down()
            # Named if the refusal arrives before our greeting meets the closed socket.
            with pytest.raises(BusError, match=r"max number of clients|connection lost|closed"):
                await listener.bus.subscribe("trade.x.Y", listener.got.append)
        await listener.hears_up()


async def test_a_forbidden_probe_keeps_the_link_and_lets_no_new_one_count(
    raw: Any, own_server: Restartable
) -> None:
    rules = ["reset", "on", ">pw", "~feed:*", "&feed:*", "&feed:beat:*", "+@all"]
    raw.execute_command("ACL", "SETUSER", "web", *rules)
    path = own_server.url.removeprefix("unix://")
    async with listening(f"unix://web:pw@{path}") as listener:
        raw.execute_command("ACL", "SETUSER", "web", "-publish")
        await asyncio.sleep(_FEW_ROUNDS_S)
        raw.publish(f"feed:c:{{{TOPIC}}}", entry(TOPIC, 1).payload)
        await until(lambda: seqs(listener.got) == [1])
        assert listener.told == []
        raw.client_kill_filter(_type="pubsub")
        await listener.hears_down()
        with pytest.raises(BusError, match=r"delivery is not proven: .*NOPERM"):
            await listener.bus.subscribe("trade.x.Y", listener.got.append)
        raw.execute_command("ACL", "SETUSER", "web", "+publish")
        await listener.hears_up()


async def test_a_password_that_was_changed_is_named(raw: Any, own_server: Restartable) -> None:
    raw.execute_command("ACL", "SETUSER", "web", "on", ">pw", "~*", "&*", "+@all")
    path = own_server.url.removeprefix("unix://")
    async with listening(f"unix://web:pw@{path}") as listener:
        raw.execute_command("ACL", "SETUSER", "web", "resetpass", ">new")
        raw.client_kill_filter(_type="pubsub")
        await listener.hears_down()
        with pytest.raises(BusError, match="invalid username-password"):
            await listener.bus.subscribe("trade.x.Y", listener.got.append)
        raw.execute_command("ACL", "SETUSER", "web", "resetpass", ">pw")
        await listener.hears_up()


async def test_a_master_that_nobody_is_led_to_any_more_is_left_though_it_answers(
    switch: Switch,
) -> None:
    async with listening(switch.url) as listener:
        await listener.bus.publish(entries(TOPIC, [1, 2]))
        switch.lead_to(1)
        assert await listener.hears_down() == "another server takes what is published now"
        await until(lambda: LinkUp() in listener.told)
        assert await listener.bus.history(TOPIC, 0) == []  # commands have moved as well
        assert switch.raw[0].ping()


async def test_it_is_left_as_well_where_somebody_else_listens_to_everything(
    switch: Switch,
) -> None:
    """His being counted as a receiver is no proof that we are one."""
    with switch.raw[1].pubsub() as snoop:
        snoop.psubscribe("*")
        async with listening(switch.url) as listener:
            switch.lead_to(1)
            assert await listener.hears_down() == "what is published does not come back"
            await until(lambda: LinkUp() in listener.told)


async def test_a_demoted_master_is_left_for_the_one_at_its_address(switch: Switch) -> None:
    async with listening(switch.url) as listener:
        switch.raw[0].replicaof("127.0.0.1", "1")
        switch.lead_to(1)
        assert await listener.hears_down() in (
            "the server is a replica",
            "another server takes what is published now",
        )
        await listener.hears_up()


async def test_a_replica_is_no_bus_until_it_is_a_master_again(
    raw: Any, own_server: Restartable
) -> None:
    async with listening(own_server.url) as listener:
        raw.replicaof("127.0.0.1", "1")
        assert await listener.hears_down() == "the server is a replica"
        with pytest.raises(BusError, match="delivery is not proven: the server is a replica"):
            await listener.bus.subscribe("trade.x.Y", listener.got.append)
        raw.replicaof("NO", "ONE")
        await listener.hears_up()


async def test_a_server_that_stays_away_is_asked_for_at_leisure(
    proxy: FaultProxy, own_server: Restartable
) -> None:
    async with listening(through(proxy)) as listener:
        own_server.kill()
        await listener.hears_down()
        before = proxy.accepted
        await asyncio.sleep(1.0)
        assert proxy.accepted - before < 40
        own_server.start()
        await listener.hears_up()


READER = """
import asyncio, sys
from feed.bus.base import Retention
from feed.bus.redis import RedisBus

async def main(url):
    bus = RedisBus(url, Retention(), round_s=0.1)
    await bus.start()
    bus.watch(lambda notice: print(type(notice).__name__, flush=True))
    await bus.subscribe("trade.kraken.BTC-USD", lambda payload: print(payload[15], flush=True))
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""


class Process:
    """A reader in a process of its own, which can be stopped."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, url], stdout=subprocess.PIPE, bufsize=0
        )
        assert self.line() == "ready"

    def line(self, timeout_s: float = 20.0) -> str | None:
        """Return the next line; None if there is none in time."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            return None
        return self._process.stdout.readline().decode().strip()

    def stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def process(own_server: Restartable) -> Iterator[Process]:
    process = Process(own_server.url)
    yield process
    process.close()


def post(raw: Any, one: Entry) -> None:
    raw.publish(f"feed:c:{{{TOPIC}}}", one.payload)


def test_a_process_that_was_stopped_does_not_blame_the_server(raw: Any, process: Process) -> None:
    process.stop()
    with pytest.raises(subprocess.TimeoutExpired):  # for ten rounds, three of which condemn
        process._process.wait(1.0)
    process.go_on()
    post(raw, entry(TOPIC, 7))
    assert process.line() == "7"
    assert process.line(_FEW_ROUNDS_S) is None


def test_a_stopped_process_whose_messages_overflowed_says_so(raw: Any, process: Process) -> None:
    with configured(raw, **{"client-output-buffer-limit": "pubsub 64kb 32kb 5"}):
        process.stop()
        for seq in range(1, 601):  # of Valkey 9's small ones: only those are counted
            post(raw, entry(TOPIC, seq % 256, body=b"x" * 8_000))
        assert raw.client_list(_type="pubsub") == []
        process.go_on()
        lines = []
        while (line := process.line()) != "LinkUp":
            lines.append(line)
        assert lines[-1] == "LinkDown" and len(lines) < 600
    post(raw, entry(TOPIC, 9))
    assert process.line() == "9"
