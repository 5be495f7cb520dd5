"""Plots of what the benches found, from their JSON lines: PNG files and one page that holds all.

    python -m bench.plots [build/bench/*.jsonl] [--out build/bench]

Lines come from files, or from standard input; what is no such line is passed over, so a bench's
whole output will do. Where two lines tell of the same thing the later one counts. Needs matplotlib,
which is no dependency of the project: ``make plots`` installs it and draws.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import msgspec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row: TypeAlias = dict[str, Any]

OURS = "pricefeed"
_Style: TypeAlias = Literal["-", "--", ":"]
_PERCENTILES: tuple[tuple[str, str, _Style], ...] = (
    ("p50_ms", "p50", "-"),
    ("p99_ms", "p99", "--"),
    ("p999_ms", "p99.9", ":"),
)
#: Okabe and Ito's, which colour-blind people can tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


class Line(msgspec.Struct):
    """What one run of a bench printed."""

    bench: str
    machine: dict[str, Any]
    rows: list[Row]


class Plot(NamedTuple):
    """One figure; ``name`` is its file's."""

    name: str
    title: str
    caption: str
    figure: Figure


_decode = msgspec.json.Decoder(Line).decode


def lines(texts: Iterable[str]) -> Iterator[Line]:
    """Yield the JSON lines among all lines."""
    for text in texts:
        if text.startswith("{"):
            try:
                yield _decode(text)
            except msgspec.DecodeError:
                continue


def gather(found: Iterable[Line]) -> dict[str, list[Row]]:
    """Return all rows by bench, each thing once: the latest."""
    rows: dict[str, dict[tuple[object, ...], Row]] = {}
    for line in found:
        for row in line.rows:
            key = (_server(row), row["name"], row.get("clients"), row.get("connections"))
            rows.setdefault(line.bench, {})[key] = row
    return {bench: list(by_name.values()) for bench, by_name in rows.items()}


def shape(row: Row) -> str:
    """Return what of a fan-out row's load is not its rate."""
    return re.sub(r",? [\d,]+/s", "", row["name"])


