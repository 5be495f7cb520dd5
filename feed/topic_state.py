"""What one web process knows of one topic somebody wants. Pure; time and payloads come in."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from feed.encoding import Encoding
from feed.models import Book, Gap
from feed.ring import Ring
from feed.topics import parse_topic
from feed.window import Window

if TYPE_CHECKING:
    from feed.backlog import Item
    from feed.outbox import Outbox, Queue

_GAP = b'{"type":"gap"'
_SHARED_US = 50_000  # rendered snapshots are shared for so long: their age_ms may be off by it
_decode_book = msgspec.json.Decoder(Book | Gap).decode
_decode_gap = msgspec.json.Decoder(Gap).decode
_encode = msgspec.json.Encoder().encode


class _Received(msgspec.Struct):
    recv: int


_decode_recv = msgspec.json.Decoder(_Received).decode


def received_at(event: bytes | None) -> int | None:
    """Return when an exchange's event was received, µs; None where it does not say."""
    try:
        return None if event is None else _decode_recv(event).recv
    except ValueError:  # somebody else's publisher left it out
        return None


class Entry(NamedTuple):
    """A payload taken apart."""

    epoch: int
    seq: int
    body: bytes


class Start(NamedTuple):
    """Where a client wants to begin in a topic that is new to it.

    Attributes:
        snapshot: With the current value, where nothing is resumed.
        since: After the last position it has; None where it has nothing.
        last: With so many of the newest entries.
    """

    snapshot: bool = True
    since: int | None = None
    last: int = 0


def _first_explained(seq: int, body: bytes) -> int:
    """Return the first position that the entry ``seq`` stands for.

    That is its own, but a restart's entry names unused positions up to it.
    """
    if body.startswith(_GAP):
        try:
            gap = _decode_gap(body)
        except ValueError:
            return seq
        if gap.cause == "publisher_restart" and gap.from_ is not None and gap.to == seq - 1:
            return min(seq, gap.from_)
    return seq


class Phase(Enum):
    """Whether the entries in hand connect."""

    FILLING = "filling"
    LIVE = "live"
    REPAIRING = "repairing"


class Audience:
    """Who wants a topic in one encoding. Ordered dicts: as fast to iterate as lists, O(1) to leave.

    Attributes:
        all: Outboxes that get every entry, and the queue of each.
        latest: Outboxes that get the newest value as soon as the socket takes it, and their values.
    """

    __slots__ = ("all", "encoding", "latest")

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.all: dict[Outbox, Queue] = {}
        self.latest: dict[Outbox, dict[TopicState, Item]] = {}


