"""The fan-out bench once, tiny: that it runs and counts right, never how fast."""

import os

import msgspec
import pytest

from bench import fanout
from bench.dialects import frames, masked


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """Run the bench with these arguments and return its row."""
    assert fanout.main(arguments) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    (row,) = msgspec.json.decode(line)["rows"]
    found: dict[str, object] = row
    return found


@pytest.mark.redis
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server needs a core of its own")
def test_every_entry_reaches_every_client_of_its_topic(capsys: pytest.CaptureFixture[str]) -> None:
    row = run(
        capsys, "--rates=400", "--clients=12", "--topics=6", "--symbols=6",
        "--seconds=0.5", "--warm-up=0.1",
    )  # fmt: skip
    assert row["lost"] == 0
    assert row["name"] == "12 x 6 of 12, 400/s"
    assert all(isinstance(row[f"{p}_ms"], float) for p in ("p50", "p99", "p999"))


def test_missing_entries_are_counted_by_bytes_and_by_topic() -> None:
    sent = {"a": fanout.Sent(10, 2_000), "b": fanout.Sent(10, 2_000)}
    topics = [["a"], ["a", "b"], ["a", "b"], ["b"]]
    owed = [fanout.due(sent, of) for of in topics]
    counts = [None, None, {"a": 9, "b": 10}, None]
    got = fanout.Got([2_000, 3_400, 0, 2_040], counts, 0, [], {})
    assert list(fanout.differences(owed, sent, topics, got, 200.0)) == [0, 3, 1, 1]


@pytest.mark.parametrize("size", [1, 125, 126, 65_535, 65_536])
def test_frames_are_found_again_in_a_stream_cut_anywhere(size: int) -> None:
    text = "x" * size
    sent = masked(text)
    head = 2 if size < 126 else 4 if size < 65_536 else 10
    assert sent[head : head + 4] == bytes(4) and sent[1] & 0x80
    plain = sent[:1] + bytes((sent[1] & 0x7F,)) + sent[2:head] + sent[head + 4 :]
    assert [payload for payload, _ in frames(plain * 2 + plain[:-1])] == [text.encode()] * 2
