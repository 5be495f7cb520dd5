"""``/metrics``: names and values, sums over workers, labels that end."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from feed.metrics import FAMILIES, Histogram, Values, lasting, merge, of_workers, render
from tests.process import Served, serving
from tests.test_cli import descendants
from tests.test_drain import TRADE, Reader, is_carried, publisher, until_true, upgrade
from tests.web import RawClient, Web, running, until

Read = dict[str, float]


def parse(text: str) -> Read:
    """Return every sample as ``name{label}``."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sample.labels.items())
            name = sample.name + (f"{{{labels}}}" if labels else "")
            assert name not in found, name
            found[name] = sample.value
    return found


def fetch(port: int) -> Read:
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=15) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert answer.headers["cache-control"] == "no-store"
        return parse(answer.read().decode())


async def scraped(served: Served | Web) -> Read:
    return await asyncio.to_thread(fetch, served.port)


# Pure.


def test_names_follow_the_conventions() -> None:
    names = [family.name for family in FAMILIES]
    assert len(names) == len(set(names))
    for family in FAMILIES:
        assert family.name.startswith(("feed_", "process_"))
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert not family.name.endswith(("_ms", "_us", "_kb")), "base units"


def test_a_histogram_counts_what_is_at_most_its_bound() -> None:
    lag = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        lag.observe(value)
    read = parse(render({"feed_loop_lag_seconds": lag.values()}, "")[0].decode())
    assert read == {
        "feed_loop_lag_seconds_bucket{le=0.1}": 2,
        "feed_loop_lag_seconds_bucket{le=1.0}": 3,
        "feed_loop_lag_seconds_bucket{le=+Inf}": 4,
        "feed_loop_lag_seconds_count": 4,
        "feed_loop_lag_seconds_sum": pytest.approx(7.65),
    }


def test_each_family_is_merged_in_its_own_way() -> None:
    one: Values = {
        "feed_clients": {"websocket": 3, "sse": 1},
        "feed_bus_up": {"": 1},
        "feed_build_info": {"1.0": 1},
        "feed_newest_entry_age_seconds": {"kraken": 0.5},
    }
    other: Values = {
        "feed_clients": {"websocket": 4},
        "feed_bus_up": {"": 0},
        "feed_build_info": {"1.0": 1},
        "feed_newest_entry_age_seconds": {"kraken": 0.2, "binance": 9},
        "of_a_newer_version": {"": 1},
    }
    assert merge([one, other]) == {
        "feed_clients": {"websocket": 7, "sse": 1},
        "feed_bus_up": {"": 0},
        "feed_build_info": {"1.0": 1},
        "feed_newest_entry_age_seconds": {"kraken": 0.2, "binance": 9},
    }


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 99)), max_size=5))
def test_sums_do_not_depend_on_the_order(parts: list[dict[str, float]]) -> None:
    values: list[Values] = [{"feed_gaps_total": part} for part in parts]
    together = merge(values)
    assert together == merge(values[::-1]) == merge([merge(values[:2]), merge(values[2:])])


def test_only_what_was_counted_remains_of_who_has_ended() -> None:
    values: Values = {name: {"": 1.0} for name in (family.name for family in FAMILIES)}
    kept = lasting(values)
    assert "feed_encodes_total" in kept and "feed_loop_lag_seconds" in kept
    assert "feed_clients" not in kept and "feed_bus_up" not in kept


def test_workers_that_did_not_answer_are_counted() -> None:
    values = of_workers({0: {"feed_clients": {"websocket": 2, "sse": 1}}}, 1, 4)
    read = parse(render(values, "")[0].decode())
    assert read == {
        "feed_workers": 2,
        "feed_workers_unanswered": 1,
        "feed_worker_clients{worker=0}": 3,
        "feed_worker_restarts_total": 4,
    }


def test_openmetrics_is_spoken_to_who_asks_for_it() -> None:
    body, content_type = render({"feed_bus_up": {"": 1}}, "application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text") and body.endswith(b"# EOF\n")


def test_values_of_a_whole_server_fit_into_one_packet() -> None:
    bounds = {str(i): 1e15 for i in range(20)}
    values: Values = {family.name: dict(bounds) for family in FAMILIES}
    assert len(msgspec.json.encode(values)) < 65_536


# One process.


