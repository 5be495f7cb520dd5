from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from feed.bus.base import Beat, Entry, Head, LinkDown, LinkUp, Retention, pack_header
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.encoding import JSON, MSGPACK
from feed.errors import BusError
from feed.hub import Hub
from feed.models import Gap
from feed.outbox import Outbox
from feed.owed import Snapshot
from feed.relay import Relay
from feed.sequencer import Sequencer
from feed.topic_state import Phase, Start, TopicState
from tests.ledger import Ledger, objects
from tests.web import Publisher, until

TRADE, QUOTE, BOOK = "trade.kraken.BTC-USD", "quote.kraken.BTC-USD", "book.kraken.BTC-USD"
STATUS = "status.kraken.BTC-USD"


class TestBus(MemoryBus):
    """A memory bus that can be slow, fail, and lose messages."""

    __test__ = False

    def __init__(self, broker: MemoryBroker, retention: Retention) -> None:
        super().__init__(broker, retention)
        self.fails = False
        self.deaf = False
        self.gate: asyncio.Event | None = None
        self.asked: list[str] = []

    async def history(self, topic: str, after: int, limit: int | None = None) -> list[bytes]:
        self.asked.append(topic)
        if self.fails:
            raise BusError("no answer")
        found = await super().history(topic, after, limit)
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def heads(self, topics: Any) -> dict[str, Head]:
        if self.fails:
            raise BusError("no answer")
        return await super().heads(topics)

    def _deliver(self, batch: Any) -> None:
        if not self.deaf:
            super()._deliver(batch)


class Rig:
    """A relay with one client in each encoding, over a bus that misbehaves on request."""

    def __init__(self, broker: MemoryBroker, bus: TestBus) -> None:
        self.bus = bus
        self.broker = broker
        self.hub = Hub(lambda: None, lambda: None)
        self.relay = Relay(bus, self.hub, 0.05)
        self.publisher = Publisher(bus)
        self.ledgers: list[Ledger] = []
        self.outboxes: list[Outbox] = []
        for encoding in (JSON, MSGPACK):
            ledger = Ledger()
            self.ledgers.append(ledger)
            self.outboxes.append(Outbox(encoding, 1 << 20, self.hub.report, self._writer(ledger)))

    @staticmethod
    def _writer(ledger: Ledger) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            for said in objects(data):
                ledger.take(said)

        return write

    async def join(self, topic: str, wait: bool = True) -> TopicState:
        """Subscribe both clients, as a connection does: a snapshot, then every entry."""
        state = self.relay.state(topic)
        for outbox, ledger in zip(self.outboxes, self.ledgers, strict=True):
            ledger.at[topic] = None
            self.relay.readiness.when_ready(state, Start(), outbox, self._owe(outbox, state))
        if wait:
            await until(lambda: state.phase is not Phase.FILLING)
            self.flush()
        return state

    def _owe(self, outbox: Outbox, state: TopicState) -> Callable[[], None]:
        def attach() -> None:
            self.hub.attach(outbox, state, False)

        return lambda: outbox.owe(Snapshot(state, attach))

    def flush(self) -> None:
        while self.hub.flush(1):
            pass

    async def settle(self, topic: str) -> None:
        """Wait until the topic is live and everything published has been applied."""
        state = self.relay._states[topic]
        wanted = self.publisher.sent[topic][-1]["seq"]
        await until(lambda: state.phase is Phase.LIVE and state.seq >= wanted)
        self.flush()

    @property
    def ledger(self) -> Ledger:
        first, second = self.ledgers
        assert without_age(first.seen) == without_age(second.seen)
        return first


def without_age(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if key != "age_ms"} for one in seen]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    broker = MemoryBroker()
    bus = TestBus(broker, Retention())
    rig = Rig(broker, bus)
    await rig.relay.start()
    await rig.publisher.carry("BTC-USD")
    yield rig
    await rig.relay.close()
    await bus.close()


