"""Bithumb: whole books told as changes, bare numbers, unnumbered trades, one request for all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from adapters import tape
from adapters.base import Adapter, Checkpoint, Health, Output, Refused, Send, Stream
from adapters.exchanges.bithumb.adapter import Bithumb
from adapters.exchanges.bithumb.venue import BithumbVenue
from adapters.trade_ids import KNOWN_TRADES
from feed.errors import BadPayload
from feed.models import Book, Depth, Gap, Quote, Ticker, Trade
from tests.adapters.sessions import PAYLOADS, Session, adapter, clients_books, only
from tests.adapters.tapes import CAPTURES, captures, frames

SESSION = PAYLOADS / "bithumb" / "session.jsonl"
KINDS = ("book", "depth", "quote")
BOOK = "book.bithumb.BTC-KRW"
TRADE = "trade.bithumb.BTC-KRW"


def session() -> Session:
    return Session(Bithumb, BithumbVenue(), SESSION)


def bithumb(*channels: str, natives: Sequence[str] = ("KRW-BTC",)) -> Adapter:
    return adapter(Bithumb, [Stream(one, native) for native in natives for one in channels])


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 1) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def book(*units: tuple[str, str, str, str], at: int = 1790275855119979) -> bytes:
    """Return a book of (bid, its size, ask, its size)."""
    rows = ",".join(
        f'{{"ask_price":{ask},"bid_price":{bid},"ask_size":{ask_size},"bid_size":{bid_size}}}'
        for bid, bid_size, ask, ask_size in units
    )
    return (
        f'{{"type":"orderbook","code":"KRW-BTC","total_ask_size":1,"total_bid_size":1,'
        f'"orderbook_units":[{rows}],"level":1,"timestamp":{at},"stream_type":"REALTIME"}}'
    ).encode()


def trade(number: int, *, native: str = "KRW-BTC", **changed: str) -> bytes:
    fields = {
        "trade_price": "484500.10",
        "trade_volume": "1.50E-4",
        "ask_bid": '"BID"',
        "trade_timestamp": "1725927377174",
        "sequential_id": str(number),
        "stream_type": '"REALTIME"',
    } | changed
    rest = ",".join(f'"{key}":{value}' for key, value in fields.items())
    return f'{{"type":"trade","code":"{native}",{rest}}}'.encode()


FULL = (("99", "1.0", "101", "2.0"), ("98", "3E-4", "102", "4"))


def test_every_trade_after_the_snapshot_is_there_digit_for_digit() -> None:
    recording = session()
    sent = [
        (one["sequential_id"], one["trade_price"], float(one["trade_volume"]), one["ask_bid"])
        for one in recording.payloads()
        if one.get("type") == "trade" and one["stream_type"] == "REALTIME"
    ]
    trades = only(Trade, recording.run().outputs)
    sides = {"buy": "BID", "sell": "ASK"}
    shown = [(t.id, t.price, float(t.size), sides[t.side or ""]) for t in trades]
    assert shown == sent and len(sent) > 5
    assert all("e" not in one.size.lower() for one in trades)


def test_books_are_the_exchange_s_last_books_in_their_own_digits() -> None:
    recording = session()
    last: dict[str, Any] = {}
    for one in recording.payloads():
        if one.get("type") == "orderbook":
            last[one["code"]] = one["orderbook_units"]
    outputs = recording.run().outputs
    shown = clients_books(outputs)
    for native, units in last.items():
        named = Bithumb.instrument(native)
        assert named is not None
        bids, asks = shown[f"book.bithumb.{named.symbol}"]
        assert [*sorted(bids, key=float, reverse=True)] == [unit["bid_price"] for unit in units]
        assert [*sorted(asks, key=float)] == [unit["ask_price"] for unit in units]
        for unit in units:
            assert float(bids[unit["bid_price"]]) == float(unit["bid_size"])
    assert sum(one.snapshot for one in only(Book, outputs)) == len(last) == 2


def test_a_whole_book_is_told_once_and_then_as_what_changes() -> None:
    reader = bithumb("orderbook")
    first = parse(reader, [book(*FULL)])
    assert only(Book, first)[0].bids == [("99", "1.0"), ("98", "0.0003")]
    assert only(Book, first)[0].ts == 1790275855119979, "in microseconds, as they come"
    assert parse(reader, [book(*FULL)]) == []
    changed = book(("99", "1.0", "102", "5"), ("97", "1", "103", "6"), at=1790275856)
    (delta,) = only(Book, parse(reader, [changed]))
    assert not delta.snapshot and delta.ts == 1790275856000, "in milliseconds, as documented"
    assert delta.bids == [("98", "0"), ("97", "1")]
    assert delta.asks == [("101", "0"), ("102", "5"), ("103", "6")]
    whole = list(reader.whole("KRW-BTC", 7, 8))
    assert only(Book, whole)[0].asks == [("102", "5"), ("103", "6")]
    assert len(only(Checkpoint, whole)) == 1


def test_quote_and_depth_come_from_the_book_and_an_empty_side_has_none() -> None:
    reader = bithumb("orderbook")
    outputs = parse(reader, [book(*FULL), book(("99", "1.0", "0", "0"), ("98", "3", "0", "0.0"))])
    quotes = only(Quote, outputs)
    assert (quotes[0].bid, quotes[0].bid_size, quotes[0].ask) == ("99", "1.0", "101")
    assert (quotes[1].bid, quotes[1].ask, quotes[1].ask_size) == ("99", None, None)
    assert only(Depth, outputs)[0].asks == [("101", "2.0"), ("102", "4")]


def test_a_crossed_book_is_not_shown_and_the_next_begins_anew() -> None:
    reader = bithumb("orderbook")
    parse(reader, [book(*FULL)])
    assert parse(reader, [book(("101", "1", "101", "1"))]) == [
        Health("KRW-BTC", KINDS, "invalid", "crossed"),
        Gap(BOOK, 0, None, 1, 0, "upstream_sequence", None),
    ]
    back = parse(reader, [book(*FULL)])
    assert only(Book, back)[0].snapshot
    assert back[-1] == Health("KRW-BTC", KINDS, "live", None)


def test_the_last_trade_before_we_came_is_left_out_and_repeats_are_dropped() -> None:
    reader = bithumb("trade", natives=("KRW-BTC", "KRW-ETH"))
    snapshot = trade(6, stream_type='"SNAPSHOT"')
    sent = [snapshot, trade(8), trade(7, ask_bid='"ASK"'), trade(8), trade(8, native="KRW-ETH")]
    trades = only(Trade, parse(reader, sent))
    assert [(one.topic, one.id, one.side) for one in trades] == [
        (TRADE, "8", "buy"),
        (TRADE, "7", "sell"),
        ("trade.bithumb.ETH-KRW", "8", "buy"),
    ]
    assert (trades[0].price, trades[0].size) == ("484500.10", "0.000150")
    assert trades[0].ts == 1725927377174000


def test_of_the_trades_of_a_symbol_the_last_thousand_are_known() -> None:
    reader = bithumb("trade")
    parse(reader, [trade(number) for number in range(KNOWN_TRADES + 1)])
    again = only(Trade, parse(reader, [trade(1), trade(0), trade(KNOWN_TRADES)]))
    assert [one.id for one in again] == ["0"], "forgotten, so that memory has a bound"


def test_a_ticker_has_only_what_is_of_24_hours_and_says_what_changed() -> None:
    reader = bithumb("ticker")
    # As the documentation has it, but for the numbers' spelling.
    frame = (
        b'{"type":"ticker","code":"KRW-BTC","opening_price":484500,"high_price":493100,'
        b'"low_price":472500,"trade_price":493100,"acc_trade_volume":220.0447,'
        b'"acc_trade_volume_24h":13380.57687512,"acc_trade_price":105917424.208256,'
        b'"acc_trade_price_24h":8.227950466316009E9,"delisting_date":null,'
        b'"timestamp":1725927377287,"stream_type":"SNAPSHOT"}'
    )
    volumes = ("13380.57687512", "8227950466.316009")
    topic, ts = "ticker.bithumb.BTC-KRW", 1725927377287000
    assert parse(reader, [frame]) == [
        Ticker(topic, 0, ts, 1, 0, "493100", None, None, None, *volumes, None, None)
    ]
    assert parse(reader, [frame.replace(b"SNAPSHOT", b"REALTIME")]) == []


def test_one_request_asks_for_all_and_so_does_each_later_one() -> None:
    reader = bithumb("trade", "orderbook", natives=("KRW-BTC", "KRW-ETH"))
    (first,) = reader.opened()
    asked = json.loads(first.frame)
    assert asked == [
        {"ticket": "pricefeed-1"},
        {"type": "trade", "codes": ["KRW-BTC", "KRW-ETH"]},
        {"type": "orderbook", "codes": ["KRW-BTC", "KRW-ETH"]},
        {"format": "DEFAULT"},
    ]
    streams = [Stream("trade", "KRW-BTC"), Stream("orderbook", "KRW-BTC")]
    gap, again = reader.resync(streams, 9)
    assert gap == Gap(TRADE, 0, None, 9, 0, "upstream_sequence", None)
    assert isinstance(again, Send)
    assert json.loads(again.frame) == [{"ticket": "pricefeed-2"}, *asked[1:]]


def error(name: str, text: str) -> bytes:
    return json.dumps({"error": {"name": name, "message": text}}).encode()


def test_a_code_that_is_refused_by_name_does_not_cost_the_others() -> None:
    reader = bithumb("trade", natives=("KRW-BTC", "KRW-NONE"))
    refused, again = parse(reader, [error("INVALID_PARAM", "KRW-NONE is not supported")])
    assert isinstance(refused, Refused) and isinstance(again, Send)
    assert refused.streams == (Stream("trade", "KRW-NONE"),)
    assert json.loads(again.frame)[1] == {"type": "trade", "codes": ["KRW-BTC"]}
    (all_of_it,) = parse(reader, [error("WRONG_FORMAT", "Format 이 맞지 않습니다.")])
    assert isinstance(all_of_it, Refused)
    assert all_of_it.streams == (Stream("trade", "KRW-BTC"),)
    assert "WRONG_FORMAT" in all_of_it.reason


def test_a_ping_is_text_and_its_answer_a_sign_of_life() -> None:
    reader = bithumb("trade")
    assert (reader.ping(), reader.limits.ping_every_s) == ("PING", 10)
    assert parse(reader, [b'{"status":"UP"}']) == []


@pytest.mark.parametrize(
    ("frame", "gaps"),
    [
        pytest.param(trade(1)[:-9], ["BTC-KRW"], id="a trade"),
        pytest.param(b'{"type":"trade"', ["BTC-KRW", "ETH-KRW"], id="of whom is not to be seen"),
        pytest.param(book(*FULL)[:-9], [], id="the next book is whole"),
        pytest.param(b"\x00\xff garbage", ["BTC-KRW", "ETH-KRW"], id="anything"),
        pytest.param(b'{"kind":"unheard of"}', [], id="an unknown type"),
    ],
)
def test_an_unreadable_frame_is_declared_where_nothing_else_would_show_it(
    frame: bytes, gaps: list[str]
) -> None:
    reader = bithumb("trade", "orderbook", natives=("KRW-BTC", "KRW-ETH"))
    with pytest.raises(BadPayload):
        parse(reader, [frame])
    outputs = list(reader.unread(frame, 2))
    topics = sorted(gap.topic for gap in only(Gap, outputs))
    assert topics == [f"trade.bithumb.{one}" for one in gaps]
    assert not list(reader.unread(frame, 3)), "said once, not for every bad frame"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(trade(1, trade_price="-1"), id="price"),
        pytest.param(trade(1, trade_price="null"), id="no price"),
        pytest.param(trade(1, trade_volume='"1"'), id="text"),
        pytest.param(trade(1, trade_timestamp="99999999999999999"), id="time"),
        pytest.param(trade(1, ask_bid='"BOTH"'), id="side"),
        pytest.param(trade(1, native="KRW-ETH"), id="not carried"),
        pytest.param(
            book(("99", "1", "101", "1"), ("99.0", "1", "102", "1")), id="one price twice"
        ),
        pytest.param(book(("99", "1e999", "101", "1")), id="size"),
        pytest.param(b'{"type":"transaction","content":{"list":[]}}', id="the old API"),
        pytest.param(b'{"status":"0000","resmsg":"Connected Successfully"}', id="its greeting"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: bytes) -> None:
    reader = bithumb("trade", "orderbook")
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    assert only(Trade, parse(reader, [trade(1)])), "nothing has changed"


def test_markets_are_listed_and_named_with_the_quote_first() -> None:
    listed = session().listed
    assert [(one.native, one.symbol) for one in listed] == [
        ("KRW-BTC", "BTC-KRW"),
        ("KRW-XRP", "XRP-KRW"),
        ("BTC-ETH", "ETH-BTC"),
    ]
    assert [Bithumb.instrument(one.native) for one in listed] == listed
    assert Bithumb.instrument("BTC_KRW") is None
    with pytest.raises(BadPayload):
        Bithumb.instruments([b'{"error":{"name":"x"}}'])


def test_the_adapter_understands_what_the_venue_answers() -> None:
    venue = BithumbVenue()
    recording = Session(Bithumb, venue, SESSION)
    reader = adapter(Bithumb, [*recording.streams, Stream("trade", "KRW-NONE")])
    (request,) = reader.opened()
    ack = venue.request("/websocket/v1", request.frame)
    assert set(ack.streams) == set(recording.streams), "unknown codes are passed over"
    assert ack.frames == ()
    for bad in ("nonsense", "[]", '[{"ticket":"x"}]', '[{"ticket":"x"},{"type":"trade"}]'):
        refusal = venue.request("/websocket/v1", bad)
        assert refusal.streams == ()
        assert only(Refused, parse(reader, [one.encode() for one in refusal.frames]))
    (pong,) = venue.request("/websocket/v1", reader.ping() or "").frames
    assert parse(reader, [pong.encode()]) == []
    assert venue.rest_key(Bithumb.listing_paths[0]) == "listing"
    assert venue.rest_key("/v1/ticker") is None


#: What of the samples and pairs is not understood -> why.
FOREIGN = {
    '"code":"00006"': "of Bithumb Global, another exchange, which has closed",
    '"code":"00007"': "of Bithumb Global, another exchange, which has closed",
}


@pytest.mark.parametrize(("file", "read"), [("samples.jsonl", 1), ("expected.jsonl", 0)])
def test_samples_and_pairs_are_understood_or_named_with_the_reason(file: str, read: int) -> None:
    path = CAPTURES / "bithumb" / file
    if not path.exists():
        pytest.skip("no recordings of Bithumb beside the repository")
    understood = 0
    for line in path.read_text().splitlines():
        raw = json.loads(line)["raw"]
        reader = bithumb("trade", "orderbook", "ticker")
        if any(part in raw for part in FOREIGN):
            with pytest.raises(BadPayload):
                parse(reader, [raw.encode()])
            continue
        (whole,) = only(Book, parse(reader, [raw.encode()]))
        assert (whole.ts, whole.bids[0]) == (1790275855119979, ("114984000", "0.0055"))
        understood += 1
    assert understood == read


@pytest.mark.parametrize("path", captures("bithumb", "session_*.jsonl.gz"))
def test_the_recording_of_the_old_api_is_not_taken_for_ours(path: Any) -> None:
    """It is of ``pubwss.bithumb.com``, which only older documentation describes."""
    venue = BithumbVenue()
    assert not any(venue.stream_of(line) for line in tape.read(path))
    reader = bithumb("trade")
    for frame in frames(path):
        with pytest.raises(BadPayload):
            parse(reader, [frame])
