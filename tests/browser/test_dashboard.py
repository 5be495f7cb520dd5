"""The dashboard of the real product, ``feed run`` on the bundled tapes, in a headless Chromium."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser.chromium import Page

REPO = Path(__file__).resolve().parents[2]
ARTIFACTS = REPO / "artifacts"
START_S = 60

#: What the tests ask of the page: `prices` by exchange, in the order of the list, and which
#: exchanges show others than when `remember` was called.
ASK = """
window.prices = () => {
  const found = {};
  for (const cell of document.querySelectorAll("[data-field]")) {
    const exchange = cell.dataset.topic.split(".")[1];
    (found[exchange] ??= {})[cell.dataset.topic + cell.dataset.field] = cell.textContent;
  }
  return found;
};
window.remember = () => void (window.before = prices());
window.moved = () => Object.entries(prices()).filter(([exchange, now]) =>
  Object.entries(before[exchange] ?? {}).some(([c, was]) => /\\d/.test(was) && was !== now[c])
);
"""


@contextlib.contextmanager
def feed_run(port: int) -> Iterator[str]:
    """Run the product on bundled tapes and yield the dashboard's address.

    The address is that which the command prints; port 0 means any free one.
    """
    command = [sys.executable, "-m", "feed.cli", "run", "--source", "tape", "--loop"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FEED_")}
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=REPO,
        env={**environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield _address(process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = []
    deadline = time.monotonic() + START_S
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"http://[\w.]+:\d+", line):
            return found[0]
        if time.monotonic() > deadline:
            break
    raise AssertionError("feed run printed no address:\n" + "".join(said))


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    with feed_run(0) as url:
        yield url


async def test_prices_of_two_exchanges_move_and_the_replay_is_said(
    page: Page, dashboard: str
) -> None:
    await page.go(f"{dashboard}/")
    await page.until("document.querySelectorAll('[data-field=bid]').length >= 2")
    await page.evaluate(ASK)
    await page.until("Object.keys(prices()).length >= 2")
    await page.evaluate("remember()")
    await page.until("moved().length >= 2", within_s=60)
    banner = "document.getElementById('banner')"
    await page.until(f"!{banner}.hidden && {banner}.textContent.startsWith('REPLAY: ')")
    await page.until("document.querySelector('#trades .trade, #bids .price:not(:empty)')")
    await page.screenshot(ARTIFACTS / "dashboard.png")
    await page.prefer("light")
    await page.screenshot(ARTIFACTS / "dashboard-light.png")
    await page.resize(390, 844, mobile=True)
    await page.screenshot(ARTIFACTS / "dashboard-phone.png")
    assert page.complaints == []
    assert {urlsplit(url).netloc for url in page.requests} == {urlsplit(dashboard).netloc}


async def test_a_link_opens_its_symbol_with_trades_and_depth(page: Page, dashboard: str) -> None:
    await page.go(f"{dashboard}/#binance.BTC-USDT")
    await page.until("document.querySelectorAll('#trades .trade').length >= 3")
    await page.until("document.querySelectorAll('#bids .price:not(:empty)').length === 20")
    await page.until("document.querySelectorAll('#asks .price:not(:empty)').length === 20")
    await page.until("document.getElementById('chart-note').hidden")
    shown = "[...document.querySelectorAll('#chosen-symbol, #chosen-exchange')]"
    assert await page.evaluate(f"{shown}.map((e) => e.textContent)") == ["BTC-USDT", "binance"]
    assert page.complaints == []


async def test_the_watchlist_is_walked_with_the_arrow_keys(page: Page, dashboard: str) -> None:
    await page.go(f"{dashboard}/")
    await page.until("location.hash && document.querySelectorAll('#rows .row').length >= 2")
    rows = "[...document.querySelectorAll('#rows .row')]"
    await page.evaluate(f"{rows}[0].focus()")
    await page.press("ArrowDown")
    second = await page.evaluate(f"{rows}[1].dataset.row")
    await page.until(f"'quote.' + location.hash.slice(1) === '{second}'")
    selected = "document.querySelector('[aria-selected=true]').dataset.row"
    assert await page.evaluate(selected) == second


async def test_prices_are_called_frozen_while_the_server_is_away_and_move_again_after(
    page: Page,
) -> None:
    with feed_run(0) as url:
        await page.go(f"{url}/")
        await page.until("document.querySelector('.row[data-state=live]')", within_s=60)
    await page.until("document.body.dataset.link === 'down'")
    alarm = "document.getElementById('alarm')"
    assert "frozen" in await page.evaluate(f"{alarm}.hidden ? '' : {alarm}.textContent")
    assert await page.evaluate("document.querySelectorAll('.row[data-state=live]').length") == 0
    await page.screenshot(ARTIFACTS / "dashboard-away.png")
    with feed_run(urlsplit(url).port or 0):
        await page.until("document.body.dataset.link === 'live'", within_s=60)
        await page.until("document.querySelector('.row[data-state=live]')", within_s=60)
        await page.evaluate(ASK)
        await page.evaluate("remember()")
        await page.until("moved().length >= 1", within_s=60)
