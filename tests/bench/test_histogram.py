"""The histogram against the sorted list of all values."""

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bench.histogram import Histogram

values = st.lists(st.integers(0, 10**12), min_size=1)
percents = st.floats(0, 100, exclude_min=True)


def filled(numbers: list[int]) -> Histogram:
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)
    return histogram


@given(values, percents)
def test_a_percentile_is_the_value_of_that_rank_to_three_digits(
    numbers: list[int], percent: float
) -> None:
    rank = math.ceil(percent / 100 * len(numbers))
    exact = sorted(numbers)[max(rank, 1) - 1]
    found = filled(numbers).percentile(percent)
    assert exact <= found <= exact * (1 + 1 / 1024)
    assert found == exact or exact >= 2048


@given(values, values)
def test_merging_counts_as_if_one_had_seen_everything(one: list[int], other: list[int]) -> None:
    merged = filled(one).merge([filled(other)])
    assert merged.dump() == {**filled(one + other).dump(), "counts": merged.dump()["counts"]}
    assert [merged.percentile(p) for p in (1, 50, 99, 100)] == [
        filled(one + other).percentile(p) for p in (1, 50, 99, 100)
    ]


@given(values)
def test_it_survives_a_journey_as_json(numbers: list[int]) -> None:
    histogram = filled(numbers)
    again = Histogram.load(msgspec.json.decode(msgspec.json.encode(histogram.dump())))
    assert (again.count, again.max) == (histogram.count, histogram.max)
    assert again.percentile(99) == histogram.percentile(99)


def test_an_empty_one_says_zero_and_a_negative_value_counts_as_zero() -> None:
    assert Histogram().percentile(99) == 0
    assert filled([-5, 0, 7]).percentile(50) == 0
