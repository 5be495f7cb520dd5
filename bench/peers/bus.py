"""I/O shell: how the peers in Python read the bus, as cheaply as can be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import hiredis

from feed.bus.base import HEADER_BYTES
from feed.bus.keys import channel

_EVERY = channel("*").encode()
_BEFORE, _, _AFTER = _EVERY.partition(b"*")
_TOPIC = slice(len(_BEFORE), -len(_AFTER))


class Reader(asyncio.Protocol):
    """Reads every topic.

    Args:
        publish: Given the topic and the JSON of each entry.
    """

    def __init__(self, publish: Callable[[str, bytes], None]) -> None:
        self._publish = publish
        self._replies = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        command = b"*2\r\n$10\r\nPSUBSCRIBE\r\n$%d\r\n%s\r\n" % (len(_EVERY), _EVERY)
        cast(asyncio.Transport, transport).write(command)

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False:
            if reply[0] == b"pmessage":
                self._publish(reply[2][_TOPIC].decode(), reply[3][HEADER_BYTES:])


async def follow(url: str, publish: Callable[[str, bytes], None]) -> None:
    """Start reading the server on a unix socket."""
    loop = asyncio.get_running_loop()
    path = url.removeprefix("unix://")
    await loop.create_unix_connection(lambda: Reader(publish), path)
