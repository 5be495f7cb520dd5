"""Topic grammar: ``<kind>.<exchange>.<symbol>``, split at the first two dots; patterns. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

CANDLES = tuple(f"candle-{span}" for span in ("1s", "1m", "5m", "15m", "1h", "1d"))
#: Facts: never dropped without a gap.
EVENT_KINDS = frozenset({"trade", "book", "liquidation"})
#: A newest value makes older ones worthless; may be conflated.
STATE_KINDS = frozenset({"quote", "depth", "ticker", "derivative", "status", *CANDLES})
KINDS = EVENT_KINDS | STATE_KINDS

_EXCHANGE = re.compile(r"[a-z0-9-]{1,32}")
_SYMBOL = re.compile(r"[A-Z0-9._:-]{1,64}")
_NOT_IN_SYMBOL = re.compile(r"[^A-Z0-9._:-]")


class Topic(NamedTuple):
    """A topic or a pattern, taken apart; ``exchange`` and ``symbol`` may be ``*``."""

    kind: str
    exchange: str
    symbol: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.exchange}.{self.symbol}"

    @property
    def is_pattern(self) -> bool:
        return self.exchange == "*" or self.symbol == "*"

    @property
    def is_state(self) -> bool:
        return self.kind in STATE_KINDS

    @property
    def specificity(self) -> int:
        """Greater wins: exact, ``kind.exchange.*``, ``kind.*.symbol``, ``kind.*.*``."""
        return 2 * (self.exchange != "*") + (self.symbol != "*")

    def covers(self, topic: Topic) -> bool:
        """Whether this exact topic or pattern covers the exact ``topic``."""
        if self.kind != topic.kind or self.symbol not in ("*", topic.symbol):
            return False
        if self.exchange == "*":
            return topic.exchange != "composite"
        return self.exchange == topic.exchange

    def covering(self) -> tuple[Topic, ...]:
        """Every string that covers this exact topic, most specific first."""
        kind, exchange, symbol = self
        named = (self, Topic(kind, exchange, "*"))
        if exchange == "composite":
            return named
        return (*named, Topic(kind, "*", symbol), Topic(kind, "*", "*"))


@lru_cache(maxsize=1 << 16)
def parse_topic(text: str) -> Topic:
    """Take ``text`` apart.

    Raises:
        ValueError: Not a topic or pattern; the message says which part and why.
    """
    kind, _, rest = text.partition(".")
    exchange, _, symbol = rest.partition(".")
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind[:40]!r}: one of {', '.join(sorted(KINDS))}")
    if exchange != "*" and not _EXCHANGE.fullmatch(exchange):
        raise ValueError(f"{exchange[:40]!r} is not an exchange name; write kind.exchange.SYMBOL")
    if symbol != "*" and not _SYMBOL.fullmatch(symbol):
        raise ValueError(f"{symbol[:70]!r} is not a symbol: 1 to 64 of A-Z 0-9 . _ : -")
    return Topic(kind, exchange, symbol)


@lru_cache(maxsize=1 << 16)
def covering_texts(text: str) -> tuple[str, ...]:
    """Return every string that covers the exact topic ``text``, most specific first."""
    return tuple(map(str, parse_topic(text).covering()))


def symbol_text(native: str) -> str:
    """Write an exchange's own name in our character set (``protocol.md``, Topics).

    Any other character becomes ``_``, its code point in hex, ``_``: no two names can meet.
    """
    return _NOT_IN_SYMBOL.sub(lambda m: f"_{ord(m[0]):X}_", native)


def suggestions(text: str, known: Iterable[str]) -> list[str]:
    """Return up to three known topics that ``text`` may have meant, best first."""
    from difflib import get_close_matches

    return get_close_matches(text, known, n=3, cutoff=0.75)
