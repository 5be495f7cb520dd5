"""Kraken: checksums, acks, refusals, trades, the listing; whole frames from ``payloads/kraken``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from adapters.base import Adapter, Health, Leave, Output, Refused, Send, Stream
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.kraken.adapter import Kraken
from adapters.exchanges.kraken.frames import checksum
from adapters.exchanges.kraken.venue import KrakenVenue
from feed.errors import BadPayload
from feed.models import Book, Depth, Gap, Quote, Ticker, Trade
from tests.adapters.sessions import (
    PAYLOADS,
    Session,
    Sides,
    adapter,
    apply,
    best_first,
    clients_books,
    is_same,
    only,
)
from tests.adapters.tapes import CAPTURES, captures

SESSION = PAYLOADS / "kraken" / "session.jsonl"
SAMPLES = [PAYLOADS / "kraken" / "samples.jsonl", CAPTURES / "kraken-v2" / "samples.jsonl"]
BOOK = Stream("book-25", "XRP/USD")
recordings = pytest.mark.parametrize(
    "path",
    [pytest.param(SESSION, id="bundled"), *captures("kraken-v2")],
)


def session(path: Path = SESSION) -> Session:
    return Session(Kraken, KrakenVenue(), path)


def frame(channel: str, data: str, type_: str = "update") -> bytes:
    return f'{{"channel":"{channel}","type":"{type_}","data":[{data}]}}'.encode()


def books_of(recording: Session) -> list[bytes]:
    return [one for one in recording.frames if one.startswith(b'{"channel":"book"')]


def trade(number: int, price: str = "1.10", qty: str = "2.00", type_: str = "update") -> bytes:
    data = (
        f'{{"symbol":"XRP/USD","side":"sell","price":{price},"qty":{qty},"ord_type":"limit",'
        f'"trade_id":{number},"timestamp":"2026-08-02T04:23:45.665579Z"}}'
    )
    return frame("trade", data, type_)


def reply(**fields: object) -> bytes:
    return json.dumps({"method": "subscribe", **fields}).encode()


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def kraken(*streams: Stream) -> Kraken:
    reader = adapter(Kraken, streams or [Stream("trade", "XRP/USD")])
    assert isinstance(reader, Kraken)
    return reader


@recordings
def test_every_checksum_is_right_by_a_book_kept_the_simplest_way(path: Path) -> None:
    recording = session(path)
    books: dict[str, Sides] = {}
    checked = 0
    for message in recording.payloads():
        if message.get("channel") != "book":
            continue
        (data,) = message["data"]
        sides = books.setdefault(data["symbol"], ({}, {}))
        if message["type"] == "snapshot":
            sides[0].clear()
            sides[1].clear()
        given = ([(one["price"], one["qty"]) for one in data[side]] for side in ("bids", "asks"))
        apply(sides, *given)
        bids, asks = best_first(sides)
        sides[0].clear()
        sides[1].clear()
        apply(sides, bids[:25], asks[:25])
        digits = "".join(
            text.replace(".", "").lstrip("0")
            for one in (asks[:10], bids[:10])
            for level in one
            for text in level
        )
        assert crc32(digits.encode()) == int(data["checksum"]) == checksum(bids[:10], asks[:10])
        checked += 1
    done = recording.run()
    assert checked == len(books_of(recording))
    assert checked == len(only(Book, done.outputs))
    assert only(Health, done.outputs) == []
    ((symbol, naive),) = books.items()
    assert clients_books(done.outputs) == {f"book.kraken.{symbol.replace('/', '-')}": naive}


def test_the_recorded_sessions_have_as_many_book_messages_as_documented() -> None:
    paths = sorted((CAPTURES / "kraken-v2").glob("session_*"))
    if not paths:
        pytest.skip("no recordings of kraken beside the repository")
    counts = [len(books_of(session(path))) for path in paths]
    assert counts == [2052, 1147]


def test_the_ack_says_the_depth_whatever_was_asked_for() -> None:
    recording = session()
    reader = kraken(Stream("book-100", "XRP/USD"))
    outputs = parse(reader, recording.frames)
    assert only(Health, outputs) == []
    assert clients_books(outputs) == clients_books(session().run().outputs)
    (fresh,) = reader.resync([BOOK], 0)[1:]
    assert isinstance(fresh, Send) and '"depth":25' in fresh.frame


def test_a_wrong_checksum_makes_that_book_alone_invalid_until_a_proven_snapshot() -> None:
    books = books_of(session())
    neighbour = [one.replace(b"XRP/USD", b"ETH/USD") for one in books]
    reader = kraken(BOOK, Stream("book-25", "ETH/USD"))
    parse(reader, [*books[:5], *neighbour[:5]])
    (data,) = json.loads(books[5], parse_float=str)["data"]
    broken = parse(reader, [books[5].replace(str(data["checksum"]).encode(), b"12345")])
    assert broken[0] == Health("XRP/USD", ("book", "depth", "quote"), "invalid", "checksum")
    assert broken[1] == Gap("book.kraken.XRP-USD", 0, None, 0, 0, "upstream_sequence", None)
    sends = only(Send, broken)
    assert [json.loads(one.frame)["method"] for one in sends] == ["unsubscribe", "subscribe"]
    assert all(json.loads(one.frame)["params"]["symbol"] == ["XRP/USD"] for one in sends)
    assert len(broken) == 4
    # What was on its way is dropped, and the wish is not repeated for a while.
    dropped = parse(reader, books[6:10], 1)
    assert [one for one in dropped if getattr(one, "topic", "") != "depth.kraken.ETH-USD"] == []
    assert only(Book, parse(reader, neighbour[5:8], 1))
    assert len(only(Send, parse(reader, books[10:12], RESUBSCRIBE_US))) == 2
    fresh = parse(reader, [books[0]], RESUBSCRIBE_US + 1)
    assert only(Book, fresh)[0].snapshot
    assert only(Depth, fresh)
    assert only(Quote, fresh)
    assert fresh[-1] == Health("XRP/USD", ("book", "depth", "quote"), "live", None)
    assert only(Book, parse(reader, books[1:4], RESUBSCRIBE_US + 2))


def test_a_snapshot_with_a_wrong_checksum_is_not_shown_and_asked_for_again() -> None:
    samples = [one for one in SAMPLES if one.exists()]
    (invented,) = (
        json.loads(line)["raw"]
        for line in samples[0].read_text().splitlines()
        if '\\"channel\\":\\"book\\"' in line and '\\"snapshot\\",' in line
    )
    outputs = parse(kraken(Stream("book-10", "ETH/USDT")), [invented.encode()])
    assert [type(one) for one in outputs] == [Send, Send]


def test_an_update_that_finds_no_snapshot_asks_for_one() -> None:
    outputs = parse(kraken(BOOK), books_of(session())[1:2])
    assert [type(one) for one in outputs] == [Send, Send]


def test_a_heartbeat_lets_waiting_depth_go() -> None:
    recording = session()
    reader = recording.adapter(["depth"])
    books = books_of(recording)
    parse(reader, books[:6])
    assert only(Depth, parse(reader, [b'{"channel":"heartbeat"}']))
    assert parse(reader, [b'{"channel":"heartbeat"}']) == []


def test_a_skipped_trade_id_is_a_gap_and_a_repeated_one_is_dropped() -> None:
    outputs = parse(kraken(), [trade(5), trade(5), trade(6), trade(4), trade(10)])
    assert [one.id for one in only(Trade, outputs)] == ["5", "6", "10"]
    gap = Gap("trade.kraken.XRP-USD", 0, None, 0, 0, "upstream_sequence", 3)
    assert outputs.index(gap) == len(outputs) - 2


def test_trades_of_a_snapshot_are_old_but_what_follows_counts_from_them() -> None:
    outputs = parse(kraken(), [trade(5, type_="snapshot"), trade(7)])
    assert [type(one) for one in outputs] == [Gap, Trade]
    assert only(Gap, outputs)[0].lost == 1


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        pytest.param("1.10", "1.10", id="trailing-zero"),
        pytest.param("5e-8", "0.00000005", id="exponent"),
        pytest.param("1.50E+3", "1500", id="positive-exponent"),
        pytest.param("123456789012345678901234567890.123456789", None, id="long"),
        pytest.param("0", "0", id="integer"),
    ],
)
def test_numbers_keep_their_digits(sent: str, shown: str | None) -> None:
    (event,) = only(Trade, parse(kraken(), [trade(1, price=sent, qty=sent)]))
    assert (event.price, event.size) == (shown or sent, shown or sent)
    assert event.ts == 1785644625665579
    assert event.side == "sell"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(trade(1, price="-1.0"), id="negative"),
        pytest.param(trade(1, price='"1.0"'), id="text"),
        pytest.param(trade(1, price="null"), id="null"),
        pytest.param(trade(-1), id="negative-id"),
        pytest.param(trade(1).replace(b"XRP", b"ETH"), id="symbol-not-carried"),
        pytest.param(trade(1).replace(b'"sell"', b'"short"'), id="side"),
        pytest.param(trade(1).replace(b"Z", b"+01:00"), id="time-zone"),
        pytest.param(trade(1, type_="delta"), id="type"),
        pytest.param(reply(success=False, error="no"), id="refusal-of-nothing"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: bytes) -> None:
    with pytest.raises(BadPayload):
        parse(kraken(), [bad])


def test_a_refusal_names_its_stream_by_symbol_or_by_request() -> None:
    streams = [
        Stream("book-25", "XRP/USD"),
        Stream("book-25", "ETH/USD"),
        Stream("trade", "XRP/USD"),
    ]
    reader = kraken(*streams)
    frames = [json.loads(one.frame) for one in only(Send, reader.opened())]
    assert [(one["params"]["channel"], one["params"]["symbol"]) for one in frames] == [
        ("book", ["XRP/USD", "ETH/USD"]),
        ("trade", ["XRP/USD"]),
    ]
    pair = "Currency pair not supported ETH/USD"
    of_symbol = reply(success=False, error=pair, symbol="ETH/USD", req_id=1)
    assert parse(reader, [of_symbol]) == [Refused((streams[1],), pair)]
    depth = "Subscription depth not supported"
    of_request = reply(success=False, error=depth, req_id=1)
    assert parse(reader, [of_request]) == [Refused(tuple(streams[:2]), depth)]
    assert parse(reader, [reply(success=False, error="Exceeded msg rate")]) == [
        Leave("rate_limited")
    ]


def test_only_the_trades_channel_is_asked_for_without_a_snapshot() -> None:
    instrument = Kraken.instrument("XRP/USD")
    assert instrument is not None
    streams = Kraken.streams(instrument, Kraken.kinds)
    params = [json.loads(one.frame)["params"] for one in only(Send, kraken(*streams).opened())]
    assert params == [
        {"channel": "book", "symbol": ["XRP/USD"], "depth": 100},
        {"channel": "trade", "symbol": ["XRP/USD"], "snapshot": False},
        {"channel": "ticker", "symbol": ["XRP/USD"], "event_trigger": "trades"},
    ]


def test_the_listing_gives_websocket_names() -> None:
    # Fields as documented for AssetPairs.
    common: dict[str, Any] = {"pair_decimals": 1, "lot_decimals": 8}
    body = {
        "error": [],
        "result": {
            "XXBTZUSD": {"wsname": "XBT/USD", "status": "online", "tick_size": "0.1", **common},
            "XDGUSD": {"wsname": "XDG/USD", "status": "post_only", **common},
            "ETHXBT.d": {"altname": "ETHXBT.d", **common},
            "AAPLXUSD": {"wsname": "AAPLx/USD", **common},
        },
    }
    found = Kraken.instruments([json.dumps(body).encode()])
    assert [(one.native, one.symbol, one.state) for one in found] == [
        ("BTC/USD", "BTC-USD", "trading"),
        ("DOGE/USD", "DOGE-USD", "post_only"),
        ("AAPLx/USD", "AAPL_78_-USD", "trading"),
    ]
    assert (found[0].price_step, found[1].price_step, found[0].size_step) == (
        "0.1",
        "0.1",
        "0.00000001",
    )
    assert all(Kraken.instrument(one.native) is not None for one in found)
    with pytest.raises(BadPayload):
        Kraken.instruments([b'{"error":["EService:Unavailable"]}'])
    assert Kraken.instrument("XRPUSD") is None


@pytest.mark.parametrize("path", SAMPLES, ids=["bundled", "kraken-v2"])
def test_sample_messages_are_read(path: Path) -> None:
    if not path.exists():
        pytest.skip("no recordings of kraken beside the repository")
    expected = {"trade": Trade, "ticker": Ticker}
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        message = json.loads(sample["raw"], parse_float=str, parse_int=str)
        if sample["dir"] != "in":
            continue
        channel = message.get("channel", "trade")
        native = message.get("data", [{}])[0].get("symbol", "BTC/USD")
        reader = kraken(Stream("book-10" if channel == "book" else channel, native))
        if message.get("success") is False:
            with pytest.raises(BadPayload):  # says neither the request nor the symbol
                parse(reader, [sample["raw"].encode()])
            continue
        outputs = parse(reader, [sample["raw"].encode()])
        if channel in expected and "data" in message:
            assert [type(one) for one in outputs] == [expected[channel]] * len(message["data"])
        for event, sent in zip(only(Trade, outputs), message.get("data", ()), strict=False):
            assert (event.id, event.price, event.size, event.side) == (
                *(sent["trade_id"], sent["price"], sent["qty"], sent["side"]),
            )
        for day, sent in zip(only(Ticker, outputs), message.get("data", ()), strict=False):
            shown = (day.last, day.high, day.low, day.volume, day.bid, day.ask)
            assert shown == tuple(
                sent[key] for key in ("last", "high", "low", "volume", "bid", "ask")
            )


#: Pairs that say something else on purpose, by a part of the message.
DIFFERENT = {'"channel":"book"': "made without a checksum, which no book of ours is shown without"}


def test_others_make_the_same_of_the_same_messages() -> None:
    path = CAPTURES / "kraken-v2" / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings of kraken beside the repository")
    compared = 0
    reader = kraken(
        Stream("trade", "BTC/USD"), Stream("ticker", "ANETx/USD"), Stream("book-10", "BTC/USD")
    )
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        if any(part in pair["raw"] for part in DIFFERENT):
            with pytest.raises(BadPayload):
                parse(reader, [pair["raw"].encode()])
            continue
        events = parse(reader, [pair["raw"].encode()])
        assert len(events) == len(pair["expected"])
        for event, other in zip(only(Trade, events), pair["expected"], strict=True):
            assert (event.id, event.side) == (other["id"], other["side"])
            assert is_same(event.price, other["price"]) and is_same(event.size, other["amount"])
        compared += 1
    assert compared == 3


def test_the_venue_answers_each_symbol_with_its_recorded_ack() -> None:
    recording = session()
    assert recording.streams == [BOOK]
    venue = KrakenVenue()
    recording = Session(Kraken, venue, SESSION)
    asked = {"channel": "book", "symbol": ["XRP/USD", "ABC/USD"], "depth": 100}
    ack = venue.request("/v2", json.dumps({"method": "subscribe", "params": asked, "req_id": 7}))
    assert ack.streams == (BOOK,) and not ack.unsubscribe
    served, refused = (json.loads(one) for one in ack.frames)
    recorded = next(json.loads(one) for one in recording.frames if b'"method"' in one)
    assert served == recorded | {"req_id": 7}
    assert (refused["success"], refused["symbol"], refused["req_id"]) == (False, "ABC/USD", 7)
    back = venue.request("/v2", json.dumps({"method": "unsubscribe", "params": asked}))
    assert back.unsubscribe and back.streams == (BOOK,)
    (pong,) = venue.request("/v2", '{"method":"ping","req_id":3}').frames
    assert json.loads(pong) == {"method": "pong", "req_id": 3}
    assert venue.request("/v2", "nonsense").streams == ()
    assert venue.rest_key("/0/public/AssetPairs?pair=XBTUSD") == "listing"
    assert venue.rest_key("/0/public/Depth") is None


def test_the_adapter_understands_what_the_venue_answers() -> None:
    venue = KrakenVenue()
    Session(Kraken, venue, SESSION)
    streams = [
        Stream("book-100", "XRP/USD"),
        Stream("trade", "XRP/USD"),
        Stream("trade", "ABC/USD"),
    ]
    reader = kraken(*streams)
    answers = [
        answer.encode()
        for send in only(Send, reader.opened())
        for answer in venue.request("/v2", send.frame).frames
    ]
    assert [one.streams for one in only(Refused, parse(reader, answers))] == [(streams[2],)]
