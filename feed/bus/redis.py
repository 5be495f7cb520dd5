"""The bus on Redis or Valkey >= 7. Format: ``docs/bus.md``.

Entries are written by ``Writer`` and read by ``Reader``, over connections of their own; everything
that is asked now and then goes through redis-py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
from redis.exceptions import NoPermissionError, RedisError

from feed.backoff import delay
from feed.bus import keys
from feed.bus.address import parse_address
from feed.bus.base import (
    Beat,
    CatalogueChanged,
    Entry,
    Head,
    Notice,
    Retention,
    Sink,
    Watcher,
)
from feed.bus.endpoint import Endpoint, cancellable, reason_of
from feed.bus.reader import Reader
from feed.bus.resp import Connection, Subscriber
from feed.bus.writer import Writer
from feed.errors import BusError, ConfigError
from feed.models import Catalogue

log = logging.getLogger(__name__)

_OLDEST_SERVER = 7
#: Commands under way at once; each has a connection to itself.
_CONCURRENT = 16

_encode_catalogue = msgspec.json.Encoder().encode
_decode_catalogue = msgspec.json.Decoder(Catalogue).decode

# A lease is a hash: owner ('' when given back), epoch and expires, both µs. It is never deleted,
# because the epoch must not go backwards.
_ACQUIRE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'expires')
local owner, epoch, expires = lease[1] or '', tonumber(lease[2] or 0), tonumber(lease[3] or 0)
if owner ~= '' and owner ~= ARGV[1] and expires > now then return false end
epoch = string.format('%.0f', math.max(now, epoch + 1))
expires = string.format('%.0f', now + ARGV[2])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', epoch, 'expires', expires)
return epoch
"""
_RENEW = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local expires = string.format('%.0f', time[1] * 1000000 + time[2] + ARGV[2])
redis.call('HSET', KEYS[1], 'expires', expires)
return 1
"""
_RELEASE = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'owner', '', 'expires', 0)
return 1
"""


