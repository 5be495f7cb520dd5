"""The recent entries of one topic in an unbroken row: what resumes are served from. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

RING_BYTES = 1 << 20


class Ring:
    """Entries with nothing missing between them, oldest first.

    Whoever has ``floor``, or any position after it, misses nothing when given what follows.

    Args:
        count: Entries kept; up to an eighth more stay for a while, so that trimming costs little.
        max_bytes: Bytes of bodies kept, likewise.

    Attributes:
        floor: The position before the oldest entry.
        broken_at: ``floor`` as it was after the last hole; below it entries are lost here, and not
            only given up for lack of room.
        is_whole: Reaches as far back as the stream did when it was read.
        size: Bytes of bodies kept.
    """

    # Lists, not a deque: that finds its middle by walking, and a resume starts there.
    __slots__ = (
        "_bodies",
        "_count",
        "_full",
        "_heavy",
        "_max_bytes",
        "_seqs",
        "broken_at",
        "floor",
        "is_whole",
        "size",
    )

    def __init__(self, count: int, max_bytes: int = RING_BYTES) -> None:
        self._count = count
        self._full = count + (count >> 3)
        self._keep_bytes(max_bytes)
        self._seqs: list[int] = []
        self._bodies: list[bytes] = []
        self.size = 0
        self.floor = 0
        self.broken_at = 0
        self.is_whole = False

    def __len__(self) -> int:
        return len(self._seqs)

    def append(self, seq: int, body: bytes) -> None:
        """Add the entry that follows."""
        self._seqs.append(seq)
        self._bodies.append(body)
        self.size += len(body)
        if len(self._seqs) > self._full or self.size > self._heavy:
            self._trim()

    def restart(self, floor: int) -> None:
        """Forget everything: what comes next does not follow what is here."""
        self._seqs.clear()
        self._bodies.clear()
        self.size = 0
        self.floor = self.broken_at = floor
        self.is_whole = False

    def deepen(self, older: Sequence[tuple[int, bytes]], floor: int) -> None:
        """Put entries (position, body) that connect before the oldest one.

        They stay whatever their size, until ``relax``.

        Args:
            floor: The position before the first of them.
        """
        room = max(0, self._count - len(self))
        if room < len(older):
            cut = len(older) - room
            floor = older[cut - 1][0]
            older = older[cut:]
        if older:
            self._seqs[:0] = [seq for seq, _ in older]
            self._bodies[:0] = [body for _, body in older]
            self.size += sum(len(body) for _, body in older)
            self._keep_bytes(max(self._max_bytes, self.size))
            self.floor = self.broken_at = floor
        self.is_whole = True

    def relax(self, max_bytes: int = RING_BYTES) -> None:
        """Keep no more than the usual bytes again."""
        self._keep_bytes(max_bytes)
        if self.size > max_bytes:
            self._trim()

    def covers(self, since: int) -> bool:
        """Whether all that came after position ``since`` is here."""
        return self.floor <= since <= (self._seqs[-1] if self._seqs else self.floor)

    def after(self, since: int) -> Iterator[tuple[int, bytes]]:
        """Yield position and body of every entry after ``since``; nothing may change meanwhile."""
        at = bisect_right(self._seqs, since)
        return zip(islice(self._seqs, at, None), islice(self._bodies, at, None), strict=True)

    def before_newest(self, n: int) -> int:
        """Return the position after which the newest ``n`` entries (or all there are) follow."""
        at = len(self._seqs) - n
        return self._seqs[at - 1] if at > 0 else self.floor

    def _keep_bytes(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._heavy = max_bytes + (max_bytes >> 3)

    def _trim(self) -> None:
        """Give up the oldest down to the bounds."""
        end = max(0, len(self._seqs) - self._count)
        excess = self.size - self._max_bytes
        if excess > 0:
            sizes = accumulate(map(len, self._bodies))
            enough = next(n for n, size in enumerate(sizes, 1) if size >= excess)
            if enough > end:
                end = enough
                self.is_whole = False
        if end:
            self.floor = self._seqs[end - 1]
            self.size -= sum(map(len, self._bodies[:end]))
            del self._seqs[:end], self._bodies[:end]
