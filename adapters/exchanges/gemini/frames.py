"""Gemini's messages: of the streams, and of market data version 2, which they replace. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from adapters.text import MAX_MICROS, Millis

Nanos: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_MICROS * 1_000)]
#: An update's or a trade's number.
Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_NOTHING = msgspec.Raw(b"null")


class Problem(msgspec.Struct):
    code: int = 0
    msg: str = ""
    message: str = ""


class Frame(msgspec.Struct, gc=False):
    """Any message. Only some of a stream's say their kind (``e``), and none of a book is marked
    as a snapshot; those of version 2 have a ``type``, replies an ``id``.
    """

    e: str = ""
    E: Nanos = 0
    s: str = ""
    U: Id = 0
    u: Id | None = None
    b: list[tuple[str, str]] | str = ""
    a: list[tuple[str, str]] | str = ""
    B: str = ""
    A: str = ""
    c: str = ""
    t: Id | None = None
    p: str = ""
    q: str = ""
    m: bool | None = None
    T: Nanos = 0
    R: bool = False
    type: str = ""
    id: str | int | None = None
    status: int | None = None
    error: Problem | None = None

    @property
    def ts(self) -> int:
        """When it happened, µs."""
        return self.E // 1_000


class OldTrade(msgspec.Struct):
    """A trade of version 2: by itself, or in the list that begins a book."""

    symbol: str
    event_id: Id
    timestamp: Millis
    price: str
    quantity: str
    side: Literal["buy", "sell"]
    tid: Id | None = None  # none in 2021

    @property
    def number(self) -> str:
        return str(self.event_id if self.tid is None else self.tid)


class OldBook(msgspec.Struct):
    """``l2_updates`` of version 2; the first has all levels, and lists beside them."""

    symbol: str
    changes: list[tuple[Literal["buy", "sell"], str, str]]
    trades: list[OldTrade] | None = None
    auction_events: msgspec.Raw = _NOTHING

    @property
    def is_snapshot(self) -> bool:
        return self.trades is not None or self.auction_events != _NOTHING


decode = msgspec.json.Decoder(Frame).decode
decode_old_trade = msgspec.json.Decoder(OldTrade).decode
decode_old_book = msgspec.json.Decoder(OldBook).decode
