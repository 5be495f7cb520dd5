from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from feed.bus.base import Retention
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.bus.redis import RedisBus
from feed.errors import BusError
from feed.models import Gap
from tests.web import Publisher, Web, catalogue, running, until

TRADE, QUOTE, BOOK = "trade.kraken.BTC-USD", "quote.kraken.BTC-USD", "book.kraken.BTC-USD"
STATUS, EXCHANGE = "status.kraken.BTC-USD", "status.kraken.ALL"


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running() as web:
        yield web


async def test_the_first_frame_is_a_welcome_with_limits_and_retention(web: Web) -> None:
    async with web.client() as client:
        welcome = await client.next()
    assert welcome["type"] == "welcome" and welcome["version"] == "1"
    assert welcome["auth"] == "none" and welcome["bus"] == "live"
    assert welcome["limits"] == {"topics": 5000, "commands_per_s": 20, "message_bytes": 262144}
    assert welcome["retention"] == {"trade": 5000, "liquidation": 1000, "book": 2000, "state": 100}
    assert isinstance(welcome["session"], str) and isinstance(welcome["time"], int)
    assert welcome["heartbeat_s"] == 5


@pytest.mark.parametrize("encoding", [None, "json", "msgpack"])
async def test_the_subprotocol_offered_is_the_one_spoken(web: Web, encoding: str | None) -> None:
    async with web.client(encoding=encoding) as client:
        expected = f"feed.v1.{encoding}" if encoding else None
        assert client.connection.subprotocol == expected
        await client.next()


async def test_both_encodings_say_the_same_field_for_field(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.quote(bid="97231.10"))
    level = ("1.10", "2.000")
    snapshot = publisher.book([level], [("1.20", "3")], snapshot=True)
    await publisher.publish(snapshot, checkpoint=publisher.book([level], [("1.20", "3")], True))
    async with web.client(encoding="json") as one, web.client(encoding="msgpack") as two:
        for client in (one, two):
            await client.subscribe(TRADE, QUOTE, BOOK, all=[TRADE, BOOK], latest=[QUOTE])
        for number in range(20):
            await publisher.publish(publisher.trade(), publisher.quote(bid=f"{number}.50"))
            await publisher.publish(publisher.book([(f"1.{number}", "5")], []))
        last = publisher.sent[BOOK][-1]["seq"]
        for client in (one, two):
            await client.read(lambda one: one.get("topic") == BOOK and one["seq"] == last)
        for topic in (TRADE, BOOK):
            assert [e for e in one.ledger.of(topic) if e["type"] != "snapshot"] == [
                e for e in two.ledger.of(topic) if e["type"] != "snapshot"
            ]
        assert one.ledger.of(TRADE) == publisher.sent[TRADE][-20:]
        shots = [client.ledger.of(BOOK)[0] for client in (one, two)]
        assert shots[0]["event"] == shots[1]["event"] and shots[0]["event"]["bids"] == [list(level)]


async def test_the_order_is_result_snapshot_synced_live(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.quote())
    async with web.client() as client:
        answer = await client.subscribe(QUOTE, TRADE, all=[TRADE], latest=[QUOTE], id=9)
        await publisher.publish(publisher.quote(bid="2.0"), publisher.trade())
        await client.type("trade")
        assert client.ledger.types() == [
            "welcome",
            "subscribed",
            "snapshot",
            "synced",
            "quote",
            "trade",
        ]
        seq = publisher.sent[QUOTE][0]["seq"]
        assert answer["results"] == [
            {"topic": QUOTE, "ok": True, "mode": "latest", "seq": seq, "health": None},
            {"topic": TRADE, "ok": True, "mode": "all", "seq": 0, "health": None},
        ]
        shot = client.seen[2]
        assert shot["seq"] == seq and shot["event"] == publisher.sent[QUOTE][0]
        assert shot["age_ms"] >= 0 and shot["health"] is None
        assert client.seen[3] == {"type": "synced", "id": 9}


