"""``feed.js`` in a real browser, against a server that says exactly what a test wants."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from tests.browser.chromium import Page
from tests.browser.server import Line, Scripted, scripted

TRADES = "trade.binance.BTC-USDT"
QUOTES = "quote.*.*"
WAITS = "told('state').filter((s) => s.state === 'waiting')"

OPEN = """(async () => {
  const { Feed } = await import("/feed.js");
  window.seen = [];
  window.told = (name) => seen.filter((s) => s[0] === name).map((s) => s[1]);
  window.feed = new Feed(new URL("/v1/ws", location), { random: () => 0.05 });
  for (const name of ["event", "gap", "state", "bus", "topic", "error"]) {
    feed.on(name, (facts) => seen.push([name, facts]));
  }
  feed.subscribe(["trade.binance.BTC-USDT"]);
  feed.subscribe(["quote.*.*"], { max_hz: 4 });
  feed.open();
})()"""


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Scripted]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def line(page: Page, server: Scripted) -> Line:
    """The first connection of a page that has opened a feed and subscribed twice."""
    await page.go(server.url)
    await page.until("document.title === 'empty'")
    await page.evaluate(OPEN)
    return await server.line()


def trade(seq: int) -> dict[str, Any]:
    return {"type": "trade", "topic": TRADES, "seq": seq, "recv": 1, "price": "1.10", "id": None}


async def gaps(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await page.evaluate("told('gap')")
    return found


async def heard(page: Page, count: int) -> list[int]:
    """Return the positions of the trades delivered, once there are so many."""
    trades = f"told('event').filter((e) => e.topic === '{TRADES}').map((e) => e.seq)"
    await page.until(f"{trades}.length >= {count}")
    found: list[int] = await page.evaluate(trades)
    return found


async def reconnected(line: Line, server: Scripted, code: int = 1012) -> Line:
    await line.connection.close(code)
    again = await server.line()
    await again.welcome()
    return again


async def test_subscriptions_are_asked_for_again_after_a_reconnect(
    page: Page, server: Scripted, line: Line
) -> None:
    await line.welcome()
    first = [await line.hear(), await line.hear()]
    assert [(c["topics"], c.get("max_hz")) for c in first] == [([TRADES], None), ([QUOTES], 4)]
    await page.evaluate("feed.unsubscribe(['trade.binance.BTC-USDT'])")
    assert (await line.hear())["op"] == "unsubscribe"
    again = await reconnected(line, server)
    command = await again.hear()
    assert (command["op"], command["topics"], command["max_hz"]) == ("subscribe", [QUOTES], 4)


async def test_a_passing_close_code_is_followed_by_a_new_attempt(
    page: Page, server: Scripted, line: Line
) -> None:
    await line.welcome()
    for code in (1001, 1011, 1012, 4000, 4008, 4009, 4010):
        line = await reconnected(line, server, code)
        await line.say(type="heartbeat", time=0, lag_us=0, queued=0)  # or each waits twice as long
    await page.until("feed.state === 'open'")


async def test_a_final_close_code_stops_the_client_until_it_is_opened_again(
    page: Page, server: Scripted, line: Line
) -> None:
    for code in (1002, 1007, 1009, 4500, 4501, 4999):
        await line.welcome()
        await line.connection.close(code)
        await page.until("feed.state === 'stopped'")
        assert await page.evaluate("told('state').at(-1).code") == code
        assert server.waiting == 0
        await page.evaluate("feed.open()")
        line = await server.line()


async def test_the_servers_retry_time_comes_before_the_jitter(
    page: Page, server: Scripted, line: Line
) -> None:
    await line.welcome()
    await line.say(type="closing", code=1012, reason="restarting", retry_after_ms=700)
    await line.connection.close(1012)
    await server.line()
    assert await page.evaluate(f"{WAITS}.map((s) => s.retry_ms)") == [
        725
    ]  # 0.05 of the first backoff of 500 ms on top


async def test_a_server_that_falls_silent_is_taken_for_lost(
    page: Page, server: Scripted, line: Line
) -> None:
    await line.welcome(heartbeat_s=0.05)
    await (await server.line()).welcome()
    await page.until("feed.state === 'open'")
    assert await page.evaluate(f"{WAITS}.map((s) => s.reason)") == ["no heartbeat"]


async def test_it_resumes_where_it_was_and_has_no_gap(
    page: Page, server: Scripted, line: Line
) -> None:
    await line.welcome()
    assert "since" not in await line.hear()
    await line.say_batch(trade(10), trade(11))
    await heard(page, 2)
    again = await reconnected(line, server)
    commands = [await again.hear(), await again.hear()]
    assert [command.get("since") for command in commands] == [{TRADES: 11}, None]
    result = {"topic": TRADES, "ok": True, "mode": "all", "seq": 14, "recovered": True}
    await again.say(type="subscribed", id=1, results=[result])
    await again.say_batch(trade(12), trade(13), trade(14), trade(15))
    assert await heard(page, 6) == [10, 11, 12, 13, 14, 15]
    assert await gaps(page) == []


async def test_what_cannot_be_resumed_is_the_servers_gap_and_it_goes_on_from_there(
    page: Page, server: Scripted, line: Line
) -> None:
    await line.welcome()
    await line.say_batch(trade(90), trade(91))
    await heard(page, 2)
    again = await reconnected(line, server)
    result = {"topic": TRADES, "ok": True, "mode": "all", "seq": 14, "recovered": False}
    gap = {"type": "gap", "topic": TRADES, "seq": None, "cause": "resume_too_old", "lost": None}
    await again.say(type="subscribed", id=1, results=[result])
    await again.say_batch({**gap, "from": 14, "to": 14}, trade(15))
    assert await heard(page, 3) == [90, 91, 15]
    assert [gap["cause"] for gap in await gaps(page)] == ["resume_too_old"]


async def test_what_passed_during_an_absence_becomes_one_gap(
    page: Page, server: Scripted, line: Line
) -> None:
    await line.welcome()
    await line.say_batch(trade(10), trade(11))
    again = await reconnected(line, server)
    result = {"topic": TRADES, "ok": True, "mode": "all", "seq": 14, "health": "live"}
    await again.say(type="subscribed", id=1, results=[result])
    await again.say_batch(trade(15))
    assert await heard(page, 3) == [10, 11, 15]
    (gap,) = await gaps(page)
    assert (gap["cause"], gap["lost"], gap["from"], gap["to"]) == ("reconnect", 3, 12, 14)


async def test_a_reconnect_that_missed_nothing_has_no_gap(
    page: Page, server: Scripted, line: Line
) -> None:
    await line.welcome()
    await line.say(**trade(10))
    again = await reconnected(line, server)
    await again.say(**trade(11))
    assert await heard(page, 2) == [10, 11]
    assert await gaps(page) == []


async def test_gaps_that_the_server_states_explain_their_jumps(page: Page, line: Line) -> None:
    restart = {"type": "gap", "topic": TRADES, "seq": 5_000_000, "cause": "publisher_restart"}
    slow = {"type": "gap", "topic": TRADES, "seq": None, "cause": "slow_consumer", "lost": 2}
    await line.welcome()
    await line.say_batch(
        trade(10),
        {**restart, "lost": None, "from": 11, "to": 4_999_999},
        trade(5_000_001),
        {**slow, "from": 5_000_002, "to": 5_000_003},
        trade(5_000_004),
    )
    assert await heard(page, 3) == [10, 5_000_001, 5_000_004]
    assert [gap["cause"] for gap in await gaps(page)] == ["publisher_restart", "slow_consumer"]


async def test_an_unexplained_jump_is_told_and_a_repeat_is_not_delivered(
    page: Page, line: Line
) -> None:
    await line.welcome()
    await line.say_batch(trade(10), trade(10), trade(9), trade(13), trade(14))
    assert await heard(page, 3) == [10, 13, 14]
    (gap,) = await gaps(page)
    assert (gap["cause"], gap["lost"]) == ("unexplained", 2)


async def test_a_topic_left_and_joined_again_has_no_gap(page: Page, line: Line) -> None:
    await line.welcome()
    await line.hear()
    await line.hear()
    await line.say(**trade(10))
    await heard(page, 1)
    await page.evaluate(f"feed.unsubscribe(['{TRADES}']); feed.subscribe(['{TRADES}'])")
    command = await line.hear()
    await line.say(type="unsubscribed", id=command["id"], topics=[TRADES])
    await line.say(**trade(20))
    assert await heard(page, 2) == [10, 20]
    assert await gaps(page) == []


async def test_a_listener_that_throws_costs_nobody_an_event(page: Page, line: Line) -> None:
    await page.evaluate("feed.on('event', () => { throw new Error('not mine') })")
    await page.evaluate("window.late = 0; feed.on('event', () => late++); null")
    await line.welcome()
    await line.say_batch(trade(1), trade(2))
    assert await heard(page, 2) == [1, 2]
    assert await page.evaluate("late") == 2


async def test_the_newest_value_of_a_state_topic_is_kept_and_the_unknown_is_ignored(
    page: Page, line: Line
) -> None:
    topic = "quote.kraken.ETH-USD"
    event = {"type": "quote", "topic": topic, "seq": 3, "recv": 1, "bid": "3312.450", "ask": None}
    await line.welcome()
    await line.say(type="snapshot", topic=topic, seq=3, age_ms=5, health="live", event=event)
    await line.say(type="invented-later", topic="quote.kraken.ETH-USD")
    await line.say(type="invented-later")
    await page.until(f"feed.value('{topic}')?.bid === '3312.450'")
    await line.say_batch({**event, "seq": 4, "bid": "3312.460"})
    await page.until(f"feed.value('{topic}').bid === '3312.460'")
    await line.say(type="health", bus="stale", since=1)
    await page.until("feed.bus === 'stale'")
    assert page.complaints == []
