from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from adapters import tape
from adapters.base import TapeLine
from feed.errors import ConfigError

LINES = [
    TapeLine(dir="connect", t=1.25, conn="ws1", url="wss://x/ws"),
    TapeLine(dir="in", t=1.5, conn="ws1", raw='{"a":"é","b":1.10}'),
    TapeLine(dir="in", t=1.75, conn="ws1", raw="bytes", frame="binary"),
    TapeLine(dir="in", t=1.75, conn="ws1", raw_b64="H4sIAA==", enc="gzip"),
]


@pytest.mark.parametrize("suffix", tape.SUFFIXES)
def test_what_was_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    writer = tape.TapeWriter(path)
    for line in LINES:
        writer.write(line)
    writer.close()
    writer.close()
    assert list(tape.read(path)) == LINES


@pytest.mark.parametrize("suffix", tape.SUFFIXES)
def test_flushed_lines_can_be_read_while_the_recorder_lives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    writer = tape.TapeWriter(path)
    writer.write(LINES[0])
    writer.flush()
    assert list(tape.read(path)) == LINES[:1]
    writer.close()


def test_a_line_without_end_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"dir":"in","raw":"x"}\n{"dir":"in","ra')
    assert [line.raw for line in tape.read(path)] == ["x"]
    assert "line 2" in caplog.text


def test_a_cut_off_gzip_gives_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=0) as file:
        file.write(b'{"dir":"in","raw":"x"}\n' * 1_000)
    path.write_bytes(path.read_bytes()[:15_000])
    assert 0 < len(list(tape.read(path))) < 1_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.jsonl", b"not json\n", id="not JSON"),
        pytest.param("a.jsonl", b'{"t":1}\n', id="no direction"),
        pytest.param("a.jsonl.gz", b"not gzip", id="not gzip"),
        pytest.param("a.jsonl.zst", b"not zstandard", id="not Zstandard"),
        pytest.param("a.txt", b"", id="another ending"),
        pytest.param("missing.jsonl", None, id="no such file"),
    ],
)
def test_what_is_no_tape_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        list(tape.read(path))


def test_a_tape_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="exists"):
        tape.TapeWriter(path)
    assert path.read_text() == "precious"


def test_a_body_is_what_crossed_the_wire() -> None:
    assert [tape.body(line) for line in LINES[1:]] == [
        '{"a":"é","b":1.10}'.encode(),
        b"bytes",
        b"\x1f\x8b\x08\x00",
    ]
    assert [tape.is_text(line) for line in LINES[1:]] == [True, False, False]
