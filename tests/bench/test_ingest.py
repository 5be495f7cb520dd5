"""The ingest bench once, on a few recorded frames: that everything on the tape is accounted for."""

from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from adapters import registry, tape
from adapters.base import Stream, TapeLine
from adapters.recording import Recording
from bench import ingest
from bench.peers import ingest as peers

_TRADE = (
    '{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161253000,"s":"BTCUSDT","t":%d,'
    '"p":"61684.01000000","q":"0.00100000","T":1723161253000,"m":true,"M":true}}'
)
_QUOTE = (
    '{"stream":"btcusdt@bookTicker","data":{"u":%d,"s":"BTCUSDT","b":"61684.00000000",'
    '"B":"1.00000000","a":"61684.01000000","A":"2.00000000"}}'
)


@pytest.fixture
def small_tape(tmp_path: Path) -> Path:
    path = tmp_path / "small.jsonl.gz"
    writer = tape.TapeWriter(path)
    for i in range(20):
        for text in (_TRADE, _QUOTE):
            writer.write(TapeLine(dir="in", t=1723161253.0 + i, conn="ws1", raw=text % (100 + i)))
    writer.close()
    return path


def test_each_frame_becomes_its_event(small_tape: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest.main([str(small_tape), "--passes=1"]) == 0
    (row,) = msgspec.json.decode(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["exchange"] == "binance"
    assert (row["frames"], row["events"], row["bad"]) == (40, 40, 0)
    assert row["frames_per_s"] > 0 < row["floor_per_s"]


def rows_of(out: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = msgspec.json.decode(out.splitlines()[-1])["rows"]
    return rows


def test_frames_that_feed_none_of_the_kinds_are_not_counted(
    small_tape: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest.main([str(small_tape), "--passes=1", "--kinds=trade"]) == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert (row["frames"], row["events"], row["channels"]) == (20, 20, {"trade": 20})


def test_a_tape_without_frames_of_the_kinds_has_no_row(
    small_tape: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest.main([str(small_tape), "--passes=1", "--kinds=book"]) == 0
    out = capsys.readouterr().out
    assert rows_of(out) == [] and "no frames of these kinds" in out


def test_each_channel_has_a_row_of_its_own(
    small_tape: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest.main([str(small_tape), "--passes=1", "--by-channel"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row["frames"] for row in rows] == [40, 20, 20]
    assert [str(row["name"]).split()[-1] for row in rows[1:]] == ["bookTicker", "trade"]


def test_a_peer_that_is_not_installed_is_left_out_by_name(
    small_tape: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [structs.replace(peer, probe=small_tape / "gone") for peer in peers.PEERS]
    monkeypatch.setattr(peers, "PEERS", gone)
    assert ingest.main([str(small_tape), "--passes=1", "--peers"]) == 0
    _, *others = rows_of(capsys.readouterr().out)
    assert [row["peer"] for row in others] == [peer.name for peer in gone]
    assert {row["skipped"] for row in others} == {"not installed: make bench-peers-ingest"}


def test_a_peer_is_given_the_snapshot_before_the_first_depth_frame() -> None:
    quote, depth = (Stream(channel, "BTCUSDT") for channel in ("bookTicker", "depth@100ms"))
    lines = [
        TapeLine(dir="connect", t=1.0, conn="ws1", url="wss://stream.binance.com:9443/stream"),
        *(
            TapeLine(
                dir="in", t=1.0, conn="ws1", raw=f'{{"stream":"btcusdt@{channel}","data":{{}}}}'
            )
            for channel in ("bookTicker", "depth@100ms", "trade", "depth@100ms")
        ),
        TapeLine(
            dir="rest",
            t=2.0,
            url="https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=5000",
            raw='{"lastUpdateId":1}',
        ),
    ]
    recording = Recording(lines, registry.entry("binance").load_venue()())
    given = [*peers.frames(recording, {quote.channel, depth.channel})]
    assert given[1] == b'{"stream":"btcusdt@depthSnapshot","data":{"lastUpdateId":1}}'
    assert [line.split(b'"')[3] for line in given] == [
        b"btcusdt@bookTicker",
        b"btcusdt@depthSnapshot",
        b"btcusdt@depth@100ms",
        b"btcusdt@depth@100ms",
    ]


def test_a_tape_that_is_not_there_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest.main(["no/such.jsonl.gz"]) == 2
    assert capsys.readouterr().err.startswith("bench.ingest: no/such.jsonl.gz: ")
