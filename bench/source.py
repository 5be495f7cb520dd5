"""Child process: the load source. The ``sim`` exchange, publishing on command and keeping count."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec
import uvloop

from adapters.publisher import Publisher
from adapters.service import Context, publish
from adapters.sim import Market, Simulator
from adapters.status import StatusBoard
from adapters.tasks import now_us
from bench.processes import Message, answer, say
from feed.bus.base import HEADER_BYTES, Entry
from feed.bus.redis import RedisBus
from feed.config import Settings

#: How often the slip of the schedule is looked at.
_LOOK_S = 0.02


class CountingBus(RedisBus):
    """Remembers how many entries went out: topic -> bytes of their JSON -> how many."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.bus, settings.retention)
        self.sent: defaultdict[str, Counter[int]] = defaultdict(Counter)

    async def publish(self, batch: Sequence[Entry], checkpoints: Sequence[Entry] = ()) -> None:
        await super().publish(batch, checkpoints)
        for entry in batch:
            self.sent[entry.topic][len(entry.payload) - HEADER_BYTES] += 1


async def _run(settings: Settings) -> None:
    bus = CountingBus(settings)
    await bus.start()
    market = Market(settings.sim_symbols, settings.sim_kinds)

    async def feed(publisher: Publisher, board: StatusBoard) -> None:
        await publisher.flushed()
        bus.sent.clear()
        running: asyncio.Task[Message] | None = None

        async def run(events: int, rate: float) -> Message:
            simulator = Simulator(market, rate)
            work = asyncio.create_task(simulator.run(publisher, events))
            late_s = 0.0
            while not work.done():
                await asyncio.wait((work,), timeout=_LOOK_S)
                late_s = max(late_s, simulator.late_s)
            work.result()
            await publisher.flushed()
            return {"sent": bus.sent, "late_s": late_s}

        async def start(message: Message) -> Message:
            nonlocal running
            running = asyncio.create_task(run(message["events"], message["rate"]))
            return {}

        async def finish(message: Message) -> Message:
            assert running is not None
            return await running

        say({"ready": True})
        await answer({"start": start, "finish": finish})

    await publish(
        Context.make(settings, bus),
        market.catalogue(now_us()),
        feed,
        connections=1,
        threshold_ms=None,
        goodbye="publisher_stopped",
    )
    await bus.close()


def main() -> None:
    settings = Settings.from_env({}, **msgspec.json.decode(sys.argv[1]))
    uvloop.run(_run(settings))


if __name__ == "__main__":
    main()
