"""Child process: our application under granian, which frames and writes by itself."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop
from granian.constants import Interfaces  # type: ignore[import-not-found]
from granian.server.embed import Server  # type: ignore[import-not-found]

from bench.peers.free_port import free_port, wait_until_listening
from bench.processes import answer, say
from feed.app import create_app
from feed.bus import open_bus
from feed.config import Settings


async def _serve(settings: Settings) -> None:
    port = free_port()
    server = Server(
        create_app(settings, open_bus(settings.bus, settings.retention)),
        port=port,
        interface=Interfaces.ASGI,
        backlog=4_096,
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve())
    await asyncio.to_thread(wait_until_listening, port)
    say({"port": port})
    await answer({})
    server.stop()
    await serving


def main() -> None:
    given = {"connects_per_s": 0.0, "drain_s": 0.0} | msgspec.json.decode(sys.argv[1])
    uvloop.run(_serve(Settings.from_env({}, **given)))


if __name__ == "__main__":
    main()
