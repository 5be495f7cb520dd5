from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Adapter, Stream
from adapters.exchanges.binance.adapter import BinanceUsdm
from adapters.exchanges.bybit.adapter import Bybit
from adapters.exchanges.kraken.adapter import Kraken
from adapters.silence import SPAN_S, SPANS, Beats, Rhythm, Silence, Watched, watched

BOOK = Watched((Stream("book", "BTC-USD"),), ("book.x.BTC-USD",))
TICKER = Watched((Stream("ticker", "BTC-USD"),), ("ticker.x.BTC-USD",))
ETHER = Watched((Stream("book", "ETH-USD"),), ("book.x.ETH-USD",))


class Line:
    """A silence rule that is told, second by second, whether events came."""

    def __init__(self, *judged: Watched) -> None:
        self.rule = Silence(judged or (BOOK,))
        self.at = 0
        self.last: dict[str, int] = {}
        self.fallen: list[tuple[int, str]] = []

    def second(self, *topics: str) -> None:
        self.at += 1
        self.last.update(dict.fromkeys(topics, self.at))
        for one in self.rule.tick(1.0, self.last):
            self.fallen.append((self.at, one.topics[0]))

    def every(self, step: int, times: int, *topics: str) -> None:
        for _ in range(times):
            for _ in range(step - 1):
                self.second()
            self.second(*topics)

    def silent_s(self, topic: str = "book.x.BTC-USD") -> int:
        """Return how long nothing may come before the stream falls silent."""
        for waited in range(1, 100_000):
            self.second()
            if (self.at, topic) in self.fallen:
                return waited
        raise AssertionError("never")


@pytest.mark.parametrize(
    ("step", "least", "most"),
    [
        pytest.param(1, 60, 61, id="the floor rules a fast stream"),
        pytest.param(2, 60, 73, id="the floor meets 30 intervals"),
        pytest.param(10, 300, 360, id="30 intervals rule a slow one"),
        pytest.param(120, 3_600, 4_320, id="and a very slow one"),
    ],
)
def test_a_stream_is_silent_after_thirty_of_its_median_intervals(
    step: int, least: int, most: int
) -> None:
    line = Line()
    line.every(step, 40, "book.x.BTC-USD")
    assert line.fallen == [] or step > 60  # a slow one is first learned
    assert least <= line.silent_s() <= most


def test_one_silence_is_told_once_and_ends_with_an_event() -> None:
    line = Line()
    line.every(1, 5, "book.x.BTC-USD")
    line.every(1, 200)
    assert line.fallen == [(66, "book.x.BTC-USD")]
    assert line.rule.silent() == {"BTC-USD": [Stream("book", "BTC-USD")]}
    line.second("book.x.BTC-USD")
    assert line.rule.silent() == {}
    line.silent_s()
    assert len(line.fallen) == 2


def test_a_living_ticker_does_not_hide_a_dead_book_and_neighbours_are_not_judged_for_it() -> None:
    line = Line(BOOK, TICKER, ETHER)
    line.every(1, 10, "book.x.BTC-USD", "ticker.x.BTC-USD", "book.x.ETH-USD")
    line.every(1, 100, "ticker.x.BTC-USD", "book.x.ETH-USD")
    assert [topic for _, topic in line.fallen] == ["book.x.BTC-USD"]
    assert line.rule.speaks("BTC-USD")
    assert line.rule.fallen("BTC-USD") == [BOOK]
    assert line.rule.fallen("ETH-USD") == []


def test_what_never_spoke_is_not_silent() -> None:
    line = Line()
    line.every(1, 1_000)
    assert line.fallen == []


def test_a_wall_clock_that_jumps_makes_nothing_silent() -> None:
    line = Line()
    line.every(1, 10, "book.x.BTC-USD")
    for step in (10**12, -(10**12)):
        line.every(1, 50)
        line.last["book.x.BTC-USD"] += step
    line.every(1, 50)
    assert line.fallen == []


