"""Gives each topic its ``seq`` and encodes each event once. Pure; one per exchange and epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
from msgspec.structs import force_setattr

from feed.bus.base import Entry, Head, pack_header
from feed.models import Book, Event, Gap

_encode = msgspec.json.Encoder().encode


class Sequencer:
    """Stamps events with ``seq`` and ``pub``: +1 an entry, for ever upwards.

    A topic starts at ``max(epoch, last seq + 2)``: above everything ever published there, with at
    least one unused position, which the restart entry names.

    Args:
        epoch: From the exchange's lease, µs.
        heads: Where the topics stood on the bus when the lease was won.
    """

    def __init__(self, epoch: int, heads: Mapping[str, Head]) -> None:
        self.epoch = epoch
        self._last = {topic: max(epoch, head.seq + 2) - 1 for topic, head in heads.items()}
        self._heads = dict(heads)

    def restart(self, now: int, proven: Collection[str] = ()) -> list[Entry]:
        """Return the first entry of every topic that existed before: the fence of the takeover.

        Args:
            proven: Topics of which it is known that no event is missing.
        """
        entries = []
        for topic, head in self._heads.items():
            lost = 0 if topic in proven else None
            last = self._last[topic]
            gap = Gap(topic, 0, None, now, 0, "publisher_restart", lost, head.seq + 1, last)
            entries.append(self.stamp(gap, now))
        return entries

    def stamp(self, event: Event, now: int) -> Entry:
        """Give ``event`` the next position of its topic and encode it.

        Args:
            now: µs; becomes ``pub``.
        """
        topic, last = event.topic, self._last
        seq = last[topic] + 1 if topic in last else self.epoch
        last[topic] = seq
        # Measured: two force_setattr cost 0.1 µs, what msgspec.structs.replace costs is 0.4.
        force_setattr(event, "seq", seq)
        force_setattr(event, "pub", now)
        return Entry(topic, seq, pack_header(self.epoch, seq) + _encode(event))

    def checkpoint(self, window: Book, now: int) -> Entry:
        """Encode the whole window of a book as of the topic's last entry; takes no position."""
        seq = self._last[window.topic]
        force_setattr(window, "seq", seq)
        force_setattr(window, "pub", now)
        return Entry(window.topic, seq, pack_header(self.epoch, seq) + _encode(window))
