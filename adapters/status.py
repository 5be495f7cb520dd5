"""The health of one exchange and its symbols: what happened goes in, ``status`` events come out.

Pure. Times are µs. A topic is ``down`` until its first event; topics of facts (trades) count as
live as soon as their connection brings data, because no trade is no fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

from feed.models import ExchangeStatus, Health, SymbolStatus
from feed.topics import parse_topic


class Input(Enum):
    """What can happen to a topic, and (but for the proofs) to a connection."""

    FED = auto()  # data came
    HEARD = auto()  # a sign of life came, without data
    SILENT = auto()  # none came for too long
    LOST = auto()  # the connection ended
    UNREACHABLE = auto()  # a new one could not be made
    BROKEN = auto()  # a book failed its proof
    PROVEN = auto()  # it passed again
    REFUSED = auto()  # the exchange will not serve it
    STOPPED = auto()  # we end


#: What is not listed changes nothing. A silent topic stays stale while its connection is replaced;
#: a broken one is only good again when proven, or afresh on a new connection.
_NEXT: Mapping[Health, Mapping[Input, Health]] = {
    "down": {Input.FED: "live", Input.PROVEN: "live", Input.BROKEN: "invalid"},
    "live": {
        Input.SILENT: "stale",
        Input.LOST: "down",
        Input.UNREACHABLE: "down",
        Input.BROKEN: "invalid",
        Input.REFUSED: "down",
        Input.STOPPED: "down",
    },
    "stale": {
        Input.FED: "live",
        Input.HEARD: "live",
        Input.PROVEN: "live",
        Input.UNREACHABLE: "down",
        Input.BROKEN: "invalid",
        Input.REFUSED: "down",
        Input.STOPPED: "down",
    },
    "invalid": {
        Input.PROVEN: "live",
        Input.LOST: "down",
        Input.UNREACHABLE: "down",
        Input.REFUSED: "down",
        Input.STOPPED: "down",
    },
}
_BEST: tuple[Health, ...] = ("live", "stale", "invalid", "down")


class _Symbol:
    __slots__ = ("kinds", "reason", "since", "topic", "topics")

    def __init__(self, topic: str, now: int) -> None:
        self.topic = topic
        self.topics: list[str] = []
        self.kinds: dict[str, Health] = {}
        self.reason: str | None = "connecting"
        self.since = now


class StatusBoard:
    """Keeps the health of everything one publisher carries.

    Args:
        exchange: Whose.
        topics: The topics carried; those of kind ``status`` are left out.
        connections: How many connections there are, known by their index.
        threshold_ms: The silence after which a connection counts as stale; None: no such rule.
        now: µs.

    Attributes:
        waiting: Topics that are not live; only events of these need ``fed``.
        last_event: Topic -> when its last frame was received. The caller writes it, at every
            event, because it may not cost a call.
    """

    def __init__(
        self,
        exchange: str,
        topics: Iterable[str],
        *,
        connections: int,
        threshold_ms: int | None,
        now: int,
    ) -> None:
        self.waiting: set[str] = set()
        self.last_event: dict[str, int] = {}
        self._threshold_ms = threshold_ms
        self._all_topic = f"status.{exchange}.ALL"
        self._connections: list[Health] = ["down"] * connections
        self._all: Health = "down"
        self._all_reason: str | None = "connecting"
        self._all_since = now
        self._by_topic: dict[str, _Symbol] = {}
        self._symbols: dict[str, _Symbol] = {}
        for topic in sorted(topics):
            kind, _, name = parse_topic(topic)
            if kind == "status":
                continue
            symbol = self._symbols.get(name)
            if symbol is None:
                symbol = self._symbols[name] = _Symbol(f"status.{exchange}.{name}", now)
            symbol.topics.append(topic)
            symbol.kinds[kind] = "down"
            self._by_topic[topic] = symbol
            self.waiting.add(topic)

    def everything(self, now: int) -> list[SymbolStatus | ExchangeStatus]:
        """Return the present status of all, as a publisher says it at its start."""
        return [
            self._exchange_status(now),
            *(self._symbol_status(symbol, now) for symbol in self._symbols.values()),
        ]

    def topics(
        self, topics: Iterable[str], what: Input, reason: str | None, now: int
    ) -> list[SymbolStatus]:
        """Apply what happened to these topics; return the symbols whose status changed.

        Topics that are not carried are ignored.
        """
        changed: dict[str, _Symbol] = {}
        for topic in topics:
            symbol = self._by_topic.get(topic)
            if symbol is None:
                continue
            kind = parse_topic(topic).kind
            was = symbol.kinds[kind]
            state = _NEXT[was].get(what, was)
            if state == was:
                continue
            symbol.kinds[kind] = state
            symbol.since = now
            if state == "live":
                self.waiting.discard(topic)
                if set(symbol.kinds.values()) == {"live"}:
                    symbol.reason = None
            else:
                self.waiting.add(topic)
                symbol.reason = reason
            changed[symbol.topic] = symbol
        return [self._symbol_status(symbol, now) for symbol in changed.values()]

    def connection(
        self, index: int, what: Input, reason: str | None, now: int
    ) -> list[ExchangeStatus]:
        """Apply what happened to a connection; the exchange is as good as its best one."""
        was = self._connections[index]
        self._connections[index] = _NEXT[was].get(what, was)
        return self._judge(reason, now)

    def stopped(self, reason: str, now: int) -> list[SymbolStatus | ExchangeStatus]:
        """Say goodbye: nothing is live any more."""
        self._connections = ["down"] * len(self._connections)
        said: list[SymbolStatus | ExchangeStatus] = []
        said += self.topics(list(self._by_topic), Input.STOPPED, reason, now)
        said += self._judge(reason, now)
        return said

    def _judge(self, reason: str | None, now: int) -> list[ExchangeStatus]:
        down: Health = "down"
        best = min(self._connections, key=_BEST.index, default=down)
        if best == "live":
            reason = None
        # A new reason for being down (refused, say, where it only was away) is told as well.
        if best == self._all and (best != "down" or reason == self._all_reason):
            return []
        if best != self._all:
            self._all, self._all_since = best, now
        self._all_reason = reason
        return [self._exchange_status(now)]

    def _symbol_status(self, symbol: _Symbol, now: int) -> SymbolStatus:
        return SymbolStatus(
            symbol.topic,
            0,
            None,
            now,
            0,
            dict(symbol.kinds),
            symbol.reason,
            symbol.since,
            self._newest(symbol.topics),
            self._threshold_ms,
        )

    def _exchange_status(self, now: int) -> ExchangeStatus:
        return ExchangeStatus(
            self._all_topic,
            0,
            None,
            now,
            0,
            self._all,
            self._all_reason,
            self._all_since,
            max(self.last_event.values(), default=None),
            self._threshold_ms,
        )

    def _newest(self, topics: Sequence[str]) -> int | None:
        return max(
            (at for topic in topics if (at := self.last_event.get(topic)) is not None),
            default=None,
        )
