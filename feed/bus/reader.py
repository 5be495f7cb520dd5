"""Keeps one reading link to the bus alive: what is subscribed stays subscribed.

A lost link is never hidden: whoever watches is told, as anything may have been missed. Neither is
one that lives but delivers nothing: see ``feed.bus.probe``, where that is decided.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from random import Random

from feed.backoff import delay
from feed.bus import keys
from feed.bus.base import LinkDown, LinkUp, Sink
from feed.bus.probe import Proof, Taken, number_of
from feed.bus.resp import PatternSink, Subscriber
from feed.errors import BusError, FeedError

log = logging.getLogger(__name__)

#: Given the maker of a new subscriber, connects it.
Connect = Callable[[Callable[[], Subscriber]], Awaitable[Subscriber]]
#: Publishes (channel, payload) over a connection of its own, made for it; raises BusError.
Publish = Callable[[bytes, bytes], Awaitable[Taken]]


class Reader:
    """One link, replaced whenever it is lost, silent or no longer proves delivery.

    Args:
        publish: Takes the probes.
        patterns: Subscribed on every link; what they match goes to ``on_pattern``.
        notify: Takes ``LinkDown`` once for each time the link is lost, and then ``LinkUp``.
        timeout_s: Deadline of a connect, and of a subscribe over however many links.
        round_s, rounds: Of proving delivery: how long one is, and how many bad ones end a link.
    """

    def __init__(
        self,
        connect: Connect,
        publish: Publish,
        *,
        patterns: Iterable[bytes],
        on_pattern: PatternSink,
        notify: Callable[[LinkDown | LinkUp], None],
        timeout_s: float,
        round_s: float = 1.0,
        rounds: int = 3,
    ) -> None:
        self._channel = keys.probe_channel(secrets.token_hex(8)).encode()
        self.sinks: dict[bytes, Sink] = {self._channel: self._take_probe}
        self._connect = connect
        self._publish = publish
        self._patterns = tuple(patterns)
        self._on_pattern = on_pattern
        self._notify = notify
        self._timeout_s = timeout_s
        self._round_s = round_s
        self._rounds = rounds
        self._proof = Proof(rounds)
        self._proven = asyncio.Event()
        self._trouble: str | None = None
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
        """Connect and subscribe everything again; return once delivery is proven."""
        self._proof = Proof(self._rounds)
        self._proven.clear()
        link = await self._connect(
            lambda: Subscriber(self.sinks, self._on_pattern, self._take_pong)
        )
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
        await self._prove(link)
        return link

    async def _prove(self, link: Subscriber) -> None:
        """Return when the first probe has come back.

        Raises:
            BusError: It cannot be published, or does not come.
        """
        await self._probe(link)
        trouble = self._proof.trouble or self._proof.verdict
        if trouble is None:
            coming = asyncio.ensure_future(self._proven.wait())
            try:
                await asyncio.wait(
                    (coming, link.lost),
                    timeout=self._timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                coming.cancel()
            if self._proven.is_set():
                return
            trouble = link.lost.result() if link.lost.done() else "a probe does not come back"
        raise BusError(f"delivery is not proven: {trouble}")

    async def _guard(self, link: Subscriber) -> tuple[str, bool]:
        """Return why the link ended, and whether it lived for more than a few rounds."""
        rounds = 0
        probing: asyncio.Future[None] | None = None
        try:
            while not link.lost.done():
                link.heard = False
                link.ping()
                if probing is None or probing.done():
                    probing = asyncio.ensure_future(self._probe(link))
                rounds += 1
                await asyncio.wait((link.lost,), timeout=self._round_s)
                self._proof.end_round(link.heard)
                self._report_trouble()
                if self._proof.verdict is not None:
                    link.abort(self._proof.verdict)
                    await asyncio.wait((link.lost,))
        finally:
            if probing is not None:
                probing.cancel()
                await asyncio.wait((probing,))
        return link.lost.result(), rounds > self._rounds

    async def _probe(self, link: Subscriber) -> None:
        number = self._proof.begin()
        try:
            self._proof.taken(await self._publish(self._channel, b"%d" % number))
        except FeedError as e:
            self._proof.failed(str(e))
        else:
            link.ping(b"%d" % number)

    def _take_probe(self, payload: bytes) -> None:
        self._proof.came_back(number_of(payload))
        if self._proof.proven:
            self._proven.set()

    def _take_pong(self, payload: bytes) -> None:
        self._proof.ponged(number_of(payload))

    def _report_trouble(self) -> None:
        trouble = self._proof.trouble
        if trouble is not None and self._trouble is None:
            log.warning("the link to the bus cannot be probed, and is trusted: %s", trouble)
        elif trouble is None and self._trouble is not None:
            log.info("the link to the bus is probed again")
        self._trouble = trouble
