"""One write in the making: frames in order, entries batched where the client wants it. Pure."""

from __future__ import annotations

from feed.encoding import PIECE_BYTES, Encoding


class Piece:
    """Fills up to ``PIECE_BYTES``, or takes one frame larger than that.

    Attributes:
        room: Bytes that still fit.
    """

    __slots__ = ("_batch", "_encoding", "_frames", "_parts", "room")

    def __init__(self, encoding: Encoding, batch: bool) -> None:
        self.room = PIECE_BYTES - (16 if batch else 0)  # brackets and a longer header
        self._encoding = encoding
        self._batch = batch
        self._parts: list[bytes] = []
        self._frames: list[bytes] = []

    def fits(self, n: int, floor: int = 0) -> bool:
        """Whether ``n`` more bytes leave ``floor``; the first frame always fits."""
        return self.room - n >= floor or not (self._parts or self._frames)

    def add(self, frame: bytes) -> None:
        """Add an entry, which may share a frame with others."""
        self.room -= len(frame)
        self._frames.append(frame)

    def alone(self, frames: bytes) -> None:
        """Add frames that are sent as they are."""
        self._flush()
        self.room -= len(frames)
        self._parts.append(frames)

    def take(self) -> bytes:
        """Return the whole of it."""
        self._flush()
        return b"".join(self._parts)

    def _flush(self) -> None:
        if self._frames:
            self._parts += self._encoding.joined(self._frames) if self._batch else self._frames
            self._frames = []
