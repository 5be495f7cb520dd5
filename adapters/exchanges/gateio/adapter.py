"""Gate v4: spot and USDT-settled perpetuals; their trades and figures of the day. Pure.

Trades are known again by their ids alone. Those of a spot market are numbered without holes too
since 2025, but were seen to come in another order (gateio/gatews#49): what is left out may be on
its way.
"""

from __future__ import annotations

from adapters.base import Output
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
from adapters.exchanges.gateio.listing import FUTURES, SPOT
from adapters.text import decimal, signed
from feed.models import Derivative, Side, Ticker, Trade


class GateIo(Gate):
    """Gate spot."""

    name = "gateio"
    market = "spot"
    ws_url = "wss://api.gateio.ws"
    path = "/ws/v4/"
    listing = SPOT
    listing_paths = ("/api/v4/spot/currency_pairs",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker"})
    _book_path = "/api/v4/spot/order_book?currency_pair={}&limit=100&with_id=true"
    _updates = UPDATES
    _snapshots = SNAPSHOTS
    _update_payload = ("100ms",)

    def _trades(self, message: Frame, recv: int) -> list[Output]:
        one = decode_spot_trade(message.result)
        topic = find(self._topics, one.currency_pair).get("trade")
        price, size = decimal(text(one.price)), decimal(text(one.amount))
        ts = from_millis(one.create_time_ms)
        out = [*self._pacer.advance(ts)]
        if topic is None:
            return out
        self._doubted.discard(topic)
        if not self._known[topic].is_new(one.id):
            return out
        return [*out, Trade(topic, 0, ts, recv, 0, str(one.id), price, size, one.side)]

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
        if self._is_news(topic, day):
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
    listing = FUTURES
    listing_paths = ("/api/v4/futures/usdt/contracts",)
    kinds = frozenset({"book", "depth", "quote", "trade", "ticker", "derivative"})
    _book_path = "/api/v4/futures/usdt/order_book?contract={}&limit=100&with_id=true"
    _updates = UPDATES_OF_OBJECTS
    _snapshots = SNAPSHOTS_OF_OBJECTS
    _update_payload = ("100ms", "100")

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
            if topic is None or not self._known[topic].is_new(number):
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
            if self._is_news(topics.get("ticker"), day):
                out.append(Ticker(topics["ticker"], 0, ts, recv, 0, *day))
            if self._is_news(topics.get("derivative"), derived):
                out.append(Derivative(topics["derivative"], 0, ts, recv, 0, *derived))
        return out