async def test_a_url_subscribes_and_batches(web: Web) -> None:
    async with web.client(f"?topics={TRADE},quote.*.BTC-USD&batch=1&status=0") as client:
        client.ledger.at[TRADE] = None
        client.ledger.latest[QUOTE] = 0
        await client.type("synced")
        publisher = web.publisher
        await publisher.publish(*[publisher.trade() for _ in range(50)])
        last = publisher.sent[TRADE][-1]["seq"]
        await client.read(lambda one: one.get("seq") == last)
        assert any(isinstance(frame, list) for frame in client.frames)


@pytest.mark.parametrize(
    "query",
    ["?topics=quote.kraken.BTC-USD&max_hz=x", "?batch=2", "?max_hz=4", "?token=x", "?mode=b"],
    ids=lambda query: query.strip("?")[:12],
)
async def test_a_bad_url_is_an_error_frame_and_the_connection_stays(web: Web, query: str) -> None:
    async with web.client(query) as client:
        error = await client.type("error")
        assert error["code"] == "bad_option" and error["id"] is None
        await client.say(op="ping", id="x")
        assert (await client.type("pong"))["id"] == "x"


async def test_batch_is_an_option_that_can_be_taken_back(web: Web) -> None:
    publisher = web.publisher
    async with web.client() as client:
        await client.subscribe(TRADE, all=[TRADE])
        for batch in (True, False):
            await client.say(op="options", batch=batch)
            assert (await client.type("options"))["batch"] is batch
            before = len(client.frames)
            await publisher.publish(*[publisher.trade() for _ in range(10)])
            last = publisher.sent[TRADE][-1]["seq"]
            await client.read(lambda one, last=last: one.get("seq") == last)  # type: ignore[misc]
            assert any(isinstance(frame, list) for frame in client.frames[before:]) is batch


async def test_a_heartbeat_comes_busy_or_not(web: Web) -> None:
    async with running(heartbeat_s=0.2) as web, web.client() as client:
        for _ in range(3):
            beat = await client.type("heartbeat")
            assert (beat["lag_us"], beat["queued"]) == (0, 0)
        await client.subscribe(TRADE, all=[TRADE])
        publisher = web.publisher
        before = len(client.seen)
        while sum(one["type"] == "heartbeat" for one in client.seen[before:]) < 3:
            await publisher.publish(*[publisher.trade(pad=100) for _ in range(50)])
            last = publisher.sent[TRADE][-1]["seq"]
            await client.read(lambda one, last=last: one.get("seq") == last)  # type: ignore[misc]


async def test_after_unsubscribed_nothing_of_the_topic_comes(web: Web) -> None:
    publisher = web.publisher
    async with web.client() as client:
        await client.subscribe(TRADE, QUOTE, all=[TRADE], latest=[QUOTE])
        await publisher.publish(*[publisher.trade() for _ in range(20)])
        await client.say(op="unsubscribe", id=2, topics=[TRADE])
        await publisher.publish(*[publisher.trade() for _ in range(20)])
        answer = await client.type("unsubscribed")
        assert answer["results"] == [{"topic": TRADE, "ok": True}]
        del client.ledger.at[TRADE]  # the ledger fails if another one comes
        await publisher.publish(*[publisher.trade() for _ in range(20)], publisher.quote())
        await client.type("quote")


async def test_a_pattern_takes_in_what_is_listed_later(web: Web) -> None:
    async with web.client() as client:
        answer = await client.subscribe("trade.*.ETH-USD", "quote.*.BTC-USD", latest=[QUOTE])
        assert answer["results"][0]["matches"] == 0
        assert answer["results"][1]["topics"] == [[QUOTE, 0, None]]
        other = Publisher(web.bus, "bybit")
        await other.carry("ETH-USD", "BTC-USD")
        topic = "trade.bybit.ETH-USD"
        client.ledger.at[topic] = None
        client.ledger.latest["quote.bybit.BTC-USD"] = 0
        await until(lambda: topic in web.gateway.relay._states)
        state = web.gateway.relay._states[topic]
        await until(lambda: bool(state.audiences))
        await other.publish(other.trade("ETH-USD"), other.quote())
        found: set[str] = set()
        while found != {"trade", "quote"}:
            one = await client.type("trade", "quote", "snapshot")
            # A quote published before the topic was filled comes as its snapshot.
            found.add(one["topic"].partition(".")[0] if one.get("event", one) else "")
            found.discard("")


