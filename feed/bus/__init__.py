"""The bus: how entries get from the publishers to every web process."""

from __future__ import annotations

from feed.bus.address import SCHEMES
from feed.bus.base import Bus, Retention
from feed.errors import ConfigError


def open_bus(url: str, retention: Retention) -> Bus:
    """Return the bus that ``url`` names, not started yet.

    ``memory://`` is a bus of its own each time: hand the one bus to everybody who shares it.

    Raises:
        ConfigError: An unknown scheme, or a URL that is none.
    """
    scheme = url.partition(":")[0].lower()
    if scheme == "memory":
        from feed.bus.memory import MemoryBroker, MemoryBus

        return MemoryBus(MemoryBroker(), retention)
    if scheme == "redis+cluster":
        raise ConfigError("redis+cluster:// is not supported yet; name one server, or sentinels")
    if scheme in SCHEMES:
        from feed.bus.redis import RedisBus

        return RedisBus(url, retention)
    known = ", ".join(("memory", *SCHEMES))
    raise ConfigError(f"unknown bus scheme {scheme!r}: one of {known}")
