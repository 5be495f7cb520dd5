"""Patience: none while there is time, all of it under load, and no swinging in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feed.pace import Pace

MAX_S = 0.020


def test_a_server_with_time_to_spare_has_no_patience() -> None:
    pace = Pace(MAX_S)
    for turn in range(1_000):  # a millisecond of work every ten
        pace.flushed(5.0 + turn * 0.010, 5.0 + turn * 0.010 + 0.001)
        assert pace.patience_s == 0.0
    assert 0.09 < pace.share < 0.11


def test_a_server_that_does_nothing_but_write_has_all_the_patience_there_is() -> None:
    pace = Pace(MAX_S)
    for turn in range(2_000):
        pace.flushed(5.0 + turn * 0.001, 5.0 + (turn + 1) * 0.001)
    assert pace.patience_s == MAX_S


def test_one_long_flush_after_a_quiet_time_makes_nobody_wait() -> None:
    pace = Pace(MAX_S)
    pace.flushed(5.0, 5.001)
    for turn in range(60):  # an entry that ten thousand clients want: 60 ms of slices on end
        pace.flushed(9.0 + turn * 0.001, 9.0 + (turn + 1) * 0.001)
    assert pace.patience_s == 0.0


@given(
    # What a write to every client takes, and how long an idle client waits for its next entry.
    work_ms=st.floats(1.0, 60.0),
    next_ms=st.floats(0.5, 50.0),
)
def test_patience_settles_where_writing_takes_about_half_of_the_time(
    work_ms: float, next_ms: float
) -> None:
    """Against a model of the clients: each is written to once in (patience + time to its next)."""
    pace, now = Pace(MAX_S), 5.0
    last: list[float] = []
    for turn in range(3_000):
        round_s = pace.patience_s + next_ms / 1000
        now += 0.002
        pace.flushed(now - 0.002 * min(1.0, work_ms / 1000 / round_s), now)
        if turn >= 2_500:
            last.append(pace.patience_s)
    assert max(last) - min(last) < 0.001
    share_without = work_ms / next_ms
    share_with_all = work_ms / (1000 * MAX_S + next_ms)
    if share_without < 0.44:
        assert last[-1] == 0.0
    elif share_with_all > 0.61:
        assert last[-1] == MAX_S
    elif 0.46 < share_without and share_with_all < 0.59:
        assert 0.44 < pace.share < 0.61


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), max_size=50), st.floats(0, 0.1))
def test_patience_is_never_more_than_allowed(
    turns: list[tuple[float, float]], max_s: float
) -> None:
    pace, now = Pace(max_s), 0.0
    for idle_s, work_s in turns:
        pace.flushed(now + idle_s, now + idle_s + work_s)
        now += idle_s + work_s
        assert 0.0 <= pace.patience_s <= max_s and 0.0 <= pace.share <= 1.0
