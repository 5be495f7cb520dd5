"""Each fault of the proxy really happens: seen from the two sockets at its ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.bus.helpers import descriptors
from tests.fault_proxy import FaultProxy, reset
from tests.web import until

#: For what must not happen: forwarding takes far less than a millisecond.
_QUIET_S = 0.1


class End(NamedTuple):
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def expect(self, data: bytes) -> None:
        """Read exactly ``data``; ``b""`` is the end."""
        async with asyncio.timeout(10):
            assert (
                await (self.reader.readexactly(len(data)) if data else self.reader.read()) == data
            )

    async def expect_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(_QUIET_S):
                await self.reader.read(1)

    async def expect_reset(self) -> None:
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                await self.reader.read()


class Rig:
    """A server that notes who connects, a proxy before it, and clients."""

    def __init__(self) -> None:
        self.served: asyncio.Queue[End] = asyncio.Queue()
        self.ends: list[End] = []
        self.proxy: FaultProxy

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = End(reader, writer)
        self.ends.append(end)
        self.served.put_nowait(end)

    async def connect(self) -> End:
        address = self.proxy.address
        host, _, port = address.rpartition(":")
        if "/" in address:
            client = End(*await asyncio.open_unix_connection(address))
        else:
            client = End(*await asyncio.open_connection(host, int(port)))
        self.ends.append(client)
        return client

    async def pair(self) -> tuple[End, End]:
        """Return a new client and the server's end of its connection."""
        present = self.proxy.open
        client = await self.connect()
        await until(lambda: self.proxy.open > present)
        async with asyncio.timeout(10):
            return client, await self.served.get()


