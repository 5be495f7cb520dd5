"""``python -m tests.torture [--seconds 120] [--seed N]``: strike, drain, check, print figures."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.torture.run import Outcome, torture

_KEPT = Path(__file__).parents[2] / "artifacts"
_SHOWN = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="make torture ARGS=…", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", action="store_true", help="keep logs and ledgers if it passes")
    options = parser.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    print(
        f"seed {seed}: make torture ARGS='--seconds {options.seconds:g} --seed {seed}'", flush=True
    )
    folder = Path(tempfile.mkdtemp(prefix="pricefeed-torture-"))
    outcome: Outcome | None = None
    try:
        outcome = uvloop.run(torture(seed, options.seconds, folder))
    finally:
        if outcome is None or outcome.wrong or options.keep:
            kept = _KEPT / f"torture-{seed}"
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(exist_ok=True)
            shutil.copytree(folder, kept)
            print(f"logs and ledgers: {kept}")
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in outcome.figures.items():
        print(f"{name:32} {value:>12,}")
    for line in outcome.wrong[:_SHOWN]:
        print(f"WRONG: {line}")
    if len(outcome.wrong) > _SHOWN:
        print(f"… and {len(outcome.wrong) - _SHOWN} more")
    print("FAIL" if outcome.wrong else "PASS")
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
