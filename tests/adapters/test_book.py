"""The order book against a naive one, and the depth events' pace."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.base import Checkpoint, Health, Output
from adapters.book import CHECKPOINT_EVERY, Book, BookFeed, DepthPacer
from feed.models import Book as BookEvent
from feed.models import Depth, Gap, Level, Quote

TOPICS = {kind: f"{kind}.test.BTC-USD" for kind in ("book", "depth", "quote")}

prices = st.integers(1, 60).map(lambda cents: f"{cents / 10:.2f}")
sizes = st.sampled_from(["0", "0.0", "0.00000000", "1", "2.50", "3"])
changes = st.lists(st.tuples(prices, sizes), max_size=12)
levels = st.dictionaries(prices, st.sampled_from(["1", "2.50"]), max_size=40)


class Naive:
    """One side as a dict; everything else is worked out anew each time."""

    def __init__(self, snapshot: dict[str, str], is_bid: bool, cut: bool) -> None:
        self.sizes = dict(snapshot)
        self.is_bid = is_bid
        ordered = self.ordered()
        self.horizon = float(ordered[-1][0]) if cut and ordered else None

    def ordered(self) -> list[Level]:
        return sorted(self.sizes.items(), key=lambda level: float(level[0]), reverse=self.is_bid)

    def apply(self, updates: list[Level], keep: int | None = None) -> None:
        for price, size in updates:
            self.sizes.pop(price, None)
            beyond = self.horizon is not None and (
                float(price) < self.horizon if self.is_bid else float(price) > self.horizon
            )
            if float(size) and not beyond:
                self.sizes[price] = size
        if keep is not None:
            self.sizes = dict(self.ordered()[:keep])


def shown_after(shown: dict[str, str], deltas: list[Level]) -> dict[str, str]:
    """Apply deltas as a client does, checking that each says something."""
    for price, size in deltas:
        assert shown.get(price, "0") != size, f"{price} {size} changes nothing"
        if size == "0":
            del shown[price]
        else:
            shown[price] = size
    return shown


@given(
    levels,
    levels,
    st.lists(st.tuples(changes, changes), max_size=12),
    st.sampled_from([1, 3, 10, 1000]),
    st.booleans(),
    st.booleans(),
)
@example(
    {"0.10": "1"},
    {},
    [([("0.10", "2.50"), ("0.10", "0"), ("0.10", "1"), ("0.20", "1")], [])],
    1,
    False,
    False,
)
def test_deltas_applied_to_the_window_give_the_true_book(
    bids: dict[str, str],
    asks: dict[str, str],
    updates: list[tuple[list[Level], list[Level]]],
    window: int,
    cut: bool,
    truncate: bool,
) -> None:
    book = Book(window, truncate)
    book.replace(bids.items(), asks.items(), complete=not cut)
    true = (Naive(bids, True, cut), Naive(asks, False, cut))
    keep = window if truncate else None
    if truncate:
        for side in true:
            side.apply([], keep)
            if cut and side.sizes:
                side.horizon = float(side.ordered()[-1][0])
    shown = tuple(map(dict, book.window()))
    for update in updates:
        deltas = book.apply(*update)
        for i in (0, 1):
            true[i].apply(update[i], keep)
            shown_after(shown[i], deltas[i])
            expected = true[i].ordered()[:window]
            assert book.window()[i] == expected
            assert shown[i] == dict(expected)
            assert book.best()[i] == (expected[0] if expected else None)
        assert book.known == tuple(len(side.sizes) for side in true)


def test_zero_in_any_spelling_deletes() -> None:
    for zero in ("0", "0.0", "0.00000000", "00", "0."):
        book = Book(10)
        book.replace([("1.0", "5")], [])
        assert book.apply([("1.00", zero)], []) == ([("1.00", "0")], [])


def test_levels_beyond_a_cut_snapshot_are_never_shown() -> None:
    book = Book(10)
    book.replace([("9", "1"), ("8", "1")], [("10", "1")], complete=(False, True))
    assert book.apply([("7", "1")], [("99", "1")]) == ([], [("99", "1")])
    assert book.apply([("8", "0"), ("8.5", "2")], []) == ([("8", "0"), ("8.5", "2")], [])
    assert book.apply([("8", "3")], []) == ([("8", "3")], [])


def test_a_cut_book_is_thin_when_under_a_quarter_is_left() -> None:
    book = Book(10)
    book.replace([(str(price), "1") for price in range(8)], [("99", "1")], complete=(False, True))
    book.apply([(str(price), "0") for price in range(6)], [])
    assert not book.is_thin
    book.apply([("6", "0")], [])
    assert book.is_thin


def test_a_snapshot_whose_prices_meet_is_refused_and_changes_nothing() -> None:
    book = Book(10)
    book.replace([("1", "1")], [("2", "1")])
    with pytest.raises(ValueError):
        book.replace([("5", "1")], [("7.0", "1"), ("7.00", "2")])
    assert book.window() == ([("1", "1")], [("2", "1")])


@given(levels, levels, levels, levels)
def test_the_changes_to_a_snapshot_make_the_book_that_snapshot(
    bids: dict[str, str], asks: dict[str, str], new_bids: dict[str, str], new_asks: dict[str, str]
) -> None:
    book, other = Book(60), Book(60)
    book.replace(bids.items(), asks.items())
    other.replace(new_bids.items(), new_asks.items())
    changed = book.changes_to(list(new_bids.items()), list(new_asks.items()))
    told = book.apply(*changed)
    assert book.window() == other.window()
    assert tuple(map(len, told)) == tuple(map(len, changed)), "nothing that is as it was is told"


def test_changes_to_a_snapshot_whose_prices_meet_are_refused() -> None:
    with pytest.raises(ValueError):
        Book(10).changes_to([("1.0", "1"), ("1.00", "2")], [])


def test_a_crossed_book_says_so() -> None:
    book = Book(10)
    book.replace([("1", "1")], [("2", "1")])
    assert not book.is_crossed
    book.apply([("2", "1")], [])
    assert book.is_crossed


def feed(*kinds: str, pacer: DepthPacer | None = None) -> BookFeed:
    topics = {kind: TOPICS[kind] for kind in kinds or TOPICS}
    return BookFeed("BTCUSD", topics, 10, pacer or DepthPacer())


def test_a_snapshot_gives_book_checkpoint_depth_and_quote() -> None:
    book, checkpoint, depth, quote = feed().snapshot([("1", "5")], [("2", "6")], 1000, 7)
    assert book == BookEvent(TOPICS["book"], 0, 1000, 7, 0, [("1", "5")], [("2", "6")], True)
    assert checkpoint == Checkpoint(book)
    assert depth == Depth(TOPICS["depth"], 0, 1000, 7, 0, [("1", "5")], [("2", "6")])
    assert quote == Quote(TOPICS["quote"], 0, 1000, 7, 0, "1", "5", "2", "6")


def test_only_what_is_wanted_is_made() -> None:
    one = feed("quote")
    assert len(one.snapshot([("1", "5")], [], 1000, 7)) == 1
    assert one.delta([("0.5", "5")], [], 2000, 8) == []
    assert one.delta([("1", "0"), ("0.5", "0")], [], 3000, 9) == [
        Quote(TOPICS["quote"], 0, 3000, 9, 0, None, None, None, None)
    ]


def test_deltas_that_change_nothing_give_nothing() -> None:
    one = feed()
    one.snapshot([("1", "5")], [("2", "6")], 1000, 7)
    assert one.delta([("1", "5"), ("0.5", "0")], [("2", "6")], 500_000, 8) == []


def test_every_four_hundredth_delta_has_a_checkpoint() -> None:
    one = feed("book")
    one.snapshot([("1", "5")], [], 1000, 7)
    kinds = [
        [type(output) for output in one.delta([("1", str(size))], [], 2000, 8)]
        for size in range(10, 10 + 2 * CHECKPOINT_EVERY)
    ]
    assert [i for i, made in enumerate(kinds, 1) if Checkpoint in made] == [400, 800]


def test_depth_comes_at_most_once_in_100_ms_and_the_last_change_is_not_lost() -> None:
    pacer = DepthPacer()
    one = feed("depth", pacer=pacer)
    assert len(one.snapshot([("1", "5")], [], 1_000_000, 1)) == 1
    assert one.delta([("1", "6")], [], 1_050_000, 2) == []
    assert one.delta([("1", "7")], [], 1_099_000, 3) == []
    assert list(pacer.advance(1_099_999)) == []
    assert list(pacer.advance(1_120_000)) == [
        Depth(TOPICS["depth"], 0, 1_099_000, 3, 0, [("1", "7")], [])
    ]
    assert one.delta([("1", "8")], [], 1_199_999, 4) == []
    assert list(pacer.flush()) == [Depth(TOPICS["depth"], 0, 1_199_999, 4, 0, [("1", "8")], [])]
    assert list(pacer.advance(9_000_000)) == []


def test_depth_that_became_what_it_was_is_not_repeated() -> None:
    pacer = DepthPacer()
    one = feed("depth", pacer=pacer)
    one.snapshot([("1", "5")], [], 1_000_000, 1)
    one.delta([("1", "6")], [], 1_010_000, 2)
    one.delta([("1", "5")], [], 1_020_000, 3)
    assert list(pacer.advance(2_000_000)) == []


def test_depth_ignores_the_twenty_first_level() -> None:
    one = BookFeed("BTCUSD", {"depth": TOPICS["depth"]}, 100, DepthPacer())
    one.snapshot([(str(price), "1") for price in range(1, 31)], [], 1_000_000, 1)
    assert one.delta([("10", "9")], [], 2_000_000, 2) == []
    assert len(one.delta([("11", "9")], [], 3_000_000, 3)) == 1
    assert len(one.delta([("30", "0")], [], 4_000_000, 3)) == 1


def test_a_delta_that_was_held_back_is_paced_by_its_own_time() -> None:
    """The depth events are the same whether or not the snapshot came late."""
    times = [1_000_000, 1_020_000, 1_090_000, 1_130_000, 1_180_000, 1_500_000, 1_520_000]
    prompt, late = DepthPacer(), DepthPacer()
    first, second = feed("depth", pacer=prompt), feed("depth", pacer=late)
    out: list[Output] = first.snapshot([("1", "5")], [], None, 0, clock=times[0])
    for ts in times:
        out += first.delta([("1", str(ts))], [], ts, ts)
        out += prompt.advance(ts + 15_000)
    late.advance(times[-1] + 15_000)
    held: list[Output] = second.snapshot([("1", "5")], [], None, 0, clock=times[0])
    clock = times[0]
    for ts in times:
        clock = max(clock, ts)
        held += second.delta([("1", str(ts))], [], ts, ts, clock=clock)
        clock = ts + 15_000
    out += prompt.advance(2_000_000)
    held += late.advance(2_000_000)
    assert held == out
    assert len(out) > 3


def test_depth_without_exchange_times_is_not_held_back() -> None:
    one = feed("depth")
    one.snapshot([("1", "5")], [], None, 1)
    assert len(one.delta([("1", "6")], [], None, 2)) == 1


def test_a_broken_book_is_invalid_has_a_gap_and_comes_back_with_a_snapshot() -> None:
    one = feed()
    one.snapshot([("1", "5")], [("2", "6")], 1_000_000, 1)
    one.delta([("1", "6")], [], 1_010_000, 2)  # its depth event waits
    health, gap = one.broken("checksum", 3)
    assert health == Health("BTCUSD", ("book", "depth", "quote"), "invalid", "checksum")
    assert isinstance(gap, Gap)
    assert (gap.topic, gap.cause, gap.lost) == (TOPICS["book"], "upstream_sequence", None)
    assert not one.is_live
    assert one.broken("checksum", 4) == []
    back = one.snapshot([("1", "7")], [("2", "6")], 1_020_000, 5)
    assert back[-1] == Health("BTCUSD", ("book", "depth", "quote"), "live", None)
    assert [output.bids for output in back if isinstance(output, Depth)] == [[("1", "7")]]
