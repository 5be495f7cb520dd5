"""The ingest process: which exchanges run, from where, onto which bus.

``run_ingest`` is what the command line calls. It serves all chosen exchanges until ``stop`` is set,
the tapes have ended or an error ends it:

- ``live``: each exchange's own sockets, or where ``FEED_ENDPOINTS`` points.
- ``tape``: each tape is served as a fake exchange inside this process, its adapter runs against
  it, and all ends with the tapes (or loops).
- ``auto`` (``feed run`` only): live, unless within ``REACH_S`` no exchange can be reached; then
  the bundled tapes in a loop, with a banner that says so.

The ``sim`` exchange runs beside any of them when it is chosen by name.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from adapters import registry
from adapters.live import LiveExchange, any_reachable
from adapters.playback import Playback, bundled
from adapters.publisher import Publisher
from adapters.replay import parse_speed
from adapters.selection import SymbolCheck
from adapters.service import Context, publish
from adapters.sim import Market, Simulator
from adapters.status import Input, StatusBoard
from adapters.tasks import now_us, together, until
from feed.bus.base import Bus
from feed.config import Settings

log = logging.getLogger(__name__)

Source: TypeAlias = Literal["live", "tape", "auto"]
#: How long ``auto`` tries to reach an exchange.
REACH_S = 10.0
NOT_REACHABLE = "REPLAY: no exchange reachable"


def calm_collector() -> None:
    """Let the cycle collector of an ingest process come less often.

    A frame makes and drops containers without cycles, and books keep many: measured on Binance's
    recordings, 4 % more frames a second than with the defaults, as many as without a collector.
    """
    gc.set_threshold(50_000, 50, 100)


async def run_ingest(
    settings: Settings,
    bus: Bus,
    *,
    source: Source = "live",
    tapes: Sequence[Path] = (),
    exchange: str | None = None,
    speed: str = "1",
    loop: bool = False,
    stop: asyncio.Event | None = None,
    on_banner: Callable[[str], None] | None = None,
) -> None:
    """Ingest until stopped, or until the tapes end.

    However it ends, health says ``down`` first, leases are given back and every socket is closed.

    Args:
        bus: Started; it stays open.
        tapes: For ``tape``; for ``auto`` instead of the bundled ones. Without any, ``tape`` plays
            the bundled ones.
        exchange: Whose the tapes are, where they cannot tell.
        speed: Of tapes: ``1``, a factor, or ``max``.
        loop: Tapes start over at their end (in ``auto`` always).
        stop: Set it to end well; cancelling does the same.
        on_banner: Is told the banner, if ``auto`` falls back to tapes.

    Raises:
        ConfigError: Something the operator must change (exit code 2).
        Fenced, LeaseLost: Another process has taken an exchange over (exit code 1).
    """
    context = Context.make(settings, bus)
    ingest = _ingest(context, source, tapes, exchange, parse_speed(speed), loop, on_banner)
    await until(stop or asyncio.Event(), ingest)


async def _ingest(
    context: Context,
    source: Source,
    tapes: Sequence[Path],
    exchange: str | None,
    speed: float | None,
    loop: bool,
    on_banner: Callable[[str], None] | None,
) -> None:
    if exchange is not None:
        registry.entry(exchange)
    chosen = registry.chosen(context.settings.exchanges)
    names = [name for name in chosen if name != registry.SIM]
    parts = [_sim(context)] if registry.SIM in chosen else []
    if names:
        if source == "tape":
            playback = Playback(
                context, tapes or bundled(), exchange=exchange, speed=speed, loop=loop
            )
            parts.append(playback.run())
        else:
            exchanges = [LiveExchange(context, name) for name in names]
            if source == "live" or await any_reachable(exchanges, REACH_S):
                check = SymbolCheck(context.settings.symbols, names)
                parts.extend(one.run(check) for one in exchanges)
            else:
                log.warning(NOT_REACHABLE)
                if on_banner is not None:
                    on_banner(NOT_REACHABLE)
                fallback = Playback(
                    context,
                    tapes or bundled(),
                    exchange=exchange,
                    speed=speed,
                    loop=True,
                    banner=NOT_REACHABLE,
                    is_filtered=False,
                )
                parts.append(fallback.run())
    await together(*parts)


async def _sim(context: Context) -> None:
    settings = context.settings
    market = Market(settings.sim_symbols, settings.sim_kinds)
    catalogue = market.catalogue(now_us())

    async def feed(publisher: Publisher, board: StatusBoard) -> None:
        now = now_us()
        for status in board.topics(catalogue.carried(), Input.FED, None, now):
            publisher.put(status, now)
        for whole in board.connection(0, Input.FED, None, now):
            publisher.put(whole, now)
        await Simulator(market, settings.sim_rate).run(publisher)

    await publish(
        context, catalogue, feed, connections=1, threshold_ms=None, goodbye="publisher_stopped"
    )
