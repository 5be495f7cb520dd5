"""Who may connect, and what a storm of connects costs those who are connected."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.admission import Door
from feed.wire import FeedProtocol
from tests.test_drain import upgrade
from tests.web import Web, running, until

TRADE = "trade.kraken.BTC-USD"


@given(
    st.floats(0.5, 1_000),
    st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 50)), max_size=60),
)
def test_never_more_than_the_rate_and_one_burst_come_in(
    per_s: float, knocks: list[tuple[float, int]]
) -> None:
    door = Door([], 10_000, per_s)
    now, let_in = 0.0, 0
    for pause_s, times in knocks:
        now += pause_s
        let_in += sum(door.knock(now) is None for _ in range(times))
        assert let_in <= max(1.0, per_s) + now * per_s + 1e-6


def test_whoever_keeps_to_the_rate_is_never_refused() -> None:
    door = Door([], 10_000, 10)
    assert all(door.knock(n / 10) is None for n in range(1_000))
    assert door.refused == 0


def test_the_refused_are_let_in_one_after_another_at_the_rate() -> None:
    """5,000 at once and 500 a second: those refused come back 500 in each of the next seconds."""
    door = Door([], 10_000, 500)
    refusals = [door.knock(1.0) for _ in range(5_000)]
    waits = Counter(refusal.retry_after_s for refusal in refusals if refusal is not None)
    assert waits == dict.fromkeys(range(1, 10), 500)
    for second, n in sorted(waits.items()):
        assert all(door.knock(1.0 + second) is None for _ in range(n))


def test_nobody_is_sent_away_for_longer_than_half_a_minute() -> None:
    door = Door([], 10_000, 1)
    refusals = [door.knock(0.0) for _ in range(1_000)]
    assert max(refusal.retry_after_s for refusal in refusals if refusal is not None) == 30


def test_without_a_rate_only_the_number_counts() -> None:
    clients = ["one"]
    door = Door(clients, 2, 0)
    assert all(door.knock(0.0) is None for _ in range(1_000))
    clients.append("two")
    refusals = [door.knock(0.0) for _ in range(20)]
    waits = {refusal.retry_after_s for refusal in refusals if refusal is not None}
    assert len(refusals) == 20 and waits == set(range(5, 10))
    clients.pop()
    assert door.knock(0.0) is None


def test_a_shut_door_says_how_long_it_is_worth_waiting() -> None:
    door = Door([], 10, 5)
    door.shut_until = 100.0
    refusals = [door.knock(92.5) for _ in range(20)] + [door.closed(92.5)]
    assert all(refusal is not None and refusal.code == "restarting" for refusal in refusals)
    waits = {refusal.retry_after_s for refusal in refusals if refusal is not None}
    assert waits == set(range(8, 13))
    late = door.knock(250.0)
    assert late is not None and late.retry_after_s >= 1


async def test_a_storm_is_refused_at_once_and_costs_nobody_an_entry() -> None:
    async with running(connects_per_s=20) as web, web.client() as client:
        await client.subscribe(TRADE, all=[TRADE])
        answers = asyncio.gather(*(upgrade_or_drop(web) for _ in range(300)))
        for _ in range(50):
            await web.publisher.publish(*[web.publisher.trade() for _ in range(10)])
            await asyncio.sleep(0)
        last = web.publisher.sent[TRADE][-1]["seq"]
        await client.read(lambda one: one.get("seq") == last)
        statuses = Counter(await answers)
        assert client.ledger.of(TRADE) == web.publisher.sent[TRADE]
        assert statuses[503] >= 200 and statuses[503] + statuses[101] == 300
        assert web.gateway.door.refused == statuses[503]
        # Whoever comes when it is over is let in.
        await until(lambda: len(web.gateway.clients) == 1)
        deadline = asyncio.get_running_loop().time() + 15
        while await upgrade_or_drop(web) != 101:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)


async def upgrade_or_drop(web: Web) -> int:
    """Try to open a WebSocket and let go of it again; return the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with asyncio.timeout(15):
        line = await reader.readline()
    writer.transport.abort()
    return int(line.split()[1])


async def test_a_refusal_costs_no_websocket_and_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(connects_per_s=1) as web:
        assert await upgrade_or_drop(web) == 101
        made: list[int] = []

        monkeypatch.setattr(FeedProtocol, "__init__", lambda *_, **__: made.append(1))
        tasks = len(asyncio.all_tasks())
        answer = await upgrade(web.port)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nconnection: close\r\n" in answer
        assert answer.endswith(b'{"error":{"code":"shed","message":"too many connects at once"}}')
        assert not made and len(asyncio.all_tasks()) <= tasks
        # A stream counts as a connect too, and is told in the same words.
        status, body = await web.get(f"/v1/stream?topics={TRADE}")
        assert status == 503 and body["error"]["code"] == "shed"
        # Health is nobody's connect.
        assert [(await web.get("/livez"))[0] for _ in range(5)] == [200] * 5
