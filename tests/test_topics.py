from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.topics import (
    EVENT_KINDS,
    KINDS,
    STATE_KINDS,
    Topic,
    covering_texts,
    parse_topic,
    suggestions,
    symbol_text,
)


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("trade.binance.BTC-USDT", Topic("trade", "binance", "BTC-USDT")),
        ("quote.binance-usdm.BTC-USDT-PERP", Topic("quote", "binance-usdm", "BTC-USDT-PERP")),
        ("candle-1m.kraken.BTC-USD", Topic("candle-1m", "kraken", "BTC-USD")),
        ("trade.deribit.BTC-USD:BTC-PERP", Topic("trade", "deribit", "BTC-USD:BTC-PERP")),
        ("trade.x.A.B.C", Topic("trade", "x", "A.B.C")),
        ("book.*.*", Topic("book", "*", "*")),
        ("status.kraken.ALL", Topic("status", "kraken", "ALL")),
    ],
)
def test_a_topic_is_split_at_its_first_two_dots(text: str, topic: Topic) -> None:
    assert parse_topic(text) == topic
    assert str(topic) == text
    assert topic.is_pattern == ("*" in text)


@pytest.mark.parametrize(
    "text",
    ["", "trade", "trade.", "trade.binance", "trade.binance.", "trades.binance.BTC", "trade..BTC"]
    + ["trade.Binance.BTC", "trade.binance.btc", "trade.binance.BTC/USD", "trade.binance.BTC*"]
    + ["trade.b*.BTC", "*.binance.BTC", "trade.binance." + "X" * 65, "trade.binance.BTC\n"]
    + ["trade.binance.BTC\x00", "trade.binance.É", "trade." + "x" * 33 + ".BTC"],
)
def test_what_is_no_topic_says_why(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w{4}") as e:
        parse_topic(text)
    assert len(str(e.value)) < 400


def test_every_kind_is_an_event_or_a_state() -> None:
    assert not EVENT_KINDS & STATE_KINDS and KINDS == EVENT_KINDS | STATE_KINDS


parts = st.tuples(
    st.sampled_from(["trade", "quote"]),
    st.sampled_from(["a", "b", "composite", "*"]),
    st.sampled_from(["X", "Y", "*"]),
)


@given(parts, parts)
def test_a_pattern_covers_exactly_what_names_it_among_its_covering_strings(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    pattern, topic = Topic(*one), Topic(*other)
    if not topic.is_pattern:
        assert pattern.covers(topic) == (str(pattern) in covering_texts(str(topic)))


@given(parts)
def test_covering_strings_come_most_specific_first(one: tuple[str, str, str]) -> None:
    topic = Topic(*one)
    if not topic.is_pattern:
        order = [parse_topic(text).specificity for text in covering_texts(str(topic))]
        assert order == sorted(order, reverse=True) and order[0] == 3
        assert len(order) == (2 if topic.exchange == "composite" else 4)


def test_an_odd_character_is_written_by_its_code_point() -> None:
    assert symbol_text("BTC/USD") == "BTC_2F_USD"
    assert symbol_text("币") == "_5E01_"


@given(st.text(max_size=8), st.text(max_size=8))
def test_no_two_names_meet(one: str, other: str) -> None:
    if one != other and "_" not in one + other:
        assert symbol_text(one) != symbol_text(other)


def test_a_typing_error_is_recognised() -> None:
    known = ["trade.a.BTC-USDT", "trade.a.ETH-USDT", "quote.a.XRP-USD"]
    assert suggestions("trade.a.BTC-USTD", known)[0] == "trade.a.BTC-USDT"
    assert suggestions("nothing like it", known) == []
