from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backfill import Hole
from adapters.base import Mark, Output, Page, Resumed
from adapters.trade_ids import MAX_REPEATED, RENUMBERED, TradeIds
from feed.models import Gap, Trade

TOPIC = "trade.x.BTC-USD"


def trade(number: int) -> Trade:
    return Trade(TOPIC, 0, number, 0, 0, str(number), "1", "1", "buy", backfill=True)


def page(*numbers: int, no_trade: int = 0) -> Page:
    return Page("BTC-USD", tuple((n, None if n == no_trade else trade(n)) for n in numbers))


def numbers(trades: list[Trade]) -> list[str]:
    return [one.id or "" for one in trades]


def test_a_page_fills_what_lies_between_and_nothing_else() -> None:
    hole = Hole(Mark(3))
    hole.reached(7)
    assert hole.is_wanting
    assert numbers(hole.take(page(1, 2, 3, 4, 5, 6, 7, 8))) == ["4", "5", "6"]
    assert hole.is_closed and hole.missing() == 0


def test_no_trade_missed_is_a_hole_that_was_never_open() -> None:
    hole = Hole(Mark(3))
    hole.reached(4)
    assert hole.is_closed and hole.missing() == 0


def test_what_a_page_leaves_out_is_lost_and_a_number_without_a_trade_is_not() -> None:
    hole = Hole(Mark(3))
    hole.reached(10)
    assert numbers(hole.take(page(4, 6, 7, no_trade=7))) == ["4", "6"]
    assert hole.missing() == 3  # 5, 8 and 9
    assert hole.take(page(12)) == []
    assert hole.is_closed and hole.missing() == 3


def test_without_a_live_trade_the_end_is_where_a_page_brings_nothing_new() -> None:
    hole = Hole(Mark(3))
    assert hole.is_wanting and hole.missing() is None
    assert numbers(hole.take(page(4, 5))) == ["4", "5"]
    assert hole.is_wanting
    assert hole.take(page(4, 5)) == []
    assert not hole.is_wanting and hole.missing() == 0
    hole.reached(8)
    assert hole.is_wanting and hole.missing() == 2


@given(
    after=st.integers(0, 20),
    length=st.integers(0, 60),
    sizes=st.lists(st.integers(1, 9), min_size=1),
    unknown=st.sets(st.integers(0, 90)),
    reached_at=st.integers(0, 12),
    pages=st.integers(0, 30),
)
def test_what_is_delivered_and_what_is_lost_are_together_what_was_missing(
    after: int, length: int, sizes: list[int], unknown: set[int], reached_at: int, pages: int
) -> None:
    """Any loss, any page sizes, any holes in the answers, given up after any number of pages."""
    before = after + length + 1
    newest = before + 5
    known = [n for n in range(newest) if n not in unknown]
    hole = Hole(Mark(after))
    delivered: list[int] = []
    for turn in range(pages):
        if turn == reached_at and hole.before is None:
            hole.reached(max(before, hole.after.id + 1))
        if not hole.is_wanting:
            continue
        rest = [n for n in known if n > hole.after.id][: sizes[turn % len(sizes)]]
        delivered += [int(n) for n in numbers(hole.take(page(*rest)))]
    if hole.before is None:
        hole.reached(max(before, hole.after.id + 1))
    assert hole.before is not None
    missed = range(after + 1, hole.before)
    assert delivered == sorted(set(delivered))
    assert set(delivered) <= set(missed)
    missing = hole.missing()
    assert missing is not None
    assert len(delivered) + missing == len(missed)


class Ids:
    """What is said and passed of a topic's trades."""

    def __init__(self, resumed: int | None = None) -> None:
        self.ids = TradeIds(TOPIC, "BTC-USD")
        if resumed is not None:
            self.ids.resume(Mark(resumed, 5))
        self.said: list[Output] = []
        self.passed: list[int] = []

    def see(self, *numbers: int) -> Ids:
        for number in numbers:
            said = self.ids.reach(number, 0)
            if said is not None:
                self.said += said
                self.passed.append(number)
        return self


def gaps(outputs: list[Output]) -> list[int | None]:
    return [one.lost for one in outputs if isinstance(one, Gap)]


def test_numbers_that_follow_say_nothing_and_a_jump_says_how_many() -> None:
    ids = Ids().see(7, 8, 9, 12, 13)
    assert ids.passed == [7, 8, 9, 12, 13]
    assert gaps(ids.said) == [2]


def test_repeats_are_dropped() -> None:
    ids = Ids().see(7, 8, 8, 7, 9)
    assert (ids.passed, ids.said) == ([7, 8, 9], [])


def test_after_a_resume_repeats_are_dropped_and_the_first_new_one_is_announced() -> None:
    ids = Ids(resumed=100).see(*range(51, 101), 103, 104, 106)
    assert ids.passed == [103, 104, 106]
    assert ids.said[0] == Resumed("BTC-USD", Mark(100, 5), 103)
    assert gaps(ids.said) == [1]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param([1, 2], id="numbers far below"),
        pytest.param([RENUMBERED + 5] * (MAX_REPEATED + 1), id="too many repeats in a row"),
    ],
)
def test_an_exchange_that_counts_anew_is_believed_and_the_loss_is_unknowable(
    seen: list[int],
) -> None:
    ids = Ids().see(2 * RENUMBERED, *seen)
    assert gaps(ids.said) == [None]
    assert ids.passed[1:] == [n for n in dict.fromkeys(seen)]


def test_a_connection_with_repeats_alone_leaves_no_mark() -> None:
    assert Ids(resumed=9).ids.mark() == Mark(9, 5)
    assert Ids(resumed=9).see(8, 9).ids.mark() is None
    assert Ids(resumed=9).see(8, 9, 10).ids.mark() == Mark(10, 5)
    assert Ids().ids.mark() is None


def test_what_a_heartbeat_knows_of_is_missing_once() -> None:
    ids = Ids().see(5)
    assert gaps(list(ids.ids.known(7, 0))) == [2]
    assert ids.ids.known(7, 0) == ()
    assert ids.see(6, 7, 8).passed == [5, 8]


@given(
    st.lists(st.integers(0, 30), max_size=60),
    st.one_of(st.none(), st.integers(0, 30)),
)
def test_every_number_up_to_the_newest_is_passed_once_or_counted(
    seen: list[int], resumed: int | None
) -> None:
    ids = Ids(resumed).see(*seen)
    assert ids.passed == sorted(set(ids.passed))
    if not ids.passed:
        return
    lost = sum(n or 0 for n in gaps(ids.said))
    for one in ids.said:
        if isinstance(one, Resumed) and one.after is not None:
            lost += one.before - one.after.id - 1
    first = ids.passed[0] if resumed is None else resumed + 1
    assert len(ids.passed) + lost == ids.passed[-1] - first + 1
