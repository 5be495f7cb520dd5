"""I/O shell: the processes that are struck, each known by its pid alone. Linux only."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from feed.bus.embedded import find_server
from feed.tie import die_with
from tests.torture.plan import VALKEY, Strike

_STOP_S = 15.0


class Process:
    """A program that is started again and again.

    Args:
        command: Called at each start; may differ each time.
        log: All runs write to it.

    Attributes:
        ends: How often it ended by itself, by exit code.
    """

    def __init__(
        self, name: str, command: Callable[[], Sequence[str]], env: dict[str, str], log: Path
    ) -> None:
        self.name = name
        self.ends: Counter[int] = Counter()
        self._command = command
        self._env = env
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._is_struck = False

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with(os.getpid(), signal.SIGKILL),
            )

    def tend(self) -> None:
        """Start it again if it has ended by itself."""
        if self._process is None or self._is_struck:
            return
        code = self._process.poll()
        if code is not None:
            self.ends[code] += 1
            self.start()

    async def suffer(self, strike: Strike) -> None:
        """Be killed, frozen or restarted, and run again afterwards."""
        self._is_struck = True
        try:
            match strike.blow:
                case "kill":
                    self.kill()
                    await asyncio.sleep(strike.for_s)
                    self.start()
                case "freeze":
                    self.signal(signal.SIGSTOP)
                    await asyncio.sleep(strike.for_s)
                    self.signal(signal.SIGCONT)
                case "restart":
                    await self.stop()
                    await asyncio.sleep(strike.for_s)
                    self.start()
        finally:
            self._is_struck = False

    async def stop(self) -> None:
        """Ask it to end; by force if it does not (a frozen one cannot)."""
        self._is_struck = True
        self.signal(signal.SIGTERM)
        for _ in range(round(_STOP_S / 0.02)):
            if not self.is_running():
                return
            await asyncio.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None


class Cast:
    """Valkey, two web processes, two ingest processes.

    Args:
        folder: For their logs and ledgers.
        socket: Valkey's.
        ports: Of the web processes.
        settings: ``FEED_*`` of ours, lower case.
    """

    def __init__(
        self, folder: Path, socket: Path, ports: Sequence[int], settings: dict[str, object]
    ) -> None:
        self._runs = 0
        self._folder = folder
        self._ports = ports
        env = {k: v for k, v in os.environ.items() if not k.startswith("FEED_")}
        ours = env | {f"FEED_{name.upper()}": str(value) for name, value in settings.items()}
        valkey = [str(find_server()), "--port", "0", "--unixsocket", str(socket)]
        valkey += ["--unixsocketperm", "700", "--dir", str(socket.parent), "--save", ""]
        valkey += ["--appendonly", "no", "--daemonize", "no"]

        def serve(port: int) -> Callable[[], list[str]]:
            return lambda: [sys.executable, "-m", "feed", "serve", "--port", str(port)]

        commands: dict[str, Callable[[], list[str]]] = {VALKEY: lambda: valkey}
        commands |= {f"web-{n}": serve(port) for n, port in enumerate(ports)}
        commands |= {f"ingest-{n}": self._ingest for n in range(2)}
        self.processes = {
            name: Process(name, command, env if name == VALKEY else ours, folder / f"{name}.log")
            for name, command in commands.items()
        }

    def _ingest(self) -> list[str]:
        self._runs += 1
        ledger = self._folder / f"{self._runs:03d}.ledger"
        return [sys.executable, "-m", "tests.torture.ingest", str(ledger)]

    async def start(self, topics: int, within_s: float = 90.0) -> None:
        """Start all, and return when each web process is ready."""
        for name, process in self.processes.items():
            process.start()
            if name == VALKEY:
                await asyncio.sleep(0.2)
        async with asyncio.timeout(within_s):
            for port in self._ports:
                while not await asyncio.to_thread(_knows, port, topics):
                    self.tend()
                    await asyncio.sleep(0.2)

    def tend(self) -> None:
        for process in self.processes.values():
            process.tend()

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()


def _knows(port: int, topics: int) -> bool:
    """Whether a web process is ready and knows of so many topics."""
    url = f"http://127.0.0.1:{port}"
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):
            pass
        with urllib.request.urlopen(f"{url}/v1/topics?limit=1000", timeout=5) as answer:
            return bytes(answer.read()).count(b'"topic"') >= topics
    except (OSError, urllib.error.HTTPError):
        return False
