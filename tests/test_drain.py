"""A web process that is asked to end: nobody is cut off, nobody loses an entry, no herd."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.processes import allow_files
from feed.bus.base import Retention
from feed.bus.redis import RedisBus
from feed.drain import Schedule, spread
from feed.errors import ConfigError
from tests.ledger import Ledger
from tests.process import Served, serving
from tests.web import Publisher, RawClient, close_code, masked, until, whole_frames, whole_objects

TRADE = "trade.kraken.BTC-USD"
pytestmark = pytest.mark.redis

# The schedule.


@given(st.integers(0, 5_000), st.floats(0.01, 600), st.lists(st.floats(0, 700), max_size=20))
def test_turns_come_evenly_and_all_within_the_window(
    clients: int, window_s: float, times: list[float]
) -> None:
    schedule = Schedule(clients, window_s)
    dues = [schedule.due(elapsed) for elapsed in sorted(times)]
    assert dues == sorted(dues)
    for elapsed, due in zip(sorted(times), dues, strict=True):
        assert abs(due - clients * min(1.0, elapsed / window_s)) <= 1
    assert schedule.due(window_s) == clients


@given(st.integers(1, 5_000), st.floats(1, 60), st.floats(0, 60))
def test_no_second_is_busier_than_the_mean_allows(n: int, window_s: float, start: float) -> None:
    schedule = Schedule(n, window_s)
    assert schedule.due(start + 1) - schedule.due(start) <= math.ceil(n / window_s) + 1


def test_a_window_of_zero_is_everybody_at_once() -> None:
    assert Schedule(7, 0).due(0) == 7
    assert Schedule(0, 0).due(0) == 0 and Schedule(0, 10).due(3) == 0


@given(st.integers(0, 10_000), st.integers(10, 500))
def test_clients_that_leave_together_come_back_spread(first: int, n: int) -> None:
    """Of any ``n`` in a row no tenth of the span gets more than twice its share (and one)."""
    tenths = [int(spread(i) * 10) for i in range(first, first + n)]
    assert max(map(tenths.count, range(10))) <= 2 * n / 10 + 1
    schedule = Schedule(20_000, 30.0)
    waits = [schedule.retry_after_ms(i) for i in range(first, first + n)]
    assert all(250 <= wait < 1_250 for wait in waits) and len(set(waits)) > n * 0.6
    late = [schedule.retry_late_ms(i) for i in range(first, first + n)]
    assert all(250 <= wait < 30_250 for wait in late) and max(late) > 20_000


# The process.


@asynccontextmanager
async def publisher(url: str, *symbols: str) -> AsyncIterator[Publisher]:
    bus = RedisBus(url, Retention())
    await bus.start()
    try:
        found = Publisher(bus)
        await found.carry(*symbols)
        yield found
    finally:
        await bus.close()


async def until_true(claim: Any, timeout_s: float = 30.0) -> None:
    """Poll a claim that asks a server."""
    deadline = time.monotonic() + timeout_s
    while not await cast(Awaitable[bool], claim()):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


async def is_carried(served: Served, topic: str = TRADE) -> None:
    async def listed() -> bool:
        return topic in json.dumps((await served.asked("/v1/topics"))[1])

    await until_true(listed)


def closing(data: bytes) -> dict[str, Any]:
    (found,) = [one for one in whole_objects(data) if one["type"] == "closing"]
    return found


async def echo(client: RawClient, data: bytes) -> None:
    """Answer the server's close frame, and see it end."""
    await client.send(masked(8, (close_code(data) or 0).to_bytes(2, "big")))
    assert await client.rest() == b""
    client.close()


async def test_while_it_drains_it_lives_but_takes_nobody_in(valkey_url: str) -> None:
    async with serving(valkey_url, drain_s=6) as served:
        clients = [await RawClient.open(served.port) for _ in range(2)]
        await until_true(lambda: has_clients(served, 2))
        served.signal(signal.SIGTERM)
        await clients[0].receive_until_close()
        assert (await served.asked("/livez"))[0] == 200
        status, body, _ = await served.asked("/readyz")
        assert status == 503 and list(body["reasons"]) == ["draining"]
        waits = set()
        for _ in range(4):
            status, body, headers = await served.asked(f"/v1/stream?topics={TRADE}")
            assert status == 503 and body["error"]["code"] == "restarting"
            waits.add(int(headers["retry-after"]))
            refused = await upgrade(served.port)
            assert refused.startswith(b"HTTP/1.1 503 ") and b'"restarting"' in refused
            waits.add(int(refused.partition(b"retry-after: ")[2].split(b"\r")[0]))
        assert 1 <= min(waits) and max(waits) <= 6 + 1 + 5 and len(waits) > 1
        data = await clients[1].receive_until_close()
        assert close_code(data) == 1012
        for client in clients:
            client.close()
        assert await served.ended() == 0, served.said()
        assert "Traceback" not in served.said()