async def test_what_comes_while_history_is_read_is_neither_lost_nor_doubled(rig: Rig) -> None:
    publisher = rig.publisher
    await publisher.publish(*[publisher.trade() for _ in range(3)])
    rig.bus.gate = asyncio.Event()
    state = await rig.join(TRADE, wait=False)
    await until(lambda: TRADE in rig.bus.asked)
    await publisher.publish(*[publisher.trade() for _ in range(4)])
    await asyncio.sleep(0)
    assert state.phase is Phase.FILLING
    rig.bus.gate.set()
    await until(lambda: state.phase is Phase.LIVE)
    rig.flush()
    await publisher.publish(publisher.trade())
    await rig.settle(TRADE)
    snapshot, trade = rig.ledger.seen
    assert snapshot["seq"] == publisher.sent[TRADE][-2]["seq"]
    assert trade == publisher.sent[TRADE][-1]


async def test_a_jump_is_repaired_from_history(rig: Rig) -> None:
    publisher = rig.publisher
    await rig.join(TRADE)
    await publisher.publish(publisher.trade())
    rig.bus.deaf = True
    await publisher.publish(*[publisher.trade() for _ in range(5)])
    await asyncio.sleep(0)
    rig.bus.deaf = False
    await publisher.publish(publisher.trade(), publisher.trade())
    await rig.settle(TRADE)
    assert [one for one in rig.ledger.seen if one["type"] == "trade"] == publisher.sent[TRADE]
    assert rig.ledger.lost == {}


@pytest.mark.parametrize("reason", ["the bus fails", "the stream is gone"])
async def test_what_history_does_not_have_is_a_gap_of_the_bus(rig: Rig, reason: str) -> None:
    publisher = rig.publisher
    await publisher.publish(publisher.trade())
    await rig.join(TRADE)
    rig.bus.deaf = True
    await publisher.publish(*[publisher.trade() for _ in range(5)])
    await asyncio.sleep(0)
    rig.bus.deaf = False
    if reason == "the bus fails":
        rig.bus.fails = True
    else:
        rig.broker.streams.clear()
    await publisher.publish(publisher.trade(), publisher.trade())
    await rig.settle(TRADE)
    types = [one["type"] for one in rig.ledger.seen]
    assert types == ["snapshot", "gap", "trade", "trade"]
    gap = rig.ledger.seen[1]
    assert (gap["cause"], gap["to"] - gap["from"], gap["lost"]) == ("bus_loss", 4, None)


async def test_entries_that_come_during_a_repair_wait_for_it(rig: Rig) -> None:
    publisher = rig.publisher
    await publisher.publish(publisher.trade())
    state = await rig.join(TRADE)
    rig.bus.deaf = True
    await publisher.publish(publisher.trade())
    await asyncio.sleep(0)
    rig.bus.deaf = False
    rig.bus.gate = asyncio.Event()
    await publisher.publish(publisher.trade())
    await until(lambda: state.phase is Phase.REPAIRING)
    await publisher.publish(*[publisher.trade() for _ in range(3)])
    rig.bus.gate.set()
    await rig.settle(TRADE)
    assert [one for one in rig.ledger.seen if one["type"] == "trade"] == publisher.sent[TRADE][1:]


async def restart(rig: Rig, *topics: str) -> Publisher:
    """Let another publisher take over."""
    again = Publisher(rig.bus)
    again.sent = rig.publisher.sent
    again.sequencer = Sequencer(900_000, await rig.bus.heads(topics))
    entries = again.sequencer.restart(9)
    for entry in entries:
        again.sent[entry.topic].append(json.loads(entry.payload[16:]))
    await rig.bus.publish(entries)
    rig.publisher = again
    return again


async def test_a_restarted_publisher_explains_its_jump_itself(rig: Rig) -> None:
    publisher = rig.publisher
    await publisher.publish(publisher.trade())
    await rig.join(TRADE)
    again = await restart(rig, TRADE)
    await again.publish(again.trade())
    await rig.settle(TRADE)
    assert [one["type"] for one in rig.ledger.seen] == ["snapshot", "gap", "trade"]
    assert rig.ledger.seen[1]["cause"] == "publisher_restart"
    assert rig.bus.asked.count(TRADE) == 1  # nothing had to be repaired


