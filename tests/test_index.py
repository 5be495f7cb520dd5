from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.index import Index
from feed.topics import parse_topic
from tests.web import catalogue

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")


def test_an_update_returns_what_is_new() -> None:
    index = Index()
    added = index.update(catalogue("kraken", SYMBOLS[:1], kinds=("trade", "quote")))
    assert added == ["quote.kraken.BTC-USD", "status.kraken.ALL", "trade.kraken.BTC-USD"]
    assert index.update(catalogue("kraken", SYMBOLS[:1], kinds=("trade",))) == []
    assert index.is_carried("quote.kraken.BTC-USD")  # what it last said may still be asked for


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "composite"]), st.sets(st.sampled_from(SYMBOLS))),
        max_size=4,
    ),
    st.sampled_from(["a", "c", "composite", "*"]),
    st.sampled_from([*SYMBOLS, "*"]),
)
def test_a_lookup_finds_what_a_search_would(
    updates: list[tuple[str, set[str]]], exchange: str, symbol: str
) -> None:
    index = Index()
    for name, symbols in updates:
        index.update(catalogue(name, sorted(symbols)))
    wanted = parse_topic(f"quote.{exchange}.{symbol}")
    searched = [name for name in index.topics("quote") if wanted.covers(parse_topic(name))]
    assert list(index.match(str(wanted))) == searched


def test_names_that_we_do_not_know_are_left_out() -> None:
    index = Index()
    index.update(catalogue("kraken", SYMBOLS[:1], kinds=("trade", "thing")))
    assert set(index.topics()) == {"status.kraken.ALL", "trade.kraken.BTC-USD"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trade.okx.BTC-USD", "no publisher for exchange 'okx'"),
        ("ticker.kraken.BTC-USD", "not carried"),
        ("trade.kraken.NO-NO", "lists no NO-NO"),
    ],
)
def test_an_unknown_topic_says_what_would_change_that(name: str, said: str) -> None:
    index = Index()
    index.update(catalogue("kraken", SYMBOLS))
    assert said in index.why_unknown(parse_topic(name))
