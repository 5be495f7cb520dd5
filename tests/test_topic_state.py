from __future__ import annotations

import json

import msgspec
import pytest

from feed.encoding import JSON, MSGPACK
from feed.topic_state import TopicState

QUOTE = b'{"type":"quote","topic":"quote.a.X","seq":%d,"recv":1000000}'
GAP = b'{"type":"gap","topic":"quote.a.X","seq":%d,"ts":null,"recv":1,"pub":1,"cause":"%s",'
GAP += b'"lost":null,"from":%d,"to":%d}'
BOOK = b'{"type":"book","topic":"book.a.X","seq":%d,"ts":4,"recv":1000000,"pub":6,'
BOOK += b'"bids":[["%d","1"]],"asks":[]%s}'
WHOLE = b',"snapshot":true'


@pytest.mark.parametrize(
    ("epoch", "seq", "body", "connects"),
    [
        (1, 11, QUOTE % 11, True),
        (1, 12, QUOTE % 12, False),
        (2, 20, GAP % (20, b"publisher_restart", 11, 19), True),
        (2, 20, GAP % (20, b"publisher_restart", 12, 19), False),
        (2, 20, GAP % (20, b"publisher_restart", 11, 18), False),
        (2, 20, GAP % (20, b"upstream_sequence", 11, 19), False),
        (2, 11, QUOTE % 11, False),
        (2, 20, b'{"type":"gap"', False),
    ],
    ids=["next", "jump", "restart", "jump and restart", "not up to it", "gap", "no fence", "half"],
)
def test_an_entry_connects_if_nothing_is_missing_before_it(
    epoch: int, seq: int, body: bytes, connects: bool
) -> None:
    state = TopicState("quote.a.X")
    state.advance(1, 10, QUOTE % 10)
    assert state.connects(epoch, seq, body) is connects


@pytest.mark.parametrize(
    ("epoch", "seq", "has"),
    [(5, 9, True), (5, 10, True), (5, 11, False), (4, 99, True), (6, 3, False)],
)
def test_repeats_and_former_publishers_are_known(epoch: int, seq: int, has: bool) -> None:
    state = TopicState("quote.a.X")
    state.advance(5, 10, QUOTE % 10)
    assert state.has(epoch, seq) is has


def test_a_gap_moves_the_position_and_not_the_value() -> None:
    state = TopicState("quote.a.X")
    assert state.advance(1, 10, QUOTE % 10)
    assert not state.advance(1, 11, GAP % (11, b"upstream_disconnect", 0, 0))
    assert (state.seq, state.newest_seq) == (11, 10)
    shot = json.loads(state.snapshot(JSON, 1_500_000))
    assert shot["seq"] == 11 and shot["event"]["seq"] == 10 and shot["age_ms"] == 500


def test_what_was_never_published_has_a_snapshot_of_nothing() -> None:
    shot = json.loads(TopicState("quote.a.X").snapshot(JSON, 1))
    assert shot == {
        "type": "snapshot",
        "topic": "quote.a.X",
        "seq": 0,
        "age_ms": None,
        "health": None,
        "event": None,
    }


def test_a_rendered_snapshot_is_shared_until_something_changes() -> None:
    state = TopicState("quote.a.X")
    state.advance(1, 10, QUOTE % 10)
    first = state.snapshot(JSON, 2_000_000)
    assert state.snapshot(JSON, 2_040_000) is first
    assert state.snapshot(JSON, 2_060_000) is not first  # its age has changed
    packed = msgspec.msgpack.decode(state.snapshot(MSGPACK, 2_000_000))
    assert packed == json.loads(first)
    state.health = "stale"
    assert json.loads(state.snapshot(JSON, 2_060_000))["health"] == "stale"
    state.advance(1, 11, QUOTE % 11)
    assert json.loads(state.snapshot(JSON, 2_060_000))["seq"] == 11


def test_a_newest_value_is_converted_once() -> None:
    state = TopicState("quote.a.X")
    state.advance(1, 10, QUOTE % 10)
    assert state.newest_body(MSGPACK) is state.newest_body(MSGPACK)


def test_a_book_is_valid_from_its_snapshot_to_its_next_gap() -> None:
    state = TopicState("book.a.X")
    state.advance(1, 1, BOOK % (1, 5, b""))
    assert not state.valid
    state.advance(1, 2, BOOK % (2, 6, WHOLE))
    state.advance(1, 3, BOOK % (3, 7, b""))
    assert state.valid
    shot = json.loads(state.snapshot(JSON, 1_000_000))
    assert shot["event"]["bids"] == [["7", "1"], ["6", "1"]] and shot["event"]["snapshot"]
    assert (shot["event"]["seq"], shot["event"]["ts"], shot["event"]["recv"]) == (3, 4, 1_000_000)
    state.advance(1, 4, GAP.replace(b"quote.a", b"book.a") % (4, b"upstream_sequence", 0, 0))
    assert not state.valid
    shot = json.loads(state.snapshot(JSON, 1_000_000))
    assert shot["health"] == "invalid" and shot["event"] is None


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", BOOK % (3, 7, b',"bids":5'), (BOOK % (3, 7, b"")).replace(b'"7"', b'"x"')],
    ids=["nothing", "a list", "no levels", "no price"],
)
def test_an_entry_that_is_no_book_makes_it_invalid(body: bytes) -> None:
    state = TopicState("book.a.X")
    state.advance(1, 2, BOOK % (2, 6, WHOLE))
    state.advance(1, 3, body)
    assert not state.valid and json.loads(state.snapshot(JSON, 1))["event"] is None


def test_what_the_server_itself_found_out_holds_until_the_publisher_speaks() -> None:
    state = TopicState("status.a.ALL")
    state.advance(1, 1, b'{"type":"status","state":"live","recv":1}')
    state.made_here = b'{"type":"status","state":"stale","recv":2}'
    assert json.loads(state.snapshot(JSON, 1))["event"]["state"] == "stale"
    state.advance(1, 2, b'{"type":"status","state":"live","recv":3}')
    assert json.loads(state.snapshot(JSON, 1))["event"]["state"] == "live"
