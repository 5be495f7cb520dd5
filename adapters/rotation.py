"""A connection takes another's place while both are up: which events of either pass. Pure.

At every moment each topic is fed by one of the two. First the new connection is only watched, until
all that the old one brings is proven to come over it too; until then it can be given up without a
trace. Then topic by topic is switched:

- Facts (trades): once one of them has come over both, nothing lies between. What the old one
  brought is dropped from the new one, by id.
- State (quotes, tickers): where both say the same, or where the new one's exchange time is later.
- Books: where the new one's book is as late as the old one's; it is shown as one snapshot.

A topic on which neither says anything is switched as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from msgspec.structs import astuple

from adapters.base import Checkpoint, Health, Output, Refused
from feed.models import Book, Gap
from feed.topics import parse_topic

#: Of facts so many are remembered of the old connection, and held of the new one.
MEMORY = 10_000
#: Of a state without exchange times so many values of the old connection are remembered.
RECENT = 256
#: Native symbol, exchange time and receive time -> the new connection's book, whole.
Whole: TypeAlias = Callable[[str, int | None, int], Sequence[Output]]


def _said(event: Any) -> tuple[Any, ...]:
    """Return what an event says: all but its topic, positions and times."""
    return astuple(event)[5:]


class _Topic(Protocol):
    """One topic's switch.

    Attributes:
        is_new: The new connection feeds it.
    """

    is_new: bool

    @property
    def is_good(self) -> bool:
        """Whether what the new connection brought shows that the topic is in order."""

    def old(self, event: Any, is_switching: bool) -> list[Output]: ...

    def new(self, event: Any, is_switching: bool) -> list[Output]: ...

    def settle(self) -> None:
        """A while is over: what has not come over either of the two in it did not happen."""

    def is_ready(self) -> bool:
        """Whether the new connection is proven to bring it, or neither has anything to bring."""

    def switch(self, is_forced: bool) -> list[Output]:
        """Switch it if it can be, or, if forced, anyway."""


class _Quiet:
    """Whether nothing was said for a whole while, until now."""

    def __init__(self) -> None:
        self.is_so = False
        self._spoke = True

    def spoke(self) -> None:
        self.is_so = False
        self._spoke = True

    def settle(self) -> None:
        self.is_so = not self._spoke
        self._spoke = False


class _Facts:
    def __init__(self, last_id: int | None) -> None:
        self.is_new = False
        self.is_proven = False
        self._seen: dict[Any, None] = {} if last_id is None else {str(last_id): None}
        self._held: dict[Any, Output] = {}
        self._quiet = _Quiet()
        self._has_overflowed = False

    @property
    def is_good(self) -> bool:
        return False  # facts are as good as their connection

    def old(self, event: Any, is_switching: bool) -> list[Output]:
        if self.is_new:
            return []
        if type(event) is not Gap:
            self._quiet.spoke()
            key = _key(event)
            self._seen[key] = None
            if len(self._seen) > MEMORY:
                del self._seen[next(iter(self._seen))]
            if key in self._held:
                self.is_proven = True
                while next(iter(self._held)) != key:
                    del self._held[next(iter(self._held))]
                del self._held[key]
        return [event]

    def new(self, event: Any, is_switching: bool) -> list[Output]:
        is_gap = type(event) is Gap
        key = id(event) if is_gap else _key(event)
        if not is_gap and key in self._seen:
            if not self.is_new:
                self.is_proven = True
                self._held.clear()
            return []
        if self.is_new:
            return [event]
        if is_gap and not self._held and not self.is_proven:
            return []  # of before anything that matters
        self._held[key] = event
        if len(self._held) > MEMORY:
            self._has_overflowed = True
            del self._held[next(iter(self._held))]
        return []

    def settle(self) -> None:
        self._quiet.settle()

    def is_ready(self) -> bool:
        if self._has_overflowed:
            return False
        return self.is_proven or (self._quiet.is_so and not self._held)

    def switch(self, is_forced: bool) -> list[Output]:
        self.is_new = True
        held, self._held = list(self._held.values()), {}
        return held


def _key(event: Any) -> Any:
    return event.id if event.id is not None else (event.ts, *_said(event))


class _State:
    def __init__(self) -> None:
        self.is_new = False
        self._last: Any = None
        self._newest: Any = None
        self._quiet = _Quiet()
        self._recent: dict[tuple[Any, ...], None] = {}

    @property
    def is_good(self) -> bool:
        return self._newest is not None

    def old(self, event: Any, is_switching: bool) -> list[Output]:
        if self.is_new:
            return []
        self._last = event
        self._quiet.spoke()
        said = _said(event)
        self._recent.pop(said, None)
        self._recent[said] = None
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        if is_switching and self._newest is not None and _said(self._newest) == said:
            self.is_new = True
            self._recent.clear()
        return [event]

    def new(self, event: Any, is_switching: bool) -> list[Output]:
        if self.is_new:
            return [] if self._is_old_news(event) else [event]
        self._newest = event
        return self.switch(is_forced=False) if is_switching else []

    def settle(self) -> None:
        self._quiet.settle()

    def is_ready(self) -> bool:
        return self._newest is not None or self._quiet.is_so

    def switch(self, is_forced: bool) -> list[Output]:
        newest, last = self._newest, self._last
        if newest is None:
            if self._quiet.is_so or is_forced:
                self.is_new = True
                self._recent.clear()
            return []
        if last is None or (newest.ts or 0) > (last.ts or newest.ts or 0):
            self.is_new = True
            self._recent.clear()
            return [newest]
        if _said(newest) == _said(last):
            self.is_new = True
            self._recent.clear()
        elif is_forced:
            self.is_new = True
            return [] if self._is_old_news(newest) else [newest]
        return []

    def _is_old_news(self, event: Any) -> bool:
        """Whether the new connection still says what the old one said before its last word."""
        last = self._last
        if last is None:
            return False
        if event.ts is not None and last.ts is not None and event.ts != last.ts:
            return bool(event.ts < last.ts)
        said = _said(event)
        if said in self._recent:
            if said == _said(last):
                self._recent.clear()
            return True
        self._recent.clear()
        return False


class _Books:
    def __init__(self, whole: Callable[[int | None, int], Sequence[Output]]) -> None:
        self.is_new = False
        self._whole = whole
        self._is_live = False
        self._old_ts: int | None = None
        self._newest: Book | None = None

    @property
    def is_good(self) -> bool:
        return self._is_live

    def old(self, event: Any, is_switching: bool) -> list[Output]:
        if self.is_new:
            return []
        if isinstance(event, Book) and event.ts is not None:
            self._old_ts = event.ts
        return [event]

    def new(self, event: Any, is_switching: bool) -> list[Output]:
        if self.is_new:
            return [event]
        if isinstance(event, Book):
            self._is_live = self._is_live or event.snapshot
            self._newest = event
        return []

    def broken(self) -> None:
        self._is_live = False

    def settle(self) -> None:
        pass

    def is_ready(self) -> bool:
        return self._is_live

    def switch(self, is_forced: bool) -> list[Output]:
        newest = self._newest
        if newest is None or not self._is_live:
            self.is_new = is_forced
            return []
        behind = None not in (newest.ts, self._old_ts) and newest.ts < self._old_ts  # type: ignore[operator]
        if behind and not is_forced:
            return []
        shown = list(self._whole(newest.ts, newest.recv))
        self.is_new = bool(shown) or is_forced
        return shown


class Handover:
    """The switch of all topics of one place from the old connection to the new one.

    Args:
        topics: Topic -> native symbol.
        needed: Topics that live now; the new connection must bring these.
        last_ids: Native symbol -> id of the last trade that came.
        whole: See ``Whole``.

    Attributes:
        is_switching: There is no way back.
        refused: Why the new connection can never do, or None.
    """

    def __init__(
        self,
        topics: Mapping[str, str],
        needed: Collection[str],
        last_ids: Mapping[str, int],
        whole: Whole,
    ) -> None:
        self.is_switching = False
        self.refused: str | None = None
        self._needed = frozenset(needed)
        self._topics: dict[str, _Topic] = {}
        self._names: dict[tuple[str, str], str] = {}
        for topic, native in topics.items():
            kind = parse_topic(topic).kind
            self._names[native, kind] = topic
            if kind == "book":
                self._topics[topic] = _Books(_bound(whole, native))
            elif kind in ("trade", "liquidation"):
                self._topics[topic] = _Facts(last_ids.get(native) if kind == "trade" else None)
            else:
                self._topics[topic] = _State()

    @property
    def is_done(self) -> bool:
        """Whether the new connection feeds everything."""
        return all(one.is_new for one in self._topics.values())

    @property
    def unproven(self) -> list[str]:
        """Topics of facts that were quiet: what comes next shows whether something was missed."""
        found = self._topics.items()
        return [name for name, one in found if isinstance(one, _Facts) and not one.is_proven]

    def settle(self) -> None:
        """Call this now and then once the new connection has asked for all its streams.

        What has come over neither of the two between two calls did not happen.
        """
        for one in self._topics.values():
            one.settle()

    def waits_for(self) -> list[str]:
        """Return the topics that the new connection is not yet proven to bring."""
        return [
            topic
            for topic, one in self._topics.items()
            if topic in self._needed and not one.is_ready()
        ]

    def old(self, outputs: Iterable[Output]) -> list[Output]:
        """Return what passes of the old connection's."""
        return self._pass(outputs, is_new=False)

    def new(self, outputs: Iterable[Output]) -> list[Output]:
        """Return what passes of the new connection's."""
        return self._pass(outputs, is_new=True)

    def switch(self, *, is_forced: bool = False) -> list[Output]:
        """Begin to switch, or, if forced, be done with it; return what passes because of it."""
        self.is_switching = True
        passed: list[Output] = []
        for topic, one in self._topics.items():
            if not one.is_new:
                passed += one.switch(is_forced)
                passed += self._healthy(topic, one)
        return passed

    def _pass(self, outputs: Iterable[Output], *, is_new: bool) -> list[Output]:
        passed: list[Output] = []
        books: list[tuple[str, _Books]] = []
        for output in outputs:
            if isinstance(output, Health):
                passed += self._health(output, is_new)
                continue
            if isinstance(output, Refused) and is_new and not self.is_switching:
                self.refused = output.reason
                continue
            book = output.book if isinstance(output, Checkpoint) else output
            topic = getattr(book, "topic", None)
            one = self._topics.get(topic) if topic is not None else None
            if one is None or topic is None:
                passed.append(output)
                continue
            was_new = one.is_new
            take = one.new if is_new else one.old
            passed += take(output, self.is_switching)
            if not was_new:
                passed += self._healthy(topic, one)
            if is_new and not one.is_new and isinstance(one, _Books) and self.is_switching:
                books.append((topic, one))
        for topic, waiting in books:
            if not waiting.is_new:
                passed += waiting.switch(is_forced=False)
                passed += self._healthy(topic, waiting)
        return passed

    def _health(self, health: Health, is_new: bool) -> list[Output]:
        """Return it as far as it is about topics that its connection feeds."""
        mine: list[str] = []
        for kind in health.kinds:
            one = self._topics.get(self._names.get((health.native, kind), ""))
            if one is None:
                continue
            if one.is_new == is_new:
                mine.append(kind)
            elif is_new and isinstance(one, _Books) and health.state != "live":
                one.broken()
        return [Health(health.native, tuple(mine), health.state, health.reason)] if mine else []

    def _healthy(self, topic: str, one: _Topic) -> list[Output]:
        """Return that a topic is good now, if it was just switched: it may have been broken."""
        if not (one.is_new and one.is_good):
            return []
        native, kind = next(key for key, name in self._names.items() if name == topic)
        return [Health(native, (kind,), "live", None)]


def _bound(whole: Whole, native: str) -> Callable[[int | None, int], Sequence[Output]]:
    return lambda ts, recv: whole(native, ts, recv)
