"""Connections to Redis or Valkey that cost next to nothing a message (RESP2, hiredis).

``Connection`` sends joined commands and awaits as many replies; ``Subscriber`` reads pub/sub: no
await, no task and no queue between the socket and a sink. redis-py's ``PubSub`` takes ten times as
long a message, and hides lost connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, TypeVar, cast

import hiredis

from feed.bus.address import Address
from feed.bus.base import Sink
from feed.errors import BusError

#: Takes the parts of one command, bytes, text or numbers; its stub knows only 1-tuples.
pack: Callable[[tuple[bytes | str | int, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]

#: Called with (channel, payload) of what a pattern matched.
PatternSink = Callable[[bytes, bytes], None]


class Connection(asyncio.Protocol):
    """Commands in, replies out, in order; one caller at a time.

    Attributes:
        lost: Done once the connection is gone; its result says why.
        server: Where it leads, for who has several to choose from.
    """

    server = ""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._replies: list[Any] = []
        self._wanted = 0
        self._answered: asyncio.Future[None] = self._loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._reason = "closed by the server"

    async def execute(self, commands: bytes, replies: int, timeout_s: float) -> list[Any]:
        """Send ``commands`` in one write and return their replies; refusals are among them.

        A connection whose caller gave up is useless, as its replies would meet the next caller's:
        it is dropped on any error, also on cancellation.

        Raises:
            BusError: No connection any more, or not all replies within ``timeout_s``.
        """
        if self.lost.done() or self._transport is None:
            raise BusError(self._reason)
        try:
            async with asyncio.timeout(timeout_s):
                await self._writable.wait()
                self._wanted = replies
                self._answered = self._loop.create_future()
                self._transport.write(commands)
                await self._answered
        except TimeoutError as e:
            self.abort(f"no answer for {timeout_s:g} s")
            raise BusError(self._reason) from e
        except asyncio.CancelledError:
            self.abort("given up in the middle of a command")
            raise
        answer, self._replies = self._replies, []
        self._wanted = 0
        return answer

    def abort(self, reason: str = "closed") -> None:
        """Drop the connection at once, with what waits to be sent. Safe to call twice."""
        if not self.lost.done():
            self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Drop the connection and wait until its descriptor is given back."""
        self.abort()
        if self._transport is not None:
            await asyncio.wait((self.lost,))

    # What follows is called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do all of it, but are no subclass.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._take_replies(data)

    def _take_replies(self, data: bytes) -> None:
        replies = self._replies
        try:
            self._reader.feed(data)
            gets = self._reader.gets
            while (reply := gets()) is not False:
                replies.append(reply)
        except hiredis.ProtocolError as e:
            self.abort(f"not a Redis server: {e}")
            return
        if self._wanted and len(replies) >= self._wanted and not self._answered.done():
            self._answered.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        refusal = next((one for one in self._replies if isinstance(one, Exception)), None)
        if refusal is not None:  # said just before the door was shut: too many clients
            self._reason = str(refusal)
        elif exc is not None:
            self._reason = f"connection lost: {exc}"
        if not self.lost.done():
            self.lost.set_result(self._reason)
        if self._wanted and not self._answered.done():
            self._answered.set_exception(BusError(self._reason))
        self._writable.set()


