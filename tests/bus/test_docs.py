"""What docs/bus.md tells other programs to do works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from feed.bus.base import pack_header

REPO = Path(__file__).resolve().parents[2]
TEXT = (REPO / "docs" / "bus.md").read_text()


def post(client: Redis, epoch: int, seq: int) -> None:
    payload = pack_header(epoch, seq) + b'{"n":%d}' % seq
    client.xadd("feed:s:{trade.kraken.BTC-USD}", {"p": payload}, id=f"{seq}-0")
    client.publish("feed:c:{trade.kraken.BTC-USD}", payload)


@pytest.mark.redis
def test_the_reader_of_the_documentation_reads_on_from_the_stream(valkey_url: str) -> None:
    found = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    program = found[1].replace("redis://localhost", valkey_url)
    with Redis.from_url(valkey_url) as client:
        post(client, 1, 1)
        post(client, 1, 2)
        with subprocess.Popen(
            [sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            lines = [reader.stdout.readline() for _ in range(2)]
            post(client, 1, 3)
            client.publish("feed:c:{trade.kraken.BTC-USD}", pack_header(1, 2) + b"{}")
            post(client, 1, 5)
            post(client, 2, 9)
            lines += [reader.stdout.readline() for _ in range(4)]
            reader.terminate()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["1", "2", "3", "missed", "5", "9"]


@pytest.mark.redis
def test_the_accounts_of_the_documentation_suffice(valkey_url: str) -> None:
    """Run in the process's own server: users are removed again."""
    rules = re.findall(r"ACL SETUSER (\w+) +on >… (.*)", TEXT)
    assert [name for name, _ in rules] == ["ingest", "web"]
    program = """
import asyncio, sys
from feed.bus.base import Entry, Retention, pack_header
from feed.bus.redis import RedisBus
from feed.models import Catalogue

async def main(path):
    ingest, web = (RedisBus(f"unix://{name}:pw@{path}", Retention()) for name in ("ingest", "web"))
    await ingest.start()
    await web.start()
    got = asyncio.Event()
    web.watch(print)
    await web.subscribe("book.x.Y", lambda payload: got.set())
    assert await ingest.acquire("x", "me", 5) and await ingest.renew("x", "me", 5)
    entry = Entry("book.x.Y", 1, pack_header(1, 1))
    await ingest.publish([entry], [entry])
    await ingest.publish([entry])
    await ingest.put_catalogue(Catalogue(exchange="x", source="sim", updated=1, instruments=()))
    await ingest.beat("x")
    await ingest.heads(["book.x.Y"])
    await ingest.release("x", "me")
    async with asyncio.timeout(20):
        await got.wait()
    assert await web.history("book.x.Y", 0) and await web.checkpoint("book.x.Y")
    assert await web.heads(["book.x.Y"]) and await web.catalogues()
    await ingest.close()
    await web.close()

asyncio.run(main(sys.argv[1]))
"""
    with Redis.from_url(valkey_url) as client:
        try:
            for name, rule in rules:
                client.execute_command("ACL", "SETUSER", name, "on", ">pw", *rule.split())
            path = valkey_url.removeprefix("unix://")
            subprocess.run([sys.executable, "-c", program, path], check=True, timeout=60)
        finally:
            client.execute_command("ACL", "DELUSER", *(name for name, _ in rules))
