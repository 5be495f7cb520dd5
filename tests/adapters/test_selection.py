"""What of an exchange, or of a tape, is carried."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from adapters.base import Stream
from adapters.registry import REGISTRY
from adapters.selection import by_stream
from feed.errors import ConfigError

ADAPTER = REGISTRY["deribit"].load_adapter()
COMBINATION = "BTC-CS-19MAY26-70000_75000"


def streams(*natives: str) -> frozenset[Stream]:
    return frozenset(Stream("trades", native) for native in natives)


def test_what_cannot_be_named_is_left_out_of_a_tape_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    both = streams(COMBINATION, "BTC-PERPETUAL")
    selection = by_stream(ADAPTER, (), both, (), ADAPTER.kinds)
    assert [stream for plan in selection.plans for stream in plan.streams] == [
        Stream("trades", "BTC-PERPETUAL")
    ]
    assert [one.symbol for one in selection.listed] == ["BTC-USD:BTC-PERP"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and COMBINATION in record.getMessage()


def test_a_tape_of_which_nothing_can_be_named_is_refused() -> None:
    with pytest.raises(ConfigError, match=COMBINATION):
        by_stream(ADAPTER, (), streams(COMBINATION), (), ADAPTER.kinds)


def test_a_second_instrument_of_one_name_is_left_out_of_a_tape_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    named = ADAPTER.instrument("BTC-PERPETUAL")
    assert named is not None
    other = replace(named, native="BTC-PERPETUAL-2")
    both = streams(named.native, other.native)
    selection = by_stream(ADAPTER, (other,), both, (), ADAPTER.kinds)
    assert [one.native for one in selection.listed] == [named.native]
    assert "BTC-PERPETUAL-2" in caplog.text


def test_of_two_listed_under_one_name_the_one_on_the_tape_stands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    named = ADAPTER.instrument("BTC-PERPETUAL")
    assert named is not None
    older = replace(named, native="BTC-OLD")
    selection = by_stream(ADAPTER, (older, named), streams(named.native), (), ADAPTER.kinds)
    assert [one.native for one in selection.listed] == [named.native]
    assert not caplog.records