class RedisBus:
    """Implements ``feed.bus.base.Bus``.

    Args:
        url: See ``feed.bus.address``.
        timeout_s: Deadline of every exchange with the server, so also of noticing a frozen one
            when publishing. A publish of many megabytes is several exchanges.
        round_s, rounds: See ``Reader``. Sentinels are asked for the master once a round as well.

    Raises:
        ConfigError: The URL is none.
    """

    def __init__(
        self,
        url: str,
        retention: Retention,
        *,
        timeout_s: float = 2.0,
        round_s: float = 1.0,
        rounds: int = 3,
    ) -> None:
        self._address = parse_address(url)
        self._endpoint = Endpoint(self._address, timeout_s)
        self._writer = Writer(
            lambda: self._endpoint.connect(Connection, "feed-writer"), retention, timeout_s
        )
        self._reader = Reader(
            self._connect_reader,
            self._endpoint.probe,
            patterns=(f"{keys.BEAT_PREFIX}*".encode(),),
            on_pattern=self._take_beat,
            notify=self._tell,
            timeout_s=timeout_s,
            round_s=round_s,
            rounds=rounds,
        )
        self._round_s = round_s
        self._reader.sinks[keys.CATALOGUE_CHANGED.encode()] = self._take_announcement
        client = self._endpoint.client
        self._acquire = client.register_script(_ACQUIRE)
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)
        self._slots = asyncio.Semaphore(_CONCURRENT)
        self._started = False
        self._watcher: Watcher | None = None
        self._announced: set[str] = set()
        self._announcement = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._guide: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and check the server.

        Raises:
            ConfigError: The server is too old, or a TLS file cannot be read.
        """
        if self._address.tls:
            self._address.tls.context()
        self._started = True
        try:
            async with self._asking("connect"):
                await self._check_version()
        except (BusError, ConfigError):
            await self.close()
            raise
        if self._address.sentinels and self._guide is None:
            self._guide = asyncio.get_running_loop().create_task(
                self._follow_master(), name="bus master"
            )
        if self._watcher is not None:
            self.watch(self._watcher)

    async def close(self) -> None:
        self._started = False
        self._watcher = None
        for task in (self._follower, self._guide):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        await self._reader.close()
        await self._writer.close()
        await self._endpoint.close()

    async def publish(self, batch: Sequence[Entry], checkpoints: Sequence[Entry] = ()) -> None:
        self._require_started()
        await self._writer.publish(batch, checkpoints)

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        asked = list(topics)
        async with self._asking("read the heads") as client:
            pipeline = client.pipeline(transaction=False)
            for topic in asked:
                pipeline.execute_command("XREVRANGE", keys.stream_key(topic), "+", "-", "COUNT", 1)
            replies = await pipeline.execute()
        return {
            topic: head
            for topic, reply in zip(asked, replies, strict=True)
            if (head := keys.head_of(topic, reply)) is not None
        }

    async def acquire(self, exchange: str, owner: str, ttl_s: float) -> int | None:
        async with self._asking("acquire the lease"):
            epoch = await self._acquire([keys.lease_key(exchange)], [owner, int(ttl_s * 1e6)])
        return None if epoch is None else int(epoch)

    async def renew(self, exchange: str, owner: str, ttl_s: float) -> bool:
        async with self._asking("renew the lease"):
            return bool(await self._renew([keys.lease_key(exchange)], [owner, int(ttl_s * 1e6)]))

    async def release(self, exchange: str, owner: str) -> None:
        async with self._asking("release the lease"):
            await self._release([keys.lease_key(exchange)], [owner])

    async def beat(self, exchange: str) -> None:
        async with self._asking("beat") as client:
            await client.publish(keys.beat_channel(exchange), b"")

    async def put_catalogue(self, catalogue: Catalogue) -> None:
        async with self._asking("write the catalogue") as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.set(keys.catalogue_key(catalogue.exchange), _encode_catalogue(catalogue))
            pipeline.sadd(keys.CATALOGUES, catalogue.exchange)
            pipeline.publish(keys.CATALOGUE_CHANGED, catalogue.exchange)
            await pipeline.execute()

    async def catalogues(self) -> Mapping[str, Catalogue]:
        async with self._asking("read the catalogues") as client:
            exchanges = await client.smembers(keys.CATALOGUES)
        return await self._read_catalogues(sorted(name.decode() for name in exchanges))

    async def subscribe(self, topic: str, sink: Sink) -> None:
        self._require_started()
        await self._reader.subscribe(keys.channel(topic).encode(), sink)

    async def unsubscribe(self, topic: str) -> None:
        self._reader.unsubscribe(keys.channel(topic).encode())

    async def history(self, topic: str, after: int, limit: int | None = None) -> list[bytes]:
        return await self._range(topic, after, None, limit, newest=limit is not None)

    async def page(
        self,
        topic: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int,
        newest: bool = False,
    ) -> list[bytes]:
        return await self._range(topic, after, before, limit, newest)

    async def checkpoint(self, topic: str) -> bytes | None:
        async with self._asking("read the checkpoint") as client:
            payload: bytes | None = await client.get(keys.checkpoint_key(topic))
            return payload

    def watch(self, watcher: Watcher) -> None:
        self._watcher = watcher
        if self._started:
            self._reader.start()
            if self._follower is None:
                self._follower = asyncio.get_running_loop().create_task(
                    self._follow_catalogues(), name="bus catalogues"
                )

    async def _range(
        self, topic: str, after: int, before: int | None, limit: int | None, newest: bool
    ) -> list[bytes]:
        async with self._asking("read the history") as client:
            ids = keys.ids_between(after, before)
            if ids is None or (limit is not None and limit <= 0):
                return []
            count = () if limit is None else ("COUNT", min(limit, keys.MAX_COUNT))
            key, (low, high) = keys.stream_key(topic), ids
            if not newest:
                reply = await client.execute_command("XRANGE", key, low, high, *count)
                return keys.payloads_of(reply)
            reply = await client.execute_command("XREVRANGE", key, high, low, *count)
            return keys.payloads_of(reply)[::-1]

    def _require_started(self) -> None:
        if not self._started:
            raise BusError("this bus is not started, or closed")

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[Any]:
        """Hand out redis-py's client (it types few replies), and make its errors ours."""
        self._require_started()
        async with self._slots:
            try:
                with cancellable():
                    yield self._endpoint.client
            except (RedisError, OSError) as e:
                raise BusError(f"{self._address}: cannot {what}: {reason_of(e)}") from e

    async def _check_version(self) -> None:
        try:
            info = await self._endpoint.client.info("server")
        except NoPermissionError:
            return  # an account without INFO; the commands themselves will tell
        version = str(info["redis_version"])
        if int(version.partition(".")[0]) < _OLDEST_SERVER:
            raise ConfigError(
                f"{self._address} is version {version}; Redis or Valkey {_OLDEST_SERVER} is needed"
            )

    async def _read_catalogues(self, exchanges: Sequence[str]) -> dict[str, Catalogue]:
        found: dict[str, Catalogue] = {}
        if not exchanges:
            return found
        async with self._asking("read the catalogues") as client:
            texts = await client.mget([keys.catalogue_key(exchange) for exchange in exchanges])
        for exchange, text in zip(exchanges, texts, strict=True):
            try:
                if text is not None:
                    found[exchange] = _decode_catalogue(text)
            except msgspec.MsgspecError as e:
                # Somebody else's program may have written it; the others are still good.
                log.warning("the catalogue of %s cannot be read: %s", exchange, e)
        return found

    async def _connect_reader(self, factory: Callable[[], Subscriber]) -> Subscriber:
        # Whatever made an end of the former link may have done so to what commands use.
        await self._endpoint.renew()
        return await self._endpoint.connect(factory, "feed-reader")

    async def _follow_master(self) -> None:
        """Leave a former master in time, even if it still answers and takes what is written."""
        while True:
            await asyncio.sleep(self._round_s)
            try:
                self._writer.follow(await self._endpoint.present())
            except BusError as e:
                log.debug("cannot follow the master: %s", e)  # who needs it learns it by itself

    async def _follow_catalogues(self) -> None:
        """Read the catalogues that are announced; several announcements may be one reading."""
        attempt, rng = 0, Random()
        while True:
            await self._announcement.wait()
            self._announcement.clear()
            exchanges = sorted(self._announced)
            self._announced.clear()
            try:
                read = await self._read_catalogues(exchanges)
            except BusError as e:
                log.warning("%s; asking again", e)
                self._announced.update(exchanges)
                self._announcement.set()
                await asyncio.sleep(delay(attempt, rng, base_s=0.1, cap_s=2.0))
                attempt += 1
                continue
            attempt = 0
            for catalogue in read.values():
                self._tell(CatalogueChanged(catalogue))

    def _take_beat(self, channel: bytes, payload: bytes) -> None:
        self._tell(Beat(channel[len(keys.BEAT_PREFIX) :].decode(errors="replace")))

    def _take_announcement(self, payload: bytes) -> None:
        self._announced.add(payload.decode(errors="replace"))
        self._announcement.set()

    def _tell(self, notice: Notice) -> None:
        if self._watcher is not None:
            self._watcher(notice)
