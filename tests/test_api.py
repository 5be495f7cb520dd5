from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from feed.app import create_app
from feed.bus.base import LinkDown, Retention
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.config import Settings
from feed.gateway import Gateway
from tests.web import Publisher, Web, catalogue, running, until

TRADE = "trade.kraken.BTC-USD"
QUOTE, BOOK = "quote.kraken.BTC-USD", "book.kraken.BTC-USD"


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running() as web:
        yield web


async def test_the_loop_turns_and_it_is_ready(web: Web) -> None:
    assert await web.get("/livez") == (200, {"ok": True})
    status, body = await web.get("/readyz")
    assert status == 200 and body["ok"] and body["reasons"] == {}


async def test_without_its_bus_it_lives_but_is_not_ready(web: Web) -> None:
    web.gateway.relay._notice(LinkDown("cut"))
    assert (await web.get("/livez"))[0] == 200
    status, body = await web.get("/readyz")
    assert status == 503 and "cut" in body["reasons"]["bus"]


async def test_exchanges_are_listed_with_their_state(web: Web) -> None:
    _, body = await web.get("/v1/exchanges")
    (row,) = body["exchanges"]
    assert row["exchange"] == "kraken" and row["source"] == "sim"
    assert (row["listed"], row["carried"], row["topics"]) == (1, 1, 6)


@pytest.mark.parametrize("limit", [1, 2, 5, 1000])
async def test_topics_come_in_pages_that_miss_nothing(web: Web, limit: int) -> None:
    _, whole = await web.get("/v1/topics")
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        _, page = await web.get(f"/v1/topics?limit={limit}&cursor={cursor}")
        found += page["topics"]
        cursor = page["cursor"]
    assert found == whole["topics"] and len(found) == 6
    assert found[0] == {
        "topic": BOOK,
        "kind": "book",
        "exchange": "kraken",
        "symbol": "BTC-USD",
    }


async def test_topics_are_found_by_pattern(web: Web) -> None:
    _, body = await web.get("/v1/topics?pattern=status.*.*")
    assert [row["symbol"] for row in body["topics"]] == ["ALL", "BTC-USD"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/topics?limit=0",
        "/v1/topics?limit=x",
        "/v1/topics?limit=1001",
        "/v1/topics?pattern=nonsense",
        "/v1/instruments?limit=-1",
        "/v1/snapshot",
        "/v1/snapshot?topics=",
        f"/v1/history/{TRADE}?limit=0",
        f"/v1/history/{TRADE}?after=x",
        "/v1/history/trade.kraken.*",
        "/v1/history/nonsense",
    ],
)
async def test_a_bad_query_is_an_error_with_a_code(web: Web, path: str) -> None:
    status, body = await web.get(path)
    assert status == 400 and body["error"]["code"] == "bad_option" and body["error"]["message"]


async def test_instruments_are_searched_and_paged(web: Web) -> None:
    await web.bus.put_catalogue(catalogue("sim", [f"S{n}-USD" for n in range(5)]))
    await until(lambda: len(web.gateway.relay.index.instruments()) == 6)
    _, body = await web.get("/v1/instruments?q=btc")
    assert [row["symbol"] for row in body["instruments"]] == ["BTC-USD"]
    _, body = await web.get("/v1/instruments?exchange=sim&limit=3")
    assert [row["native"] for row in body["instruments"]] == ["S0USD", "S1USD", "S2USD"]
    _, body = await web.get(f"/v1/instruments?exchange=sim&limit=3&cursor={body['cursor']}")
    assert len(body["instruments"]) == 2 and body["cursor"] is None


