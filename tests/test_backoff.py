"""Waiting grows, is spread, and has an end."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from feed.backoff import delay


@given(st.integers(0, 100_000), st.integers())
def test_a_wait_lies_between_nothing_and_the_cap(attempt: int, seed: int) -> None:
    assert 0.0 <= delay(attempt, Random(seed), base_s=0.5, cap_s=20.0) <= 20.0


def test_the_longest_possible_wait_doubles_up_to_the_cap() -> None:
    class Highest(Random):
        def random(self) -> float:
            return 1.0

    assert [delay(n, Highest(), base_s=0.25, cap_s=3.0) for n in range(6)] == [
        0.25, 0.5, 1.0, 2.0, 3.0, 3.0,
    ]  # fmt: skip


def test_many_who_wait_are_spread_over_the_whole_time() -> None:
    waits = [delay(3, Random(seed), base_s=1.0) for seed in range(1_000)]
    assert min(waits) < 0.5 and max(waits) > 7.5
    assert all(150 < sum(low <= wait < low + 2.0 for wait in waits) for low in (0, 2, 4, 6))
