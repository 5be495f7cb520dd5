"""Bybit: update ids, the quote's own stream, merged tickers, liquidations, refusals.

Messages are in ``payloads/bybit`` and ``payloads/bybit-inverse``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.base import Adapter, Health, Output, Refused, Send, Stream, Venue
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.bybit.adapter import (
    ARGS_PER_REQUEST,
    Bybit,
    BybitInverse,
    BybitLinear,
)
from adapters.exchanges.bybit.venue import BybitInverseVenue, BybitLinearVenue, BybitVenue
from adapters.trade_ids import KNOWN_TRADES
from feed.errors import BadPayload
from feed.models import Book, Derivative, Gap, Liquidation, Quote, Ticker, Trade
from tests.adapters.sessions import (
    PAYLOADS,
    Session,
    Sides,
    adapter,
    apply,
    clients_books,
    is_same,
    only,
)
from tests.adapters.tapes import CAPTURES, captures

Market = tuple[type[Adapter], Callable[[], Venue]]
SPOT: Market = (Bybit, BybitVenue)
LINEAR: Market = (BybitLinear, BybitLinearVenue)
INVERSE: Market = (BybitInverse, BybitInverseVenue)
SESSION = PAYLOADS / "bybit" / "session.jsonl"
INVERSE_SESSION = PAYLOADS / "bybit-inverse" / "session.jsonl"
markets = pytest.mark.parametrize("market", [SPOT, LINEAR], ids=["spot", "linear"])
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("bybit")]
)
bundled = pytest.mark.parametrize(
    ("market", "path"),
    [
        pytest.param(SPOT, SESSION, id="spot"),
        pytest.param(LINEAR, SESSION, id="linear"),
        pytest.param(INVERSE, INVERSE_SESSION, id="inverse"),
    ],
)
#: Market and session: no recording of inverse contracts is known.
sessions = pytest.mark.parametrize(
    ("market", "path"),
    [
        *(
            pytest.param(market, one.values[0], id=f"{name}-{one.id}", marks=one.marks)
            for name, market in (("spot", SPOT), ("linear", LINEAR))
            for one in (pytest.param(SESSION, id="bundled"), *captures("bybit"))
        ),
        pytest.param(INVERSE, INVERSE_SESSION, id="inverse-bundled"),
    ],
)


def session(market: Market, path: Path = SESSION) -> Session:
    cls, venue = market
    return Session(cls, venue(), path)


def linear(*channels: str, native: str = "BTCUSDT") -> Adapter:
    return adapter(BybitLinear, [Stream(one, native) for one in channels])


def inverse(*channels: str, native: str = "BTCUSD") -> Adapter:
    return adapter(BybitInverse, [Stream(one, native) for one in channels])


def spot(*channels: str, native: str = "BTCUSDT") -> Adapter:
    return adapter(Bybit, [Stream(one, native) for one in channels])


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def book(
    u: int,
    bids: list[list[str]],
    asks: list[list[str]],
    type_: str = "delta",
    topic: str = "orderbook.200.BTCUSDT",
) -> bytes:
    data = {"s": topic.rpartition(".")[2], "b": bids, "a": asks, "u": u, "seq": 1}
    message = {
        "topic": topic,
        "type": type_,
        "ts": 1786310818129,
        "data": data,
        "cts": 1786310818120,
    }
    return json.dumps(message).encode()


def start(u: int = 10, topic: str = "orderbook.200.BTCUSDT") -> bytes:
    return book(u, [["100", "1"]], [["101", "2"]], "snapshot", topic)


def ticker(type_: str, **fields: str) -> bytes:
    data = {"symbol": "BTCUSDT", **fields}
    message = {"topic": "tickers.BTCUSDT", "type": type_, "ts": 1786310817583, "data": data}
    return json.dumps(message).encode()


def reply(**fields: object) -> bytes:
    return json.dumps({"op": "subscribe", **fields}).encode()


@sessions
def test_every_trade_is_there_digit_for_digit(market: Market, path: Path) -> None:
    recording = session(market, path)
    sent = [
        (one["i"], one["p"], one["v"], one["S"].lower(), int(one["T"]) * 1_000)
        for message in recording.payloads()
        if message.get("topic", "").startswith("publicTrade.")
        for one in message["data"]
    ]
    trades = only(Trade, recording.run().outputs)
    assert sent
    assert [(t.id, t.price, t.size, t.side, t.ts) for t in trades] == sent


@sessions
def test_books_are_the_exchange_s_books_and_update_ids_are_consecutive(
    market: Market, path: Path
) -> None:
    recording = session(market, path)
    naive: dict[str, Sides] = {}
    last: dict[str, int] = {}
    for message in recording.payloads():
        topic = message.get("topic", "")
        if not topic.startswith("orderbook."):
            continue
        data = message["data"]
        if message["type"] == "snapshot":
            naive[topic] = ({}, {})
        else:
            assert int(data["u"]) == last[topic] + 1
        last[topic] = int(data["u"])
        apply(naive[topic], data["b"], data["a"])
    shown = clients_books(recording.run().outputs)
    instruments = recording.adapter().plan_.instruments
    assert shown == {
        f"book.{market[0].name}.{instruments[topic.rpartition('.')[2]].symbol}": sides
        for topic, sides in naive.items()
    }
    assert all(len(side) == 200 for sides in shown.values() for side in sides)


def test_a_broken_update_id_makes_the_book_invalid_until_a_snapshot() -> None:
    reader = linear("orderbook.200", "publicTrade")
    assert len(only(Book, parse(reader, [start(), book(11, [["99", "1"]], [])]))) == 2
    broken = parse(reader, [book(13, [["98", "1"]], [])])
    name = "bybit-linear.BTC-USDT-PERP"
    assert broken[0] == Health("BTCUSDT", ("book", "depth", "quote"), "invalid", "sequence")
    assert broken[1] == Gap(f"book.{name}", 0, None, 0, 0, "upstream_sequence", None)
    requests = [json.loads(one.frame) for one in only(Send, broken)]
    assert [one["op"] for one in requests] == ["unsubscribe", "subscribe"]
    assert all(one["args"] == ["orderbook.200.BTCUSDT"] for one in requests)
    assert parse(reader, [book(14, [["98", "1"]], [])], 1) == []
    assert len(parse(reader, [book(15, [["98", "1"]], [])], RESUBSCRIBE_US)) == 2
    fresh = parse(reader, [start(3)], RESUBSCRIBE_US + 1)
    assert only(Book, fresh)[0].snapshot
    assert fresh[-1] == Health("BTCUSDT", ("book", "depth", "quote"), "live", None)
    assert only(Book, parse(reader, [book(4, [["98", "1"]], [])], RESUBSCRIBE_US + 2))


@pytest.mark.parametrize(
    "restart",
    [
        pytest.param(start(7), id="snapshot"),
        pytest.param(book(1, [["100", "1"]], [["101", "2"]]), id="update-id-1"),
    ],
)
def test_a_snapshot_or_update_id_1_starts_the_book_afresh(restart: bytes) -> None:
    reader = linear("orderbook.200")
    outputs = parse(reader, [start(), book(11, [["99", "1"]], []), restart])
    assert [one.snapshot for one in only(Book, outputs)] == [True, False, True]
    assert list(clients_books(outputs).values()) == [({"100": "1"}, {"101": "2"})]


def test_the_quote_has_its_own_stream_when_live_and_else_the_book_s() -> None:
    instrument = BybitLinear.instrument("BTCUSDT")
    assert instrument is not None
    streams = BybitLinear.streams(instrument, BybitLinear.kinds)
    channels = [one.channel for one in streams]
    books = ["orderbook.200", "orderbook.1"]
    assert channels == [*books, "publicTrade", "tickers", "allLiquidation"]
    best = "orderbook.1.BTCUSDT"
    reader = adapter(BybitLinear, streams)
    assert only(Quote, parse(reader, [start(), book(11, [["100.5", "1"]], [])])) == []
    quotes = only(Quote, parse(reader, [start(5, best), start(5, best)]))
    assert len(quotes) == 1  # the same again is their heartbeat
    changed = book(6, [["100.1", "3"]], [["101", "2"]], "snapshot", best)
    (quote,) = only(Quote, parse(reader, [changed]))
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("100.1", "3", "101", "2")
    emptied = book(7, [], [["101", "0"]], "delta", best)
    (quote,) = only(Quote, parse(reader, [emptied]))
    assert (quote.bid, quote.ask, quote.ask_size) == ("100.1", None, None)
    alone = parse(linear("orderbook.200"), [start(), book(11, [["100.5", "1"]], [])])
    assert [one.bid for one in only(Quote, alone)] == ["100", "100.5"]


def test_a_broken_best_quote_leaves_the_book_alone() -> None:
    reader = linear("orderbook.200", "orderbook.1")
    best = "orderbook.1.BTCUSDT"
    parse(reader, [start(), start(5, best)])
    broken = parse(reader, [book(9, [["100", "9"]], [], "delta", best)])
    assert broken[0] == Health("BTCUSDT", ("quote",), "invalid", "sequence")
    assert all(best in one.frame for one in only(Send, broken))
    assert only(Gap, broken) == []
    assert only(Book, parse(reader, [book(11, [["99", "1"]], [])]))


def test_a_crossed_book_is_not_shown() -> None:
    reader = linear("orderbook.200")
    outputs = parse(reader, [start(), book(11, [["101", "1"]], [])])
    assert only(Health, outputs) == [
        Health("BTCUSDT", ("book", "depth", "quote"), "invalid", "crossed")
    ]
    assert len(only(Book, outputs)) == 1


def test_linear_tickers_are_merged_and_say_only_what_changed() -> None:
    reader = linear("tickers")
    day = {
        "lastPrice": "65114.30",
        "prevPrice24h": "65008.70",
        "highPrice24h": "65282.30",
        "lowPrice24h": "64694.40",
        "volume24h": "17573.9120",
        "turnover24h": "1142118412.9021",
        "bid1Price": "65114.20",
        "ask1Price": "65114.30",
    }
    derived = {
        "markPrice": "65117.44",
        "indexPrice": "65137.76",
        "fundingRate": "-0.000212",
        "nextFundingTime": "1786320000000",
        "openInterest": "59891.732",
    }
    name = "bybit-linear.BTC-USDT-PERP"
    ts = 1786310817583000
    first = parse(reader, [ticker("snapshot", **day, **derived)])
    assert first == [
        Ticker(f"ticker.{name}", 0, ts, 0, 0, *day.values()),
        Derivative(
            *(f"derivative.{name}", 0, ts, 0, 0, "65117.44", "65137.76", "-0.000212"),
            *(1786320000000000, "59891.732"),
        ),
    ]
    assert (
        parse(reader, [ticker("delta", bid1Size="5"), ticker("delta", markPrice="65117.44")]) == []
    )
    (changed,) = parse(reader, [ticker("delta", markPrice="65117.43")])
    assert isinstance(changed, Derivative)
    assert (changed.mark, changed.index) == ("65117.43", "65137.76")
    (changed,) = parse(reader, [ticker("delta", lastPrice="65114.40", openInterest="59891.732")])
    assert isinstance(changed, Ticker)
    assert (changed.last, changed.open) == ("65114.40", "65008.70")


def test_of_inverse_contracts_sizes_volumes_and_open_interest_are_in_the_quote() -> None:
    given = ticker("snapshot", volume24h="661543991", turnover24h="23389.1894", openInterest="44")
    outputs = parse(inverse("tickers"), [given.replace(b"BTCUSDT", b"BTCUSD")])
    (day,), (derivative,) = only(Ticker, outputs), only(Derivative, outputs)
    assert (day.volume, day.quote_volume) == ("661543991", "661543991"), "the turnover is in BTC"
    assert derivative.open_interest == "44"
    instrument = BybitInverse.instrument("BTCUSD")
    assert instrument is not None
    assert (instrument.inverse, instrument.settle, instrument.size_unit) == (True, "BTC", "quote")


def liquidated(*orders: tuple[str, str, str], native: str = "BTCUSDT") -> bytes:
    data = [{"T": 5, "s": native, "S": side, "v": v, "p": p} for side, v, p in orders]
    message = {"topic": f"allLiquidation.{native}", "type": "snapshot", "ts": 9, "data": data}
    return json.dumps(message).encode()


def test_a_liquidation_has_the_side_of_its_order_which_closes_the_position() -> None:
    frame = liquidated(("Buy", "20000", "0.04499"), ("Sell", "1", "0.050"))
    outputs = parse(linear("allLiquidation"), [frame])
    topic = "liquidation.bybit-linear.BTC-USDT-PERP"
    assert outputs == [
        Liquidation(topic, 0, 5_000, 0, 0, None, "0.04499", "20000", "sell"),
        Liquidation(topic, 0, 5_000, 0, 0, None, "0.050", "1", "buy"),
    ]


def test_a_liquidation_that_cannot_be_read_is_refused_with_its_neighbours() -> None:
    reader = linear("allLiquidation")
    for bad in (("None", "1", "1"), ("Buy", "-1", "1"), ("Buy", "1", "")):
        with pytest.raises(BadPayload):
            parse(reader, [liquidated(("Buy", "1", "1"), bad)])
    with pytest.raises(BadPayload):
        parse(reader, [liquidated(native="ETHUSDT")])


def test_a_resync_declares_the_facts_that_come_meanwhile_as_lost() -> None:
    streams = [Stream(one, "BTCUSD") for one in ("publicTrade", "allLiquidation", "tickers")]
    reader = adapter(BybitInverse, streams)
    outputs = reader.resync(streams, 7)
    name = "bybit-inverse.BTC-USD:BTC-PERP"
    assert [one.topic for one in only(Gap, outputs)] == [f"trade.{name}", f"liquidation.{name}"]
    asked = [json.loads(one.frame)["args"] for one in only(Send, outputs)]
    assert asked == [[f"{one.channel}.BTCUSD"] for one in streams for _ in range(2)]


def test_futures_without_funding_have_none() -> None:
    given = ticker("snapshot", markPrice="1", fundingRate="", nextFundingTime="0", lastPrice="1")
    (derivative,) = only(Derivative, parse(linear("tickers"), [given]))
    assert (derivative.funding_rate, derivative.funding_time) == (None, None)


@recordings
def test_spot_tickers_are_read_and_repeated_ones_left_out(path: Path) -> None:
    recording = session(SPOT, path)
    keys = ("lastPrice", "prevPrice24h", "highPrice24h", "lowPrice24h", "volume24h", "turnover24h")
    sent: list[tuple[str, ...]] = []
    for message in recording.payloads():
        if message.get("topic", "").startswith("tickers."):
            values = tuple(message["data"][key] for key in keys)
            sent += [values] if not sent or sent[-1] != values else []
    tickers = only(Ticker, recording.run().outputs)
    shown = [(t.last, t.open, t.high, t.low, t.volume, t.quote_volume) for t in tickers]
    assert shown == sent
    assert all(one.bid is one.ask is None for one in tickers)


def traded(*ids: str, native: str = "BTCUSDT") -> bytes:
    trades = [{"T": 1, "s": native, "S": "Buy", "v": "1", "p": "100", "i": one} for one in ids]
    message = {"topic": f"publicTrade.{native}", "type": "snapshot", "ts": 1, "data": trades}
    return json.dumps(message).encode()


def test_a_trade_that_comes_again_is_dropped_of_its_own_symbol_alone() -> None:
    reader = adapter(Bybit, [Stream("publicTrade", name) for name in ("BTCUSDT", "ETHUSDT")])
    frames = [traded("7", "8"), traded("8", "9", "7"), traded("8", native="ETHUSDT")]
    trades = only(Trade, parse(reader, frames))
    bitcoin, ether = "trade.bybit.BTC-USDT", "trade.bybit.ETH-USDT"
    assert [(trade.topic, trade.id) for trade in trades] == [
        (bitcoin, "7"),
        (bitcoin, "8"),
        (bitcoin, "9"),
        (ether, "8"),
    ]


def test_of_the_trades_of_a_symbol_the_last_thousand_are_known() -> None:
    reader = spot("publicTrade")
    parse(reader, [traded(*map(str, range(KNOWN_TRADES + 1)))])
    again = only(Trade, parse(reader, [traded("1", "0", str(KNOWN_TRADES))]))
    assert [trade.id for trade in again] == ["0"], "forgotten, so that memory has a bound"


def test_arguments_are_spread_over_requests() -> None:
    streams = [Stream("publicTrade", f"{name}USDT") for name in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    requests = [json.loads(one.frame) for one in only(Send, adapter(Bybit, streams).opened())]
    assert [len(one["args"]) for one in requests] == [ARGS_PER_REQUEST, ARGS_PER_REQUEST, 6]
    assert [one["req_id"] for one in requests] == ["1", "2", "3"]


def test_arguments_of_a_connection_stay_below_the_limit() -> None:
    name = "A" * 60
    natives = [f"{name}{number}USDT" for number in range(800)]
    instrument = Bybit.instrument(natives[0])
    assert instrument is not None
    streams = [Stream("publicTrade", native) for native in natives]
    plans = Bybit.plan(streams, dict.fromkeys(natives, instrument))
    for plan in plans:
        args = [f"{one.channel}.{one.native}" for one in plan.streams]
        assert len(json.dumps(args, separators=(",", ":"))) <= 21_000


def test_one_refused_argument_does_not_cost_the_others() -> None:
    natives = ("BTCUSDT", "BTCUSDT-14AUG26")
    reader = adapter(BybitLinear, [Stream("publicTrade", native) for native in natives])
    reader.opened()
    reason = "error:handler not found,topic:publicTrade.BTCUSDT-14AUG26"
    refused, again = parse(reader, [reply(success=False, ret_msg=reason, req_id="1")])
    assert refused == Refused((Stream("publicTrade", "BTCUSDT-14AUG26"),), reason)
    assert isinstance(again, Send)
    assert json.loads(again.frame)["args"] == ["publicTrade.BTCUSDT"]
    assert parse(reader, [reply(success=True, ret_msg="", req_id="2")]) == []


def test_a_refusal_that_names_nothing_is_found_by_asking_one_by_one() -> None:
    reader = linear("publicTrade", "tickers")
    reader.opened()
    singles = only(Send, parse(reader, [reply(success=False, ret_msg="error", req_id="1")]))
    assert [json.loads(one.frame)["args"] for one in singles] == [
        ["publicTrade.BTCUSDT"],
        ["tickers.BTCUSDT"],
    ]
    (refused,) = parse(reader, [reply(success=False, ret_msg="error", req_id="2")])
    assert refused == Refused((Stream("publicTrade", "BTCUSDT"),), "error")


def test_pings_are_sent_and_every_shape_of_pong_is_silent() -> None:
    reader = spot("publicTrade")
    assert (reader.limits.ping_every_s, reader.ping()) == (20, '{"op":"ping"}')
    for pong in (
        b'{"success":true,"ret_msg":"pong","conn_id":"x","op":"ping"}',
        b'{"success":true,"ret_msg":"pong","conn_id":"x","req_id":"","op":"ping"}',
        b'{"req_id":"","op":"pong","args":["1675418560633"],"conn_id":"x"}',
    ):
        assert parse(reader, [pong]) == []


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(start().replace(b"BTCUSDT", b"ETHUSDT"), id="symbol-not-carried"),
        pytest.param(start().replace(b"1786310818120", b"99999999999999999"), id="time"),
        pytest.param(start().replace(b'"snapshot"', b'"whole"'), id="type"),
        pytest.param(start().replace(b'"u": 10', b'"u": "10"'), id="update-id-text"),
        pytest.param(b'{"success":false,"conn_id":"","op":""}', id="refusal-of-nothing"),
        pytest.param(b'{"topic":"surprise.BTCUSDT","data":{}}', id="unknown-topic"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: bytes) -> None:
    with pytest.raises(BadPayload):
        parse(linear("orderbook.200"), [bad])


@pytest.mark.parametrize(
    ("cls", "native", "symbol"),
    [
        (Bybit, "BTCUSDT", "BTC-USDT"),
        (Bybit, "ETHBTC", "ETH-BTC"),
        (Bybit, "XRPRLUSD", "XRP-RLUSD"),
        (Bybit, "USDT", None),
        (BybitLinear, "BTCUSDT", "BTC-USDT-PERP"),
        (BybitLinear, "BTCPERP", "BTC-USDC-PERP"),
        (BybitLinear, "1000PEPEUSDT", "1000PEPE-USDT-PERP"),
        (BybitLinear, "BTCUSDT-25DEC26", "BTC-USDT-20261225"),
        (BybitLinear, "ETH-4SEP26", "ETH-USDC-20260904"),
        (BybitLinear, "ETH-99SEP26", None),
        (BybitLinear, "BTCUSD", None),
        (BybitInverse, "BTCUSD", "BTC-USD:BTC-PERP"),
        (BybitInverse, "BTCUSDZ26", "BTC-USD:BTC-20261225"),
        (BybitInverse, "ETHUSDH27", "ETH-USD:ETH-20270326"),
        (BybitInverse, "ETHUSDG27", "ETH-USD:ETH-20270226"),
        (BybitInverse, "USD", None),
        (BybitInverse, "BTCUSDT", None),
        (BybitInverse, "BTCPERP", None),
    ],
)
def test_names_without_a_listing(cls: type[Adapter], native: str, symbol: str | None) -> None:
    instrument = cls.instrument(native)
    assert (instrument.symbol if instrument else None) == symbol


def listing(*instruments: dict[str, Any]) -> bytes:
    return json.dumps(
        {"retCode": 0, "result": {"list": instruments, "nextPageCursor": ""}}
    ).encode()


def test_the_listings_are_read() -> None:
    filters = {"priceFilter": {"tickSize": "0.10"}, "lotSizeFilter": {"qtyStep": "0.001"}}
    coins = {"baseCoin": "BTC", "quoteCoin": "USDT", "status": "Trading", "deliveryTime": "0"}
    perpetual = {"symbol": "BTCUSDT", **coins, **filters}
    dated = perpetual | {"symbol": "BTCUSDT-25DEC26", "deliveryTime": "1798185600000"}
    early = perpetual | {"symbol": "NEWUSDT", "baseCoin": "NEW", "status": "PreLaunch"}
    found = BybitLinear.instruments([listing(perpetual, dated, early)])
    assert [(one.symbol, one.type, one.state, one.expiry) for one in found] == [
        ("BTC-USDT-PERP", "perpetual", "trading", None),
        ("BTC-USDT-20261225", "future", "trading", 1798185600000000),
        ("NEW-USDT-PERP", "perpetual", "prelaunch", None),
    ]
    assert (found[0].settle, found[0].price_step, found[0].size_step) == ("USDT", "0.10", "0.001")
    coins = {"quoteCoin": "USD", "settleCoin": "BTC"}
    swap = perpetual | coins | {"symbol": "BTCUSD"}
    quarterly = dated | coins | {"symbol": "BTCUSDZ26"}
    for one in BybitInverse.instruments([listing(swap, quarterly)]):
        named = BybitInverse.instrument(one.native)
        assert named is not None
        assert one == msgspec.structs.replace(named, price_step="0.10", size_step="0.001")
    pair = perpetual | {"lotSizeFilter": {"basePrecision": "0.000001"}}
    (found_pair,) = Bybit.instruments([listing(pair)])
    assert (found_pair.symbol, found_pair.size_step) == ("BTC-USDT", "0.000001")
    with pytest.raises(BadPayload):
        Bybit.instruments([b'{"retCode":10001,"retMsg":"params error","result":{}}'])


@markets
def test_names_by_rule_are_those_of_the_recorded_listing(market: Market) -> None:
    paths = sorted((CAPTURES / "bybit").glob("session_*"))
    if not paths:
        pytest.skip("no recordings of bybit beside the repository")
    listed = session(market, paths[0]).listed
    assert len(listed) > 500
    assert len({one.symbol for one in listed}) == len(listed)
    for one in listed:
        named = market[0].instrument(one.native)
        assert named is not None
        assert (named.symbol, named.type, named.expiry) == (one.symbol, one.type, one.expiry)


#: Samples that are no message of ours, by a part of each.
NOT_OURS = {
    '"topic":"trade.linear': "made up by another project",
    '"topic":"tickers.BTC-': "options",
    '"topic":"tickers.BTC"': "options",
    '"topic":"greeks"': "private",
    '"topic":"system.status"': "of another path",
    '"op":"auth"': "private",
    '"S":"Unknown"': "made up to be refused",
    "should_not_be_present": "made up to be refused",
    '"success":false': "names no request",
}
#: Samples that are but a part of a message.
PARTS = ('["', '{"T":')


@pytest.mark.parametrize(
    "path",
    [PAYLOADS / "bybit" / "samples.jsonl", CAPTURES / "bybit" / "samples.jsonl"],
    ids=["bundled", "bybit"],
)
def test_sample_messages_are_read(path: Path) -> None:
    if not path.exists():
        pytest.skip("no recordings of bybit beside the repository")
    fed: dict[str, type[Trade | Ticker | Quote | Liquidation]] = {
        "publicTrade": Trade,
        "tickers": Ticker,
        "orderbook": Quote,
        "allLiquidation": Liquidation,
    }
    read = 0
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        frame = sample["raw"]
        if sample["dir"] != "in":
            continue
        native = next((one for one in ("BTCPERP", "ETHUSDT") if one in frame), "BTCUSDT")
        channels = ("orderbook.1", "publicTrade", "tickers", "allLiquidation")
        reader = linear(*channels, native=native)
        if frame.startswith(PARTS) or any(part in frame for part in NOT_OURS):
            with pytest.raises(BadPayload):
                parse(reader, [frame.encode()])
            continue
        topic = json.loads(frame).get("topic", "")
        outputs = parse(reader, [frame.encode()])
        kind = fed.get(topic.partition(".")[0])
        is_delta = '"type":"delta"' in frame
        assert kind is None or is_delta or any(isinstance(one, kind) for one in outputs), frame
        read += 1
    assert read >= 10


#: Cases whose pairs cannot agree -> why.
DIFFERENT_CASES = {
    "2019-12-23T00:00:00.000Z": "v2 of the API, which is gone",
    "2019-12-24T00:00:00.000Z": "v2 of the API, which is gone",
    "2021-05-22T00:00:59.464Z": "v1 of the spot API, which is gone",
}


def test_others_make_the_same_of_the_same_messages() -> None:
    path = CAPTURES / "bybit" / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings of bybit beside the repository")
    readers: dict[str, Adapter] = {}
    compared = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        if pair["schema"] == "crypto-msg-parser":
            continue  # v2 of the API, which is gone
        if pair["exchange"] == "bybit-options" or pair["mapper_since"] in DIFFERENT_CASES:
            continue
        sent = json.loads(pair["raw"])
        native = sent["topic"].rpartition(".")[2]
        if sent["topic"].startswith("liquidation."):
            continue  # the largest of each second, which is gone
        others = BybitLinear if BybitLinear.instrument(native) else BybitInverse
        cls = Bybit if pair["exchange"] == "bybit-spot" else others
        # Each channel alone: others take their quote from any.
        channel = sent["topic"].rpartition(".")[0]
        key = f"{cls.name} {sent['topic']}"
        if key not in readers:
            readers[key] = adapter(cls, [Stream(channel, native)])
        events = list(readers[key].parse(pair["raw"].encode(), 0))
        for other in pair["expected"]:
            compared += compare(other, events, channel)
    assert compared >= 10


def compare(other: dict[str, Any], events: list[Output], channel: str) -> int:
    """Compare one normalised message of another project with our events of the same frame."""
    match other["type"]:
        case "trade":
            (trade,) = (one for one in only(Trade, events) if one.id == other["id"])
            assert trade.side == other["side"]
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "liquidation":
            (order,) = only(Liquidation, events)
            assert order.side == other["side"]
            assert is_same(order.price, other["price"]) and is_same(order.size, other["amount"])
        case "book_change" if not channel.endswith(".1"):
            (change,) = only(Book, events)
            assert change.snapshot == other["isSnapshot"]
            for mine, theirs in ((change.bids, other["bids"]), (change.asks, other["asks"])):
                # Deletions of what the snapshot never had change nothing.
                shown = {float(price): float(size) for price, size in mine}
                assert shown == {
                    one["price"]: one["amount"]
                    for one in theirs
                    if one["amount"] or one["price"] in shown
                }
        case "book_ticker":
            (quote,) = only(Quote, events)
            assert is_same(quote.bid, other["bidPrice"]) and is_same(quote.ask, other["askPrice"])
            assert is_same(quote.bid_size, other["bidAmount"])
            assert is_same(quote.ask_size, other["askAmount"])
        case "derivative_ticker":
            ours = only(Derivative, events)
            if not ours:  # theirs has the last price too
                return 0
            assert is_same(ours[0].mark, other["markPrice"])
            assert is_same(ours[0].index, other["indexPrice"])
            assert is_same(ours[0].funding_rate, other["fundingRate"])
            assert is_same(ours[0].open_interest, other["openInterest"])
        case _:
            return 0
    return 1


@bundled
def test_the_venue_answers_as_recorded_and_knows_its_own_market(market: Market, path: Path) -> None:
    cls, make = market
    venue = make()
    recording = Session(cls, venue, path)
    native = {"bybit": "BTCUSDT", "bybit-linear": "ETHUSDT"}.get(cls.name, "BTCUSD")
    assert native in {one.native for one in recording.streams}
    topic = f"orderbook.200.{native}"
    ack = venue.request(
        "/v5/public", json.dumps({"op": "subscribe", "args": [topic], "req_id": "9"})
    )
    assert ack.streams == (Stream("orderbook.200", native),) and not ack.unsubscribe
    (answer,) = (json.loads(one) for one in ack.frames)
    recorded = next(json.loads(one) for one in recording.frames if b'"subscribe"' in one)
    assert answer == recorded | {"req_id": "9"}
    assert venue.request("", json.dumps({"op": "unsubscribe", "args": [topic]})).unsubscribe
    (pong,) = venue.request("", '{"op":"ping"}').frames
    assert parse(recording.adapter(), [pong.encode()]) == []
    assert venue.request("", "nonsense").streams == ()
    (listed_at,) = cls.listing_paths
    assert venue.rest_key(listed_at) == "listing"
    assert venue.rest_key("/v5/market/instruments-info?category=option") is None


@bundled
def test_the_adapter_understands_what_the_venue_answers(market: Market, path: Path) -> None:
    cls, make = market
    venue = make()
    recording = Session(cls, venue, path)
    unknown = Stream("publicTrade", "NOSUCHUSD" if market is INVERSE else "NOSUCHUSDT")
    reader = adapter(cls, [*recording.streams, unknown])
    waiting = only(Send, reader.opened())
    refused: list[Refused] = []
    asked: list[Stream] = []
    while waiting:
        ack = venue.request(cls.ws_url, waiting.pop().frame)
        asked += ack.streams
        outputs = parse(reader, [one.encode() for one in ack.frames])
        refused += only(Refused, outputs)
        waiting += only(Send, outputs)
    assert [one.streams for one in refused] == [(unknown,)]
    assert set(asked) == set(recording.streams)


@pytest.mark.parametrize(
    ("frame", "gaps", "asked"),
    [
        pytest.param(b'{"topic":"publicTrade.BTCUSDT","data":[{"T":', 1, 0, id="trades"),
        pytest.param(b'{"topic":"allLiquidation.BTCUSDT","data":7}', 0, 0, id="of no stream"),
        pytest.param(b'{"topic":"tickers.BTCUSDT","data":7}', 0, 2, id="merged ticker"),
        pytest.param(b'{"topic":"orderbook.200.BTCUSDT"', 0, 0, id="a book proves itself"),
        pytest.param(b"\x00\xff garbage", 1, 2, id="anything"),
        pytest.param(b'{"topic":"unheard.of"}', 0, 0, id="an unknown type"),
    ],
)
def test_an_unreadable_frame_is_declared_where_nothing_else_would_show_it(
    frame: bytes, gaps: int, asked: int
) -> None:
    reader = linear("publicTrade", "tickers", "orderbook.200")
    with pytest.raises(BadPayload):
        list(reader.parse(frame, 0))
    outputs = list(reader.unread(frame, 1))
    assert [gap.topic for gap in only(Gap, outputs)] == ["trade.bybit-linear.BTC-USDT-PERP"] * gaps
    assert len(only(Send, outputs)) == asked
    assert not list(reader.unread(frame, 2)), "said once, not for every bad frame"
