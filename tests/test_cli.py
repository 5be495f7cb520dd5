"""The ``feed`` command from outside: real processes, exit codes and what they leave behind."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest
from rich.console import Console

from feed.tail import Board

FEED = [sys.executable, "-m", "feed"]
DEADLINE_S = 60.0


def run_feed(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("FEED_")} | environ
    return subprocess.run(
        [*FEED, *arguments], env=env, capture_output=True, text=True, timeout=DEADLINE_S
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "word"),
    [
        pytest.param(["run"], {"FEED_PROT": "1"}, "did you mean FEED_PORT", id="misspelt variable"),
        pytest.param(["run"], {"FEED_PORT": "x"}, "FEED_PORT", id="not a number"),
        pytest.param(["run", "--port", "70000"], {}, "65535", id="port out of range"),
        pytest.param(["run", "--exchange", "krakn"], {}, "did you mean kraken", id="exchange"),
        pytest.param(["run", "--speed", "fast"], {}, "speed", id="speed"),
        pytest.param(["run", "--tape", "no-such-file"], {}, "no-such-file", id="tape"),
        pytest.param(["serve"], {}, "FEED_BUS", id="serve without a bus"),
        pytest.param(["ingest"], {}, "FEED_BUS", id="ingest without a bus"),
        pytest.param(["serve", "--bus", "http://x"], {}, "unknown bus scheme", id="bus scheme"),
        pytest.param(["tail", "quote.*.*", "--url", "nonsense"], {}, "no address", id="address"),
        pytest.param(["nope"], {}, "No such command", id="command"),
    ],
)
def test_a_mistake_gets_one_clear_line_and_exit_code_2(
    arguments: list[str], environ: dict[str, str], word: str
) -> None:
    done = run_feed(*arguments, **environ)
    assert done.returncode == 2, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["serve", "--port", "0"], ["ingest", "--exchange", "sim"]])
def test_a_bus_that_is_not_there_is_said_in_one_line(arguments: list[str]) -> None:
    done = run_feed(*arguments, "--bus", "redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "cannot connect" in done.stderr and "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_symbol_ends_a_run_with_exit_code_2() -> None:
    done = run_feed("run", "--source", "tape", "--symbol", "NOPE-USD", "--port", "0")
    assert done.returncode == 2, done.stderr
    assert "NOPE-USD" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_feed("run", "--exchange", "sim", "--port", port)
    assert done.returncode == 2, done.stderr
    assert port in done.stderr and "in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", ["run", "serve", "ingest", "record", "replay", "tail", "topics", "check"]
)
def test_every_command_explains_itself(command: str) -> None:
    done = run_feed(command, "--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) >= 5


# Nothing is left running.


class Tree:
    """A running ``feed run`` and every process it has started."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self.process = process
        self._log = log
        match = self.wait_for(r"Dashboard: (http://\S+)")
        self.url = match[1]
        self.children = descendants(process.pid)

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def wait_for(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            assert self.process.poll() is None, self.said()
            return re.search(pattern, self.said())

        return poll(found)


T = TypeVar("T")


def poll(claim: Callable[[], T | None]) -> T:
    """Return the first true value of ``claim``."""
    end = time.monotonic() + DEADLINE_S
    while True:
        value = claim()
        if value:
            return value
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """Return every process below ``pid``, with its start time so that a reused number is not it."""
    found: set[int] = set()
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for text in child.read_text().split():
            found |= {int(text)} | descendants(int(text))
    return found


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """``feed run`` with the sim exchange on a free port."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FEED_")}
    env |= {"FEED_SIM_SYMBOLS": "3", "FEED_SIM_RATE": "50"}
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [*FEED, "run", "--exchange", "sim", "--port", "0"],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield Tree(process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(DEADLINE_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running_after_a_signal(tree: Tree, number: signal.Signals) -> None:
    assert len(tree.children) >= 3, "Valkey, web and ingest"
    tree.process.send_signal(number)
    code = tree.process.wait(DEADLINE_S)
    assert code == (0 if number is not signal.SIGKILL else -signal.SIGKILL)
    poll(lambda: not any(map(is_running, tree.children)))
    assert "Traceback" not in tree.said()


@pytest.mark.parametrize("name", ["valkey-server", "\0serve\0", "\0ingest\0"])
def test_a_dead_child_ends_the_whole_run(tree: Tree, name: str) -> None:
    (child,) = [pid for pid in tree.children if name in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(child, signal.SIGKILL)
    assert tree.process.wait(DEADLINE_S) != 0
    poll(lambda: not any(map(is_running, tree.children)))


def test_topics_and_tail_show_what_runs(tree: Tree) -> None:
    listed = run_feed("topics", "quote.*.*", "--url", tree.url)
    assert listed.returncode == 0, listed.stderr
    assert "SIM000-USD" in listed.stdout
    lines = run_feed("topics", "--json", "--url", tree.url).stdout.splitlines()
    assert "trade.sim.SIM001-USD" in {json.loads(line)["topic"] for line in lines}

    tail = subprocess.Popen(
        [*FEED, "tail", "trade.sim.SIM000-USD", "--json", "--url", tree.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tail.stdout is not None
    events: list[dict[str, Any]] = []
    while len(events) < 3:
        event = json.loads(tail.stdout.readline())
        if event["type"] == "trade":
            events.append(event)
    tail.send_signal(signal.SIGINT)
    _, said = tail.communicate(timeout=DEADLINE_S)
    assert tail.returncode == 0, said
    assert [e["seq"] for e in events] == list(range(events[0]["seq"], events[0]["seq"] + 3))


def test_tail_says_what_is_unknown_and_what_was_meant(tree: Tree) -> None:
    done = run_feed("tail", "trade.sim.SIM000-USDT", "--url", tree.url)
    assert done.returncode == 2
    assert "did you mean" in done.stderr and "trade.sim.SIM000-USD" in done.stderr


def test_the_dashboard_and_its_files_are_served(tree: Tree) -> None:
    with urllib.request.urlopen(tree.url) as answer:
        page = answer.read().decode()
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    for path in re.findall(r'(?:src|href)="([^"#:]+)"', page):
        with urllib.request.urlopen(tree.url + path.removeprefix("/")) as answer:
            assert answer.status == 200, path


def test_check_reports_and_fails_only_for_what_is_bad() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_feed("check", "--port", port, "--exchange", "kraken")
    assert done.returncode == 1
    assert re.search(r"^bad +port", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.redis
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("arguments", "ready"),
    [
        pytest.param(["serve", "--port", "0"], "Listening on", id="serve"),
        pytest.param(["ingest", "--exchange", "sim"], "publishing", id="ingest"),
    ],
)
def test_a_process_on_its_own_ends_well_when_asked(
    arguments: list[str], ready: str, number: signal.Signals, valkey_url: str, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [*FEED, *arguments, "--bus", valkey_url], stdout=log, stderr=subprocess.STDOUT
        )

        def said() -> str:
            log.seek(0)
            return log.read()

        try:
            poll(lambda: ready in said())
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == 0, said()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert "Traceback" not in said()


def test_a_narrow_terminal_folds_a_value_and_cuts_off_no_digit() -> None:
    price, size = "61849.49000000", "123456789.10740000"
    board = Board()
    quote = {"type": "quote", "topic": "quote.binance.BTC-USDT", "seq": 1, "recv": 0}
    board.take(quote | {"bid": price, "bid_size": size, "ask": price, "ask_size": size})
    console = Console(width=60, file=io.StringIO(), record=True)
    console.print(board.table(["quote.*.*"]))
    shown = console.export_text()
    assert "…" not in shown
    assert shown.count("61849") == 2 and shown.count("49000000") == 2
    assert shown.count("123456789") == 2 and shown.count("10740000") == 2
