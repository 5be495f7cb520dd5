"""What a bus must do, and the form of what crosses it (frozen: ``docs/bus.md``).

One entry is a stream id and a message at once: 16 bytes (epoch, seq; big-endian u64 each) and the
event's wire JSON, untouched from the encoder to the client's socket.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from feed.models import Catalogue

_HEADER = struct.Struct("!QQ")
HEADER_BYTES = _HEADER.size
pack_header = _HEADER.pack
unpack_header = _HEADER.unpack_from


class Head(NamedTuple):
    """Where a topic stands: the last entry's epoch (µs) and seq."""

    epoch: int
    seq: int


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One encoded entry, or the checkpoint of a book as of ``seq``.

    Attributes:
        payload: Header and wire JSON.
    """

    topic: str
    seq: int
    payload: bytes


class Beat(NamedTuple):
    """A publisher said that it is alive (every 500 ms)."""

    exchange: str


class CatalogueChanged(NamedTuple):
    """A publisher wrote its catalogue anew."""

    catalogue: Catalogue


class LinkDown(NamedTuple):
    """The reading link to the bus is lost or delivers nothing any more; it is being replaced."""

    reason: str


class LinkUp(NamedTuple):
    """A new link delivers (a probe came back) all topics again; anything may have been missed."""


Notice: TypeAlias = Beat | CatalogueChanged | LinkDown | LinkUp
#: Takes the payload of one message (header and JSON); called on the loop, must not block or raise.
Sink: TypeAlias = Callable[[bytes], None]
Watcher: TypeAlias = Callable[[Notice], None]


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries a stream keeps, by kind, and for how long an untouched one stays."""

    trade: int = 5_000
    liquidation: int = 1_000
    book: int = 2_000
    state: int = 100
    expire_s: int = 86_400

    def of(self, kind: str) -> int:
        match kind:
            case "trade":
                return self.trade
            case "liquidation":
                return self.liquidation
            case "book":
                return self.book
        return self.state


class Bus(Protocol):
    """The only place where ingest and web processes meet.

    Every coroutine raises ``BusError`` when the bus cannot be reached or refuses. Per topic,
    messages reach a sink in the order published; one may be missing or repeated around a lost
    link, never reordered: readers compare seqs.
    """

    async def start(self) -> None:
        """Connect; after it every other method may be used."""

    async def close(self) -> None:
        """Give back every connection and task. Safe to call twice."""

    async def publish(self, batch: Sequence[Entry], checkpoints: Sequence[Entry] = ()) -> None:
        """Append each entry to its stream and send it to its channel, in order; then checkpoints.

        Raises:
            BusError: Not known which of the batch landed; the same batch may be given again (an
                entry that landed before is sent, not appended, again).
            Fenced: An entry was refused because a newer epoch has written to its topic.
        """

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        """Return the last entry's position of each topic that has one, in one round trip."""

    async def acquire(self, exchange: str, owner: str, ttl_s: float) -> int | None:
        """Take the exchange's lease; return its new epoch, or None while another holds it.

        The epoch is ``max(bus clock in µs, former epoch + 1)``.
        """

    async def renew(self, exchange: str, owner: str, ttl_s: float) -> bool:
        """Prolong the lease; False if ``owner`` no longer holds it."""

    async def release(self, exchange: str, owner: str) -> None:
        """Give the lease back at once, if ``owner`` holds it. The epoch stays remembered."""

    async def beat(self, exchange: str) -> None:
        """Tell watchers that this exchange's publisher is alive."""

    async def put_catalogue(self, catalogue: Catalogue) -> None:
        """Replace the exchange's catalogue and announce it to watchers."""

    async def catalogues(self) -> Mapping[str, Catalogue]:
        """Return every exchange's catalogue."""

    async def subscribe(self, topic: str, sink: Sink) -> None:
        """Deliver the topic's messages to ``sink``; returns once the bus has confirmed it.

        One sink a topic; subscribing again replaces it. Kept over lost links.
        """

    async def unsubscribe(self, topic: str) -> None:
        """Deliver no more of the topic; unknown topics are ignored."""

    async def history(self, topic: str, after: int, limit: int | None = None) -> list[bytes]:
        """Return the payloads of retained entries with ``seq > after``, oldest first.

        With ``limit``, the newest so many of them.
        """

    async def page(
        self,
        topic: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int,
        newest: bool = False,
    ) -> list[bytes]:
        """Return the payloads of retained entries with ``after < seq < before``, oldest first.

        Args:
            before: None: to the end. Any number will do here and for ``after``.
            limit: At most so many; none if it is not positive.
            newest: The last ``limit`` of them (to page backwards), not the first.
        """

    async def checkpoint(self, topic: str) -> bytes | None:
        """Return the payload of the newest book checkpoint."""

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` of beats, catalogues and the link's state. One watcher a bus."""
