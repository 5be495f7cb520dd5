"""The bus in memory breaks when it is asked to, in the way a server would."""

import asyncio

import pytest

from feed.bus.base import Beat, LinkDown, LinkUp, Notice, Retention
from feed.bus.memory import MemoryBroker, MemoryBus
from feed.errors import BusError
from tests.bus.helpers import BOOK, TOPIC, entries, entry, seqs, until
from tests.bus.test_conformance import catalogue


class Rig:
    """A publisher, and two readers of one topic that note what they hear."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.publisher = MemoryBus(self.broker, Retention())
        self.readers = [MemoryBus(self.broker, Retention()) for _ in range(2)]
        self.got: list[list[bytes]] = [[], []]
        self.told: list[list[Notice]] = [[], []]

    async def start(self) -> None:
        await self.publisher.start()
        for reader, got, told in zip(self.readers, self.got, self.told, strict=True):
            reader.watch(told.append)
            await reader.start()
            await reader.subscribe(TOPIC, got.append)

    async def publish(self, *numbers: int) -> None:
        """Return when the second reader, whom nobody breaks, has heard them."""
        await self.publisher.publish(entries(TOPIC, numbers))
        await until(lambda: seqs(self.got[1])[-1:] == [numbers[-1]])


@pytest.fixture
async def rig() -> Rig:
    rig = Rig()
    await rig.start()
    return rig


async def test_a_cut_link_loses_what_is_published_until_it_is_mended(rig: Rig) -> None:
    one = rig.readers[0]
    await rig.publish(1)
    rig.broker.cut(one)
    rig.broker.cut(one)
    assert [type(notice) for notice in rig.told[0]] == [LinkDown]
    await rig.publish(2, 3)
    with pytest.raises(BusError, match="cannot subscribe"):
        await one.subscribe(BOOK, rig.got[0].append)
    assert seqs(await one.history(TOPIC, 0)) == [1, 2, 3]
    rig.broker.mend(one)
    rig.broker.mend(one)
    assert rig.told[0][1:] == [LinkUp()]
    await rig.publish(4)
    assert seqs(rig.got[0]) == [1, 4]
    assert seqs(rig.got[1]) == [1, 2, 3, 4] and rig.told[1] == []


async def test_a_cut_loses_what_is_on_the_way(rig: Rig) -> None:
    rig.broker.hold(rig.readers[0])
    await rig.publish(1, 2)
    rig.broker.cut(rig.readers[0])
    rig.broker.mend(rig.readers[0])
    rig.broker.release(rig.readers[0])
    await rig.publish(3)
    assert seqs(rig.got[0]) == [3]


async def test_what_is_held_arrives_in_order_when_released(rig: Rig) -> None:
    one = rig.readers[0]
    rig.broker.hold(one)
    await rig.publish(1, 2)
    await rig.publisher.beat("kraken")
    await rig.publish(3, 4)
    await asyncio.sleep(0)
    assert rig.got[0] == [] and rig.told[0] == [] and rig.broker.held(one) == 5
    rig.broker.release(one, 1)
    assert seqs(rig.got[0]) == [1]
    rig.broker.release(one, 2)
    assert seqs(rig.got[0]) == [1, 2] and rig.told[0] == [Beat("kraken")]
    rig.broker.release(one)
    assert seqs(rig.got[0]) == [1, 2, 3, 4]
    await rig.publish(5)
    assert seqs(rig.got[0]) == [1, 2, 3, 4, 5]


async def test_what_is_held_can_be_lost_without_a_word(rig: Rig) -> None:
    one = rig.readers[0]
    rig.broker.hold(one)
    await rig.publish(1, 2, 3, 4)
    rig.broker.release(one, 1)
    rig.broker.lose(one, 2)
    rig.broker.release(one)
    assert seqs(rig.got[0]) == [1, 4] and rig.told[0] == []


async def test_what_was_unsubscribed_while_it_was_held_is_not_delivered(rig: Rig) -> None:
    rig.broker.hold(rig.readers[0])
    await rig.publish(1)
    await rig.readers[0].unsubscribe(TOPIC)
    rig.broker.release(rig.readers[0])
    assert rig.got[0] == []


async def test_a_sink_may_break_the_link_it_is_served_by(rig: Rig) -> None:
    one, got = rig.readers[0], rig.got[0]

    def sink(payload: bytes) -> None:
        got.append(payload)
        rig.broker.cut(one)

    await one.subscribe(TOPIC, sink)
    await rig.publish(1, 2, 3)
    assert seqs(got) == [1]


async def test_a_sink_that_raises_costs_nobody_else_a_message(rig: Rig) -> None:
    def broken(payload: bytes) -> None:
        raise RuntimeError("a sink must not raise")

    mistakes: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, said: mistakes.append(said))
    await rig.readers[0].subscribe(BOOK, broken)
    await rig.publisher.publish([entry(BOOK, 1), entry(TOPIC, 1)])
    await until(lambda: seqs(rig.got[0]) == [1])
    assert len(mistakes) == 1


async def test_a_refusing_broker_does_nothing_that_is_asked(rig: Rig) -> None:
    one = rig.readers[0]
    rig.broker.refuse(True)
    for call in (
        rig.publisher.publish([entry(TOPIC, 1)], [entry(BOOK, 1)]),
        rig.publisher.acquire("kraken", "one", 1.0),
        rig.publisher.put_catalogue(catalogue("kraken")),
        one.history(TOPIC, 0),
        one.page(TOPIC, limit=1),
        one.heads([TOPIC]),
        one.checkpoint(BOOK),
        one.subscribe(BOOK, rig.got[0].append),
    ):
        with pytest.raises(BusError, match="on purpose"):
            await call
    rig.broker.refuse(False)
    await rig.publish(2)
    assert seqs(await one.history(TOPIC, 0)) == seqs(rig.got[0]) == [2]
    assert await one.checkpoint(BOOK) is None
    assert await one.catalogues() == {}


async def test_an_emptied_broker_begins_anew(rig: Rig) -> None:
    await rig.publisher.publish([entry(TOPIC, 9, epoch=9)], [entry(BOOK, 9)])
    await rig.publisher.put_catalogue(catalogue("kraken"))
    assert await rig.publisher.acquire("kraken", "one", 60.0)
    rig.broker.empty()
    assert await rig.readers[0].history(TOPIC, 0) == []
    assert await rig.readers[0].heads([TOPIC]) == {}
    assert await rig.readers[0].catalogues() == {}
    assert await rig.readers[0].checkpoint(BOOK) is None
    assert await rig.publisher.renew("kraken", "one", 60.0) is False
    await rig.publish(1)  # what is subscribed stays so, and an emptied stream takes any seq
    assert seqs(rig.got[0]) == [9, 1]
