"""The real product in a headless Chromium: ``feed run`` where no exchange answers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from adapters.registry import REGISTRY
from tests.browser.chromium import Page

REPO = Path(__file__).resolve().parents[2]
ARTIFACTS = REPO / "artifacts"
START_S = 60

#: `moved()` names the exchanges of which some price text has changed since it was first asked.
ASK = """
window.firsts = {};
window.moved = () => {
  const exchanges = new Set();
  for (const { dataset, textContent } of document.querySelectorAll("[data-field]")) {
    if (!/[0-9]/.test(textContent)) continue;
    const first = (firsts[dataset.topic + dataset.field] ??= textContent);
    if (first !== textContent) exchanges.add(dataset.topic.split(".")[1]);
  }
  return [...exchanges];
};
"""

#: "binance.BTC-USDT" of all that have trades, a quote and depth; null while there is none.
SYMBOLS = """(async () => {
  const [trades, ...others] = await Promise.all(["trade", "quote", "depth"].map(async (kind) => {
    const page = await (await fetch(`/v1/topics?pattern=${kind}.*.*`)).json();
    return page.topics.map(({ topic }) => topic.slice(kind.length + 1));
  }));
  const found = trades.filter((key) => others.every((keys) => keys.includes(key)));
  return found.length ? found : null;
})()"""


@contextlib.contextmanager
def feed_run(port: int) -> Iterator[str]:
    """Run the product with every exchange out of reach and yield the dashboard's address.

    It falls back to the bundled tapes by itself. The address is that which the command prints;
    port 0 means any free one.
    """
    command = [sys.executable, "-m", "feed", "run", "--port", str(port)]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FEED_")}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and never listens: whoever connects is refused
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for exchange in REGISTRY:
            command += ["--endpoint", f"{exchange}={nowhere}"]
        process = subprocess.Popen(
            command,
            cwd=REPO,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        said = Transcript(process)
        try:
            yield said.address(START_S)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            finally:
                process.kill()
                said.close()


class Transcript:
    """Reads what a process says, so that it never waits for a reader."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self._stream = process.stderr
        self._lines: list[str] = []
        self._address = ""
        self._found = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def address(self, within_s: float) -> str:
        """Return the dashboard's address once it is said."""
        if not (self._found.wait(within_s) and self._address):
            raise AssertionError("feed run printed no address:\n" + "".join(self._lines))
        return self._address

    def close(self) -> None:
        self._thread.join()
        self._stream.close()

    def _read(self) -> None:
        for line in self._stream:
            self._lines.append(line)
            if found := re.search(r"http://localhost:\d+", line):
                self._address = found[0]
                self._found.set()
        self._found.set()


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    with feed_run(0) as url:
        yield url


async def test_prices_of_two_exchanges_move_and_the_replay_is_said(
    page: Page, dashboard: str
) -> None:
    await page.go(f"{dashboard}/")
    await page.evaluate(ASK)
    await page.until("moved().length >= 2", within_s=60)
    banner = "document.getElementById('banner')"
    await page.until(f"!{banner}.hidden")
    assert await page.evaluate(f"{banner}.textContent") == "REPLAY: no exchange reachable"
    await page.until("document.querySelector('#trades .trade, #bids .price:not(:empty)')")
    await page.screenshot(ARTIFACTS / "dashboard.png")
    await page.prefer("light")
    await page.screenshot(ARTIFACTS / "dashboard-light.png")
    await page.resize(390, 844, mobile=True)
    await page.screenshot(ARTIFACTS / "dashboard-phone.png")
    assert page.complaints == []
    assert {urlsplit(url).netloc for url in page.requests} == {urlsplit(dashboard).netloc}


async def test_a_link_opens_its_symbol_with_trades_and_depth(page: Page, dashboard: str) -> None:
    await page.go(f"{dashboard}/")
    shared = await page.until(SYMBOLS)
    chosen = next((key for key in shared if key.endswith(".BTC-USDT")), shared[0])
    await page.go(f"{dashboard}/?#{chosen}")
    await page.until("document.querySelector('#trades .trade')", within_s=60)
    await page.until("document.querySelectorAll('#bids .price:not(:empty)').length >= 5")
    await page.until("document.querySelectorAll('#asks .price:not(:empty)').length >= 5")
    await page.until("document.getElementById('chart-note').hidden")
    exchange, symbol = chosen.split(".", 1)
    shown = "[...document.querySelectorAll('#chosen-symbol, #chosen-exchange')]"
    assert await page.evaluate(f"{shown}.map((e) => e.textContent)") == [symbol, exchange]
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
        await page.until("moved().length >= 1", within_s=60)
