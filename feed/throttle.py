"""Topics delivered at most so many times a second (``max_hz``): pulled on a beat. Pure.

A tick touches nobody here. On its beat a group compares positions, joins what changed once, and
shares the bytes with every member: clients with the same topics, rate and encoding cost one join.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from feed.encoding import Encoding
from feed.outbox import Outbox
from feed.topic_state import TopicState

#: What ``max_hz`` is lowered to.
RATES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 5.0, 10.0, 20.0, 50.0)


def lowered(max_hz: float) -> float:
    """Return the next rate at or below ``max_hz``; the lowest for anything smaller."""
    return max((rate for rate in RATES if rate <= max_hz), default=RATES[0])


class Member:
    """One client's place in a group.

    Attributes:
        beat: The last beat of which the client has everything; -1 before its first.
        fresh: What it was given otherwise (in a snapshot): state -> position.
        blob: Number of the last blob in its outbox.
        before: ``beat`` and ``fresh`` as they were before that blob.
    """

    __slots__ = ("beat", "before", "blob", "fresh")

    def __init__(self, fresh: dict[TopicState, int]) -> None:
        self.beat = -1
        self.fresh = fresh
        self.blob = 0
        self.before = (self.beat, fresh)


class Group:
    """Clients that share their throttled topics, rate, encoding and way of batching.

    Attributes:
        due: When the next beat is, µs.
    """

    __slots__ = ("_beat", "_changed", "_sent", "batch", "due", "encoding", "members", "period_us")

    def __init__(
        self,
        states: Iterable[TopicState],
        hz: float,
        encoding: Encoding,
        batch: bool,
        now: int,
        due: int | None = None,
    ) -> None:
        self.encoding = encoding
        self.batch = batch
        self.members: dict[Outbox, Member] = {}
        self.period_us = round(1_000_000 / hz)
        # Spread over the period, so that groups do not all write in the same turn.
        self.due = now + hash((id(self), now)) % self.period_us if due is None else due
        self._sent = {state: state.newest_seq for state in states}
        self._changed = dict.fromkeys(self._sent, 0)
        self._beat = 0

    def join(self, outbox: Outbox, fresh: dict[TopicState, int]) -> None:
        """Take a client in that has the given positions."""
        self.members[outbox] = Member(fresh)

    def positions(self, outbox: Outbox) -> Iterator[tuple[TopicState, int]]:
        """Return what a member has of each topic; 0 where it is due the newest value."""
        member = self.members[outbox]
        for state, changed in self._changed.items():
            if changed <= member.beat:
                yield state, self._sent[state]
            else:
                yield state, member.fresh.get(state, 0)

    def take_back(self, outbox: Outbox) -> None:
        """Count as not given what still waits in a member's outbox, and is about to be dropped."""
        member = self.members[outbox]
        if member.blob > outbox.blobs_out:
            member.beat, member.fresh = member.before
            member.blob = 0

    def beat(self, now: int) -> None:
        """Give every member that can take it what changed since its last beat."""
        # From now, not from when it was due: a late beat must not be followed by an early one.
        self.due = now + self.period_us
        changed = []
        for state, sent in self._sent.items():
            if state.newest_seq != sent:
                changed.append(state)
        before = self._beat
        if changed:
            self._beat += 1
            for state in changed:
                self._sent[state] = state.newest_seq
                self._changed[state] = self._beat
        shared: list[bytes] | None = None
        for outbox, member in self.members.items():
            if member.beat == self._beat or outbox.blocked or member.blob > outbox.blobs_out:
                continue
            if member.beat == before:
                if shared is None:
                    shared = self._pieces(changed)
                pieces = shared
            else:
                pieces = self._pieces(
                    state
                    for state, beat in self._changed.items()
                    if beat > member.beat and state.newest_seq > member.fresh.get(state, 0)
                )
            member.before = (member.beat, member.fresh)
            member.beat, member.fresh = self._beat, {}
            for piece in pieces:
                member.blob = outbox.blob(piece)

    def _pieces(self, states: Iterable[TopicState]) -> list[bytes]:
        bodies = [state.newest_body(self.encoding) for state in states]
        return self.encoding.pieces(bodies, self.batch)
