"""Child process: what one writes first. Starlette under uvicorn, a queue and a task per client."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import uvicorn
import uvloop
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.processes import answer, say
from feed.bus.base import HEADER_BYTES
from feed.bus.keys import channel

Queue = asyncio.Queue[str]


class Feed:
    """Topics, and the queues of who reads them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._queues: defaultdict[str, set[Queue]] = defaultdict(set)

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        reader = asyncio.create_task(self._read())
        yield
        reader.cancel()

    async def connected(self, websocket: WebSocket) -> None:
        """Serve one client."""
        await websocket.accept()
        queue: Queue = asyncio.Queue()
        sender = asyncio.create_task(self._send(websocket, queue))
        channels: set[str] = set()
        with suppress(WebSocketDisconnect):
            while True:
                for topic in json.loads(await websocket.receive_text())["topics"]:
                    channels.add(channel(topic))
                    self._queues[channel(topic)].add(queue)
                queue.put_nowait('{"type":"synced"}')
        sender.cancel()
        for name in channels:
            self._queues[name].discard(queue)

    async def _send(self, websocket: WebSocket, queue: Queue) -> None:
        with suppress(WebSocketDisconnect):
            while True:
                await websocket.send_text(await queue.get())

    async def _read(self) -> None:
        async with Redis.from_url(self._url) as redis, redis.pubsub() as pubsub:
            await pubsub.psubscribe(channel("*"))
            async for message in pubsub.listen():
                if message["type"] == "pmessage":
                    text = message["data"][HEADER_BYTES:].decode()
                    for queue in self._queues[message["channel"].decode()]:
                        queue.put_nowait(text)


async def _serve(bus: str) -> None:
    feed = Feed(bus)
    app = Starlette(routes=[WebSocketRoute("/{path:path}", feed.connected)], lifespan=feed.running)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="websockets-sansio",
        ws_ping_interval=None,  # every byte is counted
        log_level="warning",
    )
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0), backlog=4_096)
    serving = asyncio.create_task(server.serve([listening]))
    say({"port": listening.getsockname()[1]})
    await answer({})
    server.should_exit = True
    await serving


def main() -> None:
    uvloop.run(_serve(json.loads(sys.argv[1])["bus"]))


if __name__ == "__main__":
    main()
