"""``feed topics``: asks a web process what can be subscribed to."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

from feed.errors import ConfigError, FeedError


def pages(url: str, path: str, **query: str) -> Iterator[dict[str, Any]]:
    """Yield every page of a list.

    Raises:
        ConfigError: The server refuses the question.
        FeedError: It does not answer.
    """
    with httpx2.Client(base_url=url, timeout=10) as client:
        cursor: str | None = ""
        while cursor is not None:
            try:
                answer = client.get(path, params={**query, "cursor": cursor})
                page: dict[str, Any] = answer.json()
            except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as e:
                raise FeedError(f"{url} does not answer as a feed: {e}") from e
            if answer.status_code != 200:
                raise ConfigError(page["error"]["message"])
            yield page
            cursor = page["cursor"]


def list_topics(url: str, pattern: str | None, as_json: bool) -> None:
    """Print the topics, grouped by exchange and symbol, or one a line."""
    query = {"pattern": pattern} if pattern else {}
    rows = [row for page in pages(url, "/v1/topics", **query) for row in page["topics"]]
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(row, separators=(",", ":")) + "\n")
        return
    kinds: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        kinds.setdefault((row["exchange"], row["symbol"]), []).append(row["kind"])
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("exchange", "symbol", "kinds"):
        table.add_column(name)
    for (exchange, symbol), names in sorted(kinds.items()):
        table.add_row(exchange, symbol, " ".join(sorted(names)))
    console = Console()
    console.print(table)
    console.print(f"{len(rows)} topics", style="dim")
