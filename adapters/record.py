"""Records what an exchange sends, and what we ask of it, as a tape. I/O shell.

The runner's own connections are tapped: a tape holds exactly what the adapter was given. Nothing is
published.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import msgspec

from adapters import registry
from adapters.base import TapeLine
from adapters.rest import FetchFailed, Rest
from adapters.runner import Counters, Runner, endpoints
from adapters.selection import SymbolCheck, by_symbol, wanted_kinds
from adapters.status import StatusBoard
from adapters.tape import TapeWriter
from adapters.tasks import alongside, now_us, until
from feed.config import Settings
from feed.errors import BadPayload, ConfigError
from feed.models import Book, Event

FLUSH_EVERY_S = 2.0


class Recorder:
    """Writes what crosses the sockets; implements ``Tap``."""

    def __init__(self, writer: TapeWriter) -> None:
        self._writer = writer

    def connected(self, conn: str, url: str) -> None:
        self._writer.write(TapeLine(dir="connect", t=_seconds(now_us()), conn=conn, url=url))

    def received(self, conn: str, recv: int, frame: bytes, is_text: bool) -> None:
        line = TapeLine("in", _seconds(recv), conn, frame=None if is_text else "binary")
        try:
            line = msgspec.structs.replace(line, raw=frame.decode())
        except UnicodeDecodeError:
            raw_b64 = base64.b64encode(frame).decode()
            line = msgspec.structs.replace(line, raw_b64=raw_b64, enc="bytes", frame=None)
        self._writer.write(line)

    def sent(self, conn: str, at: int, frame: str) -> None:
        self._writer.write(TapeLine("out", _seconds(at), conn, raw=frame))

    def answered(self, url: str, recv: int, body: bytes) -> None:
        raw = body.decode(errors="replace")
        self._writer.write(TapeLine("rest", _seconds(recv), "http", url, raw))

    async def flush(self) -> None:
        """Flush for ever, so that a kill costs a few seconds at most."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            self._writer.flush()


class _Nowhere:
    """A sink for events that nobody needs."""

    is_full = False

    def put(self, event: Event, now: int) -> None:
        pass

    def checkpoint(self, book: Book, now: int) -> None:
        pass

    async def drain(self) -> None:
        pass


async def record(
    settings: Settings, exchange: str, out: Path, *, stop: asyncio.Event | None = None
) -> int:
    """Record the exchange's chosen symbols and kinds until stopped; return the lines written.

    Raises:
        ConfigError: Unknown exchange, symbol or kind, a file that cannot be written, or an
            exchange that cannot be reached.
    """
    adapter = registry.entry(exchange).load_adapter()
    kinds = wanted_kinds(adapter, settings.kinds)
    ws_url, rest_url = endpoints(adapter, settings.endpoint(exchange))
    writer = TapeWriter(out)
    recorder = Recorder(writer)
    try:
        bodies: list[bytes] = []
        async with Rest(rest_url, adapter.headers) as rest:
            for path in adapter.listing_paths:
                bodies.append(await rest.get(path))
                recorder.answered(rest_url + path, now_us(), bodies[-1])
        listing = adapter.instruments(bodies)
        SymbolCheck(settings.symbols, [exchange]).report(exchange, listing)
        selection = by_symbol(adapter, listing, settings.symbols, kinds)
        board = StatusBoard(
            exchange,
            selection.topics,
            connections=len(selection.plans),
            threshold_ms=None,
            now=now_us(),
        )
        runner = Runner(
            adapter,
            selection,
            ws_url,
            rest_url,
            _Nowhere(),
            board,
            counters=Counters(),
            tap=recorder,
        )
        await until(stop or asyncio.Event(), alongside(runner.run(), recorder.flush()))
    except (FetchFailed, BadPayload) as e:
        raise ConfigError(f"{exchange} cannot be recorded: {e}") from e
    finally:
        writer.close()
    return writer.lines


def _seconds(at: int) -> float:
    return at / 1_000_000