class Subscriber(Connection):
    """Reads pub/sub after its handshake.

    Args:
        sinks: Channel -> who takes its payloads; the owner's, looked up for each message.
        on_pattern: Takes what the patterns matched.
        on_pong: Takes what was given to ``ping``, when it comes back.

    Attributes:
        heard: Set at everything received; cleared by whoever watches for silence.
    """

    def __init__(self, sinks: Mapping[bytes, Sink], on_pattern: PatternSink, on_pong: Sink) -> None:
        super().__init__()
        self.heard = False
        self._sinks = sinks
        self._on_pattern = on_pattern
        self._on_pong = on_pong
        self._asked: list[tuple[str, bytes]] = []
        self._confirmations: deque[asyncio.Future[bool]] = deque()

    def subscribe(self, channel: bytes) -> asyncio.Future[bool]:
        """Ask for a channel; the future tells True when confirmed, False if the link is lost."""
        return self._ask("SUBSCRIBE", channel)

    def unsubscribe(self, channel: bytes) -> asyncio.Future[bool]:
        return self._ask("UNSUBSCRIBE", channel)

    def psubscribe(self, pattern: bytes) -> asyncio.Future[bool]:
        return self._ask("PSUBSCRIBE", pattern)

    def ping(self, payload: bytes = b"") -> None:
        """Ask for a sign of life; whatever comes sets ``heard``."""
        if self._transport is not None and not self.lost.done():
            self._transport.write(pack(("PING", payload)))

    def _ask(self, verb: str, channel: bytes) -> asyncio.Future[bool]:
        confirmed: asyncio.Future[bool] = self._loop.create_future()
        if self.lost.done():
            confirmed.set_result(False)
            return confirmed
        if not self._asked:
            # What others ask for in this turn of the loop goes out in the same write.
            self._loop.call_soon(self._send_asked)
        self._asked.append((verb, channel))
        self._confirmations.append(confirmed)
        return confirmed

    def _send_asked(self) -> None:
        asked, self._asked = self._asked, []
        if self._transport is None or self.lost.done():
            return
        commands = (
            pack((verb, *(channel for _, channel in group)))
            for verb, group in groupby(asked, key=lambda pair: pair[0])
        )
        self._transport.write(b"".join(commands))

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._wanted:  # the handshake
            self._take_replies(data)
            return
        sinks = self._sinks
        try:
            self._reader.feed(data)
            gets = self._reader.gets
            while (reply := gets()) is not False:
                if type(reply) is list and reply[0] == b"message":
                    sink = sinks.get(reply[1])
                    if sink is not None:
                        sink(reply[2])
                else:
                    self._take_other(reply)
        except hiredis.ProtocolError as e:
            self.abort(f"not a Redis server: {e}")

    def _take_other(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            # One refusal answers a whole SUBSCRIBE; which confirmations are left is anyone's guess.
            self.abort(f"refused: {reply}")
            return
        match reply:
            case [b"pmessage", _, channel, payload]:
                self._on_pattern(channel, payload)
            case [b"pong", payload]:
                self._on_pong(payload)
            case [b"subscribe" | b"unsubscribe" | b"psubscribe", *_]:
                # One for each channel asked for, in the order asked.
                confirmed = self._confirmations.popleft()
                if not confirmed.done():  # its caller may have gone
                    confirmed.set_result(True)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for confirmed in self._confirmations:
            if not confirmed.done():
                confirmed.set_result(False)
        self._confirmations.clear()


C = TypeVar("C", bound=Connection)


async def connect(
    address: Address, factory: Callable[[], C], timeout_s: float, name: str = "feed"
) -> C:
    """Open a connection, say who we are and choose the database.

    Args:
        address: Of a server, not of sentinels.
        name: Shown by ``CLIENT LIST``.

    Raises:
        BusError: Nobody there, or we are refused.
    """
    loop = asyncio.get_running_loop()
    tls = address.tls.context() if address.tls else None
    try:
        async with asyncio.timeout(timeout_s):
            if address.path:
                _, connection = await loop.create_unix_connection(factory, address.path)
            else:
                _, connection = await loop.create_connection(
                    factory, address.host, address.port, ssl=tls
                )
    except TimeoutError as e:
        raise BusError(f"{address}: no connection within {timeout_s:g} s") from e
    except OSError as e:
        raise BusError(f"{address}: {e.strerror or e}") from e
    try:
        await _introduce(connection, address, timeout_s, name)
    except BusError as e:
        connection.abort()
        raise BusError(f"{address}: {e}") from e
    return connection


async def _introduce(connection: Connection, address: Address, timeout_s: float, name: str) -> None:
    needed: list[tuple[bytes | str | int, ...]] = []
    if address.password is not None:
        user = (address.username,) if address.username else ()
        needed.append(("AUTH", *user, address.password))
    needed.append(("SELECT", address.db))
    commands = [*map(pack, needed), pack(("CLIENT", "SETNAME", name))]
    replies = await connection.execute(b"".join(commands), len(commands), timeout_s)
    raise_refusal(replies[: len(needed)])  # a name is not worth failing for


def raise_refusal(replies: Iterable[Any]) -> None:
    """Raise the first refusal among ``replies`` as a ``BusError``."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise BusError(str(reply))
