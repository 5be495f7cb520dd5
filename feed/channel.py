"""What a server and one of its workers say to one another, over a pair of sockets. I/O shell.

A packet is either one byte and a client's socket, or a message of ours in JSON.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from feed.metrics import Values

log = logging.getLogger("feed.channel")

_PACKET_BYTES = 65_536
_SOCKET = b"s"
#: Packets read in one turn of the loop.
_BATCH = 64
#: A worker that was not heard for a few of these stands still.
REPORT_S = 0.1
_SCRAPE_S = 3.0


class Report(msgspec.Struct, tag="report"):
    """How a worker is.

    Attributes:
        taken: Sockets that it was handed, when it last had time to count.
        connections: Those that were open then.
        is_ready: Able to serve more clients.
    """

    taken: int
    connections: int
    is_ready: bool


class Scrape(msgspec.Struct, tag="scrape"):
    """A worker wants the values of the whole server."""


class Ask(msgspec.Struct, tag="ask"):
    """The server wants a worker's values."""


class Answer(msgspec.Struct, tag="answer"):
    """The values of a worker, or to one: those of the whole server."""

    values: Values


Said: TypeAlias = Report | Scrape | Answer
Told: TypeAlias = Ask | Answer

_encode = msgspec.json.Encoder().encode
_decode_said = msgspec.json.Decoder(Said).decode
_decode_told = msgspec.json.Decoder(Told).decode


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a channel: packets stay whole, and neither end waits."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def hand_over(channel: socket.socket, client: socket.socket) -> bool:
    """Send a client's socket; whether the worker will find it."""
    try:
        socket.send_fds(channel, [_SOCKET], [client.fileno()])
    except OSError:  # it does not read, or is gone
        return False
    return True


def tell(channel: socket.socket, message: Told) -> None:
    """Tell a worker something; one that does not listen misses it."""
    _send(channel, message)


def _send(end: socket.socket, message: Said | Told) -> None:
    try:
        end.send(_encode(message))
    except OSError as e:  # that the other one is gone is read as the end
        log.debug("a message is not taken: %s", e)


def messages(channel: socket.socket) -> Iterator[Said | None]:
    """Yield what a worker has said by now; None at last where it is gone."""
    while True:
        try:
            data = channel.recv(_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            yield None
            return
        yield _decode_said(data)


class Channel:
    """The worker's end.

    Args:
        end: Inherited from the server.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._taken = 0
        self._counted = 0, 0
        self._timer: asyncio.TimerHandle | None = None
        self._scrape: asyncio.Future[Values] | None = None

    def open(
        self,
        take: Callable[[socket.socket], None],
        report: Callable[[], tuple[int | None, bool]],
        read: Callable[[], Values],
        gone: Callable[[], None],
    ) -> None:
        """Begin to take clients, and to report.

        Args:
            take: Gets each client's socket.
            report: Returns how many connections are open (None while some are half open, which
                would be counted wrongly), and whether there may be more.
            read: Returns the values of this worker.
            gone: Called when the server has ended.
        """
        self._loop = asyncio.get_running_loop()
        self._take, self._report, self._read_values, self._gone = take, report, read, gone
        self._loop.add_reader(self._end, self._read)
        self._say_how_we_are()

    def close(self) -> None:
        """Take nobody any more; what was counted so far is the last word."""
        if self._timer is not None:
            self._timer.cancel()
            self._loop.remove_reader(self._end)
            _send(self._end, Answer(self._read_values()))
        self._end.close()

    async def scrape(self) -> Values:
        """Return the values of the whole server.

        Raises:
            TimeoutError: It does not answer.
        """
        if self._scrape is None or self._scrape.done():
            self._scrape = self._loop.create_future()
        _send(self._end, Scrape())
        async with asyncio.timeout(_SCRAPE_S):
            return await asyncio.shield(self._scrape)

    def _say_how_we_are(self) -> None:
        connections, is_ready = self._report()
        if connections is not None:
            self._counted = self._taken, connections
        _send(self._end, Report(*self._counted, is_ready))
        self._timer = self._loop.call_later(REPORT_S, self._say_how_we_are)

    def _read(self) -> None:
        for _ in range(_BATCH):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._end, _PACKET_BYTES, 1)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(self._end)
                self._gone()
                return
            if data == _SOCKET:
                self._taken += 1
                for descriptor in descriptors:  # none where no more files may be open
                    self._take(socket.socket(fileno=descriptor))
                continue
            match _decode_told(data):
                case Ask():
                    _send(self._end, Answer(self._read_values()))
                case Answer(values):
                    if self._scrape is not None and not self._scrape.done():
                        self._scrape.set_result(values)
