"""A web process that stood still, or has nothing left: who is connected stays."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import websockets

from feed import gateway, websocket
from tests.process import Served, is_open, serving
from tests.test_drain import is_carried, publisher
from tests.web import Client, RawClient, masked, running, until, whole_frames

TRADE, QUOTE = "trade.kraken.BTC-USD", "quote.kraken.BTC-USD"


@asynccontextmanager
async def connected(served: Served) -> AsyncIterator[Client]:
    url = f"ws://127.0.0.1:{served.port}/v1/ws"
    async with websockets.connect(url, compression=None, close_timeout=0.5) as connection:
        yield Client(connection, False)


@pytest.mark.redis
async def test_a_process_that_stood_still_5_s_keeps_its_clients_and_sends_no_old_values(
    valkey_url: str,
) -> None:
    async with (
        serving(valkey_url) as served,
        publisher(valkey_url, "BTC-USD") as pub,
    ):
        await is_carried(served)
        async with connected(served) as one, connected(served) as two:
            idle = [await RawClient.open(served.port) for _ in range(50)]
            for client in (one, two):
                await client.subscribe(TRADE, QUOTE, all=[TRADE], latest=[QUOTE])
            served.signal(signal.SIGSTOP)
            stopped = time.monotonic()
            while time.monotonic() - stopped < 5:
                await pub.publish(*[pub.quote(bid=f"{n}") for n in range(20)], pub.trade())
                await asyncio.sleep(0.05)
            await pub.publish(pub.quote(bid="99.5"), pub.trade(pad=1))
            served.signal(signal.SIGCONT)
            last = pub.sent[TRADE][-1]["seq"]
            for client in (one, two):
                while client.ledger.at[TRADE] != last or client.seen[-1].get("bid") != "99.5":
                    if client.ledger.latest[QUOTE] == pub.sent[QUOTE][-1]["seq"]:
                        if client.ledger.at[TRADE] == last:
                            break
                    await client.next()
                assert client.ledger.of(TRADE) == pub.sent[TRADE] and not client.ledger.lost
                quotes = [q for q in client.ledger.of(QUOTE) if q["type"] == "quote"]
                assert quotes[-1] == pub.sent[QUOTE][-1]
                assert len(quotes) < len(pub.sent[QUOTE]) / 10
            assert (await served.asked("/readyz"))[1]["clients"] == 52
            for raw in idle:
                await raw.receive()
                await raw.send(masked(1, b'{"op":"ping"}'))
            for raw in idle:
                await raw.objects("pong", 1)
                raw.close()


async def test_a_pong_that_came_while_the_loop_stood_still_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = 0
    turn = gateway.Gateway._turn

    def counted(self: gateway.Gateway) -> None:
        nonlocal turns
        turn(self)
        turns += 1

    monkeypatch.setattr(gateway.Gateway, "_turn", counted)
    monkeypatch.setattr(gateway, "_WHEEL", 1)  # everybody is judged in each turn
    monkeypatch.setattr(websocket, "_PING_AFTER_S", 0.05)
    monkeypatch.setattr(websocket, "_PONG_WITHIN_S", 1.0)
    async with running(heartbeat_s=0.1) as web:
        clients = [await RawClient.open(web.port) for _ in range(20)]
        for client in clients:
            data = b""
            while 9 not in {opcode for opcode, _ in whole_frames(data)}:
                data += await client.receive()
        for client in clients:
            client.sock.send(masked(10, b""))
        # In a timer's callback: what is due by then runs before anything is read.
        asyncio.get_running_loop().call_later(0.001, time.sleep, 1.3)
        started, before = time.monotonic(), turns
        await until(lambda: time.monotonic() - started > 1.3)
        await until(lambda: turns > before)
        left = len(web.gateway.clients)
        for client in clients:
            client.close()
        assert left == 20


@pytest.mark.redis
async def test_without_file_descriptors_who_is_connected_is_served(valkey_url: str) -> None:
    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    async with (
        serving(valkey_url, preexec=starve) as served,
        publisher(valkey_url, "BTC-USD") as pub,
    ):
        await is_carried(served)
        async with connected(served) as client:
            await client.subscribe(TRADE, all=[TRADE])
            crowd = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(200)]
            started, before = time.monotonic(), served.cpu_s()
            while time.monotonic() - started < 2:
                await pub.publish(pub.trade())
                await client.type("trade")
                await asyncio.sleep(0.05)
            used = (served.cpu_s() - before) / (time.monotonic() - started)
            assert used < 0.5, f"it is busy with what it cannot accept: {used:.0%} of a core"
            assert client.ledger.of(TRADE) == pub.sent[TRADE]
            assert served.said().count("\n") < 50, served.said()[-3_000:]
            for sock in crowd:
                sock.close()
            # Once there is room again it is open to everybody; those who gave up come first.
            deadline = time.monotonic() + 15
            while not await asyncio.to_thread(is_open, served.port):
                assert time.monotonic() < deadline, served.said()[-3_000:]
                await asyncio.sleep(0.05)
            async with connected(served) as another:
                await another.subscribe(TRADE, all=[TRADE])
                await pub.publish(pub.trade())
                await another.type("trade")
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0, served.said()
