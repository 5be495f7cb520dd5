from __future__ import annotations

import json

import pytest

from feed.bus.base import Head, unpack_header
from feed.models import Book, Trade
from feed.sequencer import Sequencer

TOPIC = "trade.a.X"


def trade(topic: str = TOPIC) -> Trade:
    return Trade(topic, 0, None, 5, 0, None, "1.50", "2", None)


def test_positions_grow_by_one_and_start_at_the_epoch() -> None:
    sequencer = Sequencer(1_000, {})
    events = [trade(), trade(), trade("trade.a.Y"), trade()]
    entries = [sequencer.stamp(event, 7) for event in events]
    assert [entry.seq for entry in entries] == [1_000, 1_001, 1_000, 1_002]
    for entry in entries:
        assert unpack_header(entry.payload) == (1_000, entry.seq)
        said = json.loads(entry.payload[16:])
        assert said["seq"] == entry.seq and said["pub"] == 7 and said["price"] == "1.50"


@pytest.mark.parametrize("head", [5, 998, 999, 1_000, 5_000])
def test_a_takeover_starts_with_the_entry_that_names_what_is_unused(head: int) -> None:
    sequencer = Sequencer(1_000, {TOPIC: Head(1, head)})
    (fence,) = sequencer.restart(9)
    gap = json.loads(fence.payload[16:])
    assert gap["cause"] == "publisher_restart" and gap["lost"] is None
    assert gap["from"] == head + 1 and gap["to"] == fence.seq - 1 >= gap["from"]
    assert fence.seq >= 1_000
    assert sequencer.stamp(trade(), 9).seq == fence.seq + 1


def test_a_checkpoint_takes_no_position() -> None:
    sequencer = Sequencer(1_000, {})
    window = Book("book.a.X", 0, None, 5, 0, [("1", "2")], [], True)
    last = sequencer.stamp(window, 7)
    checkpoint = sequencer.checkpoint(window, 8)
    assert checkpoint.seq == last.seq
    assert sequencer.stamp(window, 9).seq == last.seq + 1
