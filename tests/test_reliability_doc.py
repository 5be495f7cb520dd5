"""``docs/reliability.md`` names tests that exist, and leaves out no fault."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
TEXT = (TESTS.parent / "docs" / "reliability.md").read_text()
ROWS = re.findall(r"^\| (F?\d+) \| ([^|]+) \| ([^|]+) \|$", TEXT, re.MULTILINE)


@cache
def names(path: str) -> frozenset[str]:
    """Return the tests that a file defines; hypothesis' machines are plain names."""
    found = set()
    for node in ast.parse((TESTS / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(name for name in found if name.lower().startswith("test"))


def test_every_fault_has_one_row() -> None:
    faults = [str(n) for n in range(1, 49)]
    assert [number for number, _, _ in ROWS] == faults + [f"F{n}" for n in range(1, 9)]


@pytest.mark.parametrize(("number", "fault", "proofs"), ROWS, ids=[row[0] for row in ROWS])
def test_each_row_names_tests_that_exist_or_says_why_there_are_none(
    number: str, fault: str, proofs: str
) -> None:
    ids = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", proofs)
    if not ids:
        assert proofs.startswith("none: ") and len(proofs.split()) >= 5, f"{number} {fault}"
    for path, name in ids:
        assert (TESTS / path).is_file(), f"{number}: no {path}"
        assert names(path), f"{number}: {path} has no tests"
        if name:
            assert name in names(path), f"{number}: {path} has no {name}"
    assert len(ids) == proofs.count(".py"), f"{number}: {proofs}"


def test_the_commands_it_names_exist() -> None:
    for module in re.findall(r"`python -m (bench\.\w+)`", TEXT):
        assert (TESTS.parent / (module.replace(".", "/") + ".py")).is_file(), module
    makefile = (TESTS.parent / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`", TEXT):
        assert f"\n{target}:" in makefile, target
