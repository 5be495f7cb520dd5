"""I/O shell: a message broker with clients of its own protocol, and the bridge from our bus to it.

This process is the bridge. The broker is its child, on the server's core.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench.peers.bus import follow
from bench.processes import BenchError, answer, pinned, say

_START_S = 10.0
_STOP_S = 5.0


class Ports(NamedTuple):
    """Where a broker listens: for clients' WebSockets, and for the bridge."""

    clients: int
    bridge: int


class Broker(NamedTuple):
    """One kind of broker.

    Attributes:
        program: Given the path of its configuration as its last arguments.
        configure: Makes that, for a folder of its own.
        ports: Returns where it listens, or None while it does not.
        hello: What the bridge begins with.
        publish: Returns an entry as the bridge hands it over: topic, JSON.
    """

    program: tuple[str, ...]
    configure: Callable[[Path], str]
    ports: Callable[[Path], Ports | None]
    hello: bytes
    publish: Callable[[str, bytes], bytes]


def run(broker: Broker) -> None:
    """Be the bridge to this broker, as the bench says on the command line.

    Raises:
        BenchError: The broker does not start.
    """
    given = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="feed-bench-") as name:
        folder = Path(name)
        config = folder / "config"
        config.write_text(broker.configure(folder))
        with (folder / "log").open("wb") as log, pinned(given["cores"]):
            process = subprocess.Popen([*broker.program, str(config)], stdout=log, stderr=log)
        try:
            ports = _started(broker, process, folder)
            uvloop.run(_bridge(broker, given["bus"], ports, process.pid))
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(broker: Broker, process: subprocess.Popen[bytes], folder: Path) -> Ports:
    deadline = time.monotonic() + _START_S
    while (ports := broker.ports(folder)) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            said = (folder / "log").read_text(errors="replace").strip()
            raise BenchError(f"{broker.program[0]} does not start: {said or 'no output'}")
        time.sleep(0.01)
    return ports


async def _bridge(broker: Broker, bus: str, ports: Ports, pid: int) -> None:
    loop = asyncio.get_running_loop()
    link, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", ports.bridge)
    link.write(broker.hello)
    await follow(bus, lambda topic, body: link.write(broker.publish(topic, body)))
    say({"port": ports.clients, "pid": pid})
    await answer({})
