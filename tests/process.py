"""``feed serve`` as a process of its own, for tests that stop, starve or end it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.web import until

DEADLINE_S = 60.0


class Served:
    """A running web process.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.port = 0
        self._log = log

    def said(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def get(self, path: str) -> tuple[int, Any, dict[str, str]]:
        """Return status, decoded body and headers of one request."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=15) as answer:
                return answer.status, json.load(answer), dict(answer.headers)
        except urllib.error.HTTPError as e:
            with e:
                return e.code, json.load(e), {k.lower(): v for k, v in e.headers.items()}

    async def asked(self, path: str) -> tuple[int, Any, dict[str, str]]:
        return await asyncio.to_thread(self.get, path)

    async def ended(self, within_s: float = DEADLINE_S) -> int:
        """Return the exit code."""
        await until(lambda: self.process.poll() is not None, within_s)
        code = self.process.poll()
        assert code is not None
        return code

    def cpu_s(self) -> float:
        """Return the CPU time it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def serving(
    bus: str, preexec: Callable[[], None] | None = None, **settings: object
) -> AsyncIterator[Served]:
    """Start one on a free port; it is ready when this returns, and gone afterwards.

    Args:
        preexec: Called in the child before it runs, e.g. to limit what it may use.
        settings: ``FEED_*``, lower case.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("FEED_")}
    env |= {f"FEED_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.NamedTemporaryFile("w+b", suffix=".log") as log:
        process = subprocess.Popen(  # noqa: ASYNC220, a test that starts is not in a hurry
            [sys.executable, "-m", "feed", "serve", "--port", "0", "--bus", bus],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=preexec,
        )
        served = Served(process, Path(log.name))
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not served.port or (await served.asked("/readyz"))[0] != 200:
                assert process.poll() is None and time.monotonic() < deadline, served.said()
                found = re.search(r"Listening on http://[^/]*:(\d+)/", served.said())
                served.port = int(found[1]) if found and is_open(int(found[1])) else 0
                await asyncio.sleep(0.02)
            yield served
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def is_open(port: int) -> bool:
    """Whether a web process answers there (it listens a little before it serves)."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5):
            return True
    except OSError:
        return False
