from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from feed import encoding as encoding_module
from feed import outbox as outbox_module
from feed import piece as piece_module
from feed.backlog import Backlog, Item
from feed.encoding import JSON, MSGPACK, Encoding, unframe
from feed.outbox import Outbox
from feed.owed import Replay, Snapshot, Sync, gap_json
from feed.topic_state import TopicState
from tests.ledger import Ledger, objects

PIECE = 900
LIMIT = 2_000
RING = 24
ALL = ("trade.a.X", "trade.a.Y", "quote.a.Z", "book.a.B")
LATEST = ("quote.a.X", "ticker.a.X")


def body_of(topic: str, seq: int, pad: int = 0) -> bytes:
    kind = topic.partition(".")[0]
    levels = b',"ts":null,"pub":1,"bids":[["1","%d"]],"asks":[]' % seq if kind == "book" else b""
    fields = b'{"type":"%s","topic":"%s","seq":%d,"recv":5%s,"x":"%s"}'
    return fields % (kind.encode(), topic.encode(), seq, levels, b"x" * pad)


def flat(said: Any) -> list[dict[str, Any]]:
    return said if isinstance(said, list) else [said]


def backlog(outbox: Outbox) -> Backlog:
    """Return what waits in an outbox that is behind; an empty one where it is not."""
    return outbox._backlog or Backlog(1, lambda state, first: None)


