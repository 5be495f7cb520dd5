"""One exchange's publisher together with what feeds it: opening, health, goodbye. I/O shell."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import msgspec

from adapters.publisher import Publisher
from adapters.runner import Counters
from adapters.status import StatusBoard
from adapters.tasks import alongside, now_us
from feed.bus.base import Bus
from feed.config import Settings
from feed.errors import Fenced, LeaseLost
from feed.models import Catalogue, ExchangeStatus, SymbolStatus

Feed: TypeAlias = Callable[[Publisher, StatusBoard], Coroutine[Any, Any, None]]


class Context(msgspec.Struct, frozen=True):
    """What everything in an ingest process shares.

    Attributes:
        owner: This process's name in leases.
        counters: By exchange; filled as exchanges start.
        turn: Whoever writes to the bus has it.
    """

    settings: Settings
    bus: Bus
    owner: str
    counters: dict[str, Counters]
    turn: asyncio.Lock

    @classmethod
    def make(cls, settings: Settings, bus: Bus) -> Context:
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        return cls(settings, bus, owner, {}, asyncio.Lock())

    def counters_of(self, exchange: str) -> Counters:
        return self.counters.setdefault(exchange, Counters())


async def publish(
    context: Context,
    catalogue: Catalogue,
    feed: Feed,
    *,
    connections: int,
    threshold_ms: int | None,
    goodbye: str | None,
) -> None:
    """Publish one exchange for as long as ``feed`` runs, with its health from start to end.

    Args:
        goodbye: Reason told when ``feed`` has come to its end; None says nothing, because another
            ``publish`` follows. When cancelled, the reason is ``publisher_stopped``.

    Raises:
        Fenced, LeaseLost: Somebody else publishes the exchange now; nothing more was written.
    """
    settings = context.settings
    publisher = Publisher(
        context.bus,
        catalogue.exchange,
        owner=context.owner,
        lease_s=settings.lease_s,
        backlog_max_bytes=settings.backlog_max_bytes,
        backlog_max_s=settings.backlog_max_s,
        turn=context.turn,
    )
    await publisher.open(catalogue)
    board = StatusBoard(
        catalogue.exchange,
        catalogue.carried(),
        connections=connections,
        threshold_ms=threshold_ms,
        now=now_us(),
    )

    def tell(statuses: Sequence[SymbolStatus | ExchangeStatus]) -> None:
        now = now_us()
        for status in statuses:
            publisher.put(status, now)

    async def fed() -> None:
        await feed(publisher, board)
        await publisher.flushed()

    reason: str | None = "publisher_stopped"
    is_ours = True
    tell(board.everything(now_us()))
    try:
        await alongside(fed(), publisher.run())
        reason = goodbye
    except (Fenced, LeaseLost):
        is_ours = False
        raise
    finally:
        if is_ours:
            if reason is not None:
                tell(board.stopped(reason, now_us()))
            await publisher.close()