async def test_what_clients_do_is_seen() -> None:
    async with running() as web:
        async with web.client() as one, web.client(encoding="msgpack") as two:
            await one.subscribe(TRADE, "quote.kraken.BTC-USD", all=[TRADE], mode="latest")
            await two.subscribe(TRADE, all=[TRADE])
            before = await scraped(web)
            await web.publisher.publish(web.publisher.trade(), web.publisher.trade())
            for client in (one, two):
                await client.read(
                    lambda said: said.get("seq") == web.publisher.sent[TRADE][1]["seq"]
                )
            after = await scraped(web)

            def grew(name: str) -> float:
                return after[name] - before[name]

            assert after["feed_clients{transport=websocket}"] == 2
            assert after["feed_worker_clients{worker=0}"] == 2 and after["feed_workers"] == 1
            assert after["feed_subscriptions"] == 3
            assert (
                after["feed_topics{phase=live}"] >= 2 and after["feed_topics{phase=filling}"] == 0
            )
            assert after["feed_bus_up"] == 1
            assert grew("feed_bus_entries_total") == 2
            assert grew("feed_encodes_total") == 4, "two entries in two encodings"
            assert grew("feed_sent_bytes_total") > 400
            assert 0 <= after["feed_newest_entry_age_seconds{exchange=kraken}"]
            assert after["feed_connects_total"] == 2
        await until(lambda: not web.gateway.clients)
        left = await scraped(web)
        assert left["feed_clients{transport=websocket}"] == 0 and left["feed_connects_total"] == 2
        assert left["feed_sent_bytes_total"] >= after["feed_sent_bytes_total"]


async def test_resumes_snapshots_and_gaps_are_counted() -> None:
    async with running() as web:
        await web.publisher.publish(*[web.publisher.trade() for _ in range(3)])
        first = web.publisher.sent[TRADE][0]["seq"]
        before = await scraped(web)
        async with web.client() as client:
            client.ledger.at[TRADE] = first
            await client.subscribe(TRADE, since={TRADE: first})
        async with web.client() as client:
            quote = "quote.kraken.BTC-USD"
            await client.subscribe(TRADE, quote, all=[TRADE], latest=[quote], since={TRADE: 99})
        after = await scraped(web)
        assert after["feed_resumes_total{recovered=true}"] == 1
        assert after["feed_resumes_total{recovered=false}"] == 1
        assert after["feed_gaps_total{cause=resume_too_old}"] == 1
        assert after["feed_gaps_total{cause=slow_consumer}"] == 0
        assert after["feed_snapshots_total"] == before["feed_snapshots_total"] + 1


