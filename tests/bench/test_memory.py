"""The memory bench once, tiny: that it counts connections and works out the slope."""

import os

import msgspec
import pytest

from bench import memory


@pytest.mark.redis
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server needs a core of its own")
def test_each_count_is_a_row_with_its_slope(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--counts=5,15", "--topics=2,4", "--subscribers=3", "--symbols=4"]
    assert memory.main([*options, "--heartbeat=0.1"]) == 0
    rows = msgspec.json.decode(capsys.readouterr().out.splitlines()[-1], type=dict)["rows"]
    counts = [(row["name"], row["connections"], row["topics"]) for row in rows]
    assert counts == [("idle", 5, 0), ("idle", 15, 0), ("2 topics", 3, 2), ("4 topics", 3, 4)]
    assert [row["slope_kib"] is None for row in rows] == [True, False, True, True]
    assert [row["slope_bytes"] is None for row in rows] == [True, True, True, False]


def row(connections: int, topics: int, rss_mib: float) -> memory.Row:
    return memory.Row(
        name="", connections=connections, topics=topics, rss_mib=rss_mib, connects_per_s=1.0
    )


def test_slopes_are_between_the_first_and_the_last_count() -> None:
    idle = [row(1_000, 0, 60.0), row(3_000, 0, 100.0), row(5_000, 0, 120.0)]
    assert memory.slope_kib(idle) == pytest.approx(60 * 1024 / 4_000)
    subscribed = [row(500, 20, 60.0), row(500, 220, 80.0)]
    assert memory.slope_bytes(subscribed) == pytest.approx(20 * 2**20 / 100_000)
