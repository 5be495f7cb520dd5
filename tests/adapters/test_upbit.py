"""Upbit: whole books told as changes, two formats, one request for all; ``payloads/upbit``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters import tape
from adapters.base import Adapter, Checkpoint, Health, Output, Refused, Send, Stream
from adapters.exchanges.upbit.adapter import Upbit
from adapters.exchanges.upbit.venue import UpbitVenue
from adapters.registry import exchanges_of
from adapters.text import decimal
from adapters.trade_ids import KNOWN_TRADES
from feed.errors import BadPayload
from feed.models import Book, Depth, Gap, Quote, Ticker, Trade
from tests.adapters.sessions import (
    PAYLOADS,
    Session,
    adapter,
    best_first,
    clients_books,
    is_same,
    only,
)
from tests.adapters.tapes import CAPTURES, captures

SESSION = PAYLOADS / "upbit" / "session.jsonl"
KINDS = ("book", "depth", "quote")
TRADE, BOOK = "trade.upbit.BTC-KRW", "book.upbit.BTC-KRW"
TMS = 1786500000123
#: Short names -> whole ones.
WHOLE = {
    "ty": "type",
    "cd": "code",
    "tms": "timestamp",
    "obu": "orderbook_units",
    "ap": "ask_price",
    "bp": "bid_price",
    "as": "ask_size",
    "bs": "bid_size",
    "ttms": "trade_timestamp",
    "tp": "trade_price",
    "tv": "trade_volume",
    "ab": "ask_bid",
    "sid": "sequential_id",
    "st": "stream_type",
    "atv24h": "acc_trade_volume_24h",
    "atp24h": "acc_trade_price_24h",
}
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("upbit")]
)


def session(path: Path = SESSION) -> Session:
    return Session(Upbit, UpbitVenue(), path)


def upbit(*channels: str, natives: Sequence[str] = ("KRW-BTC",)) -> Upbit:
    reader = adapter(Upbit, [Stream(one, native) for native in natives for one in channels])
    assert isinstance(reader, Upbit)
    return reader


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def book(*units: tuple[str, str, str, str], at: int = TMS, native: str = "KRW-BTC") -> bytes:
    """Return a book of (bid, its size, ask, its size)."""
    rows = ",".join(
        f'{{"ap":{ask},"bp":{bid},"as":{ask_size},"bs":{bid_size}}}'
        for bid, bid_size, ask, ask_size in units
    )
    return (
        f'{{"ty":"orderbook","cd":"{native}","tms":{at},"tas":1.0,"tbs":1.0,"obu":[{rows}],'
        f'"st":"REALTIME"}}'
    ).encode()


def trade(number: int, told: str = "REALTIME", side: str = "ASK", price: str = "41.20") -> bytes:
    return (
        f'{{"ty":"trade","cd":"KRW-BTC","tms":{TMS + 7},"ttms":{TMS},"tp":{price},"tv":3.6E-5,'
        f'"ab":"{side}","sid":{number},"st":"{told}"}}'
    ).encode()


FULL = (("99", "1.0", "101", "2.0"), ("98", "3E-4", "102", "4"))


def whole_names(frame: bytes) -> bytes:
    """Return a message in the format ``DEFAULT``."""
    for short, name in WHOLE.items():
        frame = frame.replace(f'"{short}":'.encode(), f'"{name}":'.encode())
    return frame


@recordings
def test_every_trade_is_there_digit_for_digit_with_the_taker_s_side(path: Path) -> None:
    recording = session(path)
    sent = [
        (one["sid"], decimal(one["tp"]), decimal(one["tv"]), int(one["ttms"]) * 1_000, side)
        for one in recording.payloads()
        if one["ty"] == "trade" and one["st"] == "REALTIME"
        for side in [{"BID": "buy", "ASK": "sell"}[one["ab"]]]
    ]
    trades = only(Trade, recording.run().outputs)
    assert [(t.id, t.price, t.size, t.ts, t.side) for t in trades] == sent
    assert len(sent) > 10


@recordings
def test_books_are_the_exchange_s_books_after_every_message(path: Path) -> None:
    recording = session(path)
    outputs: list[Output] = []
    checked = 0

    def check(frame: bytes, new: list[Output]) -> None:
        nonlocal checked
        outputs.extend(new)
        one = json.loads(frame, parse_float=str, parse_int=str)
        if one["ty"] != "orderbook" or checked > 150:
            return
        checked += 1
        quote, _, base = one["cd"].partition("-")
        shown = best_first(clients_books(outputs)[f"book.upbit.{base}-{quote}"])
        for side, (price, size) in zip(shown, (("bp", "bs"), ("ap", "as")), strict=True):
            assert side == [(decimal(unit[price]), decimal(unit[size])) for unit in one["obu"]]

    recording.run(check)
    assert checked > 40
    # Only what has changed goes out: a whole book once for each instrument.
    books = [one for one in outputs if isinstance(one, Book)]
    assert sum(one.snapshot for one in books) == len({one.topic for one in books})


@recordings
def test_both_formats_say_the_same(path: Path) -> None:
    recording = session(path)
    short, whole = recording.adapter(), recording.adapter()
    frames = recording.frames[:200]
    assert parse(short, frames) == parse(whole, [whole_names(one) for one in frames])


def test_a_ticker_has_the_figures_of_24_hours_alone_and_comes_when_they_change() -> None:
    fields = '"op":90,"hp":120,"lp":80,"tp":101.50,"atv24h":2412.81000000,"atp24h":2.8E11'
    frame = f'{{"ty":"ticker","cd":"KRW-BTC",{fields},"tms":{TMS},"st":"SNAPSHOT"}}'.encode()
    volumes = ("2412.81000000", "280000000000")
    assert parse(upbit("ticker"), [frame, frame]) == [
        Ticker(
            "ticker.upbit.BTC-KRW",
            *(0, TMS * 1_000, 0, 0),
            "101.50",
            *(None, None, None),
            *volumes,
            *(None, None),
        )
    ]


def test_what_changed_goes_out_and_what_is_gone_is_deleted() -> None:
    reader = upbit("orderbook")
    first = parse(reader, [book(*FULL)])
    assert [type(one) for one in first] == [Book, Checkpoint, Depth, Quote]
    next_ = book(("99", "1.0", "100", "7"), ("97", "3", "102", "4"), at=TMS + 500)
    (change, *_) = parse(reader, [next_])
    assert isinstance(change, Book) and not change.snapshot
    assert sorted(change.bids) == [("97", "3"), ("98", "0")]
    assert sorted(change.asks) == [("100", "7"), ("101", "0")]
    assert parse(reader, [book(*FULL, at=TMS + 400)]) == [], "an older one is passed over"


def test_levels_that_do_not_exist_are_left_out() -> None:
    reader = upbit("orderbook")
    outputs = parse(reader, [book(("99", "1", "101", "2"), ("98", "3", "0", "0"))])
    ((bids, asks),) = clients_books(outputs).values()
    assert (len(bids), len(asks)) == (2, 1)


def test_a_crossed_book_is_invalid_until_the_next_message() -> None:
    reader = upbit("orderbook")
    parse(reader, [book(*FULL)])
    crossed = parse(reader, [book(("101", "1", "101", "1"), at=TMS + 1)])
    assert crossed[0] == Health("KRW-BTC", KINDS, "invalid", "crossed")
    assert crossed[1:] == [Gap(BOOK, 0, None, 0, 0, "upstream_sequence", None)]
    fresh = parse(reader, [book(*FULL, at=TMS + 2)])
    assert only(Book, fresh)[0].snapshot
    assert fresh[-1] == Health("KRW-BTC", KINDS, "live", None)


def test_no_trade_comes_twice() -> None:
    reader = upbit("trade")
    outputs = parse(reader, [trade(7), trade(8, side="BID"), trade(7)])
    assert [(one.id, one.side, one.size) for one in only(Trade, outputs)] == [
        ("7", "sell", "0.000036"),
        ("8", "buy", "0.000036"),
    ]
    parse(reader, [trade(100 + number) for number in range(KNOWN_TRADES)])
    assert len(only(Trade, parse(reader, [trade(7)]))) == 1, "so many are known, no more"


def test_the_last_trade_told_shows_whether_one_was_missed() -> None:
    reader = upbit("trade")
    assert parse(reader, [trade(5, "SNAPSHOT")]) == [], "of before we came"
    parse(reader, [trade(6)])
    assert parse(reader, [trade(6, "SNAPSHOT")]) == [], "nothing was missed"
    gap, missed = parse(reader, [trade(8, "SNAPSHOT")])
    assert gap == Gap(TRADE, 0, None, 0, 0, "upstream_sequence", None)
    assert isinstance(missed, Trade) and missed.id == "8"


def request(outputs: Sequence[Output]) -> list[dict[str, Any]]:
    (send,) = only(Send, outputs)
    found: list[dict[str, Any]] = json.loads(send.frame)
    return found


def test_each_request_asks_for_all_of_the_connection_because_it_replaces_the_one_before() -> None:
    natives = ["KRW-BTC", "BTC-ETH"]
    reader = upbit("orderbook", "trade", natives=natives)
    first = request([*reader.opened()])
    assert first == [
        {"ticket": "pricefeed-1"},
        {"type": "orderbook", "codes": natives},
        {"type": "trade", "codes": natives},
        {"format": "SIMPLE"},
    ]
    again = request([*reader.resync([Stream("orderbook", "BTC-ETH")], 0)])
    assert again == [{"ticket": "pricefeed-2"}, *first[1:]]


def test_a_refused_code_costs_itself_alone() -> None:
    reader = upbit("orderbook", "trade", natives=("KRW-BTC", "KRW-FOO"))
    error = {"error": {"name": "INVALID_PARAM", "message": "trade of KRW-FOO is not known"}}
    refused, *again = parse(reader, [json.dumps(error).encode()])
    assert isinstance(refused, Refused)
    assert {one.native for one in refused.streams} == {"KRW-FOO"} and len(refused.streams) == 2
    assert [one.get("codes") for one in request(again)[1:3]] == [["KRW-BTC"], ["KRW-BTC"]]
    error["error"]["message"] = "something else"
    (refused,) = parse(reader, [json.dumps(error).encode()])
    assert isinstance(refused, Refused) and len(refused.streams) == 2


def test_signs_of_life_and_candles_are_silent_and_unknown_types_refused() -> None:
    reader = upbit("trade")
    frames = [b'{"status":"UP"}', b'{"type":"candle.1s","code":"KRW-BTC"}', b'{"ty":"candle.60m"}']
    assert parse(reader, frames) == []
    for bad in (b'{"type":"myOrder"}', b'{"status":"DOWN"}', b"[]", trade(1).replace(b"BTC", b"X")):
        with pytest.raises(BadPayload):
            parse(reader, [bad])


@pytest.mark.parametrize(
    ("bad", "trades", "books"),
    [
        pytest.param(trade(5, price='"NaN"'), {"BTC-KRW"}, set(), id="a trade"),
        pytest.param(trade(5)[:-9], {"BTC-KRW"}, set(), id="cut short"),
        pytest.param(book(("NaN", "1", "2", "1")), set(), {"KRW-BTC"}, id="a book"),
        pytest.param(b"\x00 garbage", {"BTC-KRW", "ETH-BTC"}, {"KRW-BTC", "BTC-ETH"}, id="any"),
        pytest.param(b'{"ty":"surprise","cd":"KRW-BTC"}', set(), set(), id="no data of ours"),
    ],
)
def test_an_unreadable_frame_doubts_what_it_may_have_been(
    bad: bytes, trades: set[str], books: set[str]
) -> None:
    reader = upbit("orderbook", "trade", natives=("KRW-BTC", "BTC-ETH"))
    parse(reader, [book(*FULL), book(*FULL, native="BTC-ETH")])
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    outputs = list(reader.unread(bad, 1))
    assert {one.native for one in only(Health, outputs)} == books
    gaps = {gap.topic for gap in only(Gap, outputs) if gap.topic.startswith("trade.")}
    assert gaps == {f"trade.upbit.{one}" for one in trades}
    assert list(reader.unread(bad, 2)) == [], "said once"


def test_the_listing_is_read_and_names_have_the_base_first() -> None:
    listed = session().listed
    assert [(one.symbol, one.native, one.type) for one in listed] == [
        ("BTC-KRW", "KRW-BTC", "spot"),
        ("ETH-BTC", "BTC-ETH", "spot"),
        ("XRP-KRW", "KRW-XRP", "spot"),
    ]
    for one in listed:
        assert Upbit.instrument(one.native) == one
    assert Upbit.instrument("KRWBTC") is None
    with pytest.raises(BadPayload):
        Upbit.instruments([b'{"error":{"name":"too_many_requests"}}'])


@pytest.mark.parametrize(
    "path",
    [PAYLOADS / "upbit" / "samples.jsonl", CAPTURES / "upbit" / "samples.jsonl"],
    ids=["bundled", "upbit"],
)
def test_sample_messages_are_read(path: Path) -> None:
    if not path.exists():
        pytest.skip("no recordings of upbit beside the repository")
    found = []
    for line in path.read_text().splitlines():
        given = json.loads(line)
        if given["dir"] != "in":
            continue
        sent = json.loads(given["raw"], parse_float=str, parse_int=str)
        outputs = parse(
            upbit("orderbook", "trade", "ticker", natives=(sent["code"],)), [given["raw"].encode()]
        )
        match sent["type"]:
            case "orderbook":
                ((bids, asks),) = clients_books(outputs).values()
                units = sent["orderbook_units"]
                assert bids == {decimal(u["bid_price"]): decimal(u["bid_size"]) for u in units}
                assert asks == {decimal(u["ask_price"]): decimal(u["ask_size"]) for u in units}
            case "ticker":
                (ticker,) = only(Ticker, outputs)
                assert (ticker.last, ticker.volume) == ("36929", "0.22569412")
            case _:
                assert outputs == []
        found.append(sent["type"])
    assert found.count("orderbook") >= 1 and "ticker" in found


@pytest.mark.parametrize("path", captures("upbit", "expected.jsonl"))
def test_others_make_the_same_of_the_same_messages(path: Path) -> None:
    compared = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        (other,) = pair["expected"]
        reader = upbit("orderbook", "trade", natives=(other["symbol"],))
        outputs = parse(reader, [pair["raw"].encode()])
        if other["type"] == "trade":
            (found,) = only(Trade, outputs)
            assert (found.id, found.side) == (other["id"], other["side"])
            assert is_same(found.price, other["price"]) and is_same(found.size, other["amount"])
        else:
            (book_,) = only(Book, outputs)
            assert book_.snapshot == other["isSnapshot"]
            for mine, theirs in ((book_.bids, other["bids"]), (book_.asks, other["asks"])):
                assert [(float(price), float(size)) for price, size in mine] == [
                    (one["price"], one["amount"]) for one in theirs
                ]
        compared += 1
    assert compared == 2


def test_a_tape_tells_by_itself_whose_it_is() -> None:
    lines = list(tape.read(SESSION))
    assert exchanges_of(lines) == ["upbit"]
    assert exchanges_of([one for one in lines if one.url is None]) == ["upbit"]


def test_the_adapter_understands_what_the_venue_answers_in_binary_frames() -> None:
    venue = UpbitVenue()
    recording = Session(Upbit, venue, SESSION)
    reader = upbit("trade", natives=("KRW-BTC", "KRW-FOO"))
    (first,) = only(Send, reader.opened())
    ack = venue.request(reader.path, first.frame)
    assert ack.frames == () and ack.streams == ()
    refused, again = parse(reader, ack.binary)
    assert isinstance(refused, Refused) and isinstance(again, Send)
    assert venue.request(reader.path, again.frame).streams == (Stream("trade", "KRW-BTC"),)
    ping = reader.ping()
    assert ping is not None
    assert parse(reader, venue.request(reader.path, ping).binary) == []
    for wrong in ("nonsense", "[]", '[{"ticket":"x"}]', '[{"ticket":"x"},{"type":"trade"}]'):
        assert venue.request(reader.path, wrong).streams == ()
    standing = venue.standing(Stream("trade", "KRW-BTC"), {})
    assert standing is not None and standing.told() is None and not standing.is_text
    standing.take(next(one for one in recording.frames if b'"trade"' in one))
    told = standing.told()
    assert told is not None and b'"SNAPSHOT"' in told