async def test_an_origin_that_is_not_ours_is_refused(web: Web) -> None:
    for origin in ("https://evil.example", f"http://127.0.0.1:{web.port}.evil.example", "null"):
        with pytest.raises(InvalidStatus) as refused:
            async with web.client(origin=origin):
                pass
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "forbidden"
    async with web.client(origin=f"http://127.0.0.1:{web.port}") as client:
        await client.next()


async def test_an_allowed_origin_is_let_in() -> None:
    async with running(allowed_origins=("https://good.example",)) as web:
        async with web.client(origin="https://good.example") as client:
            await client.next()
        with pytest.raises(InvalidStatus):
            async with web.client(origin="https://good.example.evil"):
                pass


async def test_past_max_clients_it_is_503_and_comes_back() -> None:
    async with running(max_clients=2) as web:
        async with web.client(), web.client():
            with pytest.raises(InvalidStatus) as refused:
                async with web.client():
                    pass
            assert refused.value.response.status_code == 503
            assert 5 <= int(refused.value.response.headers["retry-after"]) < 10
            assert (await web.get("/readyz"))[0] == 503
        await until(lambda: not web.gateway.clients)
        async with web.client() as client:
            await client.next()


async def test_max_hz_is_kept_and_the_last_value_arrives(web: Web) -> None:
    publisher = web.publisher
    async with web.client() as client:
        answer = await client.subscribe(QUOTE, latest=[QUOTE], max_hz=23)
        assert answer["results"][0]["max_hz"] == 20
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < 0.5:
            await publisher.publish(publisher.quote())
            await asyncio.sleep(0)
        last = publisher.sent[QUOTE][-1]["seq"]
        await client.read(lambda one: one.get("seq") == last)
        took = loop.time() - started
        values = [one for one in client.seen if one["type"] == "quote"]
        assert 2 <= len(values) <= took * 20 + 1


async def test_asking_again_changes_in_place_without_gap_or_repeat(web: Web) -> None:
    publisher = web.publisher
    async with web.client() as client:
        await publisher.publish(publisher.quote())
        await client.subscribe(QUOTE, latest=[QUOTE])
        got: list[int] = []
        for options in ({"mode": "all"}, {"mode": "latest", "max_hz": 50}, {"max_hz": 10}) * 3:
            await publisher.publish(*[publisher.quote() for _ in range(5)])
            await client.say(op="subscribe", topics=[QUOTE], **options)
            answer = await client.type("subscribed")
            assert answer["results"][0]["ok"]
        last = publisher.sent[QUOTE][-1]["seq"]
        got = [one["seq"] for one in client.seen if one["type"] == "quote"]
        if got[-1:] != [last]:
            await client.read(lambda one: one.get("seq") == last)
        got = [one["seq"] for one in client.seen if one["type"] == "quote"]
        assert got == sorted(set(got))
        assert sum(one["type"] == "snapshot" for one in client.seen) == 1


