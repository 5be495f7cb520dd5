"""Every exchange's session as a tape: played through everything, it ends by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.ingest import run_ingest
from adapters.registry import REGISTRY
from feed.config import Settings
from tests.adapters.kit import recording_bus
from tests.adapters.recordings import folder
from tests.adapters.sessions import payload
from tests.adapters.tapes import captures

#: In their recordings pings are answered until the end.
PINGED = ("crypto-com", "htx", "htx-coin-swap", "htx-linear-swap")


def _tapes() -> Iterator[Any]:
    for name in REGISTRY:
        yield pytest.param(name, payload(name), id=name)
    for name in PINGED:
        for one in captures(folder(name).name, "session*.jsonl.gz"):
            yield pytest.param(name, *one.values, id=f"{name}-{one.id}", marks=one.marks)


@pytest.mark.parametrize(("name", "path"), list(_tapes()))
async def test_a_session_is_played_to_its_end(
    name: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the answer to a last ping finds the connection closed."""
    async with recording_bus() as bus, asyncio.timeout(60):
        settings = Settings()
        await run_ingest(settings, bus, source="tape", tapes=[path], exchange=name, speed="max")
        events = [one for one in bus.events() if one["topic"].split(".")[1] == name]
    assert {one["type"] for one in events} >= {"book", "depth", "quote", "status"}
    assert [one for one in events if one["type"] == "gap"] == []
    assert not [one for one in events if "invalid" in one.get("kinds", {}).values()]
    last = [one for one in events if one["topic"] == f"status.{name}.ALL"][-1]
    assert (last["state"], last["reason"]) == ("down", "tape_ended")
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []
