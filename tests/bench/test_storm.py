"""The storm bench once, tiny: that it counts right, never how fast."""

import os

import msgspec
import pytest

from bench import storm


@pytest.mark.redis
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server needs a core of its own")
def test_everybody_is_served_refused_or_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert storm.main(["--clients=30", "--topics=6", "--rate=120", "--away=0.2"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    rows = {row["name"]: row for row in msgspec.json.decode(line, type=dict)["rows"]}
    assert list(rows) == ["connect", "refuse", "refuse late", "resume"]
    assert rows["connect"]["statuses"] == rows["resume"]["statuses"] == {"101": 30}
    assert rows["refuse"]["statuses"] == {"101": 1, "503": 29}
    assert rows["refuse late"]["statuses"] == {"403": 30}
    assert rows["resume"]["recovered"] == 30 and rows["resume"]["max_ms"] > 0
