"""HTX's contracts: versions, trades without order, three connections; ``payloads/htx-*-swap``."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.base import Adapter, Health, Output, Refused, Send, Stream, Venue
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.htx.swaps import HtxCoinSwap, HtxLinearSwap
from adapters.exchanges.htx.venue import HtxCoinSwapVenue, HtxLinearSwapVenue
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
LINEAR: Market = (HtxLinearSwap, HtxLinearSwapVenue)
COIN: Market = (HtxCoinSwap, HtxCoinSwapVenue)
BOOK = "depth.size_150.high_freq"
markets = pytest.mark.parametrize("market", [LINEAR, COIN], ids=["linear", "coin"])
recordings = pytest.mark.parametrize(
    ("market", "path"),
    [
        pytest.param(market, *one.values, id=f"{market[0].name}-{at}", marks=one.marks)
        for market in (LINEAR, COIN)
        for at, one in enumerate(
            [
                pytest.param(PAYLOADS / market[0].name / "session.jsonl"),
                *captures(market[0].name),
            ]
        )
    ],
)


def linear(*channels: str, native: str = "BTC-USDT") -> Adapter:
    return adapter(HtxLinearSwap, [Stream(one, native) for one in channels])


def parse(reader: Adapter, texts: Sequence[str], recv: int = 0) -> list[Output]:
    frames = [gzip.compress(one.encode()) for one in texts]
    return [output for one in frames for output in reader.parse(one, recv)]


def payloads(session: Session) -> list[dict[str, Any]]:
    return [
        json.loads(gzip.decompress(one), parse_float=str, parse_int=str) for one in session.frames
    ]


def book(version: int, bids: str = "", event: str = "update", asks: str = "") -> str:
    return (
        f'{{"ch":"market.BTC-USDT.{BOOK}","tick":{{"asks":[{asks}],"bids":[{bids}],'
        f'"event":"{event}","id":1,"mrid":1,"ts":1,"version":{version}}},"ts":1790134136934}}'
    )


def start(version: int = 5) -> str:
    return book(version, "[100.0,1]", "snapshot", "[101.0,2]")


def traded(*ids: int, ts: int = 2_000, direction: str = "sell") -> str:
    rows = ",".join(
        f'{{"amount":4,"quantity":40,"ts":{ts},"id":{one},"price":0.41912,"direction":"{direction}"}}'
        for one in ids
    )
    return (
        f'{{"ch":"market.BTC-USDT.trade.detail","ts":{ts + 9},"tick":{{"id":7,"ts":{ts},'
        f'"data":[{rows}]}}}}'
    )


def subscribed(ts: int = 1_000) -> str:
    return f'{{"id":"1","subbed":"market.BTC-USDT.trade.detail","ts":{ts},"status":"ok"}}'


def ids(outputs: Sequence[Output]) -> list[str | None]:
    return [one.id for one in only(Trade, outputs)]


@recordings
def test_every_trade_since_we_came_is_there_in_contracts(market: Market, path: Path) -> None:
    cls, venue = market
    recording = Session(cls, venue(), path)
    asked = {
        message["subbed"]: int(message["ts"])
        for message in payloads(recording)
        if "subbed" in message
    }
    sent = [
        (message["ch"].split(".")[1], one["id"], one["amount"], one["direction"], int(one["ts"]))
        for message in payloads(recording)
        if message.get("ch", "").endswith(".trade.detail")
        for one in message["tick"]["data"]
        if int(one["ts"]) >= asked[message["ch"]]
    ]
    instruments = recording.adapter().plan_.instruments
    assert [
        (one.topic, one.id, one.size, one.side, one.ts)
        for one in only(Trade, recording.run().outputs)
    ] == [
        (f"trade.{cls.name}.{instruments[native].symbol}", id_, size, side, ts * 1_000)
        for native, id_, size, side, ts in sent
    ]
    assert sent


@recordings
def test_books_are_the_exchange_s_books(market: Market, path: Path) -> None:
    cls, venue = market
    recording = Session(cls, venue(), path)
    naive: dict[str, Sides] = {}
    for message in payloads(recording):
        _, native, channel = message.get("ch", "..").split(".", 2)
        if channel not in ("depth.step0", BOOK):
            continue
        tick = message["tick"]
        if tick.get("event") != "update":
            naive[native] = ({}, {})
        apply(naive[native], tick["bids"], tick["asks"])
    shown = clients_books(recording.run().outputs)
    instruments = recording.adapter().plan_.instruments
    assert shown.keys() == {f"book.{cls.name}.{instruments[one].symbol}" for one in naive}
    for native, sides in naive.items():
        mine = shown[f"book.{cls.name}.{instruments[native].symbol}"]
        assert [{float(p): float(s) for p, s in side.items()} for side in mine] == [
            {float(p): float(s) for p, s in side.items()} for side in sides
        ]


def test_a_missing_version_makes_the_book_invalid_until_a_snapshot() -> None:
    reader = linear(BOOK)
    assert len(only(Book, parse(reader, [start(), book(6, "[99.5,1]")]))) == 2
    broken = parse(reader, [book(8, "[99.6,1]")])
    kinds = ("book", "depth", "quote")
    assert broken[0] == Health("BTC-USDT", kinds, "invalid", "sequence")
    name = "book.htx-linear-swap.BTC-USDT-PERP"
    assert broken[1] == Gap(name, 0, None, 0, 0, "upstream_sequence", None)
    assert [json.loads(one.frame) for one in only(Send, broken)] == [
        {
            op: f"market.BTC-USDT.{BOOK}",
            "data_type": "incremental",
            "id": f"{op} market.BTC-USDT.{BOOK}",
        }
        for op in ("unsub", "sub")
    ]
    assert parse(reader, [book(9, "[99.6,1]")], 1) == []
    assert len(parse(reader, [book(10, "[99.6,1]")], RESUBSCRIBE_US)) == 2
    fresh = parse(reader, [start(20), book(21, "[99.7,1]")], RESUBSCRIBE_US + 1)
    assert Health("BTC-USDT", kinds, "live", None) in fresh
    assert [one.snapshot for one in only(Book, fresh)] == [True, False]


def test_a_snapshot_of_a_live_book_goes_out_as_what_has_changed() -> None:
    reader = linear(BOOK)
    outputs = parse(reader, [start(), book(40, "[100.0,3]", "snapshot", "[101.0,2]"), book(41)])
    assert [(one.bids, one.asks, one.snapshot) for one in only(Book, outputs)[1:]] == [
        ([("100.0", "3")], [], False)
    ]


def test_a_crossed_book_is_not_shown() -> None:
    outputs = parse(linear(BOOK), [start(), book(6, "[101.0,1]")])
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    assert len(only(Book, outputs)) == 1


def test_the_last_trade_of_before_we_came_is_known_and_not_told() -> None:
    reader = linear("trade.detail")
    outputs = parse(reader, [traded(40, ts=900), subscribed(), traded(40, 41, 50)])
    assert ids(outputs) == ["41", "50"], "the first came before the acknowledgement"


def test_trades_come_in_the_order_of_their_ids_and_each_once() -> None:
    reader = linear("trade.detail")
    big = 1000219512747480000
    outputs = parse(reader, [subscribed(), traded(big + 1, big), traded(big + 1, big + 2)])
    assert ids(outputs) == [str(big), str(big + 1), str(big + 2)]


def test_of_the_trades_of_a_symbol_the_last_thousand_are_known() -> None:
    reader = linear("trade.detail")
    parse(reader, [subscribed(), traded(*range(KNOWN_TRADES + 1))])
    assert ids(parse(reader, [traded(1, KNOWN_TRADES), traded(0)])) == ["0"]


def test_a_trade_without_a_side_has_none() -> None:
    outputs = parse(linear("trade.detail"), [subscribed(), traded(7, direction="")])
    assert [one.side for one in only(Trade, outputs)] == [None]


def test_a_resync_of_trades_declares_what_may_be_lost() -> None:
    reader = linear("trade.detail", "bbo")
    outputs = reader.resync([Stream("trade.detail", "BTC-USDT"), Stream("bbo", "BTC-USDT")], 7)
    name = "trade.htx-linear-swap.BTC-USDT-PERP"
    assert only(Gap, outputs) == [Gap(name, 0, None, 7, 0, "upstream_sequence", None)]
    assert len(only(Send, outputs)) == 4


@pytest.mark.parametrize(
    ("frame", "gaps"),
    [
        pytest.param(b'{"ch":"market.BTC-USDT.trade.detail","tick":{"data":[{', 1, id="trades"),
        pytest.param(
            b'{"op":"notify","topic":"public.BTC-USDT.liquidation_orders"', 1, id="forced"
        ),
        pytest.param(b'{"ch":"market.BTC-USDT.bbo","tick":7}', 0, id="a-state"),
        pytest.param(b'{"surprise":1}', 0, id="an-unknown-type"),
        pytest.param(b"\x1f\x8b cut off", 2, id="anything"),
    ],
)
def test_an_unreadable_frame_is_a_gap_where_nothing_is_numbered_once(
    frame: bytes, gaps: int
) -> None:
    reader = linear("trade.detail", "liquidation_orders", "bbo")
    packed = frame if frame.startswith(b"\x1f") else gzip.compress(frame)
    assert len(list(reader.unread(packed, 0))) == gaps
    assert list(reader.unread(packed, 1)) == []


def test_quotes_go_forward_only_and_count_contracts() -> None:
    best = (
        '{{"ch":"market.BTC-USDT.bbo","ts":1603707934525,"tick":{{"mrid":{},"id":1603707934,'
        '"bid":[13064.0,38],"ask":{},"ts":1603707934524,"version":1}}}}'
    )
    reader = linear("bbo")
    frames = [best.format(9, "[13072.3,205]"), best.format(8, "null"), best.format(10, "null")]
    name, ts = "quote.htx-linear-swap.BTC-USDT-PERP", 1603707934524000
    assert parse(reader, frames) == [
        Quote(name, 0, ts, 0, 0, "13064.0", "38", "13072.3", "205"),
        Quote(name, 0, ts, 0, 0, "13064.0", "38", None, None),
    ]


def test_a_day_counts_contracts() -> None:
    day = (
        '{"ch":"market.BTC-USDT.detail","ts":1603707870528,"tick":{"id":1603707840,"open":12916.2,'
        '"close":13065.8,"high":13205.3,"low":12852.8,"amount":30.316,"vol":30316,'
        '"trade_turnover":395073.4918,"count":2983,"ask":[13081.9,206],"bid":[13071.9,38]}}'
    )
    (ticker,) = parse(linear("detail"), [day, day])
    assert isinstance(ticker, Ticker)
    assert (ticker.last, ticker.open, ticker.volume) == ("13065.8", "12916.2", "30316")
    assert (ticker.quote_volume, ticker.bid, ticker.ask) == ("395073.4918", "13071.9", "13081.9")


def test_mark_price_and_index_are_told_together() -> None:
    mark = '{"ch":"market.BTC-USDT.mark_price.1min","ts":1,"tick":{"id":1,"close":"9800.120"}}'
    index = '{"ch":"market.BTC-USDT.basis.1min.open","ts":2,"tick":{"index_price":"9799.3333"}}'
    reader = linear("mark_price.1min", "basis.1min.open")
    told = only(Derivative, parse(reader, [mark, mark, index]))
    assert [(one.mark, one.index, one.ts) for one in told] == [
        ("9800.120", None, 1_000),
        ("9800.120", "9799.3333", 2_000),
    ]


def test_liquidations_are_notices() -> None:
    notice = (
        '{"op":"notify","topic":"public.BTC-USDT.liquidation_orders","ts":1608226502344,"data":['
        '{"contract_code":"BTC-USDT","direction":"sell","offset":"close","volume":227,'
        '"price":23350.5,"created_at":1608226502284,"amount":0.227}]}'
    )
    reader = linear("liquidation_orders")
    assert json.loads(only(Send, reader.opened())[0].frame) == {
        "op": "sub",
        "cid": "sub public.BTC-USDT.liquidation_orders",
        "topic": "public.BTC-USDT.liquidation_orders",
    }
    name, ts = "liquidation.htx-linear-swap.BTC-USDT-PERP", 1608226502284000
    assert parse(reader, [notice]) == [
        Liquidation(name, 0, ts, 0, 0, None, "23350.5", "227", "sell")
    ]


def test_pings_are_answered_in_both_forms() -> None:
    reader = linear("liquidation_orders", "bbo")
    pings = ['{"ping":1645289389594}', '{"op":"ping","ts":"1492420473058"}']
    assert [one.frame for one in only(Send, parse(reader, pings))] == [
        '{"pong":1645289389594}',
        '{"op":"pong","ts":"1492420473058"}',
    ]


def test_a_refused_notice_costs_itself_alone() -> None:
    reader = linear("liquidation_orders", "bbo")
    refusal = (
        '{"op":"sub","cid":"1","topic":"public.BTC-USDT.liquidation_orders","ts":1,'
        '"err-code":2011,"err-msg":"doesn\'t support"}'
    )
    assert parse(reader, [refusal]) == [
        Refused((Stream("liquidation_orders", "BTC-USDT"),), "doesn't support")
    ]
    assert parse(reader, [refusal.replace("2011", "0")]) == []


@markets
def test_each_path_has_a_connection_and_each_topic_one_of_them(market: Market) -> None:
    cls, _ = market
    native = "BTC-USDT" if market is LINEAR else "BTC-USD"
    instrument = cls.instrument(native)
    assert instrument is not None
    plans = cls.plan(cls.streams(instrument, cls.kinds), {native: instrument})
    main, index, notices = plans
    assert index.path == "/ws_index" and "notification" in notices.path
    kinds = [
        {topic.partition(".")[0] for topic in cls.carried(plan.streams, instrument, cls.kinds)[0]}
        for plan in (main, index, notices)
    ]
    assert kinds == [{"book", "depth", "quote", "trade", "ticker"}, {"derivative"}, {"liquidation"}]


@pytest.mark.parametrize(
    ("cls", "native", "symbol"),
    [
        (HtxLinearSwap, "BTC-USDT", "BTC-USDT-PERP"),
        (HtxLinearSwap, "BTC-USDT-261225", "BTC-USDT-20261225"),
        (HtxLinearSwap, "BTC-USDT-269925", None),
        (HtxLinearSwap, "BTC-USD", None),
        (HtxCoinSwap, "BTC-USD", "BTC-USD:BTC-PERP"),
        (HtxCoinSwap, "BTC-USDT", None),
        (HtxCoinSwap, "BTC_CQ", None),
    ],
)
def test_names_without_a_listing(cls: type[Adapter], native: str, symbol: str | None) -> None:
    instrument = cls.instrument(native)
    assert (instrument.symbol if instrument else None) == symbol


def test_the_listings_are_read() -> None:
    found = {
        cls.name: Session(cls, venue(), PAYLOADS / cls.name / "session.jsonl").listed
        for cls, venue in (LINEAR, COIN)
    }
    assert [
        (one.symbol, one.contract_size, one.contract_currency, one.price_step, one.state)
        for one in found["htx-linear-swap"]
    ] == [
        ("BTC-USDT-PERP", "0.001", "BTC", "0.1", "trading"),
        ("GRT-USDT-PERP", "10", "GRT", "0.00001", "trading"),
        ("BTC-USDT-20261225", "0.001", "BTC", "0.1", "status_5"),
    ]
    bitcoin, _ = found["htx-coin-swap"]
    assert (bitcoin.symbol, bitcoin.inverse, bitcoin.settle) == ("BTC-USD:BTC-PERP", True, "BTC")
    assert (bitcoin.size_unit, bitcoin.contract_size) == ("contract", "100")
    assert bitcoin.contract_currency == "USD"
    with pytest.raises(BadPayload):
        HtxLinearSwap.instruments([b'{"status":"error"}'])


#: Samples and pairs that we don't read, by a part of each -> why.
NOT_READ = {
    '"op":"auth"': "private",
    "matchOrders": "private",
    '"topic":"public.linear-swap.heartbeat"': "of another path: it says no contract",
    '"status":"ok","data":[': "an answer of REST",
    "market.BTC_CQ.detail": "a future of the coin, of another market",
}
FED: dict[str, type[Any]] = {
    "bbo": Quote,
    "detail": Ticker,
    "depth.size_20.high_freq": Book,
    "mark_price.1min": Derivative,
}


def reader_for(cls: type[Adapter], text: str) -> Adapter | None:
    """Return one that carries what a message is of; None where that is not ours."""
    message = json.loads(text)
    topic = message.get("ch") or message.get("subbed") or message.get("topic", "")
    _, _, rest = topic.partition(".")
    native, _, channel = rest.partition(".")
    fallback = "BTC-USDT" if cls is HtxLinearSwap else "BTC-USD"
    if cls.instrument(native) is None:
        native, channel = fallback, "bbo"
    notices = Stream("liquidation_orders", native)
    return adapter(cls, list(dict.fromkeys([Stream(channel, native), notices])))


def not_read(text: str) -> str:
    return next((why for part, why in NOT_READ.items() if part in text), "")


@markets
def test_sample_messages_are_read(market: Market) -> None:
    cls, _ = market
    path = CAPTURES / cls.name / "samples.jsonl"
    if not path.exists():
        pytest.skip(f"no samples of {cls.name} beside the repository")
    read = 0
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        text = sample["raw"]
        if sample["dir"] != "in":
            continue
        reader = reader_for(cls, text)
        assert reader is not None
        if not_read(text) and '"op":"sub"' not in text:
            with pytest.raises(BadPayload):
                parse(reader, [text])
            continue
        outputs = parse(reader, [text])
        kind = FED.get(json.loads(text).get("ch", "..").split(".", 2)[2])
        assert kind is None or only(kind, outputs), text
        read += 1
    assert read >= 20


@markets
def test_others_make_the_same_of_the_same_messages(market: Market) -> None:
    cls, _ = market
    path = CAPTURES / cls.name / "expected.jsonl"
    if not path.exists():
        pytest.skip(f"no pairs of {cls.name} beside the repository")
    compared = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        text = pair["raw"]
        reader = reader_for(cls, text)
        assert reader is not None
        if not_read(text):
            with pytest.raises(BadPayload):
                parse(reader, [text])
            continue
        message = json.loads(text)
        native = message.get("ch", "..").split(".")[1]
        if message.get("ch", "").endswith("trade.detail"):
            parse(reader, [subscribed(0).replace("BTC-USDT", native)])
        if message.get("tick", {}).get("event") == "update":
            version = message["tick"]["version"] - 1
            asks = "[6.7941,5],[99999,1]" if cls is HtxLinearSwap else "[99999,1]"
            before = book(version, "[0.1,1]", "snapshot", asks)
            parse(reader, [before.replace("BTC-USDT", native)])
        outputs = parse(reader, [text])
        expected = pair["expected"]
        for other in expected if isinstance(expected, list) else [expected]:
            compared += compare(other, outputs)
    assert compared >= 5


def compare(other: dict[str, Any], outputs: list[Output]) -> int:
    """Compare what another project made of a frame with what we do; theirs may count coins."""
    match other.get("type"):
        case "trade":
            (trade,) = only(Trade, outputs)
            assert (trade.id, trade.side or "unknown") == (other["id"], other["side"])
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "book_change":
            (change,) = only(Book, outputs)
            for mine, theirs in ((change.bids, other["bids"]), (change.asks, other["asks"])):
                assert {float(price): float(size) for price, size in mine} == {
                    one["price"]: one["amount"] for one in theirs
                }
        case "book_ticker":
            (quote,) = only(Quote, outputs)
            assert is_same(quote.bid, other["bidPrice"]) and is_same(quote.ask, other["askPrice"])
            assert is_same(quote.bid_size, other["bidAmount"])
        case "liquidation":
            (forced,) = only(Liquidation, outputs)
            assert forced.side == other["side"] and is_same(forced.size, other["amount"])
            assert is_same(forced.price, other["price"])
        case None:
            asserts = other["asserts"]
            if "trade.side" in asserts:
                (trade,) = only(Trade, outputs)
                assert trade.side == asserts["trade.side"]
                assert is_same(trade.size, asserts["trade.quantity_contract"])
            elif "bbo_msg.ask_price" in asserts:
                assert is_same(only(Quote, outputs)[0].ask, asserts["bbo_msg.ask_price"])
            else:
                return 0
        case _:
            return 0
    return 1
