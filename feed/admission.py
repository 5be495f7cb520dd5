"""Who may connect: not while the process ends, not past the limit, not in a storm, no page of
somebody else's; and what a client has asked for in its first request. Pure.

A storm (everybody reconnects after an outage) must not cost those their prices who are connected.
So connects beyond a rate are refused at once, and each refused one is told a second of its own to
come back in: as if it stood in a queue that is let in at that rate.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Sized
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from feed.drain import spread
from feed.encoding import ENCODINGS, JSON, Encoding

_FULL_S = 5
_SPREAD_S = 5
_LONGEST_S = 30


class Refusal(NamedTuple):
    """A client that may not come in.

    Attributes:
        code: For the error body.
        retry_after_s: When it is worth another try; not the same for everybody. 0: it never is.
        status: Of HTTP.
    """

    code: str
    message: str
    retry_after_s: int = 0
    status: int = 503


class Caller(NamedTuple):
    """What decides whether a WebSocket is opened, and how.

    Attributes:
        origin, host: The headers; no ``Origin``: no browser.
        subprotocols: As offered, in the client's order.
        query: Of the URL, as sent.
    """

    origin: str | None
    host: str
    subprotocols: Sequence[str]
    query: str


class Guest(NamedTuple):
    """A client that may come in.

    Attributes:
        subprotocol: To be answered; None where none was offered that we speak.
    """

    encoding: Encoding
    subprotocol: str | None
    query: dict[str, str]


def admit(caller: Caller, allowed_origins: Collection[str]) -> Guest | Refusal:
    """Decide about one client that the door has let through."""
    origin = caller.origin
    if origin is not None and "*" not in allowed_origins and origin not in allowed_origins:
        # Browsers do not apply the same-origin rule to WebSockets; the server must.
        if _netloc(origin) != caller.host.lower():
            message = "this origin is not in FEED_ALLOWED_ORIGINS"
            return Refusal("forbidden", message, status=403)
    query = dict(parse_qsl(caller.query, keep_blank_values=True)) if caller.query else {}
    for name in caller.subprotocols:
        if name in ENCODINGS:
            return Guest(ENCODINGS[name], name, query)
    return Guest(JSON, None, query)


def _netloc(origin: str) -> str | None:
    """Return host and port of an origin; None where it is none of any page."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


class Door:
    """Lets clients in, or says why not.

    Args:
        clients: Everybody connected.
        max_clients: No more than so many.
        connects_per_s: A burst of one second's worth is let in; 0: no limit.

    Attributes:
        refused: How many have been, so far.
        shut_until: Set while the process ends: when it will have ended, in the caller's seconds.
    """

    def __init__(self, clients: Sized, max_clients: int, connects_per_s: float) -> None:
        self.refused = 0
        self.shut_until: float | None = None
        self._clients = clients
        self._max_clients = max_clients
        self._rate = connects_per_s
        self._burst = max(1.0, connects_per_s)
        self._tokens = self._burst
        self._queue = 0.0
        self._at = 0.0

    @property
    def is_full(self) -> bool:
        return len(self._clients) >= self._max_clients

    def knock(self, now_s: float) -> Refusal | None:
        """Count one connect; return why it is refused, if so."""
        refusal = self.closed(now_s)
        if refusal is not None or not self._rate:
            return refusal
        passed_s = max(0.0, now_s - self._at)
        self._at = now_s
        self._tokens = min(self._burst, self._tokens + passed_s * self._rate)
        self._queue = max(0.0, self._queue - passed_s * self._rate)
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        self.refused += 1
        place_s = int(self._queue / self._rate)
        self._queue += 1
        return Refusal("shed", "too many connects at once", 1 + place_s % _LONGEST_S)

    def closed(self, now_s: float) -> Refusal | None:
        """Return why nobody may come in, if so; counts no connect."""
        if self.shut_until is not None:
            left_s = max(0, int(self.shut_until - now_s)) + 1
            return self._refuse("restarting", "this server is about to end", left_s)
        if self.is_full:
            return self._refuse("shed", "too many connections", _FULL_S)
        return None

    def _refuse(self, code: str, message: str, retry_after_s: int) -> Refusal:
        later_s = int(spread(self.refused) * _SPREAD_S)
        self.refused += 1
        return Refusal(code, f"{message}; try again later", retry_after_s + later_s)
