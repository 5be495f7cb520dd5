"""Faults of an exchange, made on purpose: what becomes of the frames of one connection. Pure.

Everything random comes from one seed, so the same faults do the same to the same frames. How they
are written is in ``fault_language.py``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from random import Random
from typing import NamedTuple

import msgspec

from adapters.base import Stream
from adapters.recording import Frame
from feed.errors import ConfigError

#: A level of any exchange's book, price and size: ["1.0","2"], ["buy","1.0","2"], {"price":1.0,…
_LEVEL = re.compile(
    rb'\[(?:"(?:buy|sell)",)?"([0-9.]+)","([0-9.]+)"[\],]|"price":([0-9.]+),"qty":([0-9.]+)'
)
#: What exchanges call the channel of a book, which is none of the best price alone.
_BOOK = re.compile(r"(?:depth|book|level2|l2|obu|mbp)(?!_?ticker)", re.IGNORECASE)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault.

    Attributes:
        text: As it was written.
        share: Of the frames concerned, how many it strikes; 1 is all.
        delay_s: Of ``delay``.
        count: Of ``replay-old``, frames.
        status: HTTP, of ``refuse`` and ``rate-limit``.
        retry_after: Seconds, for the header; None sends none.
        code: A close is sent with it; None: the connection just ends.
        at_accept: ``close`` as soon as the connection is there.
        after: Frames that pass unharmed: of those concerned, or of all the connection's data.
        times: It strikes no more often: frames, connections or requests; None: no end.
        channel, symbol: All it concerns, in the exchange's words; empty: everything.
        on: ``ws`` handshakes or ``rest`` requests alone; empty: both.
    """

    text: str
    name: str
    share: float = 1.0
    delay_s: float = 0.0
    count: int = 0
    status: int = 503
    retry_after: int | None = None
    code: int | None = None
    at_accept: bool = False
    after: int = 0
    times: int | None = None
    channel: str = ""
    symbol: str = ""
    on: str = ""

    def concerns(self, stream: Stream) -> bool:
        names = (stream.channel, _base(stream.channel))
        return self.channel in ("", *names) and self.symbol in ("", stream.native)


