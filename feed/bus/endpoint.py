"""I/O shell: the server behind an address, as redis-py's client and as connections of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from feed.bus.address import Address
from feed.bus.probe import Taken, is_master
from feed.bus.resp import C, Connection, connect, pack, raise_refusal
from feed.errors import BusError


def _untouched(response: Any, **_: Any) -> Any:
    return response


def reason_of(error: Exception) -> str:
    """Return what redis-py's ``error`` says."""
    if isinstance(error, MasterNotFoundError):  # lists every option of every connection
        return "no sentinel knows the master"
    return str(error)


@contextmanager
def cancellable() -> Iterator[None]:
    """Raise the cancellation that came meanwhile, where redis-py has swallowed it.

    It sends by ``asyncio.wait_for``, and Python 3.11's forgets a cancellation that comes when the
    command is just sent. Who is cancelled once and goes on is waited for in vain.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


class Endpoint:
    """One server, or whichever the sentinels call the master.

    Attributes:
        client: redis-py for all that is not hot: RESP2, short deadlines, and no retries of its
            own, because only the caller knows what may be done twice.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._sentinel: Sentinel | None = None
        common: dict[str, Any] = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
        }
        login: dict[str, Any] = {
            "db": address.db,
            "username": address.username,
            "password": address.password,
        }
        if address.sentinels:
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's gap
                address.sentinels,
                sentinel_kwargs=common,
                **common,
                **login,
            )
            self.client: Redis = self._sentinel.master_for(address.service)
            self._pool: Any = self.client.connection_pool
        else:
            tls: dict[str, Any] = {}
            if address.tls:
                tls = {
                    "ssl": True,
                    "ssl_ca_certs": address.tls.ca_certs,
                    "ssl_certfile": address.tls.certfile,
                    "ssl_keyfile": address.tls.keyfile,
                    "ssl_cert_reqs": "required" if address.tls.verify else "none",
                    "ssl_check_hostname": address.tls.verify,
                }
            self.client = Redis(
                host=address.host,
                port=address.port,
                unix_socket_path=address.path,
                **login,
                **common,
                **tls,
            )
        for command in ("XRANGE", "XREVRANGE"):  # as hiredis made them, not dicts: 10 times faster
            self.client.set_response_callback(command, _untouched)

    async def connect(self, factory: Callable[[], C], name: str) -> C:
        """Open a connection of our own to the server, the present master if there are several.

        Raises:
            BusError: Nobody there, or we are refused.
        """
        address = await self._locate()
        connection = await connect(address, factory, self._timeout_s, name)
        connection.server = str(address)
        return connection

    async def present(self) -> str:
        """Return where a new connection leads now, as ``Connection.server`` has it.

        Raises:
            BusError: No sentinel knows a master.
        """
        return str(await self._locate())

    async def probe(self, channel: bytes, payload: bytes) -> Taken:
        """Publish over a connection made for it: one that was kept may lead to a former server.

        Raises:
            BusError: There is no way to the server, or it does not take it.
        """
        connection = await self.connect(Connection, "feed-probe")
        try:
            commands = pack(("HELLO",)) + pack(("PUBLISH", channel, payload))
            hello, receivers = await connection.execute(commands, 2, self._timeout_s)
        finally:
            await connection.close()
        raise_refusal((receivers,))
        return Taken(receivers, is_master(hello))

    async def renew(self) -> None:
        """Drop the idle connections of ``client``: where they lead may be no good any more."""
        with suppress(RedisError, OSError):  # of connections that were broken already
            await self.client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        await self.client.aclose()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()

    async def _locate(self) -> Address:
        if self._sentinel is None:
            return self._address
        try:
            # Drops idle connections of the client to a former master, too.
            with cancellable():
                host, port = await self._pool.get_master_address()
        except (RedisError, OSError) as e:
            raise BusError(f"{self._address}: {reason_of(e)}") from e
        return replace(self._address, host=host, port=port, sentinels=(), service="")
