"""Tapes: recorded sessions as files of JSON lines (``docs/tapes.md``), read and written.

Plain, gzip or Zstandard by the file's ending. Reading streams; nothing is held but the line.
"""

from __future__ import annotations

import base64
import gzip
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar, cast

import msgspec
import zstandard

from adapters.base import TapeLine
from feed.errors import ConfigError

_T = TypeVar("_T")

log = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_decode = msgspec.json.Decoder(TapeLine).decode
_encode = msgspec.json.Encoder().encode


def _check_name(path: Path) -> None:
    if not path.name.endswith(SUFFIXES):
        raise ConfigError(f"{path}: a tape's name ends in {', '.join(SUFFIXES)}")


def read(path: Path) -> Iterator[TapeLine]:
    """Yield the tape's lines in order.

    A tape whose recorder was killed may end within a line: what is whole is yielded, and the rest
    is logged.

    Raises:
        ConfigError: No such file, or not a tape; says where.
    """
    _check_name(path)
    try:
        with path.open("rb") as file:
            yield from _lines(path, _decompressed(path, file))
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror or e}") from e


def _decompressed(path: Path, file: IO[bytes]) -> IO[bytes]:
    if path.name.endswith(".gz"):
        return cast(IO[bytes], gzip.open(file))
    if path.name.endswith(".zst"):
        # A recorder that was started again appends a frame of its own.
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return io.BufferedReader(reader)
    return file


def _lines(path: Path, file: IO[bytes]) -> Iterator[TapeLine]:
    number = 0
    try:
        for number, line in enumerate(file, 1):
            try:
                yield _decode(line)
            except msgspec.DecodeError as e:
                if not line.endswith(b"\n"):
                    log.warning("%s: ends within line %d, which is left out", path, number)
                    return
                raise ConfigError(f"{path}: line {number} is not a tape's: {e}") from e
    except EOFError:
        log.warning("%s: is cut off after line %d", path, number)
    except (gzip.BadGzipFile, zstandard.ZstdError) as e:
        raise ConfigError(f"{path}: after line {number}: {e}") from e


def body(line: TapeLine) -> bytes:
    """Return the frame or answer exactly as it crossed the wire."""
    if line.raw_b64 is not None:
        return base64.b64decode(line.raw_b64)
    return (line.raw or "").encode()


def is_text(line: TapeLine) -> bool:
    """Whether the frame crossed the wire as text."""
    return line.raw_b64 is None and line.frame != "binary"


class TapeWriter:
    """Writes a tape. After ``flush`` all lines so far can be read, whatever happens next.

    Raises:
        ConfigError: The file exists already, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        _check_name(path)
        try:
            self._raw: IO[bytes] = path.open("xb")
        except FileExistsError as e:
            raise ConfigError(f"{path}: exists already; a tape is never overwritten") from e
        except OSError as e:
            raise ConfigError(f"{path}: {e.strerror or e}") from e
        self._file: IO[bytes] = self._raw
        if path.name.endswith(".gz"):
            self._file = cast(IO[bytes], gzip.open(self._raw, "wb"))
        elif path.name.endswith(".zst"):
            self._file = zstandard.ZstdCompressor(level=6).stream_writer(self._raw, closefd=False)
        self.lines = 0

    def write(self, line: TapeLine) -> None:
        self._file.write(_encode(line) + b"\n")
        self.lines += 1

    def flush(self) -> None:
        self._file.flush()
        self._raw.flush()

    def close(self) -> None:
        """End the file well. Safe to call twice."""
        if not self._raw.closed:
            if self._file is not self._raw:
                self._file.close()
            self._raw.close()


def received(line: TapeLine, decode: Callable[[str], _T]) -> _T | None:
    """Return what a received text frame says; None for any other line and for what is no JSON."""
    if line.dir != "in" or line.raw is None:
        return None
    try:
        return decode(line.raw)
    except (ValueError, RecursionError):
        return None