async def test_streams_and_refusals_are_counted() -> None:
    async with running(max_clients=2) as web:
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        writer.write(f"GET /v1/stream?topics={TRADE} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await reader.readuntil(b'"synced"')
        client = await RawClient.open(web.port)
        assert (await upgrade(web.port)).startswith(b"HTTP/1.1 503")
        read = await scraped(web)
        assert read["feed_clients{transport=sse}"] == 1
        assert read["feed_clients{transport=websocket}"] == 1
        assert read["feed_connects_refused_total"] == 1
        client.close()
        writer.close()
        await writer.wait_closed()


async def test_no_label_grows_with_topics_or_clients() -> None:
    symbols = [f"S{i}-USD" for i in range(300)]
    async with running() as web:
        few = await scraped(web)
        await web.publisher.carry(*symbols)
        topics = [f"trade.kraken.{symbol}" for symbol in symbols]
        clients = [await RawClient.open(web.port, f"?topics={','.join(topics)}") for _ in range(20)]
        await until(lambda: len(web.gateway.relay.states()) > 300)
        await web.publisher.publish(*[web.publisher.trade(symbol) for symbol in symbols])
        many = await scraped(web)
        assert many["feed_subscriptions"] >= 20 * 300
        assert set(many) - set(few) <= {"feed_newest_entry_age_seconds{exchange=kraken}"}
        for client in clients:
            client.close()


async def test_it_is_served_while_entries_pour_in() -> None:
    async with running() as web, web.client() as client:
        await client.subscribe(TRADE, all=[TRADE])

        async def publish() -> None:
            while True:
                await web.publisher.publish(*[web.publisher.trade() for _ in range(100)])
                await asyncio.sleep(0)

        publishing = asyncio.create_task(publish())
        reads = [await scraped(web) for _ in range(10)]
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        for name in reads[0]:
            if name.endswith("_total") or "_bucket" in name:
                values = [read[name] for read in reads]
                assert values == sorted(values), name
        assert reads[-1]["feed_bus_entries_total"] > reads[0]["feed_bus_entries_total"]


# Several.


async def spread(served: Served) -> list[float]:
    read = await scraped(served)
    return [
        read.get(f"feed_worker_clients{{worker={i}}}", 0) for i in range(int(read["feed_workers"]))
    ]


@pytest.mark.redis
@pytest.mark.parametrize("workers", [2, 4])
async def test_clients_are_spread_evenly_whatever_comes_and_goes(
    valkey_url: str, workers: int
) -> None:
    """All at once, so that each worker's queue fills; then after some have left."""
    async with serving(valkey_url, workers=workers, connects_per_s=0) as served:
        clients = await asyncio.gather(*(RawClient.open(served.port) for _ in range(60 * workers)))
        found = await spread(served)
        assert sum(found) == 60 * workers and max(found) - min(found) <= 6, found
        # Whoever leaves, those who come fill up what is missing.
        for client in clients[::workers]:
            client.close()
        stay = [c for i, c in enumerate(clients) if i % workers]

        async def settled() -> bool:
            return sum(await spread(served)) == len(stay)

        await until_true(settled)
        # A worker says who has left ten times a second: the first of these may go elsewhere. At
        # random, or in turn, those who have left would not be made up for.
        for _ in range(30):
            stay += [await RawClient.open(served.port) for _ in range(10)]
            found = await spread(served)
            if max(found) - min(found) <= 10:
                break
        assert sum(found) == len(stay) and max(found) - min(found) <= 10, found
        for client in stay:
            client.close()


@pytest.mark.redis
async def test_whichever_worker_is_asked_says_the_sum_and_no_sum_ever_falls(
    valkey_url: str,
) -> None:
    async with (
        serving(valkey_url, workers=2, drain_s=0) as served,
        publisher(valkey_url, "BTC-USD") as pub,
    ):
        await is_carried(served)
        readers = [Reader(TRADE) for _ in range(10)]
        for reader in readers:
            await reader.connect(served.port)
        await until(lambda: all(reader.synced for reader in readers))
        first = await scraped(served)
        await pub.publish(*[pub.trade() for _ in range(7)])
        await until(lambda: all(len(reader.ledger.of(TRADE)) == 7 for reader in readers))
        reads = [await scraped(served) for _ in range(4)]  # each new connection, the next worker
        for read in reads:
            assert read["feed_clients{transport=websocket}"] == 10
            assert read["feed_subscriptions"] == 10
            assert read["feed_bus_entries_total"] - first["feed_bus_entries_total"] == 14
            assert read["feed_encodes_total"] - first["feed_encodes_total"] == 14
            assert read["feed_workers"] == 2 and read["feed_workers_unanswered"] == 0
            assert read["process_open_fds"] > 30

        os.kill(min(descendants(served.process.pid)), signal.SIGKILL)
        while reads[-1]["feed_worker_restarts_total"] == 0 or reads[-1]["feed_workers_unanswered"]:
            with suppress(OSError):  # handed to the one that was killed
                reads.append(await scraped(served))
        served.signal(signal.SIGHUP)
        await until(lambda: "every worker was replaced" in served.said(), 60)
        reads.append(await scraped(served))
        for name in first:
            if name.endswith("_total") or "_bucket" in name:
                values = [read[name] for read in reads]
                assert values == sorted(values), name
        assert reads[-1]["feed_clients{transport=websocket}"] == 0
        for reader in readers:
            reader.leave()


@pytest.mark.redis
async def test_a_worker_that_does_not_answer_is_said_to_be_missing(valkey_url: str) -> None:
    async with serving(valkey_url, workers=2) as served:
        clients = [await RawClient.open(served.port) for _ in range(10)]
        before = await scraped(served)
        frozen = min(descendants(served.process.pid))
        os.kill(frozen, signal.SIGSTOP)
        try:
            # It may be handed the first of these, which then wait for it.
            asks = [asyncio.create_task(scraped(served)) for _ in range(4)]
            await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED, timeout=30)
            missing = next(ask for ask in asks if ask.done()).result()
        finally:
            os.kill(frozen, signal.SIGCONT)
        await asyncio.gather(*asks)
        assert missing["feed_workers"] == 2 and missing["feed_workers_unanswered"] == 1
        assert 0 < missing["feed_clients{transport=websocket}"] < 10
        assert missing["feed_connects_total"] == before["feed_connects_total"] == 10

        async def is_back() -> bool:
            read = await scraped(served)
            return (read["feed_workers_unanswered"], sum(await spread(served))) == (0, 10)

        await until_true(is_back)
        for client in clients:
            client.close()