async def test_what_the_former_publisher_still_sends_is_dropped(rig: Rig) -> None:
    former = rig.publisher
    await former.publish(former.trade())
    await rig.join(TRADE)
    late = former.entry(former.trade())
    del former.sent[TRADE][-1]
    again = await restart(rig, TRADE)
    rig.bus._deliver([late])
    await again.publish(again.trade())
    rig.bus._deliver([late])
    await rig.settle(TRADE)
    assert [one["type"] for one in rig.ledger.seen] == ["snapshot", "gap", "trade"]


async def test_a_restart_missed_entirely_is_repaired(rig: Rig) -> None:
    publisher = rig.publisher
    await publisher.publish(publisher.trade())
    await rig.join(TRADE)
    rig.bus.deaf = True
    await publisher.publish(publisher.trade())
    again = await restart(rig, TRADE)
    await asyncio.sleep(0)
    rig.bus.deaf = False
    await again.publish(again.trade())
    await rig.settle(TRADE)
    assert [one["type"] for one in rig.ledger.seen] == ["snapshot", "trade", "gap", "trade"]


async def start_book(rig: Rig) -> None:
    publisher = rig.publisher
    level, ask = ("10.0", "1"), ("11.0", "3")
    await publisher.publish(
        publisher.book([level], [ask], snapshot=True),
        checkpoint=publisher.book([level], [ask], snapshot=True),
    )


async def test_a_book_is_its_checkpoint_and_the_stream_after_it(rig: Rig) -> None:
    publisher = rig.publisher
    await start_book(rig)
    await publisher.publish(publisher.book([("9.5", "2")], [("11.0", "0"), ("11.5", "1")]))
    state = await rig.join(BOOK)
    assert state.valid
    event = rig.ledger.seen[0]["event"]
    assert event["bids"] == [["10.0", "1"], ["9.5", "2"]] and event["asks"] == [["11.5", "1"]]
    assert event["seq"] == publisher.sent[BOOK][-1]["seq"]


async def test_a_stream_that_does_not_reach_back_makes_a_book_invalid(rig: Rig) -> None:
    publisher = rig.publisher
    await start_book(rig)
    await publisher.publish(*[publisher.book([("9.5", str(n))], []) for n in range(1, 4)])
    rig.broker.streams[BOOK].entries.popleft()
    rig.broker.streams[BOOK].entries.popleft()
    state = await rig.join(BOOK)
    assert not state.valid
    shot = rig.ledger.seen[0]
    assert shot["event"] is None and shot["health"] == "invalid"
    await publisher.publish(publisher.book([("1", "1")], [], snapshot=True))
    await rig.settle(BOOK)
    assert state.valid and rig.ledger.seen[-1]["snapshot"] is True


@pytest.mark.parametrize("checkpoint", [b"", b"{", b"x" * 40, b'{"type":"gap"}'], ids=repr)
async def test_a_checkpoint_that_is_none_makes_no_book(rig: Rig, checkpoint: bytes) -> None:
    publisher = rig.publisher
    await publisher.publish(publisher.book([("1", "1")], []))
    rig.broker.checkpoints[BOOK] = pack_header(1_000, 1_000) + checkpoint
    state = await rig.join(BOOK)
    assert not state.valid and rig.ledger.seen[0]["event"] is None


