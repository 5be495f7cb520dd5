"""Child process: picows, a send per client and message."""

from __future__ import annotations

import json
import logging
import sys
from collections import defaultdict

import uvloop
from picows import (  # type: ignore[import-not-found]
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

from bench.peers.bus import follow
from bench.processes import answer, say

_subscribers: defaultdict[str, set[WSTransport]] = defaultdict(set)


class Client(WSListener):  # type: ignore[misc]
    """One client."""

    def __init__(self) -> None:
        self._topics: list[str] = []

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        self._topics += json.loads(frame.get_payload_as_bytes())["topics"]
        for topic in self._topics:
            _subscribers[topic].add(transport)
        transport.send(WSMsgType.TEXT, b'{"type":"synced"}')

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for topic in self._topics:
            _subscribers[topic].discard(transport)


def _listener(request: WSUpgradeRequest) -> Client:
    return Client()


def _publish(topic: str, body: bytes) -> None:
    for transport in _subscribers[topic]:
        transport.send(WSMsgType.TEXT, body)


async def _serve(bus: str) -> None:
    server = await ws_create_server(_listener, "127.0.0.1", 0, backlog=4_096)
    await follow(bus, _publish)
    say({"port": server.sockets[0].getsockname()[1]})
    await answer({})


def main() -> None:
    logging.disable(logging.WARNING)  # one for each message after a client has left
    uvloop.run(_serve(json.loads(sys.argv[1])["bus"]))


if __name__ == "__main__":
    main()
