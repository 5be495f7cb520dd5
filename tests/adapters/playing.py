"""A tape played over real sockets: the fake exchange on one side, the runner on the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from adapters.base import Adapter
from adapters.fault_language import parse
from adapters.recording import load
from adapters.replay import FakeExchange
from adapters.runner import Runner, endpoints
from adapters.selection import by_symbol
from adapters.status import StatusBoard
from tests.adapters.kit import ListSink, eventually


async def played(
    cls: type[Adapter],
    path: Path,
    faults: Sequence[str],
    is_done: Callable[[ListSink], bool],
) -> ListSink:
    """Return what a runner has published of a tape once ``is_done``; faults are as documented."""
    recording = load(path, cls.name)[cls.name]
    natives = {stream.native for stream in recording.streams}
    instruments = [one for native in sorted(natives) if (one := cls.instrument(native))]
    picked = by_symbol(cls, instruments, [one.symbol for one in instruments], cls.kinds)
    connections = len(picked.plans)
    board = StatusBoard(cls.name, picked.topics, connections=connections, threshold_ms=None, now=1)
    rng = Random(1)
    rng.uniform = lambda a, b: 0.0  # type: ignore[method-assign]
    sink = ListSink()
    async with FakeExchange({cls.name: recording}, speed=None, faults=parse(faults)) as fake:
        ws_url, rest_url = endpoints(cls, fake.url)
        runner = Runner(cls, picked, ws_url, rest_url, sink, board, rng=rng)
        running = asyncio.create_task(runner.run())
        try:
            await eventually(lambda: is_done(sink))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    return sink