def test_a_new_connection_starts_afresh_but_the_rhythm_is_remembered() -> None:
    line = Line()
    line.every(100, 20, "book.x.BTC-USD")
    line.fallen.clear()
    line.every(1, 2_000)
    line.rule.restart()
    assert line.silent_s() >= 3_000


def test_a_stream_is_taken_afresh_at_most_once_in_five_minutes() -> None:
    line = Line(BOOK, TICKER)
    taken: list[tuple[int, Stream]] = []
    for _ in range(1_000):
        line.second()
        silent = BOOK.streams if line.at < 100 else (*BOOK.streams, *TICKER.streams)
        taken += [(line.at, one) for one in line.rule.due(silent)]
    assert [at for at, one in taken if one in BOOK.streams] == [1, 301, 601, 901]
    # Another one of the same instrument does not wait for it.
    assert [at for at, one in taken if one in TICKER.streams] == [100, 400, 700, 1_000]


def test_three_missed_beats_are_told_and_the_next_one_too() -> None:
    beats = Beats(1.0)
    said: list[tuple[list[str], list[str]]] = []
    for heard in ("ab", "ab", "b", "b", "b", "b", "ab", "ab"):
        beats.heard.update(heard)
        said.append(beats.tick(1.0))
    assert said == [([], [])] * 4 + [(["a"], []), ([], []), ([], ["a"]), ([], [])]
    assert beats.silent == []


def test_who_never_had_a_beat_misses_none() -> None:
    beats = Beats(1.0)
    assert {str(beats.tick(1.0)) for _ in range(10)} == {"([], [])"}


@given(st.lists(st.floats(1.0, 40_000.0), min_size=1, max_size=200))
def test_the_median_is_right_to_within_a_quarter_of_a_doubling(intervals: list[float]) -> None:
    rhythm = Rhythm()
    for interval in intervals:
        rhythm.add(interval, 0.0)
    median = rhythm.median_s()
    assert median is not None
    exact = statistics.median_low(intervals)
    assert exact <= median * 1.000001
    assert median <= exact * 2**0.25 * 1.000001


@given(st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(0.0, 1e6)), max_size=500))
def test_memory_is_bounded_whatever_comes(intervals: list[tuple[float, float]]) -> None:
    rhythm, now = Rhythm(), 0.0
    for interval, step in intervals:
        now += step
        rhythm.add(interval, now)
        assert len(rhythm._spans) <= SPANS


def test_what_lies_an_hour_back_is_forgotten_when_something_newer_is_known() -> None:
    rhythm = Rhythm()
    for at in range(100):
        rhythm.add(500.0, float(at))
    rhythm.add(2.0, SPAN_S * SPANS + 100)
    assert rhythm.median_s() == 2.0


@pytest.mark.parametrize(
    ("cls", "native", "expected"),
    [
        pytest.param(
            BinanceUsdm,
            "BTCUSDT",
            [{"quote"}, {"book", "depth"}, {"ticker"}, {"derivative"}],
            id="binance: every stream by itself",
        ),
        pytest.param(
            Kraken, "BTC/USD", [{"book", "depth", "quote"}, {"ticker"}], id="kraken: by channel"
        ),
        pytest.param(
            Bybit,
            "BTCUSDT",
            [{"book", "depth", "quote"}, {"ticker"}],
            id="bybit: the best price with the book, as it is only told when it moves",
        ),
    ],
)
def test_streams_are_judged_by_what_they_feed_and_trades_are_not(
    cls: type[Adapter], native: str, expected: list[set[str]]
) -> None:
    instrument = cls.instrument(native)
    assert instrument is not None
    streams = cls.streams(instrument, cls.kinds)
    found: list[set[str]] = []
    for plan in cls.plan(streams, {native: instrument}):
        fed, _ = cls.carried(plan.streams, instrument, cls.kinds)
        for one in watched(cls, plan, fed, cls.kinds):
            assert one.native == native
            found.append({topic.partition(".")[0] for topic in one.topics})
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
