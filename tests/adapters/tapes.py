"""Where the recorded sessions are, and what tests of adapters do with them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from adapters import tape
from adapters.base import Adapter, Fetch, Output
from feed.errors import BadPayload

REPO = Path(__file__).parents[2]
#: Recordings too large to bundle; tests of them skip where the folder is absent.
CAPTURES = REPO.parent / "shared" / "captures"


def captures(exchange: str, pattern: str = "*.jsonl.gz") -> list[Any]:
    """Return the exchange's recordings as test parameters; one that skips if there are none."""
    found = sorted((CAPTURES / exchange).glob(pattern))
    if not found:
        skip = pytest.mark.skip(reason=f"no recordings of {exchange} beside the repository")
        return [pytest.param(CAPTURES / exchange, id=exchange, marks=skip)]
    return [pytest.param(path, id=f"{exchange}-{path.name}") for path in found]


def frames(path: Path) -> list[bytes]:
    """Return the received frames of a recording, in order."""
    return [tape.body(line) for line in tape.read(path) if line.dir == "in"]


class Run:
    """What came of feeding frames to one adapter.

    Attributes:
        outputs: Everything, in order.
        bad: Frames refused with ``BadPayload``.
        fetches: What the adapter asked for.
    """

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.bad: list[bytes] = []
        self.fetches: list[Fetch] = []


def run(
    adapter: Adapter,
    received: Collection[bytes],
    rest: Callable[[Fetch], bytes | None] = lambda fetch: None,
    *,
    answer_after: int = 0,
    pace: int = 1,
    before: Callable[[bytes], None] = lambda frame: None,
    each: Callable[[bytes, list[Output]], None] = lambda frame, outputs: None,
) -> Run:
    """Feed frames to an adapter, and answers to what it fetches.

    Args:
        rest: Returns the body for a fetch, None where it fails.
        answer_after: Frames between a fetch and its answer.
        pace: µs between two frames.
        before: Called with every frame before it is fed.
        each: Called with every frame and what followed from it.
    """
    done = Run()
    waiting: list[tuple[int, Fetch]] = []

    def take(outputs: list[Output], at: int) -> None:
        done.outputs += outputs
        for output in outputs:
            if isinstance(output, Fetch):
                done.fetches.append(output)
                waiting.append((at + answer_after, output))

    for at, frame in enumerate(received):
        before(frame)
        try:
            outputs = list(adapter.parse(frame, at * pace))
        except BadPayload:
            done.bad.append(frame)
            continue
        take(outputs, at)
        each(frame, outputs)
        while waiting and waiting[0][0] <= at:
            fetch = waiting.pop(0)[1]
            body = rest(fetch)
            if body is not None:  # a failed fetch is asked again by the runner, later
                take(list(adapter.fetched(fetch.key, body, at * pace)), at)
    return done
