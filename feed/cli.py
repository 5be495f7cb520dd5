"""The ``feed`` command: arguments in, one clear line and exit code 2 when they are wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

import click

from feed.config import Settings
from feed.errors import ConfigError, FeedError

_URL = "http://127.0.0.1:8000"


class Group(click.Group):
    """Turns our errors into one line and an exit code, whatever command raised them."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as e:
            click.echo(f"feed: {e}", err=True)
            ctx.exit(2)
        except FeedError as e:
            click.echo(f"feed: {e}", err=True)
            ctx.exit(1)


def _settings(is_one_of_several: bool = False, **flags: Any) -> Settings:
    settings = Settings.from_env(os.environ, **flags)
    who = "%(name)s[%(process)d]" if is_one_of_several else "%(name)s"
    logging.basicConfig(
        level=settings.log_level.upper(),
        format=f"%(asctime)s %(levelname)-7s {who}: %(message)s",
        stream=sys.stderr,
    )
    for chatty in ("websockets", "uvicorn.error", "httpx2", "httpcore2"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))
    return settings


def _run(main: Coroutine[Any, Any, None]) -> None:
    import uvloop

    try:
        uvloop.run(main)
    finally:
        main.close()  # a signal may have come before it was started


def _run_until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run ``work``, which ends soon after its event is set by SIGINT or SIGTERM.

    asyncio would cancel the main task at SIGINT, and a cancellation can be swallowed on the way; so
    the signals are ours before there is a loop, and none is lost between the two handlers.
    """
    early: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        signal.signal(number, lambda number, frame: early.append(number))

    async def main() -> None:
        stop = asyncio.Event()
        for number in numbers:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        if early:
            stop.set()
        await work(stop)

    _run(main())


def _names(values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Read a repeatable option that also takes commas; None where it was not given."""
    names = tuple(name for value in values for name in value.split(",") if name)
    return names or None


