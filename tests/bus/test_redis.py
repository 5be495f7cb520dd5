"""What only a server can do: the format on it, refusals, lost links, frozen and restarted ones."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import Redis

from feed.bus import redis as redis_module
from feed.bus.base import Beat, CatalogueChanged, LinkDown, LinkUp, Notice, Retention
from feed.bus.redis import RedisBus
from feed.errors import BusError, ConfigError
from tests.bus.helpers import (
    BOOK,
    TOPIC,
    Restartable,
    configured,
    descriptors,
    entries,
    entry,
    frozen,
    opened,
    receives_again,
    seqs,
    until,
)
from tests.bus.test_conformance import catalogue

pytestmark = pytest.mark.redis


@pytest.fixture
def raw(valkey_url: str) -> Iterator[Any]:
    with Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
async def bus(valkey_url: str) -> AsyncIterator[RedisBus]:
    async with opened(valkey_url) as one:
        yield one


async def test_an_entry_is_a_stream_id_and_a_message_at_once(bus: RedisBus, raw: Any) -> None:
    with raw.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("feed:c:{trade.kraken.BTC-USD}")
        listener.get_message(timeout=10)
        one = entry(TOPIC, 1_732_280_000_000_001, 1_732_280_000_000_000)
        await bus.publish([one])
        assert raw.xrange("feed:s:{trade.kraken.BTC-USD}") == [
            (b"1732280000000001-0", {b"p": one.payload})
        ]
        message = listener.get_message(timeout=10)
        assert message["data"] == one.payload
        assert one.payload[:16] == bytes.fromhex("0006277fde0d3000 0006277fde0d3001")


async def test_others_can_write_what_we_read(bus: RedisBus, raw: Any) -> None:
    got: list[bytes] = []
    told: list[Notice] = []
    bus.watch(told.append)
    await bus.subscribe(TOPIC, got.append)
    payload = entry(TOPIC, 8, 7).payload
    raw.xadd("feed:s:{trade.kraken.BTC-USD}", {"p": payload}, id="8-0")
    raw.publish("feed:c:{trade.kraken.BTC-USD}", payload)
    raw.set("feed:catalog:mine", msgspec.json.encode(catalogue("mine")))
    raw.sadd("feed:catalogs", "mine")
    raw.publish("feed:catalog", "mine")
    raw.publish("feed:beat:mine", "anything")
    await until(lambda: len(got) == 1 and len(told) == 2)
    assert got == await bus.history(TOPIC, 0) == [payload]
    assert CatalogueChanged(catalogue("mine")) in told and Beat("mine") in told


async def test_a_catalogue_that_cannot_be_read_hides_no_other(bus: RedisBus, raw: Any) -> None:
    await bus.put_catalogue(catalogue("kraken"))
    raw.sadd("feed:catalogs", "broken", "gone")
    raw.set("feed:catalog:broken", b'{"exchange":')
    assert await bus.catalogues() == {"kraken": catalogue("kraken")}


async def test_a_lease_is_a_hash_that_outlives_its_owner(bus: RedisBus, raw: Any) -> None:
    epoch = await bus.acquire("kraken", "one", 60.0)
    lease = raw.hgetall("feed:lease:kraken")
    assert lease[b"owner"] == b"one" and int(lease[b"epoch"]) == epoch
    assert int(lease[b"expires"]) == (epoch or 0) + 60_000_000
    await bus.release("kraken", "one")
    lease = raw.hgetall("feed:lease:kraken")
    assert lease == {b"owner": b"", b"epoch": b"%d" % (epoch or 0), b"expires": b"0"}


async def test_an_epoch_grows_even_if_the_clock_of_the_server_was_set_back(
    bus: RedisBus, raw: Any
) -> None:
    raw.hset("feed:lease:kraken", mapping={"owner": "", "epoch": "9000000000000000", "expires": 0})
    assert await bus.acquire("kraken", "one", 60.0) == 9_000_000_000_000_001


async def test_scripts_survive_a_server_that_forgot_them(bus: RedisBus, raw: Any) -> None:
    assert await bus.acquire("kraken", "one", 60.0)
    raw.script_flush()
    assert await bus.renew("kraken", "one", 60.0)


async def test_an_untouched_stream_expires(valkey_url: str, raw: Any) -> None:
    async with opened(valkey_url, retention=Retention(expire_s=86_400)) as bus:
        await bus.publish([entry(TOPIC, 1)], [entry(BOOK, 1)])
    for key in ("feed:s:{trade.kraken.BTC-USD}", "feed:book:{book.kraken.BTC-USD}"):
        assert 86_400 <= raw.ttl(key) <= 86_400 + 3_600


async def test_streams_of_an_emptied_server_expire_again(own_server: Restartable) -> None:
    async with opened(own_server.url) as bus:
        await bus.publish([entry(TOPIC, 1)])
        own_server.kill()
        with pytest.raises(BusError):
            await bus.publish([entry(TOPIC, 2)])
        own_server.start()
        await bus.publish([entry(TOPIC, 2)])
        with Redis.from_url(own_server.url) as raw:
            assert raw.ttl("feed:s:{trade.kraken.BTC-USD}") > 0


async def test_a_batch_that_meets_a_full_server_lands_not_at_all_and_later_whole(
    bus: RedisBus, raw: Any
) -> None:
    got: list[bytes] = []
    await bus.subscribe(TOPIC, got.append)
    await bus.publish(entries(TOPIC, [1, 2]))
    with configured(raw, maxmemory="1", **{"maxmemory-policy": "noeviction"}):
        with pytest.raises(BusError, match="OOM"):
            await bus.publish(entries(TOPIC, [3, 4, 5]))
        assert seqs(await bus.history(TOPIC, 0)) == [1, 2]
    await bus.publish(entries(TOPIC, [3, 4, 5]))
    await until(lambda: len(got) == 5)
    assert seqs(await bus.history(TOPIC, 0)) == seqs(got) == [1, 2, 3, 4, 5]


async def test_a_read_only_server_refuses_by_name(own_server: Restartable) -> None:
    async with opened(own_server.url) as bus:
        with Redis.from_url(own_server.url) as raw:
            raw.replicaof("127.0.0.1", "1")
            with pytest.raises(BusError, match="READONLY"):
                await bus.publish([entry(TOPIC, 1)])
            with pytest.raises(BusError, match="replica"):
                await bus.put_catalogue(catalogue("kraken"))
            raw.replicaof("NO", "ONE")
        await bus.publish([entry(TOPIC, 1)])


async def test_a_key_of_another_type_is_an_error_of_its_topic(bus: RedisBus, raw: Any) -> None:
    raw.set("feed:s:{trade.kraken.BTC-USD}", "text")
    with pytest.raises(BusError, match=r"trade\.kraken\.BTC-USD: XADD: WRONGTYPE"):
        await bus.publish([entry(TOPIC, 1)])


async def test_a_head_without_a_header_is_an_error(bus: RedisBus, raw: Any) -> None:
    raw.xadd("feed:s:{trade.kraken.BTC-USD}", {"p": "short"}, id="8-0")
    with pytest.raises(BusError, match="no header"):
        await bus.heads([TOPIC])


async def test_the_database_of_the_url_is_used(valkey_url: str) -> None:
    async with opened(f"{valkey_url}?db=3") as bus:
        await bus.publish([entry(TOPIC, 1)])
        assert seqs(await bus.history(TOPIC, 0)) == [1]
    with Redis.from_url(valkey_url, db=3) as raw:
        assert raw.xlen("feed:s:{trade.kraken.BTC-USD}") == 1


async def test_passwords_are_given_and_wrong_ones_named_without_being_told(
    own_server: Restartable,
) -> None:
    with Redis.from_url(own_server.url) as raw:
        raw.acl_setuser(
            "web", enabled=True, passwords=["+s3cr/t"], keys=["feed:*"],
            channels=["feed:*", "feed:beat:*"],  # a pattern must be allowed by the letter
            categories=["+@all"], commands=["-info", "-client|setname"],
        )  # fmt: skip
        raw.config_set("requirepass", "other")
    path = own_server.url.removeprefix("unix://")
    async with opened(f"unix://web:s3cr%2Ft@{path}") as bus:
        got: list[bytes] = []
        await bus.subscribe(TOPIC, got.append)
        await bus.publish([entry(TOPIC, 1)])
        await until(lambda: len(got) == 1)
    async with opened(f"unix://:other@{path}") as bus:
        await bus.publish([entry(TOPIC, 2)])
    with pytest.raises(BusError, match="invalid username-password") as caught:
        await RedisBus(f"unix://web:wr0ng@{path}", Retention()).start()
    assert "wr0ng" not in str(caught.value)


async def test_a_server_with_too_many_clients_is_an_error(own_server: Restartable) -> None:
    async with opened(own_server.url) as bus:
        with Redis.from_url(own_server.url) as raw, configured(raw, maxclients="2"):
            # Named only if its refusal arrives before our greeting meets the closed socket.
            with pytest.raises(BusError, match="max number of clients|connection lost"):
                await bus.publish([entry(TOPIC, 1)])
        await bus.publish([entry(TOPIC, 1)])


async def test_a_forbidden_channel_is_refused_in_bounded_time(own_server: Restartable) -> None:
    with Redis.from_url(own_server.url) as raw:
        raw.acl_setuser(
            "web", enabled=True, passwords=["+pw"], keys=["*"], channels=["feed:beat:*"],
            categories=["+@all"],
        )  # fmt: skip
    path = own_server.url.removeprefix("unix://")
    async with opened(f"unix://web:pw@{path}", timeout_s=0.5) as bus:
        with pytest.raises(BusError, match="NOPERM"):
            await bus.subscribe(TOPIC, lambda payload: None)


async def test_a_server_that_is_too_old_is_the_operators_matter(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "_OLDEST_SERVER", 99)
    with pytest.raises(ConfigError, match="99 is needed"):
        await RedisBus(valkey_url, Retention()).start()


async def test_nobody_at_the_address_is_an_error_at_start() -> None:
    with pytest.raises(BusError, match="nowhere"):
        await RedisBus("unix:///nowhere.sock", Retention()).start()


async def test_a_server_of_another_kind_is_an_error() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BusError):
            await RedisBus(f"redis://127.0.0.1:{port}", Retention()).start()


async def test_publishing_reconnects_after_its_connection_was_killed(
    bus: RedisBus, raw: Any
) -> None:
    await bus.publish([entry(TOPIC, 1)])
    for client in raw.client_list():
        if client["name"] == "feed-writer":
            raw.client_kill(client["addr"])
    for _ in range(2):  # the first may still meet the dead connection
        try:
            await bus.publish(entries(TOPIC, [1, 2]))
        except BusError:
            continue
        break
    assert seqs(await bus.history(TOPIC, 0)) == [1, 2]


async def test_publishing_to_a_dead_server_fails_and_recovers(own_server: Restartable) -> None:
    async with opened(own_server.url) as bus:
        await bus.publish([entry(TOPIC, 1)])
        own_server.kill()
        for _ in range(3):
            with pytest.raises(BusError):
                await bus.publish([entry(TOPIC, 2)])
            with pytest.raises(BusError):
                await bus.beat("kraken")
            with pytest.raises(BusError):
                await bus.renew("kraken", "one", 1.0)
        own_server.start()
        await bus.publish([entry(TOPIC, 2)])
        assert seqs(await bus.history(TOPIC, 0)) == [2]
        assert await bus.renew("kraken", "one", 1.0) is False


async def test_publishing_to_a_frozen_server_fails_and_can_be_repeated(
    own_server: Restartable,
) -> None:
    async with opened(own_server.url, timeout_s=0.2) as bus:
        await bus.publish([entry(TOPIC, 1)])
        with frozen(own_server):
            with pytest.raises(BusError):
                await bus.publish(entries(TOPIC, [2, 3]))
            with pytest.raises(BusError):
                await bus.heads([TOPIC])
    async with opened(own_server.url) as bus:
        await bus.publish(entries(TOPIC, [2, 3, 4]))
        assert seqs(await bus.history(TOPIC, 0)) == [1, 2, 3, 4]


async def test_a_cancelled_publish_leaves_no_reply_to_the_next(own_server: Restartable) -> None:
    async with opened(own_server.url) as bus:
        await bus.publish([entry(TOPIC, 1)])
        with frozen(own_server):
            task = asyncio.ensure_future(bus.publish(entries(TOPIC, [2, 3])))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await bus.publish(entries(TOPIC, [2, 3, 4]))
        assert seqs(await bus.history(TOPIC, 0)) == [1, 2, 3, 4]


async def test_whoever_is_cancelled_while_asking_ends_at_any_turn_of_the_loop(
    valkey_url: str,
) -> None:
    """Who keeps a lease is cancelled once; if that is forgotten, the process never ends."""
    turns, ended = 0, False
    while not ended:
        async with opened(valkey_url) as bus:
            # Commands that wait for each other have each a connection to make.
            asked = [asyncio.ensure_future(bus.beat("kraken")) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            late = [task for task in asked if not task.done()]
            for task in late:
                task.cancel()
            await asyncio.wait(asked)
            assert all(task.cancelled() for task in late), turns
            await bus.beat("kraken")  # what was left behind hinders nobody
            ended = not late
        turns += 1
    assert turns > 3, "no command was cut short"


async def test_a_killed_reader_says_so_and_reads_on(bus: RedisBus, raw: Any) -> None:
    got: list[bytes] = []
    told: list[Notice] = []
    bus.watch(told.append)
    await bus.subscribe(TOPIC, got.append)
    for _ in range(3):
        raw.client_kill_filter(_type="pubsub")
        await until(lambda: len(told) == 2)
        assert isinstance(told[0], LinkDown) and told[1] == LinkUp()
        await receives_again(bus, got)
        told.clear()


async def test_a_reader_whose_output_buffer_overflowed_says_so(bus: RedisBus, raw: Any) -> None:
    told: list[Notice] = []
    got: list[bytes] = []
    bus.watch(told.append)
    await bus.subscribe(TOPIC, got.append)
    with configured(raw, **{"client-output-buffer-limit": "pubsub 32768 16384 1"}):
        # This thread reads nothing meanwhile. Valkey 9 counts only what it copies: no larger ones.
        for seq in range(1, 601):
            raw.publish(f"feed:c:{{{TOPIC}}}", entry(TOPIC, seq, body=b"x" * 8_000).payload)
        await until(lambda: LinkUp() in told)
    await receives_again(bus, got)


async def test_everything_is_subscribed_again_after_a_restart(own_server: Restartable) -> None:
    topics = [f"quote.x.S{number}" for number in range(200)]
    got: list[bytes] = []
    told: list[Notice] = []
    async with opened(own_server.url) as bus:
        bus.watch(told.append)
        await asyncio.gather(*(bus.subscribe(topic, got.append) for topic in topics))
        await bus.unsubscribe(topics[0])
        own_server.kill()
        await until(lambda: len(told) == 1)
        await bus.unsubscribe(topics[1])
        own_server.start()
        await until(lambda: told[1:] == [LinkUp()])
        await bus.publish([entry(topic, 1) for topic in topics])
        await bus.beat("kraken")
        await bus.put_catalogue(catalogue("kraken"))
        await until(lambda: len(got) == 198 and len(told) == 4)
        assert set(told[2:]) == {Beat("kraken"), CatalogueChanged(catalogue("kraken"))}
        with Redis.from_url(own_server.url) as raw:
            await until(lambda: len(raw.pubsub_channels("feed:c:*")) == 198)


async def test_a_frozen_server_is_noticed_though_its_connections_stay(
    own_server: Restartable,
) -> None:
    got: list[bytes] = []
    told: list[Notice] = []
    async with opened(own_server.url, round_s=0.02, rounds=25, timeout_s=5) as bus:
        bus.watch(told.append)
        await bus.subscribe(TOPIC, got.append)
        with frozen(own_server):
            await until(lambda: len(told) == 1)
            assert told == [LinkDown("no sign of life for 25 PINGs")]
        await until(lambda: LinkUp() in told)
        await receives_again(bus, got)


async def test_a_quiet_link_is_not_a_lost_one(valkey_url: str) -> None:
    told: list[Notice] = []
    async with opened(valkey_url, round_s=0.01, rounds=50) as bus:
        bus.watch(told.append)
        await bus.subscribe(TOPIC, lambda payload: None)
        with Redis.from_url(valkey_url) as raw:

            def pings() -> int:
                return int(raw.info("commandstats")["cmdstat_ping"]["calls"])

            enough = pings() + 200  # four times the silence that would end it
            await until(lambda: pings() >= enough)
        assert told == []


async def test_a_subscription_waits_for_a_link_that_is_coming_back(
    own_server: Restartable,
) -> None:
    got: list[bytes] = []
    told: list[Notice] = []
    async with opened(own_server.url) as bus:
        bus.watch(told.append)
        await bus.subscribe(BOOK, lambda payload: None)
        own_server.kill()
        await until(lambda: len(told) == 1)
        joining = asyncio.ensure_future(bus.subscribe(TOPIC, got.append))
        await asyncio.sleep(0)
        own_server.start()
        await joining
        await receives_again(bus, got)


async def test_a_subscription_that_was_not_confirmed_is_none(own_server: Restartable) -> None:
    got: list[bytes] = []
    told: list[Notice] = []
    async with opened(own_server.url, timeout_s=0.3) as bus:
        bus.watch(told.append)
        await bus.subscribe(BOOK, lambda payload: None)
        with frozen(own_server):
            with pytest.raises(BusError, match="cannot subscribe"):
                await bus.subscribe(TOPIC, got.append)
            task = asyncio.ensure_future(bus.subscribe("trade.x.Y", got.append))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        with Redis.from_url(own_server.url) as raw:
            await until(lambda: len(raw.pubsub_channels("feed:c:*")) == 1)


async def test_a_watcher_that_starts_before_the_server_hears_of_it(
    own_server: Restartable,
) -> None:
    told: list[Notice] = []
    async with opened(own_server.url) as bus:
        own_server.kill()
        bus.watch(told.append)
        await until(lambda: len(told) == 1)
        assert isinstance(told[0], LinkDown)
        own_server.start()
        await until(lambda: told[1:] == [LinkUp()])


async def test_a_sink_that_raises_costs_the_link_and_not_the_reader(
    bus: RedisBus, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[bytes] = []
    told: list[Notice] = []

    def broken(payload: bytes) -> None:
        raise RuntimeError("a sink must not raise")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    bus.watch(told.append)
    await bus.subscribe(BOOK, broken)
    await bus.subscribe(TOPIC, got.append)
    await bus.publish([entry(BOOK, 1)])
    await until(lambda: LinkUp() in told)
    await receives_again(bus, got)


@pytest.mark.parametrize("state", ["frozen", "dead"])
async def test_closing_a_lost_bus_gives_everything_back(
    own_server: Restartable, state: str
) -> None:
    async def use() -> None:
        async with opened(own_server.url, timeout_s=0.2) as bus:
            bus.watch(lambda notice: None)
            await bus.subscribe(TOPIC, lambda payload: None)
            await bus.publish([entry(TOPIC, 1)])
            if state == "frozen":
                with frozen(own_server), pytest.raises(BusError):
                    await bus.publish([entry(TOPIC, 2)])
            else:
                own_server.kill()
                with pytest.raises(BusError):
                    await bus.history(TOPIC, 0)
        if state == "dead":
            own_server.start()

    await use()
    tasks, files = len(asyncio.all_tasks()), descriptors()
    await use()
    await until(lambda: descriptors() <= files)
    assert len(asyncio.all_tasks()) == tasks


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


async def test_tls_is_spoken_and_certificates_are_checked(
    valkey_url: str, certificate: tuple[Path, Path]
) -> None:
    """The wheel's server has no TLS, so a small proxy in front of it has."""
    path = valkey_url.removeprefix("unix://")
    handlers: set[asyncio.Task[Any]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        server_reader, server_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    proxy = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"rediss://localhost:{proxy.sockets[0].getsockname()[1]}"
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with proxy:
        got: list[bytes] = []
        for options in (f"ssl_ca_certs={certificate[0]}", "ssl_cert_reqs=none"):
            async with opened(f"{url}?{options}") as bus:
                await bus.subscribe(TOPIC, got.append)
                await bus.publish([entry(TOPIC, 1)])
                await until(lambda: len(got) == 1)
                got.clear()
        with pytest.raises(BusError, match="certificate"):
            await RedisBus(url, Retention()).start()
        with pytest.raises(ConfigError, match="TLS files"):
            await RedisBus(f"{url}?ssl_ca_certs=/nowhere.pem", Retention()).start()
        await asyncio.wait(handlers)
