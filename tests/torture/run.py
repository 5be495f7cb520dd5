"""I/O shell: one run, from the first process to the verdict."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.torture.check import Begun, Got, check_all, check_latest, declared
from tests.torture.client import Client
from tests.torture.ledger import Ledger
from tests.torture.plan import Move, Plan, Strike, plan
from tests.torture.processes import Cast

CLIENTS = 24
STUCK_AFTER_S = 4
_SYMBOLS = [f"SIM{n:03d}-USD" for n in range(6)]
_KINDS = ("trade", "quote", "book")
#: What is read back is little, so that some come too late; outboxes are small, so that some fill.
_SETTINGS: dict[str, object] = {
    "exchanges": "sim,kraken,coinbase",
    "sim_symbols": len(_SYMBOLS),
    "sim_kinds": ",".join(_KINDS),
    "sim_rate": 600,
    "retention_trade": 150,
    "retention_book": 200,
    "retention_state": 100,
    "outbox_max_bytes": 65_536,
    "stuck_after_s": STUCK_AFTER_S,
    "heartbeat_s": 1,
    "drain_s": 1,
    "linger_s": 2,
    "lease_s": 2,
    "connects_per_s": 0,
}
#: How long the last entries may take to everybody, on a machine that is busy.
_DRAIN_S = 60.0


class Outcome(NamedTuple):
    """What a run has shown.

    Attributes:
        wrong: Violations; empty when all is well.
        figures: By name.
    """

    wrong: list[str]
    figures: dict[str, int]


async def torture(seed: int, seconds: float, folder: Path) -> Outcome:
    """Run it; logs, ledgers and what is wrong of the histories stay in ``folder``."""
    with tempfile.TemporaryDirectory(prefix="pricefeed-") as short:  # a socket's path is
        return await _torture(seed, seconds, folder, Path(short) / "bus.sock")


async def _torture(seed: int, seconds: float, folder: Path, path: Path) -> Outcome:
    script = plan(seed, seconds, CLIENTS, STUCK_AFTER_S)
    ports = _free_ports(2)
    cast = Cast(folder, path, ports, _SETTINGS | {"bus": f"unix://{path}"})
    clients = [_client(n, ports, Random(f"{seed}/{n}")) for n in range(CLIENTS)]
    try:
        await cast.start(len(_SYMBOLS) * len(_KINDS))
        tasks = [asyncio.create_task(client.run()) for client in clients]
        try:
            with _tended(cast):
                await _play(script, seconds, cast, clients)
                await _stop_ingest(cast)
                ledger = Ledger.load(folder)
                behind = await _drained(clients, ledger)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        cast.kill()
    wrong = behind
    wrong += [f"a client failed: {e!r}" for e in ended if isinstance(e, Exception)]
    for client in clients:
        wrong += _verdict(client, ledger, folder)
    return Outcome(wrong, _figures(script, cast, clients, ledger))


def _client(number: int, ports: Sequence[int], rng: Random) -> Client:
    """Give each client a taste of its own: few topics or many, by name or by pattern."""
    symbols = rng.sample(_SYMBOLS, len(_SYMBOLS))
    all = ["trade.sim.*"] if number % 3 == 0 else [f"trade.sim.{s}" for s in symbols[:4]]
    all += [f"book.sim.{symbol}" for symbol in symbols[: rng.randint(1, 3)]]
    all += [f"quote.sim.{symbol}" for symbol in symbols[:2]]
    all += rng.choice((["trade.coinbase.*", "status.sim.ALL"], ["book.kraken.*"]))
    latest = [f"quote.sim.{symbol}" for symbol in symbols[2:]]
    latest += rng.choice(([], ["quote.kraken.*", "quote.coinbase.*"]))
    return Client(number, ports, all, latest, rng)


async def _play(script: Plan, seconds: float, cast: Cast, clients: Sequence[Client]) -> None:
    """Let happen what is to happen, when it is to happen."""
    started = time.monotonic()
    suffering: list[asyncio.Task[None]] = []
    events: list[Strike | Move] = sorted(
        (*script.strikes, *script.moves), key=lambda event: event.at_s
    )
    for event in events:
        await asyncio.sleep(started + event.at_s - time.monotonic())
        if isinstance(event, Strike):
            process = cast.processes[event.target]
            suffering.append(asyncio.create_task(process.suffer(event)))
        else:
            clients[event.client].act(event)
    await asyncio.gather(*suffering)
    await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))


@contextmanager
def _tended(cast: Cast) -> Iterator[None]:
    """Start again what ends by itself, as an operator's supervisor does."""

    async def tend() -> None:
        while True:
            cast.tend()
            await asyncio.sleep(0.25)

    task = asyncio.create_task(tend())
    try:
        yield
    finally:
        task.cancel()


async def _stop_ingest(cast: Cast) -> None:
    ingest = [p for name, p in cast.processes.items() if name.startswith("ingest")]
    await asyncio.gather(*(process.stop() for process in ingest))


async def _drained(clients: Sequence[Client], ledger: Ledger) -> list[str]:
    """Wait until everybody has come to the end of everything; return who has not."""
    ends = {topic: ledger.newest(topic) for topic in ledger.acked}
    deadline = time.monotonic() + _DRAIN_S
    while True:
        behind = [line for client in clients for line in _behind(client, ends)]
        if not behind or time.monotonic() > deadline:
            return behind
        await asyncio.sleep(0.2)


def _behind(client: Client, ends: Mapping[str, int]) -> Iterator[str]:
    for topic in (*client.facts, *client.shown):
        at, end = client.at(topic), ends.get(topic, 0)
        if at < end:
            yield f"{client}: {topic} stands at {at}, the topic ends with {end}"
    for text in client.wishes:
        if not client.has(text):
            yield f"{client}: nothing ever came of {text}"


def _verdict(client: Client, ledger: Ledger, folder: Path) -> Iterator[str]:
    """Yield what is wrong with what a client was given; a history that is wrong is written down."""
    for line in client.wrong:
        yield f"{client}: {line}"
    checks = [(topic, facts, check_all) for topic, facts in client.facts.items()]
    checks += [(topic, facts, check_latest) for topic, facts in client.shown.items()]
    for topic, facts, check in checks:
        lines = check(topic, facts, ledger)
        if lines:
            history = "\n".join([*lines, "", *map(str, facts), ""])
            (folder / f"client-{client.number}-{topic}.txt").write_text(history)
        for line in lines:
            yield f"{client}, {topic}: {line}"


def _figures(script: Plan, cast: Cast, clients: Sequence[Client], ledger: Ledger) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for client in clients:
        counts.update(client.counts)
    blows = Counter(f"{s.blow} {s.target.partition('-')[0]}" for s in script.strikes)
    ends = {
        f"{name} ended by itself ({code})": times
        for name, process in cast.processes.items()
        for code, times in process.ends.items()
    }
    lost: Counter[str] = Counter()
    for client in clients:
        for topic, facts in client.facts.items():
            lost.update(declared(topic, facts, ledger))
            counts["lives ended"] += sum(isinstance(f, Begun) and f.lost is not None for f in facts)
            for fact in facts:
                if isinstance(fact, Got):
                    counts["entries in mode all"] += 1
                    counts["restart gaps"] += fact.explains is not None
    return {
        "put": sum(map(len, ledger.put.values())),
        "acknowledged": sum(map(len, ledger.acked.values())),
        **dict(sorted(counts.items())),
        **{f"declared missing: {cause}": n for cause, n in sorted(lost.items())},
        **dict(sorted(blows.items())),
        **dict(sorted(ends.items())),
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
