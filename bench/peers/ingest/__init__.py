"""Other programs that turn Binance's frames into normalised events, fed the frames of a tape.

Each runs in a process of its own on this process's core, reads the frames from a file beforehand
and counts its own CPU time, as ``bench.ingest`` does; no network, the book's snapshot is the one
recorded. What each of them does with a frame is said in ``PEERS``. They are used as published,
installed by ``make bench-peers-ingest`` into ``build/peers/ingest``; one that is not installed is
left out, and that is said.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from shutil import which
from typing import Protocol

import msgspec

from adapters.recording import Recording
from bench import report

HERE = Path(__file__).resolve().parent
INSTALLED = report.REPO / "build" / "peers" / "ingest"
#: What the peers know of Binance: their own names of the exchanges, and these channels.
EXCHANGES = {
    "binance": {"cryptofeed": "BINANCE", "tardis-dev": "binance", "ccxt.pro": "binance"},
    "binance-usdm": {
        "cryptofeed": "BINANCE_FUTURES",
        "tardis-dev": "binance-futures",
        "ccxt.pro": "binanceusdm",
    },
}
CHANNELS = ("trade", "aggTrade", "bookTicker", "depth")
_TIMEOUT_S = 120.0


class Peer(msgspec.Struct, frozen=True):
    """One way to use a program.

    Attributes:
        does: What becomes of a frame, and what does not.
        probe: Where it is if it is installed.
    """

    name: str
    package: str
    does: str
    probe: Path
    command: tuple[str, ...]


_CRYPTOFEED = INSTALLED / "python" / "cryptofeed"
_PYTHON = (sys.executable, str(HERE / "cryptofeed_peer.py"))
_CCXT = INSTALLED / "python" / "ccxt"
_CCXT_PEER = (sys.executable, str(HERE / "ccxt_peer.py"))
_NODE = (which("node") or "node", str(HERE / "tardis.mjs"))
_TARDIS = INSTALLED / "node_modules" / "tardis-dev"
PEERS = (
    Peer(
        "cryptofeed",
        "cryptofeed",
        "Decimal objects to callbacks, whole book kept and its changes; no encoding, no depth",
        _CRYPTOFEED,
        (*_PYTHON, "plain"),
    ),
    Peer(
        "cryptofeed, encoded",
        "cryptofeed",
        "the same, and JSON of every event, of a book its changes",
        _CRYPTOFEED,
        (*_PYTHON, "encoded"),
    ),
    Peer(
        "ccxt.pro",
        "ccxt.pro",
        "dicts of floats in caches, a book of 1,000 levels; no changes, no encoding, no depth",
        _CCXT,
        (*_CCXT_PEER, "plain"),
    ),
    Peer(
        "ccxt.pro, encoded",
        "ccxt.pro",
        "the same, and JSON of every value, of a book its best 20",
        _CCXT,
        (*_CCXT_PEER, "encoded"),
    ),
    Peer(
        "tardis-dev",
        "tardis-dev",
        "floats; book changes, its OrderBook, the best 20 each 100 ms; no encoding",
        _TARDIS,
        (*_NODE, "plain"),
    ),
    Peer(
        "tardis-dev, encoded",
        "tardis-dev",
        "the same, and JSON of every event, as ours",
        _TARDIS,
        (*_NODE, "encoded"),
    ),
)


class Row(msgspec.Struct, kw_only=True):
    """What a peer did with a tape.

    Attributes:
        tape: The name of our own row.
        frames_per_s: The best pass.
        snapshots: How many times a pass took the book's snapshot; more than one: it lost its book.
        skipped: Why it did not run; then everything else is 0.
    """

    peer: str
    tape: str
    does: str
    frames: int = 0
    events: int = 0
    snapshots: int = 0
    frames_per_s: float = 0.0
    passes: list[float] = []
    skipped: str | None = None


class _Done(msgspec.Struct):
    """What a peer says of one pass."""

    frames: int
    events: int
    snapshots: int
    seconds: float


class OurRow(Protocol):
    """What is needed of our own row."""

    frames_per_s: float


def frames(recording: Recording, channels: Collection[str]) -> Iterator[bytes]:
    """Yield the lines a peer reads: frames, and before the first depth frame the snapshot."""
    told: set[str] = set()
    for frame in recording.frames:
        stream = frame.stream
        if stream is None or stream.channel not in channels:
            continue
        if stream.channel.partition("@")[0] == "depth" and stream.native not in told:
            told.add(stream.native)
            for body in recording.bodies.get(f"depth:{stream.native}", ())[:1]:
                name = f"{stream.native.lower()}@depthSnapshot".encode()
                yield b'{"stream":"%b","data":%b}' % (name, body.replace(b"\n", b""))
        yield frame.body


def measure(
    tape: str, exchange: str, recording: Recording, channels: Collection[str], passes: int
) -> list[Row]:
    """Give a tape's frames of these channels to every peer; none where they are not Binance's."""
    known = {one for one in channels if one.partition("@")[0] in CHANNELS}
    if exchange not in EXCHANGES or not known:
        return []
    with tempfile.NamedTemporaryFile(suffix=".frames") as file:
        for line in frames(recording, known):
            file.write(line + b"\n")
        file.flush()
        return [_run(peer, tape, exchange, file.name, passes) for peer in PEERS]


def _run(peer: Peer, tape: str, exchange: str, path: str, passes: int) -> Row:
    report.progress(f"{peer.name} …")
    row = Row(peer=peer.name, tape=tape, does=peer.does)
    if not peer.probe.exists() or which(peer.command[0]) is None:
        row.skipped = "not installed: make bench-peers-ingest"
        return row
    name = EXCHANGES[exchange][peer.package]
    done = subprocess.run(
        [*peer.command, path, name, str(passes)],
        env={**os.environ, "PYTHONPATH": str(INSTALLED / "python"), "PEERS": str(INSTALLED)},
        cwd=INSTALLED,
        capture_output=True,
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        row.skipped = f"failed: {done.stderr.decode(errors='replace').strip()[-200:]}"
        return row
    each = msgspec.json.decode(done.stdout, type=list[_Done])
    row.passes = [one.frames / one.seconds for one in each]
    row.frames_per_s = max(row.passes)
    row.frames, row.events, row.snapshots = each[-1].frames, each[-1].events, each[-1].snapshots
    return row


COLUMNS = ("peer", "tape", "frames", "events", "snapshots", "frames/s", "ours is", "what it does")


def cells(row: Row, ours: OurRow) -> list[str]:
    """Return the row as the table shows it, with our figure as a multiple of it."""
    number = report.number
    if row.skipped is not None:
        return [row.peer, row.tape, "", "", "", "", "", row.skipped]
    ratio = f"{ours.frames_per_s / row.frames_per_s:.2f} x"
    figures = [row.frames, row.events, row.snapshots, row.frames_per_s]
    return [row.peer, row.tape, *map(number, figures), ratio, row.does]
