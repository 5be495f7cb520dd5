from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feed.ring import Ring
from feed.topic_state import Entry, Start, TopicState

TRADE = b'{"type":"trade","topic":"trade.a.X","seq":%d,"recv":5}'
RESTART = b'{"type":"gap","topic":"trade.a.X","seq":%d,"ts":null,"recv":1,"pub":1,'
RESTART += b'"cause":"publisher_restart","lost":null,"from":%d,"to":%d}'


def body(seq: int, pad: int = 0) -> bytes:
    return b"%d" % seq + b" " * pad


@given(
    count=st.integers(1, 20),
    max_bytes=st.integers(50, 400),
    pads=st.lists(st.integers(0, 120), max_size=80),
)
def test_what_is_kept_is_a_bounded_unbroken_row_up_to_the_newest(
    count: int, max_bytes: int, pads: list[int]
) -> None:
    ring = Ring(count, max_bytes)
    ring.restart(99)
    for seq, pad in enumerate(pads, 100):
        ring.append(seq, body(seq, pad))
        assert len(ring) <= count + count // 8
        assert ring.size <= max_bytes + max_bytes // 8
    newest = 99 + len(pads)
    kept = list(ring.after(ring.floor))
    assert [seq for seq, _ in kept] == list(range(ring.floor + 1, newest + 1))
    assert ring.size == sum(len(text) for _, text in kept)
    for since in range(95, newest + 5):
        assert ring.covers(since) == (ring.floor <= since <= newest)
        if ring.covers(since):
            assert list(ring.after(since)) == [(s, t) for s, t in kept if s > since]
    for n in range(30):
        following = list(ring.after(ring.before_newest(n)))
        assert following == kept[max(0, len(kept) - n) :] if n else not following


@given(
    count=st.integers(1, 30),
    live=st.integers(0, 12),
    older=st.integers(0, 40),
    pad=st.integers(0, 200),
)
def test_what_the_stream_held_goes_before_and_is_given_up_again(
    count: int, live: int, older: int, pad: int
) -> None:
    ring = Ring(count, 500)
    ring.restart(100)
    for seq in range(101, 101 + live):
        ring.append(seq, body(seq))
    before = list(ring.after(ring.floor))
    ring.deepen([(seq, body(seq, pad)) for seq in range(101 - older, 101)], 100 - older)
    assert ring.is_whole
    assert ring.floor >= 100 - older
    kept = list(ring.after(ring.floor))
    assert kept[len(kept) - len(before) :] == before
    assert len(kept) == max(len(before), min(count, older + live))
    ring.relax(500)
    assert ring.size <= max(500, sum(len(text) for _, text in before))
    assert list(ring.after(ring.floor)) == kept[len(kept) - len(ring) :]


def state_of(*entries: Entry) -> TopicState:
    state = TopicState("trade.a.X", 50)
    for entry in entries:
        state.advance(*entry)
    return state


def trades(first: int, last: int, epoch: int = 1) -> list[Entry]:
    return [Entry(epoch, seq, TRADE % seq) for seq in range(first, last + 1)]


def restart(epoch: int, seq: int, after: int) -> Entry:
    return Entry(epoch, seq, RESTART % (seq, after + 1, seq - 1))


def test_a_restart_of_the_publisher_is_no_hole() -> None:
    state = state_of(*trades(10, 12), restart(2, 20, 12), *trades(21, 22, 2))
    assert state.resumes(10) and state.resumes(12) and state.resumes(21)
    assert [seq for seq, _ in state.ring.after(11)] == [12, 20, 21, 22]
    assert not state.resumes(23)


def test_nobody_resumes_over_a_hole() -> None:
    state = state_of(*trades(10, 12), *trades(15, 16))
    assert not state.resumes(12) and not state.resumes(13)
    assert state.resumes(14) and state.resumes(15)


def test_the_stream_is_taken_in_as_far_back_as_nothing_is_missing_in_it() -> None:
    stream = [*trades(1, 3), *trades(6, 8), restart(2, 20, 8), *trades(21, 24, 2)]
    state = state_of(*trades(23, 24, 2))
    assert not state.reaches(Start(since=6))
    state.deepen(stream)
    assert [seq for seq, _ in state.ring.after(0)] == [6, 7, 8, 20, 21, 22, 23, 24]
    assert state.resumes(5) and state.resumes(6) and not state.resumes(3)
    assert state.reaches(Start(since=3)), "it is known that it cannot be had"


def test_a_stream_that_does_not_connect_is_not_taken_in() -> None:
    state = state_of(*trades(23, 24))
    state.deepen(trades(10, 20))
    assert [seq for seq, _ in state.ring.after(0)] == [23, 24]
    assert not state.resumes(20) and state.ring.is_whole


def test_a_restart_entry_that_is_the_oldest_in_hand_finds_what_it_follows() -> None:
    state = state_of(restart(2, 20, 8), *trades(21, 22, 2))
    assert state.resumes(8), "its own first unused position is the next"
    state.deepen([*trades(6, 8), restart(2, 20, 8)])
    assert [seq for seq, _ in state.ring.after(6)] == [7, 8, 20, 21, 22]


def test_a_book_starts_its_row_where_its_checkpoint_stands() -> None:
    state = TopicState("book.a.X", 50)
    text = b'{"type":"book","topic":"book.a.X","seq":%d,"ts":4,"recv":1,"pub":6,'
    text += b'"bids":[["1","2"]],"asks":[],"snapshot":true}'
    state.restore(1, 7, text % 7)
    assert state.resumes(7) and not state.resumes(6) and not state.resumes(8)
    state.advance(1, 8, text % 8)
    assert [seq for seq, _ in state.ring.after(7)] == [8]
