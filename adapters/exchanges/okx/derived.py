"""What OKX tells of contracts beside their trading: mark, index, funding, open interest. Pure.

Each has a channel of its own; an index has one message for all contracts that follow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple, replace

from adapters.base import Output
from adapters.book import DepthPacer
from adapters.channels import find
from adapters.exchanges.okx import frames
from adapters.exchanges.okx.listing import index
from adapters.text import decimal, signed
from feed.models import Derivative


class _State(msgspec.Struct, frozen=True):
    """What is known of a contract, in the order of ``Derivative``."""

    mark: str | None = None
    index: str | None = None
    funding_rate: str | None = None
    funding_time: int | None = None
    open_interest: str | None = None


class Derived:
    """The instruments of one connection; pairs that are traded on margin have a mark price too.

    Args:
        topics: Instrument -> its ``derivative`` topic; None where that is not wanted.
    """

    def __init__(self, topics: Mapping[str, str | None], pacer: DepthPacer) -> None:
        self._topics = topics
        self._pacer = pacer
        self._states = dict.fromkeys(topics, _State())
        self._followers: dict[str, list[str]] = {}
        for native in topics:
            self._followers.setdefault(index(native), []).append(native)

    def marks(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_marks(frame)
        given = [(one.ts, {"mark": decimal(one.markPx)}) for one in message.data]
        return self._add((message.arg.instId,), given, recv)

    def indices(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_indices(frame)
        given = [(one.ts, {"index": decimal(one.idxPx)}) for one in message.data]
        return self._add(find(self._followers, message.arg.instId), given, recv)

    def fundings(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_fundings(frame)
        given = [
            (
                one.ts,
                {
                    "funding_rate": signed(one.fundingRate) if one.fundingRate else None,
                    "funding_time": frames.from_millis(one.fundingTime),
                },
            )
            for one in message.data
        ]
        return self._add((message.arg.instId,), given, recv)

    def interests(self, frame: bytes, recv: int) -> Sequence[Output]:
        message = frames.decode_interests(frame)
        given = [(one.ts, {"open_interest": decimal(one.oi)}) for one in message.data]
        return self._add((message.arg.instId,), given, recv)

    def _add(
        self,
        natives: Iterable[str],
        given: Sequence[tuple[int | None, Mapping[str, Any]]],
        recv: int,
    ) -> list[Output]:
        """Add what a channel brought to these contracts, and say what has become of them."""
        out: list[Output] = []
        for native in natives:
            known = find(self._states, native)
            topic = self._topics[native]
            for millis, part in given:
                ts = None if millis is None else millis * 1_000
                if ts is not None:
                    out += self._pacer.advance(ts)
                known, before = replace(known, **part), known
                if topic is not None and known != before:
                    out.append(Derivative(topic, 0, ts, recv, 0, *astuple(known)))
            self._states[native] = known
        return out
