from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feed.encoding import JSON, MSGPACK, Encoding, unframe
from feed.hub import Hub
from feed.outbox import Outbox
from feed.owed import Snapshot
from feed.throttle import RATES, lowered
from feed.topic_state import TopicState
from tests.ledger import Ledger, objects

STATES = ("quote.a.X", "quote.a.Y", "ticker.a.X")
TOPICS = (*STATES, "trade.a.X")


def value(topic: str, seq: int) -> bytes:
    text = b'{"type":"%s","topic":"%s","seq":%d,"recv":5}'
    return text % (topic.partition(".")[0].encode(), topic.encode(), seq)


class Client:
    """An outbox whose socket can stall, and the ledger of what came out of it."""

    def __init__(self, hub: Hub, encoding: Encoding, batch: bool) -> None:
        self.ledger = Ledger()
        self.outbox = Outbox(encoding, 1 << 16, hub.report, self.write, self.fail)
        self.outbox.batch = batch
        self.stalls = False
        self.writes: list[bytes] = []
        self.hz: dict[str, float] = {}
        self.taken: list[tuple[int, str, int]] = []
        self.now = 0

    def fail(self) -> None:
        raise AssertionError("the ledger found something")

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        for said in objects(data):
            self.ledger.take(said)
            for one in said if isinstance(said, list) else [said]:
                if one["type"] != "gap":
                    self.taken.append((self.now, one["topic"], one["seq"]))
        if self.stalls:
            self.outbox.block()


