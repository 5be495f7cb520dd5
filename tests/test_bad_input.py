"""Whatever one client sends or fails to read: the others are served and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.web import RawClient, Web, close_code, descriptors, masked, running, until

TRADE, QUOTE = "trade.kraken.BTC-USD", "quote.kraken.BTC-USD"


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running(stuck_after_s=1.0) as web:
        yield web


async def half_a_frame(web: Web, client: RawClient) -> None:
    await client.send(masked(1, b'{"op":"ping"}')[:9])
    client.close()


async def wrong_json(web: Web, client: RawClient) -> None:
    for text in (b"{", b'{"op":"ping",}', b"null"):
        await client.send(masked(1, text))
    assert close_code(await client.receive_until_close()) == 4500


async def deep_nesting(web: Web, client: RawClient) -> None:
    await client.send(masked(1, b'{"op":' + b"[" * 200_000))
    await client.send(masked(1, b'{"op":"subscribe","topics":' + b'{"a":' * 50_000))
    await client.send(masked(1, b"[" * 100_000 + b"]" * 100_000))
    assert close_code(await client.receive_until_close()) == 4500


async def ten_megabytes(web: Web, client: RawClient) -> None:
    try:
        await client.send(masked(1, b"x" * 10_000_000))
    except ConnectionError:
        return  # refused before it was all sent
    assert close_code(await client.rest()) in (1009, None)


async def a_flood_of_empty_messages(web: Web, client: RawClient) -> None:
    await client.send(masked(1, b"") * 5_000)
    assert close_code(await client.rest()) == 4500


async def a_message_in_fragments_of_one_byte(web: Web, client: RawClient) -> None:
    try:
        await client.send(masked(1, b" ", fin=False) + masked(0, b" ", fin=False) * 100_000)
    except ConnectionError:
        return
    await client.rest()


async def binary_where_text_belongs(web: Web, client: RawClient) -> None:
    for _ in range(3):
        await client.send(masked(2, b'{"op":"ping"}'))
    assert close_code(await client.receive_until_close()) == 4500


async def unknown_ops(web: Web, client: RawClient) -> None:
    for op in (b'"fly"', b"5", b"null", b'"__proto__"', b'"\\u0000"', b'"' + b"x" * 9_000 + b'"'):
        await client.send(masked(1, b'{"op":%s,"id":7}' % op))
    assert (await client.objects("error", 6))[-1]["code"] == "unknown_op"


async def ten_thousand_topics(web: Web, client: RawClient) -> None:
    topics = [f"trade.kraken.S{n}" for n in range(10_000)]
    for some in (topics, topics[:5_000], ["trade.*.*"] * 10_000, ["trade.kraken.BTC-USD"] * 4_000):
        await client.send(masked(1, json.dumps({"op": "subscribe", "topics": some}).encode()))
    answers = await client.objects("subscribed", 4_000 + 5_000, "results")
    assert sum(result["ok"] for result in answers) == 4_000
    assert not any(name.startswith("trade.kraken.S") for name in web.gateway.relay._states)


async def odd_topics(web: Web, client: RawClient) -> None:
    odd = ["", ".", "..", "trade", "trade..", "trade.*", "*.*.*", "trade.kraken.btc-usd"]
    odd += [
        "trade.kraken." + "X" * 65,
        "trade.kraken.A\u0000",
        "trade.kraken.A\r\nPUBLISH",
        "__proto__",
    ]
    odd += ["x" * 200_000, "trade.KRAKEN.BTC-USD", "trade.kraken.BTC-USD ", "candle-9s.kraken.X"]
    await client.send(masked(1, json.dumps({"op": "subscribe", "topics": odd}).encode()))
    results = await client.objects("subscribed", len(odd), "results")
    assert {result.get("code") for result in results} == {"unknown_topic"}
    assert all(len(result["topic"]) <= 120 for result in results)


async def never_reads(web: Web, client: RawClient) -> None:
    await client.send(masked(1, json.dumps({"op": "subscribe", "topics": [TRADE]}).encode()))
    publisher = web.publisher
    before = web.gateway.evicted
    while web.gateway.evicted == before:
        await publisher.publish(*[publisher.trade(pad=1_000) for _ in range(20)])
        await asyncio.sleep(0.002)


async def asks_and_never_reads(web: Web, client: RawClient) -> None:
    command = masked(1, b'{"op":"subscribe","topics":["%s"]}' % (b"x" * 200_000))
    try:
        for _ in range(200):
            await client.send(command)
            await asyncio.sleep(0)
    except ConnectionError:
        pass


async def asks_for_snapshots_and_never_reads(web: Web, client: RawClient) -> None:
    from feed.websocket import Connection

    (connection,) = web.gateway.clients
    assert isinstance(connection, Connection)
    connection.session._rate = connection.session._tokens = 1e9  # type: ignore[assignment]
    connection.paused()
    command = masked(1, b'{"op":"snapshot","topics":["quote.kraken.BTC-USD"]}')
    while web.gateway.clients:
        try:
            await client.send(command * 100)
        except ConnectionError:
            break
        await asyncio.sleep(0)
    assert connection.outbox.backlog(0) == (0, 0)


async def vanishes(web: Web, client: RawClient) -> None:
    await client.send(masked(1, json.dumps({"op": "subscribe", "topics": [TRADE, QUOTE]}).encode()))
    await until(lambda: TRADE in web.gateway.relay._states)
    client.vanish()


async def vanishes_in_a_message(web: Web, client: RawClient) -> None:
    await client.send(masked(1, b"x" * 50_000)[:30_000])
    client.vanish()


async def flaps(web: Web, client: RawClient) -> None:
    on = masked(1, json.dumps({"op": "subscribe", "topics": [TRADE, QUOTE]}).encode())
    off = masked(1, json.dumps({"op": "unsubscribe", "topics": [TRADE, QUOTE]}).encode())
    await client.send((on + off) * 15)
    await client.objects("unsubscribed", 15)
    states = [web.gateway.relay._states[name] for name in (TRADE, QUOTE)]
    assert [state.interest for state in states] == [0, 0]
    await client.send((on + off) * 500)
    assert close_code(await client.receive_until_close()) == 4010


async def is_closed_and_goes_on(web: Web, client: RawClient) -> None:
    await client.send(masked(8, b"") + masked(1, b'{"op":"ping"}') * 10)
    await client.rest()


FAULTS = [
    half_a_frame,
    wrong_json,
    deep_nesting,
    ten_megabytes,
    a_flood_of_empty_messages,
    a_message_in_fragments_of_one_byte,
    binary_where_text_belongs,
    unknown_ops,
    ten_thousand_topics,
    odd_topics,
    never_reads,
    asks_and_never_reads,
    asks_for_snapshots_and_never_reads,
    vanishes,
    vanishes_in_a_message,
    flaps,
    is_closed_and_goes_on,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_one_bad_client_costs_nobody_else_anything(
    web: Web,
    fault: Callable[[Web, RawClient], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from feed import wire

    monkeypatch.setattr(wire, "_CLOSE_S", 0.2)
    (await web.get("/readyz"))
    base = descriptors(), len(asyncio.all_tasks())
    client = await RawClient.open(web.port, receive_bytes=8_192)
    await fault(web, client)

    assert (await web.get("/readyz"))[0] == 200
    async with web.client() as second:
        await second.subscribe(QUOTE, latest=[QUOTE])
        await web.publisher.publish(web.publisher.quote())
        await second.type("quote")
    client.close()
    await until(lambda: not web.gateway.clients)
    await until(lambda: web.gateway.relay.joined() == 0)
    await until(lambda: (descriptors(), len(asyncio.all_tasks())) <= base)
    assert not web.gateway.hub._throttled and not web.gateway.hub._groups


async def test_random_messages_never_break_the_connection_handler(web: Web) -> None:
    import random

    dice = random.Random(5)
    words: list[Any] = ["op", "subscribe", "topics", "id", TRADE, "quote.*.*", [], {}, None, -1]
    words += [
        1.5,
        "max_hz",
        "mode",
        "latest",
        True,
        "list",
        "snapshot",
        "options",
        "batch",
        "x" * 70,
    ]
    for _ in range(40):
        client = await RawClient.open(web.port)
        for _ in range(5):
            command = {str(dice.choice(words)): dice.choice(words) for _ in range(4)}
            if dice.random() < 0.7:
                command["op"] = dice.choice(["subscribe", "snapshot", "unsubscribe", "options"])
                command["topics"] = [dice.choice(words) for _ in range(dice.randrange(4))]
            text = json.dumps(command).encode()
            cut = text[: dice.randrange(len(text))] if dice.random() < 0.2 else text
            await client.send(masked(dice.choice((1, 1, 1, 2)), cut))
        await client.receive()
        client.vanish()
    await until(lambda: not web.gateway.clients)
    assert (await web.get("/readyz"))[0] == 200
    await until(lambda: web.gateway.relay.joined() == 0)
