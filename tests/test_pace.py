"""The rests between flushes: none without load, as long as the work under load, bounded a round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.pace import Pace

PATIENCE_S = 0.010


def test_a_server_that_was_idle_never_waits() -> None:
    pace = Pace(PATIENCE_S)
    for turn in range(100):
        now = 5.0 + turn * 0.02
        assert pace.wait(now) == 0.0
        pace.worked(now, now + 0.001, 1.0)


def test_without_patience_nobody_ever_waits() -> None:
    pace = Pace(0.0)
    now = 1.0
    for _ in range(100):
        pace.worked(now, now + 0.01, 0.1)
        now += 0.01
        assert pace.wait(now) == pytest.approx(0.0)


@given(
    slices=st.integers(1, 100),
    work_us=st.integers(10, 5_000),
    late_us=st.lists(st.integers(0, 900)),
)
def test_under_load_the_rests_are_as_long_as_the_work_and_bounded_a_round(
    slices: int, work_us: int, late_us: list[int]
) -> None:
    """``late_us``: timers that fire late are made up for by the next rests."""
    pace, now, rests = Pace(PATIENCE_S), 100.0, 0.0
    work_s = work_us / 1e6
    pace.worked(now - PATIENCE_S, now, 1.0)  # uses up what was idle before
    now += pace.wait(now)
    began, rounds = now, 20
    for n in range(slices * rounds):
        pace.worked(now, now + work_s, 1 / slices)
        now += work_s
        wait = pace.wait(now)
        rests += wait
        now += wait + (late_us[n] / 1e6 if n < len(late_us) else 0.0)
    bound_s = min(rounds * slices * work_s, rounds * PATIENCE_S)
    assert rests <= bound_s + 1e-6
    assert now - began >= rounds * slices * work_s + bound_s - PATIENCE_S - 1e-6


@given(idle_us=st.integers(0, 100_000))
def test_what_was_idle_lets_a_burst_through_up_to_the_patience(idle_us: int) -> None:
    pace, now = Pace(PATIENCE_S), 7.0
    pace.worked(now - PATIENCE_S, now, 1.0)
    now += pace.wait(now) + idle_us / 1e6
    began, slices = now, 0
    while pace.wait(now) <= 1e-9 and slices < 1_000:
        pace.worked(now, now + 0.001, 1.0)
        now += 0.001
        slices += 1
    at_once_s = slices * 0.001
    assert at_once_s <= min(idle_us / 1e6, PATIENCE_S) + 0.001 + 1e-6
    assert now - began == pytest.approx(at_once_s)
