from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from adapters import stage
from adapters.base import Stream, TapeLine
from adapters.fault_language import parse
from adapters.recording import Recording, load
from adapters.replay import FakeExchange, parse_speed
from feed.errors import ConfigError
from tests.adapters.kit import eventually
from tests.adapters.toy import ToyVenue, answered, received, snapshot, trade

BTC, ETH = Stream("trade", "BTC-USD"), Stream("trade", "ETH-USD")
TAPE = [
    TapeLine(dir="connect", conn="ws1", t=0.0, url="ws://toy.invalid/ws"),
    received('{"c":"ok"}', 0.5),
    answered("/book?s=BTC-USD", snapshot("BTC-USD", 3), 0.6),
    received(trade("BTC-USD", 1), 1.0),
    received(trade("ETH-USD", 1), 1.1),
    received('{"c":"hb"}', 1.2),
    received(trade("BTC-USD", 2), 1.3),
]
HELLO = '{"c":"hb"}'
OK = '{"c":"ok"}'


def toy(lines: Sequence[TapeLine] = TAPE) -> dict[str, Recording]:
    return {"toy": Recording(lines, ToyVenue())}


def subscribe(stream: Stream, op: str = "sub") -> str:
    return f'{{"op":"{op}","channel":"{stream.channel}","symbol":"{stream.native}"}}'


async def talk(fake: FakeExchange, *streams: Stream) -> list[str]:
    """Subscribe, and return all that is said until the connection ends."""
    async with connect(fake.url.replace("http", "ws") + "/ws") as socket:
        for stream in streams:
            await socket.send(subscribe(stream))
        return [str(message) async for message in socket]


async def test_streams_go_to_who_asked_for_them_and_broadcasts_to_all() -> None:
    async with FakeExchange(toy(), speed=None) as fake:
        async with asyncio.timeout(30):
            btc, eth = await asyncio.gather(talk(fake, BTC), talk(fake, ETH))
            await fake.ended()
    assert btc == [HELLO, OK, trade("BTC-USD", 1), HELLO, trade("BTC-USD", 2)]
    assert eth == [HELLO, OK, trade("ETH-USD", 1), HELLO]


async def test_the_clock_starts_at_the_last_expected_subscribe() -> None:
    async with FakeExchange(toy(), speed=None) as fake:
        async with connect(fake.url.replace("http", "ws") + "/ws") as socket:
            await socket.send(subscribe(BTC))
            assert [await socket.recv(), await socket.recv()] == [HELLO, OK]
            await socket.send(subscribe(ETH))
            said = [str(message) async for message in socket]
    assert said == [
        OK,
        trade("BTC-USD", 1),
        trade("ETH-USD", 1),
        HELLO,
        trade("BTC-USD", 2),
    ]


async def test_who_asks_for_less_than_expected_is_served_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage, "SETTLE_S", 0.05)
    async with FakeExchange(toy(), speed=None) as fake:
        async with connect(fake.url.replace("http", "ws") + "/ws") as socket:
            await socket.send(subscribe(ETH))
            async with asyncio.timeout(30):
                assert [await socket.recv() for _ in range(3)] == [HELLO, OK, trade("ETH-USD", 1)]


async def test_what_was_taken_back_is_no_longer_sent() -> None:
    async with FakeExchange(toy(), speed=None, expected={"toy": [BTC]}) as fake:
        async with connect(fake.url.replace("http", "ws") + "/ws") as socket:
            await socket.send(subscribe(ETH))
            await socket.send(subscribe(ETH, "unsub"))
            await socket.send(subscribe(BTC))
            said = [str(message) async for message in socket]
    assert trade("ETH-USD", 1) not in said
    assert trade("BTC-USD", 2) in said


async def test_a_loop_ends_the_connection_and_starts_over_for_who_comes_back() -> None:
    async with FakeExchange(toy(), speed=None, loop=True) as fake:
        for _ in range(3):
            async with connect(fake.url.replace("http", "ws") + "/ws") as socket:
                await socket.send(subscribe(BTC))
                await socket.send(subscribe(ETH))
                said = [str(message) async for message in socket]
            assert socket.close_code == 1001
            assert said[-1] == trade("BTC-USD", 2)


async def test_a_connection_broken_off_in_the_middle_hears_it_from_the_start() -> None:
    lines = [received(trade("BTC-USD", n), float(n)) for n in range(1, 4)]
    async with FakeExchange(toy(lines), speed=100.0) as fake:
        async with connect(fake.url.replace("http", "ws") + "/ws") as socket:
            await socket.send(subscribe(BTC))
            while await socket.recv() != trade("BTC-USD", 1):
                pass
            socket.transport.abort()
        said = await talk(fake, BTC)
    assert said[2:] == [trade("BTC-USD", n) for n in range(1, 4)]


async def test_a_rest_body_is_given_once_and_again_only_to_who_comes_back() -> None:
    async with FakeExchange(toy()) as fake, httpx2.AsyncClient(trust_env=False) as client:
        url = fake.url + "/book?s=BTC-USD&limit=5"
        first = await client.get(url)
        assert (first.status_code, first.text) == (200, snapshot("BTC-USD", 3))
        assert (await client.get(url)).status_code == 503
        assert (await client.get(fake.url + "/book?s=ETH-USD")).status_code == 404
        assert (await client.get(fake.url + "/elsewhere")).status_code == 404
        async with connect(fake.url.replace("http", "ws") + "/ws"):
            pass
        await eventually(lambda: fake.clients == 0)
        assert (await client.get(url)).status_code == 200


