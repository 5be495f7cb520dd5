"""A bot that loses its connection again and again has every trade of the tape once.

tape -> fake exchange -> runner -> Valkey -> two web processes -> the bot, which comes back to
either with ``since``. The reference is read from the raw text of the tape.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from websockets.asyncio.client import connect

from adapters import tape
from adapters.ingest import run_ingest
from adapters.playback import BUNDLED
from feed.bus import open_bus
from tests.test_end_to_end import DEADLINE_S, SETTINGS, Tap, catalogues_of, raw_trades, web

TAPE = BUNDLED / "binance_btcusdt_20240808.jsonl.gz"
TOPIC = "trade.binance.BTC-USDT"
RECONNECTS = 100
PLAY_S = 10.0


class Bot:
    """Remembers what it has, and nothing else, over its connections."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.seq = 0
        self.ids: list[str] = []
        self.reconnects = -1

    async def live(self, address: str, until_seq: int | None) -> None:
        """Live through one connection: to a random end, or until it has ``until_seq``."""
        self.reconnects += 1
        command = {
            "op": "subscribe",
            "topics": [TOPIC],
            "since": {TOPIC: self.seq},
            "status": False,
        }
        async with connect(address, max_size=None, compression=None, close_timeout=0.1) as socket:
            await socket.send(json.dumps(command))
            end = asyncio.get_running_loop().time() + self.rng.uniform(0.0, 0.1)
            try:
                while until_seq is None or self.seq < until_seq:
                    if until_seq is None:
                        async with asyncio.timeout_at(end):
                            message = await socket.recv()
                    else:
                        message = await socket.recv()
                    self.take(json.loads(message))
            except TimeoutError:
                pass
            if self.rng.random() < 0.7:
                socket.transport.abort()  # the cable, not a farewell

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribed":
            (result,) = message["results"]
            assert result["ok"] and result["recovered"] is True, message
        if message.get("topic") != TOPIC:
            return
        assert message["type"] == "trade", message
        assert self.seq in (0, message["seq"] - 1), (self.seq, message)
        self.seq = message["seq"]
        self.ids.append(message["id"])


def length_s(path: Path) -> float:
    times = [line.t for line in tape.read(path) if line.t is not None]
    return max(times) - min(times)


@pytest.mark.redis
async def test_a_bot_that_reconnects_a_hundred_times_has_every_trade_once(valkey_url: str) -> None:
    writer = Tap(open_bus(valkey_url, SETTINGS.retention))
    await writer.bus.start()
    bot = Bot(seed=1)
    try:
        for catalogue in await catalogues_of(TAPE):
            await writer.bus.put_catalogue(catalogue)
        async with (
            web(SETTINGS, open_bus(valkey_url, SETTINGS.retention)) as one,
            web(SETTINGS, open_bus(valkey_url, SETTINGS.retention)) as two,
            asyncio.timeout(DEADLINE_S),
        ):
            speed = f"{max(1.0, length_s(TAPE) / PLAY_S):.3f}"
            ingest = asyncio.create_task(
                run_ingest(SETTINGS, writer.bus, source="tape", tapes=[TAPE], speed=speed)
            )
            while not ingest.done() or bot.reconnects < RECONNECTS:
                await bot.live(bot.rng.choice((one, two)), None)
            await ingest
            await bot.live(one, writer.last[TOPIC])
    finally:
        await writer.bus.close()
    expected = [id for id, _, _, _ in raw_trades(TAPE)["BTCUSDT"]]
    assert bot.reconnects >= RECONNECTS
    assert len(expected) > 1_000 and bot.ids == expected
