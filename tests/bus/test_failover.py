"""Sentinels: real ones of the same binary, a master, its replica, and what happens to a feed."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from feed.bus.base import LinkUp, Retention
from feed.bus.embedded import find_server
from feed.bus.redis import RedisBus
from feed.errors import BusError
from tests.bus.helpers import TOPIC, entries, entry, opened, seqs, until
from tests.bus.test_faults import listening

pytestmark = pytest.mark.redis


class Sentinels:
    """One sentinel that watches a master with one replica, each on a port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clients: list[Any] = []
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.servers: list[int] = []
        self.sentinel = 0

    def start(self) -> None:
        master = self._launch()
        replica = self._launch("--replicaof", "127.0.0.1", str(master))
        self.servers = [master, replica]
        config = self._folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor prices 127.0.0.1 {master} 1\n"
            "sentinel down-after-milliseconds prices 300\n"
            "sentinel failover-timeout prices 5000\n"
        )
        self.sentinel = self._launch(str(config), "--sentinel")

    def raw(self, port: int) -> Any:
        client = Redis(port=port)
        self._clients.append(client)
        return client

    def knows_replica(self) -> bool:
        """Whether the sentinel could fail over."""
        sentinel = self.raw(self.sentinel)
        (master,) = sentinel.sentinel_masters().values()
        (replica, *_) = sentinel.sentinel_slaves("prices") or [None]
        return bool(
            replica
            and master["num-slaves"] == 1
            and not replica["is_disconnected"]
            and replica["master-link-status"] == "ok"
        )

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _launch(self, *arguments: str) -> int:
        """Start on a port of the kernel's choice; bound before, so try again when it is taken."""
        for _ in range(5):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            process = subprocess.Popen(
                [find_server(), *arguments, "--port", str(port), "--bind", "127.0.0.1",
                 "--dir", str(self._folder), "--save", "", "--repl-diskless-sync-delay", "0"]
                if "--sentinel" not in arguments
                else [find_server(), *arguments, "--port", str(port), "--bind", "127.0.0.1"],
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                except OSError:
                    continue
                self.processes[port] = process
                return port
        pytest.fail("a server did not start")


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    sentinels = Sentinels(tmp_path)
    try:
        sentinels.start()
        yield sentinels
    finally:
        sentinels.stop()


def url(sentinels: Sentinels, service: str = "prices") -> str:
    # The first has nobody at home.
    return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinels.sentinel}/{service}"


async def test_sentinels_tell_where_the_server_is(sentinels: Sentinels) -> None:
    got: list[bytes] = []
    async with opened(url(sentinels)) as bus:
        await bus.subscribe(TOPIC, got.append)
        await bus.publish(entries(TOPIC, [1, 2]))
        assert seqs(await bus.history(TOPIC, 0)) == [1, 2]
        await until(lambda: len(got) == 2)
    with pytest.raises(BusError, match="nobody"):
        await RedisBus(url(sentinels, "nobody"), Retention()).start()


async def test_after_a_failover_everybody_meets_at_the_new_master(sentinels: Sentinels) -> None:
    await until(sentinels.knows_replica)
    master, replica = sentinels.servers
    async with listening(url(sentinels)) as listener, opened(url(sentinels)) as publisher:
        await publisher.publish([entry(TOPIC, 1)])
        os.kill(sentinels.processes[master].pid, signal.SIGSTOP)
        await listener.hears_down()
        await listener.hears_up()
        assert sentinels.raw(replica).role()[0] == b"master"
        async with asyncio.timeout(20):
            while True:
                try:
                    await publisher.publish([entry(TOPIC, 5_000)])
                    break
                except BusError:
                    continue
        await until(lambda: seqs(listener.got)[-1] == 5_000)
        assert seqs(await listener.bus.history(TOPIC, 4_999)) == [5_000]
        # The former one comes back as it was: a master, until a sentinel has told it.
        os.kill(sentinels.processes[master].pid, signal.SIGCONT)
        await publisher.publish([entry(TOPIC, 5_001)])
        await until(lambda: seqs(listener.got)[-1] == 5_001)
        assert listener.told == []


async def test_a_former_master_that_still_answers_is_left_by_readers_publishers_and_commands(
    sentinels: Sentinels,
) -> None:
    """As when the sentinels are cut off from it and we are not."""
    former, new = sentinels.servers
    sentinels.raw(new).replicaof("NO", "ONE")
    async with (
        listening(url(sentinels)) as listener,
        opened(url(sentinels), round_s=0.1) as publisher,
    ):
        await publisher.publish([entry(TOPIC, 1)])
        await until(lambda: seqs(listener.got) == [1])
        sentinel = sentinels.raw(sentinels.sentinel)
        sentinel.sentinel_remove("prices")
        sentinel.sentinel_monitor("prices", "127.0.0.1", new, 1)
        assert await listener.hears_down() == "another server takes what is published now"
        await until(lambda: LinkUp() in listener.told)
        arrived = sentinels.raw(new)

        async def publishes_there() -> None:
            seq = 1
            while not arrived.exists(f"feed:s:{{{TOPIC}}}"):
                seq += 1
                try:
                    await publisher.publish([entry(TOPIC, seq)])
                except BusError:
                    continue

        await asyncio.wait_for(publishes_there(), 20)
        await until(lambda: seqs(listener.got)[-1] > 1)
        assert seqs(await listener.bus.history(TOPIC, 0))[0] > 1  # 1 is with the former one
        assert sentinels.raw(former).role()[0] == b"master"


async def test_without_sentinels_what_is_connected_stays_so(
    sentinels: Sentinels, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(url(sentinels)) as listener:
        await listener.bus.publish([entry(TOPIC, 1)])
        await listener.bus.history(TOPIC, 0)
        sentinels.processes[sentinels.sentinel].kill()
        await until(lambda: "no sentinel" in caplog.text)
        await asyncio.sleep(0.5)
        await listener.bus.publish([entry(TOPIC, 2)])
        await until(lambda: seqs(listener.got) == [1, 2])
        assert seqs(await listener.bus.history(TOPIC, 0)) == [1, 2]
        assert listener.told == []
