"""Which topics are alive, from status events, publishers' beats and our own link. Pure."""

from __future__ import annotations

import msgspec

from feed.models import ExchangeStatus, SymbolStatus
from feed.topics import Topic

SILENT_AFTER_S = 2.0


class _Status(msgspec.Struct):
    """The fields of both kinds of status event that matter here."""

    kinds: dict[str, str] | None = None
    state: str | None = None
    last_event: int | None = None


#: Worst last; what a publisher newer than we are may say beside these counts as the worst.
_WORST = ("live", "stale", "invalid", "down")

_decode = msgspec.json.Decoder(_Status).decode
_encode = msgspec.json.Encoder().encode


def _badness(health: str) -> int:
    return _WORST.index(health) if health in _WORST else len(_WORST)


class Liveness:
    """What is known of every exchange, symbol and of our own link to the bus.

    Attributes:
        is_linked: Our own link to the bus proves delivery.
    """

    def __init__(self) -> None:
        self.is_linked = True
        self._beats: dict[str, float] = {}
        self._silent: set[str] = set()
        self._symbols: dict[tuple[str, str], dict[str, str]] = {}
        self._exchanges: dict[str, str] = {}

    def status(self, topic: Topic, body: bytes) -> None:
        """Take a publisher's status event; one that cannot be read changes nothing."""
        try:
            status = _decode(body)
        except ValueError:
            return
        if topic.symbol == "ALL":
            if status.state is not None:
                self._exchanges[topic.exchange] = status.state
        elif status.kinds is not None:
            self._symbols[topic.exchange, topic.symbol] = status.kinds

    def health(self, topic: Topic) -> str | None:
        """Return the topic's health as far as known: the worst of what is said about it."""
        own = self._symbols.get((topic.exchange, topic.symbol), {}).get(topic.kind)
        said = ["live" if topic.kind == "status" else own]
        said.append(self._exchanges.get(topic.exchange))
        if said[1] == "live":
            said.pop()  # that an exchange is there says nothing of one topic
        if self.is_cut_off(topic.exchange):
            said.append("stale")
        return max((health for health in said if health is not None), key=_badness, default=None)

    def is_cut_off(self, exchange: str) -> bool:
        """Whether nothing can be heard of the exchange: its publisher or the bus is silent."""
        return not self.is_linked or exchange in self._silent

    def exchange(self, exchange: str) -> str | None:
        """Return the health of a whole exchange."""
        if self.is_cut_off(exchange):
            return "stale"
        return self._exchanges.get(exchange)

    def expect(self, exchange: str, now_s: float) -> None:
        """A publisher wrote its catalogue: from now on it must beat."""
        self._beats.setdefault(exchange, now_s)

    def beat(self, exchange: str, now_s: float) -> bool:
        """Take a beat; return whether the publisher was counted as silent."""
        self._beats[exchange] = now_s
        was_silent = exchange in self._silent
        self._silent.discard(exchange)
        return was_silent

    def silent(self, now_s: float) -> list[str]:
        """Return publishers that have newly been silent for too long (monotonic seconds)."""
        found = [
            exchange
            for exchange, at in self._beats.items()
            if now_s - at > SILENT_AFTER_S and exchange not in self._silent
        ]
        self._silent.update(found)
        return found

    def restart(self, now_s: float) -> None:
        """Give every publisher its full time again: the link was the trouble, not they."""
        self._beats = dict.fromkeys(self._beats, now_s)

    def link(self, is_linked: bool) -> bool:
        """Note our own link's state; return whether it changed."""
        changed = self.is_linked != is_linked
        self.is_linked = is_linked
        return changed

    def own_status(self, topic: Topic, newest: bytes | None, reason: str, now: int) -> bytes:
        """Return a status event made by this server: what holds for ``topic`` just now."""
        status = _Status()
        if newest is not None:
            try:
                status = _decode(newest)
            except ValueError:
                pass
        is_bad = self.is_cut_off(topic.exchange)
        threshold_ms = int(SILENT_AFTER_S * 1000)
        if topic.symbol == "ALL":
            state = "stale" if is_bad else self._exchanges.get(topic.exchange, "live")
            return _encode(
                ExchangeStatus(
                    str(topic),
                    None,
                    None,
                    now,
                    now,
                    state,  # type: ignore[arg-type]  # a publisher's own word
                    reason,
                    now,
                    status.last_event,
                    threshold_ms,
                )
            )
        kinds = dict(status.kinds or {})
        if is_bad:
            kinds = dict.fromkeys(kinds, "stale")
        return _encode(
            SymbolStatus(
                str(topic),
                None,
                None,
                now,
                now,
                kinds,  # type: ignore[arg-type]  # a publisher's own words
                reason,
                now,
                status.last_event,
                threshold_ms,
            )
        )