class World:
    """A hub on a clock in µs that the test turns."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.wakes = 0
        self.hub = Hub(self._wake, lambda: None, lambda: self.now / 1e6)
        self.states = {name: TopicState(name) for name in TOPICS}
        self.clients: list[Client] = []
        for name in TOPICS:
            self.publish(name)

    def _wake(self) -> None:
        self.wakes += 1

    def client(self, encoding: Encoding = JSON, batch: bool = False) -> Client:
        client = Client(self.hub, encoding, batch)
        self.clients.append(client)
        return client

    def publish(self, name: str) -> None:
        state = self.states[name]
        seq = state.seq + 1
        self.hub.publish(state, 1, seq, value(name, seq), self.now)

    def flush(self) -> None:
        for client in self.clients:
            client.now = self.now
        while self.hub.flush(self.now):
            pass

    def run(self, us: int) -> None:
        """Let time pass, beat by beat."""
        end = self.now + us
        while (due := self.hub.next_beat()) is not None and due <= end:
            self.now = max(self.now, due)
            self.hub.beat(self.now)
            self.flush()
        self.now = end
        self.flush()

    def join(self, client: Client, name: str, latest: bool, hz: float | None) -> None:
        state = self.states[name]
        if latest:
            client.ledger.latest[name] = state.newest_seq
        else:
            client.ledger.at[name] = state.seq
        if hz is not None:
            client.hz[name] = hz
            self.hub.throttle(client.outbox, state, hz, state.newest_seq)
        else:
            self.hub.attach(client.outbox, state, latest)

    def change(self, client: Client, name: str, latest: bool, hz: float | None) -> None:
        state = self.states[name]
        ledger = client.ledger
        if latest and name in ledger.at:
            ledger.latest[name] = ledger.at.pop(name) or 0
        elif not latest and name in ledger.latest:
            # What it has is what comes before the newest that is still due.
            ledger.at[name] = None if ledger.latest.pop(name) < state.newest_seq else state.seq
        client.hz.pop(name, None)
        if hz is not None:
            client.hz[name] = hz
        self.hub.change(client.outbox, state, latest, hz, self.now)

    def leave(self, client: Client, name: str) -> None:
        self.hub.detach(client.outbox, self.states[name])
        client.ledger.at.pop(name, None)
        client.ledger.latest.pop(name, None)
        client.hz.pop(name, None)


@given(data=st.data())
@settings(max_examples=120)
def test_random_joins_changes_and_stalls_leave_every_client_with_the_newest(data: Any) -> None:
    world = World()
    for encoding, batch in ((JSON, False), (JSON, True), (MSGPACK, False), (JSON, False)):
        world.client(encoding, batch)
    steps = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["publish", "publish", "publish", "run", "flush", "set", "leave", "stall", "go"]
                    + ["batch", "gone", "beat", "beat"]
                ),
                st.integers(0, 3),
                st.sampled_from(TOPICS),
                st.sampled_from(
                    [("all", None), ("latest", None), ("latest", 2.0), ("latest", 50.0)]
                ),
            ),
            max_size=60,
        )
    )
    for action, number, name, (mode, hz) in steps:
        client = world.clients[number]
        is_in = name in client.ledger.at or name in client.ledger.latest
        latest = mode == "latest" and name in STATES
        match action:
            case "publish":
                world.publish(name)
            case "run":
                world.run(30_000 * (number + 1))
            case "flush":
                world.flush()
            case "beat":  # and what it gave waits
                world.now = max(world.now, world.hub.next_beat() or 0)
                world.hub.beat(world.now)
            case "set" if is_in and name in STATES:
                if not latest and name in client.ledger.at:
                    continue  # sessions tell of differences only
                world.change(client, name, latest, hz if latest else None)
            case "set" if not is_in:
                world.join(client, name, latest, hz if latest else None)
            case "leave":
                world.leave(client, name)
            case "stall":
                client.stalls = True
            case "go":
                client.stalls = False
                client.outbox.unblock()
            case "batch":
                world.hub.rebatch(client.outbox, not client.outbox.batch)
            case "gone":
                world.hub.leave(client.outbox)
                for topic in TOPICS:
                    world.leave(client, topic)
    for client in world.clients:
        client.stalls = False
        client.outbox.unblock()
    world.run(2_000_000)
    for client in world.clients:
        for name, at in client.ledger.at.items():
            assert at in (None, world.states[name].seq)
        for name, seq in client.ledger.latest.items():
            assert seq == world.states[name].newest_seq, name
    for client in world.clients:
        world.hub.leave(client.outbox)
        for topic in TOPICS:
            world.leave(client, topic)
    world.run(11_000_000)
    assert not world.hub._groups and not world.hub._due and not world.hub._throttled
    assert not any(state.audiences for state in world.states.values())


@pytest.mark.parametrize("hz", RATES)
def test_at_most_hz_a_second_and_the_last_value_within_a_period(hz: float) -> None:
    world = World()
    client = world.client()
    world.join(client, "quote.a.X", True, hz)
    period = 1_000_000 / hz
    for _ in range(200):
        world.publish("quote.a.X")
        world.run(int(period / 7))
    last = world.states["quote.a.X"].seq
    written = world.now - int(period / 7)
    world.run(int(period))
    times = [at for at, _, _ in client.taken]
    assert len(times) > 20
    assert all(b - a >= period * 0.999 for a, b in zip(times, times[1:], strict=False))
    at, _, seq = client.taken[-1]
    assert seq == last and at - written <= period * 1.001


def test_a_client_whose_topics_keep_changing_is_served_at_its_rate() -> None:
    world = World()
    client = world.client()
    world.join(client, "quote.a.X", True, 10.0)
    for turn in range(100):
        world.publish("quote.a.X")
        world.run(20_000)
        if turn % 2:
            world.leave(client, "quote.a.Y")
        else:
            world.join(client, "quote.a.Y", True, 10.0)
    times = [at for at, topic, _ in client.taken if topic == "quote.a.X"]
    assert 15 <= len(times) <= 21
    assert all(b - a >= 99_000 for a, b in zip(times, times[1:], strict=False))


def test_one_group_does_not_make_another_of_the_same_client_wait() -> None:
    world = World()
    client = world.client()
    world.join(client, "quote.a.X", True, 50.0)
    world.join(client, "quote.a.Y", True, 10.0)
    world.hub.beat(world.now)
    for _, group in world.hub._throttled[client.outbox].groups.values():
        group.due = world.now + 5
    world.hub._due = [(world.now + 5, n, entry[2]) for n, entry in enumerate(world.hub._due)]
    world.publish("quote.a.X")
    world.publish("quote.a.Y")
    world.run(10)
    assert {topic for _, topic, _ in client.taken} == {"quote.a.X", "quote.a.Y"}


def test_members_of_a_group_share_the_same_bytes() -> None:
    world = World()
    clients = [world.client() for _ in range(3)]
    for client in clients:
        for name in STATES:
            world.join(client, name, True, 10.0)
    world.run(200_000)
    assert len(world.hub._groups) == 1
    for name in STATES:
        world.publish(name)
    due = world.hub.next_beat()
    assert due is not None
    world.hub.beat(due)
    shared = [(client.outbox._blobs or [b""])[0] for client in clients]
    assert shared[0] and shared[0] is shared[1] is shared[2]
    world.flush()
    assert clients[0].writes[-1] == shared[0]


def test_an_entry_is_encoded_once_an_encoding_whatever_the_number_of_clients() -> None:
    world = World()
    for encoding in (JSON, MSGPACK):
        for _ in range(5):
            world.join(world.client(encoding), "trade.a.X", False, None)
    before = world.hub.encodes
    frames: set[int] = set()
    for _ in range(10):
        world.publish("trade.a.X")
        for client in world.clients:
            frames.add(id(client.outbox.queue[-1].frame))
    assert world.hub.encodes - before == 20
    assert len(frames) == 20
    world.publish("quote.a.Y")
    assert world.hub.encodes - before == 20  # nobody wants it


def test_values_between_two_flushes_are_one_for_latest_and_cost_one_encoding() -> None:
    world = World()
    client = world.client()
    world.join(client, "quote.a.X", True, None)
    world.flush()
    before, wakes = world.hub.encodes, world.wakes
    for _ in range(50):
        world.publish("quote.a.X")
    assert world.wakes == wakes + 1, "the first of them asks for a flush"
    assert not client.outbox.is_waiting
    world.flush()
    assert [seq for _, _, seq in client.taken] == [world.states["quote.a.X"].seq]
    assert world.hub.encodes == before + 1


def test_who_has_waited_longest_is_served_first_and_the_others_when_their_time_comes() -> None:
    world = World()
    clients = [world.client() for _ in range(3)]
    names = TOPICS[:3]
    for client, name in zip(clients, names, strict=True):
        world.join(client, name, latest=False, hz=None)
    world.flush()
    began = world.now
    for at, name in ((0, names[1]), (5_000, names[0]), (6_000, names[2]), (7_000, names[1])):
        world.now = began + at
        world.publish(name)

    def served(since: int, most: int = 10) -> list[int]:
        before = [len(client.ledger.seen) for client in clients]
        world.hub.flush(world.now, (began + since) / 1e6, most)
        return [len(client.ledger.seen) - n for client, n in zip(clients, before, strict=True)]

    assert world.hub.waits_since() == began / 1e6
    assert served(-1) == [0, 0, 0]
    assert served(4_000) == [0, 2, 0]  # what came meanwhile leaves in the same write
    assert served(9_000, most=1) == [1, 0, 0]
    assert world.hub.waits_since() == (began + 6_000) / 1e6
    assert served(9_000) == [0, 0, 1]
    assert world.hub.waits_since() is None


def test_values_for_latest_are_handed_out_once_in_so_long() -> None:
    world = World()
    client = world.client()
    world.join(client, "quote.a.X", latest=True, hz=None)
    world.flush()
    began, encodes = world.now, world.hub.encodes
    world.publish("quote.a.X")
    assert not world.hub.flush(world.now, world.now / 1e6)
    world.now += 1_000
    world.publish("quote.a.X")
    assert world.hub.flush(world.now, (began - 1) / 1e6), "not yet"
    assert world.hub.encodes == encodes + 1 and world.hub.waits_since() == began / 1e6
    assert not world.hub.flush(world.now, world.now / 1e6)
    assert world.hub.encodes == encodes + 2


def test_a_newcomer_is_not_given_again_what_its_snapshot_held() -> None:
    world = World()
    first, second = world.client(), world.client()
    world.join(first, "quote.a.X", True, None)
    world.publish("quote.a.X")
    world.join(second, "quote.a.X", True, None)
    world.flush()
    assert len(first.taken) == 1 and second.taken == []


def test_what_the_server_says_itself_is_not_replaced_by_an_older_value() -> None:
    world = World()
    client = world.client()
    world.join(client, "quote.a.X", True, None)
    world.publish("quote.a.X")
    world.hub.announce(
        world.states["quote.a.X"], b'{"type":"quote","topic":"quote.a.X","seq":null}', 1
    )
    world.flush()
    assert client.taken[-1][2] is None


def test_what_many_clients_are_given_are_the_same_bytes_as_published() -> None:
    world = World()
    clients = [world.client() for _ in range(2)]
    for client in clients:
        world.join(client, "trade.a.X", False, None)
    world.publish("trade.a.X")
    world.flush()
    assert [body for _, body in unframe(clients[0].writes[0])] == [value("trade.a.X", 2)]
    assert clients[0].writes == clients[1].writes


def test_a_client_that_cannot_be_served_is_ended_and_costs_the_others_nothing() -> None:
    world = World()
    ended: list[str] = []

    def broken(data: bytes) -> None:
        raise RuntimeError("a closed transport")

    bad = Outbox(JSON, 1 << 16, world.hub.report, broken, lambda: ended.append("bad"))
    good = world.client()
    world.hub.attach(bad, world.states["trade.a.X"], False)
    world.join(good, "trade.a.X", False, None)
    for _ in range(3):
        world.publish("trade.a.X")
        world.flush()
    assert "bad" in ended
    assert good.ledger.at["trade.a.X"] == 4


def test_a_refreshed_book_comes_after_what_waits_of_it() -> None:
    world = World()
    state = TopicState("book.a.X")
    book = b'{"type":"book","topic":"book.a.X","seq":%d,"ts":null,"recv":1,"pub":1,'
    book += b'"bids":[["1","2"]],"asks":[]%s}'
    state.restore(1, 5, book % (5, b',"snapshot":true'))
    client = world.client()
    client.ledger.at["book.a.X"] = None
    client.outbox.owe(Snapshot(state, lambda: world.hub.attach(client.outbox, state, False)))
    world.flush()
    world.hub.publish(state, 1, 6, book % (6, b""), world.now)
    world.hub.lose(state, 7, 8, world.now)
    world.hub.publish(state, 1, 9, book % (9, b""), world.now)
    world.hub.refresh(state)
    world.flush()
    assert client.ledger.types() == ["snapshot", "book", "gap", "book", "snapshot"]
    assert client.ledger.seen[-1]["seq"] == 9


@pytest.mark.parametrize(
    ("asked", "given"),
    [(0.01, 0.1), (0.1, 0.1), (3.9, 2.0), (4, 4.0), (7, 5.0), (49, 20.0), (1e9, 50.0)],
)
def test_a_rate_is_lowered_to_the_next(asked: float, given: float) -> None:
    assert lowered(asked) == given


def test_a_late_beat_is_not_followed_by_an_early_one() -> None:
    world = World()
    client = world.client()
    world.join(client, "quote.a.X", True, 10.0)
    world.hub.beat(world.now)
    for late_us in (0, 99_000, 250_000, 10_000, 90_000) * 5:
        world.publish("quote.a.X")
        world.now = (world.hub.next_beat() or 0) + late_us
        world.hub.beat(world.now)
        world.flush()
    times = [at for at, _, _ in client.taken]
    assert len(times) >= 20
    assert all(b - a >= 100_000 for a, b in zip(times, times[1:], strict=False))


@pytest.mark.parametrize("event", ["another topic leaves", "batch", "another rate joins"])
def test_what_waited_ready_made_is_given_again_when_it_must_be_made_anew(event: str) -> None:
    world = World()
    client = world.client()
    for name in STATES:
        world.join(client, name, True, 10.0)
    world.run(200_000)
    for name in STATES:
        world.publish(name)
    world.now = world.hub.next_beat() or 0
    client.outbox.block()
    client.outbox.blocked = False  # the socket fills up between the beat and the flush
    world.hub.beat(world.now)
    client.outbox.block()
    assert client.outbox.blobs_in > client.outbox.blobs_out
    if event == "batch":
        world.hub.rebatch(client.outbox, True)
    elif event == "another rate joins":
        world.change(client, "quote.a.Y", True, 50.0)
    else:
        world.leave(client, "quote.a.Y")
    client.outbox.unblock()
    world.run(300_000)
    for name, seq in client.ledger.latest.items():
        assert seq == 2, name
    assert len(client.taken) == len(client.ledger.latest)  # nothing twice


def test_a_restart_that_a_slow_client_does_not_see_is_inside_its_gap() -> None:
    world = World()
    client = world.client()
    client.outbox.limit = 500
    world.join(client, "trade.a.X", False, None)
    client.outbox.block()
    state = world.states["trade.a.X"]
    gap = b'{"type":"gap","topic":"trade.a.X","seq":90,"ts":null,"recv":1,"pub":1,'
    gap += b'"cause":"publisher_restart","lost":null,"from":2,"to":89}'
    world.hub.publish(state, 2, 90, gap, world.now)
    for seq in range(91, 120):
        world.hub.publish(state, 2, seq, value("trade.a.X", seq), world.now)
    client.outbox.unblock()
    world.flush()
    assert client.ledger.seen[0]["from"] == 2 and client.ledger.at["trade.a.X"] == 119


def test_the_mode_can_change_while_its_value_was_given_up() -> None:
    world = World()
    client = world.client()
    client.outbox.limit = 100
    world.join(client, "quote.a.X", False, None)
    client.outbox.block()
    for _ in range(9):
        world.publish("quote.a.X")
    world.change(client, "quote.a.X", True, None)
    client.outbox.unblock()
    world.flush()
    assert [one["seq"] for one in client.ledger.seen] == [10]