@pytest.fixture(params=["tcp", "unix"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig()
    if request.param == "tcp":
        server = await asyncio.start_server(rig.serve, "127.0.0.1", 0)
        rig.proxy = FaultProxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    else:
        path = tmp_path / "server"
        server = await asyncio.start_unix_server(rig.serve, path)
        rig.proxy = FaultProxy(str(path), tmp_path / "proxy")
    async with server, rig.proxy:
        yield rig
    for end in rig.ends:
        end.writer.close()


async def test_bytes_pass_both_ways_unchanged(rig: Rig) -> None:
    client, server = await rig.pair()
    everything = bytes(range(256)) * 8_000
    for one, other in ((client, server), (server, client)):
        one.writer.write(everything)
        await other.expect(everything)
    assert rig.proxy.up.passed == rig.proxy.down.passed == len(everything)
    assert rig.proxy.accepted == rig.proxy.open == 1


async def test_a_side_that_closes_is_heard_by_the_other(rig: Rig) -> None:
    client, server = await rig.pair()
    client.writer.write(b"bye")
    client.writer.write_eof()
    await server.expect(b"bye")
    await server.expect(b"")
    server.writer.write(b"still here")
    await client.expect(b"still here")
    server.writer.close()
    await client.expect(b"")
    await until(lambda: rig.proxy.open == 0)


async def test_latency_delays_each_way_and_keeps_the_order(rig: Rig) -> None:
    client, server = await rig.pair()
    rig.proxy.latency(0.05)
    clock = asyncio.get_running_loop().time
    begin = clock()
    for number in range(10):
        client.writer.write(b"%d" % number)
        await asyncio.sleep(0.002)
    sent = clock() - begin
    await server.expect(b"0123456789")
    assert clock() - begin >= 0.045 + 0.9 * sent  # late, and not one after the other
    begin = clock()
    client.writer.write(b"ping")
    await server.expect(b"ping")
    server.writer.write(b"pong")
    await client.expect(b"pong")
    assert clock() - begin >= 0.09


async def test_bandwidth_is_limited_in_one_direction(rig: Rig) -> None:
    client, server = await rig.pair()
    rig.proxy.down.bytes_s = 20_000
    clock = asyncio.get_running_loop().time
    begin = clock()
    server.writer.write(b"x" * 4_000)
    client.writer.write(b"y" * 100_000)
    await server.expect(b"y" * 100_000)
    await client.expect(b"x" * 1_000)
    assert clock() - begin >= 0.045
    await client.expect(b"x" * 3_000)
    assert clock() - begin >= 0.18


async def test_a_slow_direction_stops_the_sender(rig: Rig) -> None:
    client, _ = await rig.pair()
    rig.proxy.up.bytes_s = 1_000
    for _ in range(64):
        client.writer.write(bytes(1 << 18))
    with pytest.raises(TimeoutError):  # 16 MB are more than all buffers on the way hold
        async with asyncio.timeout(0.5):
            await client.writer.drain()


async def test_a_black_hole_takes_bytes_and_yields_them_when_it_ends(rig: Rig) -> None:
    client, server = await rig.pair()
    rig.proxy.blackhole()
    client.writer.write(b"question")
    server.writer.write(b"answer")
    await client.writer.drain()
    await server.expect_nothing()
    await client.expect_nothing()
    rig.proxy.release()
    await server.expect(b"question")
    await client.expect(b"answer")


async def test_a_black_hole_swallows_what_was_late_on_its_way(rig: Rig) -> None:
    client, server = await rig.pair()
    rig.proxy.latency(0.05)
    client.writer.write(b"x")
    await asyncio.sleep(0.01)
    rig.proxy.blackhole()
    await server.expect_nothing()


async def test_one_direction_can_be_held_alone(rig: Rig) -> None:
    client, server = await rig.pair()
    rig.proxy.down.hold()
    server.writer.write(b"held")
    client.writer.write(b"free")
    await server.expect(b"free")
    await client.expect_nothing()
    rig.proxy.down.release()
    await client.expect(b"held")


async def test_nobody_hears_of_a_close_in_a_black_hole(rig: Rig) -> None:
    client, server = await rig.pair()
    rig.proxy.blackhole()
    client.writer.transport.abort()
    await server.expect_nothing()
    rig.proxy.release()
    await server.expect(b"")


async def test_who_connects_into_a_black_hole_is_not_seen_by_the_server(rig: Rig) -> None:
    rig.proxy.blackhole()
    client = await rig.connect()
    client.writer.write(b"anybody?")
    await client.expect_nothing()
    assert rig.served.empty()
    rig.proxy.release()
    await (await rig.served.get()).expect(b"anybody?")


@pytest.mark.parametrize("rig", ["tcp"], indirect=True)
async def test_a_reset_is_one_at_both_ends(rig: Rig) -> None:
    client, server = await rig.pair()
    rig.proxy.reset()
    await client.expect_reset()
    await server.expect_reset()
    await until(lambda: rig.proxy.open == 0)
    again, server = await rig.pair()
    again.writer.write(b"again")
    await server.expect(b"again")


@pytest.mark.parametrize("rig", ["unix"], indirect=True)
async def test_a_reset_of_a_unix_socket_is_an_end(rig: Rig) -> None:
    client, server = await rig.pair()
    rig.proxy.reset()
    await client.expect(b"")
    await server.expect(b"")


@pytest.mark.parametrize("rig", ["tcp"], indirect=True)
async def test_a_reset_by_one_side_reaches_the_other_as_one(rig: Rig) -> None:
    client, server = await rig.pair()
    reset(client.writer)
    await server.expect_reset()


async def test_new_connections_are_refused_and_taken_again_at_the_same_address(rig: Rig) -> None:
    client, server = await rig.pair()
    address = rig.proxy.address
    for _ in range(3):
        await rig.proxy.refuse()
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            await rig.connect()
        client.writer.write(b"still")
        await server.expect(b"still")
        await rig.proxy.accept()
        assert rig.proxy.address == address
        later, later_server = await rig.pair()
        later.writer.write(b"back")
        await later_server.expect(b"back")


async def test_half_a_close_ends_one_direction(rig: Rig) -> None:
    client, server = await rig.pair()
    rig.proxy.half_close(rig.proxy.down)
    await client.expect(b"")
    server.writer.write(b"into the void")
    client.writer.write(b"heard")
    await server.expect(b"heard")
    assert rig.proxy.down.passed == 0


async def test_without_a_server_the_client_is_dropped(tmp_path: Path) -> None:
    async with FaultProxy(str(tmp_path / "nobody"), tmp_path / "proxy") as proxy:
        client = End(*await asyncio.open_unix_connection(proxy.address))
        await client.expect(b"")
        client.writer.close()


async def test_leaving_gives_every_task_and_descriptor_back(tmp_path: Path) -> None:
    served: list[End] = []
    server = await asyncio.start_unix_server(
        lambda reader, writer: served.append(End(reader, writer)), tmp_path / "server"
    )
    async with server:
        tasks, files = len(asyncio.all_tasks()), descriptors()
        async with FaultProxy(str(tmp_path / "server")) as proxy:
            host, _, port = proxy.address.rpartition(":")
            for _ in range(2):
                client = End(*await asyncio.open_connection(host, int(port)))
                client.writer.write(b"x" * 1_000)
                client.writer.close()
                await until(lambda: proxy.up.passed == 1_000)
                proxy.blackhole()
            await until(lambda: proxy.accepted == 2)
        await served[0].expect(b"x" * 1_000)
        served[0].writer.close()
        await until(lambda: descriptors() <= files)
        assert len(asyncio.all_tasks()) == tasks