class Faults(msgspec.Struct, frozen=True):
    """What is wrong with an exchange; by default nothing."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0

    def named(self, *names: str) -> list[Fault]:
        return [fault for fault in self.faults if fault.name in names]

    def check(self, streams: Collection[Stream]) -> None:
        """Refuse a fault that concerns none of these streams.

        Raises:
            ConfigError: Names what there is.
        """
        for fault in self.faults:
            if not any(fault.concerns(stream) for stream in streams):
                there = sorted({f"{_base(one.channel)} {one.native}" for one in streams})
                names = ", ".join(there[:12]) + (", …" if len(there) > 12 else "")
                raise ConfigError(f"--fault {fault.text}: no such stream; there are: {names}")


#: What a connection comes to, as opposed to what happens to frames.
_FATES = ("close", "heartbeats", "half-open", "shutdown")
_TO_FRAMES = ("drop", "duplicate", "reorder", "delay", "corrupt", "skip-symbol")


class Late(NamedTuple):
    """A frame to send, ``delay_s`` after what was sent before it."""

    delay_s: float
    frame: Frame


class Trouble:
    """The faults of one connection.

    Args:
        number: Of the connection, counted from 0 since the faults began.

    Attributes:
        faults: All there are.
        fate: What the connection has come to; the caller takes it away.
        repeats: How many old frames it hears first, if it takes up another's streams.
    """

    def __init__(self, faults: Faults, number: int) -> None:
        self.faults = faults
        self.fate: Fault | None = None
        self.repeats = sum(one.count for one in faults.named("replay-old") if _is_of(one, number))
        self._passed = 0
        self._fates = [one for one in faults.named(*_FATES) if _is_of(one, number)]
        self._hurdles = [
            _Hurdle(fault, Random(f"{faults.seed}/{number}/{index}"))
            for index, fault in enumerate(faults.faults)
            if fault.name in _TO_FRAMES
        ]
        self._meet()

    def take(self, frame: Frame) -> list[Late]:
        """Return what is sent where the exchange would send ``frame``."""
        if frame.stream is None:
            return [Late(0.0, frame)]
        out = [Late(0.0, frame)]
        for hurdle in self._hurdles:
            out = [later for one in out for later in hurdle.take(one)]
        self._passed += 1
        self._meet()
        return out

    def end(self) -> list[Late]:
        """Return what was still held back."""
        out: list[Late] = []
        for hurdle in self._hurdles:
            out = [later for one in out for later in hurdle.take(one)] + hurdle.end()
        return out

    def _meet(self) -> None:
        for fault in self._fates:
            if fault.after == self._passed:
                self.fate = fault


class _Hurdle:
    """One fault that all frames of a connection have to pass."""

    def __init__(self, fault: Fault, random: Random) -> None:
        self._fault = fault
        self._random = random
        self._seen = 0
        self._left = -1 if fault.times is None else fault.times
        self._held: dict[Stream, Late] = {}

    def take(self, late: Late) -> list[Late]:
        frame, fault = late.frame, self._fault
        stream = frame.stream
        assert stream is not None
        if stream in self._held:
            return [late, self._held.pop(stream)]
        if not self._strikes(frame, stream):
            return [late]
        match fault.name:
            case "duplicate":
                return [late, Late(0.0, frame)]
            case "reorder":
                self._held[stream] = late
                return []
            case "delay":
                return [late._replace(delay_s=late.delay_s + fault.delay_s)]
            case "corrupt":
                return [late._replace(frame=corrupted(frame, self._random))]
        return []

    def end(self) -> list[Late]:
        held = list(self._held.values())
        self._held.clear()
        return held

    def _strikes(self, frame: Frame, stream: Stream) -> bool:
        fault = self._fault
        if not fault.concerns(stream):
            return False
        if fault.name == "corrupt" and not _has_levels(frame, stream):
            return False
        self._seen += 1
        if self._seen <= fault.after or not self._left or self._random.random() >= fault.share:
            return False
        self._left -= 1
        return True


class Door:
    """Who is turned away before there is a connection."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults.named("refuse", "rate-limit")
        self._struck = [0] * len(self._faults)

    def ask(self, on: str) -> Fault | None:
        """Return what turns this request away (``ws`` a handshake, ``rest`` another), if any."""
        for index, fault in enumerate(self._faults):
            if fault.on in ("", on) and _is_of(fault, self._struck[index]):
                self._struck[index] += 1
                return fault
        return None


def corrupted(frame: Frame, random: Random) -> Frame:
    """Return a frame of a book with one digit of one level changed; it stays valid JSON."""
    spans = [span for found in _LEVEL.finditer(frame.body) for span in _spans(found)]
    start, end = random.choice(spans)
    body = bytearray(frame.body)
    at = random.choice([i for i in range(start, end) if body[i] != ord(".")])
    # JSON has no number that begins with 0 but 0 itself.
    least = 1 if at == start else 0
    body[at] = random.choice([d for d in b"0123456789"[least:] if d != body[at]])
    return frame._replace(body=bytes(body))


def _spans(level: re.Match[bytes]) -> Iterator[tuple[int, int]]:
    return (level.span(group) for group in range(1, 5) if level[group] is not None)


def is_book(stream: Stream) -> bool:
    """Whether the stream carries an exchange's order book."""
    return _BOOK.search(stream.channel) is not None


def _has_levels(frame: Frame, stream: Stream) -> bool:
    return is_book(stream) and _LEVEL.search(frame.body) is not None


def _is_of(fault: Fault, number: int) -> bool:
    return fault.times is None or number < fault.times


def _base(channel: str) -> str:
    """Return a channel's name without speed and depth: ``depth@100ms``, ``book-25``."""
    return re.split(r"[@.-]", channel, maxsplit=1)[0]