async def lose_a_delta(rig: Rig, keep_checkpoint: bool) -> None:
    """Lose a delta on its way and in the stream."""
    publisher = rig.publisher
    await start_book(rig)
    await rig.join(BOOK)
    await publisher.publish(publisher.book([("9.5", "2")], []))
    rig.bus.deaf = True
    await publisher.publish(publisher.book([("9.0", "7")], []))
    if keep_checkpoint:
        levels: Any = [("10.0", "1"), ("9.5", "2"), ("9.0", "7")]
        window = publisher.book(levels, [("11.0", "3")], snapshot=True)
        await rig.bus.publish([], [publisher.sequencer.checkpoint(window, 7)])
    await asyncio.sleep(0)
    rig.bus.deaf = False
    rig.broker.streams[BOOK].entries.pop()
    await publisher.publish(publisher.book([("8.5", "1")], []))
    await publisher.publish(publisher.book([("8.4", "1")], []))
    await rig.settle(BOOK)


async def test_a_book_with_a_hole_starts_afresh_from_a_checkpoint(rig: Rig) -> None:
    await lose_a_delta(rig, keep_checkpoint=True)
    assert [one["type"] for one in rig.ledger.seen][:4] == ["snapshot", "book", "gap", "book"]
    shot = rig.ledger.seen[-1] if rig.ledger.seen[-1]["type"] == "snapshot" else None
    shots = [one for one in rig.ledger.seen if one["type"] == "snapshot"]
    assert len(shots) == 2
    bids = dict(shots[-1]["event"]["bids"])
    assert bids["9.0"] == "7" and bids["8.5"] == "1"
    assert shot is None or shot["seq"] == rig.publisher.sent[BOOK][-1]["seq"]
    assert rig.relay._states[BOOK].valid


async def test_a_book_with_a_hole_and_no_checkpoint_is_said_to_be_invalid(rig: Rig) -> None:
    await lose_a_delta(rig, keep_checkpoint=False)
    shots = [one for one in rig.ledger.seen if one["type"] == "snapshot"]
    assert shots[-1]["event"] is None and shots[-1]["health"] == "invalid"
    assert not rig.relay._states[BOOK].valid


async def test_a_checkpoint_that_the_stream_does_not_reach_back_to_takes_nothing_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What subscribers had between the checkpoint and the stream's oldest entry is not lost."""
    publisher = rig.publisher
    await start_book(rig)
    await rig.join(BOOK)
    for n in range(8):
        await publisher.publish(publisher.book([(f"8.{n}", "1")], []))
    await rig.settle(BOOK)
    had = rig.ledger.at[BOOK]
    assert had is not None and had == publisher.sent[BOOK][-1]["seq"]
    publisher.entry(publisher.book([("8.8", "1")], []))  # has a position and is never published
    rig.broker.streams[BOOK].entries.clear()  # as after many more entries than are kept
    rig.broker.streams[BOOK].entries.append(publisher.entry(publisher.book([("8.9", "1")], [])))
    checkpoint = rig.bus.checkpoint

    async def meanwhile(topic: str) -> bytes | None:
        """Between the repair and the reading of the book the stream moves on altogether."""
        rig.broker.streams[BOOK].entries.clear()
        rig.broker.streams[BOOK].entries.append(publisher.entry(publisher.book([("5", "1")], [])))
        await publisher.publish(publisher.book([("6", "1")], []))
        return await checkpoint(topic)

    monkeypatch.setattr(rig.bus, "checkpoint", meanwhile)
    await publisher.publish(publisher.book([("7", "1")], []))
    await rig.settle(BOOK)
    gaps = [one for one in rig.ledger.of(BOOK) if one["type"] == "gap"]
    assert [(gap["cause"], gap["from"], gap["to"]) for gap in gaps] == [
        ("bus_loss", had + 1, had + 1)
    ]
    assert not rig.relay._states[BOOK].valid, "nobody knows what the book is"


GARBAGE = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"short", id="half a header"),
    pytest.param(pack_header(1_000, 1_001), id="a header alone"),
    pytest.param(pack_header(1_000, 1_001) + b"{", id="half an object"),
    pytest.param(pack_header(1_000, 1_001) + b"[1]", id="no object"),
    pytest.param(pack_header(1_000, 1_001) + b'{"a":"\xff"}', id="not UTF-8"),
    pytest.param(pack_header(1_000, 1_001) + b'{"a":' * 90_000, id="deep nesting"),
    pytest.param(pack_header(1 << 63, 1 << 63) + b"{}", id="the end of time"),
]


