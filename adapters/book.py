"""A level-2 order book and the topics made of it. Pure; prices and sizes stay the text received.

``Book`` keeps the levels and says what each update changes in the window clients see. ``BookFeed``
turns that into ``book``, ``depth`` and ``quote`` events of one symbol; ``DepthPacer`` holds its
connection's depth topics to one event in 100 ms of exchange time. Times are µs since the epoch.

Levels are ordered and found by ``float(price)``, so ``"1.0"`` and ``"1.00"`` are one level (the
newest spelling stands). Two prices that differ only past a float's 15 digits would be one as well;
no exchange has such steps, and ``Book.replace`` refuses a snapshot in which two levels meet.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import TypeAlias

from adapters.base import Checkpoint, Health, Output, upstream_gap
from feed.models import Book as BookEvent
from feed.models import Depth, Level, Quote

#: Levels a side in ``depth``.
DEPTH_LEVELS = 20
#: Least exchange time between two ``depth`` events of a symbol, µs.
DEPTH_PACE_US = 100_000
#: A clock that goes back further was wrong before, or was set; frames of different streams come
#: in any order, but not that far apart.
CLOCK_STEP_US = 10_000_000
#: Book deltas between two checkpoints.
CHECKPOINT_EVERY = 400

#: Levels as numbers, to order them by and to see zeros; never shown.
Numbers: TypeAlias = Iterable[tuple[float, float]]


class _Side:
    """One side. Keys grow towards the best price (asks are negated), so the best is last:
    most changes are near it, and there an insertion moves few keys."""

    __slots__ = ("_sign", "_truncate", "_window", "horizon", "keys", "levels", "size", "touched")

    def __init__(self, sign: float, window: int, truncate: bool) -> None:
        self._sign = sign
        self._window = window
        self._truncate = truncate
        self.keys: list[float] = []
        self.levels: dict[float, Level] = {}
        #: Levels of the last snapshot.
        self.size = 0
        #: Below this key nothing is known; -inf where the snapshot was whole.
        self.horizon = -inf
        #: Whether the last ``apply`` changed one of the best ``DEPTH_LEVELS``.
        self.touched = False

    def replaced(self, snapshot: Iterable[Level], complete: bool) -> _Side:
        """Return another one with the levels of a snapshot; ValueError where two meet."""
        new = _Side(self._sign, self._window, self._truncate)
        given = [level for level in snapshot if float(level[1])]
        levels = {self._sign * float(level[0]): level for level in given}
        if len(levels) != len(given):
            raise ValueError("two levels of a snapshot have one price")
        keys = sorted(levels)
        if self._truncate:
            for key in keys[: -self._window]:
                del levels[key]
            keys = keys[-self._window :]
        new.levels, new.keys, new.size = levels, keys, len(keys)
        if keys and not complete:
            new.horizon = keys[0]
        return new

    def changes_to(self, snapshot: Sequence[Level]) -> list[Level]:
        """Return the changes that make this side a snapshot's; ValueError where two levels meet."""
        new = {self._sign * float(level[0]): level for level in snapshot}
        if len(new) != len(snapshot):
            raise ValueError("two levels of a snapshot have one price")
        old = self.levels
        gone = [(old[key][0], "0") for key in self.keys if key not in new]
        return gone + [level for key, level in new.items() if old.get(key) != level]

    def apply(self, changes: Sequence[Level], numbers: Numbers) -> list[Level]:
        """Apply changes and return those of the window."""
        keys, levels, sign = self.keys, self.levels, self._sign
        window, horizon = self._window, self.horizon
        count = len(keys)
        # The worst key inside the window and inside the best 20, before anything changes.
        edge = keys[-window] if count > window else -inf
        top = keys[-DEPTH_LEVELS] if count >= DEPTH_LEVELS else -inf
        touched = False
        # Keys that came or went: who is there at the end and has an even number was there before.
        moves: list[float] = []
        out: list[Level] = []
        for level, (key, amount) in zip(changes, numbers, strict=True):
            key *= sign
            if not amount:
                if levels.pop(key, None) is None:
                    continue
                del keys[bisect_left(keys, key)]
                moves.append(key)
                if key >= edge:
                    out.append((level[0], "0"))
            else:
                old = levels.get(key)
                if old is None:
                    if key < horizon:
                        continue
                    insort(keys, key)
                    moves.append(key)
                elif old[1] == level[1]:
                    continue
                levels[key] = level
                if key >= edge:
                    out.append(level)
            if key >= top:
                touched = True
        self.touched = touched
        if len(keys) > window or edge != -inf:
            self._shift(edge, moves, out)
        return out

    def _shift(self, edge: float, moves: list[float], out: list[Level]) -> None:
        """Correct ``out`` for the levels that the window's moved edge let in or pushed out."""
        keys, levels = self.keys, self.levels
        first = max(0, len(keys) - self._window)
        before = bisect_left(keys, edge)
        if first < before:  # the window reaches deeper than it did
            out.extend([levels[key] for key in keys[first:before]])
        elif before < first:
            pushed = {key: levels[key][0] for key in keys[before:first]}
            prices = set(pushed.values())
            out[:] = [level for level in out if level[0] not in prices]
            out.extend([(p, "0") for key, p in pushed.items() if moves.count(key) % 2 == 0])
        if self._truncate and first:
            for key in keys[:first]:
                del levels[key]
            del keys[:first]

    def best(self) -> Level | None:
        return self.levels[self.keys[-1]] if self.keys else None

    def top(self, count: int) -> list[Level]:
        levels = self.levels
        return [levels[key] for key in self.keys[: -count - 1 : -1]]

    @property
    def is_thin(self) -> bool:
        return self.horizon != -inf and len(self.keys) * 4 < self.size


