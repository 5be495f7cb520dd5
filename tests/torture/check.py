"""Whether what clients were given agrees with the ledger. Pure.

A client's history of a topic is a list of facts, in the order it learnt them. It falls into
*lives*: a life ends where the client was told that nothing is known of its position any more (or
had none). Within a life every position counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from tests.torture.ledger import Ledger


class Begun(NamedTuple):
    """A life begins after position ``at``; None: anywhere.

    Attributes:
        lost: ``recovered:false`` declared all that followed this position; None where the client
            had no position to lose.
    """

    at: int | None
    lost: int | None = None


class Got(NamedTuple):
    """An entry came.

    Attributes:
        digest: Of its bytes (JSON) or of the decoded object (msgpack).
        explains: First of the unused positions a publisher's restart names; None for the others.
    """

    seq: int
    digest: int
    explains: int | None = None


class Missed(NamedTuple):
    """A gap of the connection came: positions ``first`` to ``last``."""

    first: int
    last: int
    cause: str


class Shown(NamedTuple):
    """A snapshot came, as of ``seq``; of a state topic with the event it holds."""

    seq: int
    event: Got | None = None


Fact: TypeAlias = Begun | Got | Missed | Shown


def position(facts: Sequence[Fact]) -> int | None:
    """Return where a client stands after these facts."""
    match facts[-1] if facts else None:
        case Begun(at):
            return at
        case Got(seq) | Shown(seq):
            return seq
        case Missed(_, last):
            return last
    return None


class _Life:
    """One life in a topic in ``all``."""

    def __init__(self, begun: Begun) -> None:
        self.at = begun.at
        self.first = None if begun.at is None else begun.at + 1
        self.received: list[int] = []
        self.gaps: list[tuple[int, int]] = []

    def take(self, fact: Got | Missed | Shown) -> Iterable[str]:
        """Follow one more fact; yield what is wrong with it."""
        at = self.at
        match fact:
            case Got(seq, _, explains):
                if explains is not None:
                    self.gaps.append((explains, seq - 1))
                self.received.append(seq)
                if at is not None and seq <= at:
                    yield f"{seq} came after {at}: twice, or out of order"
                elif at is not None and seq != at + 1 and explains != at + 1:
                    yield f"a jump from {at} to {seq} without a gap"
                start, self.at = seq, seq
            case Missed(first, last, cause):
                self.gaps.append((first, last))
                if first > last:
                    yield f"the gap {cause} {first}-{last} is none"
                if at is not None and first != at + 1:
                    yield f"the gap {cause} {first}-{last} does not follow {at}"
                start, self.at = first, last
            case Shown(0):
                return  # nothing was ever published
            case Shown(seq):
                if at is not None and seq != at:
                    yield f"a snapshot of {seq} after {at}"
                start, self.at = seq + 1, seq
        if self.first is None:
            self.first = start

    def end(self, acked: Iterable[int]) -> Iterable[str]:
        """Yield what is wrong with it as a whole, whatever the order was."""
        received = sorted(self.received)
        for seq, times in Counter(received).items():
            if times > 1:
                yield f"{seq} was received {times} times"
        for first, last in self.gaps:
            inside = bisect_left(received, first)
            if inside < len(received) and received[inside] <= last:
                yield f"the gap {first}-{last} covers {received[inside]}, which was received"
        if self.first is None or self.at is None:
            return
        had = set(received)
        missing = [
            seq
            for seq in acked
            if self.first <= seq <= self.at
            and seq not in had
            and not any(first <= seq <= last for first, last in self.gaps)
        ]
        if missing:
            many = f"; so were {len(missing) - 1} more" if len(missing) > 1 else ""
            yield f"{min(missing)} was acknowledged, and neither received nor declared{many}"


def check_all(topic: str, facts: Iterable[Fact], ledger: Ledger) -> list[str]:
    """Return what is wrong with a client's history of a topic in ``all``.

    Nothing else ends a life's positions but its last fact, so the caller checks separately that
    this is where the topic ends.
    """
    wrong: list[str] = []
    acked = ledger.acked.get(topic, set())
    life = _Life(Begun(None))
    for fact in facts:
        if isinstance(fact, Begun):
            wrong += life.end(acked)
            life = _Life(fact)
        else:
            wrong += _differs(topic, fact, ledger)
            wrong += life.take(fact)
    wrong += life.end(acked)
    return wrong


def check_latest(topic: str, facts: Iterable[Fact], ledger: Ledger) -> list[str]:
    """Return what is wrong with a client's history of a topic in ``latest``.

    Each connection is a life: another web process may know less.
    """
    wrong: list[str] = []
    at = 0
    for fact in facts:
        match fact:
            case Begun():
                at = 0
            case Got(seq):
                if seq <= at:
                    wrong.append(f"{seq} came after {at}")
                at = seq
            case Shown(_, event):
                at = max(at, event.seq if event is not None else 0)
            case Missed(first, last, cause):
                wrong.append(f"a gap {cause} {first}-{last} where only the newest counts")
        if not isinstance(fact, Begun):
            wrong += _differs(topic, fact, ledger)
    return wrong


def _differs(topic: str, fact: Got | Missed | Shown, ledger: Ledger) -> Iterable[str]:
    event = fact if isinstance(fact, Got) else fact.event if isinstance(fact, Shown) else None
    if event is None:
        return
    digests = ledger.put.get(topic, {}).get(event.seq)
    if digests is None:
        yield f"{event.seq} was received, but never published"
    elif event.digest not in digests:
        yield f"{event.seq} was received with other bytes than it was published with"


def declared(topic: str, facts: Iterable[Fact], ledger: Ledger) -> Counter[str]:
    """Count the acknowledged entries of a topic that a client was told it misses, by cause."""
    acked = sorted(ledger.acked.get(topic, ()))
    counts: Counter[str] = Counter()
    given_up: int | None = None
    for fact in facts:
        match fact:
            case Begun(at, lost):
                given_up = lost if at is None else None
            case Missed(first, last, cause):
                counts[cause] += bisect_right(acked, last) - bisect_left(acked, first)
            case Got(seq) if given_up is not None:
                counts["recovered:false"] += bisect_left(acked, seq) - bisect_right(acked, given_up)
        if not isinstance(fact, Begun):
            given_up = None
    return counts
