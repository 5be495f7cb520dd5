"""``feed run``: an embedded Valkey, an ingest and a web process in one tree. I/O shell.

Three ways were weighed: everything in one process (one loop: a busy fan-out delays ingest, and
the two meet elsewhere than at the bus), ``multiprocessing`` (its children survive a SIGKILL of the
parent), and plain child processes with a death signal from the kernel. The last is this one.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from types import FrameType

import click
from msgspec.structs import replace

from feed.bus.embedded import EmbeddedServer
from feed.children import spawn
from feed.config import Settings
from feed.server import bind

_READY_S = 20.0
_STOP_S = 8.0
#: There is no other server for the clients to go to, and nobody likes to wait after Ctrl-C.
_DRAIN_S = 0.5
_POLL_S = 0.1


def run(settings: Settings, ingest_flags: Sequence[str]) -> int:
    """Run until Ctrl-C, SIGTERM or the end of a tape; return the exit code.

    Raises:
        ConfigError: The port is taken, or there is no Valkey to start.
    """
    sock = bind(settings.host, settings.port)
    host, port = sock.getsockname()[:2]
    url = f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{port}/"

    # A handler that raises may do so inside ``Popen.poll`` and leave its lock taken for ever; one
    # that sets a ``threading.Event`` may wait for a lock that the code it interrupted holds.
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    with contextlib.ExitStack() as stack:
        bus = settings.bus
        watched: dict[str, subprocess.Popen[bytes]] = {}
        if not bus:
            embedded = stack.enter_context(EmbeddedServer())
            bus, watched["bus"] = embedded.url, embedded.process
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        children: dict[str, subprocess.Popen[bytes]] = {}
        try:
            theirs = replace(settings, bus=bus, drain_s=min(settings.drain_s, _DRAIN_S))
            web = ["serve", "--fd", str(sock.fileno())]
            children["web"] = spawn(theirs, web, sock.fileno())
            children["ingest"] = spawn(theirs, ["ingest", *ingest_flags])
            sock.close()
            if _wait_until_ready(port, children, stopped):
                click.secho(f"\n  Dashboard: {url}\n", err=True, bold=True)
            return _watch(watched | children, stopped)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _end(children.values())


def _wait_until_ready(
    port: int, children: dict[str, subprocess.Popen[bytes]], stopped: list[int]
) -> bool:
    end = time.monotonic() + _READY_S
    while time.monotonic() < end:
        if stopped or any(child.poll() is not None for child in children.values()):
            return False
        with contextlib.suppress(OSError, urllib.error.URLError, json.JSONDecodeError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
                if json.load(answer)["ok"]:
                    return True
        time.sleep(_POLL_S)
    click.echo("feed: the web process is not ready yet; see its messages above", err=True)
    return False


def _watch(children: dict[str, subprocess.Popen[bytes]], stopped: list[int]) -> int:
    """Wait for the first child to end; ingest ends well when its tape does."""
    while not stopped:
        for name, child in children.items():
            code = child.poll()
            if code is None:
                continue
            if name == "ingest" and code == 0:
                click.echo("feed: the tape has ended", err=True)
                return 0
            if code != 2:  # of a setting it has said itself what is wrong
                click.echo(f"feed: the {name} process ended with exit code {code}", err=True)
            return code if code > 0 else 1
        time.sleep(_POLL_S)
    return 0


def _end(children: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask every child to end; kill what does not."""
    running = [child for child in children if child.poll() is None]
    for child in reversed(running):
        child.terminate()
    end = time.monotonic() + _STOP_S
    for child in running:
        try:
            child.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
