"""Binance's frames but for the books: each stream's become events of one topic. Pure.

A ``Take`` serves one stream. It raises ``ValueError`` for a frame it cannot understand, and then
nothing has changed. Each decodes once, and skips what is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from adapters.base import Output
from adapters.book import DepthPacer
from adapters.text import Millis, Number, decimal, signed
from adapters.trade_ids import TradeIds
from feed.models import Derivative, Liquidation, Quote, Side, Ticker, Trade

T = TypeVar("T")
#: Frame and receive time -> what follows.
Take: TypeAlias = Callable[[bytes, int], Sequence[Output]]
#: Native symbol, topic, pacer -> what takes the frames.
Taker: TypeAlias = Callable[[str, str, DepthPacer], Take]
#: What ``X`` says of a trade on the book; others are of the insurance fund or ADL.
_ON_THE_BOOK = "MARKET"


class _Frame(msgspec.Struct, Generic[T], gc=False):
    """What the combined stream wraps a payload in; ``stream`` has been read before."""

    data: T


class _Trade(msgspec.Struct, gc=False):
    s: str
    t: Number
    p: str
    q: str
    T: Millis
    m: bool
    X: str = _ON_THE_BOOK


class _AggTrade(msgspec.Struct, gc=False):
    """Fills of one taker order at one price, with ids of their own."""

    s: str
    p: str
    q: str
    T: Millis
    m: bool
    t: Number = msgspec.field(name="a")
    X: str = _ON_THE_BOOK


class _BookTicker(msgspec.Struct, gc=False):
    """Spot has no time in it."""

    s: str
    b: str
    B: str
    a: str
    A: str
    E: Millis | None = None


class _Ticker(msgspec.Struct, gc=False):
    """Futures have no bid and ask in it; on COIN-M ``v`` counts contracts and ``q`` the base."""

    s: str
    E: Millis
    c: str
    o: str
    h: str
    l: str  # noqa: E741
    v: str
    q: str
    b: str | None = None
    a: str | None = None


class _MarkPrice(msgspec.Struct, gc=False):
    """A dated future has the rate ``""`` or 0 and the time 0."""

    s: str
    E: Millis
    p: str
    i: str | None = None
    r: str = ""
    T: Millis = 0


class _Order(msgspec.Struct, gc=False):
    """An order that the exchange has put in for who could not pay."""

    s: str
    S: Literal["BUY", "SELL"]
    q: str
    p: str
    T: Millis


class _ForceOrder(msgspec.Struct, gc=False):
    o: _Order


_SIDES: Mapping[str, Side] = {"BUY": "buy", "SELL": "sell"}
#: For numbers that are seldom seen twice: ``decimal`` remembers, at 1 µs for each new one.
_is_plain = re.compile(r"[0-9]+(?:\.[0-9]+)?").fullmatch
_decode_trade = msgspec.json.Decoder(_Frame[_Trade]).decode
_decode_agg_trade = msgspec.json.Decoder(_Frame[_AggTrade]).decode
_decode_book_ticker = msgspec.json.Decoder(_Frame[_BookTicker]).decode
_decode_ticker = msgspec.json.Decoder(_Frame[_Ticker]).decode
_decode_mark_price = msgspec.json.Decoder(_Frame[_MarkPrice]).decode
_decode_force_order = msgspec.json.Decoder(_Frame[_ForceOrder]).decode


def fills(channel: str, native: str, topic: str, pacer: DepthPacer, ids: TradeIds) -> Take:
    """Return the taker of ``trade`` or ``aggTrade``, whose numbers are consecutive."""
    decode: Callable[[bytes], _Frame[Any]] = (
        _decode_trade if channel == "trade" else _decode_agg_trade
    )

    def take(frame: bytes, recv: int) -> Sequence[Output]:
        trade = decode(frame).data
        if trade.s != native:
            raise ValueError(f"{trade.s!r} in the stream of {native}")
        number, price, size = trade.t, trade.p, trade.q
        if not (_is_plain(price) and _is_plain(size)):
            price, size = decimal(price), decimal(size)
        ts = trade.T * 1000
        out: Sequence[Output] = ()
        if pacer.now <= ts < pacer.due:  # as ``advance``, where it has nothing to say
            pacer.now = ts
        else:
            out = pacer.advance(ts)
        if number == ids.expected:
            ids.last = number
            ids.expected = number + 1
        else:
            said = ids.reach(number, recv)
            if said is None:  # had it
                return out
            out = (*out, *said)
        if trade.X != _ON_THE_BOOK or (price[0] == "0" and not float(price)):
            return out  # on futures an insurance or ADL entry: a number, but no trade
        side: Side = "sell" if trade.m else "buy"  # m: the buyer is the maker
        event = Trade(topic, 0, ts, recv, 0, str(number), price, size, side)
        return (*out, event) if out else (event,)

    return take


def _half(quote: Quote) -> Quote:
    """Leave out a side that is empty: its price is 0."""
    if quote.bid is not None and not float(quote.bid):
        quote = replace(quote, bid=None, bid_size=None)
    if quote.ask is not None and not float(quote.ask):
        quote = replace(quote, ask=None, ask_size=None)
    return quote


def _quotes(native: str, topic: str, pacer: DepthPacer) -> Take:
    # The last texts found to be numbers: three in four have not changed.
    bid = bid_size = ask = ask_size = "0"
    is_half = True

    def take(frame: bytes, recv: int) -> Sequence[Output]:
        nonlocal bid, bid_size, ask, ask_size, is_half
        best = _decode_book_ticker(frame).data
        if best.s != native:
            raise ValueError(f"{best.s!r} in the stream of {native}")
        if best.B != bid_size:
            bid_size = best.B if _is_plain(best.B) else decimal(best.B)
        if best.A != ask_size:
            ask_size = best.A if _is_plain(best.A) else decimal(best.A)
        if best.b != bid or best.a != ask:
            # Both or neither: a frame that is refused leaves nothing behind that is half true.
            bid, ask = (
                best.b if _is_plain(best.b) else decimal(best.b),
                best.a if _is_plain(best.a) else decimal(best.a),
            )
            is_half = not (float(bid) and float(ask))
        if best.E is None:
            event = Quote(topic, 0, None, recv, 0, bid, bid_size, ask, ask_size)
            return (_half(event) if is_half else event,)
        ts = best.E * 1000
        event = Quote(topic, 0, ts, recv, 0, bid, bid_size, ask, ask_size)
        if is_half:
            event = _half(event)
        if pacer.now <= ts < pacer.due:  # as ``advance``, where it has nothing to say
            pacer.now = ts
            return (event,)
        return (*pacer.advance(ts), event)

    return take


def _tickers(native: str, topic: str, pacer: DepthPacer, *, is_inverse: bool = False) -> Take:
    def take(frame: bytes, recv: int) -> Sequence[Output]:
        day = _decode_ticker(frame).data
        if day.s != native:
            raise ValueError(f"{day.s!r} in the stream of {native}")
        ts = day.E * 1000
        turnover = None if is_inverse else day.q
        texts = (day.c, day.o, day.h, day.l, day.v, turnover, day.b, day.a)
        figures = [None if text is None else decimal(text) for text in texts]
        return (*pacer.advance(ts), Ticker(topic, 0, ts, recv, 0, *figures))

    return take


def _derivatives(native: str, topic: str, pacer: DepthPacer) -> Take:
    def take(frame: bytes, recv: int) -> Sequence[Output]:
        mark = _decode_mark_price(frame).data
        if mark.s != native:
            raise ValueError(f"{mark.s!r} in the stream of {native}")
        ts = mark.E * 1000
        index = None if mark.i is None else decimal(mark.i)
        rate = signed(mark.r) if mark.r and mark.T else None  # a dated future has no funding
        due = mark.T * 1000 or None
        event = Derivative(topic, 0, ts, recv, 0, decimal(mark.p), index, rate, due, None)
        return (*pacer.advance(ts), event)

    return take


def owner_of(order: object) -> str:
    """Return whose a forced order is: a bare ``forceOrder`` has its symbol inside alone."""
    native = order.get("s") if isinstance(order, dict) else None
    return native if isinstance(native, str) else ""


def _liquidations(native: str, topic: str, pacer: DepthPacer) -> Take:
    def take(frame: bytes, recv: int) -> Sequence[Output]:
        order = _decode_force_order(frame).data.o
        if order.s != native:
            raise ValueError(f"{order.s!r} in the stream of {native}")
        ts = order.T * 1000
        price, size = decimal(order.p), decimal(order.q)
        event = Liquidation(topic, 0, ts, recv, 0, None, price, size, _SIDES[order.S])
        return (*pacer.advance(ts), event)

    return take


#: Channel -> its taker, but for trades.
TAKERS: Mapping[str, Taker] = {
    "bookTicker": _quotes,
    "ticker": _tickers,
    "markPrice": _derivatives,
    "forceOrder": _liquidations,
}
#: The same where contracts are inverse: a day's turnover in the quote is not told.
INVERSE_TAKERS: Mapping[str, Taker] = {**TAKERS, "ticker": partial(_tickers, is_inverse=True)}