async def test_status_comes_along_and_goes_with_the_last_topic(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.status())
    async with web.client() as client:
        client.ledger.latest.update({STATUS: 0, EXCHANGE: 0})
        answer = await client.subscribe(TRADE, QUOTE, all=[TRADE], latest=[QUOTE], status=True)
        shots = {one["topic"] for one in client.seen if one["type"] == "snapshot"}
        assert shots == {QUOTE, STATUS}  # of the exchange's own status nothing was ever said
        assert [result["topic"] for result in answer["results"]] == [TRADE, QUOTE]
        await publisher.publish(publisher.status(health="stale"))
        assert (await client.type("status"))["kinds"]["quote"] == "stale"
        await client.say(op="snapshot", id=5, topics=[QUOTE])
        assert (await client.type("snapshot"))["health"] == "stale"
        await client.say(op="unsubscribe", topics=[TRADE])
        await client.type("unsubscribed")
        await publisher.publish(publisher.status(health="live"))
        assert (await client.type("status"))["kinds"]["quote"] == "live"
        await client.say(op="unsubscribe", topics=[QUOTE])
        await client.type("unsubscribed")
        del client.ledger.latest[STATUS], client.ledger.latest[EXCHANGE]
        await publisher.publish(publisher.status(health="stale"))
        await client.say(op="ping")
        await client.type("pong")


async def test_a_snapshot_can_be_asked_for_without_subscribing(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.quote(bid="5.5"))
    async with web.client() as client:
        await client.say(op="snapshot", id=3, topics=["quote.kraken.*", BOOK, "quote.kraken.X-Y"])
        error = await client.type("error")
        assert error["code"] == "unknown_topic" and error["id"] == 3
        assert (await client.type("snapshot"))["event"]["bid"] == "5.5"
        book = await client.type("snapshot")
        assert book["topic"] == BOOK and book["event"] is None and book["seq"] == 0
        assert await client.next() == {"type": "synced", "id": 3}
    await until(lambda: web.gateway.relay.joined() == 0)


async def test_a_book_is_a_snapshot_and_what_follows_it(web: Web) -> None:
    publisher = web.publisher
    start = publisher.book([("10.0", "1"), ("9.5", "2")], [("11.0", "3")], snapshot=True)
    window = publisher.book([("10.0", "1"), ("9.5", "2")], [("11.0", "3")], snapshot=True)
    await publisher.publish(start, checkpoint=window)
    await publisher.publish(publisher.book([("10.0", "0"), ("9.7", "4")], []))
    async with web.client() as client:
        await client.subscribe(BOOK, all=[BOOK])
        shot = client.ledger.of(BOOK)[0]
        assert shot["event"]["bids"] == [["9.7", "4"], ["9.5", "2"]]
        assert shot["event"]["snapshot"] is True and shot["event"]["seq"] == shot["seq"]
        await publisher.publish(publisher.book([("9.8", "1")], []))
        delta = await client.type("book")
        assert delta["seq"] == shot["seq"] + 1


async def test_two_commands_waiting_for_the_bus_are_answered_in_order() -> None:
    bus = SlowBus(MemoryBroker(), Retention())
    async with running(bus) as web, web.client() as client:
        client.ledger.at[TRADE] = None
        client.ledger.latest[QUOTE] = 0
        await client.say(op="subscribe", id=1, topics=[TRADE], status=False)
        await client.say(op="ping", id=2)
        await client.say(op="subscribe", id=3, topics=[QUOTE], status=False)
        await client.say(op="unsubscribe", id=4, topics=[TRADE])
        await client.say(op="list", id=5)
        await until(lambda: len(bus.waiting) == 1)
        bus.open()
        last = await client.type("subscriptions")
        ids = [one["id"] for one in client.seen if "id" in one and one["type"] != "synced"]
        assert ids == [1, 2, 3, 4, 5]
        assert [result["topic"] for result in last["results"]] == [QUOTE]
        await client.connection.close()
        await until(lambda: web.gateway.relay.joined() == 0)


class SlowBus(MemoryBus):
    """Answers ``history`` only once it is opened."""

    def __init__(self, broker: MemoryBroker, retention: Retention) -> None:
        super().__init__(broker, retention)
        self.waiting: list[str] = []
        self._gate = asyncio.Event()

    def open(self) -> None:
        self._gate.set()

    async def history(self, topic: str, after: int, limit: int | None = None) -> list[bytes]:
        self.waiting.append(topic)
        await self._gate.wait()
        return await super().history(topic, after, limit)


