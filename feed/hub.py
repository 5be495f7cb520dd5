"""Topic -> outboxes: one entry in, its frame built once an encoding, handed to all. Pure.

Nothing here awaits, makes a task or copies an entry: one slow reader cannot delay the next.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from time import monotonic

from feed.backlog import Item
from feed.outbox import Outbox
from feed.owed import Snapshot, gap_json
from feed.tally import Tally
from feed.throttle import Group
from feed.topic_state import TopicState

log = logging.getLogger("feed.hub")

GroupKey = tuple[frozenset[TopicState], float, str, bool]


class Throttled:
    """One client's throttled topics.

    Attributes:
        views: Rate -> state -> position it has been given, as of when it joined the group.
        groups: Rate -> the group that serves it.
        due: Rate -> when its next beat is due by the group that it left, so that a client whose
            topics change is neither served twice in a period nor put off.
    """

    __slots__ = ("due", "groups", "views")

    def __init__(self) -> None:
        self.views: dict[float, dict[TopicState, int]] = {}
        self.groups: dict[float, tuple[GroupKey, Group]] = {}
        self.due: dict[float, int] = {}


class Hub:
    """Fans entries out to outboxes.

    Entries for ``all`` go out one by one. A new value for ``latest`` only marks its topic: the
    flush hands out what is newest by then, once, however many values came since the last. So a
    process that falls behind conflates and keeps reading, where the bus would else have to buffer.

    Args:
        wake: Called when something waits to be flushed, where nothing did.
        wake_beats: Called when the next beat may have come nearer.
        clock: Seconds that only grow; tells who has waited longest.

    Attributes:
        entries, encodes: How many entries were published, and bodies made for them.
        tally: What else clients were given.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        wake_beats: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._wake = wake
        self._wake_beats = wake_beats
        #: Who has something to flush, longest first.
        self._dirty: deque[Outbox] = deque()
        self._handed_out_at = 0.0
        #: Topics with a value that ``latest`` subscribers have not been handed; when it came, µs.
        self._changed: dict[TopicState, int] = {}
        self._groups: dict[GroupKey, Group] = {}
        self._due: list[tuple[int, int, Group]] = []
        self._ties = count()
        self._throttled: dict[Outbox, Throttled] = {}
        self._regroup: dict[Outbox, None] = {}
        self.entries = 0
        self.encodes = 0
        self.tally = Tally()

    def report(self, outbox: Outbox) -> None:
        """Note that something waits in ``outbox`` (given to every Outbox)."""
        if not outbox.reported_at:
            outbox.reported_at = self._clock()
            if not (self._dirty or self._changed):
                self._wake()
            self._dirty.append(outbox)

    # Entries.

    def publish(self, state: TopicState, epoch: int, seq: int, body: bytes, now: int) -> None:
        """Take the entry that follows in its topic and hand it to everybody who wants it."""
        before = state.seq
        is_value = state.advance(epoch, seq, body)
        self.entries += 1
        if not state.audiences:
            return
        # A restart's entry, or one after positions that were declared lost, stands for those too.
        first = before + 1 if 0 < before < seq else seq
        lost = 1 if is_value else None
        is_due = False
        for audience in state.audiences.values():
            is_due = is_due or bool(audience.latest)
            members = audience.all
            if not members:
                continue
            encoding = audience.encoding
            if is_value and state.is_state:
                encoded = state.newest_body(encoding)
            else:
                encoded = encoding.body(body)
            self.encodes += 1
            item = Item(state, first, seq, lost, encoding.frame(encoded), now)
            # The hottest lines of all; `Outbox` says why they look into it.
            for queue in members.values():
                if not queue:
                    self.report(queue.outbox)
                queue.append(item)
        if is_due and is_value:
            if not (self._changed or self._dirty):
                self._wake()
            self._changed[state] = now

    def hand_out(self) -> None:
        """Hand ``latest`` subscribers every value that they are due."""
        changed = self._changed
        while changed:
            self._hand_out(next(iter(changed)))

    def _hand_out(self, state: TopicState) -> None:
        """Hand the newest value to its ``latest`` subscribers, where they are due one."""
        at = self._changed.pop(state, None)
        if at is None:
            return
        seq = state.newest_seq
        for audience in state.audiences.values():
            if audience.latest:
                self.encodes += 1
                encoding = audience.encoding
                body = state.newest_body(encoding)
                item = Item(state, seq, seq, 1, encoding.frame(body), at)
                for outbox, values in audience.latest.items():
                    if not values:
                        outbox.is_plain = False
                        self.report(outbox)
                    values[state] = item

    def lose(self, state: TopicState, first: int, last: int, now: int) -> None:
        """Declare to ``all`` subscribers that this process never got these positions."""
        json = gap_json(state.name, "bus_loss", first, last, None)
        for audience in state.audiences.values():
            encoding = audience.encoding
            item = Item(state, first, last, None, encoding.frame(encoding.body(json)), now)
            self.tally.gaps["bus_loss"] += len(audience.all)
            for outbox in audience.all:
                outbox.push(item)

    def announce(self, state: TopicState, body: bytes, now: int) -> None:
        """Hand out a value that this server made itself (``seq:null``); it is not kept."""
        self._hand_out(state)
        for audience in state.audiences.values():
            encoding = audience.encoding
            item = Item(state, 0, 0, 1, encoding.frame(encoding.body(body)), now)
            for outbox in audience.all:
                outbox.push(item)
            for outbox in audience.latest:
                outbox.put(item)

    def refresh(self, state: TopicState) -> None:
        """Owe every subscriber of a book its current window (the entries did not connect)."""
        for audience in state.audiences.values():
            for outbox in audience.all:
                outbox.ask(Snapshot(state, None))

    # Who wants what.

    def attach(self, outbox: Outbox, state: TopicState, latest: bool) -> None:
        """Deliver entries of ``state`` from here on."""
        self._hand_out(state)  # a value that came before is not the newcomer's
        audience = state.audience(outbox.encoding)
        if latest:
            audience.latest[outbox] = outbox.latest
        else:
            audience.all[outbox] = outbox.queue

    def throttle(self, outbox: Outbox, state: TopicState, hz: float, seq: int) -> None:
        """Deliver the newest value of ``state`` at most ``hz`` times a second.

        Args:
            seq: The position the client has; 0 where it is due the newest value.
        """
        throttled = self._throttled.setdefault(outbox, Throttled())
        throttled.views.setdefault(hz, {})[state] = seq
        self._need_regroup(outbox)

    def change(
        self, outbox: Outbox, state: TopicState, latest: bool, hz: float | None, now: int
    ) -> None:
        """Deliver a state topic otherwise, in place: nothing twice, the newest value not lost."""
        self._hand_out(state)
        given = self._unthrottle(outbox, state)
        self._drop(outbox, state)
        is_due, item = outbox.pull(state)
        if given is not None:
            is_due = given < state.newest_seq
        if hz is not None:
            self.throttle(outbox, state, hz, 0 if is_due else state.newest_seq)
            return
        self.attach(outbox, state, latest)
        if not is_due:
            return
        if item is None and state.newest is not None:
            seq, body = state.newest_seq, state.newest_body(outbox.encoding)
            item = Item(state, seq, seq, 1, outbox.encoding.frame(body), now)
        if item is not None:
            if latest:
                outbox.put(item)
            else:
                outbox.push(item)

    def detach(self, outbox: Outbox, state: TopicState) -> None:
        """Deliver nothing more of ``state``, not even what waits."""
        self._drop(outbox, state)
        self._unthrottle(outbox, state)
        outbox.forget(state)

    def retire(self, outbox: Outbox, states: Iterable[TopicState]) -> None:
        """Deliver nothing new of these topics; what waits stays."""
        self.leave(outbox)
        for state in states:
            self._drop(outbox, state)

    def leave(self, outbox: Outbox) -> None:
        """Forget a client's throttled topics; the caller detaches the others."""
        throttled = self._throttled.pop(outbox, None)
        self._regroup.pop(outbox, None)
        if throttled is not None:
            self._leave_groups(outbox, throttled)

    def _drop(self, outbox: Outbox, state: TopicState) -> None:
        audience = state.audiences.get(outbox.encoding.name)
        if audience is not None:
            audience.all.pop(outbox, None)
            audience.latest.pop(outbox, None)
            if not (audience.all or audience.latest):
                del state.audiences[outbox.encoding.name]

    def _unthrottle(self, outbox: Outbox, state: TopicState) -> int | None:
        """Take a topic out of the client's throttled ones; return the position it had."""
        throttled = self._throttled.get(outbox)
        for hz, view in throttled.views.items() if throttled is not None else ():
            if state in view:
                assert throttled is not None
                if hz in throttled.groups:
                    self._leave_group(outbox, throttled, hz)
                self._need_regroup(outbox)
                return view.pop(state)
        return None

    def _need_regroup(self, outbox: Outbox) -> None:
        is_first = not self._regroup
        self._regroup[outbox] = None
        if is_first:
            self._wake_beats()

    # Throttled clients.

    def next_beat(self) -> int | None:
        """Return when ``beat`` is due, µs; None while nobody is throttled."""
        if self._regroup:
            return 0
        return self._due[0][0] if self._due else None

    def beat(self, now: int) -> None:
        """Serve the groups that are due."""
        for outbox in self._regroup:
            self._group(outbox, now)
        self._regroup.clear()
        due = self._due
        while due and due[0][0] <= now:
            group = heapq.heappop(due)[2]
            if group.members:
                group.beat(now)
                heapq.heappush(due, (group.due, next(self._ties), group))

    def _group(self, outbox: Outbox, now: int) -> None:
        """Put a client whose topics changed into the groups that fit it now."""
        throttled = self._throttled.get(outbox)
        if throttled is None:
            return
        for hz, view in list(throttled.views.items()):
            if not view:
                del throttled.views[hz]
                if hz in throttled.groups:
                    self._leave_group(outbox, throttled, hz)
                continue
            key = (frozenset(view), hz, outbox.encoding.name, outbox.batch)
            former = throttled.groups.get(hz)
            if former is not None:
                if former[0] == key:
                    continue
                self._leave_group(outbox, throttled, hz)
            group = self._groups.get(key)
            if group is None:
                due = throttled.due.get(hz)
                group = Group(view, hz, outbox.encoding, outbox.batch, now, due)
                self._groups[key] = group
                heapq.heappush(self._due, (group.due, next(self._ties), group))
            group.join(outbox, dict(view))
            throttled.groups[hz] = (key, group)

    def _leave_group(self, outbox: Outbox, throttled: Throttled, hz: float) -> None:
        """Note in the client's view what the group has given it, and leave."""
        if outbox.blobs_in > outbox.blobs_out:
            # They may hold a topic that is left: none goes out, and what they held is due again.
            for _, group in throttled.groups.values():
                group.take_back(outbox)
            outbox.drop_blobs()
        key, group = throttled.groups.pop(hz)
        throttled.due[hz] = group.due
        view = throttled.views.get(hz, {})
        view.update((state, seq) for state, seq in group.positions(outbox) if state in view)
        del group.members[outbox]
        if not group.members:
            del self._groups[key]

    def _leave_groups(self, outbox: Outbox, throttled: Throttled) -> None:
        for hz in list(throttled.groups):
            self._leave_group(outbox, throttled, hz)

    def throttled_positions(self, outbox: Outbox) -> dict[TopicState, int]:
        """Return what a client has been given of its throttled topics; 0 where it is due some."""
        found: dict[TopicState, int] = {}
        throttled = self._throttled.get(outbox)
        if throttled is not None:
            for view in throttled.views.values():
                found.update(view)
            for _, group in throttled.groups.values():
                found.update(group.positions(outbox))
        return found

    def rebatch(self, outbox: Outbox, batch: bool) -> None:
        """Set the connection's ``batch`` option."""
        outbox.batch = batch and outbox.encoding.joins
        outbox.is_plain = False
        throttled = self._throttled.get(outbox)
        if throttled is not None:
            self._leave_groups(outbox, throttled)  # nothing of the old form may follow the answer
            self._need_regroup(outbox)

    # Flushing.

    def waits_since(self) -> float | None:
        """Return since when (of the clock) something waits for a flush; None where nothing does."""
        if not self._changed:
            return self._dirty[0].reported_at if self._dirty else None
        if not self._dirty:
            return self._handed_out_at
        return min(self._handed_out_at, self._dirty[0].reported_at)

    def flush(self, now: int, since: float = math.inf, most: int = 1_000_000) -> bool:
        """Write one piece of each outbox that has something; whether there is more to write.

        Args:
            since: Serve those for which something waits since then (of the clock) or longer, and
                hand out values for ``latest`` where that was not done since.
            most: Serve no more than so many.
        """
        if self._changed and self._handed_out_at <= since:
            self._handed_out_at = self._clock()
            self.hand_out()
        dirty = self._dirty
        for _ in range(min(most, len(dirty))):
            outbox = dirty.popleft()
            if outbox.reported_at > since:
                dirty.appendleft(outbox)
                break
            outbox.reported_at = 0.0
            try:
                data = outbox.take(now)
                if data:
                    outbox.write(data)
            except Exception:  # the outer edge of one client's turn: the others go on
                log.exception("a client cannot be served and is ended")
                outbox.fail()
                continue
            if outbox.has_more and not outbox.blocked:
                self.report(outbox)  # behind all others
        return bool(dirty or self._changed)
