"""I/O shell: the processes of a bench, each on its cores, and what they cost. Linux only.

A child is a module of this package that answers JSON lines: commands on its standard input, answers
on its output. It ends when its input ends, so nothing survives the bench, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import resource
import select
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import msgspec

from bench.report import REPO
from feed.errors import ConfigError

Message: TypeAlias = dict[str, Any]

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_S = 10.0
_MAX_LINE = 64 << 20


class BenchError(Exception):
    """A child failed or did not answer; the figures are worth nothing."""


class Cores(NamedTuple):
    """Which cores the server has to itself, and which everybody else shares."""

    server: frozenset[int]
    others: frozenset[int]

    @classmethod
    def split(cls) -> Cores:
        """Give the server the first core we may use.

        Raises:
            ConfigError: There is only one.
        """
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise ConfigError("the bench needs two cores: one for the server alone")
        return cls(frozenset(cores[:1]), frozenset(cores[1:]))


class Cost(NamedTuple):
    """What a process has used up so far.

    Attributes:
        user_s, system_s: CPU.
        waited_s: Time it could have run but somebody else had its core.
        writes: Calls of write and writev (the bus link and wake-ups are among them).
    """

    user_s: float
    system_s: float
    waited_s: float
    writes: int

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s

    def since(self, before: Cost) -> Cost:
        return Cost(
            self.user_s - before.user_s,
            self.system_s - before.system_s,
            self.waited_s - before.waited_s,
            self.writes - before.writes,
        )


def cost(pid: int) -> Cost:
    """Return what a process of ours has used up."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    io = Path(f"/proc/{pid}/io").read_text().splitlines()
    writes = next(int(line.split()[1]) for line in io if line.startswith("syscw:"))
    waited_ns = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    return Cost(int(fields[11]) / _TICKS, int(fields[12]) / _TICKS, waited_ns / 1e9, writes)


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def pin(pid: int, cores: Collection[int]) -> None:
    """Keep every thread of a process on these cores."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


@contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """Keep this process on these cores for a while."""
    before = os.sched_getaffinity(0)
    pin(os.getpid(), cores)
    try:
        yield
    finally:
        pin(os.getpid(), before)


def allow_files(wanted: int) -> None:
    """Raise the limit of open files for this process and those it starts.

    Raises:
        ConfigError: The machine does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise ConfigError(f"needs {wanted} open files, the hard limit is {hard}: ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Child:
    """One process, ``python -m <module>``, and its answers. A context manager.

    Args:
        arguments: Handed over as one JSON argument.
        environment: Added to ours.
        program: What runs the module, where that is not our Python.
    """

    def __init__(
        self,
        module: str,
        arguments: Mapping[str, Any],
        cores: Collection[int],
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m"),
    ) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [*program, module, msgspec.json.encode(arguments).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPO,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the bench alone, which then ends its children
        )
        self.pid = self._process.pid
        self._buffer = b""
        pin(self.pid, cores)

    def ask(self, message: Message, timeout_s: float = 30.0) -> Message:
        """Send a command and return the answer.

        Raises:
            BenchError: It ended, or did not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as e:
            raise BenchError(f"{self._module} has ended") from e
        return self.hear(timeout_s)

    def hear(self, timeout_s: float = 30.0) -> Message:
        """Return what the child says next.

        Raises:
            BenchError: It ended, or said nothing in time.
        """
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([fd], [], [], timeout_s)
            data = os.read(fd, 1 << 20) if ready else None
            if not data:
                what = "has ended" if ready else f"said nothing for {timeout_s:g} s"
                raise BenchError(f"{self._module} {what}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Message = msgspec.json.decode(line)
        return message

    def stop(self) -> None:
        """End it; by force if it does not end by itself."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


# The child's side.


def say(message: Mapping[str, Any]) -> None:
    """Answer the parent."""
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


async def answer(commands: Mapping[str, Callable[[Message], Awaitable[Message]]]) -> None:
    """Carry out the parent's commands (``{"do": …}``), one after another, until it lets go."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_MAX_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        message: Message = msgspec.json.decode(line)
        say(await commands[message["do"]](message))
