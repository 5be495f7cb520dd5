"""Everything an operator can change: ``FEED_*`` variables, read once at start. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from feed.bus.base import Retention
from feed.errors import ConfigError

Positive = Annotated[int, Meta(gt=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings; a field ``x`` is the variable ``FEED_X``. Lists are separated by commas.

    Attributes:
        bus: ``redis://…``, ``rediss://…``, ``unix://…``, ``memory://``; empty: the embedded Valkey.
        host, port: Where the web process listens; port 0 takes a free one.
        workers: Processes that serve that port.
        exchanges: Which adapters ingest runs; ``all`` is every one but ``sim``; empty: the largest
            few.
        symbols: What is carried, canonical names; empty: the default list of ``docs/``.
        kinds: Which kinds are carried; empty: all that the exchange has.
        endpoints: ``exchange=URL`` pairs: where an adapter connects instead, WebSocket and REST.
        outbox_max_bytes: What may wait for one client.
        max_topics: Topics one connection may be subscribed to.
        max_clients: Connections the server accepts, by all its workers.
        connects_per_s: WebSockets and streams that each worker lets in a second; more get 503.
            0: no limit.
        commands_per_s: Commands a client may send; more is ``rate_limited``.
        message_max_bytes: Largest message a client may send.
        heartbeat_s: Between two heartbeats to a client.
        stuck_after_s: A client on which nothing moved for so long is closed.
        drain_s: When the process is asked to end, its clients are closed spread over so long.
        linger_s: How long a topic stays joined on the bus after its last client left.
        patience_max_ms: Longest wait of an event for others to share its write, where little CPU
            time is left; 0: none.
        allowed_origins: Browser origins beside our own that may connect; ``*`` for any.
        retention_*: Entries kept a topic by kind; ``expire_s``: how long an untouched one stays.
        backlog_max_bytes, backlog_max_s: What an exchange's publisher keeps while the bus is away;
            what is more or older is given up, and told as a gap.
        lease_s: After so long without a renewal another ingest may take the exchange over.
        sim_rate, sim_symbols, sim_kinds: What the ``sim`` exchange makes up, events a second in
            all.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
    """

    bus: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    workers: Annotated[int, Meta(gt=0, le=256)] = 1
    exchanges: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    outbox_max_bytes: Annotated[int, Meta(ge=65536)] = 1 << 20
    max_topics: Positive = 5_000
    max_clients: Positive = 20_000
    connects_per_s: Annotated[float, Meta(ge=0)] = 500.0
    commands_per_s: Positive = 20
    message_max_bytes: Positive = 262_144
    heartbeat_s: PositiveFloat = 5.0
    stuck_after_s: PositiveFloat = 30.0
    drain_s: Annotated[float, Meta(ge=0)] = 10.0
    linger_s: PositiveFloat = 30.0
    patience_max_ms: Annotated[float, Meta(ge=0)] = 20.0
    allowed_origins: tuple[str, ...] = ()
    retention_trade: Positive = 5_000
    retention_liquidation: Positive = 1_000
    retention_book: Positive = 2_000
    retention_state: Positive = 100
    retention_expire_s: Positive = 86_400
    backlog_max_bytes: Annotated[int, Meta(ge=65536)] = 64 << 20
    backlog_max_s: PositiveFloat = 60.0
    lease_s: PositiveFloat = 3.0
    sim_rate: PositiveFloat = 1_000.0
    sim_symbols: Annotated[int, Meta(gt=0, le=1000)] = 100
    sim_kinds: tuple[str, ...] = ("trade", "quote")
    log_level: str = "info"

    @property
    def retention(self) -> Retention:
        return Retention(
            trade=self.retention_trade,
            liquidation=self.retention_liquidation,
            book=self.retention_book,
            state=self.retention_state,
            expire_s=self.retention_expire_s,
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **flags: Any) -> Settings:
        """Read ``FEED_*`` variables; ``flags`` that are not None win.

        Raises:
            ConfigError: A variable we don't know, or a value that does not fit, by its name.
        """
        hints = get_type_hints(cls, include_extras=True)
        raw: dict[str, Any] = {}
        for name, value in environ.items():
            if not name.startswith("FEED_"):
                continue
            field = name[5:].lower()
            if field not in hints:
                near = difflib.get_close_matches(field, hints, n=1)
                hint = f"; did you mean FEED_{near[0].upper()}?" if near else ""
                raise ConfigError(f"unknown setting {name}{hint}")
            raw[field] = value
        raw.update({field: value for field, value in flags.items() if value is not None})
        for field, value in raw.items():
            if hints[field] == tuple[str, ...] and isinstance(value, str):
                raw[field] = tuple(part for part in map(str.strip, value.split(",")) if part)
            try:
                msgspec.convert(raw[field], hints[field], strict=False)
            except msgspec.ValidationError as e:
                raise ConfigError(f"FEED_{field.upper()}={value!r}: {e}") from e
        settings = msgspec.convert(raw, cls, strict=False)
        if settings.log_level not in ("debug", "info", "warning", "error"):
            raise ConfigError(
                f"FEED_LOG_LEVEL={settings.log_level!r}: one of debug, info, warning, error"
            )
        return settings

    def to_env(self) -> dict[str, str]:
        """Return the settings that differ from the defaults, as variables for a child process."""
        default = Settings()
        changed = {
            name: getattr(self, name)
            for name in self.__struct_fields__
            if getattr(self, name) != getattr(default, name)
        }
        return {
            f"FEED_{name.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)
            for name, value in changed.items()
        }

    def endpoint(self, exchange: str) -> str | None:
        """Return where this exchange's adapter connects instead, e.g. ``http://127.0.0.1:9001``."""
        for pair in self.endpoints:
            name, _, url = pair.partition("=")
            if name == exchange:
                return url
        return None