class Rig:
    """One outbox with its topics; what it hands over goes through a ledger."""

    def __init__(self, encoding: Encoding = JSON, limit: int = LIMIT, batch: bool = False) -> None:
        self.reported = 0
        self.ledger = Ledger()
        self.outbox = Outbox(encoding, limit, self._report, lambda data: None)
        self.outbox.batch = batch
        self.states = {name: TopicState(name, RING) for name in (*ALL, *LATEST)}
        self.attached = set(self.states)
        self.now = 1_000_000
        for state in self.states.values():
            self._start(state)
        for name in ALL:
            self.ledger.at[name] = 1
        for name in LATEST:
            self.ledger.latest[name] = 1

    def _report(self, outbox: Outbox) -> None:
        """Note it once, as the hub does."""
        self.reported += not outbox.reported_at
        outbox.reported_at = 1.0

    def _start(self, state: TopicState) -> None:
        if state.kind == "book":
            state.restore(1, 1, body_of(state.name, 1).replace(b'"x":', b'"snapshot":true,"x":'))
        else:
            state.advance(1, 1, body_of(state.name, 1))

    def publish(
        self, name: str, pad: int = 0, body: bytes | None = None, jump: int = 1, epoch: int = 0
    ) -> None:
        """Publish as the hub does; ``epoch`` is of a publisher that takes over."""
        state = self.states[name]
        first, seq = state.seq + 1, state.seq + jump
        body = body or body_of(name, seq, pad)
        self.now += 1
        is_value = state.advance(epoch or state.epoch, seq, body)
        encoding = self.outbox.encoding
        encoded = encoding.body(body)
        lost = 1 if is_value else None
        item = Item(state, first, seq, lost, encoding.frame(encoded), self.now)
        if name not in self.attached:
            return
        if name in ALL:
            self.outbox.push(item)
        elif is_value:
            self.outbox.put(item)
        if self.outbox.blocked:
            assert not self.take()  # the hub's next flush

    def take(self) -> bytes:
        self.now += 1
        self.outbox.reported_at = 0.0
        data = self.outbox.take(self.now)
        if self.outbox.has_more and not self.outbox.blocked:
            self.outbox.reported_at = 1.0
        frames = list(unframe(data))
        if len(data) > PIECE:
            said = [one for said in objects(data) for one in flat(said)]
            pair = ["gap", "snapshot"]  # they stay together, whatever their size
            assert len(frames) == 1 or [one["type"] for one in said] == pair, said
        for said in objects(data):
            if isinstance(said, list):
                assert self.outbox.batch and len(said) > 1
                alone = ("synced", "heartbeat", "pong", "blob")
                assert not any(one["type"] in alone for one in said), said
            self.ledger.take(said)
        return data

    def drain(self) -> None:
        """Take until nothing waits; it must come to that."""
        self.outbox.unblock()
        for _ in range(10_000):
            if not self.outbox.is_waiting:
                return
            assert self.take() or not self.outbox.is_waiting, "it waits and gives nothing"
        raise AssertionError("never idle")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(encoding_module, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(piece_module, "PIECE_BYTES", PIECE)


class OutboxMachine(RuleBasedStateMachine):
    """Random pushes, stalls and commands; the ledger judges what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0
        self.blobs = 0
        self.sent_blobs: list[int] = []
        self.asked = 0
        self.forgotten: dict[str, int] = {}
        self.left_at: dict[str, int] = {}
        self.resumes = 0

    @initialize(encoding=st.sampled_from([JSON, MSGPACK]), batch=st.booleans())
    def start(self, encoding: Encoding, batch: bool) -> None:
        self.rig = Rig(encoding, batch=batch)
        self.outbox = self.rig.outbox

    def _frame(self, json: bytes) -> bytes:
        return self.outbox.encoding.frame(self.outbox.encoding.body(json))

    @rule(
        name=st.sampled_from(ALL + LATEST),
        count=st.integers(1, 12),
        pad=st.integers(0, 300) | st.integers(600, 900),
    )
    def publish(self, name: str, count: int, pad: int) -> None:
        for _ in range(count):
            self.rig.publish(name, pad)

    @rule(name=st.sampled_from(ALL), count=st.integers(20, 60))
    def publish_many(self, name: str, count: int) -> None:
        for _ in range(count):
            self.rig.publish(name)

    @rule(name=st.sampled_from(ALL))
    def publish_large(self, name: str) -> None:
        self.rig.publish(name, 3_000)

    @rule(name=st.sampled_from(ALL + LATEST), jump=st.integers(2, 9))
    def restart_of_the_publisher(self, name: str, jump: int) -> None:
        seq = self.rig.states[name].seq
        text = b'{"type":"gap","topic":"%s","seq":%d,"ts":null,"recv":1,"pub":1,'
        text += b'"cause":"publisher_restart","lost":null,"from":%d,"to":%d}'
        gap = text % (name.encode(), seq + jump, seq + 1, seq + jump - 1)
        self.rig.publish(name, body=gap, jump=jump, epoch=self.rig.states[name].epoch + 1)

    @rule(name=st.sampled_from(["trade.a.X", "quote.a.Z"]), width=st.integers(1, 5))
    def lose_on_the_bus(self, name: str, width: int) -> None:
        state = self.rig.states[name]
        if name not in self.rig.attached:
            return
        first, last = state.seq + 1, state.seq + width
        encoding = self.outbox.encoding
        body = encoding.body(gap_json(name, "bus_loss", first, last, None))
        state.seq = last
        state.ring.restart(last)
        self.outbox.push(Item(state, first, last, None, encoding.frame(body), self.rig.now))

    @rule()
    def block(self) -> None:
        self.outbox.block()

    @rule()
    def unblock(self) -> None:
        was_blocked = self.outbox.blocked
        self.outbox.unblock()
        assert not was_blocked or self.outbox.reported_at

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        for _ in range(count):
            data = self.rig.take()
            assert not (self.outbox.blocked and data)

    @rule(size=st.integers(0, 400))
    def answer(self, size: int) -> None:
        self.answers += 1
        json = b'{"type":"pong","id":%d,"x":"%s"}' % (self.answers, b"y" * size)
        self.outbox.say(self._frame(json))

    @rule()
    def heartbeat(self) -> None:
        self.outbox.heartbeat(self.rig.now)

    @rule(size=st.integers(0, 500))
    def blob(self, size: int) -> None:
        self.blobs += 1
        self.sent_blobs.append(self.blobs)
        json = b'{"type":"blob","n":%d,"x":"%s"}' % (self.blobs, b"z" * size)
        assert self.outbox.blob(self._frame(json)) == self.outbox.blobs_in

    @rule()
    def drop_blobs(self) -> None:
        waiting = self.outbox.blobs_in - self.outbox.blobs_out
        self.outbox.drop_blobs()
        if waiting:
            del self.sent_blobs[-waiting:]

    @rule(name=st.sampled_from(ALL + LATEST))
    def ask(self, name: str) -> None:
        if name in self.rig.attached and name != "trade.a.X" and name != "trade.a.Y":
            self.asked += 1
            self.outbox.ask(Snapshot(self.rig.states[name], None))
            self.outbox.ask(self._frame(b'{"type":"synced","id":%d}' % self.asked))

    @rule(name=st.sampled_from(ALL + LATEST))
    def leave(self, name: str) -> None:
        self.rig.attached.discard(name)
        self.outbox.forget(self.rig.states[name])
        at = self.rig.ledger.at.pop(name, None)
        if at:
            self.left_at[name] = at
        self.rig.ledger.latest.pop(name, None)
        self.rig.ledger._owed_snapshot.pop(name, None)
        self.forgotten[name] = len(self.rig.ledger.seen)

    @precondition(lambda self: self.forgotten)
    @rule(data=st.data(), snapshot=st.booleans())
    def join_again(self, data: Any, snapshot: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.forgotten)))
        del self.forgotten[name]
        self.left_at.pop(name, None)
        state = self.rig.states[name]

        def attach() -> None:
            self.rig.attached.add(name)
            if name in LATEST:
                self.rig.ledger.latest[name] = state.newest_seq

        if name in ALL:
            self.rig.ledger.at[name] = None if snapshot else state.seq
        if snapshot:
            self.outbox.owe(Snapshot(state, attach))
        else:
            attach()

    @precondition(lambda self: self.left_at)
    @rule(data=st.data(), is_forgetful=st.booleans())
    def come_back(self, data: Any, is_forgetful: bool) -> None:
        """Resume, or replay all that is kept."""
        name = data.draw(st.sampled_from(sorted(self.left_at)))
        del self.forgotten[name]
        since = self.left_at.pop(name)
        state = self.rig.states[name]
        if is_forgetful:
            since = 0
        self.rig.ledger.at[name] = since or state.ring.floor
        self.resumes += 1
        sync = Sync(self._frame(b'{"type":"synced","id":%d}' % -self.resumes), 1)

        def attach() -> None:
            self.rig.attached.add(name)

        if state.resumes(since):
            self.outbox.owe(Replay(state, since or state.ring.floor, attach, sync))
        elif name.startswith("trade."):
            self.outbox.owe(Replay(state, since, attach, sync, is_too_old=True))
        else:
            self.outbox.owe(Snapshot(state, attach, since + 1, "resume_too_old", sync))

    @rule(name=st.sampled_from(LATEST))
    def pull(self, name: str) -> None:
        state = self.rig.states[name]
        is_due, item = self.outbox.pull(state)
        if name in self.rig.attached and name in self.rig.ledger.latest:
            due = state.newest_seq > self.rig.ledger.latest[name]
            assert is_due == due
        if item is not None:
            assert item.last == state.newest_seq
            self.outbox.put(item)

    @invariant()
    def bytes_are_counted_and_bounded(self) -> None:
        if not hasattr(self, "outbox"):
            return
        slots = backlog(self.outbox).slots.values()
        assert self.outbox.size == sum(len(i.frame) for slot in slots for i in slot.items)
        assert backlog(self.outbox).count == sum(len(slot.items) for slot in slots)
        assert self.outbox.size <= LIMIT
        # What is left of forgotten topics goes with the next entry.
        assert len(backlog(self.outbox).fifo) <= 65 + 2 * (LIMIT // 40 + len(ALL))
        assert len(backlog(self.outbox).heap or ()) <= 66 + 8 * len(ALL)

    @invariant()
    def what_waits_is_reported(self) -> None:
        if hasattr(self, "outbox") and self.outbox.is_waiting and not self.outbox.blocked:
            assert self.outbox.reported_at

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        self.rig.drain()
        ledger, states = self.rig.ledger, self.rig.states
        for name in self.rig.attached:
            if name in ALL:
                assert ledger.at[name] == states[name].seq, name
            else:
                assert ledger.latest[name] == states[name].newest_seq, name
        said = [one for one in ledger.seen if one["type"] == "pong"]
        assert [one["id"] for one in said] == list(range(1, self.answers + 1))
        blobs = [one["n"] for one in ledger.seen if one["type"] == "blob"]
        assert blobs == sorted(set(blobs)) and set(self.sent_blobs) <= set(blobs)
        synced = [one["id"] for one in ledger.seen if one["type"] == "synced"]
        assert [id for id in synced if id > 0] == list(range(1, self.asked + 1))
        assert sorted(-id for id in synced if id < 0) == list(range(1, self.resumes + 1))
        assert self.outbox.size == 0 and not backlog(self.outbox).slots


@pytest.fixture(autouse=True, scope="module")
def small_pieces_for_machines() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox_module, "PIECE_BYTES", PIECE)
        patch.setattr(encoding_module, "PIECE_BYTES", PIECE)
        patch.setattr(piece_module, "PIECE_BYTES", PIECE)
        patch.setattr(outbox_module, "_SHARE_BYTES", PIECE // 4)
        yield


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=200, stateful_step_count=60)


def test_a_client_that_stays_behind_costs_no_more_with_time() -> None:
    rig = Rig(limit=8_000)
    for n in range(6_000):
        rig.publish("trade.a.X" if n % 3 else "trade.a.Y", pad=n % 100)
        if n == 100 or n % 2:
            rig.take()
        if n == 500:  # it falls far behind once, and from there keeps the distance
            for _ in range(200):
                rig.publish("trade.a.X", pad=100)
        outbox = rig.outbox
        assert len(backlog(outbox).fifo) <= 65 + 2 * (
            backlog(outbox).count + len(backlog(outbox).slots)
        )
        assert len(backlog(outbox).heap or ()) <= 66 + 8 * len(backlog(outbox).slots)
    rig.drain()
    assert backlog(rig.outbox).heap is None and not backlog(rig.outbox).slots


def behind(rig: Rig, pieces: int) -> None:
    """Publish trades until so many pieces wait in an outbox that is behind."""
    rig.outbox.block()
    while rig.outbox.size < pieces * PIECE:
        rig.publish("trade.a.X", pad=50)
    rig.outbox.unblock()


def test_a_backlog_that_never_ends_and_never_overflows_keeps_its_heap_small() -> None:
    rig = Rig(limit=20_000)
    rig.outbox.block()
    while backlog(rig.outbox).heap is None:  # it overflows once
        rig.publish("trade.a.X", pad=100)
    rig.outbox.unblock()
    for _ in range(3_000):
        size = rig.outbox.size
        rig.outbox.block()
        while rig.outbox.size < 10_000:
            rig.publish("trade.a.X", pad=100)
        rig.outbox.unblock()
        rig.take()
        assert size <= 20_000 and len(backlog(rig.outbox).heap or ()) <= 66 + 8


def test_a_book_that_gave_up_gets_its_snapshot_once_the_outbox_is_below_half() -> None:
    rig = Rig(limit=20 * PIECE)
    rig.outbox.block()
    while not any(slot.owed for slot in backlog(rig.outbox).slots.values()):
        rig.publish("trade.a.X", pad=100)
        rig.publish("trade.a.Y", pad=100)
        rig.publish("book.a.B", pad=100)
    assert rig.outbox.size > rig.outbox.limit // 2
    rig.outbox.unblock()
    snapshot_at = 0
    while "snapshot" not in rig.ledger.types():
        snapshot_at = rig.outbox.size
        rig.take()
    assert snapshot_at < rig.outbox.limit // 2 and rig.outbox.size > 0
    rig.drain()
    rig.publish("book.a.B")
    rig.drain()
    assert rig.ledger.seen[-1]["seq"] == rig.states["book.a.B"].seq


def test_a_heartbeat_is_ahead_of_events_and_behind_answers() -> None:
    rig = Rig()
    rig.publish("trade.a.X")
    rig.outbox.heartbeat(5)
    rig.outbox.heartbeat(6)  # at most one is owed
    rig.outbox.say(JSON.frame(b'{"type":"welcome"}'))
    rig.drain()
    assert rig.ledger.types() == ["welcome", "heartbeat", "trade"]
    heartbeat = rig.ledger.seen[1]
    assert heartbeat["queued"] == 1 and heartbeat["lag_us"] > 0
    rig.outbox.heartbeat(7)
    rig.drain()
    assert rig.ledger.seen[-1]["queued"] == rig.ledger.seen[-1]["lag_us"] == 0


def test_the_oldest_that_waits_is_the_lag_also_among_conflated_values() -> None:
    rig = Rig()
    rig.publish("quote.a.X")
    rig.publish("ticker.a.X")
    oldest = rig.now
    rig.publish("quote.a.X")
    assert rig.outbox.backlog(oldest + 100) == (100, 2)


def test_what_the_server_said_itself_is_never_given_up_as_the_last_word() -> None:
    rig = Rig(limit=1_000)
    state = TopicState("status.a.ALL")
    rig.ledger.at["status.a.ALL"] = 0
    rig.outbox.block()
    body = b'{"type":"status","topic":"status.a.ALL","seq":null,"state":"stale"}'
    rig.outbox.push(Item(state, 0, 0, 1, JSON.frame(body), rig.now))
    for _ in range(50):
        rig.publish("trade.a.X", pad=20)
        rig.publish("trade.a.Y", pad=20)
    rig.drain()
    assert rig.ledger.of("status.a.ALL") == [
        {"type": "status", "topic": "status.a.ALL", "seq": None, "state": "stale"}
    ]


def test_values_and_entries_share_a_piece_with_snapshots() -> None:
    rig = Rig(limit=50_000)
    behind(rig, 4)
    for _ in range(40):
        rig.outbox.owe(Snapshot(rig.states["quote.a.X"], None))
    rig.publish("ticker.a.X")
    rig.take()
    assert {"snapshot", "ticker", "trade"} <= set(rig.ledger.types())
    rig.drain()


def test_a_gap_that_was_given_up_leaves_what_it_explained_to_the_next() -> None:
    rig = Rig(limit=1_000)
    rig.outbox.block()
    state = rig.states["trade.a.X"]
    gap = b'{"type":"gap","topic":"trade.a.X","seq":50,"ts":null,"recv":1,"pub":1,'
    gap += b'"cause":"publisher_restart","lost":null,"from":2,"to":49}'
    rig.publish("trade.a.X", body=gap, jump=50 - state.seq)
    for _ in range(30):
        rig.publish("trade.a.X")
    rig.drain()
    first = rig.ledger.seen[0]
    assert (first["cause"], first["from"], first["lost"]) == ("slow_consumer", 2, None)


def test_whoever_is_served_asks_for_no_second_turn_while_nothing_waits() -> None:
    rig = Rig()
    assert not rig.outbox.is_waiting and rig.outbox.take(1) == b""
    rig.publish("trade.a.X")
    rig.publish("trade.a.X")
    assert rig.reported == 1
    rig.drain()
    assert not rig.outbox.reported_at
    rig.publish("trade.a.X")
    assert rig.reported == 2


def test_one_large_entry_makes_as_many_topics_give_up_as_it_takes() -> None:
    rig = Rig(limit=2_000)
    rig.outbox.block()
    for name, n in (("trade.a.X", 7), ("quote.a.Z", 6)):
        for _ in range(n):
            rig.publish(name, pad=80)
    rig.publish("trade.a.Y", pad=800)
    assert 800 < rig.outbox.size <= 2_000
    rig.drain()
    assert len(rig.ledger.of("trade.a.Y")) == 1 and rig.ledger.lost.keys() == {
        "trade.a.X",
        "quote.a.Z",
    }


def test_asking_for_the_same_again_makes_nothing_grow() -> None:
    rig = Rig()
    rig.outbox.block()
    for n in range(50):
        rig.outbox.ask(Snapshot(rig.states["quote.a.X"], None))
        rig.outbox.ask(JSON.frame(b'{"type":"synced","id":%d}' % n))
    assert rig.outbox.asked == 51
    rig.drain()
    assert rig.ledger.types() == ["snapshot"] + ["synced"] * 50


def test_an_outbox_whose_client_is_gone_holds_nothing() -> None:
    rig = Rig()
    for name in (*ALL, *LATEST):
        rig.publish(name)
        rig.outbox.owe(Snapshot(rig.states[name], None))
    rig.outbox.blob(b"x")
    rig.outbox.say(b"x")
    rig.outbox.clear()
    assert not rig.outbox.is_waiting
    for state in rig.states.values():
        rig.outbox.forget(state)
    assert rig.outbox.size == 0 and rig.outbox.backlog(5) == (0, 0) and rig.outbox.take(5) == b""
