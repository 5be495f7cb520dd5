from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.models import Level
from feed.window import Window

prices = st.decimals(
    min_value=Decimal("0.00000001"), max_value=Decimal(1_000_000), places=8, allow_nan=False
).map(lambda price: f"{price:f}")
levels = st.lists(st.tuples(prices, st.sampled_from(["0", "1", "2.50"])), max_size=12)


@given(st.lists(st.tuples(levels, levels), max_size=8))
def test_deltas_leave_what_a_table_by_price_would_hold(
    steps: list[tuple[list[Level], ...]],
) -> None:
    window = Window()
    tables: tuple[dict[Decimal, Level], ...] = ({}, {})
    for step in steps:
        window.apply(*step)
        for table, side in zip(tables, step, strict=True):
            for level in side:
                table[Decimal(level[0])] = level
                if level[1] == "0":
                    del table[Decimal(level[0])]
    bids, asks = window.levels()
    assert bids == [tables[0][price] for price in sorted(tables[0], reverse=True)]
    assert asks == [tables[1][price] for price in sorted(tables[1])]


def test_a_snapshot_forgets_what_was_before() -> None:
    window = Window()
    window.apply([("1", "1")], [("2", "1")])
    window.replace([("0.5", "3")], [])
    assert window.levels() == ([("0.5", "3")], [])


def test_the_text_of_a_price_stays_as_it_came() -> None:
    window = Window()
    window.apply([("1.50", "1")], [])
    window.apply([("1.5", "0")], [])
    assert window.levels() == ([], [])
    window.apply([("1.500", "1.0")], [])
    assert window.levels()[0] == [("1.500", "1.0")]


def test_a_price_that_is_no_number_replaces_nothing() -> None:
    window = Window()
    window.replace([("1", "1")], [("2", "1")])
    with pytest.raises(ValueError, match="x"):
        window.replace([("3", "1")], [("x", "1")])
    assert window.levels() == ([("1", "1")], [("2", "1")])
