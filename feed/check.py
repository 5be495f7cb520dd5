"""``feed check``: what would stop or slow the feed on this machine, before it does."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from typing import Literal, NamedTuple

import httpx2
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console

from feed.bus.embedded import find_server
from feed.config import Settings
from feed.errors import ConfigError
from feed.server import bind

_FILES = 16_384
_REACH_S = 5.0


class Finding(NamedTuple):
    """One line of the report; only ``bad`` makes the exit code 1."""

    state: Literal["ok", "note", "bad"]
    what: str
    text: str


async def run_checks(settings: Settings) -> bool:
    """Print every finding as it comes; return whether none is bad."""
    console = Console()
    fine = True
    colours = {"ok": "green", "note": "yellow", "bad": "red"}
    async for finding in _findings(settings):
        fine = fine and finding.state != "bad"
        colour = colours[finding.state]
        console.print(
            f"[{colour}]{finding.state:4}[/] {finding.what:22} {finding.text}", soft_wrap=True
        )
    return fine


async def _findings(settings: Settings) -> AsyncIterator[Finding]:
    yield _files()
    yield _port(settings)
    if settings.bus:
        async for finding in _redis(settings.bus):
            yield finding
    else:
        yield _embedded()
    async for finding in _exchanges(settings):
        yield finding


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= _FILES:
        return Finding("ok", "open files", f"{soft} allowed")
    text = f"{soft} allowed: about {max(0, soft - 100)} clients; raise with `ulimit -n {_FILES}`"
    return Finding("note", "open files", text)


def _port(settings: Settings) -> Finding:
    try:
        bind(settings.host, settings.port).close()
    except ConfigError as e:
        return Finding("bad", "port", f"{e}; choose another with FEED_PORT")
    return Finding("ok", "port", f"{settings.host}:{settings.port} is free")


def _embedded() -> Finding:
    try:
        return Finding("ok", "embedded bus", f"{find_server()} (FEED_BUS is not set)")
    except ConfigError as e:
        return Finding("bad", "embedded bus", str(e))


async def _redis(url: str) -> AsyncIterator[Finding]:
    """Look at the server behind ``FEED_BUS``: reachable, new enough, set up for a feed."""
    try:
        client = Redis.from_url(url, protocol=2, socket_timeout=_REACH_S)
    except ValueError as e:
        yield Finding("bad", "bus", f"FEED_BUS: {e}")
        return
    try:
        started = time.perf_counter()
        await client.ping()
        took_ms = (time.perf_counter() - started) * 1000
        info = await client.info()
        version = info.get("valkey_version") or info["redis_version"]
        yield Finding("ok", "bus", f"answers in {took_ms:.1f} ms, version {version}")
        if int(str(info["redis_version"]).split(".")[0]) < 7:
            yield Finding("bad", "bus version", "Redis or Valkey 7 or newer is needed")
        skew_s = (await client.time())[0] - time.time()
        state: Literal["ok", "note"] = "ok" if abs(skew_s) < 2 else "note"
        yield Finding(state, "bus clock", f"{skew_s:+.0f} s against ours")
        policy = (await client.config_get("maxmemory-policy")).get("maxmemory-policy")
        if policy not in ("noeviction", None):
            text = f"maxmemory-policy is {policy}: streams may vanish; use noeviction"
            yield Finding("note", "bus memory", text)
    except (RedisError, OSError) as e:
        yield Finding("bad", "bus", f"{url}: {e}")
    finally:
        await client.aclose()


async def _exchanges(settings: Settings) -> AsyncIterator[Finding]:
    """Ask each exchange for its clock or listing page; any HTTP answer counts as reachable."""
    from adapters.registry import chosen, entry

    async def reach(client: httpx2.AsyncClient, name: str) -> Finding:
        url = settings.endpoint(name) or entry(name).load_adapter().rest_url
        try:
            answer = await client.head(url)
        except (httpx2.HTTPError, OSError) as e:
            return Finding("note", name, f"not reachable: {e or type(e).__name__}")
        if answer.status_code in (403, 451):
            return Finding("note", name, f"answers {answer.status_code}: blocked from here?")
        return Finding("ok", name, f"reachable ({url})")

    names = [name for name in chosen(settings.exchanges) if name != "sim"]
    async with httpx2.AsyncClient(timeout=_REACH_S) as client:
        for done in asyncio.as_completed([reach(client, name) for name in names]):
            yield await done
