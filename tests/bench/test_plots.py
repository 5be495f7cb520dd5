"""The plots: which are drawn of which lines, and the page that holds them."""

import builtins
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import plots

needs_matplotlib = pytest.mark.skipif(
    find_spec("matplotlib") is None, reason="matplotlib is not installed: make plots"
)
MACHINE = {"cpu": "a", "cores": 2, "load": 0.5}


def fanout(rate: int, **fields: Any) -> dict[str, Any]:
    name = f"1,000 x 20 of 200, {rate:,}/s"
    times = {"p50_ms": 1.0, "p99_ms": 5.0, "p999_ms": 9.0}
    row = {"name": name, "rate": rate, "deliveries_per_cpu_s": 500.0, "lost": 0, **times}
    return {**row, **fields}


def endtoend(name: str) -> dict[str, Any]:
    stage = {"p50_ms": 1.0, "p99_ms": 5.0, "p999_ms": 9.0}
    stages = [{"name": one, **stage} for one in ("exchange to recv", "exchange to client")]
    row = {"name": name, "events_per_s": 500.0, "clients": 3, "lost": 1, "stages": stages}
    return {**row, "cpu": {"exchange": 0.1, "ingest": 0.4}}


def line(bench: str, *rows: dict[str, Any]) -> str:
    return msgspec.json.encode({"bench": bench, "machine": MACHINE, "rows": rows}).decode()


ALL = [
    line("fanout", fanout(500), fanout(2_000), fanout(2_000, server="another", notes=["busy"])),
    line("ingest", {"name": "tape", "frames_per_s": 100.0, "floor_per_s": 300.0}),
    line("endtoend", endtoend("1x"), endtoend("max")),
]


def test_only_lines_of_benches_are_read() -> None:
    texts = ["fan-out", "", "{broken", '{"other": 1}', ALL[0], "! a note"]
    assert [one.bench for one in plots.lines(texts)] == ["fanout"]


def test_the_latest_row_of_a_server_and_load_counts() -> None:
    first = line("fanout", fanout(500), fanout(500, server="another"))
    again = line("fanout", fanout(500, p50_ms=2.0))
    rows = plots.gather(plots.lines([first, again]))["fanout"]
    assert [(row.get("server"), row["p50_ms"]) for row in rows] == [(None, 2.0), ("another", 1.0)]


def test_a_load_is_drawn_against_its_rate_where_there_are_two() -> None:
    rows = [fanout(2_000), fanout(500), fanout(2_000, server="another")]
    rows.append({**fanout(50), "name": "100 x 20 of 200, 50/s"})
    found = plots.loads(rows)
    assert list(found) == ["1,000 x 20 of 200"]
    rates = {
        server: [row["rate"] for row in of] for server, of in found["1,000 x 20 of 200"].items()
    }
    assert rates == {"pricefeed": [500, 2_000], "another": [2_000]}


@needs_matplotlib
def test_every_bench_has_its_plots_and_the_page_needs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "all.jsonl"
    source.write_text("\n".join(ALL))
    assert plots.main([str(source), "--out", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert names == [
        "deliveries.png", "endtoend-cpu.png", "endtoend.png", "ingest.png", "latency.png"
    ]  # fmt: skip
    page = (tmp_path / "out" / "index.html").read_text()
    sources = re.findall(r'src="([^"]{22})', page)
    assert sources == ["data:image/png;base64,"] * 5
    assert page.count("cores 2") == 1 and "http" not in page


@needs_matplotlib
def test_nothing_to_draw_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.jsonl").write_text("no line\n")
    assert plots.main([str(tmp_path / "none.jsonl"), "--out", str(tmp_path)]) == 2
    assert plots.main([str(tmp_path / "absent.jsonl")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_without_matplotlib_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert plots.main([]) == 0
    assert "make plots" in capsys.readouterr().out
