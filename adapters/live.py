"""Live ingest of one exchange: its listing, the selection, its connections. I/O shell."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from random import Random
from typing import Literal

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from adapters import registry
from adapters.base import Adapter, Stream
from adapters.publisher import Publisher
from adapters.replay import TAPE_PATH, streams_told
from adapters.rest import FetchFailed, Rest, is_local
from adapters.runner import Runner, address, endpoints
from adapters.selection import Selection, SymbolCheck, by_stream, by_symbol, wanted_kinds
from adapters.service import Context, publish
from adapters.status import StatusBoard
from adapters.tasks import now_us
from feed.backoff import delay
from feed.errors import BadPayload
from feed.models import Catalogue, Instrument

log = logging.getLogger(__name__)


class _Offer(msgspec.Struct, frozen=True):
    """What the exchange has.

    Attributes:
        listed: Its instruments; of a tape without a listing, those it has frames of.
        streams: Of a tape served as a fake exchange: all it has; else empty.
    """

    listed: list[Instrument]
    streams: frozenset[Stream] = frozenset()

    @property
    def source(self) -> Literal["live", "replay"]:
        return "replay" if self.streams else "live"


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
        self._offer: _Offer | None = None

    async def probe(self) -> None:
        """Prove that the exchange can be reached: its listing, and a WebSocket handshake.

        Raises:
            OSError, WebSocketException, FetchFailed, BadPayload: It cannot.
        """
        offer = await self._look()
        selection = self._select(offer)
        if selection.plans:
            async with Rest(self._rest_url, self._adapter.headers) as rest:
                url = await address(self._adapter, self._ws_url, rest) + selection.plans[0].path
            async with connect(
                url,
                additional_headers=self._adapter.headers,
                compression=None,
                max_size=self._adapter.limits.max_frame_bytes,
                close_timeout=1,
                proxy=None if is_local(url) else True,
            ):
                pass
        self._offer = offer

    async def run(self, check: SymbolCheck) -> None:
        """Publish the exchange for ever.

        Raises:
            ConfigError: A symbol asked for is listed by no exchange.
            Fenced, LeaseLost: Another process publishes the exchange.
        """
        offer = self._offer
        if offer is None:
            try:
                offer = await self._look()
            except (FetchFailed, BadPayload) as e:
                offer = await self._wait(e)
        check.report(self.name, offer.listed)
        selection = self._select(offer)
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
                is_tape=offer.source == "replay",
            ).run()
            await asyncio.Event().wait()  # nothing to connect to, but the listing stands

        await publish(
            self._context,
            selection.catalogue(self.name, offer.source, None, now_us()),
            feed,
            connections=len(selection.plans),
            threshold_ms=int(self._adapter.limits.silent_after_s * 1_000),
            goodbye=None,
        )

    async def _look(self) -> _Offer:
        """Ask the exchange what it has.

        Raises:
            FetchFailed, BadPayload: Its listing cannot be had.
        """
        async with Rest(self._rest_url, self._adapter.headers) as rest:
            streams: frozenset[Stream] = frozenset()
            if self._context.settings.endpoint(self.name) is not None:
                with suppress(FetchFailed):
                    streams = streams_told(await rest.get(TAPE_PATH), self.name)
            try:
                bodies = [await rest.get(path) for path in self._adapter.listing_paths]
            except FetchFailed:
                if not streams:
                    raise
                natives = sorted({stream.native for stream in streams})
                named = [self._adapter.instrument(native) for native in natives]
                return _Offer([one for one in named if one is not None], streams)
        return _Offer(self._adapter.instruments(bodies), streams)

    def _select(self, offer: _Offer) -> Selection:
        symbols = self._context.settings.symbols
        if offer.streams:
            return by_stream(self._adapter, offer.listed, offer.streams, symbols, self._kinds)
        return by_symbol(self._adapter, offer.listed, symbols, self._kinds)

    async def _wait(self, error: Exception) -> _Offer:
        """Say that the exchange is down, with all it carried before, until its listing comes."""
        log.warning("%s: no listing yet: %s", self.name, error)
        found: list[_Offer] = []

        async def feed(publisher: Publisher, board: StatusBoard) -> None:
            rng, attempt = Random(), 0
            while not found:
                await asyncio.sleep(delay(attempt, rng, base_s=1.0))
                attempt += 1
                try:
                    found.append(await self._look())
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
        return found[0]


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
