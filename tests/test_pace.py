"""Patience: none while there is time, all of it under load, and no swinging in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feed.pace import Pace

MAX_S = 0.020


class Process:
    """A process that the test lets compute and sleep."""

    def __init__(self) -> None:
        self.pace = Pace(MAX_S)
        self.now = 5.0
        self.cpu_s = 1.0
        self.pace.look(self.now, self.cpu_s)

    def turn(self, busy_s: float, idle_s: float = 0.0) -> float:
        """Return the patience after the turn."""
        self.now += busy_s + idle_s
        self.cpu_s += busy_s
        self.pace.look(self.now, self.cpu_s)
        return self.pace.patience_s


def test_a_server_with_time_to_spare_has_no_patience() -> None:
    process = Process()
    assert {process.turn(0.005, 0.005) for _ in range(1_000)} == {0.0}
    assert 0.49 < process.pace.busy < 0.51


def test_a_server_that_only_computes_has_all_the_patience_there_is() -> None:
    process = Process()
    assert [process.turn(0.001) for _ in range(2_000)][-1] == MAX_S


def test_one_long_flush_after_a_quiet_time_makes_nobody_wait() -> None:
    process = Process()
    process.turn(0.001, 4.0)
    # An entry that ten thousand clients want: 100 ms of slices on end.
    assert {process.turn(0.001) for _ in range(100)} == {0.0}


@given(
    # What one write to every client takes, how long a client waits for its next entry, and what
    # share of the time goes into reading the bus.
    round_ms=st.floats(1.0, 60.0),
    next_ms=st.floats(0.5, 50.0),
    reading=st.floats(0.0, 0.4),
)
def test_patience_settles_where_some_time_is_left(
    round_ms: float, next_ms: float, reading: float
) -> None:
    """Against a model of the clients: each is written to once in (patience + time to its next)."""
    process = Process()
    last: list[float] = []

    def busy(patience_s: float) -> float:
        return min(1.0, reading + round_ms / (1000 * patience_s + next_ms))

    for turn in range(3_000):
        share = busy(process.pace.patience_s)
        patience_s = process.turn(0.002 * share, 0.002 * (1 - share))
        if turn >= 2_500:
            last.append(patience_s)
    assert max(last) - min(last) < 0.001
    if busy(0.0) < 0.64:
        assert last[-1] == 0.0
    elif busy(MAX_S) > 0.99:
        assert last[-1] == MAX_S
    elif busy(0.0) > 0.66 and busy(MAX_S) < 0.97:
        assert 0.64 < process.pace.busy < 0.99


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), max_size=50), st.floats(0, 0.1))
def test_patience_is_never_more_than_allowed(
    turns: list[tuple[float, float]], max_s: float
) -> None:
    process = Process()
    process.pace = Pace(max_s)
    for idle_s, busy_s in turns:
        assert 0.0 <= process.turn(busy_s, idle_s) <= max_s
        assert 0.0 <= process.pace.busy <= 1.0