async def has_clients(served: Served, n: int) -> bool:
    return bool((await served.asked("/readyz"))[1]["clients"] == n)


async def upgrade(port: int) -> bytes:
    """Return everything a server answers to a WebSocket handshake that it refuses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with asyncio.timeout(15):
        data = await reader.read()
    writer.close()
    return data


@pytest.mark.parametrize("numbers", [(15, 15), (2, 15), (2, 2)], ids=str)
async def test_a_second_signal_ends_it_at_once(valkey_url: str, numbers: tuple[int, int]) -> None:
    async with serving(valkey_url, drain_s=3_600) as served:
        clients = [await RawClient.open(served.port) for _ in range(8)]
        await until_true(lambda: has_clients(served, 8))
        served.signal(signal.Signals(numbers[0]))
        first = await clients[0].receive_until_close()
        await echo(clients[0], first)
        assert close_code(first) == 1012 and closing(first)["retry_after_ms"] < 1_250
        served.signal(signal.Signals(numbers[1]))
        waits = []
        for client in clients[1:]:
            data = await client.receive_until_close()
            assert close_code(data) == 1012 and closing(data)["code"] == 1012
            waits.append(closing(data)["retry_after_ms"])
            client.close()
        assert max(waits) > 60_000, "those that leave together come back spread over the window"
        assert await served.ended(30) == 0, served.said()
        assert "Traceback" not in served.said()


async def test_what_waits_for_a_client_leaves_before_it_does(valkey_url: str) -> None:
    async with serving(valkey_url, drain_s=4) as served, publisher(valkey_url, "BTC-USD") as pub:
        await is_carried(served)
        slow = await RawClient.open(served.port, f"?topics={TRADE}&status=0", receive_bytes=65_536)
        stream = await asyncio.to_thread(
            urllib.request.urlopen,
            f"http://127.0.0.1:{served.port}/v1/stream?topics={TRADE}&status=0",
            timeout=60,
        )
        assert any(b"synced" in stream.readline() for _ in range(20))
        for _ in range(40):
            await pub.publish(*[pub.trade(pad=1_000) for _ in range(20)])
        sent = pub.sent[TRADE]
        reading = asyncio.create_task(asyncio.to_thread(stream.read))
        async with asyncio.timeout(30):
            served.signal(signal.SIGTERM)
            data = await slow.receive_until_close()
        got = [one for one in whole_objects(data) if one["type"] == "trade"]
        assert got == sent, (len(got), len(sent))
        assert close_code(data) == 1012 and closing(data)["retry_after_ms"] >= 250
        await echo(slow, data)
        events = [json.loads(part.partition(b"data: ")[2]) for part in lines(await reading)]
        assert [one for one in events if one["type"] == "trade"] == sent[-len(events) + 1 :]
        assert events[-1]["type"] == "closing" and events[-1]["code"] == 1012
        stream.close()
        assert await served.ended() == 0, served.said()


def lines(body: bytes) -> Iterator[bytes]:
    """Yield the events of a stream that hold data."""
    for part in body.split(b"\n\n"):
        if b"data: " in part and b'"type":"heartbeat"' not in part:
            yield part


async def test_a_client_that_never_reads_does_not_hold_it_up(valkey_url: str) -> None:
    async with serving(valkey_url, drain_s=1) as served, publisher(valkey_url, "BTC-USD") as pub:
        await is_carried(served)
        query = f"?topics={TRADE}&status=0"
        stuck = await RawClient.open(served.port, query, receive_bytes=4_096)
        with socket.socket() as stream:  # closed at the end, and not read before
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            stream.connect(("127.0.0.1", served.port))
            stream.sendall(f"GET /v1/stream{query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await until_true(lambda: has_clients(served, 2))
            good = await RawClient.open(served.port, query)
            await good.objects("synced", 1)
            for _ in range(30):  # more than the kernel takes for a stream: 4 MB
                await pub.publish(*[pub.trade(pad=2_000) for _ in range(100)])
                await good.objects("trade", 100)
            served.signal(signal.SIGTERM)
            data = await good.receive_until_close()
            assert close_code(data) == 1012
            await echo(good, data)
            assert await served.ended(20) == 0, served.said()
            assert "graceful" not in served.said(), "uvicorn had to give up on it"
        assert close_code(await stuck.rest()) is None
        stuck.close()


async def test_a_slow_client_comes_to_its_end_while_events_go_on(valkey_url: str) -> None:
    """It takes half of what is published, so what waits for it would never be gone."""
    async with (
        serving(valkey_url, drain_s=6, outbox_max_bytes=1 << 18) as served,
        publisher(valkey_url, "BTC-USD") as pub,
    ):
        await is_carried(served)
        query = f"?topics={TRADE}&status=0"
        slow = await RawClient.open(served.port, query, receive_bytes=16_384)

        async def publish() -> None:
            while True:
                await pub.publish(*[pub.trade(pad=1_000) for _ in range(40)])
                await asyncio.sleep(0.05)

        publishing = asyncio.create_task(publish())
        data, ledger, asked = bytearray(), Ledger(), False
        ledger.at[TRADE] = None
        while part := await slow.receive(20_000):
            data += part
            await asyncio.sleep(0.05)
            if not asked and b"slow_consumer" in data:
                served.signal(signal.SIGTERM)
                asked = True
            if asked and close_code(bytes(data)) is not None:
                await slow.send(masked(8, (1012).to_bytes(2, "big")))
        slow.close()
        assert close_code(bytes(data)) == 1012 and closing(bytes(data))["code"] == 1012
        for one in whole_objects(bytes(data)):
            ledger.take(one)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        assert await served.ended() == 0, served.said()


# Two thousand clients.

CLIENTS, WINDOW_S, SYMBOLS = 2_000, 10, 10


class Reader(asyncio.Protocol):
    """A client that reads everything and, each time it is told to go, resumes at the next server.

    Attributes:
        ledger: Everything it was given, over both connections.
        closes: When it was closed, by which code and with what advice; no code is a 1006.
        recovered: What it was told about its ``since``.
        synced, refused: How often.
    """

    def __init__(self, topic: str, *then: int) -> None:
        self.ledger = Ledger()
        self.ledger.at[topic] = None
        self.closes: list[tuple[float, int | None, dict[str, Any]]] = []
        self.recovered: list[bool] = []
        self.synced = 0
        self.refused = 0
        self._topic = topic
        self._then = list(then)
        self._loop = asyncio.get_running_loop()

    async def connect(self, port: int) -> None:
        self._data, self._is_open = b"", False
        self._said: dict[str, Any] = {}
        await self._loop.create_connection(lambda: self, "127.0.0.1", port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._is_open:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            self.refused += not head.startswith(b"HTTP/1.1 101 ")
            self._is_open, self._data = True, rest
            self._subscribe()
        at = 0
        for opcode, body in whole_frames(self._data):
            at += len(body) + (2 if len(body) < 126 else 4 if len(body) < 65_536 else 10)
            if opcode == 8:
                code = int.from_bytes(body[:2], "big")
                self.closes.append((time.monotonic(), code, self._said))
                self._transport.write(masked(8, body[:2]))
                if self._then:
                    wait_s = self._said["retry_after_ms"] / 1_000
                    self._loop.call_later(wait_s, self._return)
                return
            self._take(json.loads(body))
        self._data = self._data[at:]

    def _subscribe(self) -> None:
        last = self.ledger.at[self._topic]
        since = {} if last is None else {"since": {self._topic: last}}
        command = {"op": "subscribe", "topics": [self._topic], "status": False, **since}
        self._transport.write(masked(1, json.dumps(command).encode()))

    def _take(self, said: dict[str, Any]) -> None:
        self.ledger.take(said)
        if said["type"] == "closing":
            self._said = said
        elif said["type"] == "synced":
            self.synced += 1
        elif said["type"] == "subscribed":
            self.recovered += [r["recovered"] for r in said["results"] if "recovered" in r]

    def connection_lost(self, exc: Exception | None) -> None:
        if len(self.closes) < self.synced:
            self.closes.append((time.monotonic(), None, {}))

    def _return(self) -> None:
        self._task = self._loop.create_task(self.connect(self._then.pop(0)))

    def leave(self) -> None:
        self._transport.abort()


async def test_2000_clients_leave_evenly_over_10_s_and_miss_nothing_where_they_go(
    valkey_url: str,
) -> None:
    """Takes about 20 s: the window is what is tested."""
    try:
        allow_files(CLIENTS * 2 + 500)
    except ConfigError as e:
        pytest.skip(str(e))
    symbols = [f"S{i}-USD" for i in range(SYMBOLS)]
    async with (
        serving(valkey_url, drain_s=WINDOW_S, connects_per_s=0) as served,
        serving(valkey_url, drain_s=0) as other,  # with the default limit of connects
        publisher(valkey_url, *symbols) as pub,
    ):
        topics = [f"trade.kraken.{symbol}" for symbol in symbols]
        await pub.publish(*[pub.trade(symbol) for symbol in symbols])
        for one in (served, other):
            await is_carried(one, topics[-1])
        readers = [Reader(topics[i % SYMBOLS], other.port) for i in range(CLIENTS)]
        for i in range(0, CLIENTS, 100):
            await asyncio.gather(*(reader.connect(served.port) for reader in readers[i : i + 100]))
        await until(lambda: all(reader.synced == 1 for reader in readers), 60)

        async def publish() -> None:
            while True:
                await pub.publish(*[pub.trade(symbol) for symbol in symbols])
                await asyncio.sleep(0.2)

        publishing = asyncio.create_task(publish())
        await until(lambda: all(len(reader.ledger.seen) > 4 for reader in readers))
        started = time.monotonic()
        served.signal(signal.SIGTERM)
        await until(lambda: all(reader.closes for reader in readers), 60)
        assert await served.ended() == 0, served.said()
        await until(lambda: all(reader.synced == 2 for reader in readers), 60)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        newest = {topic: pub.sent[topic][-1]["seq"] for topic in topics}
        await until(lambda: all(reader.ledger.at.items() <= newest.items() for reader in readers))

        closes = [reader.closes[0] for reader in readers]
        assert {code for _, code, _ in closes} == {1012}
        assert all(250 <= said["retry_after_ms"] < 1_250 for _, _, said in closes)
        seconds = [int(at - started) for at, _, _ in closes]
        busiest = max(map(seconds.count, set(seconds)))
        assert busiest <= 1.5 * CLIENTS / WINDOW_S, sorted(
            (s, seconds.count(s)) for s in set(seconds)
        )
        # The ledger has proven the order and that there is no hole; here, that nothing is missing.
        for reader in readers:
            assert reader.recovered == [True] and not reader.refused and not reader.ledger.lost
            (topic,) = reader.ledger.at
            got = [one["seq"] for one in reader.ledger.of(topic)]
            assert got == [one["seq"] for one in pub.sent[topic]][-len(got) :]
        for reader in readers:
            reader.leave()


async def test_a_rolling_restart_loses_nobody_an_entry(valkey_url: str) -> None:
    """Three servers, each started before the one before it is asked to end."""
    async with AsyncExitStack() as stack:
        pub = await stack.enter_async_context(publisher(valkey_url, "BTC-USD"))
        servers = [await stack.enter_async_context(serving(valkey_url, drain_s=2)) for _ in "123"]
        for served in servers:
            await is_carried(served)
        ports = [served.port for served in servers]
        await pub.publish(pub.trade())
        readers = [Reader(TRADE, *ports[1:]) for _ in range(100)]
        await asyncio.gather(*(reader.connect(ports[0]) for reader in readers))
        await until(lambda: all(reader.synced == 1 for reader in readers))

        async def publish() -> None:
            while True:
                await pub.publish(pub.trade(), pub.trade())
                await asyncio.sleep(0.02)

        publishing = asyncio.create_task(publish())
        for round, served in enumerate(servers[:2], 2):
            served.signal(signal.SIGTERM)
            await until(lambda n=round: all(reader.synced == n for reader in readers))  # type: ignore[misc]
            assert await served.ended() == 0, served.said()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        last = pub.sent[TRADE][-1]["seq"]
        await until(lambda: all(reader.ledger.at[TRADE] == last for reader in readers))
        for reader in readers:
            assert [code for _, code, _ in reader.closes] == [1012, 1012]
            assert reader.recovered == [True, True] and not reader.ledger.lost
            got = [one["seq"] for one in reader.ledger.of(TRADE)]
            assert got == [one["seq"] for one in pub.sent[TRADE]][-len(got) :]
            reader.leave()


def test_ctrl_c_ends_a_whole_run_soon_and_still_tells_everybody(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("FEED_")}
    with (tmp_path / "log").open("w+") as log:
        arguments = [sys.executable, "-m", "feed", "run", "--exchange", "sim", "--port", "0"]
        process = subprocess.Popen(arguments, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:

            async def visit() -> None:
                said = (tmp_path / "log").read_text
                await until(lambda: "Dashboard: " in said(), 60)
                port = int(said().partition("Dashboard: ")[2].split("/")[2].rpartition(":")[2])
                clients = [await RawClient.open(port) for _ in range(10)]
                process.send_signal(signal.SIGINT)
                for client in clients:
                    assert close_code(await client.receive_until_close()) == 1012
                    client.close()

            asyncio.run(visit())
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert "Traceback" not in (tmp_path / "log").read_text()
