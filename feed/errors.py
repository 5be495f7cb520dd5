"""Every error of the project, branched by who must act, and the WebSocket close codes. Pure."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """Close codes a client may see (``protocol.md``); 4500 and above mean: do not reconnect."""

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_UTF8 = 1007
    TOO_BIG = 1009
    RESTARTING = 1012
    SHED = 4000
    SLOW_CONSUMER = 4008
    RATE_LIMITED = 4010
    BAD_MESSAGE = 4500


class FeedError(Exception):
    """Base of every error the project raises on purpose."""


class ConfigError(FeedError):
    """The operator must change something; the process refuses to start (exit code 2)."""


class BusError(FeedError):
    """The bus did not do what was asked; the supervisor reconnects and readiness is told."""


class Fenced(BusError):
    """A newer publisher owns the exchange; this process must stop writing and exit non-zero.

    Attributes:
        topic: Where the newer epoch was found.
        epoch: The newer epoch, µs.
    """

    def __init__(self, topic: str, epoch: int) -> None:
        super().__init__(f"{topic}: a newer publisher (epoch {epoch}) has taken over")
        self.topic = topic
        self.epoch = epoch


class LeaseLost(BusError):
    """Another publisher holds the exchange's lease; this process must stop and exit non-zero."""


class AdapterError(FeedError):
    """Something about one exchange; the runner acts."""


class BadPayload(AdapterError):
    """One frame that cannot be understood: skipped and counted, the connection stays.

    Attributes:
        exchange: Whose frame it was.
        frame: The first 200 bytes of it, for the log.
    """

    def __init__(self, exchange: str, frame: bytes, reason: str = "") -> None:
        super().__init__(f"{exchange}: cannot read a frame{': ' + reason if reason else ''}")
        self.exchange = exchange
        self.frame = frame[:200]


class StaleConnection(AdapterError):
    """The exchange went silent or asked us to leave; the runner reconnects."""


class ClientError(FeedError):
    """A client did something wrong; the session answers, or closes with ``code``."""

    code: CloseCode = CloseCode.PROTOCOL_ERROR


class BadCommand(ClientError):
    """A command that is refused; the connection stays and nothing has changed.

    Attributes:
        name: An error code of ``protocol.md``, e.g. ``bad_option``.
    """

    code = CloseCode.BAD_MESSAGE

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
