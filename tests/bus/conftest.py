"""One suite, two buses, both event loops (but for what takes seconds and breaks beyond them)."""

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Protocol

import pytest
import uvloop

from feed.bus.base import Bus, Retention
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.bus.redis import RedisBus
from tests.bus.helpers import Restartable

NO_RETENTION_GIVEN = Retention()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """Transports differ from loop to loop, and the connections build on them directly."""
    if item.path.stem in ("test_faults", "test_failover"):
        return {"uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class OpenBus(Protocol):
    def __call__(self, retention: Retention = NO_RETENTION_GIVEN) -> Awaitable[Bus]: ...


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def make_bus(request: pytest.FixtureRequest) -> Callable[[Retention], Bus]:
    """Make buses that meet at one broker, each as another process would have it."""
    if request.param == "memory":
        broker = MemoryBroker()
        return lambda retention: MemoryBus(broker, retention)
    url: str = request.getfixturevalue("valkey_url")
    return lambda retention: RedisBus(url, retention, timeout_s=10.0)


@pytest.fixture
async def open_bus(make_bus: Callable[[Retention], Bus]) -> AsyncIterator[OpenBus]:
    """Open started buses; all are closed after the test."""
    opened: list[Bus] = []

    async def open_one(retention: Retention = NO_RETENTION_GIVEN) -> Bus:
        bus = make_bus(retention)
        opened.append(bus)
        await bus.start()
        return bus

    yield open_one
    for bus in opened:
        await bus.close()


@pytest.fixture
async def bus(open_bus: OpenBus) -> Bus:
    return await open_bus()


@pytest.fixture
def own_server() -> Iterator[Restartable]:
    """A server that this test may freeze, kill and start again."""
    server = Restartable()
    yield server
    server.close()
