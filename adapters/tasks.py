"""Small helpers around tasks and time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine, Sequence
from typing import Any


def now_us() -> int:
    """Return the wall clock, µs since the epoch."""
    return time.time_ns() // 1_000


# Not asyncio.TaskGroup, below: Python 3.11's forgets a cancellation that comes while a child fails,
# and whoever tries again after errors would then never end.


async def together(*coros: Coroutine[Any, Any, None]) -> None:
    """Run all until each has ended. If one fails, end the others and raise its error, alone."""
    tasks = [asyncio.ensure_future(coro) for coro in coros]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        failed = _first_failed(tasks)
        await _end(tasks)
    if failed is not None:
        raise failed


async def alongside(main: Coroutine[Any, Any, None], *helpers: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` to its end, and its helpers as long. The first error ends all and is raised."""
    lead = asyncio.ensure_future(main)
    tasks = [lead, *(asyncio.ensure_future(helper) for helper in helpers)]
    try:
        while not lead.done() and _first_failed(tasks) is None:
            running = [task for task in tasks if not task.done()]
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        failed = _first_failed(tasks)
        await _end(tasks)
    if failed is not None:
        raise failed


def _first_failed(tasks: Sequence[asyncio.Task[None]]) -> BaseException | None:
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            return error
    return None


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(stop: asyncio.Event, main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` until it ends or ``stop`` is set; then it is cancelled and cleans up."""
    task = asyncio.ensure_future(main)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets, instead of ending the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
