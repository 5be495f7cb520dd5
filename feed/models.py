"""What crosses the bus: normalised events and the catalogue, fields as in ``docs/protocol.md``.

Pure. Prices, sizes and rates are decimal text with the exchange's own digits; times are integer
microseconds since the epoch, UTC. Nothing is a float. Event structs are made by adapters with
``seq`` and ``pub`` 0; the sequencer stamps both, once, before anybody else sees the event.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Side: TypeAlias = Literal["buy", "sell"]
#: One price level: (price, size). Size "0" in a delta removes the level.
Level: TypeAlias = tuple[str, str]
Health: TypeAlias = Literal["live", "stale", "invalid", "down"]


class Trade(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="trade"):
    """One public trade.

    Attributes:
        topic: ``trade.<exchange>.<symbol>``.
        seq: Position in the topic, +1 an entry; 0 until stamped.
        ts: When the exchange matched it; None where it does not say.
        recv: When our socket yielded the frame.
        pub: When ``seq`` was given; 0 until stamped.
        id: The exchange's trade id.
        side: Side of the taker, never of the resting order.
        backfill: Fetched after a lost connection, so ``id`` may lie below ids already seen.
    """

    topic: str
    seq: int
    ts: int | None
    recv: int
    pub: int
    id: str | None
    price: str
    size: str
    side: Side | None
    backfill: bool = False


class Liquidation(msgspec.Struct, frozen=True, gc=False, tag="liquidation"):
    """One forced order; ``side`` is the side of that order."""

    topic: str
    seq: int
    ts: int | None
    recv: int
    pub: int
    id: str | None
    price: str
    size: str
    side: Side | None


class Quote(msgspec.Struct, frozen=True, gc=False, tag="quote"):
    """Best bid and ask with sizes; both None where a side is empty."""

    topic: str
    seq: int
    ts: int | None
    recv: int
    pub: int
    bid: str | None
    bid_size: str | None
    ask: str | None
    ask_size: str | None


class Depth(msgspec.Struct, frozen=True, gc=False, tag="depth"):
    """The best 20 levels a side, whole, best first."""

    topic: str
    seq: int
    ts: int | None
    recv: int
    pub: int
    bids: list[Level]
    asks: list[Level]


class Book(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="book"):
    """Changed levels; with ``snapshot`` the whole window, what was before is forgotten."""

    topic: str
    seq: int
    ts: int | None
    recv: int
    pub: int
    bids: list[Level]
    asks: list[Level]
    snapshot: bool = False


class Ticker(msgspec.Struct, frozen=True, gc=False, tag="ticker"):
    """Last price and the 24-hour figures; missing ones None."""

    topic: str
    seq: int
    ts: int | None
    recv: int
    pub: int
    last: str | None
    open: str | None
    high: str | None
    low: str | None
    volume: str | None
    quote_volume: str | None
    bid: str | None
    ask: str | None


class Derivative(msgspec.Struct, frozen=True, gc=False, tag="derivative"):
    """Mark, index, funding and open interest, as far as the exchange gives them.

    Attributes:
        funding_rate: Of the running funding period, a fraction (``0.0001`` is 1 bp).
        funding_time: When it is next paid, µs.
        open_interest: In the instrument's ``size_unit``.
    """

    topic: str
    seq: int
    ts: int | None
    recv: int
    pub: int
    mark: str | None
    index: str | None
    funding_rate: str | None
    funding_time: int | None
    open_interest: str | None


class SymbolStatus(msgspec.Struct, frozen=True, gc=False, tag="status"):
    """Health of one symbol, whole each time.

    Attributes:
        kinds: kind -> health of each topic of the symbol.
        reason: What happened, a short snake_case word, e.g. ``checksum``.
        since: When it became so, µs.
        last_event: When the last frame for it was received, µs; None before the first.
        threshold_ms: The silence after which it counts as stale; None where no rule applies.
    """

    topic: str
    seq: int | None
    ts: int | None
    recv: int
    pub: int
    kinds: dict[str, Health]
    reason: str | None
    since: int
    last_event: int | None
    threshold_ms: int | None


class ExchangeStatus(msgspec.Struct, frozen=True, gc=False, tag="status"):
    """Health of a whole exchange, topic ``status.<exchange>.ALL``."""

    topic: str
    seq: int | None
    ts: int | None
    recv: int
    pub: int
    state: Health
    reason: str | None
    since: int
    last_event: int | None
    threshold_ms: int | None


Cause: TypeAlias = Literal["upstream_disconnect", "upstream_sequence", "publisher_restart"]


class Gap(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="gap"):
    """A hole in a topic, an entry like any other.

    Attributes:
        lost: How many events are missing; 0 where proven none, None where unknowable.
        from_, to: Of ``publisher_restart`` the unused positions, inclusive; else None.
    """

    topic: str
    seq: int
    ts: int | None
    recv: int
    pub: int
    cause: Cause
    lost: int | None
    from_: int | None = msgspec.field(name="from", default=None)
    to: int | None = None


Event: TypeAlias = (
    Trade
    | Liquidation
    | Quote
    | Depth
    | Book
    | Ticker
    | Derivative
    | SymbolStatus
    | ExchangeStatus
    | Gap
)


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument of one exchange, as ``/v1/instruments`` shows it.

    Attributes:
        symbol: Canonical, e.g. ``BTC-USDT-PERP``.
        native: The exchange's own name, as in its messages.
        size_unit: What ``size`` counts in every event of it.
        contract_size: Base (linear) or quote (inverse) units a contract, decimal text.
        expiry: µs, None where it does not expire.
        state: ``trading``, or the exchange's own word in lower case.
        topics: The topics this publisher carries of it; empty when it is only listed.
        book_levels: Levels a side in ``book``; None when no book is carried.
    """

    exchange: str
    symbol: str
    native: str
    type: Literal["spot", "perpetual", "future", "option"]
    base: str
    quote: str
    settle: str | None = None
    inverse: bool = False
    size_unit: Literal["base", "quote", "contract"] = "base"
    contract_size: str | None = None
    contract_currency: str | None = None
    price_step: str | None = None
    size_step: str | None = None
    expiry: int | None = None
    state: str = "trading"
    topics: tuple[str, ...] = ()
    book_levels: int | None = None


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """What one publisher lists and carries; replaces its former one whole.

    Attributes:
        source: Where its data comes from: the exchange itself, a recorded tape, or made up.
        banner: A plain sentence every user must see (``REPLAY: …``), or None.
        updated: When it was written, µs.
        instruments: Listed ones; those with ``topics`` are carried.
        topics: Topics that belong to no instrument (``status.<exchange>.ALL``).
    """

    exchange: str
    source: Literal["live", "replay", "sim"]
    banner: str | None = None
    updated: int
    instruments: tuple[Instrument, ...]
    topics: tuple[str, ...] = ()

    def carried(self) -> set[str]:
        """Return every topic this publisher carries."""
        found = set(self.topics)
        for instrument in self.instruments:
            found.update(instrument.topics)
        return found
