"""``feed replay --fault`` as a user meets it: real processes."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from adapters.playback import BUNDLED
from tests.test_cli import DEADLINE_S, FEED, run_feed

KRAKEN = str(BUNDLED / "kraken_xrpusd_20260801.jsonl.gz")
BOOK = '{"method":"subscribe","params":{"channel":"book","symbol":["XRP/USD"],"depth":25}}'


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("dorp:0.1", "there are: drop:SHARE, duplicate:SHARE,"),
        ("drop:7", "write drop:SHARE"),
        ("close", "close:accept or close:after=N"),
        ("drop:0.1:channel=trade", "there are: book XRP/USD"),
    ],
)
def test_a_wrong_fault_gets_one_line_and_exit_code_2(fault: str, word: str) -> None:
    done = run_feed("replay", KRAKEN, "--port", "0", "--fault", fault)
    assert done.returncode == 2
    assert word in done.stderr and fault in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_gets_one_line_and_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_feed("replay", KRAKEN, "--port", port, "--fault", "drop:0.1")
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@contextmanager
def replaying(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Start a replay; yield it, its WebSocket address and what it says of its faults."""
    command = [*FEED, "replay", KRAKEN, "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            serving, faults = process.stderr.readline(), process.stderr.readline()
            found = re.search(r"kraken=http(://\S+)", serving)
            assert found is not None, serving
            yield process, f"ws{found[1]}/v2", faults
        finally:
            process.kill()


def frames(address: str) -> list[str]:
    """Return what a client hears until the connection ends."""
    said: list[str] = []
    with connect(address, proxy=None) as client:
        client.send(BOOK)
        try:
            while True:
                said.append(str(client.recv(timeout=DEADLINE_S)))
        except ConnectionClosed:
            return said


def test_the_printed_seed_breaks_it_the_same_way_again() -> None:
    faults = ("--speed", "max", "--fault", "drop:0.5", "--fault", "close:after=100")
    with replaying(*faults) as (_, address, said):
        first = frames(address)
        seed = re.search(r"drop:0.5 close:after=100 \(again with --seed (\d+)\)", said)
    assert seed is not None, said
    with replaying(*faults, "--seed", seed[1]) as (_, address, said):
        assert frames(address) == first
    assert 20 < len(first) < 80


@pytest.mark.parametrize("fault", ["half-open:after=5", "heartbeats:after=5", "delay:50ms@1"])
def test_ctrl_c_ends_it_in_the_middle(fault: str) -> None:
    with replaying("--speed", "20", "--fault", fault) as (process, address, _):
        with connect(address, proxy=None, close_timeout=0.1) as client:
            client.send(BOOK)
            for _ in range(6):
                client.recv(timeout=DEADLINE_S)
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
