"""How benches show what they found: a table for people, a JSON line for scripts."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

REPO = Path(__file__).resolve().parent.parent
_console = Console(highlight=False, width=None if Console().is_terminal else 160)


def machine() -> dict[str, object]:
    """Return what a figure depends on besides the code."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """Return the commit, with a plus where the code differs from it."""
    command = ["git", "-C", str(REPO), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def heading(title: str, facts: Mapping[str, object]) -> None:
    """Say what is measured and where."""
    _console.print(f"[bold]{title}[/bold]")
    _console.print(", ".join(f"{name} {value}" for name, value in facts.items()), style="dim")


def progress(text: str) -> None:
    """Say what goes on, on a terminal only."""
    if _console.is_terminal:
        _console.print(text, style="dim")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows; all but the first column are numbers."""
    shown = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        shown.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    _console.print(shown)


def note(text: str) -> None:
    """Print a remark that must be read with the figures."""
    _console.print(f"! {text}", markup=False)


def json_line(bench: str, facts: Mapping[str, object], rows: Sequence[object]) -> None:
    """Print everything as one line of JSON; also into ``$BENCH_OUT/<bench>.jsonl``, where set."""
    line = msgspec.json.encode({"bench": bench, "machine": facts, "rows": rows})
    print(line.decode(), flush=True)
    if folder := os.environ.get("BENCH_OUT"):
        path = Path(folder) / f"{bench}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(line + b"\n")


def number(value: float) -> str:
    """Write with thousands separated."""
    return f"{value:,.0f}"
