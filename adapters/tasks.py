"""Small helpers around tasks and time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine
from typing import Any


def now_us() -> int:
    """Return the wall clock, µs since the epoch."""
    return time.time_ns() // 1_000


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def together(*coros: Coroutine[Any, Any, None]) -> None:
    """Run all until each has ended. If one fails, end the others and raise its error, alone."""
    failed: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            for coro in coros:
                tasks.create_task(coro)
    except BaseExceptionGroup as group:
        failed = first_error(group)
    if failed is not None:
        raise failed


async def alongside(main: Coroutine[Any, Any, None], *helpers: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` to its end, and its helpers as long. The first error ends all and is raised."""
    failed: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(helper) for helper in helpers]
            await main
            for task in running:
                task.cancel()
    except BaseExceptionGroup as group:
        failed = first_error(group)
    if failed is not None:
        raise failed


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