@pytest.mark.parametrize("commands", [1, 3, 300])
async def test_a_client_that_leaves_while_the_bus_is_asked_leaves_nothing(commands: int) -> None:
    bus = SlowBus(MemoryBroker(), Retention())
    async with running(bus, commands_per_s=1000) as web:
        async with web.client() as client:
            try:
                for n in range(commands):
                    await client.say(op="subscribe", id=n, topics=[TRADE, QUOTE])
                await until(lambda: len(bus.waiting) >= 1)
            except ConnectionClosed:
                pass
        await until(lambda: not web.gateway.clients)
        states = list(web.gateway.relay._states.values())
        assert states and all(state.interest == 0 for state in states)
        assert web.gateway.relay.readiness.waiting == 0
        bus.open()
        await until(lambda: web.gateway.relay.joined() == 0)


async def test_synced_waits_for_a_topic_that_fills_late() -> None:
    bus = FailingBus(MemoryBroker(), Retention())
    async with running(bus) as web, web.client() as client:
        publisher = web.publisher
        await publisher.publish(publisher.quote())
        bus.fails = True
        client.ledger.latest[QUOTE] = 0
        await client.say(op="subscribe", id=1, topics=[QUOTE], status=False)
        answer = await client.type("subscribed")
        assert answer["results"][0]["seq"] == 0  # the bus did not say in time
        bus.fails = False
        await client.type("synced")
        assert client.ledger.types() == ["welcome", "subscribed", "snapshot", "synced"]


class FailingBus(MemoryBus):
    fails = False

    async def history(self, topic: str, after: int, limit: int | None = None) -> list[bytes]:
        if self.fails:
            raise BusError("no answer")
        return await super().history(topic, after, limit)


async def test_a_long_list_of_topics_continues_in_further_frames(web: Web) -> None:
    symbols = [f"SYM{n:04}-USD" for n in range(1500)]
    await web.bus.put_catalogue(catalogue("sim", symbols, kinds=("quote",)))
    await until(lambda: len(web.gateway.relay.index.match("quote.sim.*")) == 1500)
    async with web.client() as client:
        client.ledger.latest.update({f"quote.sim.{symbol}": 0 for symbol in symbols})
        await client.say(op="subscribe", id=1, topics=["quote.sim.*"], status=False)
        await client.type("synced")
        answers = [one for one in client.seen if one["type"] == "subscribed"]
        assert len(answers) > 1
        assert [answer.get("more", False) for answer in answers] == [True] * (len(answers) - 1) + [
            False
        ]
        topics = [row[0] for answer in answers for r in answer["results"] for row in r["topics"]]
        assert topics == [f"quote.sim.{symbol}" for symbol in symbols]
        assert sum(one["type"] == "snapshot" for one in client.seen) == 1500


async def test_three_bad_messages_are_answered_and_then_it_is_closed(web: Web) -> None:
    async with web.client() as client:
        for _ in range(3):
            await client.connection.send("{")
        with pytest.raises(ConnectionClosed) as closed:
            await client.read(lambda one: False)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4500
        assert client.ledger.types() == ["welcome", "error", "error", "error", "closing"]
        assert client.seen[-1]["code"] == 4500
    await until(lambda: not web.gateway.clients)


async def test_too_many_commands_are_warned_about_and_then_it_is_closed(web: Web) -> None:
    async with web.client() as client:
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(200):
                await client.say(op="ping")
            await client.read(lambda one: False)
        while True:  # what was sent before it was closed
            try:
                await client.next()
            except ConnectionClosed as e:
                closed_code = e.rcvd.code if e.rcvd else None
                break
        assert closed_code == 4010 and closed.value is not None
        errors = [one for one in client.seen if one["type"] == "error"]
        assert {error["code"] for error in errors} == {"rate_limited"}


