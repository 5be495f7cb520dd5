"""Deribit: change ids, trade numbers, heartbeats, names; ``payloads/deribit``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.base import (
    Adapter,
    Health,
    Leave,
    Mark,
    Output,
    Page,
    Refused,
    Resumed,
    Send,
    Stream,
    TapeLine,
)
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.deribit.adapter import CHANNELS_PER_REQUEST, PAGE, Deribit
from adapters.exchanges.deribit.venue import DeribitVenue
from feed.errors import BadPayload
from feed.models import Book, Derivative, Gap, Quote, Ticker, Trade
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

SESSION = PAYLOADS / "deribit" / "session.jsonl"
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("deribit")]
)
PERPETUAL = "BTC-PERPETUAL"
NAME = "deribit.BTC-USD:BTC-PERP"


def session(path: Path = SESSION) -> Session:
    return Session(Deribit, DeribitVenue(), path)


def reader_of(*channels: str, native: str = PERPETUAL) -> Adapter:
    return adapter(Deribit, [Stream(one, native) for one in channels])


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def notice(channel: str, data: object) -> bytes:
    params = {"channel": channel, "data": data}
    frame = {"jsonrpc": "2.0", "method": "subscription", "params": params}
    return json.dumps(frame, separators=(",", ":")).encode()


def book(change_id: int, before: int | None, *levels: list[Any], **fields: Any) -> bytes:
    """Return a change; ``levels`` begin with ``b`` or ``a``."""
    data = {
        "type": "snapshot" if before is None else "change",
        "timestamp": 1699999999000,
        "instrument_name": PERPETUAL,
        "change_id": change_id,
        "bids": [one[1:] for one in levels if one[0] == "b"],
        "asks": [one[1:] for one in levels if one[0] == "a"],
    }
    if before is not None:
        data["prev_change_id"] = before
    return notice(f"book.{PERPETUAL}.100ms", data | fields)


def start(change_id: int = 10) -> bytes:
    return book(change_id, None, ["b", "new", 100.0, 1000.0], ["a", "new", 101.0, 20.0])


def trades(*numbers: int, native: str = PERPETUAL) -> bytes:
    given = [
        {
            "timestamp": 1765531356452 + number,
            "price": 92294.5,
            "amount": 10.0,
            "direction": "sell",
            "instrument_name": native,
            "trade_seq": number,
            "trade_id": f"ETH-{number * 3}",
        }
        for number in numbers
    ]
    return notice(f"trades.{native}.100ms", given)


def ticker(native: str = PERPETUAL, **fields: Any) -> bytes:
    data = {
        "timestamp": 1765541474086,
        "stats": {"high": 93612.0, "low": 89277.5, "volume": 11897.5, "volume_notional": 1092.0},
        "instrument_name": native,
        "index_price": 92263.55,
        "last_price": 92283.5,
        "open_interest": 1132329370.0,
        "mark_price": 92281.78,
        "best_ask_price": 92284.0,
        "best_bid_price": 92283.5,
    }
    return notice(f"ticker.{native}.100ms", data | fields)


def quote(**fields: Any) -> bytes:
    data = {
        "timestamp": 1765541767174,
        "instrument_name": PERPETUAL,
        "best_ask_price": 92288.5,
        "best_bid_price": 92288.0,
        "best_ask_amount": 99470.0,
        "best_bid_amount": 133440.0,
    }
    return notice(f"quote.{PERPETUAL}", data | fields)


def reply(id_: int | None, **fields: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id_, **fields}).encode()


@recordings
def test_every_frame_of_a_session_is_read(path: Path) -> None:
    done = session(path).run()
    assert done.bad == []
    assert not any(isinstance(one, Health | Gap | Send | Refused) for one in done.outputs)


@recordings
def test_books_are_the_exchange_s_books_digit_for_digit(path: Path) -> None:
    recording = session(path)
    naive: dict[str, Sides] = {}
    last: dict[str, str] = {}
    changes = 0
    for message in recording.payloads():
        params = message.get("params", {})
        channel, data = params.get("channel", ""), params.get("data")
        if not channel.startswith("book."):
            continue
        if data["type"] == "snapshot":
            naive[channel] = ({}, {})
        else:
            assert data["prev_change_id"] == last[channel]
            changes += 1
        last[channel] = data["change_id"]
        sides = [
            [(price, "0" if action == "delete" else amount) for action, price, amount in data[side]]
            for side in ("bids", "asks")
        ]
        apply(naive[channel], *sides)
    assert changes > 30
    instruments = recording.adapter().plan_.instruments
    assert clients_books(recording.run().outputs) == {
        f"book.deribit.{instruments[channel.split('.')[1]].symbol}": sides
        for channel, sides in naive.items()
    }


def test_every_trade_is_there_digit_for_digit() -> None:
    recording = session()
    sent = [
        (one["trade_id"], one["price"], one["amount"], one["direction"], int(one["timestamp"]))
        for message in recording.payloads()
        if message.get("params", {}).get("channel", "").startswith("trades.")
        for one in message["params"]["data"]
    ]
    found = only(Trade, recording.run().outputs)
    assert len(sent) > 20
    assert [(t.id, t.price, t.size, t.side, (t.ts or 0) // 1_000) for t in found] == sent


@recordings
def test_tickers_say_what_was_sent_and_only_when_it_changed(path: Path) -> None:
    recording = session(path)
    sent = 0
    last: dict[str, tuple[str | None, ...]] = {}

    def check(frame: bytes, outputs: list[Output]) -> None:
        nonlocal sent
        params = json.loads(frame, parse_float=str, parse_int=str).get("params", {})
        if not params.get("channel", "").startswith("ticker."):
            return
        sent += 1
        data = params["data"]
        fields = ("mark_price", "index_price", "current_funding", "open_interest")
        mark, index, rate, interest = (data.get(one) for one in fields)
        is_news = last.get(data["instrument_name"]) != (mark, index, rate, interest)
        last[data["instrument_name"]] = (mark, index, rate, interest)
        found = only(Derivative, outputs)
        assert len(found) == is_news
        for one in found:
            assert (one.mark, one.index, one.open_interest) == (mark, index, interest)
            assert rate is None or "e" in rate or one.funding_rate == rate

    recording.run(check)
    assert sent > 20


def test_a_broken_chain_makes_the_book_invalid_until_a_snapshot() -> None:
    reader = reader_of("book.100ms", "trades.100ms")
    good = book(17, 10, ["b", "new", 99.0, 10.0], ["a", "delete", 101.0, 0.0])
    first, second = only(Book, parse(reader, [start(), good]))
    assert (second.bids, second.asks) == ([("99.0", "10.0")], [("101.0", "0")])
    broken = parse(reader, [book(30, 18, ["b", "new", 98.0, 10.0])])
    assert broken[0] == Health(PERPETUAL, ("book", "depth", "quote"), "invalid", "sequence")
    assert broken[1] == Gap(f"book.{NAME}", 0, None, 0, 0, "upstream_sequence", None)
    requests = [json.loads(one.frame) for one in only(Send, broken)]
    assert [one["method"] for one in requests] == ["public/unsubscribe", "public/subscribe"]
    assert all(one["params"]["channels"] == [f"book.{PERPETUAL}.100ms"] for one in requests)
    assert parse(reader, [book(31, 30)], 1) == []
    assert len(parse(reader, [book(32, 31)], RESUBSCRIBE_US)) == 2
    fresh = parse(reader, [start(40)], RESUBSCRIBE_US + 1)
    assert only(Book, fresh)[0].snapshot
    assert fresh[-1] == Health(PERPETUAL, ("book", "depth", "quote"), "live", None)
    assert only(Book, parse(reader, [book(41, 40, ["b", "new", 98.0, 1.0])]))


def test_a_change_that_comes_twice_changes_nothing() -> None:
    reader = reader_of("book.100ms")
    change = book(17, 10, ["b", "new", 99.0, 10.0])
    outputs = parse(reader, [start(), change, change, book(18, 17, ["b", "new", 98.0, 1.0])])
    assert only(Health, outputs) == []
    assert len(only(Book, outputs)) == 3


def test_a_change_after_none_starts_a_book() -> None:
    reader = reader_of("book.100ms")
    (begun,) = only(Book, parse(reader, [book(5, 0, ["b", "new", 99.0, 10.0])]))
    assert begun.snapshot and begun.bids == [("99.0", "10.0")]


def test_a_crossed_book_is_not_shown() -> None:
    reader = reader_of("book.100ms")
    outputs = parse(reader, [start(), book(11, 10, ["b", "new", 101.0, 5.0])])
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    assert len(only(Book, outputs)) == 1


def test_the_quote_has_its_own_channel_when_live_and_else_the_book_s() -> None:
    instrument = Deribit.instrument(PERPETUAL)
    assert instrument is not None
    streams = Deribit.streams(instrument, Deribit.kinds)
    assert [one.channel for one in streams] == [
        "book.100ms",
        "quote",
        "trades.100ms",
        "ticker.100ms",
    ]
    reader = adapter(Deribit, streams)
    assert only(Quote, parse(reader, [start()])) == []
    found = only(Quote, parse(reader, [quote(), quote(), quote(best_bid_price=0.0)]))
    assert [(one.bid, one.bid_size, one.ask, one.ask_size) for one in found] == [
        ("92288.0", "133440.0", "92288.5", "99470.0"),
        (None, None, "92288.5", "99470.0"),
    ]
    alone = only(Quote, parse(reader_of("book.raw"), [start().replace(b"100ms", b"raw")]))
    assert [(one.bid, one.ask) for one in alone] == [("100.0", "101.0")]


def test_a_ticker_feeds_the_day_and_the_derivative() -> None:
    reader = reader_of("ticker.100ms")
    day, derivative = parse(reader, [ticker(current_funding=-1.2e-07, funding_8h=0.5)])
    ts = 1765541474086000
    last, bid, ask = "92283.5", "92283.5", "92284.0"
    assert day == Ticker(
        *(f"ticker.{NAME}", 0, ts, 0, 0, last, None, "93612.0", "89277.5"),
        *("11897.5", "1092.0", bid, ask),
    )
    assert derivative == Derivative(
        *(f"derivative.{NAME}", 0, ts, 0, 0, "92281.78", "92263.55"),
        *("-0.00000012", None, "1132329370.0"),
    )


def test_prices_that_are_not_there_are_none() -> None:
    stats = {"high": None, "low": None, "volume": None, "price_change": None}
    none = ticker(stats=stats, last_price=None, best_bid_price=0.0, best_ask_price=0.0)
    (day,) = only(Ticker, parse(reader_of("ticker.100ms"), [none]))
    assert (day.last, day.high, day.volume, day.bid, day.ask) == (None,) * 5


def test_a_spot_pair_has_no_derivative() -> None:
    instrument = Deribit.instrument("ETH_BTC")
    assert instrument is not None
    streams = Deribit.streams(instrument, Deribit.kinds)
    topics, _ = Deribit.carried(streams, instrument, Deribit.kinds)
    assert {topic.partition(".")[0] for topic in topics} == Deribit.kinds - {"derivative"}
    assert Deribit.streams(instrument, {"derivative"}) == []
    reader = adapter(Deribit, streams)
    assert len(only(Ticker, parse(reader, [ticker("ETH_BTC")]))) == 1
    assert only(Derivative, parse(reader, [ticker("ETH_BTC", mark_price=1.0)])) == []


def test_missing_trades_are_counted_and_repeats_dropped() -> None:
    reader = reader_of("trades.100ms")
    outputs = parse(reader, [trades(7, 8), trades(8, 9), trades(12)])
    assert [one.id for one in only(Trade, outputs)] == ["ETH-21", "ETH-24", "ETH-27", "ETH-36"]
    assert only(Gap, outputs) == [Gap(f"trade.{NAME}", 0, None, 0, 0, "upstream_sequence", 2)]


def test_trades_are_counted_on_after_a_reconnect_and_fetched_by_number() -> None:
    reader = reader_of("trades.100ms")
    parse(reader, [trades(7)])
    mark = reader.marks()[PERPETUAL]
    assert mark == Mark(7, 1765531356459000)
    successor = reader_of("trades.100ms")
    successor.resume(PERPETUAL, mark)
    resumed, trade = parse(successor, [trades(6, 7, 10)])
    assert resumed == Resumed(PERPETUAL, mark, 10)
    assert isinstance(trade, Trade)
    fetch = successor.backfill(PERPETUAL, mark)
    assert fetch is not None
    assert f"start_seq=8&end_seq={7 + PAGE}" in fetch.path
    assert DeribitVenue().rest_key(fetch.path) == fetch.key
    past = json.loads(trades(9, 8))["params"]["data"]
    body = json.dumps({"result": {"trades": past, "has_more": False}}).encode()
    (page,) = successor.fetched(fetch.key, body, 5)
    assert isinstance(page, Page)
    assert [(number, one and one.backfill) for number, one in page.trades] == [(8, True), (9, True)]
    with pytest.raises(BadPayload):
        successor.fetched(fetch.key, b'{"error":{"code":10028}}', 5)


def test_the_exchange_is_asked_to_beat_and_its_question_is_answered() -> None:
    reader = reader_of("trades.100ms")
    first, second = only(Send, reader.opened())
    assert json.loads(first.frame)["method"] == "public/set_heartbeat"
    assert json.loads(second.frame)["params"]["channels"] == [f"trades.{PERPETUAL}.100ms"]
    beat = b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"%s"}}'
    assert parse(reader, [beat % b"heartbeat"]) == []
    (answer,) = parse(reader, [beat % b"test_request"])
    assert isinstance(answer, Send) and json.loads(answer.frame)["method"] == "public/test"
    assert parse(reader, [reply(0, result={"version": "1.2.26"}), reply(0, result="ok")]) == []


def test_what_the_answer_leaves_out_is_refused_alone() -> None:
    reader = reader_of("trades.100ms", "quote")
    reader.opened()
    (refused,) = parse(reader, [reply(1, result=[f"quote.{PERPETUAL}"])])
    assert refused == Refused((Stream("trades.100ms", PERPETUAL),), "not accepted")


def test_a_request_that_fails_whole_is_halved_until_the_bad_channel_is_found() -> None:
    reader = reader_of("trades.100ms", "quote", "ticker.100ms")
    reader.opened()
    error = {"code": -32602, "message": "Invalid params"}
    one, two = only(Send, parse(reader, [reply(1, error=error)]))
    assert len(json.loads(one.frame)["params"]["channels"]) == 1
    assert len(json.loads(two.frame)["params"]["channels"]) == 2
    assert (
        parse(reader, [reply(3, result=[f"quote.{PERPETUAL}", f"ticker.{PERPETUAL}.100ms"])]) == []
    )
    (refused,) = parse(reader, [reply(2, error=error)])
    assert refused == Refused((Stream("trades.100ms", PERPETUAL),), "Invalid params")


def test_too_many_requests_end_the_connection() -> None:
    reader = reader_of("quote")
    reader.opened()
    error = {"code": 10028, "message": "too_many_requests"}
    assert parse(reader, [reply(1, error=error)]) == [Leave("rate_limited")]


def test_channels_are_spread_over_requests() -> None:
    streams = [Stream("quote", f"BTC-25DEC26-{strike}-C") for strike in range(401)]
    _, *requests = (json.loads(one.frame) for one in only(Send, adapter(Deribit, streams).opened()))
    counts = [len(one["params"]["channels"]) for one in requests]
    assert counts == [CHANNELS_PER_REQUEST, CHANNELS_PER_REQUEST, 1]


@pytest.mark.parametrize(
    ("frame", "asked"),
    [
        pytest.param(b'{"params":{"channel":"quote.BTC-PERPETUAL","data":{', 2, id="quote"),
        pytest.param(b'{"params":{"channel":"book.BTC-PERPETUAL.100ms","da', 0, id="book"),
        pytest.param(b"\x00\xff garbage", 4, id="anything"),
        pytest.param(b'{"jsonrpc":"2.0"}', 0, id="a reply"),
    ],
)
def test_an_unreadable_state_is_asked_for_again(frame: bytes, asked: int) -> None:
    reader = reader_of("book.100ms", "quote", "trades.100ms", "ticker.100ms")
    with pytest.raises(BadPayload):
        list(reader.parse(frame, 0))
    assert len(only(Send, reader.unread(frame, 1))) == asked
    assert not list(reader.unread(frame, 2)), "once, not for every bad frame"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(start().replace(b"BTC-", b"ETH-"), id="channel-not-carried"),
        pytest.param(start().replace(b"1699999999000", b"99999999999999999"), id="time"),
        pytest.param(start().replace(b'"snapshot"', b'"whole"'), id="type"),
        pytest.param(start().replace(b'"new"', b'"fresh"'), id="action"),
        pytest.param(notice("surprise.BTC-PERPETUAL", {}), id="unknown-channel"),
        pytest.param(reply(9, error={"code": 1, "message": "no"}), id="refusal-of-nothing"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: bytes) -> None:
    with pytest.raises(BadPayload):
        parse(reader_of("book.100ms"), [bad])


def test_another_order_of_keys_is_read_as_well() -> None:
    message = json.loads(trades(7))
    turned = json.dumps(dict(reversed(message.items()))).encode()
    assert len(only(Trade, parse(reader_of("trades.100ms"), [turned]))) == 1


@pytest.mark.parametrize(
    ("native", "symbol", "unit", "inverse"),
    [
        ("BTC-PERPETUAL", "BTC-USD:BTC-PERP", "quote", True),
        ("BTC_USDC-PERPETUAL", "BTC-USDC-PERP", "base", False),
        ("ETH-26MAR21", "ETH-USD:ETH-20210326", "quote", True),
        ("BTC_USDC-25DEC26", "BTC-USDC-20261225", "base", False),
        ("BTC-5JUN20-9250-C", "BTC-USD:BTC-20200605-9250-C", "base", False),
        ("XRP_USDC-25SEP26-1d52-P", "XRP-USDC-20260925-1.52-P", "base", False),
        ("ETH_BTC", "ETH-BTC", "base", False),
        ("BTC-STRD-30SEP22-20000", None, "", False),
        ("BTC-FS-25DEC26_PERP", None, "", False),
        ("BTC-99SEP26", None, "", False),
        ("BTC-PERPETUAL-100-C", None, "", False),
        ("BTC", None, "", False),
    ],
)
def test_names_without_a_listing(native: str, symbol: str | None, unit: str, inverse: bool) -> None:
    found = Deribit.instrument(native)
    assert (found.symbol if found else None) == symbol
    if found is not None:
        assert (found.size_unit, found.inverse) == (unit, inverse)


def test_the_listings_are_read_and_names_by_rule_are_theirs() -> None:
    listed = {one.native: one for one in session().listed}
    assert len(listed) == 6
    for native, one in listed.items():
        named = Deribit.instrument(native)
        assert named is not None
        for field in ("symbol", "type", "expiry", "settle", "size_unit", "inverse", "quote"):
            assert getattr(named, field) == getattr(one, field), (native, field)
    perpetual, linear = listed[PERPETUAL], listed["BTC_USDC-PERPETUAL"]
    assert (perpetual.settle, perpetual.contract_size, perpetual.contract_currency) == (
        *("BTC", "10", "USD"),
    )
    assert (perpetual.price_step, perpetual.size_step, perpetual.state) == ("0.5", "10", "trading")
    assert (linear.settle, linear.contract_size, linear.contract_currency) == (
        *("USDC", "0.0001", "BTC"),
    )
    assert listed["BTC-25DEC26"].expiry == 1798185600000000
    body = b'{"result":[{"instrument_name":"BTC-FS-25DEC26_PERP","kind":"future_combo",'
    body += b'"base_currency":"BTC","quote_currency":"USD","tick_size":0.5,'
    body += b'"min_trade_amount":10.0,"contract_size":10.0}]}'
    assert Deribit.instruments([body]) == []
    with pytest.raises(BadPayload):
        Deribit.instruments([b'{"error":{"code":10028}}'])


#: Samples and pairs that say nothing, or are refused -> why, by a part of each.
SILENT = {
    ".none.": "grouped books",
    "chart.trades.": "candles",
    "trades.option.any.raw": "of a whole kind of instruments",
    '"result":': "an answer",
}
REFUSED = {
    "BTC-CS-": "a combination of several instruments",
    "BTC-STRD-": "a combination of several instruments",
    "BTC-CSR12-": "a combination of several instruments",
}


def kept(name: str) -> list[dict[str, Any]]:
    path = CAPTURES / "deribit" / name
    if not path.exists():
        pytest.skip("no recordings of deribit beside the repository")
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_alone(readers: dict[Stream, Adapter], raw: str) -> list[Output] | None:
    """Read a message as the next of its stream; None where a table says that it is no event."""
    if any(part in raw for part in REFUSED):
        with pytest.raises(BadPayload):
            parse(reader_of("book.100ms"), [raw.encode()])
        return None
    if any(part in raw for part in SILENT):
        assert parse(reader_of("book.100ms"), [raw.encode()]) == []
        return None
    stream = DeribitVenue().stream_of(TapeLine(dir="in", raw=raw))
    assert stream is not None
    if stream not in readers:
        readers[stream] = adapter(Deribit, [stream])
    return parse(readers[stream], [raw.encode()])


def test_sample_messages_are_read() -> None:
    # The snapshot and its change are of one moment; the change comes first in the file.
    samples = sorted(kept("samples.jsonl"), key=lambda one: '"type":"change"' in one["raw"])
    fed: dict[str, type[object]] = {
        "trades": Trade,
        "ticker": Derivative,
        "quote": Quote,
        "book": Book,
    }
    readers: dict[Stream, Adapter] = {}
    read = 0
    for sample in samples:
        if '"error":' in sample["raw"]:
            assert parse(reader_of("quote"), [sample["raw"].encode()]) == [Leave("rate_limited")]
            continue
        is_book = '"channel":"book.' in sample["raw"]
        outputs = read_alone(readers if is_book else {}, sample["raw"])
        if outputs is not None:
            name = json.loads(sample["raw"])["params"]["channel"].partition(".")[0]
            assert only(fed[name], outputs), sample["raw"]
            read += 1
    assert read == 7


def test_others_make_the_same_of_the_same_messages() -> None:
    readers: dict[Stream, Adapter] = {}
    compared = 0
    for pair in kept("expected.jsonl"):
        events = read_alone(readers, pair["raw"])
        if events is None:
            continue
        if pair["schema"] == "tardis":
            compared += sum(compare(other, events) for other in pair["expected"])
        else:
            compared += compare_asserted(pair["expected"]["asserts"], events)
    assert compared == 19


def compare(other: dict[str, Any], events: list[Output]) -> int:
    """Compare a normalised message of tardis-dev with our events of the same frame."""
    match other["type"]:
        case "trade":
            (trade,) = (one for one in only(Trade, events) if one.id == other["id"])
            assert trade.side == other["side"]
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "book_change":
            (change,) = only(Book, events)
            assert change.snapshot == other["isSnapshot"]
            for mine, theirs in ((change.bids, other["bids"]), (change.asks, other["asks"])):
                assert [(float(price), float(size)) for price, size in mine] == [
                    (one["price"], one["amount"]) for one in theirs
                ]
        case "derivative_ticker" | "option_summary":
            (derived,), (day,) = only(Derivative, events), only(Ticker, events)
            assert is_same(derived.mark, other["markPrice"])
            assert is_same(derived.open_interest, other["openInterest"])
            assert is_same(derived.funding_rate, other.get("fundingRate"))
            assert is_same(day.last, other["lastPrice"])
        case "book_ticker":
            (day,) = only(Ticker, events)
            assert is_same(day.bid, other["bidPrice"]) and is_same(day.ask, other["askPrice"])
        case "liquidation":  # not carried of this exchange; the trade is there
            return 0
        case kind:
            raise AssertionError(kind)
    return 1


def compare_asserted(asserts: dict[str, Any], events: list[Output]) -> int:
    """Compare what crypto-msg-parser asserts of a frame with our events of it.

    Its contracts are the amounts sent; it takes an amount in USD for contracts of 10 USD each, so
    the quantities that it makes of them are not compared.
    """
    event = next(one for one in events if isinstance(one, Book | Trade | Quote | Derivative))
    assert event.ts == asserts["timestamp"] * 1_000
    if isinstance(event, Trade):
        assert event.side == (asserts.get("trades[0].side") or asserts["trade.side"])
        assert is_same(event.size, asserts["trades[0].quantity_contract"])
    if isinstance(event, Book):
        for name, side in (("bids", event.bids), ("asks", event.asks)):
            assert len(side) == asserts[f"orderbook.{name}.len()"]
            for at in (0, 2):
                key = f"orderbook.{name}[{at}]"
                assert is_same(side[at][0], asserts[f"{key}.price"])
                assert is_same(side[at][1], asserts[f"{key}.quantity_contract"])
    if isinstance(event, Quote):
        assert is_same(event.bid, asserts["bbo_msg.bid_price"])
        assert is_same(event.ask, asserts["bbo_msg.ask_price"])
    return 1


def test_the_venue_answers_and_the_adapter_understands_it() -> None:
    venue = DeribitVenue()
    recording = Session(Deribit, venue, SESSION)
    unknown = Stream("quote", "NOSUCH-PERPETUAL")
    reader = adapter(Deribit, [*recording.streams, unknown])
    asked: list[Stream] = []
    refused: list[Refused] = []
    for send in only(Send, reader.opened()):
        ack = venue.request(Deribit.path, send.frame)
        asked += ack.streams
        refused += only(Refused, parse(reader, [one.encode() for one in ack.frames]))
    assert set(asked) == set(recording.streams)
    assert refused == [Refused((unknown,), "not accepted")]
    (beat,) = venue.beats(recording.streams)
    (answer,) = only(Send, parse(reader, [str(beat).encode()]))
    assert parse(reader, [one.encode() for one in venue.request("", answer.frame).frames]) == []
    back, again = only(Send, reader.resync((asked[0],), 0))
    assert venue.request("", back.frame).unsubscribe
    assert venue.request("", again.frame).streams == (asked[0],)
    assert venue.request("", "nonsense").streams == ()
    assert {venue.rest_key(path) for path in Deribit.listing_paths} == {"listing"}


def test_who_comes_late_is_told_a_book_that_goes_on() -> None:
    recording = session()
    stream = Stream("book.100ms", PERPETUAL)
    own = [one for one in recording.frames if f'"channel":"book.{PERPETUAL}.'.encode() in one]
    standing = DeribitVenue().standing(stream, {})
    assert standing is not None and standing.told() is None
    for frame in own[:10]:
        standing.take(frame)
    told = standing.told()
    assert told is not None
    late = parse(reader_of("book.100ms"), [told, *own[10:]])
    assert only(Health, late) == []
    assert clients_books(late) == clients_books(parse(reader_of("book.100ms"), own))
