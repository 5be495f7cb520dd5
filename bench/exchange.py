"""Child process: the exchanges. Tapes served as fakes, each frame's moment of leaving kept.

A frame counts as gone just before it is handed to its socket: what the fake itself then needs for
it, and what waits in its buffers, is part of the time measured.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from adapters.base import Stream
from adapters.recording import Frame
from adapters.replay import FakeExchange
from adapters.stage import SETTLE_S
from adapters.tasks import now_us
from bench.processes import Message, answer, say
from bench.track import load

#: Nobody asks for it, so that no tape is over and no connection closed at its end: to the
#: adapter that would be a loss.
_NEVER = Stream("never", "")
_LOOK_S = 0.05


class Stamps:
    """When each frame of one recording was sent.

    Args:
        frames: By their index on the tape; the others are not played.

    Attributes:
        left: Frames not yet sent.
        sent: By index on the tape, µs; 0: not yet, or never.
    """

    def __init__(self, length: int, frames: Mapping[int, Frame]) -> None:
        self.left = len(frames)
        self.sent = [0] * length
        self._index = {id(frame): i for i, frame in frames.items()}

    def stamp(self, frame: Frame) -> None:
        index = self._index[id(frame)]
        if not self.sent[index]:  # some frames go to every connection
            self.sent[index] = now_us()
            self.left -= 1


class Exchanges:
    """All fakes, and the commands of the parent."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._go = asyncio.Event()
        self._fakes: list[FakeExchange] = []
        self._stamps: dict[str, Stamps] = {}

    async def load(self, message: Message) -> Message:
        """Serve ``tapes``; ``at``: exchange -> when each frame is due, seconds, if at all."""
        urls: dict[str, str] = {}
        recordings = load([Path(text) for text in message["tapes"]], message["copies"])
        for name, recording in recordings.items():
            pairs = enumerate(zip(recording.frames, message["at"][name], strict=True))
            played = {i: frame._replace(at=at) for i, (frame, at) in pairs if at is not None}
            stamps = self._stamps[name] = Stamps(len(recording.frames), played)
            recording.frames = list(played.values())
            fake = FakeExchange(
                {name: recording},
                expected={name: {*recording.streams, _NEVER}},
                go=self._go,
                on_send=stamps.stamp,
            )
            urls[name] = (await self._stack.enter_async_context(fake)).url
            self._fakes.append(fake)
        gc.freeze()
        return {"urls": urls}

    async def go(self, message: Message) -> Message:
        """Start all clocks, once ingest is there and has asked for everything."""
        while not all(fake.clients for fake in self._fakes):  # noqa: ASYNC110 - told of nothing
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(SETTLE_S)
        self._go.set()
        return {}

    async def sent(self, message: Message) -> Message:
        """Return how many frames are left to be sent; if none, when each was sent."""
        left = sum(stamps.left for stamps in self._stamps.values())
        sent = {name: stamps.sent for name, stamps in self._stamps.items()}
        return {"left": left, "sent": {} if left else sent}


async def _run() -> None:
    async with AsyncExitStack() as stack:
        exchanges = Exchanges(stack)
        say({"ready": True})
        commands = (exchanges.load, exchanges.go, exchanges.sent)
        await answer({command.__name__: command for command in commands})


def main() -> None:
    uvloop.run(_run())


if __name__ == "__main__":
    main()
