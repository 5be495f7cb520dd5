"""Child process: the web process as ``feed serve`` runs it, on an address of its own choice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import msgspec
import uvloop

from bench.processes import answer, say
from feed.bus import open_bus
from feed.config import Settings
from feed.server import bind, serve


async def _serve(settings: Settings) -> None:
    sock = bind(settings.host, settings.port)
    bus = open_bus(settings.bus, settings.retention)
    serving = asyncio.get_running_loop().create_task(serve(settings, bus, sock))
    say({"port": sock.getsockname()[1]})
    parent = asyncio.get_running_loop().create_task(answer({}))
    await asyncio.wait((serving, parent), return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        os.kill(os.getpid(), signal.SIGTERM)  # uvicorn's own way to end
    await serving


def main() -> None:
    given = {"connects_per_s": 0.0, "drain_s": 0.0} | msgspec.json.decode(sys.argv[1])
    settings = Settings.from_env({}, **given)
    uvloop.run(_serve(settings))


if __name__ == "__main__":
    main()
