"""Keeps one reading link to the bus alive: what is subscribed stays subscribed.

A lost link is never hidden: whoever watches is told, as anything may have been missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from random import Random

from feed.backoff import delay
from feed.bus.base import LinkDown, LinkUp, Sink
from feed.bus.resp import PatternSink, Subscriber
from feed.errors import BusError

log = logging.getLogger(__name__)

#: Given the maker of a new subscriber, connects it.
Connect = Callable[[Callable[[], Subscriber]], Awaitable[Subscriber]]


class Reader:
    """One link, replaced whenever it is lost or silent.

    Args:
        patterns: Subscribed on every link; what they match goes to ``on_pattern``.
        notify: Takes ``LinkDown`` once for each time the link is lost, and then ``LinkUp``.
        timeout_s: Deadline of a connect, and of a subscribe over however many links.
        ping_s: Between two PINGs.
        silence_pings: After so many PINGs in a row without any sign of life the link is dropped.
            Counted, not timed, because a process that was itself stopped must not judge others.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        patterns: Iterable[bytes],
        on_pattern: PatternSink,
        notify: Callable[[LinkDown | LinkUp], None],
        timeout_s: float,
        ping_s: float = 1.0,
        silence_pings: int = 5,
    ) -> None:
        self.sinks: dict[bytes, Sink] = {}
        self._connect = connect
        self._patterns = tuple(patterns)
        self._on_pattern = on_pattern
        self._notify = notify
        self._timeout_s = timeout_s
        self._ping_s = ping_s
        self._silence_pings = silence_pings
        self._link: Subscriber | None = None
        self._up = asyncio.Event()
        self._down_reason: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._rng = Random()

    def start(self) -> None:
        """Begin to connect in the background; asked again, do nothing."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="bus reader")

    async def close(self) -> None:
        """Give the link and the task back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self.sinks.clear()

    async def subscribe(self, channel: bytes, sink: Sink) -> None:
        """Deliver ``channel`` to ``sink``; returns when the server has confirmed it.

        Raises:
            BusError: Not confirmed in time; the channel is then not subscribed.
        """
        self.start()
        self.sinks[channel] = sink
        confirmed = False
        try:
            async with asyncio.timeout(self._timeout_s):
                while not confirmed:
                    await self._up.wait()
                    assert self._link is not None
                    confirmed = await self._link.subscribe(channel)
                    if not confirmed:
                        await asyncio.sleep(0)  # lets the supervisor see that the link is lost
        except TimeoutError as e:
            reason = self._down_reason or f"no confirmation for {self._timeout_s:g} s"
            raise BusError(f"cannot subscribe: {reason}") from e
        finally:
            if not confirmed and self.sinks.get(channel) is sink:
                self.unsubscribe(channel)

    def unsubscribe(self, channel: bytes) -> None:
        """Deliver no more of ``channel``, from this moment on."""
        if self.sinks.pop(channel, None) is not None and self._link is not None:
            # Also on a link that is still subscribing everything: it is told after that.
            self._link.unsubscribe(channel)

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                attempt = 0 if await self._live() else attempt + 1
            except Exception:  # a watcher's mistake must not end the only reader
                log.exception("the bus reader failed; it starts anew")
                attempt += 1
            await asyncio.sleep(delay(attempt, self._rng, base_s=0.1, cap_s=2.0))

    async def _live(self) -> bool:
        """Live through one link, from connecting to its end; return whether it was of any use."""
        useful = False
        try:
            link = await self._establish()
            self._up.set()
            if self._down_reason is not None:
                log.info("the bus is back")
                self._down_reason = None
                self._notify(LinkUp())
            reason, useful = await self._guard(link)
        except BusError as e:
            reason = str(e)
        finally:
            self._up.clear()
            if self._link is not None:
                await self._link.close()
                self._link = None
        first = self._down_reason is None
        self._down_reason = reason
        if first:
            log.warning("the reading link to the bus is down: %s", reason)
            self._notify(LinkDown(reason))
        return useful

    async def _establish(self) -> Subscriber:
        """Connect and subscribe everything again; return once all of it is confirmed."""
        link = await self._connect(lambda: Subscriber(self.sinks, self._on_pattern))
        self._link = link
        asked = [link.psubscribe(pattern) for pattern in self._patterns]
        asked += [link.subscribe(channel) for channel in self.sinks]
        try:
            async with asyncio.timeout(self._timeout_s):
                confirmed = await asyncio.gather(*asked)
        except TimeoutError as e:
            raise BusError(f"no confirmation for {self._timeout_s:g} s") from e
        if not all(confirmed):
            raise BusError(await link.lost)
        return link

    async def _guard(self, link: Subscriber) -> tuple[str, bool]:
        """Return why the link ended, and whether it lived for more than a few PINGs."""
        silent = pings = 0
        while not link.lost.done():
            link.heard = False
            link.ping()
            pings += 1
            await asyncio.wait((link.lost,), timeout=self._ping_s)
            silent = 0 if link.heard else silent + 1
            if silent >= self._silence_pings:
                link.abort(f"no sign of life for {silent * self._ping_s:g} s")
                await asyncio.wait((link.lost,))
        return link.lost.result(), pings > self._silence_pings
