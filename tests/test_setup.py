"""The project's own set-up: what is locked, and what a built distribution contains."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from shutil import copytree, ignore_patterns

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parent.parent
LOCK = "".join(
    (REPO / name).read_text() for name in ("requirements.lock", "requirements-bench.lock")
)
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
PINS = dict(re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", LOCK, re.MULTILINE))


def declared() -> list[Requirement]:
    """Everything pyproject.toml asks for: to run, to test, to work on it, to build it."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *PROJECT["build-system"]["requires"], *sum(extras, [])]
    asked = [Requirement(line) for line in lines]
    return [r for r in asked if r.name != project["name"]]


def test_lock_pins_everything_declared_within_its_range() -> None:
    outside = [
        str(r)
        for r in declared()
        if not r.specifier.contains(PINS.get(canonicalize_name(r.name), "0"), prereleases=True)
    ]
    assert not outside, f"run make lock: {outside}"


def test_every_pin_of_the_lock_carries_hashes() -> None:
    pins = re.split(r"^(?=[a-z])", LOCK, flags=re.MULTILINE)[1:]
    assert len(pins) > 20
    assert [p.splitlines()[0] for p in pins if "--hash=sha256:" not in p] == []


def test_lock_names_no_index_and_no_path() -> None:
    assert not re.search(r"https?://|file:|--index-url|--find-links|(?<=\s)/\w+/", LOCK)


def test_what_only_plots_need_is_installed_by_nothing_else() -> None:
    assert "matplotlib" not in (REPO / "requirements.lock").read_text()


def test_command_feed_is_the_cli() -> None:
    (command,) = distribution("pricefeed").entry_points.select(group="console_scripts")
    assert (command.name, command.value) == ("feed", "feed.cli:main")


def test_wheel_holds_every_file_of_both_packages(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for package in ("feed", "adapters"):
        copytree(REPO / package, source / package, ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((REPO / name).read_bytes())
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    present = {
        path.relative_to(REPO).as_posix()
        for package in ("feed", "adapters")
        for path in (REPO / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name[0] != "."
    }
    assert packed == present
