"""Counts of what the clients of one process were given beside entries. Pure."""

from __future__ import annotations

from typing import get_args

from feed.owed import Cause


class Tally:
    """Counts up, from the start of the process.

    Attributes:
        gaps: Gaps given to connections, by cause.
        snapshots: Snapshots given.
        resumed, not_resumed: Topics that clients came back to, and whether all that they had missed
            could be given.
    """

    __slots__ = ("gaps", "not_resumed", "resumed", "snapshots")

    def __init__(self) -> None:
        self.gaps: dict[Cause, int] = dict.fromkeys(get_args(Cause), 0)
        self.snapshots = 0
        self.resumed = 0
        self.not_resumed = 0
