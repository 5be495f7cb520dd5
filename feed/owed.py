"""What a client is owed of a topic before its live entries: a snapshot, or a replay. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from feed.topic_state import TopicState

#: Of the gaps of a connection (those of a topic are entries).
Cause: TypeAlias = Literal["bus_loss", "slow_consumer", "resume_too_old"]

_encode = msgspec.json.Encoder().encode


class Sync:
    """Counts the topics of one command down to the ``synced`` that follows the last of them.

    Args:
        frame: What to say then.
        left: How many topics are not through with their snapshot or replay.
    """

    __slots__ = ("_frame", "_left")

    def __init__(self, frame: bytes, left: int) -> None:
        self._frame = frame
        self._left = left

    def done(self) -> bytes:
        """Count one topic; return what is to be said now, if anything."""
        self._left -= 1
        return self._frame if self._left == 0 else b""


class Snapshot(NamedTuple):
    """A snapshot, rendered when the socket takes it.

    Attributes:
        attach: Called once it is rendered: from there on the client gets live entries.
        lost_from: A gap from here to the snapshot comes before it.
        cause: Of that gap.
        sync: Is told when it is rendered.
    """

    state: TopicState
    attach: Callable[[], None] | None
    lost_from: int | None = None
    cause: Cause = "slow_consumer"
    sync: Sync | None = None


class Hole(NamedTuple):
    """Positions that cannot be given, inclusive."""

    first: int
    last: int
    cause: Cause


class Replay:
    """Entries of the ring, rendered as the socket takes them.

    Nothing is kept for the client but its place. Where the ring has moved past it, a gap says so.

    Args:
        at: The position after which they begin.
        attach: Called once all are rendered: from there on the client gets live entries.
        sync: Is told when all are rendered.
        is_too_old: They cannot be had: one gap up to the newest takes their place.
    """

    __slots__ = ("_is_too_old", "at", "attach", "state", "sync")

    def __init__(
        self,
        state: TopicState,
        at: int,
        attach: Callable[[], None],
        sync: Sync | None = None,
        is_too_old: bool = False,
    ) -> None:
        self.state = state
        self.at = at
        self.attach = attach
        self.sync = sync
        self._is_too_old = is_too_old

    def hole(self) -> Hole | None:
        """Return what is missing where the client stands, if anything."""
        ring, newest = self.state.ring, self.state.seq
        if self._is_too_old:
            # A client may claim to have more than there is: nothing to come lies in the gap.
            return Hole(min(self.at + 1, newest), newest, "resume_too_old")
        if self.at >= ring.floor:
            return None
        is_broken = self.at < ring.broken_at
        return Hole(self.at + 1, ring.floor, "bus_loss" if is_broken else "slow_consumer")

    def pass_over(self, hole: Hole) -> None:
        """Stand behind a hole that the client was told of."""
        self._is_too_old = False
        self.at = hole.last

    def instead(self) -> Snapshot | None:
        """Return the snapshot to give instead: a book must start afresh after a hole."""
        if self.state.window is None or (hole := self.hole()) is None:
            return None
        return Snapshot(self.state, self.attach, hole.first, hole.cause, self.sync)


def gap_json(topic: str, cause: Cause, first: int, last: int, lost: int | None) -> bytes:
    """Return a gap of a connection: positions ``first`` to ``last``, inclusive."""
    return (b'{"type":"gap","topic":%s,"seq":null,"cause":"%s","lost":%s,"from":%d,"to":%d}') % (
        _encode(topic),
        cause.encode(),
        _encode(lost),
        first,
        last,
    )
