"""What was published: one line before each write to the bus, one after its acknowledgement.

Each ingest process appends to a file of its own with a single ``os.write`` a batch, so a process
that is killed leaves at most one torn line, the last, which stands for something it had not done.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from feed.bus.base import HEADER_BYTES, Entry, unpack_header

_canonical = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder().decode


def digest(data: bytes) -> int:
    """Return 8 bytes that stand for ``data``."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def canonical_digest(value: Any) -> int:
    """Return the digest of a decoded object, whatever encoding it came in."""
    return digest(_canonical(value))


class LedgerWriter:
    """Appends to the ledger of one process."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def intend(self, batch: Sequence[Entry]) -> None:
        """Note what is about to be written."""
        self._write(_intent(entry) for entry in batch)

    def acknowledge(self, batch: Sequence[Entry]) -> None:
        """Note that the bus has taken it."""
        self._write(f"ack {entry.topic} {entry.seq}\n" for entry in batch)

    def _write(self, lines: Iterable[str]) -> None:
        data = memoryview("".join(lines).encode())
        while data:
            data = data[os.write(self._fd, data) :]


def _intent(entry: Entry) -> str:
    epoch, _ = unpack_header(entry.payload)
    body = entry.payload[HEADER_BYTES:]
    return (
        f"put {entry.topic} {epoch} {entry.seq} "
        f"{digest(body):x} {canonical_digest(_decode(body)):x}\n"
    )


class Ledger:
    """What all processes have written down.

    Attributes:
        put: Topic -> position -> digests of what was to stand there: of its bytes as JSON, and of
            the decoded object.
        acked: Topic -> positions the bus has acknowledged.
    """

    def __init__(self) -> None:
        self.put: dict[str, dict[int, set[int]]] = {}
        self.acked: dict[str, set[int]] = {}

    def read(self, text: str) -> None:
        """Take one process's lines; a torn last one does not count."""
        for line in text[: text.rfind("\n") + 1].splitlines():
            match line.split():
                case ["put", topic, _, seq, raw, canonical]:
                    digests = self.put.setdefault(topic, {}).setdefault(int(seq), set())
                    digests.update((int(raw, 16), int(canonical, 16)))
                case ["ack", topic, seq]:
                    self.acked.setdefault(topic, set()).add(int(seq))
                case _:
                    raise ValueError(f"no line of a ledger: {line!r}")

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Read the ledgers of every process."""
        ledger = cls()
        for path in sorted(folder.glob("*.ledger")):
            ledger.read(path.read_text())
        return ledger

    def newest(self, topic: str) -> int:
        """Return the last acknowledged position; 0 where there is none."""
        return max(self.acked.get(topic, ()), default=0)