async def test_the_links_state_is_told_and_status_is_made_here(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.status(), publisher.quote())
    from feed.bus.base import LinkDown, LinkUp

    async with web.client() as client:
        client.ledger.latest.update({STATUS: 0, EXCHANGE: 0})
        await client.subscribe(QUOTE, latest=[QUOTE], status=True)
        web.gateway.relay._notice(LinkDown("cut"))
        assert (await client.type("health"))["bus"] == "stale"
        status = await client.read(lambda one: one.get("topic") == STATUS)
        assert status["seq"] is None and status["kinds"]["quote"] == "stale"
        assert status["reason"] == "bus_lost"
        async with web.client() as late:
            assert (await late.next())["bus"] == "stale"
            late.ledger.latest.update({STATUS: 0, EXCHANGE: 0})
            await late.subscribe(QUOTE, latest=[QUOTE], status=True)
            shots = {one["topic"]: one for one in late.seen if one["type"] == "snapshot"}
            assert shots[QUOTE]["health"] == "stale"
            assert shots[STATUS]["event"]["kinds"]["quote"] == "stale"
        web.gateway.relay._notice(LinkUp())
        assert (await client.type("health"))["bus"] == "live"
        status = await client.read(lambda one: one.get("topic") == STATUS)
        assert status["kinds"]["quote"] == "live" and status["reason"] == "bus_back"


async def test_a_restart_of_the_publisher_is_explained_by_the_entry_it_lands_on(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.trade())
    async with web.client() as client:
        await client.subscribe(TRADE, all=[TRADE])
        client.ledger.at[TRADE] = publisher.sent[TRADE][-1]["seq"]
        heads = await web.bus.heads([TRADE])
        again = Publisher(web.bus, epoch=5_000)
        again.sequencer = type(again.sequencer)(5_000, heads)
        await web.bus.publish(again.sequencer.restart(7))
        await again.publish(again.trade())
        gap = await client.type("gap")
        assert gap["cause"] == "publisher_restart" and gap["seq"] == gap["to"] + 1
        assert (await client.type("trade"))["seq"] == gap["seq"] + 1


async def test_gaps_do_not_reach_clients_in_latest(web: Web) -> None:
    publisher = web.publisher
    async with web.client() as client:
        await client.subscribe(QUOTE, latest=[QUOTE])
        gap = Gap(QUOTE, 0, None, 1, 0, "upstream_disconnect", None)
        await publisher.publish(publisher.quote(), gap, publisher.quote(bid="7"))
        await client.read(lambda one: one.get("bid") == "7")
        assert "gap" not in client.ledger.types()


@pytest.mark.redis
async def test_the_same_over_a_real_valkey(valkey_url: str) -> None:
    bus = RedisBus(valkey_url, Retention())
    async with running(bus) as web, web.client() as one, web.client(encoding="msgpack") as two:
        publisher = web.publisher
        await publisher.publish(publisher.quote(bid="1.5"))
        for client in (one, two):
            await client.subscribe(TRADE, QUOTE, all=[TRADE], latest=[QUOTE])
            assert client.ledger.of(QUOTE)[0]["event"]["bid"] == "1.5"
        for _ in range(20):
            await publisher.publish(*[publisher.trade() for _ in range(50)])
        last = publisher.sent[TRADE][-1]["seq"]
        for client in (one, two):
            await client.read(lambda one: one.get("seq") == last)
            assert client.ledger.of(TRADE) == publisher.sent[TRADE]


async def test_the_session_ends_with_its_socket(web: Web) -> None:
    async with web.client() as client:
        await client.subscribe(TRADE, QUOTE, all=[TRADE], latest=[QUOTE], status=True)
        client.ledger.latest.clear()
        states = list(web.gateway.relay._states.values())
        assert {state.interest for state in states} == {1}
    await until(lambda: web.gateway.relay.joined() == 0)
    assert not any(state.audiences for state in states) and not web.gateway.hub._throttled


async def test_an_unknown_path_is_not_a_websocket(web: Web) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with websockets.connect(f"ws://127.0.0.1:{web.port}/v1/nothing"):
            pass
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == "not_found"
