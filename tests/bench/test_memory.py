"""The memory bench once, tiny: that it counts connections and works out the slope."""

import os

import msgspec
import pytest

from bench import memory


@pytest.mark.redis
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server needs a core of its own")
def test_each_count_is_a_row_with_its_slope(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.main(["--counts=5,15", "--heartbeat=0.1"]) == 0
    rows = msgspec.json.decode(capsys.readouterr().out.splitlines()[-1], type=dict)["rows"]
    assert [row["connections"] for row in rows] == [5, 15]
    assert rows[0]["slope_kib"] is None and isinstance(rows[1]["slope_kib"], float)


def test_the_slope_is_between_the_first_and_the_last_count() -> None:
    rows = [
        memory.Row(connections=n, rss_mib=mib, slope_kib=None, connects_per_s=1.0)
        for n, mib in ((1_000, 60.0), (3_000, 100.0), (5_000, 120.0))
    ]
    assert memory.slope_kib(rows) == pytest.approx(60 * 1024 / 4_000)
