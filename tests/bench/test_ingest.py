"""The ingest bench once, on a few recorded frames: that everything on the tape is accounted for."""

from pathlib import Path

import msgspec
import pytest

from adapters import tape
from adapters.base import TapeLine
from bench import ingest

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


def test_a_tape_that_is_not_there_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest.main(["no/such.jsonl.gz"]) == 2
    assert capsys.readouterr().err.startswith("bench.ingest: no/such.jsonl.gz: ")