@pytest.mark.parametrize("payload", GARBAGE)
@pytest.mark.parametrize("topic", [TRADE, BOOK])
async def test_garbage_on_the_bus_costs_itself_alone(rig: Rig, topic: str, payload: bytes) -> None:
    publisher = rig.publisher
    await start_book(rig)
    await publisher.publish(publisher.trade())
    await rig.join(topic)
    rig.bus._deliver([Entry(topic, 1_001, payload)])
    assert rig.relay.entries.bad == 1
    await publisher.publish(publisher.trade(), publisher.book([("9", "1")], []))
    await rig.settle(topic)
    assert rig.ledger.seen[-1] == publisher.sent[topic][-1]
    assert rig.ledger.lost == {}


async def test_garbage_in_the_stream_is_one_lost_entry(rig: Rig) -> None:
    publisher = rig.publisher
    await publisher.publish(publisher.trade())
    await rig.join(TRADE)
    entry = publisher.entry(publisher.trade())
    await rig.bus.publish([Entry(TRADE, entry.seq, entry.payload[:40])])
    await publisher.publish(publisher.trade())
    await rig.settle(TRADE)
    assert [one["type"] for one in rig.ledger.seen] == ["snapshot", "gap", "trade"]
    assert rig.ledger.lost == {TRADE: 1}
    late = Rig(rig.broker, rig.bus)
    late.publisher = publisher
    await late.join(TRADE)  # a topic with garbage in it can still be joined
    await late.relay.close()


async def test_a_topic_that_cannot_be_joined_is_tried_again(rig: Rig) -> None:
    publisher = rig.publisher
    await publisher.publish(publisher.trade())
    rig.bus.fails = True
    state = await rig.join(TRADE, wait=False)
    await until(lambda: len(rig.bus.asked) == 1)
    rig.bus.fails = False
    await until(lambda: state.phase is Phase.LIVE)
    assert state.seq == publisher.sent[TRADE][-1]["seq"]


async def test_a_topic_nobody_wants_is_left_after_a_while_and_can_come_back(rig: Rig) -> None:
    state = await rig.join(TRADE)
    for outbox in rig.outboxes:
        rig.hub.detach(outbox, state)
    rig.relay.release(state)
    assert rig.relay.state(TRADE) is state  # it lingers
    rig.relay.release(state)
    await until(lambda: rig.relay.joined() == 0)
    assert TRADE not in rig.bus._sinks
    assert rig.relay.state(TRADE) is not state


async def test_a_silent_publisher_is_told_and_so_is_its_return(rig: Rig) -> None:
    publisher = rig.publisher
    await publisher.publish(publisher.status(), publisher.quote())
    status, quote = await rig.join(STATUS), await rig.join(QUOTE)
    assert quote.health == "live"
    rig.relay.liveness._beats["kraken"] -= 10
    await until(lambda: rig.relay.liveness.is_cut_off("kraken"))
    rig.flush()
    told = rig.ledger.seen[-1]
    assert told["seq"] is None and told["reason"] == "publisher_silent"
    assert told["kinds"] == dict.fromkeys(("trade", "quote", "book"), "stale")
    assert quote.health == "stale"
    shot = json.loads(status.snapshot(JSON, 1))
    assert shot["event"]["kinds"]["quote"] == "stale"
    rig.relay._notice(Beat("kraken"))
    rig.flush()
    assert rig.ledger.seen[-1]["kinds"]["quote"] == "live"
    assert quote.health == "live"
    assert json.loads(status.snapshot(JSON, 2))["event"]["kinds"]["quote"] == "live"


