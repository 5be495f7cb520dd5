"""A real Valkey for every test that asks: one a pytest process, emptied for each test."""

from collections.abc import Iterator

import pytest
from redis import Redis

from feed.bus.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[EmbeddedServer]:
    """The process's server; a test that ends or freezes one starts its own."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: EmbeddedServer) -> str:
    """The address of an empty server."""
    with Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server.url
