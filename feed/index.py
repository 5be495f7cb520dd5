"""What can be subscribed to: the catalogues of all publishers, searchable. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from feed.models import Catalogue, Instrument
from feed.topics import Topic, covering_texts, parse_topic


class Index:
    """The catalogues in hand, by topic and by kind.

    Attributes:
        catalogues: Exchange -> its catalogue.
        version: Grows with every change of what is carried.
    """

    def __init__(self) -> None:
        self.catalogues: dict[str, Catalogue] = {}
        self.version = 0
        self._by_kind: dict[str, dict[str, Topic]] = {}
        self._by_pattern: dict[str, list[str]] = {}
        self._listed: dict[tuple[str, str], Instrument] = {}

    def update(self, catalogue: Catalogue) -> list[str]:
        """Replace an exchange's catalogue; return the topics that are new, sorted.

        A topic that is no longer carried stays known until the process ends: what it last said
        may still be asked for.
        """
        for instrument in catalogue.instruments:
            self._listed[catalogue.exchange, instrument.symbol] = instrument
        self.catalogues[catalogue.exchange] = catalogue
        added = []
        for name in sorted(catalogue.carried()):
            try:
                topic = parse_topic(name)
            except ValueError:
                continue  # a publisher newer than we are
            topics = self._by_kind.setdefault(topic.kind, {})
            if name not in topics:
                topics[name] = topic
                added.append(name)
                for pattern in covering_texts(name)[1:]:
                    self._by_pattern.setdefault(pattern, []).append(name)
        if added:
            self.version += 1
        return added

    def is_carried(self, name: str) -> bool:
        """Whether some publisher says that it carries this exact topic."""
        return name in self._by_kind.get(name.partition(".")[0], ())

    def match(self, pattern: str) -> tuple[str, ...]:
        """Return the carried topics a pattern (or exact topic) covers, in the order listed.

        Raises:
            ValueError: Neither a pattern nor a topic.
        """
        if not parse_topic(pattern).is_pattern:
            return (pattern,) if self.is_carried(pattern) else ()
        # Looked up, not searched for: clients choose the patterns, thousands in one command.
        return tuple(self._by_pattern.get(pattern, ()))

    def why_unknown(self, topic: Topic) -> str:
        """Explain to a client why an exact topic is not carried, and what would change that."""
        if topic.exchange not in self.catalogues:
            known = ", ".join(sorted(self.catalogues)) or "none yet"
            return f"no publisher for exchange {topic.exchange!r}; there are: {known}"
        if (topic.exchange, topic.symbol) in self._listed:
            return (
                f"{topic.exchange} lists {topic.symbol}, but {topic.kind} of it is not carried; "
                f"add it to FEED_SYMBOLS (and FEED_KINDS) of the ingest process"
            )
        return f"{topic.exchange} lists no {topic.symbol}; see /v1/instruments"

    def near(self, topic: Topic) -> list[str]:
        """Return carried topics of the same kind that share the exchange or the symbol."""
        patterns = (f"{topic.kind}.{topic.exchange}.*", f"{topic.kind}.*.{topic.symbol}")
        return [name for pattern in patterns for name in self._by_pattern.get(pattern, ())]

    def topics(self, kind: str | None = None) -> Iterable[str]:
        """Return every carried topic, of one kind or all."""
        if kind is not None:
            return self._by_kind.get(kind, {})
        return [name for topics in self._by_kind.values() for name in topics]

    def instruments(self) -> list[Instrument]:
        """Return every listed instrument, by exchange and symbol."""
        return [self._listed[key] for key in sorted(self._listed)]