def _numbers(levels: Iterable[Level]) -> list[tuple[float, float]]:
    return [(float(price), float(size)) for price, size in levels]


class Book:
    """The book of one symbol.

    Args:
        window: Levels a side that clients see, at most 1,000.
        truncate: Levels that fall out of the window are forgotten (Kraken's depth rule).
    """

    __slots__ = ("asks", "bids", "levels")

    def __init__(self, window: int, truncate: bool = False) -> None:
        self.levels = window
        self.bids = _Side(1.0, window, truncate)
        self.asks = _Side(-1.0, window, truncate)

    def replace(
        self,
        bids: Iterable[Level],
        asks: Iterable[Level],
        *,
        complete: bool | tuple[bool, bool] = True,
    ) -> None:
        """Forget everything and start from a snapshot.

        Args:
            complete: Whether the snapshot holds every level there is (of each side). If not,
                nothing is known beyond its worst price: levels out there are ignored, never shown.

        Raises:
            ValueError: A price is not a number, or two levels have the same; nothing has changed.
        """
        whole = (complete, complete) if isinstance(complete, bool) else complete
        fresh = self.bids.replaced(bids, whole[0]), self.asks.replaced(asks, whole[1])
        self.bids, self.asks = fresh

    def apply(
        self,
        bids: Sequence[Level],
        asks: Sequence[Level],
        numbers: tuple[Numbers, Numbers] | None = None,
    ) -> tuple[list[Level], list[Level]]:
        """Apply changed levels and return what changed in the window.

        Sizes of 0, in any spelling, delete. Returned are changed levels, levels that entered, and
        with size ``"0"`` those that left: applied to the former ``window()`` they give the present
        one. Unchanged sizes and deletions of absent levels return nothing.

        Args:
            numbers: Bids and asks as numbers, where the adapter has them already.

        Raises:
            ValueError: A price or size is not a number; nothing has changed.
        """
        known_bids, known_asks = numbers or (_numbers(bids), _numbers(asks))
        return self.bids.apply(bids, known_bids), self.asks.apply(asks, known_asks)

    def changes_to(
        self, bids: Sequence[Level], asks: Sequence[Level]
    ) -> tuple[list[Level], list[Level]]:
        """Return what ``apply`` takes to make this book a snapshot's.

        For exchanges that send their book whole each time: clients get what has changed.

        Raises:
            ValueError: A price is not a number, or two levels have the same.
        """
        return self.bids.changes_to(bids), self.asks.changes_to(asks)

    def best(self) -> tuple[Level | None, Level | None]:
        """Return the best bid and ask."""
        return self.bids.best(), self.asks.best()

    def top(self, count: int) -> tuple[list[Level], list[Level]]:
        """Return the best levels of each side, best first."""
        return self.bids.top(count), self.asks.top(count)

    def window(self) -> tuple[list[Level], list[Level]]:
        """Return what clients see, best first."""
        return self.top(self.levels)

    @property
    def known(self) -> tuple[int, int]:
        """Levels known of each side."""
        return len(self.bids.keys), len(self.asks.keys)

    @property
    def is_touched(self) -> bool:
        """Whether the last ``apply`` changed one of the best 20 levels."""
        return self.bids.touched or self.asks.touched

    @property
    def is_crossed(self) -> bool:
        """Whether the best bid is at or above the best ask."""
        bids, asks = self.bids.keys, self.asks.keys
        return bool(bids and asks) and bids[-1] >= -asks[-1]

    @property
    def is_thin(self) -> bool:
        """Whether under a quarter of a cut snapshot's levels is left: time for another one."""
        return self.bids.is_thin or self.asks.is_thin


