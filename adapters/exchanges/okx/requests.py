"""What one connection asks OKX for, and what it answers. Pure.

Source: okx.com/docs-v5, websocket-api-subscribe. Each argument is acknowledged, or refused, on its
own; a request that cannot be read is refused whole, under its ``id``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from adapters.base import Leave, Output, Refused, Send, Stream
from adapters.exchanges.okx.frames import Arg, Other

#: Arguments a request; 64 KB are allowed.
ARGS_PER_REQUEST = 100
#: Codes: the connection will be closed for an upgrade; too many requests.
UPGRADE, TOO_MANY = "64008", "60014"

_encode = msgspec.json.Encoder().encode
#: An argument in the text of a refusal.
_NAMED = re.compile(r"channel:([\w-]+)(?:,inst(?:Id|Type):([\w-]+))?")


def _request(op: str, args: Sequence[Arg], number: int) -> Send:
    return Send(_encode({"id": str(number), "op": op, "args": args}).decode())


class Requests:
    """The subscriptions of one connection.

    Args:
        args: Stream -> what it is asked for by; several may share one.
    """

    def __init__(self, args: Mapping[Stream, Arg]) -> None:
        self._args = args
        #: Request -> its arguments that have no answer yet.
        self._waiting: dict[str, tuple[Arg, ...]] = {}
        self._count = 0

    def opened(self) -> list[Send]:
        """Return the requests for everything, each argument once."""
        args = tuple(dict.fromkeys(self._args.values()))
        return [
            self._subscribe(args[at : at + ARGS_PER_REQUEST])
            for at in range(0, len(args), ARGS_PER_REQUEST)
        ]

    def afresh(self, arg: Arg) -> Sequence[Output]:
        """Return the requests that end a subscription and begin it again."""
        return (_request("unsubscribe", (arg,), 0), self._subscribe((arg,)))

    def answered(self, answer: Other) -> Sequence[Output]:
        """Take an answer, or a notice.

        Raises:
            ValueError: One we do not know, or to nothing that was asked.
        """
        match answer.event:
            case "subscribe":
                asked = self._waiting.pop(answer.id, ())
                if rest := tuple(arg for arg in asked if arg != answer.arg):
                    self._waiting[answer.id] = rest
            case "notice" if answer.code == UPGRADE:
                return (Leave("notice", serves_on=True),)
            case "unsubscribe" | "notice":
                pass
            case "error":
                return self._refused(answer)
            case _:
                raise ValueError(f"unknown event {answer.event[:40]!r}")
        return ()

    def _subscribe(self, args: tuple[Arg, ...]) -> Send:
        self._count += 1
        self._waiting[str(self._count)] = args
        return _request("subscribe", args, self._count)

    def _refused(self, error: Other) -> Sequence[Output]:
        if error.code == TOO_MANY:
            return (Leave("rate_limited"),)
        reason = f"{error.code} {error.msg}"[:200]
        asked = self._waiting.get(error.id, ())
        found = _NAMED.search(error.msg)
        channel, of = found.groups() if found else (None, None)
        named = [
            arg for arg in self._args.values() if arg.channel == channel and of in (None, *_of(arg))
        ]
        guilty = set(named if named else asked[:1] if len(asked) == 1 else ())
        if guilty:
            streams = tuple(one for one, arg in self._args.items() if arg in guilty)
            return (Refused(streams, reason),)
        if not asked:
            raise ValueError(f"refuses what was not asked for: {reason[:80]}")
        # Nobody says which argument it is about: each half is asked for again.
        del self._waiting[error.id]
        half = len(asked) // 2
        return (self._subscribe(asked[:half]), self._subscribe(asked[half:]))


def _of(arg: Arg) -> Iterable[str]:
    return (arg.instId, arg.instType)