async def test_history_is_paged_forwards_without_a_hole_or_a_repeat(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(*(publisher.trade() for _ in range(25)))
    path, found, after = f"/v1/history/{TRADE}?limit=10", [], 0
    while True:
        status, body = await web.get(f"{path}&after={after}")
        assert status == 200 and body["topic"] == TRADE
        found += body["entries"]
        if body["next"] is None:
            break
        assert len(body["entries"]) == 10
        after = body["next"]["after"]
    assert found == publisher.sent[TRADE]


async def test_history_without_a_start_is_the_newest_and_pages_backwards(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(*(publisher.trade() for _ in range(25)))
    _, body = await web.get(f"/v1/history/{TRADE}?limit=10")
    found = body["entries"]
    while body["next"]:
        _, body = await web.get(f"/v1/history/{TRADE}?limit=10&before={body['next']['before']}")
        found = body["entries"] + found
    assert found == publisher.sent[TRADE]
    seqs = [one["seq"] for one in found]
    _, body = await web.get(f"/v1/history/{TRADE}?after={seqs[2]}&before={seqs[6]}")
    assert [one["seq"] for one in body["entries"]] == seqs[3:6] and body["next"] is None


async def test_history_of_what_nobody_carries_is_not_found(web: Web) -> None:
    status, body = await web.get("/v1/history/trade.kraken.NO-NO")
    assert status == 404 and body["error"]["code"] == "unknown_topic"
    status, body = await web.get("/v1/history/quote.kraken.BTC-USD")
    assert (status, body["entries"], body["next"]) == (200, [], None)


async def test_history_while_the_bus_is_away_is_unavailable(web: Web) -> None:
    await web.bus.close()
    status, body = await web.get(f"/v1/history/{TRADE}")
    assert status == 503 and body["error"]["code"] == "bus_lost"


async def test_current_values_are_a_request_away(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.quote(bid="97231.10"))
    status, body = await web.get(f"/v1/snapshot?topics={QUOTE},{BOOK},quote.kraken.NO-NO")
    assert status == 200
    quote, book = body["snapshots"]
    assert quote["event"]["bid"] == "97231.10" and quote["type"] == "snapshot"
    assert book["event"] is None
    assert body["errors"][0]["code"] == "unknown_topic"
    await until(lambda: web.gateway.relay.joined() == 0)


async def test_only_unknown_topics_are_a_404(web: Web) -> None:
    status, body = await web.get("/v1/snapshot?topics=quote.kraken.NO-NO")
    assert status == 404 and body["snapshots"] == []


@pytest.mark.parametrize("path", ["/v1/nothing", "/static/../feed/app.py", "/%2e%2e/app.py"])
async def test_an_unknown_path_is_a_404_in_json(web: Web, path: str) -> None:
    status, body = await web.get(path)
    assert status == 404 and body["error"]["code"] == "not_found"


# Under an ASGI server without our protocol class, through plain `send`.


@pytest.fixture
def plain() -> TestClient:
    bus = MemoryBus(MemoryBroker(), Retention())
    app = create_app(Settings(linger_s=0.1), bus)
    app.state.bus = bus
    return TestClient(app)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_without_the_wire_class_the_same_is_said(plain: TestClient, encoding: str) -> None:
    import json

    import msgspec

    with plain as client:
        bus: MemoryBus = client.app.state.bus  # type: ignore[attr-defined]
        publisher = Publisher(bus)
        assert client.portal is not None
        client.portal.call(publisher.carry, "BTC-USD")
        client.portal.call(publisher.publish, publisher.quote())
        with client.websocket_connect("/v1/ws", subprotocols=[f"feed.v1.{encoding}"]) as socket:

            def say(command: Any) -> None:
                if encoding == "json":
                    socket.send_text(json.dumps(command))
                else:
                    socket.send_bytes(msgspec.msgpack.encode(command))

            def hear() -> Any:
                if encoding == "json":
                    return socket.receive_json()
                return msgspec.msgpack.decode(socket.receive_bytes())

            assert hear()["type"] == "welcome"
            say({"op": "subscribe", "id": 1, "topics": [QUOTE], "status": False})
            assert [hear()["type"] for _ in range(3)] == ["subscribed", "snapshot", "synced"]
            for n in range(3):
                client.portal.call(publisher.publish, publisher.quote(bid=f"{n}.0"))
                assert hear()["bid"] == f"{n}.0"
        assert client.get("/readyz").json()["clients"] == 0


def test_without_the_wire_class_it_is_closed_with_the_same_codes(plain: TestClient) -> None:
    with plain as client, client.websocket_connect("/v1/ws") as socket:
        assert socket.receive_json()["type"] == "welcome"
        for _ in range(3):
            socket.send_text("{")
        types = []
        with pytest.raises(WebSocketDisconnect) as closed:
            while True:
                types.append(socket.receive_json()["type"])
        assert closed.value.code == 4500
        assert types[:1] == ["error"]


def test_without_the_wire_class_the_same_clients_are_refused(plain: TestClient) -> None:
    gateway: Gateway = plain.app.state.gateway  # type: ignore[attr-defined]
    with plain as client:
        for shut, headers, status in (
            (None, {"origin": "https://evil.example"}, 403),
            (1e9, {}, 503),
        ):
            gateway.door.shut_until = shut
            with pytest.raises(WebSocketDenialResponse) as refused:
                with client.websocket_connect("/v1/ws", headers=headers):
                    pass
            assert refused.value.status_code == status
            assert ("retry-after" in refused.value.headers) == (status == 503)


def test_security_headers_are_on_every_page(plain: TestClient) -> None:
    with plain as client:
        for path in ("/", "/livez", "/v1/nothing"):
            headers = client.get(path).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
