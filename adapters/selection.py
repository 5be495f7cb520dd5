"""Which of an exchange's instruments are carried, and what the catalogue then says. Pure."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

import msgspec

from adapters.base import Adapter, Plan, Stream
from feed.errors import ConfigError
from feed.models import Catalogue, Instrument
from feed.topics import KINDS

log = logging.getLogger(__name__)

#: Carried where ``FEED_SYMBOLS`` says nothing, as far as the exchange lists them.
DEFAULT_SYMBOLS = tuple(
    f"{base}-{quote}{suffix}"
    for base in ("BTC", "ETH", "SOL", "XRP", "DOGE")
    for quote in ("USD", "USDT", "USDC")
    for suffix in ("", "-PERP")
)


class Selection(msgspec.Struct, frozen=True):
    """What one exchange's ingest is to do.

    Attributes:
        plans: One connection each.
        carried: Topics each plan feeds, in the order of ``plans``.
        listed: All instruments, those carried with their topics.
        kinds: The kinds wanted.
    """

    plans: tuple[Plan, ...]
    carried: tuple[frozenset[str], ...]
    listed: tuple[Instrument, ...]
    kinds: frozenset[str]

    @property
    def topics(self) -> set[str]:
        """Every topic of instruments, their ``status`` too."""
        return {topic for instrument in self.listed for topic in instrument.topics}

    def catalogue(
        self,
        exchange: str,
        source: Literal["live", "replay", "sim"],
        banner: str | None,
        now: int,
    ) -> Catalogue:
        return Catalogue(
            exchange=exchange,
            source=source,
            banner=banner,
            updated=now,
            instruments=self.listed,
            topics=(f"status.{exchange}.ALL",),
        )


def wanted_kinds(adapter: type[Adapter], names: Sequence[str]) -> frozenset[str]:
    """Return which of the kinds asked for the adapter has; all of its own if none was named.

    Raises:
        ConfigError: A kind that does not exist.
    """
    check_kinds(names)
    return adapter.kinds & frozenset(names) if names else adapter.kinds


def check_kinds(names: Iterable[str]) -> None:
    """Refuse kinds that no adapter could ever carry.

    Raises:
        ConfigError: Names the kind and those there are.
    """
    possible = sorted(kind for kind in KINDS if not kind.startswith("candle") and kind != "status")
    for name in names:
        if name not in possible:
            raise ConfigError(f"FEED_KINDS: unknown kind {name!r} (there are: {possible})")


def check_listing(exchange: str, instruments: Sequence[Instrument]) -> None:
    """Refuse a listing with two instruments under one name.

    Raises:
        ConfigError: Names both.
    """
    seen: dict[str, str] = {}
    for instrument in instruments:
        other = seen.setdefault(instrument.symbol, instrument.native)
        if other != instrument.native:
            raise ConfigError(
                f"{exchange} lists {other} and {instrument.native}, both would be "
                f"{instrument.symbol}"
            )


def by_symbol(
    adapter: type[Adapter],
    instruments: Sequence[Instrument],
    symbols: Sequence[str],
    kinds: frozenset[str],
) -> Selection:
    """Select by canonical name; without names, those of the default list that are trading."""
    names = frozenset(symbols or DEFAULT_SYMBOLS)
    picked = [
        instrument
        for instrument in instruments
        if instrument.symbol in names and (symbols or instrument.state == "trading")
    ]
    streams = [stream for instrument in picked for stream in adapter.streams(instrument, kinds)]
    return _select(adapter, instruments, streams, kinds)


def by_stream(
    adapter: type[Adapter],
    listed: Sequence[Instrument],
    streams: Collection[Stream],
    symbols: Sequence[str],
    kinds: frozenset[str],
) -> Selection:
    """Select exactly what a tape has, less what ``symbols`` leaves out.

    A recorder takes what it finds, so a tape may hold an instrument that cannot be told (Deribit's
    combinations) or whose name another one has: it is left out with a warning, the rest is played.

    Args:
        listed: From the tape's own listing; empty where it has none.

    Raises:
        ConfigError: Neither the listing nor the adapter's rules can read any native name of it.
    """
    instruments = _named(adapter, listed, {stream.native for stream in streams})
    if streams and not any(stream.native in instruments for stream in streams):
        native = min(stream.native for stream in streams)
        raise ConfigError(f"{adapter.name}: cannot tell what instrument {native!r} is")
    names = frozenset(symbols)
    kept = [
        stream
        for stream in streams
        if (known := instruments.get(stream.native)) and (not names or known.symbol in names)
    ]
    ordered = sorted(instruments.values(), key=lambda instrument: instrument.symbol)
    return _select(adapter, ordered, sorted(kept, key=lambda s: (s.native, s.channel)), kinds)


def _named(
    adapter: type[Adapter], listed: Sequence[Instrument], natives: Collection[str]
) -> dict[str, Instrument]:
    """Return by native name what a tape has and what its listing has beside, one of each name."""
    told = {instrument.native: instrument for instrument in listed}
    found: dict[str, Instrument] = {}
    owners: dict[str, str] = {}
    for native in (*sorted(natives), *sorted(told.keys() - natives)):
        one = told.get(native) or adapter.instrument(native)
        if one is None:
            log.warning("%s: cannot tell what instrument %r is: left out", adapter.name, native)
            continue
        owner = owners.setdefault(one.symbol, native)
        if owner == native:
            found[native] = one
        elif native in natives:
            log.warning(
                "%s: %r would be %s as %r is: left out", adapter.name, native, one.symbol, owner
            )
    return found


def _select(
    adapter: type[Adapter],
    instruments: Sequence[Instrument],
    streams: Sequence[Stream],
    kinds: frozenset[str],
) -> Selection:
    check_listing(adapter.name, instruments)
    by_native = {instrument.native: instrument for instrument in instruments}
    plans = adapter.plan(streams, by_native)
    topics: dict[str, set[str]] = {}
    levels: dict[str, int | None] = {}
    carried: list[frozenset[str]] = []
    for plan in plans:
        of_plan: set[str] = set()
        for native, instrument in plan.instruments.items():
            mine = [stream for stream in plan.streams if stream.native == native]
            fed, book_levels = adapter.carried(mine, instrument, kinds)
            of_plan.update(fed)
            if fed:
                topics.setdefault(native, set()).update(fed)
            if book_levels is not None:
                levels[native] = book_levels
        carried.append(frozenset(of_plan))
    return Selection(
        tuple(plans),
        tuple(carried),
        tuple(_with_topics(adapter.name, one, topics, levels) for one in instruments),
        kinds,
    )


def _with_topics(
    exchange: str,
    instrument: Instrument,
    topics: Mapping[str, set[str]],
    levels: Mapping[str, int | None],
) -> Instrument:
    fed = topics.get(instrument.native)
    if not fed:
        return instrument
    status = f"status.{exchange}.{instrument.symbol}"
    return msgspec.structs.replace(
        instrument,
        topics=tuple(sorted({*fed, status})),
        book_levels=levels.get(instrument.native),
    )


class SymbolCheck:
    """Finds out whether each symbol that was asked for is listed by at least one exchange.

    Args:
        symbols: As asked for; may be empty.
        exchanges: All that will report.
    """

    def __init__(self, symbols: Sequence[str], exchanges: Iterable[str]) -> None:
        self._missing = set(symbols)
        self._silent = set(exchanges)
        self._known: set[str] = set()

    def report(self, exchange: str, instruments: Iterable[Instrument]) -> None:
        """Take one exchange's listing into account.

        Raises:
            ConfigError: It was the last, and a symbol is listed nowhere; suggests others.
        """
        self._known.update(instrument.symbol for instrument in instruments)
        self._silent.discard(exchange)
        self._missing -= self._known
        if self._silent or not self._missing:
            return
        symbol = sorted(self._missing)[0]
        near = get_close_matches(symbol.upper(), self._known, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"unknown symbol {symbol[:70]!r}: no exchange asked lists it{hint}")
