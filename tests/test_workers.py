"""Several workers behind one port: evenly loaded, replaced when they end, ended all together."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import websockets

from tests.process import Served, serving
from tests.test_cli import descendants, is_running, run_feed
from tests.test_drain import TRADE, Reader, is_carried, publisher, upgrade
from tests.web import Publisher, RawClient, close_code, until

pytestmark = pytest.mark.redis


def pids(served: Served) -> set[int]:
    return descendants(served.process.pid)


@asynccontextmanager
async def read_by(
    served: Served, url: str, clients: int, *then: int
) -> AsyncIterator[tuple[list[Reader], Publisher]]:
    """Connect clients that follow a topic on which something is published all the time."""
    async with publisher(url, "BTC-USD") as pub:
        await is_carried(served)
        await pub.publish(pub.trade())
        readers = [Reader(TRADE, *then) for _ in range(clients)]
        for reader in readers:
            await reader.connect(served.port)
        await until(lambda: all(reader.synced for reader in readers))

        async def publish() -> None:
            while True:
                await pub.publish(pub.trade(), pub.trade())
                await asyncio.sleep(0.02)

        publishing = asyncio.create_task(publish())
        try:
            await until(lambda: all(reader.ledger.of(TRADE) for reader in readers))
            yield readers, pub
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            last = pub.sent[TRADE][-1]["seq"]
            await until(lambda: all(reader.ledger.at[TRADE] == last for reader in readers))
            for reader in readers:
                assert not reader.ledger.lost
                got = [one["seq"] for one in reader.ledger.of(TRADE)]
                assert got == [one["seq"] for one in pub.sent[TRADE]][-len(got) :]
        finally:
            publishing.cancel()
            for reader in readers:
                reader.leave()


async def test_a_killed_worker_is_replaced_and_the_clients_of_others_notice_nothing(
    valkey_url: str,
) -> None:
    async with serving(valkey_url, workers=2) as served:
        async with read_by(served, valkey_url, 12) as (readers, _):
            before = pids(served)
            assert len(before) == 2
            killed = min(before)
            os.kill(killed, signal.SIGKILL)
            await until(lambda: any(reader.closes for reader in readers))
            await until(lambda: len(pids(served)) == 2 and killed not in pids(served), 60)
            assert pids(served) & before, "the other one stays"
            gone = [reader for reader in readers if reader.closes]
            assert 0 < len(gone) < 12
            for reader in gone:
                await reader.connect(served.port)
            await until(lambda: all(reader.synced == 2 for reader in gone))
            assert [reader.recovered for reader in gone] == [[True]] * len(gone)
        said = served.said()
        assert re.search(rf"ERROR .*worker \d, process {killed}, has ended \(SIGKILL\)", said), said
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0, served.said()


async def test_all_workers_drain_and_every_client_is_told(valkey_url: str) -> None:
    async with serving(valkey_url, workers=3, drain_s=1) as served:
        clients = [await RawClient.open(served.port) for _ in range(9)]
        children = pids(served)
        assert len(children) == 3
        served.signal(signal.SIGINT)
        for client in clients:
            assert close_code(await client.receive_until_close()) == 1012
            client.close()
        assert await served.ended() == 0, served.said()
        assert not any(map(is_running, children))
        assert served.said().count("Listening on") == 1
        assert "Traceback" not in served.said() and "ERROR" not in served.said()


async def test_while_all_drain_who_asks_is_told_so(valkey_url: str) -> None:
    async with serving(valkey_url, workers=2, drain_s=6) as served:
        clients = [await RawClient.open(served.port) for _ in range(4)]
        served.signal(signal.SIGTERM)
        closes = [asyncio.create_task(client.receive_until_close()) for client in clients]
        # Each worker closes its first one at once.
        await until(lambda: sum(close.done() for close in closes) >= 2)
        assert (await served.asked("/livez"))[0] == 200
        status, body, _ = await served.asked("/readyz")
        assert status == 503 and list(body["reasons"]) == ["draining"]
        refused = await upgrade(served.port)
        assert refused.startswith(b"HTTP/1.1 503 ") and b'"restarting"' in refused
        await asyncio.gather(*closes)
        for client in clients:
            client.close()
        assert await served.ended() == 0, served.said()


@pytest.mark.parametrize("numbers", [(15, 15), (2, 2), (15, 2)], ids=str)
async def test_a_second_signal_ends_all_at_once(valkey_url: str, numbers: tuple[int, int]) -> None:
    async with serving(valkey_url, workers=2, drain_s=3_600) as served:
        clients = [await RawClient.open(served.port) for _ in range(8)]
        served.signal(signal.Signals(numbers[0]))
        await clients[0].receive_until_close()
        clients.pop(0).close()
        served.signal(signal.Signals(numbers[1]))
        for client in clients:
            assert close_code(await client.receive_until_close()) == 1012
            client.close()
        assert await served.ended(30) == 0, served.said()


async def test_no_worker_outlives_a_killed_server_and_its_port_is_free_at_once(
    valkey_url: str,
) -> None:
    async with serving(valkey_url, workers=2, drain_s=1) as served:
        clients = [await RawClient.open(served.port) for _ in range(4)]
        children = pids(served)
        served.signal(signal.SIGKILL)
        assert await served.ended() == -signal.SIGKILL
        async with serving(valkey_url, workers=2, port=served.port) as other:
            for client in clients:
                assert close_code(await client.receive_until_close()) == 1012
                client.close()
            await until(lambda: not any(map(is_running, children)))
            assert (await other.asked("/readyz"))[0] == 200


async def test_a_hangup_replaces_every_worker_and_nobody_loses_an_entry(valkey_url: str) -> None:
    async with serving(valkey_url, workers=2, drain_s=1) as served:
        async with read_by(served, valkey_url, 20, *[served.port] * 4) as (readers, _):
            before = pids(served)
            served.signal(signal.SIGHUP)
            await until(lambda: "every worker was replaced" in served.said(), 60)
            assert len(pids(served)) == 2 and not pids(served) & before
            await until(lambda: all(r.synced == len(r.closes) + 1 > 1 for r in readers))
            for reader in readers:
                assert {code for _, code, _ in reader.closes} == {1012}
                assert all(reader.recovered) and not reader.refused
        assert "ERROR" not in served.said()


async def test_a_worker_that_stands_still_is_handed_nobody(valkey_url: str) -> None:
    async with serving(valkey_url, workers=2) as served:
        frozen = min(pids(served))
        os.kill(frozen, signal.SIGSTOP)
        try:
            clients = []
            for _ in range(20):  # those that it was given before it was known wait for it
                clients.append(await RawClient.connect(served.port))
            async with asyncio.timeout(30):
                while True:
                    tasks = [asyncio.create_task(served.asked("/livez")) for _ in range(4)]
                    _, late = await asyncio.wait(tasks, timeout=1)
                    if not late:
                        break
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert len(await asyncio.gather(*tasks)) == 4
        for client in clients:
            client.close()


async def test_the_limit_of_clients_is_the_whole_servers(valkey_url: str) -> None:
    async with serving(valkey_url, workers=2, max_clients=5) as served, AsyncExitStack() as stack:
        inside = 0

        async def is_let_in() -> bool:
            url = f"ws://127.0.0.1:{served.port}/v1/ws"
            try:
                await stack.enter_async_context(websockets.connect(url, compression=None))
            except websockets.InvalidStatus as e:
                assert e.response.status_code == 503
                return False
            return True

        async with asyncio.timeout(30):
            while inside < 5:  # one may have been full a moment ago, and be asked once too often
                inside += await is_let_in()
        assert not any([await is_let_in() for _ in range(4)])
        status, body, _ = await served.asked("/readyz")
        assert status == 503 and body["reasons"] == {"clients": "FEED_MAX_CLIENTS is reached"}


@pytest.mark.parametrize(
    ("arguments", "environ", "word"),
    [
        (["--workers", "0"], {}, "FEED_WORKERS"),
        (["--workers", "two"], {}, "'two' is not a valid integer"),
        ([], {"FEED_WORKERS": "many"}, "FEED_WORKERS"),
        (["--workers", "3"], {"FEED_PROT": "1"}, "did you mean FEED_PORT"),
        (["--workers", "3", "--bus", "http://x"], {}, "unknown bus scheme"),
    ],
)
def test_a_mistake_is_said_once(arguments: list[str], environ: dict[str, str], word: str) -> None:
    done = run_feed("serve", "--port", "0", *arguments, **environ)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(word) == 1 and "Traceback" not in done.stderr


def test_a_bus_that_is_not_there_is_said_once() -> None:
    done = run_feed("serve", "--port", "0", "--workers", "3", "--bus", "redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert done.stderr.count("cannot connect") == 1 and "Traceback" not in done.stderr
