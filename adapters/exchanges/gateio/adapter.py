"""Gate v4: spot and USDT-settled perpetuals; their trades and figures of the day. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from adapters.base import Mark, Output, Plan, Stream
from adapters.channels import find
from adapters.exchanges.gateio.frames import (
    SNAPSHOTS,
    SNAPSHOTS_OF_OBJECTS,
    UPDATES,
    UPDATES_OF_OBJECTS,
    Frame,
    decode_futures_tickers,
    decode_futures_trades,
    decode_spot_ticker,
    decode_spot_trade,
    from_millis,
    optional,
    seconds,
    text,
    told,
)
from adapters.exchanges.gateio.gate import Gate
from adapters.exchanges.gateio.listing import name_futures, name_spot, read_futures, read_spot
from adapters.text import decimal, signed
from adapters.trade_ids import TradeIds, marks
from feed.models import Derivative, Instrument, Side, Ticker, Trade

_RANGE = re.compile(r"([0-9]{1,15})-([0-9]{1,15})").fullmatch


class GateIo(Gate):
    """Gate spot. Its trades are numbered by market, without holes, since 2025 (``range``)."""

    name = "gateio"
    market = "spot"
    ws_url = "wss://api.gateio.ws"
    path = "/ws/v4/"
    listing_paths = ("/api/v4/spot/currency_pairs",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker"})
    proofs = {
        "trade": "trade ids are consecutive",
        "book": "each update names its first and last change",
    }
    _book_path = "/api/v4/spot/order_book?currency_pair={}&limit=100&with_id=true"
    _updates = UPDATES
    _snapshots = SNAPSHOTS
    _update_payload = ("100ms",)

    @classmethod
    def instruments(cls, bodies: Sequence[bytes]) -> list[Instrument]:
        return read_spot(cls.name, bodies)

    @classmethod
    def instrument(cls, native: str) -> Instrument | None:
        return name_spot(cls.name, native)

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._ids = {
            native: TradeIds(topics["trade"], native)
            for native, topics in self._topics.items()
            if "trade" in topics
        }

    def marks(self) -> dict[str, Mark]:
        return marks(self._ids)

    def resume(self, native: str, mark: Mark) -> None:
        if native in self._ids:
            self._ids[native].resume(mark)

    def _unnumbered(self, stream: Stream) -> str | None:
        ids = self._ids.get(stream.native)
        return super()._unnumbered(stream) if ids is not None and ids.last is None else None

    def _trades(self, message: Frame, recv: int) -> list[Output]:
        one = decode_spot_trade(message.result)
        topic = find(self._topics, one.currency_pair).get("trade")
        price, size = decimal(text(one.price)), decimal(text(one.amount))
        ts = from_millis(one.create_time_ms)
        fills = None if one.range is None else _RANGE(one.range)
        if fills is None and one.range is not None:
            raise ValueError(f"no range: {one.range[:40]!r}")
        out = [*self._pacer.advance(ts)]
        if topic is None:
            return out
        self._doubted.discard(topic)
        number = one.id
        if fills is not None:
            ids = self._ids[one.currency_pair]
            said = ids.reach(int(fills[1]), recv)
            if said is None:  # had it
                return out
            out += said
            number = int(fills[2])
            ids.last, ids.expected = number, number + 1
        elif self.is_again(topic, number):
            return out
        return [*out, Trade(topic, 0, ts, recv, 0, str(number), price, size, one.side)]

    def _ticker(self, message: Frame, recv: int) -> list[Output]:
        given = decode_spot_ticker(message.result)
        topic = find(self._topics, given.currency_pair).get("ticker")
        day = (
            optional(given.last),
            None,
            optional(given.high_24h),
            optional(given.low_24h),
            optional(given.base_volume),
            optional(given.quote_volume),
            optional(given.highest_bid),
            optional(given.lowest_ask),
        )
        ts = told(message)
        out = [*self._pacer.advance(ts)]
        if self.is_news(topic, day):
            assert topic is not None
            out.append(Ticker(topic, 0, ts, recv, 0, *day))
        return out


class GateIoFutures(Gate):
    """Gate's perpetuals that settle in USDT; sizes are in contracts, which may be fractions."""

    name = "gateio-futures"
    market = "futures"
    ws_url = "wss://fx-ws.gateio.ws"
    #: Else sizes come as whole numbers: what is left of 1.7 contracts is 1, of 0.7 nothing; and
    #: the listing does not say which contracts can be divided.
    headers = {"X-Gate-Size-Decimal": "1"}
    path = "/v4/ws/usdt"
    listing_paths = ("/api/v4/futures/usdt/contracts",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker", "derivative"})
    proofs = {"book": "each update names its first and last change"}
    _book_path = "/api/v4/futures/usdt/order_book?contract={}&limit=100&with_id=true"
    _updates = UPDATES_OF_OBJECTS
    _snapshots = SNAPSHOTS_OF_OBJECTS
    _update_payload = ("100ms", "100")

    @classmethod
    def instruments(cls, bodies: Sequence[bytes]) -> list[Instrument]:
        return read_futures(cls.name, bodies)

    @classmethod
    def instrument(cls, native: str) -> Instrument | None:
        return name_futures(cls.name, native)

    def _trades(self, message: Frame, recv: int) -> list[Output]:
        trades = []
        for one in decode_futures_trades(message.result):
            topic = find(self._topics, one.contract).get("trade")
            price, size = decimal(text(one.price)), signed(text(one.size))
            at = one.create_time_ms
            ts = seconds(one.create_time) if at is None else from_millis(at)
            if not one.is_internal:
                trades.append((topic, one.id, ts, price, size))
        out: list[Output] = []
        for topic, number, ts, price, size in trades:
            out += self._pacer.advance(ts)
            if topic is None or self.is_again(topic, number):
                continue
            self._doubted.discard(topic)
            side: Side = "sell" if size.startswith("-") else "buy"
            size = size.removeprefix("-")
            out.append(Trade(topic, 0, ts, recv, 0, str(number), price, size, side))
        return out

    def _ticker(self, message: Frame, recv: int) -> list[Output]:
        ts = told(message)
        read = []
        for given in decode_futures_tickers(message.result):
            day = (
                optional(given.last),
                None,
                optional(given.high_24h),
                optional(given.low_24h),
                optional(given.volume_24h),
                optional(given.volume_24h_quote),
                None,
                None,
            )
            due = given.funding_next_apply
            derived = (
                optional(given.mark_price),
                optional(given.index_price),
                signed(text(given.funding_rate)) if given.funding_rate else None,
                seconds(due) if due else None,
                optional(given.total_size),
            )
            read.append((find(self._topics, given.contract), day, derived))
        out = [*self._pacer.advance(ts)]
        for topics, day, derived in read:
            if self.is_news(topics.get("ticker"), day):
                out.append(Ticker(topics["ticker"], 0, ts, recv, 0, *day))
            if self.is_news(topics.get("derivative"), derived):
                out.append(Derivative(topics["derivative"], 0, ts, recv, 0, *derived))
        return out
