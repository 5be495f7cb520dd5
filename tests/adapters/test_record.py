from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from adapters import registry, tape
from adapters.base import Adapter
from adapters.entry import Entry
from adapters.record import record
from adapters.recording import load
from adapters.replay import FakeExchange
from feed.config import Settings
from feed.errors import ConfigError
from tests.adapters.kit import eventually
from tests.adapters.toy import Toy, ToyVenue, delta, snapshot, trade


class ToyEntry(Entry, frozen=True):
    def load_adapter(self) -> type[Adapter]:
        return Toy

    def load_venue(self) -> type[ToyVenue]:
        return ToyVenue


@pytest.fixture(autouse=True)
def toy_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ToyEntry("", "", "", re.compile("/symbols|/ws"), None)
    monkeypatch.setitem(registry.REGISTRY, "toy", entry)


class Exchange:
    """Says a few things to whoever has subscribed to both streams of BTC-USD."""

    def __init__(self) -> None:
        self.said = 0

    @asynccontextmanager
    async def start(self) -> AsyncIterator[Server]:
        async with serve(
            self._talk, "127.0.0.1", 0, process_request=self._answer, compression=None
        ) as server:
            yield server

    async def _talk(self, socket: ServerConnection) -> None:
        for _ in range(2):
            await socket.recv()
            await socket.send('{"c":"ok"}')
        for frame in (delta("BTC-USD", 3), trade("BTC-USD", 1), b'{"c":"hb"}', b"\xff\x00"):
            await socket.send(frame)
            self.said += 1
        await socket.wait_closed()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        is_listing = request.path == "/symbols"
        body = '{"symbols":["BTC-USD"]}' if is_listing else snapshot("BTC-USD", 3)
        headers = Headers({"Content-Length": str(len(body)), "Connection": "close"})
        return Response(200, "OK", headers, body.encode())


def _settings(server: Server, **more: Any) -> Settings:
    port = next(iter(server.sockets)).getsockname()[1]
    return Settings(endpoints=(f"toy=http://127.0.0.1:{port}",), **more)


async def test_a_recorded_tape_plays_what_was_said(tmp_path: Path) -> None:
    out = tmp_path / "toy.jsonl.zst"
    stop = asyncio.Event()
    exchange = Exchange()
    async with exchange.start() as server:
        task = asyncio.create_task(record(_settings(server), "toy", out, stop=stop))
        await eventually(lambda: exchange.said == 4)
        stop.set()
        written = await task
    lines = list(tape.read(out))
    assert len(lines) == written
    assert [line.dir for line in lines][:2] == ["rest", "connect"]
    received = [line for line in lines if line.dir == "in"]
    assert len([line for line in lines if line.dir == "out"]) == 2
    raws = [line.raw for line in received if tape.is_text(line)]
    assert set(raws) <= {'{"c":"ok"}', delta("BTC-USD", 3), trade("BTC-USD", 1)}
    times = [line.t for line in lines]
    assert None not in times


async def test_frames_are_kept_exactly_whatever_they_are(tmp_path: Path) -> None:
    out = tmp_path / "toy.jsonl"
    stop = asyncio.Event()
    async with Exchange().start() as server:
        task = asyncio.create_task(record(_settings(server), "toy", out, stop=stop))
        await eventually(lambda: out.exists() and b"/wA=" in out.read_bytes())
        stop.set()
        await task
    received = [line for line in tape.read(out) if line.dir == "in"]
    assert [tape.body(line) for line in received[-2:]] == [b'{"c":"hb"}', b"\xff\x00"]
    assert [tape.is_text(line) for line in received] == [True] * 4 + [False] * 2
    bodies = [tape.body(line) for line in tape.read(out) if line.dir == "rest"]
    assert bodies == [b'{"symbols":["BTC-USD"]}', snapshot("BTC-USD", 3).encode()]
    # The adapter makes of the fake what it made of the exchange: its streams are there to ask for.
    kept = [line for line in tape.read(out) if line.raw_b64 is None]
    again = tmp_path / "again.jsonl"
    writer = tape.TapeWriter(again)
    for line in kept:
        writer.write(line)
    writer.close()
    recordings = load(again, "toy")
    assert {stream.channel for stream in recordings["toy"].streams} == {"book", "trade"}
    async with FakeExchange(recordings) as fake:
        assert fake.port > 0


async def test_an_exchange_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    settings = Settings(endpoints=("toy=http://127.0.0.1:9",))
    with pytest.raises(ConfigError, match="toy cannot be recorded"):
        await record(settings, "toy", tmp_path / "a.jsonl")


async def test_an_unknown_symbol_is_refused(tmp_path: Path) -> None:
    async with Exchange().start() as server:
        with pytest.raises(ConfigError, match="BTC-USDX.*BTC-USD"):
            await record(_settings(server, symbols=("BTC-USDX",)), "toy", tmp_path / "a.jsonl")
