"""I/O shell: questions to one exchange's REST API, bounded in number, size and time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from urllib.parse import urlsplit

import httpx2

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
MAX_BODY_BYTES = 64 << 20
AT_ONCE = 4


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine, so that no proxy may be asked for it."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


class FetchFailed(Exception):
    """No body came.

    Attributes:
        retry_after_s: How long the exchange asks to be left alone; 0 where it does not.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Rest:
    """Fetches bodies below one base URL. Use as a context manager.

    Args:
        headers: Of the exchange's own, sent with every question.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"User-Agent": "pricefeed", **headers}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._client: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Rest:
        # Made here, not at construction: it reads the machine's certificates.
        self._client = httpx2.AsyncClient(
            timeout=TIMEOUT_S,
            trust_env=not is_local(self._base_url),
            follow_redirects=True,
            headers=self._headers,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def get(self, path: str) -> bytes:
        """Return the body of a GET; of a POST where the path is followed by ``#`` and JSON to send.

        Raises:
            FetchFailed: Not reached, not 200, too large or too slow.
        """
        assert self._client is not None, "use as a context manager"
        path, is_post, content = path.partition("#")
        url = self._base_url + path
        method = "POST" if is_post else "GET"
        headers = {"Content-Type": "application/json"} if is_post else None
        try:
            async with self._slots, asyncio.timeout(3 * TIMEOUT_S):
                async with self._client.stream(
                    method, url, content=content.encode() if is_post else None, headers=headers
                ) as answer:
                    if answer.status_code != 200:
                        raise FetchFailed(
                            f"{url}: HTTP {answer.status_code}",
                            retry_after(answer.headers.get("retry-after")),
                        )
                    body = bytearray()
                    async for chunk in answer.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_BODY_BYTES:
                            raise FetchFailed(f"{url}: more than {MAX_BODY_BYTES} bytes")
                    return bytes(body)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as e:  # TimeoutError is an OSError
            raise FetchFailed(f"{url}: {e or type(e).__name__}") from e


def retry_after(header: str | None) -> float:
    """Return what a ``Retry-After`` header asks for, in seconds, at most an hour.

    Binance bans for up to three days who comes again too soon, and says for how long.
    """
    return min(3_600.0, float(header)) if header is not None and header.isdecimal() else 0.0
