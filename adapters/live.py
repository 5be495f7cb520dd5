"""Live ingest of one exchange: its listing, the selection, its connections. I/O shell."""

from __future__ import annotations

import asyncio
import logging
from random import Random

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from adapters import registry
from adapters.base import Adapter
from adapters.publisher import Publisher
from adapters.rest import FetchFailed, Rest, is_local
from adapters.runner import Runner, endpoints
from adapters.selection import SymbolCheck, by_symbol, wanted_kinds
from adapters.service import Context, publish
from adapters.status import StatusBoard
from adapters.tasks import now_us
from feed.backoff import delay
from feed.errors import BadPayload
from feed.models import Catalogue, Instrument

log = logging.getLogger(__name__)


class LiveExchange:
    """One exchange, reached over its own protocol.

    Args:
        name: Ours.

    Raises:
        ConfigError: Unknown exchange or kind, or a bad endpoint.
    """

    def __init__(self, context: Context, name: str) -> None:
        self.name = name
        self._context = context
        self._adapter: type[Adapter] = registry.entry(name).load_adapter()
        settings = context.settings
        self._ws_url, self._rest_url = endpoints(self._adapter, settings.endpoint(name))
        self._kinds = wanted_kinds(self._adapter, settings.kinds)
        self._listing: list[Instrument] | None = None

    async def probe(self) -> None:
        """Prove that the exchange can be reached: its listing, and a WebSocket handshake.

        Raises:
            OSError, WebSocketException, FetchFailed, BadPayload: It cannot.
        """
        listing = await self._list()
        selection = by_symbol(self._adapter, listing, self._context.settings.symbols, self._kinds)
        if selection.plans:
            url = self._ws_url + selection.plans[0].path
            async with connect(
                url,
                compression=None,
                max_size=self._adapter.limits.max_frame_bytes,
                close_timeout=1,
                proxy=None if is_local(url) else True,
            ):
                pass
        self._listing = listing

    async def run(self, check: SymbolCheck) -> None:
        """Publish the exchange for ever.

        Raises:
            ConfigError: A symbol asked for is listed by no exchange.
            Fenced, LeaseLost: Another process publishes the exchange.
        """
        listing = self._listing
        if listing is None:
            try:
                listing = await self._list()
            except (FetchFailed, BadPayload) as e:
                listing = await self._wait_for_listing(e)
        settings = self._context.settings
        check.report(self.name, listing)
        selection = by_symbol(self._adapter, listing, settings.symbols, self._kinds)
        if not selection.plans:
            log.warning("%s lists none of the symbols asked for", self.name)

        async def feed(publisher: Publisher, board: StatusBoard) -> None:
            await Runner(
                self._adapter,
                selection,
                self._ws_url,
                self._rest_url,
                publisher,
                board,
                counters=self._context.counters_of(self.name),
            ).run()
            await asyncio.Event().wait()  # nothing to connect to, but the listing stands

        await publish(
            self._context,
            selection.catalogue(self.name, "live", None, now_us()),
            feed,
            connections=len(selection.plans),
            threshold_ms=int(self._adapter.limits.silent_after_s * 1_000),
            goodbye=None,
        )

    async def _list(self) -> list[Instrument]:
        async with Rest(self._rest_url) as rest:
            bodies = [await rest.get(path) for path in self._adapter.listing_paths]
        return self._adapter.instruments(bodies)

    async def _wait_for_listing(self, error: Exception) -> list[Instrument]:
        """Say that the exchange is down, with all it carried before, until its listing comes."""
        log.warning("%s: no listing yet: %s", self.name, error)
        found: list[Instrument] = []

        async def feed(publisher: Publisher, board: StatusBoard) -> None:
            rng, attempt = Random(), 0
            while not found:
                await asyncio.sleep(delay(attempt, rng, base_s=1.0))
                attempt += 1
                try:
                    found.extend(await self._list())
                except (FetchFailed, BadPayload) as e:
                    log.info("%s: no listing yet: %s", self.name, e)

        former = (await self._context.bus.catalogues()).get(self.name)
        empty = Catalogue(
            exchange=self.name,
            source="live",
            updated=0,
            instruments=(),
            topics=(f"status.{self.name}.ALL",),
        )
        catalogue = former if former is not None and former.source == "live" else empty
        await publish(
            self._context,
            msgspec.structs.replace(catalogue, updated=now_us()),
            feed,
            connections=0,
            threshold_ms=None,
            goodbye=None,
        )
        return found


async def any_reachable(exchanges: list[LiveExchange], within_s: float) -> bool:
    """Try all at once; return whether one could be reached in time."""

    async def probe(exchange: LiveExchange) -> bool:
        try:
            await exchange.probe()
        except (OSError, WebSocketException, FetchFailed, BadPayload) as e:
            log.info("%s cannot be reached: %s", exchange.name, e or type(e).__name__)
            return False
        return True

    tasks = [asyncio.create_task(probe(exchange)) for exchange in exchanges]
    try:
        async with asyncio.timeout(within_s):
            for next_one in asyncio.as_completed(tasks):
                if await next_one:
                    return True
    except TimeoutError:
        pass
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return False
