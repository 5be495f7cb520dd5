"""What can be subscribed to: the catalogues of all publishers, searchable. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from feed.models import Catalogue, Instrument
from feed.topics import Topic, parse_topic


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
        self._listed: dict[tuple[str, str], Instrument] = {}
        self._matches: dict[str, tuple[str, ...]] = {}

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
        if added:
            self.version += 1
            self._matches.clear()
        return added

    def is_carried(self, name: str) -> bool:
        """Whether some publisher says that it carries this exact topic."""
        return name in self._by_kind.get(name.partition(".")[0], ())

    def match(self, pattern: str) -> tuple[str, ...]:
        """Return the carried topics a pattern covers, in the order they were listed."""
        found = self._matches.get(pattern)
        if found is None:
            wanted = parse_topic(pattern)
            topics = self._by_kind.get(wanted.kind, {})
            found = tuple(name for name, topic in topics.items() if wanted.covers(topic))
            if len(self._matches) < 10_000:  # clients choose the patterns
                self._matches[pattern] = found
        return found

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

    def topics(self, kind: str | None = None) -> Iterable[str]:
        """Return every carried topic, of one kind or all."""
        if kind is not None:
            return self._by_kind.get(kind, {})
        return [name for topics in self._by_kind.values() for name in topics]

    def instruments(self) -> list[Instrument]:
        """Return every listed instrument, by exchange and symbol."""
        return [self._listed[key] for key in sorted(self._listed)]