class TopicState:
    """Position, newest value, recent entries and (of a book) window of one topic.

    Args:
        keep: Entries that the ring keeps.

    Attributes:
        epoch, seq: Of the last entry applied; 0 where nothing was ever published.
        newest: Wire JSON of the newest value (not of gaps); None before the first.
        newest_seq: Its position.
        health: Of the topic as far as known; the relay keeps it.
        made_here: Of a status topic: what this server itself has found out since the newest value
            (a silent publisher or bus); None where the newest value holds.
        audiences: Who wants it, one an encoding in use.
        ring: Recent entries, up to ``seq``.
    """

    __slots__ = (
        "_newest_bodies",
        "_rendered",
        "audiences",
        "epoch",
        "health",
        "interest",
        "is_state",
        "kind",
        "made_here",
        "name",
        "newest",
        "newest_seq",
        "phase",
        "ring",
        "seq",
        "topic",
        "valid",
        "window",
    )

    def __init__(self, name: str, keep: int = 100) -> None:
        self.name = name
        self.ring = Ring(keep)
        self.topic = parse_topic(name)
        self.kind = self.topic.kind
        self.is_state = self.topic.is_state
        self.phase = Phase.FILLING
        self.epoch = 0
        self.seq = 0
        self.newest: bytes | None = None
        self.newest_seq = 0
        self.health: str | None = None
        self.made_here: bytes | None = None
        self.window = Window() if self.kind == "book" else None
        self.valid = False
        self.audiences: dict[str, Audience] = {}
        self.interest = 0
        self._newest_bodies: dict[str, tuple[int, bytes]] = {}
        self._rendered: dict[str, tuple[int, int, tuple[object, ...], bytes]] = {}

    def audience(self, encoding: Encoding) -> Audience:
        """Return who wants it in ``encoding``."""
        found = self.audiences.get(encoding.name)
        if found is None:
            found = self.audiences[encoding.name] = Audience(encoding)
        return found

    def has(self, epoch: int, seq: int) -> bool:
        """Whether this is a repeat, or comes from a publisher that has been replaced."""
        return epoch < self.epoch or (epoch == self.epoch and seq <= self.seq)

    def connects(self, epoch: int, seq: int, body: bytes) -> bool:
        """Whether nothing is missing before an entry that we do not have yet.

        A newer publisher's first entry names the positions it left unused, so it connects if it
        starts right after what we have.
        """
        if self.seq == 0:
            return True
        if epoch == self.epoch:
            return seq == self.seq + 1
        return self.seq + 1 == _first_explained(seq, body) < seq

    def advance(self, epoch: int, seq: int, body: bytes) -> bool:
        """Take the entry that follows; return whether it is a value (not a gap).

        A book entry that cannot be read makes the window invalid and is passed on as it is.
        """
        if seq != self.seq + 1 or epoch != self.epoch or seq == 1:
            if not self.connects(epoch, seq, body):
                self.ring.restart(seq - 1)
            elif self.seq == 0:
                self.ring.restart(_first_explained(seq, body) - 1)
        self.epoch = epoch
        self.seq = seq
        self.ring.append(seq, body)
        if self.window is not None:
            self._advance_window(self.window, body)
        if body.startswith(_GAP):
            return False
        self.newest = body
        self.newest_seq = seq
        self.made_here = None
        return True

    def _advance_window(self, window: Window, body: bytes) -> None:
        try:
            entry = _decode_book(body)
            if isinstance(entry, Gap):
                self.valid = False
            elif entry.snapshot:
                window.replace(entry.bids, entry.asks)
                self.valid = True
            elif self.valid:
                window.apply(entry.bids, entry.asks)
        except (ValueError, RecursionError):  # msgspec's, or a price that is no number
            self.valid = False

    def restore(self, epoch: int, seq: int, checkpoint: bytes) -> None:
        """Start a book from its checkpoint (JSON of the whole window as of ``seq``).

        Raises:
            ValueError: Not a book.
        """
        entry = _decode_book(checkpoint)
        if self.window is None or not isinstance(entry, Book):
            raise ValueError(f"{self.name}: the checkpoint is not a book")
        self.window.replace(entry.bids, entry.asks)
        self.epoch, self.seq, self.newest, self.valid = epoch, seq, checkpoint, True
        self.newest_seq = seq
        self.ring.restart(seq)

    def stand_at(self, epoch: int, seq: int) -> None:
        """Go on from a position up to which subscribers have everything, and the window has not."""
        self.epoch, self.seq, self.valid = epoch, seq, False
        self.ring.restart(seq)

    def deepen(self, entries: Sequence[Entry]) -> None:
        """Take what the stream holds into the ring, as far back as nothing is missing in it."""
        ring = self.ring
        older = [entry for entry in entries if entry.seq <= ring.floor]
        first = next(ring.after(ring.floor), None)
        # What the oldest in hand follows upon; a restart's entry reaches over unused positions.
        wanted = ring.floor if first is None else _first_explained(*first) - 1
        at = len(older)
        for entry in reversed(older):
            if entry.seq != wanted:
                break
            at -= 1
            wanted = _first_explained(entry.seq, entry.body) - 1
        ring.deepen([(entry.seq, entry.body) for entry in older[at:]], wanted)

    def resumes(self, since: int) -> bool:
        """Whether whoever has ``since`` can be given everything after it; 0: all that is kept."""
        return since == 0 or self.ring.covers(since)

    def reaches(self, start: Start) -> bool:
        """Whether the stream need not be read for a client that begins so."""
        ring = self.ring
        if ring.is_whole or self.seq == 0:
            return True
        if start.since is not None:
            return start.since > 0 and (start.since > self.seq or ring.covers(start.since))
        return len(ring) >= start.last

    def newest_body(self, encoding: Encoding) -> bytes:
        """Return the newest value in ``encoding``, converted at most once; there must be one."""
        assert self.newest is not None
        cached = self._newest_bodies.get(encoding.name)
        if cached is None or cached[0] != self.newest_seq:
            cached = (self.newest_seq, encoding.body(self.newest))
            self._newest_bodies[encoding.name] = cached
        return cached[1]

    def snapshot(self, encoding: Encoding, now: int) -> bytes:
        """Return the body of the ``snapshot`` frame as of now; shared while nothing changes."""
        cached = self._rendered.get(encoding.name)
        if cached is not None:
            seq, at, holds, body = cached
            if seq == self.seq and 0 <= now - at < _SHARED_US and holds == self._holds():
                return body
        body = encoding.body(self._snapshot_json(now))
        self._rendered[encoding.name] = (self.seq, now, self._holds(), body)
        return body

    def _holds(self) -> tuple[object, ...]:
        """Return what a snapshot says beside its position and the time."""
        return self.health, self.valid, self.made_here

    def _snapshot_json(self, now: int) -> bytes:
        event, age_ms, health = self.made_here or self.newest, b"null", self.health
        recv = received_at(event)
        if recv is not None:
            age_ms = b"%d" % max(0, (now - recv) // 1000)
        if self.window is not None:
            event = self._window_json(event) if self.valid else None
            health = health if self.valid else "invalid"
        return b'{"type":"snapshot","topic":%s,"seq":%d,"age_ms":%s,"health":%s,"event":%s}' % (
            _encode(self.name),
            self.seq,
            age_ms,
            _encode(health),
            event or b"null",
        )

    def _window_json(self, newest: bytes | None) -> bytes | None:
        if newest is None or self.window is None:
            return None
        last = _decode_book(newest)
        bids, asks = self.window.levels()
        return _encode(
            Book(self.name, self.seq, last.ts, last.recv, last.pub, bids, asks, snapshot=True)
        )