async def test_after_a_lost_link_the_quiet_topics_are_repaired_before_it_is_said(rig: Rig) -> None:
    publisher = rig.publisher
    told: list[bool] = []
    rig.relay.on_link = lambda is_live, since: told.append(is_live)
    await rig.join(TRADE)
    await publisher.publish(publisher.trade())
    rig.relay._notice(LinkDown("cut"))
    rig.bus.deaf = True
    await publisher.publish(publisher.trade(), publisher.trade())
    await asyncio.sleep(0)
    rig.bus.deaf = False
    rig.relay._notice(LinkUp())
    await until(lambda: told == [False, True])
    rig.flush()
    assert rig.ledger.of(TRADE)[1:] == publisher.sent[TRADE]


async def test_a_link_that_falls_again_while_it_is_caught_up_is_not_said_to_live(rig: Rig) -> None:
    publisher = rig.publisher
    told: list[bool] = []
    rig.relay.on_link = lambda is_live, since: told.append(is_live)
    await publisher.publish(publisher.trade())
    await rig.join(TRADE)
    rig.relay._notice(LinkDown("cut"))
    rig.bus.fails = True
    rig.relay._notice(LinkUp())
    await asyncio.sleep(0)
    rig.relay._notice(LinkDown("cut again"))
    rig.bus.fails = False
    tasks = list(rig.relay._tasks)
    await until(lambda: sum(not task.done() for task in tasks) == 1)
    assert told == [False] and not rig.relay.liveness.is_linked
    rig.relay._notice(LinkUp())
    await until(lambda: told == [False, True])


async def test_a_bus_that_is_back_but_does_not_answer_is_asked_again(rig: Rig) -> None:
    told: list[bool] = []
    rig.relay.on_link = lambda is_live, since: told.append(is_live)
    await rig.join(TRADE)
    rig.relay._notice(LinkDown("cut"))
    rig.bus.fails = True
    rig.relay._notice(LinkUp())
    await asyncio.sleep(0)
    rig.bus.fails = False
    await until(lambda: told == [False, True])


async def test_a_gap_of_the_exchange_makes_a_book_invalid_until_its_snapshot(rig: Rig) -> None:
    publisher = rig.publisher
    await start_book(rig)
    state = await rig.join(BOOK)
    await publisher.publish(Gap(BOOK, 0, None, 1, 0, "upstream_sequence", None))
    await rig.settle(BOOK)
    assert not state.valid
    await publisher.publish(publisher.book([("1", "1")], [], snapshot=True))
    await rig.settle(BOOK)
    assert state.valid


async def test_entries_lost_before_the_first_one_heard_are_found(rig: Rig) -> None:
    publisher = rig.publisher
    await rig.join(TRADE)
    rig.bus.deaf = True
    await publisher.publish(publisher.trade(), publisher.trade())
    await asyncio.sleep(0)
    rig.bus.deaf = False
    await publisher.publish(publisher.trade())
    await rig.settle(TRADE)
    assert [one for one in rig.ledger.seen if one["type"] == "trade"] == publisher.sent[TRADE]


async def test_what_was_heard_during_a_repair_is_not_lost_though_the_stream_let_go_of_it(
    rig: Rig,
) -> None:
    publisher = rig.publisher
    await rig.join(QUOTE)
    rig.bus.deaf = True
    await publisher.publish(publisher.quote())
    await asyncio.sleep(0)
    rig.bus.deaf = False
    kept = Retention().of("quote")
    await publisher.publish(*[publisher.quote() for _ in range(kept + 50)])
    await rig.settle(QUOTE)
    got = [one for one in rig.ledger.seen if one["type"] == "quote"]
    assert got == publisher.sent[QUOTE][1:]


async def test_a_topic_that_begins_is_known_to_be_whole(rig: Rig) -> None:
    publisher = rig.publisher
    state = await rig.join(QUOTE)
    rig.bus.fails = True  # nothing can be read
    await publisher.publish(publisher.quote(), publisher.quote())
    await asyncio.sleep(0)
    rig.flush()
    assert state.phase is Phase.LIVE
    got = [one for one in rig.ledger.seen if one["type"] == "quote"]
    assert got == publisher.sent[QUOTE]
