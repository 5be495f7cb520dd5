"""What happens when: a pure function of the seed."""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple, TypeAlias

#: At the end nothing is broken any more, so that what is left can be made good.
CALM_S = 8.0
_FIRST_S = 2.0

VALKEY = "valkey"
TARGETS = ("ingest-0", "ingest-1", "web-0", "web-1", VALKEY)
Blow: TypeAlias = Literal["kill", "freeze", "restart"]
Whim: TypeAlias = Literal["close", "abort", "stall"]


class Strike(NamedTuple):
    """Something is done to a process.

    Attributes:
        for_s: How long it stays frozen, or is away after it was killed or asked to end.
    """

    at_s: float
    target: str
    blow: Blow
    for_s: float


class Move(NamedTuple):
    """A client does something: closes, vanishes, or stops reading for a while."""

    at_s: float
    client: int
    whim: Whim
    for_s: float


class Plan(NamedTuple):
    strikes: tuple[Strike, ...]
    moves: tuple[Move, ...]


def plan(seed: int, seconds: float, clients: int, stuck_after_s: float) -> Plan:
    """Return all that will happen, by time; everything is over ``CALM_S`` before the end."""
    rng = Random(seed)
    end_s = seconds - CALM_S
    return Plan(
        tuple(_strikes(rng, end_s)),
        tuple(sorted(m for n in range(clients) for m in _moves(rng, n, end_s, stuck_after_s))),
    )


def _strikes(rng: Random, end_s: float) -> list[Strike]:
    strikes: list[Strike] = []
    busy_until = dict.fromkeys(TARGETS, 0.0)
    at_s = _FIRST_S
    while True:
        target = rng.choice(TARGETS)
        blow: Blow = rng.choice(("kill", "freeze", "restart"))
        for_s = rng.uniform(1.0, 5.0) if blow == "freeze" else rng.uniform(0.0, 2.0)
        if at_s + for_s > end_s:
            return strikes
        if busy_until[target] <= at_s:
            strikes.append(Strike(at_s, target, blow, for_s))
            # A process needs a while to be worth striking again.
            busy_until[target] = at_s + for_s + 3.0
        at_s += rng.uniform(0.5, 4.0)


def _moves(rng: Random, client: int, end_s: float, stuck_after_s: float) -> list[Move]:
    moves: list[Move] = []
    at_s = rng.uniform(_FIRST_S, 12.0)
    while True:
        whim: Whim = rng.choice(("close", "abort", "stall"))
        too_long = rng.random() < 0.4
        for_s = 0.0
        if whim == "stall":
            low, high = (1.25, 2.0) if too_long else (0.2, 0.9)
            for_s = stuck_after_s * rng.uniform(low, high)
        if at_s + for_s > end_s:
            return moves
        moves.append(Move(at_s, client, whim, for_s))
        at_s += for_s + rng.uniform(1.0, 12.0)
