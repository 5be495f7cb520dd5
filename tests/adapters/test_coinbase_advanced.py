"""Coinbase Advanced Trade: one number for all of a connection; ``payloads/coinbase-advanced``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.base import (
    Adapter,
    Health,
    Leave,
    Mark,
    Output,
    Refused,
    Resumed,
    Send,
    Stream,
    TapeLine,
)
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.coinbase_advanced.adapter import TAKER_SIDE, CoinbaseAdvanced
from adapters.exchanges.coinbase_advanced.venue import CoinbaseAdvancedVenue
from adapters.registry import exchanges_of
from adapters.tape import read
from feed.errors import BadPayload
from feed.models import Book, Depth, Gap, Quote, Ticker, Trade
from tests.adapters import broken
from tests.adapters.sessions import (
    PAYLOADS,
    Session,
    Sides,
    adapter,
    apply,
    best_first,
    clients_books,
    only,
)
from tests.adapters.tapes import CAPTURES, captures

NAME = "coinbase-advanced"
SESSION = PAYLOADS / NAME / "session.jsonl"
TIME = "2026-08-09T21:05:48.228568804Z"
TS = 1786309548228568
recordings = pytest.mark.parametrize("path", [pytest.param(SESSION, id="bundled"), *captures(NAME)])


def session(path: Path = SESSION) -> Session:
    return Session(CoinbaseAdvanced, CoinbaseAdvancedVenue(), path)


def advanced(*channels: str, natives: Sequence[str] = ("BTC-USD",)) -> CoinbaseAdvanced:
    asked = [Stream(one, native) for native in natives for one in channels]
    reader = adapter(CoinbaseAdvanced, asked)
    assert isinstance(reader, CoinbaseAdvanced)
    return reader


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def message(number: int, channel: str, *events: object) -> bytes:
    fields = {"channel": channel, "timestamp": TIME, "sequence_num": number, "events": events}
    return json.dumps(fields).encode()


def book(number: int, type_: str, *changes: tuple[str, str, str], native: str = "BTC-USD") -> bytes:
    keys = ("side", "price_level", "new_quantity")
    updates = [dict(zip(keys, one, strict=True)) | {"event_time": TIME} for one in changes]
    return message(number, "l2_data", {"type": type_, "product_id": native, "updates": updates})


def snapshot(number: int, bid: str = "100.00", native: str = "BTC-USD") -> bytes:
    best = (("bid", bid, "1.0"), ("bid", "99.00", "2"), ("offer", "101.00", "3"))
    return book(number, "snapshot", *best, native=native)


def trades(number: int, *ids: int, type_: str = "update") -> bytes:
    given = [
        {
            "product_id": "BTC-USD",
            "trade_id": str(one),
            "price": "65083.670",
            "size": "0.10",
            "time": TIME,
            "side": "SELL",
        }
        for one in sorted(ids, reverse=True)
    ]
    return message(number, "market_trades", {"type": type_, "trades": given})


def beat(number: int) -> bytes:
    return message(number, "heartbeats", {"current_time": "", "heartbeat_counter": 1})


def asked(outputs: Sequence[Output]) -> list[tuple[str, str, list[str]]]:
    requests = [json.loads(one.frame) for one in only(Send, outputs)]
    return [(one["type"], one["channel"], one["product_ids"]) for one in requests]


def sent(recording: Session, channel: str) -> Iterator[dict[str, Any]]:
    for one in recording.payloads():
        if one["channel"] == channel:
            yield from one["events"]


@recordings
def test_every_trade_after_the_first_snapshot_is_there_with_the_taker_s_side(path: Path) -> None:
    recording = session(path)
    expected = [
        (f"trade.{NAME}.{one['product_id']}", one["trade_id"], one["price"], one["size"], side)
        for event in sent(recording, "market_trades")
        if event["type"] == "update"
        for one in reversed(event["trades"])
        for side in [{"BUY": "sell", "SELL": "buy"}[one["side"]]]
    ]
    found = only(Trade, recording.run().outputs)
    assert len(expected) > 20
    assert [(t.topic, t.id, t.price, t.size, t.side) for t in found] == expected


@recordings
def test_books_are_the_exchange_s_books(path: Path) -> None:
    recording = session(path)
    naive: dict[str, Sides] = {}
    for event in sent(recording, "l2_data"):
        sides = naive.setdefault(f"book.{NAME}.{event['product_id']}", ({}, {}))
        for one in event["updates"]:
            level = [(one["price_level"], one["new_quantity"])]
            apply(sides, *((level, ()) if one["side"] == "bid" else ((), level)))
    shown = clients_books(recording.run().outputs)
    assert shown.keys() == naive.keys()
    for topic, sides in naive.items():
        bids, asks = best_first(sides)
        assert shown[topic] == (dict(bids[:1_000]), dict(asks[:1_000]))


@recordings
def test_every_ticker_that_shows_something_new_is_there_digit_for_digit(path: Path) -> None:
    recording = session(path)
    keys = ("price", "high_24_h", "low_24_h", "volume_24_h", "best_bid", "best_ask")
    last: dict[str, tuple[str, ...]] = {}
    expected = []
    for event in sent(recording, "ticker"):
        for one in event["tickers"]:
            values = tuple(one[key] for key in keys)
            if last.get(one["product_id"]) != values:
                last[one["product_id"]] = values
                expected.append(values)
    found = only(Ticker, recording.run().outputs)
    assert expected
    assert [(t.last, t.high, t.low, t.volume, t.bid, t.ask) for t in found] == expected


def test_times_are_the_exchange_s() -> None:
    epoch = (
        snapshot(0)
        .replace(TIME.encode(), b"1970-01-01T00:00:00Z")
        .replace(b'"timestamp": "1970-01-01T00:00:00Z"', b'"timestamp": "%s"' % TIME.encode())
    )
    for first in (snapshot(0), epoch):
        outputs = parse(advanced("level2"), [first])
        assert {one.ts for one in only(Book, outputs)} == {TS}
        assert {one.ts for one in only(Depth, outputs)} == {TS}


def test_the_subscription_is_one_frame_a_channel_and_heartbeats_once() -> None:
    instruments = [CoinbaseAdvanced.instrument(one) for one in ("BTC-USD", "ETH-USD")]
    streams = [
        stream
        for one in instruments
        if one is not None
        for stream in CoinbaseAdvanced.streams(one, CoinbaseAdvanced.kinds)
    ]
    first, *others = adapter(CoinbaseAdvanced, streams).opened()
    assert isinstance(first, Send)
    assert json.loads(first.frame) == {"type": "subscribe", "channel": "heartbeats"}
    natives = ["BTC-USD", "ETH-USD"]
    assert asked(others) == [
        ("subscribe", channel, natives) for channel in ("level2", "market_trades", "ticker")
    ]


def test_a_hole_in_the_numbers_doubts_every_book_and_asks_for_all_afresh_once() -> None:
    natives = ("BTC-USD", "ETH-USD")
    reader = advanced("level2", "market_trades", "ticker", natives=natives)
    parse(reader, [snapshot(0), snapshot(1, native="ETH-USD"), beat(2)])
    outputs = parse(reader, [beat(4)], 1)
    kinds = ("book", "depth", "quote")
    assert only(Health, outputs) == [
        Health(native, kinds, "invalid", "sequence") for native in natives
    ]
    assert [gap.topic for gap in only(Gap, outputs)] == [f"book.{NAME}.{one}" for one in natives]
    requests = asked(outputs)
    assert requests[:3] == [
        ("unsubscribe", channel, list(natives)) for channel in ("level2", "market_trades", "ticker")
    ]
    assert requests[3:] == [("subscribe", *rest) for _, *rest in requests[:3]]
    # What comes of the old subscription finds no book, nor is it asked for again at once.
    assert parse(reader, [book(5, "update", ("bid", "100.5", "1"))], 2) == []
    assert asked(parse(reader, [beat(8)], 3)) == []
    fresh = parse(reader, [snapshot(9)], 4)
    assert only(Health, fresh) == [Health("BTC-USD", kinds, "live", None)]
    # The other's snapshot does not come.
    again = parse(reader, [book(10, "update", native="ETH-USD")], RESUBSCRIBE_US + 1)
    assert asked(again) == [
        (type_, "level2", ["ETH-USD"]) for type_ in ("unsubscribe", "subscribe")
    ]


def test_a_message_that_came_before_is_not_applied_again() -> None:
    reader = advanced("level2", "market_trades")
    old = book(1, "update", ("bid", "100.00", "7"))
    parse(reader, [snapshot(0), old, book(2, "update", ("bid", "100.00", "8"))])
    assert parse(reader, [old, snapshot(1), trades(2, 5)]) == []


def test_the_first_number_may_be_any() -> None:
    assert only(Health, parse(advanced("level2"), [snapshot(701), beat(702)])) == []


def test_old_trades_are_no_news_but_what_follows_counts_from_them() -> None:
    reader = advanced("market_trades")
    outputs = parse(reader, [trades(0, 3, 4, 5, type_="snapshot"), trades(1, 6, 7), trades(2, 10)])
    assert [one.id for one in only(Trade, outputs)] == ["6", "7", "10"]
    topic = f"trade.{NAME}.BTC-USD"
    assert only(Gap, outputs) == [Gap(topic, 0, None, 0, 0, "upstream_sequence", 2)]


def test_the_snapshot_after_a_hole_brings_the_trades_that_were_lost() -> None:
    reader = advanced("market_trades")
    parse(reader, [trades(0, 4, 5, type_="snapshot"), trades(1, 6)])
    lost = parse(reader, [beat(3)])
    assert asked(lost) == [
        (type_, "market_trades", ["BTC-USD"]) for type_ in ("unsubscribe", "subscribe")
    ]
    outputs = parse(reader, [trades(4, 5, 6, 7, 8, type_="snapshot"), trades(5, 9)])
    assert [one.id for one in only(Trade, outputs)] == ["7", "8", "9"]
    assert only(Gap, outputs) == []


def test_after_a_lost_connection_the_snapshot_fills_up_and_repeats_are_dropped() -> None:
    reader = advanced("market_trades")
    reader.resume("BTC-USD", Mark(6))
    outputs = parse(reader, [trades(0, 5, 6, 7, type_="snapshot"), trades(1, 7, 8)])
    assert [one.id for one in only(Trade, outputs)] == ["7", "8"]
    assert only(Resumed, outputs) == [Resumed("BTC-USD", Mark(6), 7)]
    assert reader.marks() == {"BTC-USD": Mark(8)}
    quiet = advanced("market_trades")
    quiet.resume("BTC-USD", Mark(6))
    assert parse(quiet, [trades(0, 5, 6, type_="snapshot")]) == [Resumed("BTC-USD", Mark(6), 7)]


def test_a_snapshot_told_often_is_not_taken_for_numbers_that_begin_anew() -> None:
    reader = advanced("market_trades")
    told = [trades(at, *range(1, 101), type_="snapshot") for at in range(30)]
    assert parse(reader, told) == []


def test_a_crossed_book_is_invalid_until_a_fresh_snapshot() -> None:
    reader = advanced("level2")
    parse(reader, [snapshot(0)])
    crossed = parse(reader, [book(1, "update", ("bid", "101.00", "1"))])
    assert only(Health, crossed)[0].reason == "crossed"
    assert only(Quote, crossed) == []
    assert parse(reader, [snapshot(2, bid="101.50")]) == []
    assert only(Health, parse(reader, [snapshot(3)]))[0].state == "live"


def test_a_book_without_its_snapshot_is_asked_for() -> None:
    outputs = parse(advanced("level2"), [book(0, "update", ("bid", "1", "1"))])
    assert asked(outputs) == [
        (type_, "level2", ["BTC-USD"]) for type_ in ("unsubscribe", "subscribe")
    ]


def test_books_of_more_than_1000_levels_show_their_window() -> None:
    asks = [("offer", f"{101 + number / 100:.2f}", "1") for number in range(1_500)]
    first = book(0, "snapshot", ("bid", "100.00", "1"), *asks)
    then = book(1, "update", ("offer", "101.00", "0"))
    (shown,) = clients_books(parse(advanced("level2"), [first, then])).values()
    assert len(shown[1]) == 1_000
    assert "101.00" not in shown[1] and asks[1_000][1] in shown[1]


def test_resync_takes_the_streams_of_one_instrument_afresh() -> None:
    reader = advanced("level2", "ticker", natives=("BTC-USD", "ETH-USD"))
    requests = asked(reader.resync([Stream("ticker", "ETH-USD")], 0))
    assert requests == [(type_, "ticker", ["ETH-USD"]) for type_ in ("unsubscribe", "subscribe")]


def test_one_bad_product_is_refused_and_the_others_asked_for_again() -> None:
    reader = advanced("level2", "ticker", natives=("BTC-USD", "FOO-USD"))
    reason = "FOO-USD is not a valid product"
    error = {"type": "error", "message": "failure to subscribe", "reason": reason}
    refused, *again = parse(reader, [json.dumps(error).encode()])
    assert isinstance(refused, Refused) and reason in refused.reason
    assert {one.native for one in refused.streams} == {"FOO-USD"}
    assert asked(again) == [("subscribe", one, ["BTC-USD"]) for one in ("level2", "ticker")]
    unknown = b'{"type":"error","message":"authentication failure"}'
    assert parse(reader, [unknown]) == [Leave("error")]


def test_channels_left_out_are_counted_and_unknown_ones_refused_but_no_loss() -> None:
    reader = advanced("level2")
    parse(reader, [snapshot(0)])
    frames = [message(at, channel, {}) for at, channel in enumerate(CoinbaseAdvanced.ignored, 1)]
    assert parse(reader, frames) == []
    number = len(frames) + 1
    surprise = message(number, "surprise", {})
    with pytest.raises(BadPayload):
        parse(reader, [surprise])
    assert list(reader.unread(surprise, 0)) == []
    assert only(Health, parse(reader, [beat(number + 1)])) == []


@pytest.mark.parametrize(
    "bad",
    [
        book(1, "update", ("bid", "NaN", "1")),
        book(1, "update", ("ask", "1", "1")),
        book(1, "update", native="ETH-USD"),
        book(1, "update", ("bid", "1", "1"))[:-9],
        trades(1, 5).replace(b'"5"', b'"five"'),
        trades(1, 5).replace(b"SELL", b"NONE"),
        beat(1).replace(TIME.encode(), b"now"),
    ],
)
def test_an_unreadable_frame_changes_nothing_and_the_next_number_shows_its_loss(
    bad: bytes,
) -> None:
    reader = advanced("level2", "market_trades")
    parse(reader, [snapshot(0)])
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    assert list(reader.unread(bad, 0)) == []
    outputs = parse(reader, [beat(2)])
    assert [health.reason for health in only(Health, outputs)] == ["sequence"]


def test_the_listing_is_read_each_book_once() -> None:
    body = next(line.raw for line in read(SESSION) if line.dir == "rest")
    assert body is not None
    found = CoinbaseAdvanced.instruments([body.encode()])
    assert [(one.symbol, one.native, one.type, one.state) for one in found] == [
        ("BTC-USD", "BTC-USD", "spot", "trading"),
        ("SOL-USD", "SOL-USD", "spot", "trading"),
    ]
    assert (found[0].price_step, found[0].size_step) == ("0.01", "0.00000001")
    products = json.loads(body)["products"]
    odd = [
        products[0] | {"product_type": "FUTURE", "product_id": "BIT-28AUG26-CDE"},
        products[0] | {"status": "delisted"},
        products[0] | {"trading_disabled": True},
    ]
    states = CoinbaseAdvanced.instruments([json.dumps({"products": odd}).encode()])
    assert [one.state for one in states] == ["delisted", "disabled"]
    with pytest.raises(BadPayload):
        CoinbaseAdvanced.instruments([b'{"error":"rate limited"}'])
    assert CoinbaseAdvanced.instrument("BTCUSD") is None
    assert CoinbaseAdvanced.instrument("BIT-28AUG26-CDE") is None


@pytest.mark.parametrize("path", captures(NAME))
def test_the_recorded_listing_has_no_alias(path: Path) -> None:
    listed = session(path).listed
    assert {"BTC-USD", "USDT-USDC"} <= {one.native for one in listed}
    assert "BTC-USDC" not in {one.native for one in listed}
    assert len(listed) > 500


@pytest.mark.parametrize(
    "path",
    [PAYLOADS / NAME / "samples.jsonl", CAPTURES / NAME / "samples.jsonl"],
    ids=["bundled", NAME],
)
def test_sample_messages_are_read(path: Path) -> None:
    if not path.exists():
        pytest.skip("no recordings of coinbase-advanced beside the repository")
    events: list[Output] = []
    reader = advanced("level2", "market_trades", "ticker", natives=("BTC-USD", "ETH-USDT"))
    sides = []
    for line in path.read_text().splitlines():
        given = json.loads(line)
        if given["dir"] == "out":
            continue
        said = json.loads(given["raw"])
        natives = ("BTC-USD", "ETH-USDT")
        if said["channel"] != "l2_data" or said["events"][0]["type"] == "snapshot":
            reader = advanced("level2", "market_trades", "ticker", natives=natives)
        events += parse(reader, [given["raw"].encode()])
        if said["channel"] == "market_trades":
            named = said["events"][0]["trades"]
            sides += [TAKER_SIDE[one["side"]] for one in sorted(named, key=lambda t: t["trade_id"])]
    assert [one.side for one in only(Trade, events)] == sides != []
    (ticker,) = only(Ticker, events)
    assert (ticker.last, ticker.bid, ticker.ask) == ("21932.98", "21931.98", "21933.98")
    quotes = [(one.bid, one.bid_size, one.ask) for one in only(Quote, events)]
    assert quotes in (
        [],
        [("68900.00", "1.50000000", "68901.00"), ("68900.00", "2.00000000", "68901.50")],
    )


def test_a_tape_tells_by_itself_whose_it_is() -> None:
    lines = list(read(SESSION))
    assert exchanges_of(lines) == [NAME]
    assert exchanges_of([one for one in lines if one.url is None]) == [NAME]


def test_the_adapter_understands_what_the_venue_answers() -> None:
    venue = CoinbaseAdvancedVenue()
    session_ = Session(CoinbaseAdvanced, venue, SESSION)
    reader = advanced("level2", "ticker", natives=("BTC-USD", "FOO-USD"))
    frames = [send.frame for send in only(Send, reader.opened())]
    heart, level2, _ = (venue.request("/", one) for one in frames)
    assert heart.streams == () and parse(reader, [one.encode() for one in heart.frames]) == []
    refused, *again = parse(reader, [one.encode() for one in level2.frames])
    assert isinstance(refused, Refused)
    acks = [venue.request("/", one.frame) for one in only(Send, again)]
    assert [ack.streams for ack in acks] == [
        (Stream("level2", "BTC-USD"),),
        (Stream("ticker", "BTC-USD"),),
    ]
    back = venue.request("/", '{"type":"unsubscribe","channel":"ticker","product_ids":["BTC-USD"]}')
    assert back.unsubscribe and back.streams == (Stream("ticker", "BTC-USD"),)
    assert venue.request("/", "nonsense").streams == ()
    assert venue.rest_key("/api/v3/brokerage/market/products") == "listing"
    assert venue.rest_key("/api/v3/brokerage/market/products/BTC-USD/ticker") is None
    assert len(session_.streams) == 6


def test_the_venue_numbers_each_connection_and_keeps_the_tape_s_own_holes() -> None:
    venue = CoinbaseAdvancedVenue()
    frames = [beat(7), beat(8), beat(11), beat(12)]
    for frame in frames:
        venue.scan(TapeLine(dir="in", conn="ws1", raw=frame.decode()))
    for _ in range(2):
        number = venue.numbering()
        told = [json.loads(number(frame))["sequence_num"] for frame in frames]
        assert told == [0, 1, 3, 4]
    # An answer made by the venue has a number too, and a frame that is not asked for has none.
    number = venue.numbering()
    assert [json.loads(number(one))["sequence_num"] for one in (beat(7), beat(0), beat(12))] == [
        0,
        1,
        3,
    ]


async def test_over_real_sockets_nothing_is_amiss() -> None:
    outcome = await broken.play(NAME)
    assert outcome.of(Gap) == []
    broken.check_uncrossed(outcome)
    direct = session().run().outputs
    for kind in (Trade, Book, Ticker):
        assert len(outcome.of(kind)) == len(only(kind, direct)) > 0


@pytest.mark.parametrize("channel", ["ticker", "level2", "market_trades"])
async def test_over_real_sockets_a_lost_message_of_any_channel_is_noticed(channel: str) -> None:
    outcome = await broken.play(NAME, f"drop:1:channel={channel}:after=6:times=1")
    for symbol in ("BTC-USD", "SOL-USD"):
        topic = f"book.{NAME}.{symbol}"
        assert outcome.healths(topic)[-2:] == ["invalid", "live"]
        assert outcome.lost(topic, "upstream_sequence") == [None]
    # The trades that were lost came with the fresh subscription.
    found = [outcome.trade_ids(f"trade.{NAME}.{symbol}") for symbol in ("BTC-USD", "SOL-USD")]
    for ids in found:
        numbers = [int(one) for one in ids]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
    direct = only(Trade, session().run().outputs)
    assert sum(map(len, found)) == len(direct)
    assert outcome.counters.reconnects == 0, "the connection is kept"
    broken.check_uncrossed(outcome)


async def test_over_real_sockets_a_broken_connection_is_replaced() -> None:
    outcome = await broken.play(NAME, "close:after=60:times=1")
    assert outcome.counters.reconnects == 1
    for symbol in ("BTC-USD", "SOL-USD"):
        assert outcome.healths(f"book.{NAME}.{symbol}")[-1] == "live"
    broken.check_uncrossed(outcome)
