"""An ingest process that keeps a ledger: ``python -m tests.torture.ingest LEDGER``.

It is ``feed ingest``, playing a tape over and over beside the ``sim`` exchange, with a bus that
writes down what it is given before it passes it on, and that it was taken afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from adapters.ingest import calm_collector, run_ingest
from adapters.tasks import stop_on_signals
from feed.bus.base import Entry, Retention
from feed.bus.redis import RedisBus
from feed.config import Settings
from feed.errors import FeedError
from tests.torture.ledger import LedgerWriter


class AccountedBus(RedisBus):
    """A bus whose every write stands in the ledger."""

    def __init__(self, url: str, retention: Retention, ledger: LedgerWriter) -> None:
        super().__init__(url, retention)
        self._ledger = ledger

    async def publish(self, batch: Sequence[Entry], checkpoints: Sequence[Entry] = ()) -> None:
        self._ledger.intend(batch)
        await super().publish(batch, checkpoints)
        self._ledger.acknowledge(batch)


async def _run(settings: Settings, ledger: Path) -> None:
    stop = stop_on_signals()
    bus = AccountedBus(settings.bus, settings.retention, LedgerWriter(ledger))
    await bus.start()
    try:
        await run_ingest(settings, bus, source="tape", speed="10", loop=True, stop=stop)
    finally:
        await bus.close()


def main() -> None:
    settings = Settings.from_env(os.environ)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    calm_collector()
    try:
        uvloop.run(_run(settings, Path(sys.argv[1])))
    except (FeedError, asyncio.CancelledError) as e:
        logging.error("ends: %s: %s", type(e).__name__, e)
        sys.exit(1)


if __name__ == "__main__":
    main()