class DepthPacer:
    """The exchange time of one connection, and the depth events that wait for it.

    A change within 100 ms of the last event waits and is due when they are over; any frame of the
    connection that shows a later time, or a heartbeat, lets it go. What is emitted follows from the
    order of the frames and their exchange times alone, so it is the same at any replay speed.

    Attributes:
        now: The latest exchange time seen; 0 before the first.
        due: When the first waiting event is due; inf when none waits.
    """

    __slots__ = ("_waiting", "due", "now")

    def __init__(self) -> None:
        self.now = 0
        self.due = inf
        self._waiting: list[BookFeed] = []

    def advance(self, ts: int) -> Sequence[Output]:
        """Take note of a frame's exchange time and return the depth events now due."""
        if ts > self.now:
            self.now = ts
        elif ts < self.now - CLOCK_STEP_US:
            self.now = ts
            return self.flush()
        return () if self.now < self.due else self._release(self.now)

    def flush(self) -> Sequence[Output]:
        """Return every waiting depth event: nothing else moves on this connection."""
        return () if self.due == inf else self._release(inf)

    def wait(self, feed: BookFeed) -> None:
        """Have ``feed`` released when its time has come."""
        self._waiting.append(feed)
        self.due = min(self.due, feed.due)

    def forget(self, feed: BookFeed) -> None:
        """Release it no more."""
        self._waiting.remove(feed)
        self.due = min((one.due for one in self._waiting), default=inf)

    def _release(self, until: float) -> list[Output]:
        found: list[Output] = []
        for feed in [one for one in self._waiting if one.due <= until]:
            found += feed.release()
        return found


