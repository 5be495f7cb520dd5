"""The Binance adapters' rules: joining books, ids, routes, names, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters import registry
from adapters.base import Fetch, Health, Leave, Output, Plan, Refused, Send, Stream, TapeLine
from adapters.diff_book import MAX_HELD
from adapters.exchanges.binance.adapter import Binance, BinanceCoinm, BinanceUs, BinanceUsdm
from adapters.exchanges.binance.venue import BinanceUsdmVenue, BinanceVenue
from feed.errors import BadPayload
from feed.models import (
    Book,
    Depth,
    Derivative,
    Gap,
    Instrument,
    Liquidation,
    Quote,
    Ticker,
    Trade,
)
from tests.adapters.binance_kit import (
    SPOT,
    USDM,
    AnyBinance,
    Reader,
    Tape,
    adapter,
    answer,
    line,
    one,
    only,
    wrapped,
)

BOOK = "book.binance.BTC-USDT"


def update(first: int, last: int, *, previous: int = 0, at: int = 0, **sides: Any) -> bytes:
    return wrapped(
        "btcusdt@depth@100ms",
        e="depthUpdate",
        E=at or last,
        s="BTCUSDT",
        U=first,
        u=last,
        pu=previous,
        b=sides.get("bids", []),
        a=sides.get("asks", []),
    )


def bid(price: int, size: str = "1") -> list[str]:
    return [f"{price}.00", size]


def feed(reader: Reader, *frames: bytes) -> list[Output]:
    return [output for frame in frames for output in reader.parse(frame, 1)]


def booked(outputs: Sequence[Output]) -> list[tuple[bool, list[tuple[str, str]]]]:
    return [(book.snapshot, book.bids) for book in only(Book, outputs)]


SPOT_FETCH = Fetch("/api/v3/depth?symbol=BTCUSDT&limit=5000", "depth:BTCUSDT")
USDM_FETCH = Fetch("/fapi/v1/depth?symbol=BTCUSDT&limit=1000", "depth:BTCUSDT")


def test_the_first_update_asks_for_the_snapshot_once() -> None:
    reader = one(Binance, "depth@100ms")
    assert feed(reader, update(10, 12), update(13, 15)) == [SPOT_FETCH]
    assert feed(one(BinanceUsdm, "depth@100ms"), update(10, 12)) == [USDM_FETCH]


@pytest.mark.parametrize(
    ("snapshot_id", "expected"),
    [
        pytest.param(8, "again", id="older than what is held"),
        pytest.param(9, [(True, ["7"]), (False, ["10"]), (False, ["13"])], id="just before"),
        pytest.param(11, [(True, ["7"]), (False, ["10"]), (False, ["13"])], id="within the first"),
        pytest.param(12, [(True, ["7"]), (False, ["13"])], id="at the end of the first"),
        pytest.param(13, [(True, ["7"]), (False, ["13"])], id="within the second"),
        pytest.param(15, [(True, ["7"])], id="at the end of the last"),
        pytest.param(16, [], id="not reached yet"),
    ],
)
def test_a_spot_snapshot_joins_where_no_update_is_missed(snapshot_id: int, expected: Any) -> None:
    reader = one(Binance, "depth@100ms")
    feed(reader, update(10, 12, bids=[bid(10)]), update(13, 15, bids=[bid(13)]))
    outputs = list(reader.fetched("depth:BTCUSDT", answer(snapshot_id, [bid(7)], []), 2))
    if expected == "again":
        assert outputs == [SPOT_FETCH]
        return
    said = [
        (snapshot, [p.partition(".")[0] for p, _ in bids]) for snapshot, bids in booked(outputs)
    ]
    assert said == expected


@pytest.mark.parametrize(
    ("snapshot_id", "joins"),
    [(8, False), (9, True), (10, True), (12, True), (15, True), (18, True)],
)
def test_a_futures_snapshot_joins_within_an_update_or_at_its_predecessor(
    snapshot_id: int, joins: bool
) -> None:
    """Ids of one symbol have holes, so ``pu`` says what came before: the first is (9, 10..12]."""
    reader = one(BinanceUsdm, "depth@100ms")
    feed(reader, update(10, 12, previous=9), update(15, 18, previous=12))
    outputs = list(reader.fetched("depth:BTCUSDT", answer(snapshot_id, [bid(7)], []), 2))
    assert bool(booked(outputs)) == joins
    assert only(Fetch, outputs) == ([] if joins else [USDM_FETCH])


def joined(cls: AnyBinance = Binance) -> Reader:
    """Return an adapter whose book ends at update 12."""
    reader = one(cls, "depth@100ms")
    feed(reader, update(10, 12, previous=9, bids=[bid(10)]))
    assert booked(list(reader.fetched("depth:BTCUSDT", answer(11, [bid(7)], []), 2)))
    return reader


@pytest.mark.parametrize("cls", [Binance, BinanceUsdm])
def test_a_crossed_book_is_invalid_until_a_fresh_snapshot(cls: AnyBinance) -> None:
    reader = joined(cls)
    assert booked(feed(reader, update(13, 13, previous=12, asks=[["20.00", "1"]])))
    topic = f"book.{reader.name}.{reader.plan_.instruments['BTCUSDT'].symbol}"
    assert feed(reader, update(14, 14, previous=13, bids=[bid(20)])) == [
        Health("BTCUSDT", ("book", "depth"), "invalid", "crossed"),
        Gap(topic, 0, None, 1, 0, "upstream_sequence", None),
        SPOT_FETCH if cls is Binance else USDM_FETCH,
    ]
    assert feed(reader, update(15, 15, previous=14, bids=[bid(15)])) == []
    fresh = answer(14, [bid(10)], [["20.00", "1"]])
    back = list(reader.fetched("depth:BTCUSDT", fresh, 3))
    assert booked(back) == [(True, [("10.00", "1")]), (False, [("15.00", "1")])]
    assert only(Health, back) == [Health("BTCUSDT", ("book", "depth"), "live", None)]


@pytest.mark.parametrize("cls", [Binance, BinanceUsdm])
def test_an_update_that_does_not_follow_breaks_the_book_until_a_new_snapshot(
    cls: AnyBinance,
) -> None:
    reader = joined(cls)
    topic = f"book.{reader.name}.{reader.plan_.instruments['BTCUSDT'].symbol}"
    broken = feed(reader, update(14, 15, previous=13, bids=[bid(14)]))
    assert broken == [
        Health("BTCUSDT", ("book", "depth"), "invalid", "sequence"),
        Gap(topic, 0, None, 1, 0, "upstream_sequence", None),
        SPOT_FETCH if cls is Binance else USDM_FETCH,
    ]
    assert feed(reader, update(16, 18, previous=15, bids=[bid(16)])) == []
    back = list(reader.fetched("depth:BTCUSDT", answer(15, [bid(14)], []), 3))
    assert booked(back) == [(True, [("14.00", "1")]), (False, [("16.00", "1")])]
    assert only(Health, back) == [Health("BTCUSDT", ("book", "depth"), "live", None)]
    assert booked(feed(reader, update(19, 19, previous=18, bids=[bid(19)])))


def test_an_update_that_came_before_is_dropped() -> None:
    reader = joined()
    assert feed(reader, update(10, 12, bids=[bid(10, "5")])) == []
    assert booked(feed(reader, update(13, 13, bids=[bid(13)])))


def test_updates_held_are_bounded_and_the_join_notices_what_is_gone() -> None:
    reader = one(Binance, "depth@100ms")
    for number in range(1, MAX_HELD + 100):
        feed(reader, update(number, number))
    assert list(reader.fetched("depth:BTCUSDT", answer(50, [bid(7)], []), 2)) == [SPOT_FETCH]
    assert booked(list(reader.fetched("depth:BTCUSDT", answer(MAX_HELD, [bid(7)], []), 2)))


def test_a_failed_fetch_is_asked_for_again_while_it_is_needed() -> None:
    reader = one(Binance, "depth@100ms")
    feed(reader, update(10, 12))
    assert list(reader.fetch_failed("depth:BTCUSDT", 2)) == [SPOT_FETCH]
    reader = joined()
    assert list(reader.fetch_failed("depth:BTCUSDT", 2)) == []
    assert list(reader.fetched("depth:BTCUSDT", answer(99, [], []), 2)) == []


def test_a_cut_book_is_refreshed_in_good_time_and_stays_live_meanwhile() -> None:
    reader = one(Binance, "depth@100ms")
    feed(reader, update(1, 1))
    bids = [[str(price), "1"] for price in range(5000, 4000, -1)]
    list(reader.fetched("depth:BTCUSDT", answer(1, bids, []), 2))
    gone = [[price, "0"] for price, _ in bids[250:]]
    assert only(Fetch, feed(reader, update(2, 2, bids=gone))) == []
    asked = feed(reader, update(3, 3, bids=[["5000", "0"]]))
    assert only(Fetch, asked) == [SPOT_FETCH]
    on = feed(reader, update(4, 4, bids=[["4999", "9"]]), update(5, 5, bids=[["4999", "8"]]))
    assert booked(on) == [(False, [("4999", "9")]), (False, [("4999", "8")])]
    fresh = list(reader.fetched("depth:BTCUSDT", answer(4, [["4999", "9"], ["1", "1"]], []), 3))
    assert booked(fresh) == [(True, [("4999", "8"), ("1", "1")])]
    assert not only(Health, fresh) and not only(Gap, fresh)
    assert booked(feed(reader, update(6, 6, bids=[["2", "2"]]))) == [(False, [("2", "2")])]


def test_a_refresh_older_than_the_book_is_asked_for_again() -> None:
    reader = one(Binance, "depth@100ms")
    feed(reader, update(1, 1))
    list(reader.fetched("depth:BTCUSDT", answer(1, [[str(p), "1"] for p in range(1, 1001)], []), 2))
    gone = [[str(p), "0"] for p in range(1, 900)]
    assert only(Fetch, feed(reader, update(2, 5, bids=gone))) == [SPOT_FETCH]
    assert list(reader.fetched("depth:BTCUSDT", answer(4, [["1", "1"]], []), 3)) == [SPOT_FETCH]
    same = list(reader.fetched("depth:BTCUSDT", answer(5, [["1", "1"]], []), 3))
    assert booked(same) == [(True, [("1", "1")])]


def test_a_resync_takes_the_stream_anew_and_leaves_the_neighbours_alone() -> None:
    reader = joined()
    leave, again, *rest = reader.resync([Stream("depth@100ms", "BTCUSDT")], 0)
    names = ["btcusdt@depth@100ms"]
    assert isinstance(leave, Send) and isinstance(again, Send)
    assert json.loads(leave.frame) == {"method": "UNSUBSCRIBE", "params": names, "id": 1}
    assert json.loads(again.frame) == {"method": "SUBSCRIBE", "params": names, "id": 2}
    assert [type(output) for output in rest] == [Health, Gap, Fetch]


def trade(number: int, **more: Any) -> bytes:
    fields = {"s": "BTCUSDT", "p": "61837.63000000", "q": "0.02000000", "T": 5, "m": True}
    return wrapped("btcusdt@trade", e="trade", E=5, **{**fields, "t": number, **more})


def test_trades_carry_the_exchange_s_digits_and_the_taker_s_side() -> None:
    (sold, bought) = feed(one(Binance, "trade"), trade(7), trade(8, m=False))
    assert sold == Trade(
        "trade.binance.BTC-USDT", 0, 5000, 1, 0, "7", "61837.63000000", "0.02000000", "sell"
    )
    assert isinstance(bought, Trade) and bought.side == "buy"


def test_skipped_ids_are_a_gap_before_the_trade_and_repeats_are_dropped() -> None:
    reader = one(Binance, "trade")
    feed(reader, trade(7))
    gap, after = feed(reader, trade(11))
    assert gap == Gap("trade.binance.BTC-USDT", 0, None, 1, 0, "upstream_sequence", 3)
    assert isinstance(after, Trade) and after.id == "11"
    assert feed(reader, trade(11), trade(9)) == []
    assert len(feed(reader, trade(12))) == 1


def test_ids_that_start_anew_are_a_gap_of_unknown_length_not_silence() -> None:
    reader = one(Binance, "trade")
    feed(reader, trade(10**12))
    gap, first = feed(reader, trade(5))
    assert isinstance(gap, Gap) and gap.lost is None
    assert isinstance(first, Trade) and first.id == "5"


def test_an_entry_without_a_price_is_counted_but_is_no_trade() -> None:
    reader = one(BinanceUsdm, "trade")
    assert len(feed(reader, trade(7))) == 1
    assert feed(reader, trade(8, p="0", q="0", X="NA")) == []
    assert len(feed(reader, trade(9))) == 1


def test_of_two_trade_streams_of_a_symbol_the_trade_stream_wins() -> None:
    streams = [Stream("aggTrade", "BTCUSDT"), Stream("trade", "BTCUSDT")]
    instrument = Binance.instrument("BTCUSDT")
    assert instrument is not None
    (plan,) = Binance.plan(streams, {"BTCUSDT": instrument})
    assert plan.streams == (Stream("trade", "BTCUSDT"),)
    reader = adapter(Binance, streams)
    fields = {"s": "BTCUSDT", "p": "1", "q": "1", "T": 5, "m": True}
    assert feed(reader, wrapped("btcusdt@aggTrade", e="aggTrade", a=3, **fields)) == []
    assert len(feed(reader, trade(7))) == 1


def test_of_two_speeds_of_a_book_one_feeds_it() -> None:
    reader = one(Binance, "depth@100ms", "depth", "depth@1000ms")
    assert feed(reader, update(10, 12)) == [SPOT_FETCH]
    other = update(10, 20).replace(b"@100ms", b"@1000ms")
    assert feed(reader, other) == []
    assert booked(list(reader.fetched("depth:BTCUSDT", answer(12, [bid(7)], []), 2)))


def test_an_empty_side_of_a_quote_is_null() -> None:
    frame = wrapped(
        "btcusdt@bookTicker", u=1, s="BTCUSDT", b="0.00000000", B="0.00000000", a="0.10", A="2.0"
    )
    assert feed(one(Binance, "bookTicker"), frame) == [
        Quote("quote.binance.BTC-USDT", 0, None, 1, 0, None, None, "0.10", "2.0")
    ]


def test_a_refused_quote_leaves_nothing_behind_for_the_next() -> None:
    reader = one(Binance, "bookTicker")
    best = {"u": 1, "s": "BTCUSDT", "b": "5.00", "B": "1.0", "a": "6.00", "A": "2.0"}
    feed(reader, wrapped("btcusdt@bookTicker", **best))
    with pytest.raises(BadPayload):
        feed(reader, wrapped("btcusdt@bookTicker", **{**best, "b": "0.00", "a": "six"}))
    (half,) = only(Quote, feed(reader, wrapped("btcusdt@bookTicker", **{**best, "b": "0.00"})))
    assert (half.bid, half.bid_size, half.ask) == (None, None, "6.00")


def test_a_ticker_without_best_prices_has_none() -> None:
    fields = {"c": "5", "o": "1", "h": "6", "l": "0.5", "v": "10.0", "q": "40"}
    frame = wrapped("btcusdt@ticker", e="24hrTicker", E=9, s="BTCUSDT", p="-1", **fields)
    assert feed(one(BinanceUsdm, "ticker"), frame) == [
        Ticker("ticker.binance-usdm.BTC-USDT-PERP", 0, 9000, 1, 0,
               "5", "1", "6", "0.5", "10.0", "40", None, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "rate", "due"),
    [
        ({"i": "8.10", "r": "-0.00010000", "T": 77}, "-0.00010000", 77000),
        ({"i": "8.10", "r": "", "T": 0}, None, None),
        ({"i": "8.10", "r": "0.00000000", "T": 0}, None, None),
    ],
)
def test_marks_carry_the_funding_where_there_is_one(
    fields: dict[str, Any], rate: str | None, due: int | None
) -> None:
    frame = wrapped(
        "btcusdt@markPrice@1s", e="markPriceUpdate", E=9, s="BTCUSDT", p="8.0", **fields
    )
    topic = "derivative.binance-usdm.BTC-USDT-PERP"
    assert feed(one(BinanceUsdm, "markPrice@1s"), frame) == [
        Derivative(topic, 0, 9000, 1, 0, "8.0", "8.10", rate, due, None)
    ]


def test_a_trade_that_was_not_on_the_book_is_counted_but_is_no_trade() -> None:
    reader = one(BinanceUsdm, "trade")
    assert len(feed(reader, trade(7, X="MARKET"))) == 1
    assert feed(reader, trade(8, X="ADL"), trade(9, X="INSURANCE_FUND")) == []
    assert len(feed(reader, trade(10, X="MARKET"))) == 1


ORDER = {
    "s": "BTCUSDT",
    "S": "SELL",
    "o": "LIMIT",
    "f": "IOC",
    "q": "0.0140",
    "p": "9910.00",
    "ap": "9912.5",
    "X": "FILLED",
    "l": "0.001",
    "z": "0.014",
    "T": 8,
}
LIQUIDATION = Liquidation(
    "liquidation.binance-usdm.BTC-USDT-PERP", 0, 8000, 1, 0, None, "9910.00", "0.0140", "sell"
)


def test_a_forced_order_has_its_own_side_price_and_size() -> None:
    frame = wrapped("btcusdt@forceOrder", e="forceOrder", E=9, o=ORDER)
    reader = one(BinanceUsdm, "forceOrder")
    assert feed(reader, frame) == [LIQUIDATION]
    (bought,) = feed(
        reader, wrapped("btcusdt@forceOrder", e="forceOrder", E=9, o={**ORDER, "S": "BUY"})
    )
    assert isinstance(bought, Liquidation) and bought.side == "buy"
    for bad in ({"S": "HOLD"}, {"s": "ETHUSDT"}, {"p": "-1"}, {"T": -1}):
        with pytest.raises(BadPayload):
            feed(reader, wrapped("btcusdt@forceOrder", e="forceOrder", o={**ORDER, **bad}))


def test_a_bare_forced_order_has_its_symbol_inside() -> None:
    bare = json.dumps({"e": "forceOrder", "E": 9, "o": ORDER})
    assert feed(one(BinanceUsdm, "forceOrder"), bare.encode()) == [LIQUIDATION]
    assert BinanceUsdmVenue().stream_of(line(bare)) == Stream("forceOrder", "BTCUSDT")
    for other in ("[]", "5", '"BTCUSDT"', "null", '{"s":5}'):
        with pytest.raises(BadPayload):
            feed(one(BinanceUsdm, "trade"), b'{"e":"forceOrder","o":%b}' % other.encode())


def test_the_forced_orders_of_all_symbols_are_left_out() -> None:
    frame = wrapped("!forceOrder@arr", e="forceOrder", E=9, o=ORDER)
    assert feed(one(BinanceUsdm, "forceOrder"), frame) == []


def test_an_inverse_ticker_counts_contracts_and_says_nothing_of_the_turnover() -> None:
    fields = {"c": "5", "o": "1", "h": "6", "l": "0.5", "v": "10", "q": "0.4"}
    frame = wrapped("btcusd_perp@ticker", e="24hrTicker", E=9, s="BTCUSD_PERP", **fields)
    assert feed(one(BinanceCoinm, "ticker", native="BTCUSD_PERP"), frame) == [
        Ticker("ticker.binance-coinm.BTC-USD:BTC-PERP", 0, 9000, 1, 0,
               "5", "1", "6", "0.5", "10", None, None, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b'{"data":%b,"stream":"btcusdt@trade"}', id="another order"),
        pytest.param(b' { "stream" : "btcusdt@trade" , "data" : %b } ', id="blanks"),
        pytest.param(b'{"stream":"\\u0062tcusdt@trade","data":%b}', id="escaped"),
        pytest.param(b'{"stream":"BTCUSDT@trade","data":%b}', id="upper case"),
        pytest.param(b"%b", id="bare"),
    ],
)
def test_frames_are_read_in_any_shape(frame: bytes) -> None:
    payload = json.dumps(json.loads(trade(7))["data"]).encode()
    (event,) = feed(one(Binance, "trade"), frame % payload)
    assert isinstance(event, Trade) and event.id == "7"


def test_a_bare_spot_quote_has_no_name_and_is_read() -> None:
    frame = b'{"u":2,"s":"BTCUSDT","b":"1.0","B":"2","a":"3","A":"4"}'
    assert len(feed(one(Binance, "bookTicker"), frame)) == 1


def test_answers_and_types_left_out_give_nothing() -> None:
    reader = one(Binance, "trade")
    assert feed(reader, b'{"result":null,"id":1}') == []
    assert feed(reader, wrapped("btcusdt@kline_1m", e="kline")) == []
    assert feed(reader, wrapped("btcusdt@ticker_1h", e="1hTicker")) == []
    assert feed(reader, wrapped("btcusdt@depth20@100ms", lastUpdateId=1)) == []
    assert feed(reader, b'{"stream":"!miniTicker@arr","data":[]}') == []
    assert feed(reader, b'{"e":"kline","s":"BTCUSDT"}') == []


@pytest.mark.parametrize(
    "frame",
    [
        wrapped("btcusdt@neverSeen", e="neverSeen"),
        wrapped("ethusdt@trade", e="trade"),
        b'{"e":"neverSeen","s":"BTCUSDT"}',
    ],
)
def test_types_and_streams_we_do_not_know_are_counted_as_bad(frame: bytes) -> None:
    with pytest.raises(BadPayload, match="is not a stream of this connection"):
        feed(one(Binance, "trade"), frame)


def test_an_error_answer_is_told() -> None:
    (refused,) = feed(one(Binance, "trade"), b'{"code":2,"msg":"Invalid request"}')
    assert refused == Refused((), "2 Invalid request")


def test_a_shutdown_notice_makes_us_leave() -> None:
    reader = one(Binance, "trade")
    assert feed(reader, b'{"e":"serverShutdown","E":5}') == [
        Leave("serverShutdown", serves_on=True)
    ]
    frame = b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":5}}'
    assert feed(reader, frame) == [Leave("serverShutdown", serves_on=True)]


BAD_NUMBERS: list[Any] = [
    "", ".", "-1", "+1", "1e", "NaN", "nan", "inf", "Infinity", " 1", "1 ", "1_0", "0x1",
    ".5", "5.", "1.2.3", "1,5", "٣", "1e400", None, 1, 1.5, [], {},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
def test_what_is_not_a_decimal_is_refused_and_nothing_has_changed(bad: Any) -> None:
    reader = one(Binance, "trade", "bookTicker", "ticker", "depth@100ms")
    feed(reader, trade(7), update(10, 12, bids=[bid(10)]))
    list(reader.fetched("depth:BTCUSDT", answer(11, [bid(7)], []), 2))
    best = {"u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "1", "A": "1"}
    frames = [
        trade(8, p=bad),
        trade(8, q=bad),
        *(wrapped("btcusdt@bookTicker", **{**best, side: bad}) for side in "bBaA"),
        update(13, 14, bids=[[bad, "1"]]),
        update(13, 14, bids=[bid(9), ["9.50", bad]]),
        update(13, 14, asks=[["99", "1"], [bad, "0"]]),
    ]
    for frame in frames:
        with pytest.raises(BadPayload):
            feed(reader, frame)
    (event,) = feed(reader, trade(8))
    assert isinstance(event, Trade)
    assert booked(feed(reader, update(13, 14, bids=[bid(9)]))) == [(False, [("9.00", "1")])]
    with pytest.raises(BadPayload):
        list(one(Binance, "depth").fetched("depth:BTCUSDT", answer(1, [[bad, "1"]], []), 2))


def test_an_exponent_is_written_out() -> None:
    reader = one(Binance, "trade", "depth@100ms")
    (sold,) = feed(reader, trade(8, p="1.50e1", q="2E-3"))
    assert isinstance(sold, Trade) and (sold.price, sold.size) == ("15.0", "0.002")
    feed(reader, update(10, 12))
    first = list(reader.fetched("depth:BTCUSDT", answer(12, [["1e1", "1"]], []), 2))
    assert booked(first) == [(True, [("10", "1")])]
    assert booked(feed(reader, update(13, 13, bids=[["9", "1e-1"]]))) == [(False, [("9", "0.1")])]
    with pytest.raises(BadPayload):
        feed(reader, update(14, 14, bids=[["9", "1e400"]]))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"garbage", id="garbage"),
        pytest.param(b"\x00\xff\xfe\x80", id="binary"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="an empty object"),
        pytest.param(trade(8)[:-20], id="cut off"),
        pytest.param(trade(8) + b"x", id="more behind it"),
        pytest.param(b"[" * 100_000, id="deep nesting"),
        pytest.param(b'{"stream":"btcusdt@trade","data":' + b"[" * 100_000, id="deep data"),
        pytest.param(b'{"stream":"btcusdt@trade"}', id="no data"),
        pytest.param(trade(8, s="ETHUSDT"), id="another symbol"),
        pytest.param(trade(8, T=10**17), id="a time beyond 2^53 µs"),
        pytest.param(trade(8, T=-1), id="a time before 1970"),
        pytest.param(trade(-1), id="a negative id"),
        pytest.param(trade(8).replace(b'"T":5', b'"T":1e400'), id="an endless time"),
        pytest.param(trade(8).replace(b'"61837', b'"\xff1837'), id="bad UTF-8"),
        pytest.param(update(15, 14), id="ids that go back"),
    ],
)
def test_frames_that_cannot_be_understood_cost_one_frame(frame: bytes) -> None:
    reader = one(Binance, "trade", "depth@100ms")
    feed(reader, trade(7))
    with pytest.raises(BadPayload):
        feed(reader, frame)
    assert len(feed(reader, trade(8))) == 1


def test_a_futures_update_without_its_predecessor_is_refused() -> None:
    frame = update(13, 14).replace(b',"pu":0', b"")
    with pytest.raises(BadPayload):
        feed(one(BinanceUsdm, "depth@100ms"), frame)


def test_the_first_update_of_a_new_contract_has_no_predecessor() -> None:
    reader = one(BinanceUsdm, "depth@100ms")
    assert feed(reader, update(7, 7, previous=-1, bids=[bid(7)])) == [USDM_FETCH]
    back = list(reader.fetched("depth:BTCUSDT", answer(7, [bid(7)], []), 2))
    assert booked(back) == [(True, [("7.00", "1")])]
    assert booked(feed(reader, update(9, 9, previous=7, bids=[bid(9)])))


def test_a_time_far_ahead_does_not_stop_the_depth_events() -> None:
    reader = one(Binance, "trade", "depth@100ms")
    feed(reader, update(1, 1, at=1_000_000))
    list(reader.fetched("depth:BTCUSDT", answer(1, [bid(1)], []), 2))
    feed(reader, trade(7, T=9_000_000_000_000))
    after = [
        output
        for number in range(2, 12)
        for output in feed(
            reader, update(number, number, at=1_000_000 + 150 * number, bids=[bid(number)])
        )
    ]
    assert len(only(Depth, after)) == 10


def mutations() -> st.SearchStrategy[bytes]:
    tapes = [
        Tape(Binance, SPOT / "session.jsonl").frames,
        Tape(BinanceUsdm, USDM / "session.jsonl").frames[:40],
    ]
    frames = st.sampled_from([frame for tape in tapes for frame in tape])
    pieces = st.sampled_from(
        [b'"', b"{", b"]", b"-", b"e9", b"null", b"9" * 30, b"\xff", b",", b""]
    )

    def mutate(frame: bytes, start: float, length: int, piece: bytes) -> bytes:
        at = int(start * len(frame))
        return frame[:at] + piece + frame[at + length :]

    return st.builds(mutate, frames, st.floats(0, 1), st.integers(0, 40), pieces)


@pytest.mark.parametrize("cls", [Binance, BinanceUsdm])
@given(changed=st.lists(mutations() | st.binary(max_size=80), max_size=8))
@example(changed=[b'{"stream":"busdtry@depth@100ms","data":{}}'])
def test_mutated_frames_give_events_or_bad_payload_and_nothing_else(
    cls: AnyBinance, changed: list[bytes]
) -> None:
    channels = ("trade", "aggTrade", "bookTicker", "depth@100ms")
    natives = ("BUSDTRY", "SWRVBUSD", "DENTUSDT")
    reader = adapter(cls, [Stream(c, native) for c in channels for native in natives])
    for native in natives:
        book = {"e": "depthUpdate", "E": 1, "s": native, "U": 1, "u": 1, "pu": 0, "b": [], "a": []}
        feed(reader, wrapped(f"{native.lower()}@depth@100ms", **book))
        list(reader.fetched(f"depth:{native}", answer(1, [["1", "1"]], []), 1))
    for frame in changed:
        try:
            outputs = list(reader.parse(frame, 1))
        except BadPayload:
            continue
        for event in only(Trade, outputs):
            assert float(event.price) >= 0 and float(event.size) >= 0


def test_live_streams_are_those_of_the_kinds_asked_for() -> None:
    spot, future = Binance.instrument("BTCUSDT"), BinanceUsdm.instrument("BTCUSDT")
    assert spot is not None and future is not None
    kinds = {"trade", "quote", "book", "depth", "ticker", "derivative", "liquidation"}
    assert {s.channel for s in Binance.streams(spot, kinds)} == {
        "trade", "bookTicker", "depth@100ms", "ticker",
    }  # fmt: skip
    assert {s.channel for s in BinanceUsdm.streams(future, kinds)} == {
        "aggTrade", "bookTicker", "depth@100ms", "ticker", "markPrice@1s", "forceOrder",
    }  # fmt: skip
    assert Binance.streams(spot, {"depth"}) == [Stream("depth@100ms", "BTCUSDT")]


def named(cls: AnyBinance, *natives: str) -> dict[str, Instrument]:
    found = {native: cls.instrument(native) for native in natives}
    return {native: instrument for native, instrument in found.items() if instrument is not None}


def test_futures_streams_go_where_the_exchange_serves_them() -> None:
    instruments = named(BinanceUsdm, "BTCUSDT")
    streams = BinanceUsdm.streams(instruments["BTCUSDT"], BinanceUsdm.kinds)
    plans = BinanceUsdm.plan(streams, instruments)
    assert {plan.path for plan in plans} == {
        "/public/stream?streams=btcusdt@depth@100ms/btcusdt@bookTicker",
        "/market/stream?streams=btcusdt@markPrice@1s/btcusdt@forceOrder/btcusdt@ticker"
        "/btcusdt@aggTrade",
    }


def test_coin_m_streams_all_go_one_way() -> None:
    instruments = named(BinanceCoinm, "BTCUSD_PERP")
    streams = BinanceCoinm.streams(instruments["BTCUSD_PERP"], BinanceCoinm.kinds)
    (plan,) = BinanceCoinm.plan(streams, instruments)
    assert plan.path.startswith("/stream?streams=btcusd_perp@depth@100ms/")
    assert len(plan.streams) == 6


def test_a_plan_has_every_stream_once_and_no_connection_too_many() -> None:
    natives = [f"A{number}USDT" for number in range(123)]
    instruments = named(Binance, *natives)
    streams = [s for one in instruments.values() for s in Binance.streams(one, Binance.kinds)]
    plans = Binance.plan(streams, instruments)
    assert [stream for plan in plans for stream in plan.streams] == streams
    for plan in plans:
        assert len(plan.streams) <= Binance.limits.streams_per_connection
        assert plan.instruments.keys() == {stream.native for stream in plan.streams}
        venue = BinanceVenue()
        assert venue.connected(plan.path).streams == plan.streams


def test_a_symbol_in_another_script_is_escaped_in_the_url_and_in_the_topic() -> None:
    instrument = Binance.instrument("币安USDT")
    assert instrument is not None and instrument.symbol == "_5E01__5B89_-USDT"
    (plan,) = Binance.plan([Stream("depth@100ms", "币安USDT")], {"币安USDT": instrument})
    assert plan.path.isascii()
    assert BinanceVenue().connected(plan.path).streams == plan.streams
    reader = Binance(plan, Binance.kinds)
    book = {"e": "depthUpdate", "E": 1, "s": "币安USDT", "U": 1, "u": 1, "b": [], "a": []}
    frame = json.dumps({"stream": "币安usdt@depth@100ms", "data": book}, ensure_ascii=False)
    (fetch,) = reader.parse(frame.encode(), 1)
    assert isinstance(fetch, Fetch) and fetch.path.isascii()
    assert BinanceVenue().rest_key(fetch.path) == "depth:币安USDT" == fetch.key


def test_what_is_carried_follows_from_the_streams() -> None:
    instrument = Binance.instrument("BTCUSDT")
    assert instrument is not None
    streams = [Stream("depth@0ms", "BTCUSDT"), Stream("kline_1m", "BTCUSDT")]
    topics, levels = Binance.carried(streams, instrument, {"book", "trade", "depth"})
    assert (topics, levels) == ((BOOK, "depth.binance.BTC-USDT"), 1000)
    assert Binance.carried(streams, instrument, {"depth"}) == (("depth.binance.BTC-USDT",), None)


def test_only_kinds_wanted_are_made() -> None:
    reader = adapter(
        Binance, [Stream("trade", "BTCUSDT"), Stream("depth", "BTCUSDT")], kinds=("depth",)
    )
    feed(reader, trade(1), update(1, 1, bids=[bid(1)]))
    outputs = list(reader.fetched("depth:BTCUSDT", answer(1, [bid(7)], []), 2))
    assert [type(output) for output in outputs] == [Depth]


SPOT_LISTING = b"""{"timezone":"UTC","serverTime":1,"symbols":[
 {"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","filters":[
  {"filterType":"PRICE_FILTER","minPrice":"0.01000000","tickSize":"0.01000000"},
  {"filterType":"LOT_SIZE","minQty":"0.00001000","stepSize":"0.00001000"}]},
 {"symbol":"BCCBTC","status":"BREAK","baseAsset":"BCC","quoteAsset":"BTC","filters":[]}]}"""
USDM_LISTING = b"""{"symbols":[
 {"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","marginAsset":"USDT",
  "contractType":"PERPETUAL","deliveryDate":4133404800000,"filters":[
  {"filterType":"PRICE_FILTER","tickSize":"0.10"},{"filterType":"LOT_SIZE","stepSize":"0.001"}]},
 {"symbol":"BTCUSDT_260327","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT",
  "marginAsset":"USDT","contractType":"CURRENT_QUARTER","deliveryDate":1774598400000,"filters":[]},
 {"symbol":"NEWUSDT","status":"PENDING_TRADING","baseAsset":"NEW","quoteAsset":"USDT",
  "marginAsset":"USDC","contractType":"","deliveryDate":4133404800000,"filters":[]}]}"""


def test_the_spot_listing_is_read_whole() -> None:
    traded, broken = Binance.instruments([SPOT_LISTING])
    assert traded == Instrument(
        exchange="binance",
        symbol="BTC-USDT",
        native="BTCUSDT",
        type="spot",
        base="BTC",
        quote="USDT",
        price_step="0.01000000",
        size_step="0.00001000",
    )
    assert (broken.symbol, broken.state) == ("BCC-BTC", "break")


def test_the_futures_listing_is_read_whole() -> None:
    perpetual, dated, coming = BinanceUsdm.instruments([USDM_LISTING])
    assert (perpetual.symbol, perpetual.type, perpetual.expiry) == (
        "BTC-USDT-PERP",
        "perpetual",
        None,
    )
    assert (dated.symbol, dated.type) == ("BTC-USDT-20260327", "future")
    assert dated.expiry == 1774598400000000
    assert (coming.symbol, coming.state) == ("NEW-USDT:USDC-PERP", "pending_trading")
    # The symbol alone says the same: delivery is at 08:00 UTC.
    alone = BinanceUsdm.instrument("BTCUSDT_260327")
    assert alone is not None and alone.expiry == dated.expiry and alone.symbol == dated.symbol


COINM_LISTING = b"""{"symbols":[
 {"symbol":"BTCUSD_PERP","pair":"BTCUSD","contractType":"PERPETUAL","deliveryDate":4133404800000,
  "contractStatus":"TRADING","contractSize":100,"marginAsset":"BTC","baseAsset":"BTC",
  "quoteAsset":"USD","filters":[{"filterType":"PRICE_FILTER","tickSize":"0.1"},
  {"filterType":"LOT_SIZE","stepSize":"1"}]},
 {"symbol":"BNBUSD_260327","pair":"BNBUSD","contractType":"CURRENT_QUARTER",
  "deliveryDate":1774598400000,"contractStatus":"PENDING_TRADING","contractSize":10,
  "marginAsset":"BNB","baseAsset":"BNB","quoteAsset":"USD","filters":[]}]}"""


def test_the_listing_of_inverse_contracts_is_read_whole() -> None:
    perpetual, dated = BinanceCoinm.instruments([COINM_LISTING])
    assert perpetual == Instrument(
        exchange="binance-coinm",
        symbol="BTC-USD:BTC-PERP",
        native="BTCUSD_PERP",
        type="perpetual",
        base="BTC",
        quote="USD",
        settle="BTC",
        inverse=True,
        size_unit="contract",
        contract_size="100",
        contract_currency="USD",
        price_step="0.1",
        size_step="1",
    )
    assert (dated.symbol, dated.type) == ("BNB-USD:BNB-20260327", "future")
    assert (dated.contract_size, dated.expiry) == ("10", 1774598400000000)
    assert dated.state == "pending_trading"


@pytest.mark.parametrize(
    "listed", BinanceCoinm.instruments([COINM_LISTING]), ids=lambda i: i.native
)
def test_an_inverse_symbol_alone_says_what_the_listing_says(listed: Instrument) -> None:
    alone = BinanceCoinm.instrument(listed.native)
    assert alone is not None
    assert (alone.symbol, alone.expiry, alone.contract_size) == (
        listed.symbol,
        listed.expiry,
        listed.contract_size,
    )
    assert (alone.inverse, alone.size_unit, alone.settle) == (True, "contract", listed.base)


@pytest.mark.parametrize(
    "native", ["BTCUSDT", "BTCUSD", "USD_PERP", "BTCUSD_269999", "BTCUSDT_260327"]
)
def test_what_is_no_inverse_contract_has_no_name_there(native: str) -> None:
    assert BinanceCoinm.instrument(native) is None


def test_binance_us_asks_for_the_trades_whose_past_is_given_without_a_key() -> None:
    instrument = BinanceUs.instrument("BTCUSD")
    assert instrument is not None and instrument.symbol == "BTC-USD"
    assert BinanceUs.streams(instrument, {"trade"}) == [Stream("aggTrade", "BTCUSD")]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"symbols":[{"symbol":1}]}', b"[" * 100_000])
def test_what_is_no_listing_is_refused(body: bytes) -> None:
    with pytest.raises(BadPayload):
        Binance.instruments([body])


@pytest.mark.parametrize(
    ("native", "symbol"),
    [
        ("BTCUSDT", "BTC-USDT"),
        ("BUSDTRY", "BUSD-TRY"),
        ("SWRVBUSD", "SWRV-BUSD"),
        ("AAVEUPUSDT", "AAVEUP-USDT"),
        ("ETHBTC", "ETH-BTC"),
        ("RUNEEUR", "RUNE-EUR"),
        ("1000SATSFDUSD", "1000SATS-FDUSD"),
    ],
)
def test_symbols_are_taken_apart_by_their_quote_asset(native: str, symbol: str) -> None:
    instrument = Binance.instrument(native)
    assert instrument is not None and instrument.symbol == symbol


def test_a_symbol_that_cannot_be_taken_apart_has_no_name() -> None:
    assert Binance.instrument("USDT") is None
    assert Binance.instrument("SOMETHING") is None
    assert BinanceUsdm.instrument("BTCUSDT_269999") is None


def test_the_venue_reads_urls_and_requests() -> None:
    venue = BinanceVenue()
    wanted = (Stream("trade", "BTCUSDT"), Stream("depth@100ms", "ETHUSDT"))
    for path in (
        "/stream?streams=btcusdt@trade/ethusdt@depth@100ms",
        "/ws/btcusdt@trade/ethusdt@depth@100ms",
        "/public/stream?streams=btcusdt%40trade/ethusdt@depth@100ms",
        "/market/ws/btcusdt@trade/ethusdt@depth@100ms",
    ):
        assert venue.connected(path).streams == wanted
    assert venue.connected("/ws").streams == ()
    request = '{"method":"%s","params":["btcusdt@trade","ethusdt@depth@100ms"],"id":3}'
    ack = venue.request("/ws", request % "SUBSCRIBE")
    assert (ack.streams, ack.frames, ack.unsubscribe) == (
        wanted,
        ('{"result":null,"id":3}',),
        False,
    )
    assert venue.request("/ws", request % "UNSUBSCRIBE").unsubscribe
    for wrong in ("", "{}", '{"method":"FLY","id":1}', "[" * 100_000):
        (frame,) = venue.request("/ws", wrong).frames
        assert "error" in json.loads(frame)


def test_the_venue_knows_what_a_recorded_body_is() -> None:
    for url in (
        "https://www.binance.com/api/v1/depth?symbol=BTCUSDT&limit=1000",
        "/fapi/v1/depth?limit=5&symbol=BTCUSDT",
    ):
        assert BinanceUsdmVenue().rest_key(url) == "depth:BTCUSDT"
    assert BinanceVenue().rest_key("/api/v3/exchangeInfo") == "listing"
    assert BinanceVenue().rest_key("/api/v3/time") is None
    venue = BinanceVenue()
    body = line('{"lastUpdateId":1,"bids":[],"asks":[]}', "rest")
    assert venue.rest_key_of(body) is None
    venue.scan(line(update(1, 1).decode()))
    assert venue.rest_key_of(body) == "depth:BTCUSDT"
    venue.scan(line('{"stream":"ethusdt@depth","data":{}}'))
    assert venue.rest_key_of(body) is None  # of which of the two?


def test_the_venue_tells_data_from_the_rest() -> None:
    venue = BinanceVenue()
    assert venue.stream_of(line(trade(1).decode())) == Stream("trade", "BTCUSDT")
    bare = '{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":1,"u":1,"b":[],"a":[]}'
    assert venue.stream_of(line(bare)) == Stream("depth", "BTCUSDT")
    for other in ('{"result":null,"id":1}', "garbage", '{"stream":"!bookTicker","data":{}}'):
        assert venue.stream_of(line(other)) is None
    assert venue.is_broadcast(line('{"stream":"!serverShutdown","data":{"e":"serverShutdown"}}'))
    assert not venue.is_broadcast(line(trade(1).decode()))


def test_a_plan_without_streams_of_ours_carries_nothing() -> None:
    plan = Plan("/stream", (Stream("kline_1m", "BTCUSDT"),), named(Binance, "BTCUSDT"))
    reader = Binance(plan, Binance.kinds)
    assert reader.opened() == ()
    assert feed(reader, wrapped("btcusdt@kline_1m", e="kline")) == []


def test_an_exchange_clock_that_is_wrong_orders_nothing() -> None:
    """Ahead by an hour, then behind by one: trades pass as they come, with the times they have."""
    reader = one(Binance, "trade")
    hour = 3_600_000
    times = [5 * hour, 6 * hour, 6 * hour + 1, 4 * hour, 4 * hour + 1]
    frames = [trade(n, T=at) for n, at in enumerate(times, 1)]
    passed = only(Trade, feed(reader, *frames))
    assert [(one_.id, one_.ts) for one_ in passed] == [
        (str(n), at * 1_000) for n, at in enumerate(times, 1)
    ]


@pytest.mark.parametrize(
    ("raw", "owner"),
    [
        ('{"stream":"btcusd_perp@depth@0ms","data":{"e":"depthUpdate","pu":1}}', "binance-coinm"),
        ('{"stream":"bnbusd_260327@aggTrade","data":{"s":"BNBUSD_260327"}}', "binance-coinm"),
        ('{"e":"forceOrder","o":{"s":"ETHUSD_PERP"}}', "binance-coinm"),
        ('{"stream":"btcusdt_260327@depth","data":{"e":"depthUpdate","pu":1}}', "binance-usdm"),
        ('{"stream":"btcbusd_210129@depth","data":{"e":"depthUpdate","pu":1}}', "binance-usdm"),
        ('{"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":1}}', "binance-usdm"),
        ('{"stream":"btcusdt@trade","data":{"e":"trade","t":1}}', "binance"),
    ],
)
def test_a_tape_without_urls_is_told_by_its_frames(raw: str, owner: str) -> None:
    assert registry.exchanges_of([TapeLine(dir="rest", raw="{}"), line(raw)]) == [owner]


@pytest.mark.parametrize(
    ("url", "owner"),
    [
        ("wss://dstream.binance.com/stream?streams=btcusd_perp@trade", "binance-coinm"),
        ("https://dapi.binance.com/dapi/v1/depth?symbol=BTCUSD_PERP", "binance-coinm"),
        ("wss://stream.binance.us:9443/stream?streams=btcusdt@trade", "binance-us"),
        ("https://api.binance.us/api/v3/depth?symbol=BTCUSDT", "binance-us"),
        ("https://api.binance.com/api/v3/depth?symbol=BTCUSDT", "binance"),
        ("/api/v3/depth?symbol=BTCUSDT", "binance"),
        ("https://fapi.binance.com/fapi/v1/depth?symbol=BTCUSDT", "binance-usdm"),
    ],
)
def test_a_tape_with_urls_is_told_by_them(url: str, owner: str) -> None:
    assert registry.exchanges_of([TapeLine(dir="rest", url=url, raw="{}")]) == [owner]
