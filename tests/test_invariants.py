"""Invariants 1 and 2 under random faults: real sequencer, relay, hub, outbox and session.

Whatever happens to the bus, the publisher, a client or its connection: of a topic in ``all``,
every entry after the first position a client has is given once, in order and field for field, or
lies inside a gap that was given; and no position jumps without one. What a client has is carried
from one connection to the next by ``since``, so the row is checked across reconnects.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from feed import relay as relay_module
from feed.bus.base import Retention
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.config import Settings
from feed.encoding import ENCODINGS, Encoding
from feed.errors import BusError, CloseCode
from feed.gateway import Gateway
from feed.models import Book, Event, Gap, Quote, Trade
from feed.sequencer import Sequencer
from feed.websocket import Connection
from tests.ledger import Ledger, objects
from tests.web import catalogue

TRADE, OTHER, BOOK, QUOTE = "trade.a.X", "trade.a.Y", "book.a.X", "quote.a.X"
TOPICS = (TRADE, OTHER, BOOK, QUOTE)
RETENTION = Retention(trade=30, liquidation=10, book=20, state=15)
_to_msgpack = msgspec.msgpack.Encoder().encode


class Bot:
    """A client: what it has of each topic, its present connection, and a socket that may stall."""

    def __init__(self, gateway: Gateway, encoding: Encoding, published: dict[str, dict[int, Any]]):
        self.gateway = gateway
        self.encoding = encoding
        self.published = published
        self.connection: Connection | None = None
        self.written = 0
        self.ledger = Ledger()
        self.has: dict[str, int] = {}
        self.wishes: dict[str, str] = {}
        self.claims: dict[str, int] = {}
        self.told: dict[str, bool] = {}
        self.is_stalled = False
        self.failure: AssertionError | None = None

    # The socket.

    def write(self, data: bytes) -> None:
        try:
            for said in objects(data):
                for one in said if isinstance(said, list) else [said]:
                    self.take(one)
        except AssertionError as e:  # the hub would end the client, and the test would not see it
            self.failure = self.failure or e
        if self.is_stalled and self.connection is not None:
            self.connection.paused()

    def ping(self) -> None: ...

    def close(self, code: CloseCode, reason: str) -> None:
        self.failure = self.failure or AssertionError((code, reason))

    def abort(self) -> None:
        self.failure = self.failure or AssertionError("ended")

    def unsent(self) -> int:
        return 0

    def acknowledged(self) -> int:
        return 0

    # What it does.

    def connect(self, now_s: float) -> None:
        self.ledger = Ledger()
        self.wishes.clear()
        self.claims.clear()
        self.is_stalled = False
        self.connection = Connection(self.gateway, self, self.encoding, now_s)

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.lost()
            self.connection = None

    def say(self, **command: Any) -> None:
        assert self.connection is not None
        is_text = self.encoding.opcode == 1
        data = json.dumps(command).encode() if is_text else _to_msgpack(command)
        self.connection.received(data, is_text)

    def subscribe(self, topic: str, mode: str, resumes: bool, last: int) -> None:
        if topic in self.wishes:
            return
        self.wishes[topic] = mode
        since = self.has.pop(topic, None) if resumes else None
        if mode == "latest":
            self.ledger.latest[topic] = 0
            self.has.pop(topic, None)
            since = None
        else:
            self.ledger.at[topic] = since
            if since is not None:
                self.claims[topic] = since
        options: dict[str, Any] = {"since": {topic: since}} if since is not None else {}
        if mode == "latest" or topic.startswith("quote"):
            options |= {"mode": mode}
        if last:
            options |= {"last": last}
        self.say(op="subscribe", topics=[topic], status=False, **options)

    def unsubscribe(self, topic: str) -> None:
        if self.wishes.pop(topic, None) is None:
            return
        self.say(op="unsubscribe", topics=[topic])
        self.remember(topic)
        self.ledger.at.pop(topic, None)
        self.ledger.latest.pop(topic, None)
        self.ledger._owed_snapshot.pop(topic, None)

    def remember(self, topic: str) -> None:
        """Note what it has of a topic in ``all``; nothing where it was told that it has nothing."""
        at = self.ledger.at.get(topic)
        if topic in self.claims:
            self.has[topic] = self.claims.pop(topic)  # not answered yet
        elif at:
            self.has[topic] = at

    def take(self, one: dict[str, Any]) -> None:
        assert one["type"] not in ("error", "closing"), one
        topic = one.get("topic")
        if one["type"] == "subscribed":
            for result in one["results"]:
                assert result["ok"], result
                if "recovered" in result and result["topic"] in self.claims:
                    self.told[result["topic"]] = result["recovered"]
        if topic in self.claims and topic in self.told:
            claim, recovered = self.claims.pop(topic), self.told.pop(topic)
            is_too_old = one["type"] == "gap" and one.get("cause") == "resume_too_old"
            assert not (recovered and is_too_old), one
            if is_too_old:
                # Where more was claimed than there is, the gap ends below the claim.
                assert one["from"] == min(claim + 1, one["to"]), (claim, one)
                if one["to"] <= claim:
                    self.ledger.at[topic] = None if one["to"] == 0 else one["from"] - 1
        if topic in self.published and one.get("seq") is not None and one["type"] != "snapshot":
            sent = self.published[topic].get(one["seq"])
            assert sent is not None, f"never published: {one}"
            assert one == sent, (one, sent)
        self.ledger.take(one)


class World(RuleBasedStateMachine):
    """One web process, one publisher at a time, and four clients."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.patch = pytest.MonkeyPatch()
        for name, value in (("_FILL_RETRY_S", 0.001), ("_REPAIR_S", 0.05), ("_TICK_S", 0.002)):
            self.patch.setattr(relay_module, name, value)
        self.broker = MemoryBroker()
        self.reader = MemoryBus(self.broker, RETENTION)
        self.writer = MemoryBus(self.broker, RETENTION)
        self.published: dict[str, dict[int, Any]] = {topic: {} for topic in TOPICS}
        self.epoch = 1_000
        self.sequencer = Sequencer(self.epoch, {})
        self.book_size = 0
        self.bots: list[Bot] = []
        self.refuses = False

    @initialize(outbox=st.sampled_from([65_536, 1 << 20]), every=st.sampled_from([5, 40]))
    def start(self, outbox: int, every: int) -> None:
        self.checkpoint_every = every  # the stream may not reach back to the rarer ones
        options = Settings(
            outbox_max_bytes=outbox,
            linger_s=0.005,
            patience_max_ms=0.0,
            commands_per_s=10_000,
            retention_trade=RETENTION.trade,
            retention_book=RETENTION.book,
            retention_state=RETENTION.state,
        )
        self.gateway = Gateway(options, self.reader)
        self.run(self.writer.start())
        self.run(self.gateway.start())
        self.run(self.writer.put_catalogue(catalogue("a", ("X", "Y"))))
        self.turn()
        for name in ("feed.v1.json", "feed.v1.msgpack", "feed.v1.json", "feed.v1.msgpack"):
            bot = Bot(self.gateway, ENCODINGS[name], self.published)
            bot.connect(self.loop.time())
            self.bots.append(bot)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def turn(self, times: int = 6) -> None:
        """Let everything that is ready happen; sockets, timers and all."""

        async def turn() -> None:
            for _ in range(times):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0005)

        self.run(turn())
        for bot in self.bots:
            if bot.failure is not None:
                raise bot.failure

    # The publisher.

    def event(self, topic: str, pad: int) -> Event:
        match topic.partition(".")[0]:
            case "trade":
                return Trade(topic, 0, 5, 6, 0, "x" * pad or None, "1.10", "2", "buy")
            case "quote":
                return Quote(topic, 0, None, 6, 0, "1.0", "2" + "0" * pad, "3", "4.00")
        self.book_size += 1
        size = str(self.book_size) + "0" * pad
        return Book(topic, 0, 5, 6, 0, [("1", size)], [("2", size)], self.book_size == 1)

    def send(self, *events: Event, fails: bool = False) -> None:
        """Publish; where the bus refuses, the batch is lost and its positions with it."""
        entries = [self.sequencer.stamp(event, 7) for event in events]
        checkpoints = []
        for entry in entries:
            said = json.loads(entry.payload[16:])
            self.published[entry.topic][entry.seq] = said
            if said["type"] == "book" and self.book_size % self.checkpoint_every == 1:
                window = Book(BOOK, 0, 5, 6, 0, said["bids"], said["asks"], True)
                checkpoints = [self.sequencer.checkpoint(window, 7)]
        if not fails:
            try:
                self.run(self.writer.publish(entries, checkpoints))
            except BusError:
                assert self.refuses

    @rule(topic=st.sampled_from(TOPICS), count=st.integers(1, 8), pad=st.sampled_from([0, 50]))
    def publish(self, topic: str, count: int, pad: int) -> None:
        self.send(*(self.event(topic, pad) for _ in range(count)))
        self.turn()

    @rule(topic=st.sampled_from(TOPICS), count=st.integers(20, 60))
    def publish_more_than_is_kept(self, topic: str, count: int) -> None:
        self.send(*(self.event(topic, 0) for _ in range(count)))
        self.turn()

    @rule(topic=st.sampled_from(TOPICS))
    def publish_much(self, topic: str) -> None:
        self.send(*(self.event(topic, 8_000) for _ in range(12)))
        self.turn()

    @rule(topics=st.sets(st.sampled_from(TOPICS), min_size=1))
    def publish_without_a_turn(self, topics: set[str]) -> None:
        self.send(*(self.event(topic, 0) for topic in sorted(topics)))

    @rule(topic=st.sampled_from(TOPICS))
    def a_gap_of_the_exchange(self, topic: str) -> None:
        self.send(Gap(topic, 0, None, 6, 0, "upstream_disconnect", None))
        if topic == BOOK:
            self.book_size = 0
            self.send(self.event(topic, 0))

    @rule(topic=st.sampled_from(TOPICS), count=st.integers(1, 5))
    def positions_that_never_reach_the_bus(self, topic: str, count: int) -> None:
        self.send(*(self.event(topic, 0) for _ in range(count)), fails=True)

    @precondition(lambda self: not self.refuses)
    @rule()
    def another_publisher_takes_over(self) -> None:
        self.epoch += 100_000
        self.sequencer = Sequencer(self.epoch, self.run(self.writer.heads(TOPICS)))
        entries = self.sequencer.restart(7)
        for entry in entries:
            self.published[entry.topic][entry.seq] = json.loads(entry.payload[16:])
        self.run(self.writer.publish(entries))
        self.book_size = 0
        self.send(self.event(BOOK, 0))
        self.turn()

    # The bus.

    @rule()
    def the_link_is_lost(self) -> None:
        self.act(lambda: self.broker.cut(self.reader))

    @rule()
    def the_link_is_back(self) -> None:
        self.act(lambda: self.broker.mend(self.reader))

    @rule()
    def messages_are_late(self) -> None:
        self.broker.hold(self.reader)

    @rule(count=st.none() | st.integers(1, 6))
    def messages_arrive(self, count: int | None) -> None:
        self.act(lambda: self.broker.release(self.reader, count))

    @rule(count=st.integers(1, 6))
    def messages_are_lost_in_silence(self, count: int) -> None:
        self.broker.lose(self.reader, count)

    @rule()
    def the_bus_refuses(self) -> None:
        self.refuses = True
        self.broker.refuse(True)

    @rule()
    def the_bus_answers_again(self) -> None:
        self.refuses = False
        self.broker.refuse(False)
        self.turn()

    @rule(is_new_publisher=st.booleans())
    def the_bus_restarts_empty(self, is_new_publisher: bool) -> None:
        self.the_bus_answers_again()
        for bus in (self.reader, self.writer):
            self.act(partial(self.broker.cut, bus))
        self.broker.empty()
        for bus in (self.reader, self.writer):
            self.act(partial(self.broker.mend, bus))
        self.run(self.writer.put_catalogue(catalogue("a", ("X", "Y"))))
        if is_new_publisher:
            self.another_publisher_takes_over()
        self.turn()

    # The clients.

    @rule(
        which=st.integers(0, 3),
        topic=st.sampled_from(TOPICS),
        mode=st.sampled_from(["all", "all", "latest"]),
        resumes=st.booleans(),
        last=st.sampled_from([0, 0, 5, 100]),
    )
    def join(self, which: int, topic: str, mode: str, resumes: bool, last: int) -> None:
        mode = mode if topic == QUOTE else "all"
        self.act(lambda: self.bots[which].subscribe(topic, mode, resumes, last))

    @rule(which=st.integers(0, 3), topic=st.sampled_from(TOPICS))
    def leave(self, which: int, topic: str) -> None:
        bot = self.bots[which]
        if bot.connection is not None and bot.connection._wait is None:
            self.act(lambda: bot.unsubscribe(topic))

    @rule(which=st.integers(0, 3))
    def stall(self, which: int) -> None:
        bot = self.bots[which]
        bot.is_stalled = True
        if bot.connection is not None:
            self.act(bot.connection.paused)

    @rule(which=st.integers(0, 3))
    def read_on(self, which: int) -> None:
        bot = self.bots[which]
        bot.is_stalled = False
        if bot.connection is not None:
            self.act(bot.connection.resumed)

    @rule(which=st.integers(0, 3), batch=st.booleans())
    def batch(self, which: int, batch: bool) -> None:
        self.act(lambda: self.bots[which].say(op="options", batch=batch))

    @rule(which=st.integers(0, 3), resumes=st.booleans())
    def reconnect(self, which: int, resumes: bool) -> None:
        """Come back with the same topics and what it has of them."""
        bot = self.bots[which]
        wishes = dict(bot.wishes)
        for topic in wishes:
            bot.remember(topic)
        self.act(bot.disconnect)
        self.act(lambda: bot.connect(self.loop.time()))
        for topic, mode in wishes.items():
            self.act(lambda t=topic, m=mode: bot.subscribe(t, m, resumes, 0))  # type: ignore[misc]

    @rule()
    def time_passes(self) -> None:
        self.run(asyncio.sleep(0.01))
        self.turn()

    def act(self, what: Callable[[], None]) -> None:
        async def inside() -> None:
            what()

        self.run(inside())
        self.turn()

    def teardown(self) -> None:
        if not self.bots:
            return
        try:
            self.heal()
            self.check()
        finally:
            self.run(self.gateway.close())
            self.run(self.reader.close())
            self.run(self.writer.close())
            self.loop.close()
            self.patch.undo()

    def heal(self) -> None:
        """Mend all. What a quiet topic has missed is found; one more entry shows the rest."""
        self.the_bus_answers_again()
        self.act(lambda: self.broker.release(self.reader))
        self.act(lambda: self.broker.cut(self.reader))
        self.act(lambda: self.broker.mend(self.reader))
        heads = self.run(self.writer.heads(TOPICS))
        states = self.gateway.relay._states
        deadline = self.loop.time() + 10
        while any(t in states and states[t].seq < head.seq for t, head in heads.items()):
            assert self.loop.time() < deadline, "a quiet topic stays behind"
            self.turn()
        for bot in self.bots:
            bot.is_stalled = False
            assert bot.connection is not None
            self.act(bot.connection.resumed)
        self.turn(50)
        self.send(*(self.event(topic, 0) for topic in TOPICS))
        deadline = self.loop.time() + 10
        while list(self.behind()) and self.loop.time() < deadline:
            self.turn()

    def behind(self) -> Iterator[tuple[int, str, int | None, int]]:
        """Yield what a client has not come to: (client, topic, position, newest)."""
        for n, bot in enumerate(self.bots):
            for topic, at in [*bot.ledger.at.items(), *bot.ledger.latest.items()]:
                newest = max(self.published[topic], default=0)
                at = max(at or 0, bot.ledger.snapshots.get(topic, 0))
                if at != newest:
                    yield n, topic, at, newest

    def check(self) -> None:
        assert list(self.behind()) == []
        for bot in self.bots:
            assert not bot.ledger._owed_snapshot


TestInvariants = World.TestCase
TestInvariants.settings = settings(max_examples=60, stateful_step_count=60)
