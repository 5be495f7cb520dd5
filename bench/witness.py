"""Child process: clients of which some keep everything they are given, to be looked at afterwards.

Keeping costs an append a read, so that what is measured is not slowed by being looked at; all
others only count.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import uvloop

from bench.client import Counting, Joining
from bench.processes import Message, answer, say


class Keeping(Counting):
    """A client that keeps what it is given, with the time, µs."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[int, bytes]] = []

    def data_received(self, data: bytes) -> None:
        self.kept.append((time.time_ns() // 1000, data))
        super().data_received(data)


class Witnesses:
    """All clients of this process, and the commands of the parent."""

    def __init__(self) -> None:
        self._clients: list[Counting] = []

    async def connect(self, message: Message) -> Message:
        """Connect ``clients``, all with one ``command``; each ``keep_every``-th keeps."""
        loop = asyncio.get_running_loop()

        async def one(i: int) -> Counting:
            client = Counting() if i % message["keep_every"] else Keeping()
            _, joining = await loop.create_connection(
                lambda: Joining(message["command"], client), "127.0.0.1", message["port"]
            )
            await joining.joined
            return client

        self._clients += await asyncio.gather(*map(one, range(message["clients"])))
        return {}

    async def mark(self, message: Message) -> Message:
        """Return how many bytes each client has got so far."""
        return {"bytes": [client.bytes for client in self._clients]}

    async def result(self, message: Message) -> Message:
        """Write what was kept, one file a client below ``into``; say where, and who was closed."""
        files: list[str] = []
        for i, client in enumerate(self._clients):
            if isinstance(client, Keeping):
                path = Path(message["into"]) / f"{i}.msgpack"
                path.write_bytes(msgspec.msgpack.encode(client.kept))
                files.append(str(path))
        return {
            "files": files,
            "closed": sorted({client.lost for client in self._clients if client.lost}),
        }


async def _run() -> None:
    witnesses = Witnesses()
    say({"ready": True})
    commands = (witnesses.connect, witnesses.mark, witnesses.result)
    await answer({command.__name__: command for command in commands})


def main() -> None:
    uvloop.run(_run())


if __name__ == "__main__":
    main()
