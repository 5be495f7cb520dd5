"""What waits for one client: bounded, conflated, with a gap where something was given up. Pure.

Three ways an entry can take:

- nothing else waits: the hub appends it to ``queue`` itself, and reports the outbox when that was
  empty. Measured on 1,000 clients: most of what fan-out costs beside the kernel is to reach each
  client's memory, so a delivery touches the list and nothing else, and a flush one flag more. What
  came since the last flush leaves as one write.
- the socket does not take more (``block``) or there is more than one piece: with the next flush
  entries wait in a slot per topic, counted in bytes, bounded.
- ``latest`` topics wait in a dict, one value a topic, whatever happens.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from feed.backlog import Backlog, Item
from feed.encoding import PIECE_BYTES, Encoding
from feed.owed import Cause, Replay, Snapshot, gap_json
from feed.piece import Piece
from feed.tally import Tally
from feed.topic_state import TopicState


def _key(owed: Snapshot | bytes) -> object:
    return owed.state if isinstance(owed, Snapshot) else object()


#: Of replayed entries in a row, before the next topic has its turn.
_SHARE_BYTES = 16_384


class Queue(list[Item]):
    """What came for one client since its last flush.

    It knows whose it is, so that who appends need not touch that where it is not empty.
    """

    __slots__ = ("outbox",)

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self.outbox = outbox


class Outbox:
    """One client's queue; ``write`` hands bytes to its socket, ``fail`` ends it at once.

    Args:
        report: Called with the outbox when something waits in an empty one.
        limit: Bytes of ``all`` entries that may wait.
        tally: Counts the gaps and snapshots of all clients.

    Attributes:
        queue: What came of topics in ``all`` since the last flush.
        latest: Topic in ``latest`` -> its newest value that waits.
        has_more: The last ``take`` has left something behind.
        is_plain: Nothing waits but what is in ``queue``, and it may leave as it is. Who adds
            anything else takes it away.
        batch: Events may share an array frame.
        blobs_in, blobs_out: How many blobs were queued so far, and how many of them left.
        blocked: The socket takes no more for now.
        reported_at: Since when the hub has it on its list to flush; 0 where it has not.
    """

    __slots__ = (
        "_asked",
        "_backlog",
        "_blobs",
        "_control",
        "_dropped",
        "_heartbeat",
        "_owed",
        "_report",
        "_tally",
        "batch",
        "blobs_in",
        "blobs_out",
        "blocked",
        "control_bytes",
        "encoding",
        "fail",
        "has_more",
        "is_plain",
        "latest",
        "limit",
        "queue",
        "reported_at",
        "write",
    )

    def __init__(
        self,
        encoding: Encoding,
        limit: int,
        report: Callable[[Outbox], None],
        write: Callable[[bytes], object],
        fail: Callable[[], object] = lambda: None,
        tally: Tally | None = None,
    ) -> None:
        self.encoding = encoding
        self.limit = limit
        self.write = write
        self.fail = fail
        self.batch = False
        self.blobs_in = 0
        self.blobs_out = 0
        self.blocked = False
        self.reported_at = 0.0
        self._dropped = 0
        self.control_bytes = 0
        self._report = report
        self.queue = Queue(self)
        self.latest: dict[TopicState, Item] = {}
        self.has_more = False
        self.is_plain = False
        self._tally = tally or Tally()
        self._control: deque[bytes] | None = None
        # By state (a frame: by itself alone), so that one is found without a search and a client
        # that asks again and again makes nothing grow.
        self._owed: OrderedDict[TopicState, Snapshot | Replay] | None = None
        self._asked: OrderedDict[object, Snapshot | bytes] | None = None
        self._blobs: deque[bytes] | None = None
        self._heartbeat: int | None = None
        #: Only while the client is behind.
        self._backlog: Backlog | None = None

    # What comes in.

    def push(self, item: Item) -> None:
        """Take an item of a topic in ``all``."""
        self._report(self)
        self.queue.append(item)

    def put(self, item: Item) -> None:
        """Take the newest item of a topic in ``latest``."""
        self._report_more()
        self.latest[item.state] = item

    def _report_more(self) -> None:
        """Report that something else waits than entries."""
        self.is_plain = False
        self._report(self)

    def say(self, frame: bytes) -> None:
        """Queue an answer or notice ahead of every event, in order among its kind."""
        if self._control is None:
            self._control = deque()
        self._control.append(frame)
        self.control_bytes += len(frame)
        self._report_more()

    def heartbeat(self, now: int) -> None:
        """Owe the client a heartbeat; at most one is owed, rendered when it leaves."""
        self._heartbeat = now
        self._report_more()

    def owe(self, owed: Snapshot | Replay) -> None:
        """Queue a snapshot or a replay of a topic of which nothing is delivered meanwhile."""
        if self._owed is None:
            self._owed = OrderedDict()
        self._owed[owed.state] = owed
        self._report_more()

    def ask(self, snapshot: Snapshot | bytes) -> None:
        """Queue a snapshot of a topic that may have entries waiting: it comes after those.

        One that waits already serves this wish too: it is rendered when it leaves.
        """
        if self._asked is None:
            self._asked = OrderedDict()
        self._asked.setdefault(_key(snapshot), snapshot)
        self._report_more()

    def blob(self, frames: bytes) -> int:
        """Queue ready frames of throttled topics, shared with other clients; return its number."""
        if self._blobs is None:
            self._blobs = deque()
        self._blobs.append(frames)
        self.blobs_in += 1
        self._report_more()
        return self.blobs_in

    def block(self) -> None:
        """The socket takes no more for now."""
        self.blocked = True
        self.is_plain = False

    def unblock(self) -> None:
        """The socket takes more; what waits is reported."""
        if self.blocked:
            self.blocked = False
            self._report(self)

    def drop_blobs(self) -> None:
        """Drop ready frames that wait."""
        self._blobs = None
        self.blobs_out = self.blobs_in

    def last_words(self) -> bytes:
        """Take the answers that wait, for a client that is about to be closed."""
        words = b"".join(self._control or ())
        self._control = None
        self.control_bytes = 0
        return words

    @property
    def dropped(self) -> int:
        """How many entries were given up so far."""
        return self._dropped + (self._backlog.dropped if self._backlog is not None else 0)

    @property
    def size(self) -> int:
        """Bytes of ``all`` entries that wait while the client is behind."""
        return self._backlog.size if self._backlog is not None else 0

    @property
    def asked(self) -> int:
        """How many snapshots asked for, and words that follow them, wait."""
        return len(self._asked or ())

    @property
    def is_waiting(self) -> bool:
        """Whether anything waits."""
        return bool(
            self.queue
            or self.latest
            or self._control
            or self._owed
            or self._asked
            or self._blobs
            or self._heartbeat is not None
            or (self._backlog is not None and self._backlog.head() is not None)
        )

    def backlog(self, now: int) -> tuple[int, int]:
        """Return how old the oldest waiting entry is (µs) and how many wait."""
        oldest, count = now, len(self.queue) + len(self.latest)
        head = None
        if self._backlog is not None:
            head = self._backlog.head()
            count += self._backlog.count
        if head is not None and head.items:
            oldest = head.items[0].at
        elif self.queue:
            oldest = self.queue[0].at
        if self.latest:
            oldest = min(oldest, min(item.at for item in self.latest.values()))
        return max(0, now - oldest), count  # a clock that is set back makes nobody early

    def pull(self, state: TopicState) -> tuple[bool, Item | None]:
        """Take back what waits of a state topic whose mode changes.

        Returns:
            Whether the client is due a value, and the newest one that waited (None where it was
            given up).
        """
        slot = self._backlog.slots.get(state) if self._backlog is not None else None
        waiting = [item for item in self.queue if item.state is state]
        waiting += slot.items if slot is not None else ()
        waiting += [self.latest[state]] if state in self.latest else ()
        values = [item for item in waiting if item.lost is not None]
        is_due = bool(values) or (slot is not None and slot.gap is not None)
        self._forget_entries(state)
        return is_due, values[-1] if values else None

    def forget(self, state: TopicState) -> None:
        """Drop whatever waits of a topic the client no longer wants."""
        self._forget_entries(state)
        if self._asked:
            self._asked.pop(state, None)
        owed = self._owed.pop(state, None) if self._owed else None
        if owed is not None and owed.sync is not None and (synced := owed.sync.done()):
            self.say(synced)

    def clear(self) -> None:
        """Drop everything; the client is gone."""
        self.queue.clear()
        self.latest.clear()
        self._backlog = None
        self._control = self._owed = self._asked = self._blobs = self._heartbeat = None
        self.control_bytes = 0
        self.block()

    def _forget_entries(self, state: TopicState) -> None:
        if len(self.queue) > 64:
            self._spill()  # thousands may be forgotten in one turn: no search for each
        if self.queue:
            self.queue[:] = [item for item in self.queue if item.state is not state]
        self.latest.pop(state, None)
        if self._backlog is not None:
            self._backlog.forget(state)

    def _spill(self) -> Backlog:
        """Move what came since the last flush into the counted backlog."""
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = Backlog(self.limit, self._give_up)
            self.is_plain = False
        for item in self.queue:
            backlog.offer(item)
        self.queue.clear()
        return backlog

    def _give_up(self, state: TopicState, first: int) -> None:
        """A book gave up all its entries, from ``first`` on: it gets a snapshot."""
        self.owe(Snapshot(state, None, first))

    # What goes out.

    def take(self, now: int) -> bytes:
        """Return the next piece for the socket: at most ``PIECE_BYTES``, or one frame.

        Empty where nothing waits or the client is blocked.
        """
        queue = self.queue
        if self.is_plain:
            data = queue[0].frame if len(queue) == 1 else b"".join([item.frame for item in queue])
            if len(data) <= PIECE_BYTES or len(queue) == 1:
                queue.clear()
                return data
        if self.blocked:
            if queue:
                self._spill()
            return b""
        data = self._take_simple() or self._take_piece(now)
        self.has_more = self.is_waiting
        self.is_plain = not (self.has_more or self.batch)
        return data

    def _take_simple(self) -> bytes:
        """Return all that waits where it is of one kind and fits; else nothing."""
        queue, latest, blobs = self.queue, self.latest, self._blobs
        if (
            self._backlog is not None
            or self._control
            or self._owed
            or self._asked
            or self._heartbeat is not None
        ):
            return b""
        if not blobs:
            items = [*latest.values(), *queue]
            frames = [item.frame for item in items]
            data = b"".join(self.encoding.joined(frames) if self.batch else frames)
            if len(data) <= PIECE_BYTES or len(items) == 1:
                queue.clear()
                latest.clear()
                return data
        elif not (queue or latest):
            self.blobs_out += 1
            return blobs.popleft()
        return b""

    def _take_piece(self, now: int) -> bytes:
        """Fill one piece: control first, then snapshots, values and entries in fair shares."""
        backlog = self._spill()
        piece = Piece(self.encoding, self.batch)
        while (control := self._control) and piece.fits(len(control[0])):
            self.control_bytes -= len(control[0])
            piece.alone(control.popleft())
        if not self._control:
            # Behind the answers: `welcome` is the first word.
            self._take_heartbeat(piece, now)
            while (blobs := self._blobs) and piece.fits(len(blobs[0])):
                piece.alone(blobs.popleft())
                self.blobs_out += 1
            if not self._blobs:
                # Half for what is owed, then half of the rest for values, then entries; each may
                # use what the ones before left.
                self._take_owed(piece, backlog, piece.room // 2, now)
                self._take_values(piece, piece.room // 2 if backlog.count else 0)
                self._take_entries(piece, backlog)
                self._take_asked(piece, backlog, now)
        if backlog.head() is None and not self._owed:  # it is no longer behind
            self._dropped += backlog.dropped
            self._backlog = None
        return piece.take()

    def _take_heartbeat(self, piece: Piece, now: int) -> None:
        if self._heartbeat is None:
            return
        lag, queued = self.backlog(now)
        frame = heartbeat_frame(self.encoding, now, lag, queued + len(self._owed or ()))
        if piece.fits(len(frame)):
            self._heartbeat = None
            piece.alone(frame)

    def _take_owed(self, piece: Piece, backlog: Backlog, floor: int, now: int) -> None:
        """Render snapshots, and of each replay a share in turn: none holds up the others."""
        queue = self._owed
        while queue and piece.room > floor:
            owed = next(iter(queue.values()))
            if isinstance(owed, Replay) and (instead := owed.instead()) is not None:
                owed = queue[owed.state] = instead
            room = piece.room
            if isinstance(owed, Replay):
                is_through = self._take_replay(owed, piece, floor)
            else:
                is_through = self._take_snapshot(owed, piece, backlog, now)
            if is_through:
                del queue[owed.state]
                if owed.attach is not None:
                    owed.attach()
                if owed.sync is not None and (synced := owed.sync.done()):
                    if piece.fits(len(synced)):
                        piece.alone(synced)
                    else:
                        self.say(synced)  # begins the next piece
            elif piece.room == room:
                return
            else:
                queue.move_to_end(owed.state)

    def _take_snapshot(self, owed: Snapshot, piece: Piece, backlog: Backlog, now: int) -> bool:
        """Render it where it fits; whether it did."""
        state, lost_from = owed.state, owed.lost_from
        is_lost = lost_from is not None and owed.attach is None
        if is_lost and backlog.count and backlog.size >= self.limit // 2:
            return False
        frame = self.encoding.frame(state.snapshot(self.encoding, now))
        if lost_from is None:
            if not piece.fits(len(frame)):
                return False
        else:
            # Together, whatever their size: the gap ends where the snapshot stands.
            gap = self._gap(state, min(lost_from, state.seq), state.seq, None, owed.cause)
            if not piece.fits(len(gap) + len(frame)):
                return False
            piece.add(gap)
            self._tally.gaps[owed.cause] += 1
            if is_lost:
                backlog.slots[state].owed = False
        piece.add(frame)
        self._tally.snapshots += 1
        return True

    def _take_replay(self, replay: Replay, piece: Piece, floor: int) -> bool:
        """Render a share of the entries; whether all are through."""
        state = replay.state
        if (hole := replay.hole()) is not None:
            gap = self._gap(state, hole.first, hole.last, None, hole.cause)
            if not piece.fits(len(gap), floor):
                return False
            piece.add(gap)
            self._tally.gaps[hole.cause] += 1
            replay.pass_over(hole)
        floor = max(floor, piece.room - _SHARE_BYTES)
        for seq, json in state.ring.after(replay.at):
            frame = self.encoding.frame(self.encoding.body(json))
            if not piece.fits(len(frame), floor):
                return False
            piece.add(frame)
            replay.at = seq
        return True

    def _take_values(self, piece: Piece, floor: int) -> None:
        latest = self.latest
        while latest:
            state, value = next(iter(latest.items()))
            if not piece.fits(len(value.frame), floor):
                return
            del latest[state]
            piece.add(value.frame)

    def _take_entries(self, piece: Piece, backlog: Backlog) -> None:
        while (slot := backlog.head()) is not None:
            if slot.gap is not None:
                gap = self._gap(slot.state, *slot.gap)
                if not piece.fits(len(gap)):
                    return
                slot.gap = None
                piece.add(gap)
                self._tally.gaps["slow_consumer"] += 1
            if not slot.gap_token:
                item = slot.items[0]
                if not piece.fits(len(item.frame)):
                    return
                piece.add(item.frame)
            backlog.pop(slot)

    def _take_asked(self, piece: Piece, backlog: Backlog, now: int) -> None:
        while self._asked:
            owed = next(iter(self._asked.values()))
            if isinstance(owed, bytes):
                if not piece.fits(len(owed)):
                    return
                piece.alone(owed)
            else:
                if backlog.is_waiting(owed.state):
                    return
                frame = self.encoding.frame(owed.state.snapshot(self.encoding, now))
                if not piece.fits(len(frame)):
                    return
                piece.add(frame)
                self._tally.snapshots += 1
            self._asked.popitem(last=False)

    def _gap(
        self,
        state: TopicState,
        first: int,
        last: int,
        lost: int | None,
        cause: Cause = "slow_consumer",
    ) -> bytes:
        json = gap_json(state.name, cause, first, last, lost)
        return self.encoding.frame(self.encoding.body(json))


def heartbeat_frame(encoding: Encoding, now: int, lag_us: int, queued: int) -> bytes:
    """Return the ``heartbeat`` frame of one client."""
    json = b'{"type":"heartbeat","time":%d,"lag_us":%d,"queued":%d}' % (now, lag_us, queued)
    return encoding.frame(encoding.body(json))
