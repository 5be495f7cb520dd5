"""Coinbase: books without a proof of their own, trades that have one; ``payloads/coinbase``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.base import Adapter, Beat, Health, Leave, Output, Refused, Send, Stream
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.coinbase.adapter import TAKER_SIDE, Coinbase
from adapters.exchanges.coinbase.venue import CoinbaseVenue
from feed.errors import BadPayload
from feed.models import Book, Gap, Quote, Ticker, Trade
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

SESSION = PAYLOADS / "coinbase" / "session.jsonl"
TIME = "2021-04-17T16:43:37.078325Z"
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("coinbase-exchange")]
)


def session(path: Path = SESSION) -> Session:
    return Session(Coinbase, CoinbaseVenue(), path)


def coinbase(*channels: str, natives: Sequence[str] = ("BTC-USD",)) -> Coinbase:
    reader = adapter(Coinbase, [Stream(one, native) for native in natives for one in channels])
    assert isinstance(reader, Coinbase)
    return reader


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def message(type_: str, **fields: object) -> bytes:
    return json.dumps({"type": type_, "product_id": "BTC-USD", "time": TIME, **fields}).encode()


def match(number: int, type_: str = "match") -> bytes:
    return message(type_, trade_id=number, side="buy", size="0.10", price="57786.80")


def beat(last_trade_id: int) -> bytes:
    return message("heartbeat", sequence=90, last_trade_id=last_trade_id)


def snapshot(bid: str = "100.00", ask: str = "101.00") -> bytes:
    return message("snapshot", bids=[[bid, "1.0"], ["99.00", "2"]], asks=[[ask, "3"]])


def update(*changes: tuple[str, str, str]) -> bytes:
    return message("l2update", changes=changes)


@recordings
def test_every_trade_is_there_digit_for_digit_with_the_taker_s_side(path: Path) -> None:
    recording = session(path)
    sent = [
        (
            f"trade.coinbase.{one['product_id']}",
            one["trade_id"],
            one["price"],
            one["size"],
            one["side"],
        )
        for one in recording.payloads()
        if one["type"] == "match"
    ]
    trades = only(Trade, recording.run().outputs)
    maker = {"buy": "sell", "sell": "buy"}
    assert len(sent) >= 8
    assert [(t.topic, t.id, t.price, t.size, maker[t.side or ""]) for t in trades] == sent


@recordings
def test_books_are_the_exchange_s_books(path: Path) -> None:
    recording = session(path)
    naive: dict[str, Sides] = {}
    for one in recording.payloads():
        if one["type"] == "snapshot":
            naive[f"book.coinbase.{one['product_id']}"] = (dict(one["bids"]), dict(one["asks"]))
        elif one["type"] == "l2update":
            for side, price, size in one["changes"]:
                level = [(price, size)]
                sides = naive[f"book.coinbase.{one['product_id']}"]
                apply(sides, *((level, ()) if side == "buy" else ((), level)))
    shown = clients_books(recording.run().outputs)
    assert shown.keys() == naive.keys()
    for topic, sides in naive.items():
        if max(map(len, sides)) <= 1_000:
            assert shown[topic] == sides
        for mine, whole in zip(shown[topic], sides, strict=True):
            assert mine.items() <= whole.items()


@recordings
def test_every_ticker_is_there_digit_for_digit(path: Path) -> None:
    recording = session(path)
    keys = ("price", "open_24h", "high_24h", "low_24h", "volume_24h", "best_bid", "best_ask")
    sent = [
        tuple(one[key] for key in keys) for one in recording.payloads() if one["type"] == "ticker"
    ]
    tickers = only(Ticker, recording.run().outputs)
    assert sent
    assert [(t.last, t.open, t.high, t.low, t.volume, t.bid, t.ask) for t in tickers] == sent


def test_books_of_more_than_1000_levels_show_their_window() -> None:
    asks = [[f"{101 + number / 100:.2f}", "1"] for number in range(1_500)]
    reader = coinbase("level2_batch")
    first = parse(reader, [message("snapshot", bids=[["100.00", "1"]], asks=asks)])
    then = parse(reader, [update(("sell", "101.00", "0.00000000"))])
    (book,) = clients_books([*first, *then]).values()
    assert len(book[1]) == 1_000
    assert "101.00" not in book[1] and asks[1_000][0] in book[1]


def test_the_last_match_is_no_new_trade_but_what_follows_counts_from_it() -> None:
    outputs = parse(coinbase("matches"), [match(5, "last_match"), match(6), match(6), match(9)])
    assert [one.id for one in only(Trade, outputs)] == ["6", "9"]
    assert outputs[1] == Gap("trade.coinbase.BTC-USD", 0, None, 0, 0, "upstream_sequence", 2)


def test_a_trade_that_two_heartbeats_knew_of_and_that_never_came_is_a_gap() -> None:
    reader = coinbase("matches", "heartbeat")
    on_time = [match(5), beat(5), match(6), beat(7), match(7), beat(7), beat(7)]
    assert only(Gap, parse(reader, on_time)) == []
    assert only(Gap, parse(reader, [beat(9)])) == []  # the trades may still be on their way
    (gap,) = only(Gap, parse(reader, [beat(9)]))
    assert gap == Gap("trade.coinbase.BTC-USD", 0, None, 0, 0, "upstream_sequence", 2)
    passed = parse(reader, [beat(9), match(9), match(10)])
    assert [type(one) for one in passed] == [Beat, Trade]


def test_a_crossed_book_is_invalid_until_a_fresh_snapshot() -> None:
    reader = coinbase("level2_batch", "matches", natives=("BTC-USD", "ETH-USD"))
    parse(reader, [snapshot()])
    crossed = parse(reader, [update(("buy", "101.00", "1"))])
    assert crossed[0] == Health("BTC-USD", ("book", "depth", "quote"), "invalid", "crossed")
    assert crossed[1] == Gap("book.coinbase.BTC-USD", 0, None, 0, 0, "upstream_sequence", None)
    requests = [json.loads(one.frame) for one in only(Send, crossed)]
    channels = [{"name": "level2_batch", "product_ids": ["BTC-USD"]}]
    assert requests == [
        {"type": "unsubscribe", "channels": channels},
        {"type": "subscribe", "channels": channels},
    ]
    assert len(crossed) == 4
    assert parse(reader, [update(("buy", "98", "1"))], 1) == []
    assert len(parse(reader, [update(("buy", "98", "1"))], RESUBSCRIBE_US)) == 2
    assert parse(reader, [snapshot(bid="102.00")], RESUBSCRIBE_US + 1) == []  # crossed itself
    fresh = parse(reader, [snapshot()], RESUBSCRIBE_US + 2)
    assert len(only(Book, fresh)) == 1
    assert fresh[-1] == Health("BTC-USD", ("book", "depth", "quote"), "live", None)


def test_changes_of_one_message_are_one_event() -> None:
    reader = coinbase("level2_batch")
    parse(reader, [snapshot()])
    # In between the book is crossed, after the message it is not.
    outputs = parse(
        reader, [update(("buy", "101.50", "1"), ("sell", "101.00", "0"), ("sell", "102", "4"))]
    )
    assert [type(one) for one in outputs] == [Book, Quote]
    (quote,) = only(Quote, outputs)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("101.50", "1", "102", "4")


def test_one_bad_product_is_refused_and_the_others_asked_for_again() -> None:
    reader = coinbase("level2_batch", "matches", natives=("BTC-USD", "FOO-USD"))
    reason = "FOO-USD is not a valid product"
    error = json.dumps({"type": "error", "message": "Failed to subscribe", "reason": reason})
    refused, again = parse(reader, [error.encode()])
    assert isinstance(refused, Refused) and isinstance(again, Send)
    assert {one.native for one in refused.streams} == {"FOO-USD"}
    assert len(refused.streams) == 2
    assert reason in refused.reason
    assert "FOO-USD" not in again.frame and "BTC-USD" in again.frame
    unknown = b'{"type":"error","message":"Internal error"}'
    assert parse(reader, [unknown]) == [Leave("error")]


def test_message_types_left_out_are_silent_and_unknown_ones_are_refused() -> None:
    reader = coinbase("matches")
    for type_ in Coinbase.ignored:
        assert parse(reader, [message(type_)]) == []
    for bad in (message("surprise"), match(1).replace(b"BTC", b"ETH"), match(-1)):
        with pytest.raises(BadPayload):
            parse(reader, [bad])


def test_the_live_choice_is_what_needs_no_key() -> None:
    instrument = Coinbase.instrument("BTC-USD")
    assert instrument is not None
    channels = [one.channel for one in Coinbase.streams(instrument, Coinbase.kinds)]
    assert channels == ["level2_batch", "matches", "ticker", "heartbeat"]
    assert Coinbase.carried(Coinbase.streams(instrument, ["quote"]), instrument, ["quote"]) == (
        ("quote.coinbase.BTC-USD",),
        None,
    )


def test_the_listing_is_read() -> None:
    # Fields as documented for /products.
    product = {
        "id": "BTC-USD",
        "base_currency": "BTC",
        "quote_currency": "USD",
        "base_increment": "0.00000001",
        "quote_increment": "0.01",
        "status": "online",
        "trading_disabled": False,
    }
    off = product | {"id": "OXT-USD", "base_currency": "OXT", "trading_disabled": True}
    gone = product | {"id": "UST-USD", "base_currency": "UST", "status": "delisted"}
    found = Coinbase.instruments([json.dumps([product, off, gone]).encode()])
    assert [(one.symbol, one.native, one.state) for one in found] == [
        ("BTC-USD", "BTC-USD", "trading"),
        ("OXT-USD", "OXT-USD", "disabled"),
        ("UST-USD", "UST-USD", "delisted"),
    ]
    assert (found[0].price_step, found[0].size_step) == ("0.01", "0.00000001")
    with pytest.raises(BadPayload):
        Coinbase.instruments([b'{"message":"rate limited"}'])
    assert Coinbase.instrument("BTCUSD") is None


@pytest.mark.parametrize(
    "path",
    [PAYLOADS / "coinbase" / "samples.jsonl", CAPTURES / "coinbase-exchange" / "samples.jsonl"],
    ids=["bundled", "coinbase-exchange"],
)
def test_sample_messages_are_read(path: Path) -> None:
    if not path.exists():
        pytest.skip("no recordings of coinbase beside the repository")
    for line in path.read_text().splitlines():
        frame = json.loads(line)["raw"]
        sent = json.loads(frame)
        if sent["type"] == "unknown":
            with pytest.raises(BadPayload):
                parse(coinbase("matches"), [frame.encode()])
            continue
        (trade,) = only(Trade, parse(coinbase("matches"), [frame.encode()]))
        side = TAKER_SIDE[sent["side"]]
        assert (trade.price, trade.size, trade.side) == (sent["price"], sent["size"], side)


#: Pairs that say something else on purpose, by a part of the message.
DIFFERENT = {
    "0.-10000": "a broken size spoils its snapshot: a book with a hole is not shown",
    '"type":"last_match"': "a trade of before the subscription is not published",
}


def test_others_make_the_same_of_the_same_messages() -> None:
    path = CAPTURES / "coinbase-exchange" / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings of coinbase beside the repository")
    compared = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        frame, sent = pair["raw"].encode(), json.loads(pair["raw"])
        if any(part in pair["raw"] for part in DIFFERENT):
            continue
        reader = coinbase("level2", "matches", "ticker", natives=(sent["product_id"],))
        if sent["type"] == "l2update":
            empty = {"type": "snapshot", "product_id": sent["product_id"], "bids": [], "asks": []}
            parse(reader, [json.dumps(empty).encode()])
        events = parse(reader, [frame])
        if pair["schema"] == "crypto-msg-parser":
            asserts = pair["expected"]["asserts"]
            ts = events[0].ts if isinstance(events[0], Book | Ticker) else None
            assert ts is not None and ts // 1_000 == asserts["timestamp"]
            if (price := asserts.get("orderbook.bids[0].price")) is not None:
                (book,) = only(Book, events)
                assert is_same(book.bids[0][0], price) and book.asks == []
                assert is_same(book.bids[0][1], asserts["orderbook.bids[0].quantity_base"])
            compared += 1
            continue
        (other,) = pair["expected"]
        match other["type"]:
            case "trade":
                (trade,) = only(Trade, events)
                assert (trade.id, trade.side) == (other["id"], other["side"])
                assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
            case "book_change":
                (book,) = only(Book, events)
                for mine, theirs in ((book.bids, other["bids"]), (book.asks, other["asks"])):
                    assert [(float(price), float(size)) for price, size in mine] == [
                        (one["price"], one["amount"]) for one in theirs
                    ]
            case "book_ticker":  # theirs is a quote; ours comes from the book, with sizes
                (ticker,) = only(Ticker, events)
                assert is_same(ticker.bid, other["bidPrice"])
                assert is_same(ticker.ask, other["askPrice"])
        compared += 1
    assert compared == 5


def test_the_venue_answers_with_what_was_asked_for_under_the_tape_s_channel() -> None:
    venue = CoinbaseVenue()
    recording = Session(Coinbase, venue, SESSION)
    assert {one.channel for one in recording.streams} == {"level2", "matches", "ticker"}
    request = {
        "type": "subscribe",
        "product_ids": ["SKL-GBP"],
        "channels": ["level2_batch", "heartbeat"],
    }
    ack = venue.request("/", json.dumps(request))
    assert ack.streams == (Stream("level2", "SKL-GBP"), Stream("heartbeat", "SKL-GBP"))
    (answer,) = (json.loads(one) for one in ack.frames)
    assert answer["type"] == "subscriptions"
    back = venue.request("/", json.dumps(request | {"type": "unsubscribe"}))
    assert back.unsubscribe and back.streams == ack.streams
    assert venue.request("/", "nonsense").streams == ()
    assert venue.rest_key("https://api.exchange.coinbase.com/products") == "listing"
    assert venue.rest_key("/products/BTC-USD/book") is None


def test_the_adapter_understands_what_the_venue_answers() -> None:
    venue = CoinbaseVenue()
    Session(Coinbase, venue, SESSION)
    reader = coinbase("level2_batch", "matches", natives=("SKL-GBP", "FOO-USD"))
    asked = [send.frame for send in only(Send, reader.opened())]
    refused, again = parse(reader, [one.encode() for one in venue.request("/", asked[0]).frames])
    assert isinstance(refused, Refused) and isinstance(again, Send)
    ack = venue.request("/", again.frame)
    assert ack.streams == (Stream("level2", "SKL-GBP"), Stream("matches", "SKL-GBP"))
    assert parse(reader, [one.encode() for one in ack.frames]) == []


@pytest.mark.parametrize(
    ("frame", "doubted"),
    [
        pytest.param(message("l2update", changes=[["buy", "NaN", "1"]]), {"BTC-USD"}, id="one"),
        pytest.param(message("l2update")[:-9], {"BTC-USD"}, id="cut short"),
        pytest.param(b"\x00\xff garbage", {"BTC-USD", "ETH-USD"}, id="anybody's"),
        pytest.param(message("matchless"), set(), id="a type that carries no book"),
    ],
)
def test_an_unreadable_frame_gives_up_the_books_it_may_have_been_for(
    frame: bytes, doubted: set[str]
) -> None:
    natives = ("BTC-USD", "ETH-USD")
    reader = coinbase("level2_batch", natives=natives)
    for native in natives:
        parse(
            reader, [message("snapshot", product_id=native, bids=[["1", "2"]], asks=[["3", "4"]])]
        )
    with pytest.raises(BadPayload):
        parse(reader, [frame])
    outputs = list(reader.unread(frame, 1))
    assert {health.native for health in only(Health, outputs)} == doubted
    assert {gap.topic for gap in only(Gap, outputs)} == {f"book.coinbase.{one}" for one in doubted}
    assert len(only(Send, outputs)) == 2 * len(doubted)
    assert not only(Send, reader.unread(frame, 2)), "asked for once, not for every bad frame"
