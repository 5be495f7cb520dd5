"""A real runner against an exchange broken on purpose, and an independent reader of its tape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from adapters import registry
from adapters.playback import BUNDLED
from adapters.recording import Recording, load
from adapters.replay import FakeExchange
from adapters.runner import Counters, Runner, endpoints
from adapters.selection import Selection, by_stream
from adapters.status import StatusBoard
from adapters.tasks import now_us
from feed.models import Book, Depth, ExchangeStatus, Gap, Quote, SymbolStatus, Trade
from tests.adapters.kit import ListSink
from tests.adapters.sessions import PAYLOADS, Sides, apply, best_first, payload

#: The best levels of both sides, best first.
Top = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]

#: Exchange -> tape, how much of it is played (seconds) and how fast.
TAPES: dict[str, tuple[Path, float, float]] = {
    "binance": (BUNDLED / "binance_btcusdt_20240808.jsonl.gz", 24.0, 20.0),
    "binance-usdm": (BUNDLED / "binance-usdm_btcusdt_20240808.jsonl.gz", 12.0, 10.0),
    "coinbase": (BUNDLED / "coinbase_20210417.jsonl.gz", 20.0, 15.0),
    "kraken": (BUNDLED / "kraken_xrpusd_20260801.jsonl.gz", 24.0, 20.0),
    "bybit": (PAYLOADS / "bybit" / "session.jsonl", 2.0, 1.0),
    "bybit-linear": (PAYLOADS / "bybit" / "session.jsonl", 2.0, 1.0),
}
#: How long a session that comes with the tests is played.
SESSION_S = 1.5
_loaded: dict[str, Recording] = {}


def tape_of(name: str) -> Path:
    return TAPES[name][0] if name in TAPES else payload(name)


def recording(name: str) -> Recording:
    """Return the part of the exchange's tape that is played."""
    if name not in _loaded:
        length_s = TAPES[name][1] if name in TAPES else inf
        found = load(tape_of(name), name)[name]
        found.frames = [frame for frame in found.frames if frame.at <= length_s]
        _loaded[name] = found
    return _loaded[name]


class Outcome:
    """What was published, in order, and how the exchange was treated."""

    def __init__(self, sink: ListSink, handshakes: Sequence[float], counters: Counters) -> None:
        self.events = sink.events
        self.handshakes = list(handshakes)
        self.counters = counters
        self.of = sink.of

    def topic(self, topic: str) -> list[Any]:
        return [event for event in self.events if event.topic == topic]

    def topics(self, kind: type[Any]) -> set[str]:
        return {event.topic for event in self.of(kind)}

    def exchange_states(self) -> list[tuple[str, str | None]]:
        return [(status.state, status.reason) for status in self.of(ExchangeStatus)]

    def healths(self, topic: str) -> list[str]:
        """Return the states that a topic went through."""
        kind, exchange, symbol = topic.split(".", 2)
        told = [
            event.kinds[kind]
            for event in self.topic(f"status.{exchange}.{symbol}")
            if isinstance(event, SymbolStatus)
        ]
        return [state for at, state in enumerate(told) if at == 0 or told[at - 1] != state]

    def lost(self, topic: str, cause: str) -> list[int | None]:
        gaps = [event for event in self.topic(topic) if isinstance(event, Gap)]
        return [gap.lost for gap in gaps if gap.cause == cause]

    def trade_ids(self, topic: str) -> list[str]:
        trades = [event for event in self.topic(topic) if isinstance(event, Trade)]
        return [trade.id for trade in trades if trade.id is not None]


def speed_of(name: str) -> float:
    return TAPES[name][2] if name in TAPES else max(1.0, recording(name).length_s / SESSION_S)


def selection_of(name: str) -> Selection:
    played = recording(name)
    adapter = registry.entry(name).load_adapter()
    listing = played.bodies.get("listing", [])
    listed = adapter.instruments(listing) if listing else []
    return by_stream(adapter, listed, played.streams, (), adapter.kinds)


def _runner(
    name: str,
    selection: Selection,
    url: str,
    sink: ListSink,
    limits: dict[str, Any],
    is_tape: bool = True,
) -> Runner:
    adapter, speed, start = registry.entry(name).load_adapter(), speed_of(name), now_us()
    calm = dict(frames_per_s=inf, connects=1_000, silent_after_s=inf) | limits
    # No waits but those that the exchange asks for.
    rng = Random(1)
    rng.uniform = lambda a, b: 0.0  # type: ignore[method-assign]
    return Runner(
        adapter,
        selection,
        *endpoints(adapter, url),
        sink,
        StatusBoard(
            name,
            selection.topics,
            connections=len(selection.plans),
            threshold_ms=None,
            now=start,
        ),
        limits=msgspec.structs.replace(adapter.limits, **calm),
        ends=True,
        is_tape=is_tape,
        # The adapters' own patience is of the tape's time.
        clock=lambda: start + int((now_us() - start) * speed),
        rng=rng,
    )


