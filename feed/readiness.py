"""Who waits until a topic is filled, or read as far back as a client left off. I/O shell.

However many clients wait for one topic, its stream is read once; what was found stays for a while,
so that a storm of resumes costs the bus commands for topics, not for clients.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from feed.errors import BusError
from feed.topic_state import Phase, Start, TopicState

log = logging.getLogger("feed.readiness")

#: What a deep reading found is kept for so long, whatever its size.
_DEEP_S = 10.0


class Wait:
    """Calls back once, soon after clients can begin so in every topic, or the time is up.

    No task: in a storm most clients wait, each by itself.
    """

    __slots__ = ("_left", "_loop", "_next", "_readiness", "_then")

    def __init__(
        self,
        readiness: Readiness,
        starts: Mapping[TopicState, Start],
        timeout_s: float,
        then: Callable[[], None],
    ) -> None:
        self._readiness = readiness
        self._then = then
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle = self._loop.call_later(timeout_s, self._end)
        self._left = {s for s, start in starts.items() if not readiness.is_ready(s, start)}
        for state in list(self._left):
            readiness.when_ready(state, starts[state], self, partial(self._is_ready, state))
        if not self._left:
            self._end()

    def cancel(self) -> None:
        """Call nobody any more; harmless afterwards."""
        self._next.cancel()
        for state in self._left:
            self._readiness.never_mind(state, self)
        self._left.clear()

    def _is_ready(self, state: TopicState) -> None:
        self._left.discard(state)
        if not self._left:
            self._end()

    def _end(self) -> None:
        self.cancel()
        self._next = self._loop.call_soon(self._then)


class Readiness:
    """Calls back those who wait.

    Args:
        read_back: Reads a topic's whole stream into its ring.
        spawn: Runs a coroutine as a task that somebody looks after.
    """

    def __init__(
        self,
        read_back: Callable[[TopicState], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._read_back = read_back
        self._spawn = spawn
        self._waiting: dict[TopicState, dict[object, tuple[Start, Callable[[], None]]]] = {}
        self._reading: set[TopicState] = set()
        self._deep: dict[TopicState, float] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def is_ready(self, state: TopicState, start: Start) -> bool:
        """Whether a client can begin so at once."""
        return state.phase is not Phase.FILLING and state.reaches(start)

    def when_ready(
        self, state: TopicState, start: Start, key: object, then: Callable[[], None]
    ) -> None:
        """Call ``then`` once a client can begin so, or it is known that the bus does not help.

        Args:
            key: To call it off with ``never_mind``; one call waits for each.
        """
        if self.is_ready(state, start):
            then()
            return
        self._waiting.setdefault(state, {})[key] = start, then
        if state.phase is not Phase.FILLING and state not in self._reading:
            self._reading.add(state)
            self._spawn(self._deepen(state))

    def never_mind(self, state: TopicState, key: object) -> None:
        """Forget what ``when_ready`` was asked for."""
        waiting = self._waiting.get(state)
        if waiting is not None:
            waiting.pop(key, None)

    async def ready(self, starts: Mapping[TopicState, Start], timeout_s: float) -> None:
        """Wait until clients can begin so in every topic, or the time is up."""
        done = asyncio.Event()
        wait = Wait(self, starts, timeout_s, done.set)
        try:
            await done.wait()
        finally:
            wait.cancel()

    def filled(self, state: TopicState) -> None:
        """Take note that a topic is filled: some may begin, for others the stream is read first."""
        for key, (start, then) in self._waiting.pop(state, {}).items():
            self.when_ready(state, start, key, then)

    def relax(self) -> None:
        """Let rings that were read deeply a while ago shrink to their usual size."""
        now = time.monotonic()
        for state in [state for state, until in self._deep.items() if until <= now]:
            del self._deep[state]
            state.ring.relax()

    async def _deepen(self, state: TopicState) -> None:
        try:
            await self._read_back(state)
            self._deep[state] = time.monotonic() + _DEEP_S
        except (BusError, TimeoutError) as e:
            reason = e or "the bus did not answer"
            log.warning("cannot read back in %s: %s", state.name, reason)
        finally:
            self._reading.discard(state)
        for _, then in self._waiting.pop(state, {}).values():
            then()
