"""What the connections that follow one another in one place have in common. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from adapters.base import Mark, Plan
from adapters.silence import Beats, Silence, watched
from feed.topics import EVENT_KINDS

if TYPE_CHECKING:
    from adapters.runner import Runner


class Slot:
    """One place: a plan, its topics, and what is remembered from connection to connection.

    Args:
        index: Which connection of the exchange, for the status board.
        topics: What it feeds.

    Attributes:
        facts: The topics of facts among them.
        natives: Symbol -> native symbol.
        silence, beats: None of a tape.
        marks: Native symbol -> the last trade that came; nothing of a tape, which may start over.
        owes_gaps: A connection fed these topics and was lost, and the gap has not been said.
    """

    def __init__(self, runner: Runner, plan: Plan, index: int, topics: Iterable[str]) -> None:
        self.plan = plan
        self.index = index
        self.topics = sorted(topics)
        self.facts = [t for t in self.topics if t.partition(".")[0] in EVENT_KINDS]
        self.natives = {one.symbol: native for native, one in plan.instruments.items()}
        self.marks: dict[str, Mark] = {}
        self.owes_gaps = False
        self.silence: Silence | None = None
        self.beats: Beats | None = None
        limits = runner.limits
        if not runner.is_tape:
            judged = watched(runner.adapter, plan, self.topics, runner.kinds)
            self.silence = Silence(judged, floor_s=limits.symbol_silent_after_s)
            if limits.beat_every_s is not None:
                self.beats = Beats(limits.beat_every_s)
