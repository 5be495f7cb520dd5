from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import Checkpoint, Health, Output, Refused, Stream, upstream_gap
from adapters.rotation import Handover
from feed.models import Book, Gap, Quote, Ticker, Trade

NATIVE = "BTC-USD"
TOPICS = {f"{kind}.x.{NATIVE}": NATIVE for kind in ("trade", "quote", "ticker", "book")}
TRADE, QUOTE, TICKER, BOOK = TOPICS


def trade(n: int) -> Trade:
    return Trade(TRADE, 0, n, 0, 0, str(n), "1", "1", "buy")


def quote(n: int) -> Quote:
    """A quote without an exchange time, as on Binance's spot market."""
    return Quote(QUOTE, 0, None, 0, 0, str(n), "1", str(n + 1), "1")


def ticker(n: int) -> Ticker:
    return Ticker(TICKER, 0, n, 0, 0, str(n), None, None, None, None, None, None, None)


def delta(n: int) -> Book:
    return Book(BOOK, 0, n, 0, 0, [(str(n), "1")], [])


def whole(n: int) -> list[Output]:
    book = Book(BOOK, 0, n, 0, 0, [(str(n), "1")], [], True)
    return [book, Checkpoint(book)]


MAKERS: dict[str, Callable[[int], Output]] = {"t": trade, "q": quote, "k": ticker, "b": delta}


def handover(last_trade: int | None = None, shown: Sequence[Output] = ()) -> Handover:
    ids = {} if last_trade is None else {NATIVE: last_trade}
    return Handover(TOPICS, TOPICS, ids, lambda native, ts, recv: shown)


def read(outputs: Sequence[Output], kind: type) -> list[int]:
    """Return which events of the reference these are."""
    found = []
    for one in outputs:
        if isinstance(one, kind):
            match one:
                case Trade():
                    found.append(int(one.id or ""))
                case Quote():
                    found.append(int(one.bid or ""))
                case Ticker():
                    found.append(int(one.last or ""))
                case Book():
                    found.append(int(one.bids[0][0]))
    return found


class World:
    """One exchange's events, which come over both connections, each at its own pace.

    Args:
        story: Of each event its kind; its number is its place, from 1.
        old_at: So many had come over the old connection when the handover began.
        start: From here on all come over the new one as well.
    """

    def __init__(self, story: str, old_at: int, start: int) -> None:
        self.story = story
        self.old_at = old_at
        self.new_at = start
        self.passed: list[Output] = [MAKERS[k](n) for n, k in self.numbered(0, old_at)]
        trades = read(self.passed, Trade)
        self.rule = Handover(
            TOPICS, TOPICS, {NATIVE: trades[-1]} if trades else {}, lambda *_: self.whole()
        )
        self._take(self.rule.new(whole(self.book_at(start))))

    def numbered(self, start: int, end: int) -> list[tuple[int, str]]:
        return [(n + 1, self.story[n]) for n in range(start, end)]

    def book_at(self, at: int) -> int:
        """Return which delta was the last in a book that is so far."""
        return max([0, *(n for n, kind in self.numbered(0, at) if kind == "b")])

    def whole(self) -> list[Output]:
        return whole(self.book_at(self.new_at))

    def _take(self, outputs: list[Output]) -> None:
        self.passed += outputs

    def old(self) -> None:
        if self.old_at < len(self.story) and not self.rule.is_done:
            self.old_at += 1
            n, kind = self.numbered(self.old_at - 1, self.old_at)[0]
            self._take(self.rule.old([MAKERS[kind](n)]))

    def new(self) -> None:
        if self.new_at < len(self.story):
            self.new_at += 1
            n, kind = self.numbered(self.new_at - 1, self.new_at)[0]
            self._take(self.rule.new([MAKERS[kind](n)]))

    def try_switch(self) -> None:
        if self.rule.is_switching:
            return
        if self.old_at == self.new_at:  # all there was came over both, and no more comes
            self.rule.settle()
            self.rule.settle()
        if not self.rule.waits_for():
            self._take(self.rule.switch())

    def force(self) -> None:
        if self.rule.is_switching and not self.rule.is_done:
            self._take(self.rule.switch(is_forced=True))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, str]:
    story = draw(st.text("tqkb", max_size=40))
    start = draw(st.integers(0, len(story)))
    old_at = draw(st.integers(0, start))
    # Mostly both move on; switching is tried now and then, and forced seldom.
    steps = draw(st.text("ononononsf", max_size=150))
    return World(story, old_at, start), steps


@settings(max_examples=400)
@given(worlds())
def test_whatever_the_interleaving_nothing_is_missing_twice_or_out_of_order(
    given_: tuple[World, str],
) -> None:
    world, steps = given_
    do = {"o": world.old, "n": world.new, "s": world.try_switch, "f": world.force}
    for step in steps:
        do[step]()
    # In the end everything has come over both, and then the switch can be made.
    for _ in world.story:
        world.old()
        world.new()
    world.try_switch()
    world.force()
    for _ in world.story:
        world.new()
    assert world.rule.is_done
    numbered = world.numbered(0, len(world.story))
    assert read(world.passed, Trade) == [n for n, kind in numbered if kind == "t"]
    for kind, letter in ((Quote, "q"), (Ticker, "k")):
        shown, sent = read(world.passed, kind), [n for n, k in numbered if k == letter]
        assert shown == sorted(set(shown))
        assert shown[-1:] == sent[-1:]
    books = [one for one in world.passed if isinstance(one, Book)]
    (at,) = [i for i, one in enumerate(books) if one.snapshot]
    deltas = [n for n, kind in numbered if kind == "b"]
    joint = read(books[at : at + 1], Book)[0]
    assert read(books[:at], Book) == [n for n in deltas if n <= (read(books[:at], Book) or [0])[-1]]
    assert read(books[at + 1 :], Book) == [n for n in deltas if n > joint]
    checkpoints = [one for one in world.passed if isinstance(one, Checkpoint)]
    assert len(checkpoints) == 1


