"""I/O shell: one place's connections for as long as each makes room for the next without a loss.

A connection that is old, or whose end is announced, is replaced while it serves (``rotation``).
Where that cannot be done in time it serves on, until it ends; what then is lost is another's care.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from adapters.connection import Connection, Leaving
from adapters.slot import Slot
from feed.errors import StaleConnection

if TYPE_CHECKING:
    from adapters.runner import Runner

log = logging.getLogger(__name__)

#: How exactly a handover is timed.
STEP_S = 0.05
#: What neither of the two connections has brought for so long did not happen.
SETTLE_S = 5.0
#: A new connection that is not proven by then is given up.
PROVE_S = 60.0
#: Topics that could not be switched in step by then are switched anyway.
SWITCH_S = 5.0
#: What the old connection has already brought is dropped from the new one for so long.
LINGER_S = 10.0
#: After an attempt that failed.
AGAIN_S = 30.0


class Tenure:
    """A connection and those that take its place while it serves."""

    def __init__(self, runner: Runner, slot: Slot) -> None:
        self._runner = runner
        self._slot = slot
        self._connection = Connection(runner, slot)

    @property
    def fed(self) -> bool:
        """Whether an event was brought."""
        return self._connection.fed

    async def run(self) -> None:
        """Serve; returns only when a tape has come to its end.

        Raises:
            OSError, WebSocketException, StaleConnection: As ``Connection.run``, of the last one;
                or one was lost while it took another's place.
        """
        running = asyncio.create_task(self._connection.run())
        try:
            while not running.done():
                await self._until_retired(running)
                if running.done():
                    break
                successor = await self._replace(running)
                if successor is not None:
                    await _end(running)
                    running = successor
                else:
                    await asyncio.wait({running}, timeout=AGAIN_S)
            await running
        finally:
            await _end(running)

    async def _until_retired(self, running: asyncio.Task[None]) -> None:
        async def wait() -> None:
            await self._connection.retire.wait()

        retired = asyncio.create_task(wait())
        try:
            await asyncio.wait({running, retired}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            retired.cancel()

    async def _replace(self, running: asyncio.Task[None]) -> asyncio.Task[None] | None:
        """Try once to replace the present connection; return what runs the new one."""
        runner, old = self._runner, self._connection
        await asyncio.wait({running}, timeout=runner.connect_in_s())
        if running.done():
            return None
        if not old.fed:
            raise Leaving("it brought nothing that would have to be handed over")
        log.info("%s: replacing connection %d", runner.name, self._slot.index + 1)
        new = Connection(runner, self._slot, is_successor=True)
        task = asyncio.create_task(new.run())
        try:
            failure = await self._hand_over(old, running, new, task)
        except BaseException:
            await _end(task)
            raise
        if failure is not None:
            log.warning(
                "%s: connection %d is not replaced: %s", runner.name, self._slot.index + 1, failure
            )
            await _end(task)
            if old.is_retired:
                # What came over the old one meanwhile has not passed: both are lost.
                raise StaleConnection("ended while it took another's place")
            old.gate = None
            return None
        self._connection = new
        runner.counters.rotations += 1
        assert new.gate is not None
        asyncio.get_running_loop().call_later(LINGER_S, new.ungate, new.gate)
        return task

    async def _hand_over(
        self,
        old: Connection,
        running: asyncio.Task[None],
        new: Connection,
        task: asyncio.Task[None],
    ) -> str | None:
        """Return why it failed, or None when the new connection feeds everything."""
        loop, runner = asyncio.get_running_loop(), self._runner
        handover = old.handover(new)
        prove_by, settle_at, switch_by = loop.time() + PROVE_S, 0.0, 0.0
        while True:
            await asyncio.wait({running, task}, timeout=STEP_S, return_when=asyncio.FIRST_COMPLETED)
            now = loop.time()
            if task.done():
                error = None if task.cancelled() else task.exception()
                runner.hold_off(error)
                return str(error or type(error).__name__)
            if handover.is_switching:
                if not handover.is_done and (running.done() or now >= switch_by):
                    old.switch(new, handover)
                if handover.is_done:
                    return None
                continue
            if running.done():
                return "it ended before"
            if handover.refused is not None:
                return handover.refused
            if new.is_answered and now >= settle_at:
                settle_at = now + SETTLE_S
                handover.settle()
            missing = handover.waits_for()
            if new.is_answered and not missing:
                old.switch(new, handover)
                switch_by = now + SWITCH_S
                if handover.is_done:
                    return None
            elif now >= prove_by:
                return f"nothing came of {', '.join(missing[:3]) or 'it'}"


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
