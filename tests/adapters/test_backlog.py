from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapters.backlog import Backlog, Mark, weight
from adapters.picture import Picture, Recent
from feed.models import Book, Event, Gap, Quote, SymbolStatus, Trade
from feed.window import Window

TRADES = ("trade.x.A", "trade.x.B")
QUOTES = ("quote.x.A", "quote.x.B")
BOOK = "book.x.A"
STATUS = "status.x.A"


def trade(topic: str, n: int) -> Trade:
    return Trade(topic, 0, None, 7, 0, str(n), "1", "1", "buy")


def quote(topic: str, n: int) -> Quote:
    return Quote(topic, 0, None, 7, 0, str(n), "1", None, None)


def book(n: int, snapshot: bool = False) -> Book:
    return Book(BOOK, 0, None, 7, 0, [(str(n % 7), str(n + 1))], [], snapshot)


def status(n: int) -> SymbolStatus:
    return SymbolStatus(STATUS, 0, None, n, 0, {"trade": "live"}, None, 1, None, None)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["trade", "quote", "book", "mark", "status", "shed", "age", "take"]),
        st.integers(0, 1),
    ),
    max_size=120,
)


@given(actions=ACTIONS, max_bytes=st.sampled_from([600, 2_000, 6_000]))
def test_every_topic_comes_out_in_order_and_what_was_given_up_is_one_gap_in_its_place(
    actions: list[tuple[str, int]], max_bytes: int
) -> None:
    picture = Picture()
    backlog = Backlog(picture, max_bytes)
    put: dict[str, list[Event]] = {}
    out: list[Any] = []
    now = 0

    def offer(event: Event) -> None:
        put.setdefault(event.topic, []).append(event)
        picture.put(event)
        backlog.put(event, now)

    def take(limit: int) -> None:
        items = backlog.take(limit, now)
        told = [item.topic for item in items if isinstance(item, Gap)]
        assert len(told) == len(set(told)), "one gap for all that was lost since the last"
        out.extend(items)

    def is_newest(event: Quote) -> bool:
        return event is put[event.topic][-1]

    offer(book(0, snapshot=True))
    for what, which in actions:
        now += 1
        match what:
            case "trade":
                offer(trade(TRADES[which], now))
            case "quote":
                offer(quote(QUOTES[which], now))
            case "book":
                offer(book(now))
            case "status":
                offer(status(now))
            case "mark":
                window = picture.window(BOOK)
                assert window is not None
                picture.checkpoint(window)
                backlog.checkpoint(window, now)
            case "shed":
                backlog.shed()
                assert backlog.size <= max_bytes + sum(
                    weight(item)
                    for item, _, _ in backlog._waiting
                    if type(item) is SymbolStatus or (type(item) is Quote and is_newest(item))
                )
            case "age":
                backlog.shed(now - 3)
                left = [i for i, _, at in backlog._waiting if at < now - 3 and type(i) is Trade]
                assert left == []
            case "take":
                take(3)
    while not backlog.is_empty:
        take(50)
    assert backlog.size == 0 and len(backlog) == 0

    for topic, events in put.items():
        mine = [item for item in out if not isinstance(item, Mark) and item.topic == topic]
        if topic == BOOK:
            check_book(mine, events, picture)
            continue
        at = 0
        for item in mine:
            if isinstance(item, Gap):
                assert item.lost is not None and item.lost > 0
                at += item.lost
            else:
                assert item is events[at], "in order, and nothing lost without a gap"
                at += 1
        assert at == len(events)
        if topic in QUOTES:
            assert mine[-1] is events[-1], "the newest value is never given up"
        if topic == STATUS:
            assert not any(isinstance(item, Gap) for item in mine), "health is never given up"


def check_book(items: list[Any], events: list[Event], picture: Picture) -> None:
    """After each gap the book is whole again; at the end it is what all deltas make of it."""
    window = Window()
    is_owed = False
    for item in items:
        if isinstance(item, Gap):
            is_owed = True
        elif item.snapshot:
            is_owed = False
            window.replace(item.bids, item.asks)
        else:
            assert not is_owed, "a delta after a gap, without a snapshot"
            window.apply(item.bids, item.asks)
    final = picture.window(BOOK)
    assert final is not None and not is_owed
    assert window.levels() == (list(final.bids), list(final.asks))


def test_a_newer_checkpoint_makes_the_one_that_waits_useless() -> None:
    picture = Picture()
    backlog = Backlog(picture, 1_000)
    picture.put(book(0, snapshot=True))
    backlog.put(book(0, snapshot=True), 1)
    for n in range(3):
        backlog.checkpoint(book(n, snapshot=True), 1)
    marks = [item for item in backlog.take(10, 1) if isinstance(item, Mark)]
    assert len(marks) == 1 and marks[0].book is not None
    assert marks[0].book.bids == [("2", "3")]


def test_a_book_after_a_hole_is_no_picture_until_it_is_afresh() -> None:
    picture = Picture()
    picture.put(book(1, snapshot=True))
    picture.put(Gap(BOOK, 0, None, 7, 0, "upstream_sequence", None))
    picture.put(book(2))
    assert picture.window(BOOK) is None
    picture.put(book(3, snapshot=True))
    picture.put(book(4))
    window = picture.window(BOOK)
    assert window is not None and window.snapshot and len(window.bids) == 2


def test_recent_facts_go_on_after_a_known_one_and_not_over_a_hole() -> None:
    recent = Recent()
    for n in range(5):
        recent.put(trade(TRADES[0], n))
    found = recent.after(TRADES[0], "2")
    assert found is not None and [fact.id for fact in found] == ["3", "4"]
    assert recent.after(TRADES[0], "4") == []
    assert recent.after(TRADES[0], "9") is None and recent.after(TRADES[0], None) is None
    recent.put(Gap(TRADES[0], 0, None, 7, 0, "upstream_disconnect", 1))
    recent.put(trade(TRADES[0], 7))
    assert recent.after(TRADES[0], "4") is None
