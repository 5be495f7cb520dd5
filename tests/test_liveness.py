from __future__ import annotations

import json

import pytest

from feed.liveness import SILENT_AFTER_S, Liveness
from feed.topics import parse_topic

QUOTE, TRADE = parse_topic("quote.a.X"), parse_topic("trade.a.X")
SYMBOL, EXCHANGE = parse_topic("status.a.X"), parse_topic("status.a.ALL")


def symbol_says(liveness: Liveness, health: str) -> None:
    liveness.status(SYMBOL, b'{"type":"status","kinds":{"quote":"%s"}}' % health.encode())


def exchange_says(liveness: Liveness, state: str) -> None:
    liveness.status(EXCHANGE, b'{"type":"status","state":"%s"}' % state.encode())


@pytest.mark.parametrize(
    ("symbol", "exchange", "cut_off", "health"),
    [
        (None, None, False, None),
        (None, "live", False, None),
        ("live", None, False, "live"),
        ("live", "live", False, "live"),
        ("stale", "live", False, "stale"),
        ("live", "stale", False, "stale"),
        ("invalid", "stale", False, "invalid"),
        (None, "down", False, "down"),
        ("live", "down", False, "down"),
        ("live", "live", True, "stale"),
        ("invalid", "live", True, "invalid"),
        ("live", "down", True, "down"),
        (None, None, True, "stale"),
    ],
)
def test_the_worst_that_is_said_holds(
    symbol: str | None, exchange: str | None, cut_off: bool, health: str | None
) -> None:
    liveness = Liveness()
    if symbol is not None:
        symbol_says(liveness, symbol)
    if exchange is not None:
        exchange_says(liveness, exchange)
    liveness.link(not cut_off)
    assert liveness.health(QUOTE) == health
    assert liveness.health(TRADE) in (None, "stale", "down")


def test_a_publisher_is_silent_once_it_has_missed_its_beats() -> None:
    liveness = Liveness()
    liveness.expect("a", 10.0)
    liveness.expect("a", 11.0)  # writing a catalogue again is no beat
    assert liveness.silent(10.0 + SILENT_AFTER_S) == []
    assert liveness.silent(10.1 + SILENT_AFTER_S) == ["a"]
    assert liveness.silent(20.0) == []  # told once
    assert liveness.is_cut_off("a") and not liveness.is_cut_off("b")
    assert liveness.exchange("a") == "stale"
    assert liveness.beat("a", 21.0) and not liveness.beat("a", 21.5)
    assert not liveness.is_cut_off("a")


def test_after_a_lost_link_everybody_has_their_full_time_again() -> None:
    liveness = Liveness()
    liveness.beat("a", 0.0)
    assert liveness.link(False) and not liveness.link(False)
    liveness.restart(100.0)
    assert liveness.silent(101.0) == []


@pytest.mark.parametrize("body", [b"", b"[]", b'{"kinds":5}', b'{"state":[]}'])
def test_a_status_that_cannot_be_read_changes_nothing(body: bytes) -> None:
    liveness = Liveness()
    symbol_says(liveness, "live")
    liveness.status(SYMBOL, body)
    liveness.status(EXCHANGE, body)
    assert liveness.health(QUOTE) == "live"


def test_our_own_word_says_what_holds_just_now() -> None:
    liveness = Liveness()
    newest = b'{"kinds":{"quote":"live","trade":"invalid"},"last_event":55}'
    liveness.link(False)
    said = json.loads(liveness.own_status(SYMBOL, newest, "bus_lost", 99))
    assert said["seq"] is None and said["reason"] == "bus_lost" and said["last_event"] == 55
    assert set(said["kinds"].values()) == {"stale"}
    assert json.loads(liveness.own_status(EXCHANGE, None, "bus_lost", 99))["state"] == "stale"
    liveness.link(True)
    said = json.loads(liveness.own_status(SYMBOL, newest, "bus_back", 99))
    assert said["kinds"] == {"quote": "live", "trade": "invalid"}
    exchange_says(liveness, "down")
    assert json.loads(liveness.own_status(EXCHANGE, None, "bus_back", 99))["state"] == "down"
