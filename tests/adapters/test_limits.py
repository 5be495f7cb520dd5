"""Many instruments on one exchange: spread over connections, asked for at its pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import NamedTuple

import msgspec
import pytest

from adapters import tape
from adapters.base import Adapter, Plan, Stream, TapeLine
from adapters.fault_language import parse
from adapters.pacer import Pacer
from adapters.recording import Recording
from adapters.registry import REGISTRY
from adapters.replay import FakeExchange
from adapters.runner import Runner, endpoints
from adapters.selection import Selection, by_stream
from adapters.status import StatusBoard
from adapters.tasks import now_us
from adapters.warden import Warden, Window
from feed.models import Book
from tests.adapters.kit import ListSink, eventually
from tests.adapters.sessions import payload

MANY = 200


def many(name: str) -> list[Plan]:
    """Return how the exchange's first instruments' streams, of so many instruments, are spread."""
    cls = REGISTRY[name].load_adapter()
    venue = REGISTRY[name].load_venue()()
    lines = list(tape.read(payload(name)))
    native = sorted(one.native for one in Recording(lines, venue).streams)[0]
    named = cls.instrument(native)
    assert named is not None
    copies = {
        f"{native}{number}": msgspec.structs.replace(
            named, native=f"{native}{number}", symbol=f"{named.symbol}{number}"
        )
        for number in range(MANY)
    }
    streams = [
        Stream(one.channel, native) for native in copies for one in cls.streams(named, cls.kinds)
    ]
    return cls.plan(streams, copies)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_two_hundred_instruments_stay_within_the_published_limits(name: str) -> None:
    entry = REGISTRY[name]
    cls, rules = entry.load_adapter(), entry.load_venue().rules
    plans = many(name)
    limits = cls.limits
    connects = Pacer(limits.connects, limits.connects_window_s)
    door = Window(rules.connects, rules.connects_per_s)
    now = 0.0
    for plan in plans:
        now += connects.reserve(now)
        assert not door.is_full(now), "too many handshakes"
        warden = Warden(rules)
        assert warden.streams(len(plan.streams)) is None
        pacer = Pacer(1, 1 / limits.frames_per_s)
        at = now + limits.settle_s
        for _ in cls(plan, cls.kinds).opened():
            at += pacer.reserve(at)
            assert warden.frame(at) is None, "too many frames"
    planned = {stream for plan in plans for stream in plan.streams}
    assert len({stream.native for stream in planned}) == MANY


#: Exchange -> an instrument of its session, and the form of names for copies of it.
COPIED = {
    "crypto-com": ("BTC_USDT", "X{}_USDT"),
    "dydx": ("BTC-USD", "X{}-USD"),
    "kucoin": ("BTC-USDT", "X{}-USDT"),
}


def copies(name: str) -> Recording:
    """Return the exchange's session with one of its instruments two hundred times."""
    native, form = COPIED[name]
    lines = list(tape.read(payload(name)))
    out = [one for one in lines if one.dir == "connect"]
    # What is said of it alone, once; and its book, where that comes by REST.
    mine: dict[str, TapeLine] = {}
    for one in lines:
        text = f"{one.url}{one.raw}"
        if one.dir in ("in", "rest") and native in text and len(text) < 100_000:
            mine[text] = one
    for number in range(MANY):
        copy = form.format(number)
        out += [
            msgspec.structs.replace(
                one,
                raw=(one.raw or "").replace(native, copy),
                url=one.url and one.url.replace(native, copy),
            )
            for one in mine.values()
        ]
    return Recording(out, REGISTRY[name].load_venue()())


@asynccontextmanager
async def running(cls: type[Adapter], recording: Recording) -> AsyncIterator[Started]:
    """Run an adapter, within its limits, against an exchange that enforces them."""
    sink, streams = ListSink(), recording.streams
    selection = by_stream(cls, (), streams, (), cls.kinds)
    async with FakeExchange(
        {cls.name: recording},
        speed=None,
        expected={cls.name: streams},
        faults=parse(["strict"]),
    ) as fake:
        runner = Runner(
            cls,
            selection,
            *endpoints(cls, fake.url),
            sink,
            StatusBoard(
                cls.name,
                selection.topics,
                connections=len(selection.plans),
                threshold_ms=None,
                now=now_us(),
            ),
            limits=msgspec.structs.replace(cls.limits, silent_after_s=inf),
            ends=True,
        )
        task = asyncio.create_task(runner.run())
        try:
            yield Started(task, runner, selection, sink)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Started(NamedTuple):
    task: asyncio.Task[None]
    runner: Runner
    selection: Selection
    sink: ListSink


@pytest.mark.parametrize("name", COPIED)
async def test_a_strict_exchange_serves_two_hundred_instruments_at_the_first_attempt(
    name: str,
) -> None:
    cls = REGISTRY[name].load_adapter()
    async with running(cls, copies(name)) as started, asyncio.timeout(120):
        await started.task
    assert started.runner.counters.reconnects == 0
    assert len(started.selection.plans) > 1
    natives = {native for plan in started.selection.plans for native in plan.instruments}
    assert len(natives) == MANY
    books = {book.topic for book in started.sink.of(Book)}
    assert len(books) == MANY


@pytest.mark.parametrize("name", COPIED)
async def test_a_strict_exchange_closes_who_asks_for_too_much_with_its_own_code(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rules = REGISTRY[name].load_venue().rules
    cls = REGISTRY[name].load_adapter()
    greedy = msgspec.structs.replace(cls.limits, streams_per_connection=10_000, frames_per_s=inf)
    monkey = type(cls.__name__, (cls,), {"limits": greedy})
    async with running(monkey, copies(name)) as started:
        await eventually(lambda: started.runner.counters.reconnects > 0)
    assert f"{rules.code}" in caplog.text
    assert rules.reason in caplog.text