async def test_a_client_that_reads_slowly_still_gets_all_before_the_close() -> None:
    lines = [received(trade("BTC-USD", n, "1" * 10_000), 1.0) for n in range(2_000)]
    async with FakeExchange(toy(lines), speed=None) as fake:
        async with connect(fake.url.replace("http", "ws") + "/ws", max_queue=1) as socket:
            await socket.send(subscribe(BTC))
            await eventually(lambda: fake.sent > 100)
            # Held back by a full socket, not by an unbounded buffer.
            assert fake.sent < 2_000
            said = [message async for message in socket]
    assert len(said) == 2_002


async def test_speed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    lines = [received(trade("BTC-USD", n), 100.0 * n) for n in range(4)]
    async with FakeExchange(toy(lines), speed=2.0) as fake:
        monkeypatch.setattr(asyncio, "sleep", sleep)
        async with asyncio.timeout(30):
            await talk(fake, BTC)
    # The other sleeps are those of the client's pings.
    assert [round(s / 10) for s in slept if s > 40] == [5, 10, 15]


async def test_nothing_is_left_when_the_fake_ends_under_its_clients() -> None:
    before = len(asyncio.all_tasks())
    fake = FakeExchange(toy(), speed=0.001)
    async with fake:
        sockets: list[ClientConnection] = [
            await connect(fake.url.replace("http", "ws") + "/ws") for _ in range(3)
        ]
        await sockets[0].send(subscribe(BTC))
    for socket in sockets:
        with pytest.raises(ConnectionClosed):
            while True:
                await socket.recv()
    await eventually(lambda: len(asyncio.all_tasks()) == before)


async def test_a_port_in_use_is_the_operators_to_change() -> None:
    async with FakeExchange(toy()) as fake:
        with pytest.raises(ConfigError, match="cannot listen"):
            async with FakeExchange(toy(), port=fake.port):
                pass


def test_clocks_that_step_back_do_not_reorder() -> None:
    lines = [received(trade("BTC-USD", n), t) for n, t in enumerate((5.0, 7.0, 6.0, 8.0))]
    frames = Recording(lines, ToyVenue()).frames
    assert [frame.at for frame in frames] == [0.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize(("text", "speed"), [("1", 1.0), ("0.5", 0.5), ("20", 20.0), ("max", None)])
def test_speeds(text: str, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "nan", "inf", "1e9"])
def test_what_is_no_speed_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_speed(text)


def test_a_tape_of_nobody_we_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"dir":"in","raw":"hello"}\n')
    with pytest.raises(ConfigError, match="--exchange"):
        load(path)


ZERO_TRADES = [received(trade("BTC-USD", n), float(n)) for n in range(1, 7)]


async def numbers(fake: FakeExchange, count: int | None = None) -> list[int]:
    """Subscribe to BTC-USD and return the numbers of the first trades, or of all to the end."""
    found: list[int] = []
    async with connect(fake.url.replace("http", "ws") + "/ws") as socket:
        await socket.send(subscribe(BTC))
        while count is None or len(found) < count:
            try:
                message = json.loads(await socket.recv())
            except ConnectionClosed:
                break
            if message["c"] == "trade":
                found.append(message["n"])
        socket.transport.abort()
    return found


async def test_an_exchange_with_faults_goes_on_for_who_comes_back() -> None:
    faults = parse(["close:after=2:times=2", "replay-old:2:times=2"])
    async with FakeExchange(toy(ZERO_TRADES), speed=None, faults=faults) as fake:
        assert await numbers(fake) == [1, 2]
        assert await numbers(fake) == [1, 2, 3, 4]
        assert await numbers(fake) == [5, 6]
        assert len(fake.handshakes) == 3


async def test_the_same_seed_breaks_the_same_frames() -> None:
    said = []
    for seed in (1, 1, 2):
        lines = [received(trade("BTC-USD", n), float(n)) for n in range(200)]
        async with FakeExchange(
            toy(lines), speed=None, faults=parse(["drop:0.3", "reorder:0.3"], seed)
        ) as fake:
            said.append(await numbers(fake))
    assert said[0] == said[1] != said[2]
    assert 100 < len(said[0]) < 180


async def test_what_is_refused_is_refused_over_http_and_only_so_often() -> None:
    faults = parse(["rate-limit:429:retry-after=7:times=2"])
    async with FakeExchange(toy(), speed=None, faults=faults) as fake:
        async with httpx2.AsyncClient(trust_env=False) as client:
            assert (await client.get(fake.url + "/.tape")).status_code == 200
            answer = await client.get(fake.url + "/book?s=BTC-USD")
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
            with pytest.raises(InvalidStatus) as refused:
                await numbers(fake)
            assert refused.value.response.headers["Retry-After"] == "7"
            assert (await client.get(fake.url + "/book?s=BTC-USD")).status_code == 200


async def test_a_half_open_connection_says_and_answers_nothing_and_leaves_nothing() -> None:
    before = len(asyncio.all_tasks())
    faults = parse(["half-open:after=1"])
    async with FakeExchange(toy(ZERO_TRADES), speed=50.0, faults=faults) as fake:
        async with connect(
            fake.url.replace("http", "ws") + "/ws", close_timeout=0.1, ping_interval=None
        ) as socket:
            await socket.send(subscribe(BTC))
            assert [await socket.recv() for _ in range(3)] == [HELLO, OK, trade("BTC-USD", 1)]
            pong = asyncio.ensure_future(await socket.ping())
            await socket.send(subscribe(ETH))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.3)
            assert not pong.done()
    await eventually(lambda: len(asyncio.all_tasks()) == before)


async def test_a_fault_of_nothing_on_the_tape_is_refused() -> None:
    with pytest.raises(ConfigError, match="there are: trade BTC-USD, trade ETH-USD"):
        FakeExchange(toy(), faults=parse(["drop:1:channel=depth"]))
