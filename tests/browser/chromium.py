"""A headless Chromium over the DevTools protocol: just what the dashboard's tests need."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

START_S = 30
ANSWER_S = 30
POLL_S = 0.05
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # containers give /dev/shm 64 MB
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One tab.

    Attributes:
        complaints: What the console was given as an error or warning, uncaught exceptions, failed
            loads, violations of the content security policy; in order.
        requests: Every URL asked for.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None

    async def open(self, width: int = 1280, height: int = 800) -> None:
        """Make the tab; to be called once, with ``listen`` running."""
        profile = await self.call("Target.createBrowserContext", disposeOnDetach=True)
        target = await self.call("Target.createTarget", url="about:blank", **profile)
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.resize(width, height)

    async def close(self) -> None:
        await self.call("Page.close")

    async def listen(self) -> None:
        """Read what Chromium says until it leaves."""
        with contextlib.suppress(ConnectionClosed):
            async for text in self._socket:
                message = json.loads(text)
                if "id" in message:
                    answer = self._answers.pop(message["id"])
                    if not answer.done():
                        answer.set_result(message)
                else:
                    self._note(message["method"], message.get("params", {}))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one DevTools command and return its result.

        Raises:
            RuntimeError: Chromium refused it.
            TimeoutError: No answer.
        """
        number = next(self._ids)
        command = {"id": number, "method": method, "params": params}
        if self._session is not None:
            command["sessionId"] = self._session
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps(command))
        async with asyncio.timeout(ANSWER_S):
            message = await answer
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    async def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )

    async def prefer(self, scheme: str) -> None:
        """Ask for ``dark`` or ``light``."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def go(self, url: str) -> None:
        """Open an address.

        Raises:
            RuntimeError: It cannot be loaded.
        """
        answer = await self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise RuntimeError(f"{url}: {answer['errorText']}")

    async def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression (awaited if a promise) yields.

        Raises:
            RuntimeError: It threw.
        """
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(_thrown(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def until(self, expression: str, within_s: float = 30) -> Any:
        """Wait until an expression is truthy, and return it.

        Raises:
            AssertionError: It did not become so in time.
        """
        deadline = time.monotonic() + within_s
        # An element has no value of its own to return: it counts as true.
        settled = f"(async (found) => found instanceof Node || found)(await ({expression}))"
        while True:
            value = await self.evaluate(f"(async () => {settled})()")
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within_s} s: {expression}")
            await asyncio.sleep(POLL_S)

    async def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    async def screenshot(self, path: Path) -> None:
        shot = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(_write, path, base64.b64decode(shot["data"]))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                words = (str(a.get("value", a.get("description"))) for a in params["args"])
                self.complaints.append(" ".join(words))
            case "Runtime.exceptionThrown":
                self.complaints.append(_thrown(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                entry = params["entry"]
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(params["url"])


@contextlib.contextmanager
def start_chromium(path: str) -> Iterator[str]:
    """Start a Chromium with an empty profile, yield its DevTools address, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield _debugger(Path(profile) / "DevToolsActivePort", process)
        finally:
            # Its whole process group: renderers outlive a browser that was killed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.asynccontextmanager
async def open_page(debugger: str) -> AsyncIterator[Page]:
    """Yield a page of its own profile in a running Chromium, and close it."""
    async with connect(debugger, max_size=None, compression=None) as socket:
        page = Page(socket)
        listening = asyncio.create_task(page.listen())
        try:
            await page.open()
            yield page
            await page.close()
        finally:
            listening.cancel()
            await asyncio.wait([listening])


def _debugger(port_file: Path, process: subprocess.Popen[bytes]) -> str:
    """Return the address that Chromium wrote down when it was ready."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        lines = _lines(port_file)
        if len(lines) == 2:
            port, path = lines
            return f"ws://127.0.0.1:{port}{path}"
        time.sleep(POLL_S)
    raise RuntimeError(f"chromium did not start (exit status {process.poll()})")


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _thrown(details: dict[str, Any]) -> str:
    exception = details.get("exception", {})
    return str(exception.get("description") or exception.get("value") or details["text"])
