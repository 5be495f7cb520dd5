"""What a server and one of its workers say to one another, over a pair of sockets. I/O shell.

A packet is either one byte and a client's socket, or a message of ours in JSON.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator

import msgspec

log = logging.getLogger("feed.channel")

_PACKET_BYTES = 65_536
_SOCKET = b"s"
#: Packets read in one turn of the loop.
_BATCH = 64
#: A worker that was not heard for a few of these stands still.
REPORT_S = 0.1


class Report(msgspec.Struct, tag="report"):
    """How a worker is.

    Attributes:
        taken: Sockets that it was handed so far.
        connections: Those that are open.
        is_ready: Able to serve more clients.
    """

    taken: int
    connections: int
    is_ready: bool


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Report).decode


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


def messages(channel: socket.socket) -> Iterator[Report | None]:
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
        yield _decode(data)


class Channel:
    """The worker's end.

    Args:
        end: Inherited from the server.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None

    def open(
        self,
        take: Callable[[socket.socket], None],
        report: Callable[[], tuple[int, bool]],
        gone: Callable[[], None],
    ) -> None:
        """Begin to take clients, and to report.

        Args:
            take: Gets each client's socket.
            report: Returns how many connections are open, and whether there may be more.
            gone: Called when the server has ended.
        """
        self._loop = asyncio.get_running_loop()
        self._take, self._report, self._gone = take, report, gone
        self._loop.add_reader(self._end, self._read)
        self._say_how_we_are()

    def close(self) -> None:
        """Take nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._loop.remove_reader(self._end)
        self._end.close()

    def _say_how_we_are(self) -> None:
        connections, is_ready = self._report()
        self._send(Report(self._taken, connections, is_ready))
        self._timer = self._loop.call_later(REPORT_S, self._say_how_we_are)

    def _send(self, message: Report) -> None:
        try:
            self._end.send(_encode(message))
        except OSError as e:  # it does not read; that it is gone is read as the end
            log.debug("the server does not listen: %s", e)

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
