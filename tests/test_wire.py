"""What our protocol classes promise, and what they take for granted of uvicorn's."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import weakref
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from feed import http, wire
from feed.encoding import JSON, unframe
from feed.errors import CloseCode
from feed.wire import FeedProtocol
from tests.web import (
    RawClient,
    Web,
    close_code,
    descriptors,
    masked,
    running,
    until,
    whole_frames,
    whole_objects,
)

TRADE = "trade.kraken.BTC-USD"


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running() as web:
        yield web


def protocol(web: Web) -> FeedProtocol:
    (client,) = web.gateway.clients
    socket_: Any = client
    found = socket_._socket
    assert isinstance(found, FeedProtocol)
    return found


async def served(web: Web) -> RawClient:
    """Return a raw client that has been welcomed."""
    client = await RawClient.open(web.port)
    await client.receive()
    return client


async def test_after_the_handshake_no_task_is_left_for_a_client(web: Web) -> None:
    before = len(asyncio.all_tasks())
    clients = [await served(web) for _ in range(5)]
    await until(lambda: len(asyncio.all_tasks()) == before)
    assert len(web.gateway.clients) == 5
    for client in clients:
        client.close()
    await until(lambda: not web.gateway.clients)


async def test_a_client_that_left_is_freed_without_the_collector(web: Web) -> None:
    client = await RawClient.open(web.port)
    await client.send(masked(1, b'{"op":"subscribe","topics":["%s"]}' % TRADE.encode()))
    await client.objects("synced", 1)
    connection = weakref.ref(next(iter(web.gateway.clients)))
    gc.disable()
    try:
        client.close()
        await until(lambda: connection() is None)
    finally:
        gc.enable()


async def test_the_socket_is_set_up_for_small_prompt_writes(web: Web) -> None:
    client = await served(web)
    sock = protocol(web).transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.IPPROTO_TCP, 25) == 16_384  # TCP_NOTSENT_LOWAT
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 131_072
    client.close()


async def test_ready_frames_reach_the_socket_as_they_are(web: Web) -> None:
    client = await served(web)
    frames = JSON.frame(b'{"a":1}') + JSON.frame(b"x" * 70_000)
    protocol(web).write(frames)
    got = b""
    while len(got) < len(frames):
        got += await client.receive()
    assert got == frames
    client.close()


async def test_a_full_buffer_pauses_and_an_empty_one_resumes(web: Web) -> None:
    client = await served(web)
    sock = protocol(web)
    outbox = next(iter(web.gateway.clients)).outbox
    while not outbox.blocked:
        sock.write(b"\x81\x02ok" * 16_000)
        await asyncio.sleep(0)
    assert sock.unsent() > 0 and sock.acknowledged() < sock.written
    while outbox.blocked:
        await client.receive()
    await until(lambda: sock.acknowledged() >= 0)
    client.close()


async def test_a_close_of_ours_ends_with_the_clients_echo(web: Web) -> None:
    client = await served(web)
    sock = protocol(web)
    sock.close(CloseCode.SHED, "too many")
    assert close_code(await client.receive()) == 4000
    await client.send(masked(8, (4000).to_bytes(2, "big")))
    assert await client.rest() == b""
    client.close()


async def test_a_close_that_is_not_echoed_becomes_a_reset(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_CLOSE_S", 0.2)
    client = await served(web)
    protocol(web).close(CloseCode.SHED, "too many")
    assert close_code(await client.rest()) == 4000
    await until(lambda: not web.gateway.clients)
    client.close()


async def test_a_client_that_closes_without_reading_is_let_go_at_once(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_CLOSE_S", 0.2)
    base = descriptors()
    client = await RawClient.open(web.port, f"?topics={TRADE}", receive_bytes=4096)
    await until(lambda: len(web.gateway.clients) == 1)
    outbox = next(iter(web.gateway.clients)).outbox
    publisher = web.publisher
    while not outbox.blocked:
        await publisher.publish(*[publisher.trade(pad=2_000) for _ in range(20)])
    await client.send(masked(8, (1000).to_bytes(2, "big")))
    await until(lambda: not web.gateway.clients)
    await until(lambda: descriptors() <= base + 1)
    client.close()


PROTOCOL_ERRORS = [
    pytest.param(masked(1, b"\xff\xfe"), 1007, id="text that is not UTF-8"),
    pytest.param(masked(1, b"x" * 300_000), 1009, id="a message over the limit"),
    pytest.param(
        masked(1, b"x" * 200_000, fin=False) + masked(0, b"x" * 100_000), 1009, id="in fragments"
    ),
    pytest.param(b"\x81\x02{}", 1002, id="not masked"),
    pytest.param(masked(3, b"{}"), 1002, id="an opcode that does not exist"),
    pytest.param(bytes((0xC1, 0x80)) + bytes(4), 1002, id="a reserved bit"),
    pytest.param(masked(9, b"x" * 126), 1002, id="a ping too long"),
    pytest.param(masked(9, b"", fin=False), 1002, id="a ping in fragments"),
    pytest.param(masked(0, b"x"), 1002, id="a continuation of nothing"),
    pytest.param(masked(8, b"\x00"), 1002, id="half a close code"),
]


@pytest.mark.parametrize(("data", "code"), PROTOCOL_ERRORS)
async def test_an_error_of_the_protocol_is_closed_with_its_code(
    web: Web, data: bytes, code: int
) -> None:
    client = await served(web)
    await client.send(data)
    assert close_code(await client.rest()) == code
    await until(lambda: not web.gateway.clients)
    client.close()


async def test_pings_are_answered(web: Web) -> None:
    client = await served(web)
    await client.send(masked(9, b"hello"))
    assert list(unframe(await client.receive())) == [(10, b"hello")]
    client.close()


async def test_who_pings_and_does_not_read_gets_the_last_pong_once_it_reads(web: Web) -> None:
    client = await RawClient.open(web.port, f"?topics={TRADE}&status=0", receive_bytes=8_192)
    (connection,) = web.gateway.clients
    wire = protocol(web)
    while not connection.outbox.blocked:
        await web.publisher.publish(*[web.publisher.trade(pad=1_000) for _ in range(50)])
        await asyncio.sleep(0)
    unsent = wire.unsent()
    for n in range(30):
        await client.send(masked(9, b"ping %d" % n))
    await client.send(masked(1, b'{"op":"ping","id":1}'))
    await until(lambda: connection.outbox.control_bytes > 0)
    assert wire.unsent() == unsent
    data = b""
    while not any(one["type"] == "pong" for one in whole_objects(data)):
        data += await client.receive()
    pongs = [body for opcode, body in whole_frames(data) if opcode == 10]
    assert pongs == [b"ping 29"]
    client.close()


async def test_a_flood_of_pings_is_ended(web: Web) -> None:
    client = await served(web)
    await client.send(masked(9, b"x" * 100) * 500)
    assert close_code(await client.rest()) == 4010
    await until(lambda: not web.gateway.clients)
    client.close()


async def test_a_flood_of_pongs_is_ended(web: Web) -> None:
    client = await served(web)
    await client.send(masked(10, b"") * 500)
    assert close_code(await client.rest()) == 4010
    client.close()


async def test_a_flood_of_empty_fragments_is_ended(web: Web) -> None:
    client = await served(web)
    await client.send(masked(1, b"", fin=False) + masked(0, b"", fin=False) * 5_000)
    await client.rest()
    await until(lambda: not web.gateway.clients)
    client.close()


async def test_a_message_in_some_fragments_is_a_message(web: Web) -> None:
    client = await served(web)
    command = b'{"op":"ping","id":3}'
    parts = [command[i : i + 5] for i in range(0, len(command), 5)]
    data = masked(1, parts[0], fin=False)
    data += b"".join(masked(0, part, fin=False) for part in parts[1:-1]) + masked(0, parts[-1])
    await client.send(data)
    assert b'"pong","id":3' in await client.receive()
    client.close()


async def test_an_upgrade_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_REQUEST_S", 0.3)
    async with running() as web:
        base = descriptors()
        loop = asyncio.get_running_loop()
        socks = []
        for text in (b"", b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n", b"GET /readyz HTTP/1.1\r\nx:"):
            sock = socket.create_connection(("127.0.0.1", web.port))
            sock.setblocking(False)
            await loop.sock_sendall(sock, text)
            socks.append(RawClient(sock))
        for client in socks:
            assert await client.receive() == b""
            client.close()
        await until(lambda: descriptors() <= base)


HEADERS = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADES = [
    pytest.param(HEADERS + KEY + b"x: y\r\n" * 140, 431, id="140 headers"),
    pytest.param(HEADERS + KEY + b"Content-Length: 5\r\n", 400, id="a body"),
    pytest.param(HEADERS + KEY + b"Transfer-Encoding: chunked\r\n", 400, id="chunked"),
    pytest.param(HEADERS, 400, id="no key"),
    pytest.param(HEADERS + KEY + KEY, 400, id="two keys"),
    pytest.param(HEADERS.replace(b"13", b"12") + KEY, 426, id="another version"),
    pytest.param(HEADERS + KEY + b"Sec-WebSocket-Protocol: f\xc3\xa9\r\n", 400, id="not ASCII"),
]


@pytest.mark.parametrize(("headers", "status"), UPGRADES)
async def test_a_bad_upgrade_is_answered_and_closed(web: Web, headers: bytes, status: int) -> None:
    sock = socket.create_connection(("127.0.0.1", web.port))
    sock.setblocking(False)
    client = RawClient(sock)
    await client.send(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
    answer = await client.rest()
    assert int(answer.split()[1]) == status, answer
    client.close()
    await until(lambda: not web.gateway.clients)


REQUESTS = [
    pytest.param(b"POST /v1/ws HTTP/1.1\r\nHost: x\r\n" + HEADERS + KEY, 405, id="POST"),
    pytest.param(b"GET /v1/ws HTTP/1.0\r\nHost: x\r\n" + HEADERS + KEY, 400, id="HTTP/1.0"),
    pytest.param(b"GET /v1/ws HTTP/1.1\r\n" + HEADERS + KEY, 400, id="no host"),
    pytest.param(
        b"GET /v1/ws?topics=" + b"x" * 65_536 + b" HTTP/1.1\r\nHost: x\r\n" + HEADERS + KEY,
        414,
        id="a URL of 64 KiB",
    ),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400, id="TLS"),
]


@pytest.mark.parametrize(("request_", "status"), REQUESTS)
async def test_a_request_that_is_none_is_answered_and_closed(
    web: Web, request_: bytes, status: int
) -> None:
    sock = socket.create_connection(("127.0.0.1", web.port))
    sock.setblocking(False)
    client = RawClient(sock)
    await client.send(request_ + b"\r\n")
    answer = await client.rest()
    assert int(answer.split()[1]) == status, answer
    client.close()
    await until(lambda: not web.gateway.clients)


async def test_an_upgrade_behind_a_response_that_goes_on_ends_both(web: Web) -> None:
    client = await RawClient.connect(web.port)
    await client.send(b"GET /v1/stream?topics=%s HTTP/1.1\r\nHost: x\r\n\r\n" % TRADE.encode())
    await until(lambda: len(web.gateway.clients) == 1)
    await client.send(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n" + HEADERS + KEY + b"\r\n")
    assert b" 101 " not in await client.rest()
    await until(lambda: not web.gateway.clients)
    client.close()


async def test_compression_is_not_agreed_to_so_a_bomb_is_only_a_wrong_frame(web: Web) -> None:
    deflate = zlib.compressobj(wbits=-15)
    bomb = deflate.compress(bytes(50 << 20)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    sock = socket.create_connection(("127.0.0.1", web.port))
    sock.setblocking(False)
    client = RawClient(sock)
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    await client.send(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n" + HEADERS + KEY + offer + b"\r\n")
    answer = await client.receive()
    assert b" 101 " in answer and b"extensions" not in answer.lower()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = bytearray(masked(1, bomb))
    data[0] |= 0x40  # compressed
    await client.send(bytes(data))
    rest = answer.partition(b"\r\n\r\n")[2] + await client.rest()
    assert close_code(rest) == 1002
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB
    client.close()


async def test_a_client_that_vanishes_in_the_handshake_leaves_nothing(web: Web) -> None:
    for _ in range(20):
        sock = socket.create_connection(("127.0.0.1", web.port))
        client = RawClient(sock)
        sock.sendall(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n" + HEADERS + KEY + b"\r\n")
        client.vanish()
    await until(lambda: not web.gateway.clients)
    assert (await web.get("/readyz"))[0] == 200


async def test_an_idle_client_is_pinged_and_one_that_does_not_answer_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from feed import websocket

    monkeypatch.setattr(websocket, "_PING_AFTER_S", 0.2)
    monkeypatch.setattr(websocket, "_PONG_WITHIN_S", 0.3)
    async with running(heartbeat_s=0.1) as web:
        silent = await served(web)
        async with web.client() as good:
            data = await silent.rest()
            assert 9 in {opcode for opcode, _ in unframe(data)}
            await until(lambda: len(web.gateway.clients) == 1)
            await good.type("heartbeat")
        silent.close()
