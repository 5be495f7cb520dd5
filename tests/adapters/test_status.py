from __future__ import annotations

import pytest

from adapters.status import Input, StatusBoard

TOPICS = ("trade.x.BTC-USD", "book.x.BTC-USD", "quote.x.ETH-USD", "status.x.BTC-USD")
BTC = ("trade.x.BTC-USD", "book.x.BTC-USD")


def board(connections: int = 2) -> StatusBoard:
    return StatusBoard("x", TOPICS, connections=connections, threshold_ms=10_000, now=1)


def test_everything_starts_down_and_connecting() -> None:
    whole, *symbols = board().everything(1)
    assert (whole.topic, whole.reason) == ("status.x.ALL", "connecting")
    assert {s.topic: s.kinds for s in symbols if hasattr(s, "kinds")} == {
        "status.x.BTC-USD": {"book": "down", "trade": "down"},
        "status.x.ETH-USD": {"quote": "down"},
    }


def test_only_a_change_is_told_and_the_kinds_are_whole() -> None:
    kept = board()
    [first] = kept.topics(["trade.x.BTC-USD"], Input.FED, None, 5)
    assert first.kinds == {"book": "down", "trade": "live"}
    assert first.since == 5
    assert kept.topics(["trade.x.BTC-USD"], Input.FED, None, 6) == []
    [second] = kept.topics(["book.x.BTC-USD"], Input.FED, None, 7)
    assert (second.kinds, second.reason) == ({"book": "live", "trade": "live"}, None)
    # What was told before is not changed behind the teller's back.
    assert first.kinds["book"] == "down"


@pytest.mark.parametrize(
    ("inputs", "state"),
    [
        ([Input.FED], "live"),
        ([Input.FED, Input.SILENT], "stale"),
        ([Input.FED, Input.SILENT, Input.LOST], "stale"),
        ([Input.FED, Input.SILENT, Input.LOST, Input.UNREACHABLE], "down"),
        ([Input.FED, Input.SILENT, Input.FED], "live"),
        ([Input.FED, Input.LOST], "down"),
        ([Input.FED, Input.BROKEN], "invalid"),
        ([Input.FED, Input.BROKEN, Input.FED], "invalid"),
        ([Input.FED, Input.BROKEN, Input.PROVEN], "live"),
        ([Input.FED, Input.BROKEN, Input.SILENT], "invalid"),
        ([Input.FED, Input.BROKEN, Input.LOST, Input.FED], "live"),
        ([Input.BROKEN], "invalid"),
        ([Input.FED, Input.REFUSED], "down"),
        ([Input.SILENT], "down"),
    ],
)
def test_health_follows_what_happened(inputs: list[Input], state: str) -> None:
    kept = board()
    for what in inputs:
        kept.topics(["quote.x.ETH-USD"], what, what.name, 9)
    [_, _, eth] = kept.everything(9)
    assert getattr(eth, "kinds", None) == {"quote": state}
    assert ("quote.x.ETH-USD" in kept.waiting) == (state != "live")


def test_the_exchange_is_as_good_as_its_best_connection() -> None:
    kept = board()
    assert [s.state for s in kept.connection(0, Input.FED, None, 2)] == ["live"]
    assert kept.connection(1, Input.FED, None, 3) == []
    assert kept.connection(0, Input.LOST, "disconnected", 4) == []
    [stale] = kept.connection(1, Input.SILENT, "silent", 5)
    assert (stale.state, stale.reason, stale.since) == ("stale", "silent", 5)
    [down] = kept.connection(1, Input.UNREACHABLE, "unreachable", 6)
    assert (down.state, down.reason) == ("down", "unreachable")
    assert [s.reason for s in kept.connection(0, Input.FED, None, 7)] == [None]


def test_a_new_reason_for_being_down_is_told() -> None:
    kept = board()
    [told] = kept.connection(0, Input.UNREACHABLE, "unreachable", 5)
    assert (told.state, told.reason) == ("down", "unreachable")
    assert kept.connection(1, Input.UNREACHABLE, "unreachable", 6) == []


def test_the_last_event_is_the_newest_of_the_symbol() -> None:
    kept = board()
    kept.last_event.update({"trade.x.BTC-USD": 50, "book.x.BTC-USD": 40})
    [told] = kept.topics(BTC, Input.FED, None, 60)
    assert told.last_event == 50


def test_the_goodbye_leaves_nothing_live() -> None:
    kept = board()
    kept.topics(TOPICS, Input.FED, None, 2)
    kept.connection(0, Input.FED, None, 2)
    told = kept.stopped("publisher_stopped", 3)
    assert {s.topic: s.reason for s in told} == {
        "status.x.BTC-USD": "publisher_stopped",
        "status.x.ETH-USD": "publisher_stopped",
        "status.x.ALL": "publisher_stopped",
    }
    assert kept.waiting == {t for t in TOPICS if not t.startswith("status")}
