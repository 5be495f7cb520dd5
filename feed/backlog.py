"""What waits of the ``all`` topics of a client that is behind: bounded, in order. Pure.

Entries wait in a slot per topic, counted in bytes; the FIFO across topics holds only tokens. When
there is too much, the topic that holds most gives up at least half of it, and a gap stands there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from feed.topic_state import TopicState


class Item:
    """One entry in one encoding, shared by all who wait for it.

    Attributes:
        first, last: Positions it stands for; a gap's reach over those it explains. 0 where the
            server made it up itself.
        lost: How many events are missing where it is given up; None of a gap.
        at: When it came from the bus, µs.
    """

    __slots__ = ("at", "first", "frame", "last", "lost", "state")

    def __init__(
        self,
        state: TopicState,
        first: int,
        last: int,
        lost: int | None,
        frame: bytes,
        at: int,
    ) -> None:
        self.state = state
        self.first = first
        self.last = last
        self.lost = lost
        self.frame = frame
        self.at = at


class Slot:
    """What waits of one ``all`` topic.

    Every waiting item has a token (the slot itself) in the FIFO, so that order across topics is
    kept and giving up costs nothing but a count.

    Attributes:
        gap: Positions given up before the oldest waiting item: first, last, events lost.
        gap_token: No item waits, so the gap has a token of its own.
        stale: Leading tokens whose item was given up.
        owed: A book that gave up everything and gets a snapshot instead of entries.
    """

    __slots__ = ("gap", "gap_token", "items", "owed", "size", "stale", "state")

    def __init__(self, state: TopicState) -> None:
        self.state = state
        self.items: deque[Item] = deque()
        self.size = 0
        self.stale = 0
        self.gap: tuple[int, int, int | None] | None = None
        self.gap_token = False
        self.owed = False

    def clear(self) -> int:
        """Give up everything that waits; return how many items that were."""
        n = len(self.items)
        self.stale += n + self.gap_token
        self.items.clear()
        self.size, self.gap, self.gap_token = 0, None, False
        return n

    def __lt__(self, other: Slot) -> bool:
        return False  # ties of the heap may fall either way


class Backlog:
    """The waiting entries of one client.

    Args:
        limit: Bytes that may wait.
        give_up: Called with a book that gave up everything, and the first position it lost: it
            gets a snapshot instead.

    Attributes:
        slots: What waits, by topic.
        fifo: A token an item, across topics; and some of items given up.
        heap: Sizes of slots, largest first, some outdated; None until the first overflow.
        size: Bytes that wait.
        count: Items that wait.
        dropped: Items given up so far.
    """

    __slots__ = ("_give_up", "_limit", "count", "dropped", "fifo", "heap", "size", "slots")

    def __init__(self, limit: int, give_up: Callable[[TopicState, int], None]) -> None:
        self._limit = limit
        self._give_up = give_up
        self.slots: dict[TopicState, Slot] = {}
        self.fifo: deque[Slot] = deque()
        self.heap: list[tuple[int, Slot]] | None = None
        self.size = 0
        self.count = 0
        self.dropped = 0

    def offer(self, item: Item) -> None:
        """Take one more item; what the bound costs is given up."""
        state = item.state
        slot = self.slots.get(state)
        if slot is None:
            slot = self.slots[state] = Slot(state)
        elif slot.owed:
            self.dropped += 1
            return
        n = len(item.frame)
        slot.items.append(item)
        slot.size += n
        self.size += n
        self.count += 1
        self.fifo.append(slot)
        self._weigh(slot)
        while self.size > self._limit and self._overflow():
            pass
        if len(self.fifo) > 64 + 2 * (self.count + len(self.slots)):
            self._compact()

    def _weigh(self, slot: Slot) -> None:
        """Tell the heap, where there is one, that the slot's size has changed."""
        heap = self.heap
        if heap is not None and slot.items:
            if len(heap) > 64 + 8 * len(self.slots):
                self.heap = None  # made anew when it is needed
            else:
                heappush(heap, (-slot.size, slot))

    def _compact(self) -> None:
        """Drop the tokens of what was given up; else a blocked client's FIFO grows for ever."""
        kept: deque[Slot] = deque()
        for slot in self.fifo:
            if slot.stale:
                slot.stale -= 1
            else:
                kept.append(slot)
        self.fifo = kept

    def _overflow(self) -> bool:
        """Let the topic that holds most give up at least half of it, oldest first.

        Returns:
            False where nothing can be given up: what the server itself last said of a topic has
            no position that a gap could name, so it stays.
        """
        slot = self._largest()
        if slot is None:
            return False
        if slot.state.window is not None:
            first = slot.items[0].first
            self.size -= slot.size
            given_up = slot.clear()
            self.count -= given_up
            self.dropped += given_up
            slot.owed = True
            self._give_up(slot.state, first)
            return True
        goal = slot.size // 2
        gap = slot.gap
        is_less = False
        while slot.size > goal and not (len(slot.items) == 1 and not slot.items[0].last):
            is_less = True
            item = slot.items.popleft()
            n = len(item.frame)
            slot.size -= n
            self.size -= n
            slot.stale += 1
            self.count -= 1
            self.dropped += 1
            if not item.last:
                continue
            if gap is None:
                gap = (item.first, item.last, item.lost)
            else:
                lost = None if gap[2] is None or item.lost is None else gap[2] + item.lost
                gap = (gap[0], item.last, lost)
        slot.gap = gap
        if slot.gap_token and is_less:
            slot.gap_token = False
            slot.stale += 1
        if not slot.items and gap is not None:
            slot.gap_token = True
            slot.stale -= 1
        self._weigh(slot)
        return is_less

    def _largest(self) -> Slot | None:
        # A lazy heap: sizes that changed since are pushed again, outdated ones fall through.
        # So it costs O(log n) an entry however many topics.
        heap = self.heap
        if heap is None:
            heap = self.heap = [(-s.size, s) for s in self.slots.values() if s.items]
            heapify(heap)
        while heap:
            size, slot = heappop(heap)
            if slot.items and -size == slot.size and self.slots.get(slot.state) is slot:
                return slot
        return None

    def head(self) -> Slot | None:
        """Return the slot that is next, if any, after dropping given-up tokens."""
        fifo = self.fifo
        while fifo:
            slot = fifo[0]
            if not slot.stale:
                return slot
            slot.stale -= 1
            fifo.popleft()
        return None

    def pop(self, slot: Slot) -> None:
        """Take the slot's token and what it stands for off the FIFO."""
        self.fifo.popleft()
        if slot.gap_token:
            slot.gap_token = False
            return
        n = len(slot.items.popleft().frame)
        slot.size -= n
        self.size -= n
        self.count -= 1
        self._weigh(slot)

    def forget(self, state: TopicState) -> None:
        """Drop whatever waits of a topic."""
        slot = self.slots.pop(state, None)
        if slot is not None:
            self.size -= slot.size
            self.count -= slot.clear()

    def is_waiting(self, state: TopicState) -> bool:
        """Whether anything of a topic waits or is owed."""
        slot = self.slots.get(state)
        return slot is not None and bool(slot.items or slot.gap or slot.owed)
