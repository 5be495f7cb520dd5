"""The replay script once, tiny: what arrived is printed, entry by entry and in sum."""

from pathlib import Path

import msgspec
import pytest

from bench import replay
from bench.journey import Arrival
from tests.bench.test_endtoend import small_tape as small_tape


@pytest.mark.redis
def test_each_entry_of_the_tape_is_printed_as_it_arrived(
    small_tape: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(small_tape), "--pace=2x", "--events"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = msgspec.json.decode(lines[-1])["rows"]
    assert (row["entries"], row["kinds"]) == (200, {"trade": 100, "quote": 100})
    assert (row["lost"], row["odd"], row["untraced"], row["closed"]) == (0, 0, 0, None)
    head = lines.index("seconds\tms_since_pub\tserver\ttopic\tseq")
    topics = [line.split("\t")[3] for line in lines[head + 1 : head + 201]]
    assert sorted(set(topics)) == ["quote.binance.BTC-USDT", "trade.binance.BTC-USDT"]


def test_entries_of_all_servers_are_in_one_order() -> None:
    def came(*times: int) -> list[Arrival]:
        return [Arrival(at, "trade.x.Y", at, 0, at - 1_500, b"") for at in times]

    lines = list(
        replay.event_lines({"ws://a": came(1_000_000, 3_000_000), "ws://b": came(2_000_000)})
    )
    assert lines[1:] == [
        "0.000000\t1.500\tws://a\ttrade.x.Y\t1000000",
        "1.000000\t1.500\tws://b\ttrade.x.Y\t2000000",
        "2.000000\t1.500\tws://a\ttrade.x.Y\t3000000",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--url=ws://localhost:1/v1/ws"], "go together", id="a server without a bus"),
        pytest.param(["--pace=fast"], "pace 'fast'", id="no pace"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_one_clear_line(
    options: list[str], said: str, small_tape: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(small_tape), *options]) == 2
    assert said in capsys.readouterr().err
