"""The sample configuration for nginx, run by the real one with short time-outs."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import websockets

from tests.web import Client, Web, running

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
SAMPLE = Path(__file__).resolve().parent.parent / "docs" / "nginx.conf"
TRADE = "trade.kraken.BTC-USD"

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running(heartbeat_s=0.3) as web:
        yield web


@pytest.fixture
async def front(web: Web, tmp_path: Path) -> AsyncIterator[int]:
    """Yield the port of an nginx in front of the server; a second of silence is its limit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = SAMPLE.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{web.port}")
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}")
    text, changed = re.subn(r"(proxy_(?:read|send)_timeout) 60s", r"\1 1s", text)
    assert changed == 2
    folders = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"daemon off;\nmaster_process off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{folders}{text}\n}}\n"
    )
    assert NGINX is not None
    command = [NGINX, "-c", str(conf), "-p", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(15):
            while True:
                assert process.returncode is None, (tmp_path / "error.log").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    await writer.wait_closed()
                    break
                except OSError:
                    await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def test_a_quiet_connection_outlives_the_proxys_idle_time(web: Web, front: int) -> None:
    url = f"ws://127.0.0.1:{front}/v1/ws"
    async with websockets.connect(url, compression=None, ping_interval=None) as connection:
        client = Client(connection, is_msgpack=False)
        await client.subscribe(TRADE, all=[TRADE])
        for _ in range(8):  # 2.4 s, more than twice the limit
            await client.type("heartbeat")
        await web.publisher.publish(web.publisher.trade())
        assert (await client.type("trade"))["topic"] == TRADE


async def test_events_pass_one_by_one_and_pages_too(web: Web, front: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", front)
    request = f"GET /v1/stream?topics={TRADE}&status=0 HTTP/1.1\r\nhost: x\r\n\r\n"
    writer.write(request.encode())
    async with asyncio.timeout(15):
        await reader.readuntil(b'"type":"synced"')
        await web.publisher.publish(web.publisher.trade())
        await reader.readuntil(b'"type":"trade"')
    writer.close()
    await writer.wait_closed()
    reader, writer = await asyncio.open_connection("127.0.0.1", front)
    writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b'{"ok":true}' in await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_the_metrics_stay_behind_the_proxy(web: Web, front: int) -> None:
    for path in ("/metrics", "//metrics", "/./metrics", "/%6detrics", "/metrics?x"):
        reader, writer = await asyncio.open_connection("127.0.0.1", front)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 403 "), path
        writer.close()
        await writer.wait_closed()


async def test_a_browser_of_the_proxys_own_address_is_let_in(front: int) -> None:
    """The Host that the browser knows must reach the check of its Origin."""
    address = f"127.0.0.1:{front}"
    async with websockets.connect(
        f"ws://{address}/v1/ws",
        compression=None,
        origin=f"http://{address}",  # type: ignore[arg-type]
    ) as connection:
        assert '"welcome"' in str(await connection.recv())
