"""Names on a Redis server, and how an entry is found in a reply. Pure; frozen: ``docs/bus.md``.

The braces are part of the name: in a cluster they put all that belongs to a topic on one node.
"""

from __future__ import annotations

import struct
from typing import Any

from feed.bus.base import Head, unpack_header
from feed.errors import BusError

#: Every exchange that ever wrote a catalogue (a set), so that nobody has to scan the key space.
CATALOGUES = "feed:catalogs"
#: A channel; its messages name an exchange whose catalogue was written anew.
CATALOGUE_CHANGED = "feed:catalog"
BEAT_PREFIX = "feed:beat:"

_MAX_SEQ = (1 << 64) - 1
#: The greatest COUNT a server takes.
MAX_COUNT = (1 << 63) - 1


def stream_key(topic: str) -> str:
    return f"feed:s:{{{topic}}}"


def channel(topic: str) -> str:
    return f"feed:c:{{{topic}}}"


def checkpoint_key(topic: str) -> str:
    return f"feed:book:{{{topic}}}"


def catalogue_key(exchange: str) -> str:
    return f"feed:catalog:{exchange}"


def beat_channel(exchange: str) -> str:
    return f"{BEAT_PREFIX}{exchange}"


def probe_channel(name: str) -> str:
    return f"feed:probe:{name}"


def lease_key(exchange: str) -> str:
    return f"feed:lease:{exchange}"


def ids_between(after: int, before: int | None) -> tuple[str, str] | None:
    """Return the bounds of ``after < seq < before`` as XRANGE takes them; None: nothing is there.

    The server knows no number outside of u64, and takes an empty interval for an error.
    """
    low = max(after, 0)
    if low >= _MAX_SEQ or (before is not None and before <= low + 1):
        return None
    return f"({low}-0", "+" if before is None or before > _MAX_SEQ else f"({before}-0"


def payloads_of(reply: Any) -> list[bytes]:
    """Return the payloads in the reply of XRANGE or XREVRANGE, in its order."""
    return [fields[1] for _, fields in reply]


def head_of(topic: str, reply: Any) -> Head | None:
    """Read the reply of ``XREVRANGE … COUNT 1``.

    Raises:
        BusError: What stands there is no entry of ours.
    """
    payloads = payloads_of(reply)
    if not payloads:
        return None
    try:
        return Head(*unpack_header(payloads[0]))
    except struct.error as e:
        raise BusError(f"{topic}: the last entry of {stream_key(topic)} has no header") from e