_bus = click.option("--bus", metavar="URL", help="redis://…, rediss://…, unix://… [FEED_BUS]")
_exchange = click.option(
    "--exchange",
    multiple=True,
    metavar="NAME",
    help="An exchange, e.g. binance; repeat or separate by commas. [FEED_EXCHANGES; default: all]",
)
_symbol = click.option(
    "--symbol",
    multiple=True,
    metavar="SYMBOL",
    help="A symbol, e.g. BTC-USDT; repeat or separate by commas. "
    "[FEED_SYMBOLS; default: BTC, ETH, SOL, XRP, DOGE in USD, USDT, USDC and their perpetuals]",
)
_kind = click.option(
    "--kind",
    multiple=True,
    metavar="KIND",
    help="trade, quote, book, depth, ticker, derivative. [FEED_KINDS; default: all]",
)
_endpoint = click.option(
    "--endpoint",
    multiple=True,
    metavar="NAME=URL",
    help="Connect an exchange's adapter to this address instead. [FEED_ENDPOINTS]",
)
_host = click.option("--host", metavar="ADDRESS", help="Listen here. [FEED_HOST; 127.0.0.1]")
_port = click.option("--port", type=int, metavar="PORT", help="0: a free one. [FEED_PORT; 8000]")
_workers = click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Processes that serve the port, with its clients spread evenly. [FEED_WORKERS; 1]",
)
_tape = click.option(
    "--tape",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PATH",
    help="A recorded session (.jsonl.gz, .jsonl.zst); repeat for several.",
)
_speed = click.option(
    "--speed", default="1", metavar="1|N|max", show_default=True, help="How fast a tape runs."
)
_url = click.option(
    "--url", default=_URL, show_default=True, metavar="URL", help="The web process to ask."
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pricefeed", prog_name="feed")
def main() -> None:
    """A self-hosted, real-time crypto price feed.

    \b
    Start everything on this machine:       feed run
    Look at prices in the terminal:         feed tail 'quote.*.BTC-USDT'
    On a server, over a Redis or Valkey:    FEED_BUS=redis://… feed ingest
                                            FEED_BUS=redis://… feed serve
    See what would go wrong:                feed check

    Every option of serve, ingest and run is also a FEED_* variable, named in its help; an option
    wins. All settings: docs/settings.md.
    """


@main.command()
@click.option(
    "--source",
    type=click.Choice(["auto", "live", "tape"]),
    default="auto",
    show_default=True,
    help="auto: live, or the bundled tapes in a loop where no exchange can be reached.",
)
@_tape
@_speed
@click.option("--loop", is_flag=True, help="Start a tape over when it ends.")
@_exchange
@_symbol
@_kind
@_endpoint
@_host
@_port
@_workers
@_bus
def run(
    source: str,
    tape: tuple[Path, ...],
    speed: str,
    loop: bool,
    exchange: tuple[str, ...],
    symbol: tuple[str, ...],
    kind: tuple[str, ...],
    endpoint: tuple[str, ...],
    host: str | None,
    port: int | None,
    workers: int | None,
    bus: str | None,
) -> None:
    """Start ingest, web and a bus on this machine; Ctrl-C ends all of it.

    \b
    feed run                                       live prices, or a replay if offline
    feed run --exchange kraken --symbol BTC-USD    one exchange, one symbol
    feed run --source tape --tape s.jsonl.gz --speed 10 --loop
    """
    settings = _settings(
        bus=bus,
        host=host,
        port=port,
        workers=workers,
        exchanges=_names(exchange),
        symbols=_names(symbol),
        kinds=_names(kind),
        endpoints=_names(endpoint),
    )
    from adapters.registry import chosen
    from adapters.replay import parse_speed
    from feed import supervisor

    chosen(settings.exchanges)
    parse_speed(speed)
    if tape and source == "live":
        raise ConfigError("--tape does not go with --source live")
    ingest_flags = ["--source", "tape" if tape else source, "--speed", speed]
    for path in tape:
        ingest_flags += ["--tape", str(path)]
    if loop or (source == "auto" and not tape):
        ingest_flags.append("--loop")
    sys.exit(supervisor.run(settings, ingest_flags))


@main.command()
@_host
@_port
@_workers
@_bus
@click.option("--fd", type=int, hidden=True, help="Serve on this inherited socket.")
@click.option("--channel", type=int, hidden=True, help="Serve who comes over this inherited one.")
def serve(
    host: str | None,
    port: int | None,
    workers: int | None,
    bus: str | None,
    fd: int | None,
    channel: int | None,
) -> None:
    """Start a web process: WebSocket, SSE, HTTP and the dashboard.

    It needs a bus to read from: FEED_BUS=redis://localhost:6379/0 feed serve

    With several workers, SIGHUP replaces one after another; no client loses an entry that resumes.
    """
    settings = _settings(channel is not None, host=host, port=port, workers=workers, bus=bus)
    from feed.server import adopt, bind

    _open_bus(settings)
    if channel is not None:
        _serve_alone(settings, adopt(channel), is_worker=True)
        return
    listener = bind(settings.host, settings.port) if fd is None else adopt(fd)
    if fd is None:
        where = listener.getsockname()
        click.echo(f"Listening on http://{_shown(where[0])}:{where[1]}/", err=True)
    if settings.workers == 1:
        _serve_alone(settings, listener, is_shared=fd is not None)
    else:
        sys.exit(_serve_with_workers(settings, listener))


def _serve_alone(
    settings: Settings, sock: socket.socket, is_shared: bool = False, is_worker: bool = False
) -> None:
    """Serve on a listening socket, or as a worker who comes over a channel."""
    from feed.channel import Channel
    from feed.server import run, server

    channel = Channel(sock) if is_worker else None
    running = server(settings, _open_bus(settings), is_shared, channel)

    def stop(number: int, frame: FrameType | None) -> None:
        running.should_exit = True

    # uvicorn takes these over once it runs, and raises them again when it has ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)

    async def work() -> None:
        await _probe(settings)
        await run(running, [] if is_worker else [sock])

    _run(work())


def _serve_with_workers(settings: Settings, listener: socket.socket) -> int:
    from feed.workers import Workers

    code = 0

    async def work(stop: asyncio.Event) -> None:
        nonlocal code
        await _probe(settings)
        code = await Workers(settings, listener).run(stop)

    _run_until_stopped(work)
    return code


async def _probe(settings: Settings) -> None:
    """Raise in one line what is wrong with the bus, where uvicorn would print a traceback."""
    probe = _open_bus(settings)
    await probe.start()
    await probe.close()


@main.command()
@_exchange
@_symbol
@_kind
@_endpoint
@_tape
@_speed
@click.option("--loop", is_flag=True, help="Start a tape over when it ends.")
@_bus
@click.option("--source", type=click.Choice(["auto", "live", "tape"]), hidden=True)
def ingest(
    exchange: tuple[str, ...],
    symbol: tuple[str, ...],
    kind: tuple[str, ...],
    endpoint: tuple[str, ...],
    tape: tuple[Path, ...],
    speed: str,
    loop: bool,
    bus: str | None,
    source: str | None,
) -> None:
    """Connect to the exchanges and publish what they send.

    With --tape, the tape is served as a fake exchange and the adapter runs against it; it ends
    with the tape.

    \b
    FEED_BUS=redis://localhost:6379/0 feed ingest --exchange binance,kraken
    FEED_BUS=redis://localhost:6379/0 feed ingest --tape session.jsonl.gz --speed max
    """
    settings = _settings(
        bus=bus,
        exchanges=_names(exchange),
        symbols=_names(symbol),
        kinds=_names(kind),
        endpoints=_names(endpoint),
    )
    from adapters.ingest import calm_collector, run_ingest

    bus_ = _open_bus(settings)
    calm_collector()

    async def work(stop: asyncio.Event) -> None:
        await bus_.start()
        try:
            await run_ingest(
                settings,
                bus_,
                source=source or ("tape" if tape else "live"),  # type: ignore[arg-type]
                tapes=tape,
                exchange=settings.exchanges[0] if tape and settings.exchanges else None,
                speed=speed,
                loop=loop,
                stop=stop,
                on_banner=lambda text: click.secho(f"\n  {text}\n", err=True, bold=True),
            )
        finally:
            await bus_.close()

    _run_until_stopped(work)


@main.command()
@click.argument("tape", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--exchange", metavar="NAME", help="Whose tape it is, where it cannot tell.")
@click.option("--port", type=int, default=9000, show_default=True, metavar="PORT")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS")
@_speed
@click.option("--loop", is_flag=True, help="Start over when the tape ends.")
@click.option(
    "--fault",
    multiple=True,
    metavar="FAULT",
    help="Break the exchange on purpose: drop:0.01, close:after=500, half-open:after=1000, …; "
    "repeat for several. All: docs/tapes.md.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    metavar="N",
    help="Which frames the faults strike; printed where it was chosen at random.",
)
def replay(
    tape: Path,
    exchange: str | None,
    port: int,
    host: str,
    speed: str,
    loop: bool,
    fault: tuple[str, ...],
    seed: int | None,
) -> None:
    """Serve a tape as a fake exchange on a local port, over the exchange's own protocol.

    \b
    feed replay session.jsonl.gz --port 9000 --speed 10 --loop
    FEED_BUS=… feed ingest --exchange kraken --endpoint kraken=http://127.0.0.1:9000
    feed replay session.jsonl.gz --fault drop:0.01:channel=book --fault close:after=500
    """
    _settings()
    from adapters.fault_language import parse
    from adapters.replay import parse_speed, serve_tape

    factor = parse_speed(speed)
    chosen = random.randrange(1_000_000) if seed is None else seed
    faults = parse(fault, chosen) if fault else None

    def ready(url: str) -> None:
        click.echo(f"Serving {tape} on {url}", err=True)
        if faults is not None:
            click.echo(f"Faults: {' '.join(fault)} (again with --seed {chosen})", err=True)

    async def work(stop: asyncio.Event) -> None:
        await serve_tape(
            tape,
            exchange,
            host,
            port,
            factor,
            loop,
            faults=faults,
            stop=stop,
            on_ready=ready,
        )

    _run_until_stopped(work)


@main.command()
@click.option("--exchange", required=True, metavar="NAME", help="An exchange, e.g. kraken.")
@_symbol
@_kind
@_endpoint
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write: .jsonl.zst or .jsonl.gz.",
)
def record(
    exchange: str,
    symbol: tuple[str, ...],
    kind: tuple[str, ...],
    endpoint: tuple[str, ...],
    out: Path,
) -> None:
    """Record an exchange's raw messages as a tape, until Ctrl-C.

    feed record --exchange kraken --symbol BTC-USD --out kraken.jsonl.zst
    """
    settings = _settings(
        exchanges=(exchange,),
        symbols=_names(symbol),
        kinds=_names(kind),
        endpoints=_names(endpoint),
    )
    from adapters.record import record as record_to

    async def work(stop: asyncio.Event) -> None:
        lines = await record_to(settings, exchange, out, stop=stop)
        click.echo(f"{out}: {lines} lines", err=True)

    _run_until_stopped(work)


@main.command()
@click.argument("patterns", nargs=-1, required=True, metavar="TOPIC...")
@_url
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.option("--hz", type=float, metavar="N", help="At most N values a second of each topic.")
def tail(patterns: tuple[str, ...], url: str, as_json: bool, hz: float | None) -> None:
    """Watch topics live: a table, or lines of JSON for a pipe.

    \b
    feed tail 'quote.*.BTC-USDT'
    feed tail trade.kraken.BTC-USD 'status.*.ALL' --json | jq .price
    """
    _settings()
    from feed.tail import print_lines, show_table

    show = print_lines if as_json else show_table

    async def work(stop: asyncio.Event) -> None:
        await show(url, patterns, hz, stop)

    _run_until_stopped(work)


@main.command()
@click.argument("pattern", required=False)
@_url
@click.option("--json", "as_json", is_flag=True, help="Print each topic as a line of JSON.")
def topics(pattern: str | None, url: str, as_json: bool) -> None:
    """List what can be subscribed to.

    \b
    feed topics
    feed topics 'trade.*.BTC-USDT'
    """
    _settings()
    from feed.listing import list_topics

    list_topics(url, pattern, as_json)


@main.command()
@_bus
@_exchange
@_host
@_port
def check(bus: str | None, exchange: tuple[str, ...], host: str | None, port: int | None) -> None:
    """Look at what would stop or slow the feed here: limits, bus, port, exchanges."""
    settings = _settings(bus=bus, host=host, port=port, exchanges=_names(exchange))
    from feed.check import run_checks

    sys.exit(0 if asyncio.run(run_checks(settings)) else 1)


def _open_bus(settings: Settings) -> Any:
    from feed.bus import open_bus

    if not settings.bus:
        raise ConfigError(
            "no bus: set FEED_BUS=redis://host:6379/0 (or --bus), or use `feed run`, "
            "which brings its own"
        )
    if settings.bus.startswith("memory:"):
        raise ConfigError(
            "memory:// lives in one process; serve and ingest need redis:// or unix://"
        )
    return open_bus(settings.bus, settings.retention)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