async def play(
    name: str, *faults: str, seed: int = 7, is_tape: bool = True, **limits: Any
) -> Outcome:
    """Run the exchange's adapter against its tape, broken so, to the tape's end.

    Args:
        is_tape: As the runner's; False: as if it were live.
    """
    selection, sink = selection_of(name), ListSink()
    asked = {stream for plan in selection.plans for stream in plan.streams}
    recordings = {name: recording(name)}
    async with FakeExchange(recordings, speed=speed_of(name), expected={name: asked}) as fake:
        fake.break_(*faults, seed=seed)
        runner = _runner(name, selection, fake.url, sink, limits, is_tape)
        async with asyncio.timeout(60):
            await runner.run()
        return Outcome(sink, fake.handshakes, runner.counters)


@asynccontextmanager
async def running(
    name: str, fake: FakeExchange, *, is_tape: bool = True, **limits: Any
) -> AsyncIterator[ListSink]:
    """Run the exchange's adapter against a fake that is the caller's to break."""
    sink = ListSink()
    runner = _runner(name, selection_of(name), fake.url, sink, limits, is_tape)
    task = asyncio.create_task(runner.run())
    try:
        yield sink
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def stale(statuses: Sequence[SymbolStatus]) -> list[SymbolStatus]:
    return [status for status in statuses if "stale" in status.kinds.values()]


def _steps(name: str, native: str) -> Iterator[tuple[bool, Any, Any]]:
    """Yield each step of a book as the tape's text has it: is it a start, bids, asks."""
    played = recording(name)
    if name.startswith("binance"):
        (body,) = played.bodies[f"depth:{native}"]
        start = json.loads(body)
        yield True, start["bids"], start["asks"]
        for frame in played.frames:
            data = json.loads(frame.body)["data"]
            if data.get("e") == "depthUpdate" and data["s"] == native:
                if data["u"] > start["lastUpdateId"]:
                    yield False, data["b"], data["a"]
        return
    for frame in played.frames:
        message = json.loads(frame.body, parse_float=str, parse_int=str)
        if name == "kraken" and message.get("channel") == "book":
            (data,) = message["data"]
            sides = [
                [(one["price"], one["qty"]) for one in data[side]] for side in ("bids", "asks")
            ]
            yield message["type"] == "snapshot", *sides
        elif name == "coinbase" and message.get("product_id") == native:
            if message["type"] == "snapshot":
                yield True, message["bids"], message["asks"]
            elif message["type"] == "l2update":
                changes = message["changes"]
                yield (
                    False,
                    [change[1:] for change in changes if change[0] == "buy"],
                    [change[1:] for change in changes if change[0] == "sell"],
                )
        elif name.startswith("bybit") and message.get("topic") == f"orderbook.200.{native}":
            yield message["type"] == "snapshot", message["data"]["b"], message["data"]["a"]


def read_whole(name: str, body: bytes) -> Sides:
    """Read a whole book in the exchange's words."""
    message = json.loads(body, parse_float=str, parse_int=str)
    if name == "kraken":
        (data,) = message["data"]
        return (
            {one["price"]: one["qty"] for one in data["bids"]},
            {one["price"]: one["qty"] for one in data["asks"]},
        )
    data = message["data"] if name.startswith("bybit") else message
    keys = ("b", "a") if name.startswith("bybit") else ("bids", "asks")
    return dict(data[keys[0]]), dict(data[keys[1]])


def top(sides: Sides, levels: int) -> Top:
    bids, asks = best_first(sides)
    return tuple(bids[:levels]), tuple(asks[:levels])


def truths(name: str, native: str, levels: int) -> list[Top]:
    """Return the best levels after each step of the book on the tape."""
    sides: Sides = ({}, {})
    depth = 25 if name == "kraken" else None
    found = []
    for is_start, bids, asks in _steps(name, native):
        if is_start:
            sides = ({}, {})
        apply(sides, bids, asks)
        if depth is not None:  # what falls out of Kraken's window is not said
            best = best_first(sides)
            sides = (dict(best[0][:depth]), dict(best[1][:depth]))
        found.append(top(sides, levels))
    return found


def shown(outcome: Outcome, topic: str, levels: int) -> list[Top]:
    """Return the best levels that clients saw after each book event, as text, in order.

    Fails where an event comes while the book is not to be trusted.
    """
    _, exchange, symbol = topic.split(".", 2)
    sides: Sides = ({}, {})
    is_known, found = False, []
    for event in outcome.events:
        if isinstance(event, SymbolStatus) and event.topic == f"status.{exchange}.{symbol}":
            is_known = is_known and event.kinds["book"] != "invalid"
        elif event.topic == topic and isinstance(event, Gap):
            is_known = False
        elif event.topic == topic and isinstance(event, Book):
            if event.snapshot:
                sides, is_known = ({}, {}), True
            assert is_known, "a change of a book that nobody has"
            apply(sides, event.bids, event.asks)
            found.append(top(sides, levels))
    return found


def is_crossed(best: Top) -> bool:
    bids, asks = best
    return bool(bids and asks) and float(bids[0][0]) >= float(asks[0][0])


def check_uncrossed(outcome: Outcome) -> None:
    for topic in outcome.topics(Book):
        assert not any(is_crossed(best) for best in shown(outcome, topic, 1))
    for depth in outcome.of(Depth):
        assert not is_crossed((tuple(depth.bids), tuple(depth.asks)))
    for quote in outcome.of(Quote):
        if quote.bid is not None and quote.ask is not None:
            assert float(quote.bid) <= float(quote.ask)
