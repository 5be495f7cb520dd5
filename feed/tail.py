"""``feed tail``: a client of the WebSocket protocol that draws a table or prints lines."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from feed.backoff import delay
from feed.errors import ConfigError

_DRAW_S = 0.2
_FLASH_S = 0.6
_MAX_BYTES = 1 << 24
_NOT_EVENTS = frozenset(
    {"welcome", "subscribed", "synced", "heartbeat", "closing", "error", "health", "options"}
)


def ws_url(url: str) -> str:
    """Return the WebSocket's address of a web process.

    Raises:
        ConfigError: Not an http(s) or ws(s) URL.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ConfigError(f"{url!r} is no address; write http://host:port")
    return f"{scheme}://{parts.netloc}/v1/ws"


async def messages(
    url: str, patterns: Sequence[str], hz: float | None
) -> AsyncIterator[dict[str, Any]]:
    """Yield every object the server sends; reconnects for ever, saying so on stderr."""
    command: dict[str, Any] = {"op": "subscribe", "id": 1, "topics": list(patterns)}
    if hz is not None:
        command["max_hz"] = hz
    attempt = 0
    rng = Random()
    while True:
        try:
            async with connect(ws_url(url), max_size=_MAX_BYTES, compression=None) as socket:
                await socket.send(json.dumps(command))
                async for raw in socket:
                    attempt = 0
                    yield json.loads(raw)
                code = socket.close_code or 1006
                if 4500 <= code or code in (1002, 1007, 1009):
                    raise ConfigError(f"the server ended this connection for good ({code})")
        except (OSError, WebSocketException) as e:
            click.echo(f"feed: {url}: {e}", err=True)
        await asyncio.sleep(delay(attempt, rng))
        attempt += 1


def _complain(message: dict[str, Any]) -> None:
    """Say what the server refused; end when it refused everything."""
    if message["type"] == "error":
        click.echo(f"feed: {message['code']}: {message['message']}", err=True)
    elif message["type"] == "subscribed":
        bad = [result for result in message["results"] if not result["ok"]]
        for result in bad:
            near = ", ".join(result.get("did_you_mean", ()))
            hint = f"; did you mean {near}?" if near else ""
            click.echo(f"feed: {result['topic']}: {result['message']}{hint}", err=True)
        if bad and len(bad) == len(message["results"]):
            raise ConfigError("nothing to show")


async def _until(stop: asyncio.Event, work: Any) -> None:
    """Run ``work`` until it ends or ``stop`` is set."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
    await asyncio.gather(stopped, return_exceptions=True)
    try:
        await task
    except asyncio.CancelledError:
        pass


async def print_lines(
    url: str, patterns: Sequence[str], hz: float | None, stop: asyncio.Event
) -> None:
    """Print every event, gap and snapshot as a line of JSON."""

    async def work() -> None:
        async for message in messages(url, patterns, hz):
            _complain(message)
            if message["type"] not in _NOT_EVENTS:
                sys.stdout.write(json.dumps(message, separators=(",", ":")) + "\n")
                sys.stdout.flush()

    await _until(stop, work())


class Board:
    """The newest event of each topic, as a table."""

    def __init__(self) -> None:
        self._events: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, float] = {}
        self._gaps: dict[str, int] = {}
        self._health: dict[str, str | None] = {}

    def take(self, message: dict[str, Any]) -> None:
        """Note one message."""
        topic = message.get("topic")
        if topic is None:
            return
        if message["type"] == "gap":
            self._gaps[topic] = self._gaps.get(topic, 0) + 1
        elif message["type"] == "snapshot":
            self._health[topic] = message["health"]
            if message["event"] is not None:
                self._events[topic] = message["event"]
                self._seen.setdefault(topic, 0.0)
        elif message["type"] == "status":
            _, exchange, symbol = topic.split(".", 2)
            for kind, health in message.get("kinds", {}).items():
                self._health[f"{kind}.{exchange}.{symbol}"] = health
            self._events[topic] = message
            self._seen[topic] = time.monotonic()
        else:
            self._events[topic] = message
            self._seen[topic] = time.monotonic()

    def table(self, patterns: Sequence[str]) -> Table | Text:
        """Draw what is known; nothing at all before the first event."""
        if not self._events:
            return Text()
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("topic", overflow="fold")
        # Folded where the terminal is narrow: a digit must never be cut off.
        table.add_column("", overflow="fold")
        table.add_column("age", justify="right", no_wrap=True, min_width=7)
        table.add_column("gaps", justify="right", no_wrap=True, min_width=4)
        now_us, now = time.time() * 1e6, time.monotonic()
        wants_status = any(pattern.startswith("status") for pattern in patterns)
        for topic in sorted(self._events):
            event = self._events[topic]
            if event["type"] == "status" and not wants_status:
                continue
            age = max(0.0, (now_us - event["recv"]) / 1e6)
            health = self._health.get(topic)
            style = "dim" if health not in (None, "live") else ""
            if not style and now - self._seen[topic] < _FLASH_S:
                style = "bold"
            note = f"{health} " if style == "dim" else ""
            table.add_row(
                topic,
                Text(note + summary(event), style),
                f"{age:.1f} s",
                str(self._gaps.get(topic, 0)),
            )
        return table


def summary(event: dict[str, Any]) -> str:
    """Return one line about an event; digits as they came."""
    match event["type"]:
        case "trade" | "liquidation":
            return f"{event['side'] or '':4} {event['size']} @ {event['price']}"
        case "quote":
            return f"{event['bid_size']} @ {event['bid']} | {event['ask']} @ {event['ask_size']}"
        case "depth" | "book":
            best = [side[0][0] if side else "-" for side in (event["bids"], event["asks"])]
            return (
                f"{len(event['bids'])} bids to {best[0]}, {len(event['asks'])} asks from {best[1]}"
            )
        case "ticker":
            return f"last {event['last']}  high {event['high']}  low {event['low']}"
        case "derivative":
            return f"mark {event['mark']}  index {event['index']}  funding {event['funding_rate']}"
        case "status":
            state = event.get("state") or " ".join(f"{k}:{v}" for k, v in event["kinds"].items())
            return f"{state}  {event['reason'] or ''}"
    return json.dumps(event)[:100]


async def show_table(
    url: str, patterns: Sequence[str], hz: float | None, stop: asyncio.Event
) -> None:
    """Draw the newest event of each topic, until stopped."""
    board = Board()
    console = Console()

    async def read() -> None:
        async for message in messages(url, patterns, hz):
            _complain(message)
            board.take(message)

    with Live(console=console, auto_refresh=False, screen=False) as live:

        async def draw() -> None:
            while True:
                live.update(board.table(patterns), refresh=True)
                await asyncio.sleep(_DRAW_S)

        drawing = asyncio.create_task(draw())
        try:
            await _until(stop, read())
        finally:
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)
            live.update(board.table(patterns), refresh=True)
