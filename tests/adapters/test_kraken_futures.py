"""Kraken Futures: numbers, the bridge of past trades, refusals; ``payloads/kraken-futures``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.base import (
    Adapter,
    Checkpoint,
    Health,
    Mark,
    Output,
    Refused,
    Resumed,
    Send,
    Stream,
    TapeLine,
)
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.kraken_futures.adapter import PRODUCTS_PER_FRAME, KrakenFutures
from adapters.exchanges.kraken_futures.venue import KrakenFuturesVenue
from feed.errors import BadPayload
from feed.models import Book, Depth, Derivative, Gap, Quote, Ticker, Trade
from tests.adapters.playing import played
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

SESSION = PAYLOADS / "kraken-futures" / "session.jsonl"
BOOK = Stream("book", "PF_XBTUSD")
TRADE = Stream("trade", "PF_XBTUSD")
TICKER = Stream("ticker", "PF_XBTUSD")
NAME = "kraken-futures.BTC-USD-PERP"
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("kraken-futures")]
)


def session(path: Path = SESSION) -> Session:
    return Session(KrakenFutures, KrakenFuturesVenue(), path)


def reader_of(*streams: Stream) -> Adapter:
    return adapter(KrakenFutures, streams or [BOOK, TRADE, TICKER])


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def start(seq: int = 10, native: str = "PF_XBTUSD") -> bytes:
    return (
        f'{{"feed":"book_snapshot","product_id":"{native}","timestamp":1786310400290,"seq":{seq},'
        '"tickSize":null,"bids":[{"price":100.0,"qty":1.50}],"asks":[{"price":101.0,"qty":2.0}]}'
    ).encode()


def delta(
    seq: int, price: str = "99.0", qty: str = "1.0", side: str = "buy", native: str = "PF_XBTUSD"
) -> bytes:
    return (
        f'{{"feed":"book","product_id":"{native}","side":"{side}","seq":{seq},"price":{price},'
        f'"qty":{qty},"timestamp":1786310400300}}'
    ).encode()


def fill(seq: int, price: str = "100.0", qty: str = "1.0", type_: str = "fill") -> bytes:
    return (
        f'{{"feed":"trade","product_id":"PF_XBTUSD","uid":"u{seq}","side":"sell","type":"{type_}",'
        f'"seq":{seq},"time":1786310400300,"qty":{qty},"price":{price}}}'
    ).encode()


def past(*numbers: int) -> bytes:
    fills = ",".join(fill(one).decode() for one in sorted(numbers, reverse=True))
    return f'{{"feed":"trade_snapshot","product_id":"PF_XBTUSD","trades":[{fills}]}}'.encode()


def ticker(native: str = "PF_XBTUSD", **fields: str) -> bytes:
    values = "".join(f',"{name}":{value}' for name, value in fields.items())
    return f'{{"time":1786310400300,"product_id":"{native}","feed":"ticker"{values}}}'.encode()


def reply(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def ids(outputs: Sequence[Output]) -> list[str | None]:
    return [one.id for one in only(Trade, outputs)]


@recordings
def test_books_are_the_exchange_s_books_and_numbers_are_consecutive(path: Path) -> None:
    recording = session(path)
    naive: dict[str, Sides] = {}
    last: dict[str, int] = {}
    for message in recording.payloads():
        feed, product = message.get("feed"), message.get("product_id", "")
        if feed == "book_snapshot":
            naive[product] = ({}, {})
            given = [[(one["price"], one["qty"]) for one in message[s]] for s in ("bids", "asks")]
        elif feed == "book" and product:
            assert int(message["seq"]) == last[product] + 1
            level = [(message["price"], message["qty"])]
            given = [level, []] if message["side"] == "buy" else [[], level]
        else:
            continue
        last[product] = int(message["seq"])
        apply(naive[product], *given)
    instruments = recording.adapter().plan_.instruments
    assert len(naive) >= 3
    assert clients_books(recording.run().outputs) == {
        f"book.kraken-futures.{instruments[product].symbol}": sides
        for product, sides in naive.items()
    }


@recordings
def test_every_live_trade_is_there_digit_for_digit(path: Path) -> None:
    recording = session(path)
    sent = [
        (one["uid"], one["price"], one["qty"], one["side"], int(one["time"]) * 1_000)
        for one in recording.payloads()
        if one.get("feed") == "trade" and "uid" in one
    ]
    trades = only(Trade, recording.run().outputs)
    assert sent
    assert [(t.id, t.price, t.size, t.side, t.ts) for t in trades] == sent


def test_tickers_are_read_digit_for_digit_and_repeated_ones_left_out() -> None:
    day_keys = ("last", "open", "high", "low", "volume", "volumeQuote", "bid", "ask")
    keys = ("markPrice", "index", "openInterest")
    days: dict[str, list[tuple[str, ...]]] = {}
    derived: dict[str, list[tuple[str, ...]]] = {}
    recording = session()
    for one in recording.payloads():
        if one.get("feed") != "ticker" or "time" not in one:
            continue
        for found, names in ((days, day_keys), (derived, keys)):
            values = tuple(one[name] for name in names)
            seen = found.setdefault(one["product_id"], [])
            seen += [values] if not seen or seen[-1] != values else []
    outputs = recording.run().outputs
    instruments = recording.adapter().plan_.instruments
    for product, expected in days.items():
        name = f"kraken-futures.{instruments[product].symbol}"
        tickers = [one for one in only(Ticker, outputs) if one.topic == f"ticker.{name}"]
        assert [
            (t.last, t.open, t.high, t.low, t.volume, t.quote_volume, t.bid, t.ask) for t in tickers
        ] == expected
        states = [one for one in only(Derivative, outputs) if one.topic == f"derivative.{name}"]
        assert [(d.mark, d.index, d.open_interest) for d in states] == derived[product]
        assert all((d.funding_rate is None) == product.startswith("FF") for d in states)


def test_funding_is_the_relative_rate_written_out() -> None:
    given = ticker(
        funding_rate="-6.2604214e-11",
        relative_funding_rate="-1.380384722222e-6",
        next_funding_rate_time="1676394000000",
        markPrice="21979.68641534714",
        index="21984.54",
        openInterest="30072580.0",
        last="0",
    )
    assert parse(reader_of(), [given, given]) == [
        Derivative(
            *(f"derivative.{NAME}", 0, 1786310400300000, 0, 0, "21979.68641534714", "21984.54"),
            *("-0.000001380384722222", 1676394000000000, "30072580.0"),
        )
    ]


def test_a_product_that_was_never_traded_has_no_prices_and_no_ticker() -> None:
    given = ticker(bid="0", ask="0", last="0", volume="0", markPrice="1.3336", index="1.3336")
    (state,) = parse(reader_of(), [given])
    assert isinstance(state, Derivative)
    assert (state.mark, state.funding_rate, state.funding_time) == ("1.3336", None, None)


def test_a_broken_number_makes_that_book_alone_invalid_until_a_snapshot() -> None:
    other = Stream("book", "PI_XBTUSD")
    reader = reader_of(BOOK, other)
    parse(reader, [start(), start(5, "PI_XBTUSD"), delta(11)])
    broken = parse(reader, [delta(13)])
    assert broken[:2] == [
        Health("PF_XBTUSD", ("book", "depth", "quote"), "invalid", "sequence"),
        Gap(f"book.{NAME}", 0, None, 0, 0, "upstream_sequence", None),
    ]
    requests = [json.loads(one.frame) for one in only(Send, broken)]
    assert requests == [
        {"event": event, "feed": "book", "product_ids": ["PF_XBTUSD"]}
        for event in ("unsubscribe", "subscribe")
    ]
    assert parse(reader, [delta(14)], 1) == []
    assert only(Book, parse(reader, [delta(6, native="PI_XBTUSD")], 1))
    assert len(only(Send, parse(reader, [delta(15)], RESUBSCRIBE_US))) == 2
    fresh = parse(reader, [start(20)], RESUBSCRIBE_US + 1)
    assert [type(one) for one in fresh[:4]] == [Book, Checkpoint, Depth, Quote]
    assert only(Book, fresh)[0].snapshot
    assert fresh[-1] == Health("PF_XBTUSD", ("book", "depth", "quote"), "live", None)
    assert only(Book, parse(reader, [delta(21)], RESUBSCRIBE_US + 2))


def test_a_snapshot_starts_the_book_afresh_whatever_its_number() -> None:
    outputs = parse(reader_of(), [start(), delta(11), start(3), delta(4, qty="7.0")])
    assert [one.snapshot for one in only(Book, outputs)] == [True, False, True, False]
    assert list(clients_books(outputs).values()) == [
        ({"100.0": "1.50", "99.0": "7.0"}, {"101.0": "2.0"})
    ]


def test_a_crossed_book_is_not_shown() -> None:
    outputs = parse(reader_of(), [start(), delta(11, "101.0")])
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    assert len(only(Book, outputs)) == 1


def test_a_level_of_zero_in_any_spelling_is_gone() -> None:
    outputs = parse(reader_of(), [start(), delta(11), delta(12, qty="0.0")])
    assert only(Book, outputs)[-1].bids == [("99.0", "0")]


def test_a_heartbeat_lets_waiting_depth_go() -> None:
    reader = reader_of()
    parse(reader, [start(), delta(11)])
    beat = b'{"feed":"heartbeat","time":1786310400310}'
    assert [type(one) for one in parse(reader, [beat, beat])] == [Depth]


def test_a_skipped_trade_is_a_gap_and_a_repeated_one_is_dropped() -> None:
    outputs = parse(reader_of(), [fill(5), fill(5), fill(6), fill(4), fill(10)])
    assert ids(outputs) == ["u5", "u6", "u10"]
    assert only(Gap, outputs) == [Gap(f"trade.{NAME}", 0, None, 0, 0, "upstream_sequence", 3)]


def test_trades_of_before_we_came_are_old_but_what_follows_counts_from_them() -> None:
    outputs = parse(reader_of(), [past(3, 4, 5), fill(7)])
    assert ids(outputs) == ["u7"]
    assert [one.lost for one in only(Gap, outputs)] == [1]


def test_trades_that_were_missed_come_with_the_next_subscription() -> None:
    reader = reader_of()
    parse(reader, [past(3, 4), fill(5)])
    (_, again) = only(Send, reader.resync([TRADE], 0))
    assert json.loads(again.frame)["feed"] == "trade"
    outputs = parse(reader, [past(4, 5, 6, 7), fill(8)])
    assert ids(outputs) == ["u6", "u7", "u8"]
    assert only(Gap, outputs) == []


def test_a_lost_connection_is_bridged_by_the_last_trades() -> None:
    before = reader_of()
    parse(before, [past(3, 4), fill(5)])
    assert before.marks() == {"PF_XBTUSD": Mark(5)}
    bridged = reader_of()
    bridged.resume("PF_XBTUSD", Mark(5))
    outputs = parse(bridged, [past(4, 5, 6), fill(6), fill(7)])
    assert outputs[0] == Resumed("PF_XBTUSD", Mark(5), 6)
    assert ids(outputs) == ["u6", "u7"]
    quiet = reader_of()
    quiet.resume("PF_XBTUSD", Mark(5))
    assert parse(quiet, [past(4, 5)]) == [Resumed("PF_XBTUSD", Mark(5), 6)]
    assert quiet.marks() == {"PF_XBTUSD": Mark(5)}
    torn = reader_of()
    torn.resume("PF_XBTUSD", Mark(5))
    assert parse(torn, [past(9, 10)])[0] == Resumed("PF_XBTUSD", Mark(5), 9)


async def test_a_connection_that_breaks_costs_no_trade() -> None:
    recording = session()
    expected = ids(recording.run().outputs)
    books = clients_books(recording.run().outputs)

    sink = await played(
        KrakenFutures,
        SESSION,
        ["close:after=150:times=2"],
        lambda sink: len(sink.of(Trade)) >= len(expected) and clients_books(sink.events) == books,
    )
    assert sorted(map(str, ids(sink.events))) == sorted(map(str, expected))
    lost = [one.lost for one in sink.of(Gap) if one.topic.startswith("trade.")]
    assert lost and set(lost) == {0}


def test_a_resubscription_touches_one_channel_of_one_product() -> None:
    sends = only(Send, reader_of().resync([TICKER, BOOK], 0))
    assert [json.loads(one.frame) for one in sends] == [
        {"event": event, "feed": feed, "product_ids": ["PF_XBTUSD"]}
        for feed in ("ticker", "book")
        for event in ("unsubscribe", "subscribe")
    ]


def test_products_are_spread_over_requests_and_the_heartbeat_is_asked_for_once() -> None:
    natives = [f"PF_A{number}USD" for number in range(PRODUCTS_PER_FRAME + 1)]
    reader = reader_of(*(Stream("trade", native) for native in natives))
    requests = [json.loads(one.frame) for one in only(Send, reader.opened())]
    assert [len(one.get("product_ids", [])) for one in requests] == [0, PRODUCTS_PER_FRAME, 1]
    assert requests[0] == {"event": "subscribe", "feed": "heartbeat"}


def test_a_refused_product_costs_itself_alone() -> None:
    streams = [Stream("trade", native) for native in ("PF_XBTUSD", "PF_NONEUSD")]
    reader = reader_of(TICKER, *streams)
    reader.opened()
    parse(reader, [reply(event="subscribed", feed="ticker", product_ids=["PF_XBTUSD"])])
    singles = only(Send, parse(reader, [reply(event="error", message="Invalid product id")]))
    assert [json.loads(one.frame)["product_ids"] for one in singles] == [
        [one.native] for one in streams
    ]
    outputs = parse(
        reader,
        [
            reply(event="subscribed", feed="trade", product_ids=["PF_XBTUSD"]),
            reply(event="error", message="Invalid product id"),
        ],
    )
    assert outputs == [Refused((streams[1],), "Invalid product id")]


def test_a_failed_subscription_that_is_named_is_refused() -> None:
    reader = reader_of()
    reader.opened()
    failed = reply(event="subscribed_failed", feed="trade", product_ids=["PF_XBTUSD"])
    assert parse(reader, [failed]) == [Refused((TRADE,), "subscribed_failed")]


def test_replies_that_say_nothing_new_are_silent() -> None:
    reader = reader_of()
    assert (reader.limits.ping_every_s, reader.ping()) == (30, '{"event":"ping"}')
    silent = [
        reply(event="info", version=1),
        reply(event="pong"),
        reply(event="subscribed", feed="heartbeat"),
        reply(event="unsubscribed", feed="book", product_ids=["PF_XBTUSD"]),
        reply(event="alert", message="Already subscribed to feed, re-requesting"),
        reply(event="error", message="Invalid feed"),
        b'{"feed":"ticker_lite","product_id":"PF_XBTUSD","bid":439.3,"ask":439.6}',
    ]
    assert parse(reader, silent) == []


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(delta(11).replace(b"PF_XBTUSD", b"PF_ETHUSD"), id="product-not-carried"),
        pytest.param(delta(11, qty='"1.0"'), id="text"),
        pytest.param(delta(11, qty="-1.0"), id="negative"),
        pytest.param(delta(11, side="both"), id="side"),
        pytest.param(delta(-1), id="number"),
        pytest.param(delta(11).replace(b"1786310400300", b"99999999999999999"), id="time"),
        pytest.param(past(5).replace(b'"price":100.0', b'"price":null'), id="old-trade"),
        pytest.param(b'{"feed":"open_orders"}', id="unknown-feed"),
        pytest.param(b'{"event":"surprise"}', id="unknown-event"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused_and_changes_nothing(bad: bytes) -> None:
    reader = reader_of()
    parse(reader, [start()])
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    assert not list(reader.unread(bad, 0)), "numbers will show what was lost"
    assert only(Gap, parse(reader, [delta(11)])) == []


@pytest.mark.parametrize(
    ("native", "symbol", "settle", "inverse", "unit"),
    [
        ("PI_XBTUSD", "BTC-USD:BTC-PERP", "BTC", True, "quote"),
        ("PF_XBTUSD", "BTC-USD-PERP", "USD", False, "base"),
        ("PF_XDGUSD", "DOGE-USD-PERP", "USD", False, "base"),
        ("PF_AAPLxUSD", "AAPL_78_-USD-PERP", "USD", False, "base"),
        ("PF_USDTUSD", "USDT-USD-PERP", "USD", False, "base"),
        ("FI_ETHUSD_211231", "ETH-USD:ETH-20211231", "ETH", True, "quote"),
        ("FF_XBTUSD_261225", "BTC-USD-20261225", "USD", False, "base"),
        ("PV_XRPXBT", "XRP-BTC-PERP", "BTC", False, "base"),
    ],
)
def test_names_without_a_listing(
    native: str, symbol: str, settle: str, inverse: bool, unit: str
) -> None:
    named = KrakenFutures.instrument(native)
    assert named is not None
    assert (named.symbol, named.settle, named.inverse, named.size_unit, named.contract_size) == (
        *(symbol, settle, inverse, unit),
        "1",
    )


@pytest.mark.parametrize("native", ["XBTUSD", "in_xbtusd", "PF_", "FI_XBTUSD_211399", "PX_XBTUSD"])
def test_what_is_no_product_has_no_name(native: str) -> None:
    assert KrakenFutures.instrument(native) is None


@pytest.mark.parametrize(
    ("native", "expiry"),
    [
        ("FI_XBTUSD_210730", 1627657200000),
        ("FI_XBTUSD_210924", 1632495600000),
        ("FI_ETHUSD_211231", 1640966400000),
        ("FI_LTCUSD_190628", 1561734000000),
    ],
)
def test_contracts_are_delivered_at_four_in_the_afternoon_in_london(
    native: str, expiry: int
) -> None:
    # ``maturityTime`` of recorded tickers.
    named = KrakenFutures.instrument(native)
    assert named is not None and named.expiry == expiry * 1_000


def test_the_listing_is_read() -> None:
    common: dict[str, Any] = {"contractSize": 1, "tradeable": True, "postOnly": False}
    body = {
        "result": "success",
        "instruments": [
            {
                **common,
                "symbol": "PI_XBTUSD",
                "type": "futures_inverse",
                "tickSize": 0.5,
                "contractValueTradePrecision": 0,
                "base": "XBT",
            },
            {
                **common,
                "symbol": "PF_PEPEUSD",
                "type": "flexible_futures",
                "tickSize": 1e-10,
                "contractValueTradePrecision": -3,
                "postOnly": True,
            },
            {
                **common,
                "symbol": "FF_XBTUSD_261225",
                "tickSize": 1,
                "contractValueTradePrecision": 4,
                "lastTradingTime": "2026-12-25T08:00:00.000Z",
                "tradeable": False,
            },
            {**common, "symbol": "PF_OLDUSD", "isExpired": True},
            {"symbol": "in_xbtusd", "type": "spot index", "tradeable": False},
        ],
    }
    found = KrakenFutures.instruments([json.dumps(body).encode()])
    assert [(i.symbol, i.type, i.price_step, i.size_step, i.state, i.expiry) for i in found] == [
        ("BTC-USD:BTC-PERP", "perpetual", "0.5", "1", "trading", None),
        ("PEPE-USD-PERP", "perpetual", "0.0000000001", "1000", "post_only", None),
        ("BTC-USD-20261225", "future", "1", "0.0001", "untradeable", 1798185600000000),
        ("OLD-USD-PERP", "perpetual", None, None, "expired", None),
    ]
    with pytest.raises(BadPayload):
        KrakenFutures.instruments([b'{"result":"error","error":"Unavailable"}'])


def test_a_contract_that_is_not_worth_one_unit_is_counted_in_contracts() -> None:
    listed = {"symbol": "PI_XBTUSD", "tradeable": True, "contractSize": 100}
    (found,) = KrakenFutures.instruments([json.dumps({"instruments": [listed]}).encode()])
    assert (found.size_unit, found.contract_size, found.contract_currency) == (
        *("contract", "100"),
        "USD",
    )


def test_sample_messages_are_read() -> None:
    path = CAPTURES / "kraken-futures" / "samples.jsonl"
    if not path.exists():
        pytest.skip("no recordings of kraken-futures beside the repository")
    made = {"book_snapshot": Book, "trade": Trade, "ticker": Ticker}
    read = 0
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        if sample["dir"] != "in":
            continue
        message = json.loads(sample["raw"], parse_float=str, parse_int=str)
        native = message.get("product_id", "PF_ETHUSD")
        channel = message["feed"].removesuffix("_snapshot")
        outputs = parse(reader_of(Stream(channel, native)), [sample["raw"].encode()])
        if "event" in message:
            assert outputs == []
            continue
        kind: type[Any] = made[message["feed"]]
        (event,) = only(kind, outputs)
        match event:
            case Book():
                levels = [(one["price"], one["qty"]) for one in message["bids"]]
                assert event.snapshot and event.bids == levels
            case Trade():
                assert (event.id, event.price, event.size, event.side) == (
                    *(message["uid"], message["price"], message["qty"], message["side"]),
                )
            case Ticker():
                assert (event.last, event.bid, event.ask) == (
                    *(message["last"], message["bid"], message["ask"]),
                )
                assert event.quote_volume == message["volumeQuote"]
        read += 1
    assert read == 4


#: Pairs that cannot agree, by a part of the message -> why.
DIFFERENT = {'"result":"success","orderBook"': "of REST, which is not asked"}


def test_others_make_the_same_of_the_same_messages() -> None:
    path = CAPTURES / "kraken-futures" / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings of kraken-futures beside the repository")
    compared = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        if any(part in pair["raw"] for part in DIFFERENT):
            continue
        message = json.loads(pair["raw"])
        if message["feed"] == "trade_snapshot":
            # Old trades are counted on from, not told; the newest is compared as a live one.
            message = message["trades"][0]
            pair["raw"] = json.dumps(message)
        channel = message["feed"].removesuffix("_snapshot")
        reader = reader_of(Stream(channel, message["product_id"]))
        outputs = parse(reader, [pair["raw"].encode()])
        if pair["schema"] == "tardis":
            compared += sum(compare(other, outputs) for other in pair["expected"])
        else:
            compared += compare_asserted(pair["expected"]["asserts"], outputs)
    assert compared == 12


def compare(other: dict[str, Any], events: list[Output]) -> int:
    """Compare one normalised message of another project with our events of the same frame."""
    match other["type"]:
        case "trade":
            (trade,) = only(Trade, events)
            assert (trade.id, trade.side) == (other["id"], other["side"])
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "derivative_ticker":
            (state,) = only(Derivative, events)
            assert is_same(state.mark, other["markPrice"])
            assert is_same(state.index, other["indexPrice"])
            assert is_same(state.open_interest, other["openInterest"])
            assert is_same(state.funding_rate, other["fundingRate"])
        case "book_ticker":
            # Our quote is the book's; the ticker's best prices are the same, 0 being none.
            best = [(one.bid, one.ask) for one in only(Ticker, events)] or [(None, None)]
            for mine, theirs in zip(best[0], (other["bidPrice"], other["askPrice"]), strict=True):
                assert is_same(mine, theirs or None)
        case "liquidation":
            return 0  # told as the trade that it is
    return 1


def compare_asserted(asserts: dict[str, Any], events: list[Output]) -> int:
    if "trade.price" in asserts:
        (trade,) = only(Trade, events)
        assert (float(trade.price), trade.side) == (asserts["trade.price"], asserts["trade.side"])
        assert float(trade.size) == asserts["trade.quantity_contract"]
        assert trade.ts == asserts["timestamp"] * 1_000
        return 1
    if "symbol" in asserts:
        assert only(Ticker, events)[0].ts == asserts["timestamp"] * 1_000
        return 1
    (book,) = only(Book, events)
    assert book.ts == asserts["orderbook.timestamp"] * 1_000
    for side, levels in (("bids", book.bids), ("asks", book.asks)):
        assert len(levels) == asserts[f"orderbook.{side}.len()"]
        for at in (0, 2):
            assert float(levels[at][0]) == asserts[f"orderbook.{side}[{at}].price"]
            # Inverse: a contract is 1 USD, so contracts and quote are one.
            assert float(levels[at][1]) == asserts[f"orderbook.{side}[{at}].quantity_quote"]
    return 1


def test_the_venue_answers_product_by_product() -> None:
    venue = KrakenFuturesVenue()
    recording = Session(KrakenFutures, venue, SESSION)
    assert {one.channel for one in recording.streams} == {"book", "trade", "ticker"}
    asked = {"event": "subscribe", "feed": "book", "product_ids": ["PF_XBTUSD", "PI_ETHUSD"]}
    ack = venue.request("/ws/v1", json.dumps(asked))
    assert ack.streams == (BOOK, Stream("book", "PI_ETHUSD")) and not ack.unsubscribe
    assert [json.loads(one)["product_ids"] for one in ack.frames] == [["PF_XBTUSD"], ["PI_ETHUSD"]]
    assert all(one.encode() in recording.frames for one in ack.frames)
    back = venue.request("/ws/v1", json.dumps(asked | {"event": "unsubscribe"}))
    assert back.unsubscribe and back.streams == ack.streams
    answers = [
        venue.request("/ws/v1", frame).frames[0]
        for frame in ("nonsense", '{"event":"ping"}', '{"event":"subscribe","feed":"odd"}')
    ]
    assert [json.loads(one)["event"] for one in answers] == ["error", "pong", "error"]
    (path,) = KrakenFutures.listing_paths
    assert venue.rest_key(KrakenFutures.rest_url + path) == "listing"
    assert venue.rest_key("/derivatives/api/v3/tickers") is None


def test_the_adapter_understands_what_the_venue_answers() -> None:
    venue = KrakenFuturesVenue()
    recording = Session(KrakenFutures, venue, SESSION)
    unknown = Stream("trade", "PF_NOSUCHUSD")
    reader = reader_of(*recording.streams, unknown)
    waiting = only(Send, reader.opened())
    refused: list[Refused] = []
    asked: list[Stream] = []
    while waiting:
        ack = venue.request("/ws/v1", waiting.pop(0).frame)
        asked += ack.streams
        outputs = parse(reader, [one.encode() for one in ack.frames])
        refused += only(Refused, outputs)
        waiting += only(Send, outputs)
    assert [one.streams for one in refused] == [(unknown,)]
    assert set(asked) == set(recording.streams)


def test_who_comes_late_is_told_a_book_and_trades_that_go_on() -> None:
    venue = KrakenFuturesVenue()
    recording = Session(KrakenFutures, venue, SESSION)
    cut = len(recording.frames) * 2 // 3
    told = {stream: venue.standing(stream, {}) for stream in recording.streams}
    for frame in recording.frames[:cut]:
        stream = venue.stream_of(TapeLine(dir="in", raw=frame.decode()))
        standing = told.get(stream) if stream else None
        if standing is not None:
            standing.take(frame)
    late = recording.adapter()
    starts = [body for one in told.values() if one and (body := one.told())]
    outputs = parse(late, [*starts, *recording.frames[cut:]])
    assert only(Gap, outputs) == [] and only(Health, outputs) == []
    assert clients_books(outputs) == clients_books(recording.run().outputs)
