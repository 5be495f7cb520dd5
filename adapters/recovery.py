"""I/O shell: fetches the trades that were missed while there was no connection.

Live never waits for it. What has not come in time is declared: before the first live trade where
it cannot be fetched, else when the time is over, or when this connection ends as well.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from adapters.backfill import Hole
from adapters.base import Adapter, Mark, Page, Resumed, upstream_gap
from adapters.rest import FetchFailed
from feed.backoff import delay
from feed.errors import BadPayload

if TYPE_CHECKING:
    from adapters.runner import Runner

#: What has not been fetched after so long becomes the gap.
BACKFILL_S = 10.0


class Recovery:
    """The holes before one connection, by instrument.

    Args:
        topics: Native symbol -> trade topic.
    """

    def __init__(self, runner: Runner, adapter: Adapter, topics: dict[str, str]) -> None:
        self._runner = runner
        self._adapter = adapter
        self._topics = topics
        self._holes: dict[str, Hole] = {}
        self._reached: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: Instruments whose hole was declared before a live trade showed its end.
        self._declared: set[str] = set()

    def begin(self, native: str, mark: Mark) -> None:
        """Fetch what came after the mark; the adapter has been told to resume there."""
        self._holes[native] = Hole(mark)
        self._reached[native] = asyncio.Event()
        self._tasks[native] = asyncio.create_task(self._fill(native))

    def resumed(self, resumed: Resumed) -> None:
        """Take note that live trades go on; the first of them follows."""
        native, after = resumed.native, resumed.after
        if after is None:
            self._end(native)
            self._gap(native, None)
            return
        if native not in self._holes:
            if native in self._declared:
                self._declared.discard(native)
                return
            if after.id + 1 == resumed.before:
                return
            self.begin(native, after)
        hole = self._holes[native]
        hole.reached(resumed.before)
        if hole.is_closed:
            if not hole.delivered:
                self._gap(native, hole.lost)
            self._declare(native)
        elif self._adapter.backfill(native, hole.after) is None:
            self._declare(native)
        else:
            self._reached[native].set()

    async def close(self) -> None:
        """End with the connection: declare what is known to be missing.

        What follows the last trade where no live one has come is the next connection's to find.
        """
        tasks = list(self._tasks.values())
        for native, hole in list(self._holes.items()):
            if hole.before is None and not hole.lost:
                self._end(native)
            else:
                self._declare(native)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fill(self, native: str) -> None:
        hole = self._holes[native]
        try:
            async with asyncio.timeout(BACKFILL_S):
                await self._fetch(native, hole)
        except TimeoutError:
            pass
        if self._holes.get(native) is hole:
            self._declare(native)

    async def _fetch(self, native: str, hole: Hole) -> None:
        runner, tries = self._runner, 0
        while not hole.is_closed:
            fetch = self._adapter.backfill(native, hole.after) if hole.is_wanting else None
            if fetch is None:
                await self._reached[native].wait()
                self._reached[native].clear()
                continue
            tries += 1
            wait_s = 0.0
            try:
                async with runner.backfills:
                    body = await runner.rest.get(fetch.path)
                recv = runner.clock()
                if runner.tap is not None:
                    runner.tap.answered(runner.rest_url + fetch.path, recv, body)
                runner.counters.fetches += 1
                for output in self._adapter.fetched(fetch.key, body, recv):
                    if isinstance(output, Page) and self._deliver(native, hole, output):
                        tries = 0
            except BadPayload as e:
                runner.bad_frame(e)
            except FetchFailed as e:
                runner.counters.failed_fetches += 1
                runner.complain("backfill", f"cannot fetch missed trades: {e}")
                wait_s = e.retry_after_s
            if runner.sink.is_full:
                await runner.sink.drain()
            if tries and hole.is_wanting:
                await asyncio.sleep(max(wait_s, delay(tries, runner.rng, base_s=0.5)))

    def _deliver(self, native: str, hole: Hole, page: Page) -> bool:
        """Publish what the page brings; return whether it brought anything."""
        runner, now = self._runner, self._runner.clock()
        was = hole.after
        for trade in hole.take(page):
            runner.sink.put(trade, now)
            runner.counters.events += 1
        if hole.before is None and hole.after != was:
            # Live trades that are on their way may be among those just published.
            self._adapter.resume(native, hole.after)
        return hole.after != was

    def _declare(self, native: str) -> None:
        """Say what has not come of the hole, and be done with it."""
        hole = self._holes[native]
        missing = hole.missing()
        self._end(native)
        if missing is None:
            self._declared.add(native)
        if missing != 0:
            self._gap(native, missing)

    def _end(self, native: str) -> None:
        self._holes.pop(native, None)
        event = self._reached.pop(native, None)
        task = self._tasks.pop(native, None)
        if event is not None:
            event.set()
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _gap(self, native: str, lost: int | None) -> None:
        runner, now = self._runner, self._runner.clock()
        gap = upstream_gap(self._topics[native], now, "upstream_disconnect", lost)
        runner.sink.put(gap, now)
