"""The torture run in short, and that its check finds what it is there to find."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.torture.check import (
    Begun,
    Fact,
    Got,
    Missed,
    Shown,
    check_all,
    check_latest,
    declared,
    position,
)
from tests.torture.ledger import Ledger
from tests.torture.plan import CALM_S, TARGETS, plan
from tests.torture.run import torture

TOPIC = "trade.sim.X"


def ledger(put: Iterable[int] = range(1, 11), unacked: Iterable[int] = ()) -> Ledger:
    """Return one in which the digest of an entry is its position."""
    lines = [f"put {TOPIC} 1 {seq} {seq:x} {seq:x}\n" for seq in put]
    lines += [f"ack {TOPIC} {seq}\n" for seq in put if seq not in set(unacked)]
    made = Ledger()
    made.read("".join(lines))
    return made


def got(*seqs: int) -> list[Fact]:
    return [Got(seq, seq) for seq in seqs]


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(got(*range(1, 11)), id="everything, once"),
        pytest.param(got(3, 4, 5), id="from somewhere on"),
        pytest.param([*got(1, 2), Missed(3, 6, "slow_consumer"), *got(7)], id="a gap"),
        pytest.param([*got(1, 2), Got(6, 6, explains=3), *got(7)], id="a restart's gap"),
        pytest.param([Begun(2), *got(3, 4)], id="after a known position"),
        pytest.param([*got(1), Missed(2, 4, "resume_too_old"), Shown(4), *got(5)], id="a snapshot"),
        pytest.param([*got(1, 2, 3), Begun(2, lost=3), *got(3, 4)], id="who asked knew more"),
        pytest.param([*got(1), Begun(None, lost=1), *got(8, 9)], id="an emptied bus"),
        pytest.param([Begun(None), Shown(0), *got(7)], id="nothing was ever published"),
    ],
)
def test_an_honest_history_passes(facts: list[Fact]) -> None:
    assert check_all(TOPIC, facts, ledger()) == []


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        pytest.param(got(1, 2, 4), "neither received nor declared", id="a lost one"),
        pytest.param(got(1, 2, 4), "without a gap", id="a jump"),
        pytest.param(got(1, 2, 2, 3), "received 2 times", id="twice"),
        pytest.param(got(1, 3, 2), "out of order", id="out of order"),
        pytest.param(
            [*got(1, 2), Missed(3, 4, "bus_loss"), *got(4, 5)],
            "covers 4",
            id="a gap over what came",
        ),
        pytest.param(
            [*got(1, 2, 3), Missed(3, 4, "bus_loss")], "does not follow", id="a gap over the past"
        ),
        pytest.param(
            [*got(1, 2, 3), Missed(4, 6, "bus_loss"), Got(7, 7, explains=3)],
            "covers 3",
            id="a restart that calls used positions unused",
        ),
        pytest.param([Missed(5, 4, "bus_loss")], "is none", id="an empty gap"),
        pytest.param([*got(1), Missed(3, 4, "bus_loss")], "2 was ack", id="a gap that comes late"),
        pytest.param([*got(1), Got(2, 99)], "other bytes", id="altered"),
        pytest.param([*got(10), Got(11, 11)], "never published", id="made up"),
        pytest.param([*got(1, 2), Shown(4), *got(5)], "snapshot of 4", id="a snapshot that jumps"),
        pytest.param([*got(1), Got(5, 5, explains=3)], "jump", id="a restart that explains half"),
        pytest.param([Begun(2), *got(4)], "3 was ack", id="lost after a known position"),
    ],
)
def test_a_violation_is_found(facts: list[Fact], found: str) -> None:
    assert any(found in line for line in check_all(TOPIC, facts, ledger()))


def test_what_was_not_acknowledged_may_come_or_be_in_a_gap() -> None:
    half = ledger(unacked=(3,))
    assert check_all(TOPIC, got(1, 2, 3, 4), half) == []
    assert check_all(TOPIC, [*got(1, 2), Missed(3, 3, "bus_loss"), *got(4)], half) == []


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        pytest.param(got(1, 5, 4), "4 came after 5", id="backwards"),
        pytest.param([Shown(3, Got(3, 99))], "other bytes", id="an altered snapshot"),
        pytest.param([Missed(1, 2, "bus_loss")], "only the newest counts", id="a gap"),
        pytest.param(got(12), "never published", id="made up"),
    ],
)
def test_a_violation_in_latest_is_found(facts: list[Fact], found: str) -> None:
    assert check_latest(TOPIC, [Begun(None), Shown(1, Got(1, 1)), *got(3)], ledger()) == []
    assert any(found in line for line in check_latest(TOPIC, facts, ledger()))


def test_what_was_declared_is_counted_by_cause() -> None:
    facts = [*got(1), Missed(2, 4, "bus_loss"), *got(5), Begun(None, lost=5), *got(8, 9)]
    assert declared(TOPIC, facts, ledger(unacked=(3,))) == {"bus_loss": 2, "recovered:false": 2}


def test_a_client_stands_where_its_last_fact_leaves_it() -> None:
    assert position([]) is None
    assert position(got(3)) == 3
    assert position([*got(3), Missed(4, 9, "bus_loss")]) == 9
    assert position([*got(3), Begun(None, lost=3)]) is None


def test_a_torn_last_line_does_not_count() -> None:
    made = Ledger()
    made.read("put t 1 7 a b\nack t 7\nput t 1 8 a")
    assert made.put == {"t": {7: {10, 11}}} and made.newest("t") == 7


def test_the_same_seed_is_the_same_plan() -> None:
    assert plan(7, 120, 24, 4.0) == plan(7, 120, 24, 4.0) != plan(8, 120, 24, 4.0)


def test_a_plan_strikes_everything_and_ends_in_calm() -> None:
    made = plan(7, 300, 24, 4.0)
    assert {(s.target, s.blow) for s in made.strikes} == {
        (target, blow) for target in TARGETS for blow in ("kill", "freeze", "restart")
    }
    assert {move.whim for move in made.moves} == {"close", "abort", "stall"}
    ends = [strike.at_s + strike.for_s for strike in made.strikes]
    ends += [move.at_s + move.for_s for move in made.moves]
    assert max(ends) <= 300 - CALM_S
    stalls = [move.for_s for move in made.moves if move.whim == "stall"]
    assert min(stalls) < 4.0 < max(stalls)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux' process control")
async def test_nothing_is_lost_in_silence(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("t")
    outcome = await torture(seed=1, seconds=30.0, folder=folder)
    again = "make torture ARGS='--seconds 30 --seed 1'"
    assert outcome.wrong == [], f"logs and ledgers are in {folder}; again: {again}"
    assert outcome.figures["acknowledged"] > 1_000
    assert outcome.figures["resumed"] > 0