class BookFeed:
    """One symbol's book, as events of its topics.

    Args:
        native: The exchange's symbol, for ``Health``.
        topics: kind -> topic of those wanted among ``book``, ``depth`` and ``quote``.
        window: Levels a side in ``book``.
        pacer: The connection's.
        truncate: As for ``Book``.

    Attributes:
        native: As given.
        book: The book itself.
        is_live: Whether it can be trusted: there was a snapshot and nothing broke since.
        due: Before this exchange time no further depth event goes out.
    """

    def __init__(
        self,
        native: str,
        topics: Mapping[str, str],
        window: int,
        pacer: DepthPacer,
        *,
        truncate: bool = False,
    ) -> None:
        self.book = Book(window, truncate)
        self.is_live = False
        self.due = 0
        self.native = native
        self._kinds = tuple(kind for kind in ("book", "depth", "quote") if kind in topics)
        self._book_topic = topics.get("book")
        self._depth_topic = topics.get("depth")
        self._quote_topic = topics.get("quote")
        self._pacer = pacer
        self._was_broken = False
        self._deltas = 0
        self._is_waiting = False
        #: ts and recv of the last change of the best 20.
        self._changed: tuple[int | None, int] = (None, 0)
        self._shown: tuple[list[Level], list[Level]] | None = None
        self._best: tuple[Level | None, Level | None] | None = None

    def snapshot(
        self,
        bids: Iterable[Level],
        asks: Iterable[Level],
        ts: int | None,
        recv: int,
        *,
        complete: bool | tuple[bool, bool] = True,
        clock: int | None = None,
    ) -> list[Output]:
        """Start the book afresh and return its events; it is live from here on.

        Args:
            clock: The connection's exchange time to pace depth by, where that is not the present
                one: the adapter held the snapshot back.

        Raises:
            ValueError: As ``Book.replace``.
        """
        self.book.replace(bids, asks, complete=complete)
        return self.restart(ts, recv, clock=clock)

    def restart(self, ts: int | None, recv: int, *, clock: int | None = None) -> list[Output]:
        """Return the events of ``book`` as it stands, as after a snapshot."""
        out: list[Output] = []
        if clock is None:
            if ts is not None:
                out += self._pacer.advance(ts)
            clock = self._pacer.now
        self._stop_waiting()
        self.is_live = True
        self._deltas = 0
        if self._book_topic is not None:
            bids, asks = self.book.window()
            out.append(BookEvent(self._book_topic, 0, ts, recv, 0, bids, asks, True))
            out.append(self._checkpoint(bids, asks, ts, recv))
        if self._depth_topic is not None:
            self._changed = (ts, recv)
            self.due = clock + DEPTH_PACE_US
            self._shown = None
            out += self._depth()
        if self._quote_topic is not None:
            out += self._quote(ts, recv)
        if self._was_broken:
            self._was_broken = False
            out.append(Health(self.native, self._kinds, "live", None))
        return out

    def whole(self, ts: int | None, recv: int) -> list[Output]:
        """Return ``book`` as it stands as a snapshot, and its checkpoint; [] where it is not live.

        Nothing else changes: ``depth`` and ``quote`` have been said.
        """
        if self._book_topic is None or not self.is_live:
            return []
        self._deltas = 0
        bids, asks = self.book.window()
        whole = BookEvent(self._book_topic, 0, ts, recv, 0, bids, asks, True)
        return [whole, self._checkpoint(bids, asks, ts, recv)]

    def delta(
        self,
        bids: Sequence[Level],
        asks: Sequence[Level],
        ts: int | None,
        recv: int,
        *,
        clock: int | None = None,
        numbers: tuple[Numbers, Numbers] | None = None,
    ) -> list[Output]:
        """Apply changed levels and return what follows; call only while ``is_live``.

        Args:
            clock: As for ``snapshot``, of a delta that was held back.
            numbers: As for ``Book.apply``.

        Raises:
            ValueError: As ``Book.apply``.
        """
        out: list[Output] = []
        if clock is None:
            if ts is not None:
                out += self._pacer.advance(ts)
            clock = self._pacer.now
        elif self._is_waiting and clock >= self.due:
            out += self.release()
        book = self.book
        changed_bids, changed_asks = book.apply(bids, asks, numbers)
        if not changed_bids and not changed_asks:
            return out
        if self._book_topic is not None:
            out.append(BookEvent(self._book_topic, 0, ts, recv, 0, changed_bids, changed_asks))
            self._deltas += 1
            if self._deltas == CHECKPOINT_EVERY:
                self._deltas = 0
                out.append(self._checkpoint(*book.window(), ts, recv))
        if not book.is_touched:
            return out
        if self._depth_topic is not None:
            self._changed = (ts, recv)
            # Without exchange times nothing can be paced; and a far due time is of a wrong clock.
            if not clock < self.due <= clock + DEPTH_PACE_US or not clock:
                self.due = clock + DEPTH_PACE_US
                out += self._depth()
            elif not self._is_waiting:
                self._is_waiting = True
                self._pacer.wait(self)
        if self._quote_topic is not None and book.best() != self._best:
            out += self._quote(ts, recv)
        return out

    def broken(self, reason: str, recv: int, lost: int | None = None) -> list[Output]:
        """Give the book up until the next snapshot: say ``invalid``, declare the gap.

        Args:
            reason: snake_case, e.g. ``checksum``, ``sequence``.
            lost: How many events of the book topic are missing, where that is known.
        """
        if not self.is_live:
            return []
        self._stop_waiting()
        self.is_live = False
        self._was_broken = True
        out: list[Output] = [Health(self.native, self._kinds, "invalid", reason)]
        if self._book_topic is not None:
            out.append(upstream_gap(self._book_topic, recv, "upstream_sequence", lost))
        return out

    def release(self) -> list[Output]:
        """Return the waiting depth event; its place in time is when it was due."""
        self._stop_waiting()
        self.due += DEPTH_PACE_US
        return self._depth()

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._pacer.forget(self)

    def _depth(self) -> list[Output]:
        """Return the best 20, unless they have become what was last shown."""
        top = self.book.top(DEPTH_LEVELS)
        if self._depth_topic is None or top == self._shown:
            return []
        self._shown = top
        ts, recv = self._changed
        return [Depth(self._depth_topic, 0, ts, recv, 0, *top)]

    def _quote(self, ts: int | None, recv: int) -> list[Output]:
        assert self._quote_topic is not None
        self._best = bid, ask = self.book.best()
        return [
            Quote(
                self._quote_topic,
                0,
                ts,
                recv,
                0,
                *(bid or (None, None)),
                *(ask or (None, None)),
            )
        ]

    def _checkpoint(
        self, bids: list[Level], asks: list[Level], ts: int | None, recv: int
    ) -> Checkpoint:
        assert self._book_topic is not None
        return Checkpoint(BookEvent(self._book_topic, 0, ts, recv, 0, bids, asks, True))
