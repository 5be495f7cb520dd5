"""Tapes as the source of ingest: each served as a fake exchange that its adapter connects to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from math import inf
from pathlib import Path

import msgspec

from adapters import registry
from adapters.base import Adapter
from adapters.publisher import Publisher
from adapters.recording import Recording, listing_of, load
from adapters.replay import FakeExchange
from adapters.runner import Runner
from adapters.selection import Selection, SymbolCheck, by_stream, wanted_kinds
from adapters.service import Context, publish
from adapters.status import StatusBoard
from adapters.tasks import now_us, together
from feed.errors import BadPayload, ConfigError
from feed.models import Instrument

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "tapes"


def bundled() -> tuple[Path, ...]:
    """Return the tapes that come with the project."""
    return tuple(sorted(BUNDLED.glob("*.jsonl.gz")))


class Playback:
    """Some tapes, and what of them is played.

    Args:
        tapes: By path; several of one exchange must not carry the same topic.
        exchange: Whose they are, where they cannot tell.
        speed: None is as fast as taken.
        banner: Every user sees it.
        is_filtered: ``FEED_EXCHANGES`` and ``FEED_SYMBOLS`` narrow what is played.
    """

    def __init__(
        self,
        context: Context,
        tapes: Sequence[Path],
        *,
        exchange: str | None = None,
        speed: float | None = 1.0,
        loop: bool = False,
        banner: str | None = None,
        is_filtered: bool = True,
    ) -> None:
        self._context = context
        self._tapes = tapes
        self._exchange = exchange
        self._speed = speed
        self._loop = loop
        self._banner = banner
        self._is_filtered = is_filtered

    async def run(self) -> None:
        """Play all to their end, or for ever in a loop.

        Raises:
            ConfigError: A tape that cannot be read, or nothing left to play.
            Fenced, LeaseLost: Another process publishes the exchange.
        """
        names = self._context.settings.exchanges if self._is_filtered else ()
        found: dict[str, list[Recording]] = {}
        for path in self._tapes:
            # Reading takes a second where a tape is long; others on this loop go on meanwhile.
            loaded = await asyncio.to_thread(load, path, self._exchange, is_hint=True)
            for name, recording in loaded.items():
                if not names or name in names:
                    found.setdefault(name, []).append(recording)
        if not found:
            raise ConfigError("no tape of the exchanges asked for")
        symbols = self._context.settings.symbols if self._is_filtered else ()
        check = SymbolCheck(symbols, found)
        for name, recordings in found.items():
            adapter = registry.entry(name).load_adapter()
            check.report(name, [i for r in recordings for i in _instruments(adapter, r)])
        await together(
            *(self._play(name, recordings, symbols) for name, recordings in found.items())
        )

    async def _play(
        self, name: str, recordings: Sequence[Recording], symbols: Sequence[str]
    ) -> None:
        adapter = registry.entry(name).load_adapter()
        kinds = wanted_kinds(adapter, self._context.settings.kinds)
        selections = [
            by_stream(adapter, _listing(adapter, recording), recording.streams, symbols, kinds)
            for recording in recordings
        ]
        _check_disjoint(name, selections)

        async def feed(publisher: Publisher, board: StatusBoard) -> None:
            async with AsyncExitStack() as stack:
                runners: list[Runner] = []
                first_index = 0
                for recording, selection in zip(recordings, selections, strict=True):
                    asked = {stream for plan in selection.plans for stream in plan.streams}
                    fake = FakeExchange(
                        {name: recording},
                        speed=self._speed,
                        loop=self._loop,
                        expected={name: asked},
                    )
                    await stack.enter_async_context(fake)
                    runners.append(
                        self._runner(adapter, selection, fake, publisher, board, first_index)
                    )
                    first_index += len(selection.plans)
                await together(*(runner.run() for runner in runners))

        merged = _merged(selections)
        await publish(
            self._context,
            merged.catalogue(name, "replay", self._banner, now_us()),
            feed,
            connections=len(merged.plans),
            threshold_ms=None,
            goodbye="tape_ended",
        )

    def _runner(
        self,
        adapter: type[Adapter],
        selection: Selection,
        fake: FakeExchange,
        publisher: Publisher,
        board: StatusBoard,
        first_index: int,
    ) -> Runner:
        # The fake has no limits, and a tape's silences are what they are.
        limits = msgspec.structs.replace(
            adapter.limits, frames_per_s=inf, connects=1_000, silent_after_s=inf
        )
        return Runner(
            adapter,
            selection,
            fake.url.replace("http", "ws", 1),
            fake.url,
            publisher,
            board,
            first_index=first_index,
            counters=self._context.counters_of(adapter.name),
            limits=limits,
            ends=not self._loop,
            is_tape=True,
        )


def _listing(adapter: type[Adapter], recording: Recording) -> list[Instrument]:
    """Read the exchange's listing, where it was recorded whole; one of former years may be none."""
    bodies = listing_of(adapter.listing_paths, recording.venue, recording.bodies)
    try:
        return adapter.instruments(bodies) if bodies else []
    except BadPayload as e:
        log.warning("%s: instruments are told by their symbols alone: %s", adapter.name, e)
        return []


def _instruments(adapter: type[Adapter], recording: Recording) -> list[Instrument]:
    """Name what the tape has frames of."""
    natives = {stream.native for stream in recording.streams}
    listed = {one.native: one for one in _listing(adapter, recording)}
    named = (listed.get(native) or adapter.instrument(native) for native in sorted(natives))
    return [instrument for instrument in named if instrument is not None]


def _check_disjoint(name: str, selections: Sequence[Selection]) -> None:
    seen: set[str] = set()
    for selection in selections:
        if twice := sorted(seen & selection.topics):
            raise ConfigError(f"two tapes of {name} carry {twice[0]}")
        seen |= selection.topics


def _merged(selections: Sequence[Selection]) -> Selection:
    """Put several tapes' selections into one; of an instrument, the entry that is carried."""
    listed: dict[str, Instrument] = {}
    for selection in selections:
        for instrument in selection.listed:
            if instrument.topics or instrument.native not in listed:
                listed[instrument.native] = instrument
    return Selection(
        tuple(plan for selection in selections for plan in selection.plans),
        tuple(topics for selection in selections for topics in selection.carried),
        tuple(listed[native] for native in sorted(listed)),
        selections[0].kinds,
    )