@settings(max_examples=400)
@given(worlds())
def test_before_the_switch_the_new_connection_is_not_heard_at_all(
    given_: tuple[World, str],
) -> None:
    world, steps = given_
    for step in steps:
        {"o": world.old, "n": world.new}.get(step, world.old)()
    assert world.passed == [MAKERS[k](n) for n, k in world.numbered(0, world.old_at)]


def test_a_book_is_not_switched_before_it_has_caught_up() -> None:
    rule = handover(shown=whole(5))
    rule.new(whole(3))
    rule.old([delta(4), delta(5)])
    assert rule.switch() == []
    assert rule.new([delta(4)]) == []
    shown = rule.new([delta(5)])
    assert read(shown, Book) == [5]
    assert shown[-1] == Health(NATIVE, ("book",), "live", None)
    assert rule.new([delta(6)]) == [delta(6)]
    assert rule.old([delta(6)]) == []


def test_a_book_that_breaks_on_the_new_connection_is_waited_for() -> None:
    rule = handover(last_trade=1)
    rule.old([trade(2), quote(1), ticker(1)])
    rule.new([*whole(3), trade(2), quote(1), ticker(1)])
    assert rule.waits_for() == []
    broken = [Health(NATIVE, ("book", "quote"), "invalid", "checksum")]
    assert rule.new([*broken, upstream_gap(BOOK, 0, "upstream_sequence", None)]) == []
    assert rule.waits_for() == [BOOK]
    assert rule.old(broken) == broken  # the old one still says for itself


def test_trades_over_the_new_connection_alone_are_no_proof() -> None:
    rule = handover(last_trade=1)
    assert rule.new([trade(2)]) == []
    rule.settle()
    rule.settle()
    assert TRADE in rule.waits_for()
    assert rule.old([trade(2)]) == [trade(2)]
    assert TRADE not in rule.waits_for()


def test_a_quiet_topic_is_switched_once_it_is_settled_and_named_as_unproven() -> None:
    rule = handover(last_trade=1)
    rule.new(whole(1))
    rule.settle()
    rule.old([ticker(1)])
    rule.settle()
    assert rule.waits_for() == [TICKER]
    rule.settle()
    assert rule.waits_for() == []
    assert rule.unproven == [TRADE]


def test_a_trade_that_came_before_is_dropped_and_proves_the_overlap() -> None:
    rule = handover(last_trade=7)
    assert rule.new([trade(7)]) == []
    assert rule.unproven == []
    rule.switch()
    assert rule.new([trade(7), trade(8)]) == [trade(8)]


def test_a_hole_that_the_new_connection_found_is_told_only_if_it_lies_after_the_switch() -> None:
    rule = handover(last_trade=1)
    hole = upstream_gap(TRADE, 0, "upstream_sequence", 3)
    assert rule.new([hole, trade(1), trade(2), hole, trade(6)]) == []
    passed = rule.switch()
    assert [type(one) for one in passed] == [Trade, Gap, Trade]


@pytest.mark.parametrize("is_late", [False, True], ids=["before the switch", "after it"])
def test_a_refusal_ends_the_attempt_but_after_the_switch_it_is_passed_on(is_late: bool) -> None:
    rule = handover()
    if is_late:
        rule.switch()
    refused = Refused((Stream("trade", NATIVE),), "no such symbol")
    assert rule.new([refused]) == ([refused] if is_late else [])
    assert rule.refused == (None if is_late else "no such symbol")


def test_a_state_that_says_the_same_again_is_no_step_back() -> None:
    rule = handover()
    rule.old([quote(1), quote(2)])
    rule.new([quote(1)])
    rule.switch()
    assert rule.new([quote(2)])[:1] != [quote(2)]  # both say the same now: said already
    assert read(rule.new([quote(1)]), Quote) == [1]  # and this is really new


def test_a_forced_switch_of_a_state_without_times_never_steps_back() -> None:
    rule = handover()
    rule.old([quote(n) for n in range(1, 6)])
    rule.new([quote(1), quote(2)])
    rule.switch()
    assert read(rule.switch(is_forced=True), Quote) == []  # the new one is behind
    assert read(rule.new([quote(n) for n in range(3, 8)]), Quote) == [6, 7]
    assert read(rule.new([quote(3)]), Quote) == [3]  # it has caught up: this is really new


def test_a_forced_switch_of_a_state_with_times_never_steps_back() -> None:
    rule = handover()
    rule.old([ticker(n) for n in range(1, 6)])
    rule.new([ticker(1)])
    rule.switch()
    rule.switch(is_forced=True)
    assert read(rule.new([ticker(n) for n in range(2, 8)]), Ticker) == [6, 7]


def test_what_lies_before_the_overlap_is_never_brought_up_later() -> None:
    rule = handover(last_trade=2)
    rule.new([trade(3), trade(4), trade(5)])
    hole = upstream_gap(TRADE, 0, "upstream_sequence", 1)
    assert rule.old([hole, trade(4)]) == [hole, trade(4)]  # the old one has lost 3, and said so
    assert read(rule.switch(), Trade) == [5]
