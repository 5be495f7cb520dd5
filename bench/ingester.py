"""Child process: the ingest process as ``feed ingest --endpoint …`` runs it."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop

from adapters.ingest import calm_collector, run_ingest
from bench.processes import answer, say
from feed.bus import open_bus
from feed.config import Settings


async def _run(settings: Settings) -> None:
    bus = open_bus(settings.bus, settings.retention)
    await bus.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    ingest = loop.create_task(run_ingest(settings, bus, stop=stop))
    say({"ready": True})
    parent = loop.create_task(answer({}))
    await asyncio.wait((ingest, parent), return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await ingest
    await bus.close()


def main() -> None:
    settings = Settings.from_env({}, **msgspec.json.decode(sys.argv[1]))
    calm_collector()
    uvloop.run(_run(settings))


if __name__ == "__main__":
    main()
