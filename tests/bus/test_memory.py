"""What only the bus in memory can show: its clock is handed in."""

from feed.bus.base import Retention
from feed.bus.memory import MemoryBroker, MemoryBus
from tests.bus.helpers import entries, entry, seqs

TOPIC = "quote.kraken.BTC-USD"


async def test_an_untouched_stream_expires() -> None:
    now = 0
    bus = MemoryBus(MemoryBroker(lambda: now), Retention(expire_s=10))
    await bus.start()
    await bus.publish([entry(TOPIC, 1)])
    now = 10_000_000
    await bus.publish([entry(TOPIC, 2)])
    now = 20_000_000
    assert seqs(await bus.history(TOPIC, 0)) == [1, 2]
    now += 1
    assert await bus.history(TOPIC, 0) == []
    assert await bus.heads([TOPIC]) == {}
    await bus.publish([entry(TOPIC, 1)])
    assert seqs(await bus.history(TOPIC, 0)) == [1]


async def test_retention_is_exact() -> None:
    bus = MemoryBus(MemoryBroker(), Retention(state=3))
    await bus.start()
    await bus.publish(entries(TOPIC, range(1, 9)))
    assert seqs(await bus.history(TOPIC, 0)) == [6, 7, 8]


async def test_an_epoch_follows_the_clock_and_never_falls_back() -> None:
    now = 0
    bus = MemoryBus(MemoryBroker(lambda: now), Retention())
    await bus.start()
    epochs = []
    for moment in (1_000, 1_000, 5_000, 10):
        now = moment
        epochs.append(await bus.acquire("kraken", "one", 1.0))
    assert epochs == [1_000, 1_001, 5_000, 5_001]
