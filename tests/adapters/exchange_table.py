"""Writes ``docs/exchanges.md`` from the adapters themselves and from what they are tested on.

    make docs

What an exchange's adapter can do is read from its class; what it was tested on is counted in the
recordings, those of the repository and, where they lie beside the checkout, the others. A test
compares the file with what would be written today.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from adapters import tape
from adapters.base import Adapter
from adapters.registry import REGISTRY
from tests.adapters.recordings import folder, retired
from tests.adapters.sessions import payload
from tests.adapters.tapes import CAPTURES, REPO

PAGE = REPO / "docs" / "exchanges.md"
_ORDER = ("trade", "quote", "book", "depth", "ticker", "derivative", "liquidation")
INTRO = """\
# Exchanges

What each adapter carries, what shows that something is missing, and what it was tested on. Made
from the adapters themselves by `make docs`; do not edit. How to add one:
[new-exchange.md](new-exchange.md).

`FEED_EXCHANGES` names those to run, `all` is every one; those marked * run where it says nothing.
A kind that has no entry under "what shows a loss" is either whole in each of its events, so that
the next one heals a loss, or the exchange gives nothing to notice a loss by: then a stream's
silence and every reconnect are what is declared.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def carries() -> str:
    """Return the table of what the adapters say of themselves."""
    rows = []
    for name, entry in sorted(REGISTRY.items()):
        cls = entry.load_adapter()
        limits = cls.limits
        proofs = "; ".join(f"{kind}: {cls.proofs[kind]}" for kind in _ORDER if kind in cls.proofs)
        has_backfill = cls.backfill is not Adapter.backfill
        rows.append(
            (
                f"`{name}`" + ("*" if entry.by_default else ""),
                " ".join(kind for kind in _ORDER if kind in cls.kinds),
                proofs or "none",
                cls.checksum or "none",
                "yes" if has_backfill else "no",
                f"{limits.frames_per_s:g} frames/s, {limits.streams_per_connection} streams a "
                f"connection, {limits.connects} connects in {limits.connects_window_s:g} s",
            )
        )
    head = (
        "exchange",
        "kinds",
        "what shows a loss",
        "checksum",
        "fetches missed trades",
        "pace",
    )
    return table(head, rows)


def ignored() -> str:
    rows = [
        (f"`{name}`", "; ".join(f"`{kind}`: {why}" for kind, why in sorted(cls.ignored.items())))
        for name, entry in sorted(REGISTRY.items())
        if (cls := entry.load_adapter()).ignored
    ]
    return table(("exchange", "left out: why"), rows)


def _received(path: Path) -> int:
    return sum(1 for line in tape.read(path) if line.dir == "in")


def _day(path: Path) -> str:
    """Return when a recording was made."""
    for line in tape.read(path):
        if line.t is not None:
            return f"{datetime.fromtimestamp(line.t, UTC):%Y-%m-%d}"
    return "made up"


def _sessions(name: str) -> Iterator[str]:
    for path in sorted(folder(name).glob("*.jsonl.gz")):
        why = retired(path)
        if why is None:
            yield f"session {_day(path)} ({_received(path):,} frames)"
        else:
            yield f"not the session of {_day(path)}: {why}"


def tested() -> str:
    """Return the table of what the adapters were tested on; needs the large recordings."""
    rows = []
    for name in sorted(REGISTRY):
        own = payload(name)
        found = folder(name) / "samples.jsonl"
        samples = _received(found) if found.exists() else 0
        found = folder(name) / "expected.jsonl"
        pairs = len(found.read_bytes().splitlines()) if found.exists() else 0
        others = [
            *_sessions(name),
            *([f"{samples} samples"] if samples else []),
            *([f"{pairs} pairs"] if pairs else []),
        ]
        rows.append((f"`{name}`", f"{_received(own):,} frames", "; ".join(others) or "none"))
    head = (
        "exchange",
        "in the repository",
        "recordings beside it (real sessions, single messages, pairs)",
    )
    return table(head, rows)


def page(today: date) -> str:
    return f"""{INTRO}
{carries()}
## Messages left out

{ignored()}
## What they were tested on

Last looked at: {today}. A session is a real one, every frame of it; samples and pairs are single
messages, the latter with what another project makes of them. The tests serve recordings over the
exchange's own protocol; none of them reaches a live exchange.

{tested()}"""


def undated(text: str) -> str:
    return re.sub(r"(?m)^Last looked at: [0-9-]+", "Last looked at", text)


def main() -> None:
    if not CAPTURES.exists():
        sys.exit(f"the recordings that the page tells of are not at {CAPTURES}")
    PAGE.write_text(page(datetime.now(UTC).date()))


if __name__ == "__main__":
    main()