def loads(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Return shape -> server -> rows by rising rate, of shapes that were run at several."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: row["rate"]):
        found.setdefault(shape(row), {}).setdefault(_server(row), []).append(row)
    return {
        name: by_server
        for name, by_server in found.items()
        if any(len(points) > 1 for points in by_server.values())
    }


def draw(rows: Mapping[str, Sequence[Row]]) -> Iterator[Plot]:
    """Yield the plots that these rows allow."""
    if fanout := rows.get("fanout"):
        for i, (name, by_server) in enumerate(loads(fanout).items()):
            yield _latency(f"latency{i or ''}", name, by_server)
        yield _deliveries(fanout)
    if ingest := rows.get("ingest"):
        yield _frames(ingest)
    if endtoend := rows.get("endtoend"):
        yield _stages(endtoend)
        yield _cpu(endtoend)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _plain(axes: Axes, *which: str) -> None:
    """Write numbers as people do, on axes of logarithms too."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    for name in which:
        axis = axes.xaxis if name == "x" else axes.yaxis
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _latency(name: str, load: str, by_server: Mapping[str, Sequence[Row]]) -> Plot:
    from matplotlib.lines import Line2D

    figure, axes = _figure(8, 5)
    for colour, (_, rows) in zip(_colours(len(by_server)), by_server.items(), strict=True):
        rates = [row["rate"] for row in rows]
        for field, _, style in _PERCENTILES:
            values = [max(row[field], 0.01) for row in rows]
            axes.plot(rates, values, style, color=colour, linewidth=1.6)
            for row, rate, value in zip(rows, rates, values, strict=True):
                face = "white" if row.get("notes") or row["lost"] else colour
                axes.plot(rate, value, "o", color=colour, markerfacecolor=face, markersize=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted({row["rate"] for rows in by_server.values() for row in rows}))
    _plain(axes, "y")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_xlabel("events published, 1/s")
    axes.set_ylabel("latency from pub to client, ms")
    handles = [
        Line2D([], [], color=colour, marker="o", label=server)
        for colour, server in zip(_colours(len(by_server)), by_server, strict=True)
    ]
    handles += [
        Line2D([], [], color="#555555", linestyle=style, label=label)
        for _, label, style in _PERCENTILES
    ]
    handles.append(
        Line2D(
            [], [], color="#555555", linestyle="", marker="o", markerfacecolor="white",
            label="lost or in doubt",
        )
    )  # fmt: skip
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="best")
    title = f"Fan-out latency against load: {load}"
    axes.set_title(title, loc="left", fontsize=11)
    caption = (
        "Clients x topics each, of so many. Hollow points: entries were lost or the run was in "
        "doubt, see its notes."
    )
    return Plot(name, title, caption, figure)


def _deliveries(rows: Sequence[Row]) -> Plot:
    ordered = sorted(rows, key=lambda row: (shape(row), -row["rate"], row["deliveries_per_cpu_s"]))
    colours = _by_server(rows)
    figure, axes = _figure(8, 1.4 + 0.34 * len(rows))
    values = [row["deliveries_per_cpu_s"] for row in ordered]
    bars = axes.barh(range(len(rows)), values, color=[colours[_server(row)] for row in ordered])
    axes.set_yticks(range(len(rows)), _names(ordered), fontsize=8)
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
    axes.set_xlim(0, max(values) * 1.15)
    axes.locator_params(axis="x", nbins=6)
    _plain(axes, "x")
    axes.set_xlabel("deliveries per second of the server's CPU")
    title = "Fan-out: deliveries per CPU-second"
    axes.set_title(title, loc="left", fontsize=11)
    return Plot("deliveries", title, "More is better.", figure)


def _frames(rows: Sequence[Row]) -> Plot:
    colours = _by_server(rows)
    figure, axes = _figure(8, 1.2 + 0.4 * len(rows))
    values = [row["frames_per_s"] for row in rows]
    bars = axes.barh(range(len(rows)), values, color=[colours[_server(row)] for row in rows])
    axes.set_yticks(range(len(rows)), _names(rows), fontsize=8)
    parts = [f"{row['frames_per_s']:,.0f} ({_share(row)})" for row in rows]
    axes.bar_label(bars, parts, padding=3, fontsize=8)
    axes.set_xlim(0, max(values) * 1.25)
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=6)
    _plain(axes, "x")
    axes.set_xlabel("frames a second, one core")
    title = "Ingest: from raw frames to encoded events"
    axes.set_title(title, loc="left", fontsize=11)
    caption = (
        "Without sockets and bus. In brackets: as a part of decoding the JSON and nothing else."
    )
    return Plot("ingest", title, caption, figure)


def _share(row: Row) -> str:
    return f"{row['frames_per_s'] / row['floor_per_s']:.0%}"


def _stages(rows: Sequence[Row]) -> Plot:
    from matplotlib.lines import Line2D

    figure, axes = _figure(9, 5)
    stages = [stage["name"] for stage in rows[0]["stages"]]
    width = 0.8 / len(stages)
    for i, (stage, colour) in enumerate(zip(stages, _colours(len(stages)), strict=True)):
        for j, row in enumerate(rows):
            one = row["stages"][i]
            x = j - 0.4 + (i + 0.5) * width
            p50, p99, p999 = (max(one[field], 0.01) for field, _, _ in _PERCENTILES)
            axes.bar(x, p50, width * 0.9, color=colour, label=stage if j == 0 else None)
            axes.plot([x, x], [p50, p999], color=colour, linewidth=1.2)
            axes.plot(x, p99, "_", color=colour, markersize=11, markeredgewidth=2)
            axes.plot(x, p999, "^", color=colour, markersize=5)
    axes.set_yscale("log")
    _plain(axes, "y")
    axes.set_xticks(range(len(rows)), _paces(rows), fontsize=9)
    axes.grid(True, axis="y", which="major", color="#dddddd", linewidth=0.6)
    axes.set_ylabel("latency, ms")
    axes.set_xlabel("pace, and events a second that came through")
    handles, _ = axes.get_legend_handles_labels()
    marks = (("_", 11, "p99"), ("^", 5, "p99.9"))
    handles += [
        Line2D([], [], color="#555555", linestyle="", marker=marker, markersize=size, label=label)
        for marker, size, label in marks
    ]
    axes.legend(
        handles=handles, frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    clients = sorted({row["clients"] for row in rows})
    title = (
        f"End to end, stage by stage: {', '.join(map(str, clients))} clients, each on everything"
    )
    axes.set_title(title, loc="left", fontsize=11)
    return Plot(
        "endtoend",
        title,
        "Bar: p50, dash: p99, triangle: p99.9. The last stage is the whole way.",
        figure,
    )


def _paces(rows: Sequence[Row]) -> list[str]:
    """Return the paces as they stand below the bars, with the clients where they differ."""
    is_one = len({row["clients"] for row in rows}) == 1
    texts: list[str] = []
    for row in rows:
        lines = [row["name"], f"{row['events_per_s']:,.0f}/s"]
        lines += [] if is_one else [f"{row['clients']} clients"]
        lines += [f"{row['lost']:,} lost"] if row["lost"] else []
        texts.append("\n".join(lines))
    return texts


def _cpu(rows: Sequence[Row]) -> Plot:
    figure, axes = _figure(9, 4)
    processes = list(rows[0]["cpu"])
    below = [0.0] * len(rows)
    for process, colour in zip(processes, _colours(len(processes)), strict=True):
        values = [row["cpu"][process] for row in rows]
        axes.bar(range(len(rows)), values, 0.6, bottom=below, color=colour, label=process)
        for i, value in enumerate(values):
            if value >= 0.08:
                at = below[i] + value / 2
                axes.text(
                    i, at, f"{value:.0%}", ha="center", va="center", color="white", fontsize=8
                )
        below = [a + b for a, b in zip(below, values, strict=True)]
    axes.set_xticks(range(len(rows)), _paces(rows), fontsize=9)
    axes.set_ylabel("cores in use")
    axes.set_xlabel("pace, and events a second that came through")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], labels[::-1], frameon=False, fontsize=9,
        loc="center left", bbox_to_anchor=(1.0, 0.5),
    )  # fmt: skip
    title = "End to end: which process uses the CPU"
    axes.set_title(title, loc="left", fontsize=11)
    return Plot("endtoend-cpu", title, "The machine's cores are shared by all processes.", figure)


def _server(row: Row) -> str:
    return str(row.get("server", OURS))


def _names(rows: Sequence[Row]) -> list[str]:
    """Return the rows' names, with the server where there are several."""
    is_one = len({_server(row) for row in rows}) == 1
    return [row["name"] if is_one else f"{row['name']}  {_server(row)}" for row in rows]


def _by_server(rows: Sequence[Row]) -> dict[str, str]:
    servers = list(dict.fromkeys(map(_server, rows)))
    return dict(zip(servers, _colours(len(servers)), strict=True))


def _colours(n: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(n)]


def page(plots: Iterable[tuple[Plot, bytes]], machines: Iterable[Mapping[str, Any]]) -> str:
    """Return the page: every PNG inside it, nothing to be loaded."""
    facts = dict.fromkeys(
        ", ".join(f"{name} {value}" for name, value in one.items() if name != "load")
        for one in machines
    )
    parts = [
        f"<section><h2>{html.escape(plot.title)}</h2>"
        f'<img alt="{html.escape(plot.title)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<p>{html.escape(plot.caption)}</p></section>"
        for plot, png in plots
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>pricefeed benches</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem;color:#222;background:#fff}img{width:100%}h2{font-size:1.1rem}"
        "p{color:#555}</style><h1>pricefeed benches</h1>"
        + "".join(f"<p>{html.escape(fact)}</p>" for fact in facts)
        + "".join(parts)
        + "</html>\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; 2 where there is nothing to draw. Without matplotlib, say so and do nothing."""
    parser = argparse.ArgumentParser("bench.plots", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="JSON lines; none: standard input")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    given = parser.parse_args(arguments)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("plots skipped: matplotlib is not installed; `make plots` installs it and draws")
        return 0
    try:
        texts = [path.read_text().splitlines() for path in given.files] or [sys.stdin]
    except OSError as e:
        print(f"bench.plots: {e.filename}: {e.strerror}", file=sys.stderr)
        return 2
    found = [line for text in texts for line in lines(text)]
    given.out.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[Plot, bytes]] = []
    for plot in draw(gather(found)):
        buffer = io.BytesIO()
        plot.figure.savefig(buffer, format="png")
        (given.out / f"{plot.name}.png").write_bytes(buffer.getvalue())
        drawn.append((plot, buffer.getvalue()))
    if not drawn:
        print("bench.plots: no line of a bench that can be drawn", file=sys.stderr)
        return 2
    path = given.out / "index.html"
    path.write_text(page(drawn, [line.machine for line in found]))
    print(f"{len(drawn)} plots in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
