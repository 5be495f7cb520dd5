"""A server's connection that takes the body of a POST, which the WebSocket library refuses."""

from __future__ import annotations

import re
from typing import Any

from websockets.asyncio.server import ServerConnection

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,6})(?=\r\n)", re.IGNORECASE)


class PostConnection(ServerConnection):
    """Holds the first request back until it is whole, and hands it on without its body.

    Attributes:
        posted: That body.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.posted = ""
        self._held: bytes | None = b""

    def data_received(self, data: bytes) -> None:
        if self._held is not None:
            self._held += data
            head, end, rest = self._held.partition(b"\r\n\r\n")
            length = _LENGTH.search(head + b"\r\n")
            size = int(length[1]) if length else 0
            if not end or len(rest) < size:
                return
            self.posted = rest[:size].decode(errors="replace")
            data = _LENGTH.sub(b"", head + end) + rest[size:]
            self._held = None
        super().data_received(data)
