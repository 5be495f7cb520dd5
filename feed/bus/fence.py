"""What it means that the bus refused an entry as not above the last one. Pure."""

from __future__ import annotations

from feed.bus.base import Entry, Head, unpack_header
from feed.errors import BusError, Fenced


def settle_refusal(entry: Entry, head: Head | None) -> None:
    """Return if ``entry`` had landed before, e.g. in a batch that was given again.

    Args:
        head: Where the topic stands now, read after the refusal.

    Raises:
        Fenced: A newer epoch has written to the topic.
        BusError: An older publisher is still ahead of us, or the stream has vanished since.
    """
    epoch, _ = unpack_header(entry.payload)
    if head is None:
        raise BusError(f"{entry.topic}: the stream vanished while it was being written")
    if head.epoch > epoch:
        raise Fenced(entry.topic, head.epoch)
    if head.epoch < epoch:
        # It wrote between our reading the heads and our first entry. Heads read anew put us above.
        raise BusError(
            f"{entry.topic}: an older publisher (epoch {head.epoch}) stands at {head.seq}, "
            f"not below our {entry.seq}; read the heads again"
        )
