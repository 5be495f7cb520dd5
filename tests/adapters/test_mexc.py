"""MEXC: its protobuf read and spoiled, the book's versions, trades, refusals, the listing."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Fetch, Health, Output, Refused, Send, Stream, TapeLine
from adapters.exchanges.mexc.adapter import Mexc
from adapters.exchanges.mexc.frames import name_of, stream_of
from adapters.exchanges.mexc.venue import MexcVenue
from adapters.exchanges.mexc.wire import fields
from feed.errors import BadPayload
from feed.models import Book, Depth, Gap, Instrument, Quote, Ticker, Trade
from tests.adapters.mexc_kit import best, day, deal, deals, depth, field, message, number, wrapped
from tests.adapters.sessions import PAYLOADS, Session, adapter, clients_books, is_same, only
from tests.adapters.tapes import CAPTURES

SESSION = PAYLOADS / "mexc" / "session.jsonl"
SENT = 1_790_000_000_000
TOPIC = "trade.mexc.BTC-USDT"
BOOK = "book.mexc.BTC-USDT"
DEALS, QUOTES = Stream("aggre.deals@10ms", "BTCUSDT"), Stream("aggre.bookTicker@10ms", "BTCUSDT")
DEPTH, TICKER = Stream("aggre.depth@100ms", "BTCUSDT"), Stream("miniTicker@24H", "BTCUSDT")
FETCH = Fetch("/api/v3/depth?symbol=BTCUSDT&limit=5000", "depth:BTCUSDT")


def mexc(*streams: Stream) -> Mexc:
    reader = adapter(Mexc, streams or [DEALS])
    assert isinstance(reader, Mexc)
    return reader


def feed(reader: Mexc, *frames: bytes) -> list[Output]:
    return [output for frame in frames for output in reader.parse(frame, 1)]


def snapshot(version: int, bids: Sequence[Any] = (), asks: Sequence[Any] = ()) -> bytes:
    body = {"lastUpdateId": version, "bids": bids, "asks": asks, "timestamp": SENT}
    return json.dumps(body).encode()


def lines(name: str) -> list[dict[str, Any]]:
    path = CAPTURES / "mexc" / name
    if not path.exists():
        pytest.skip("no recordings of mexc beside the repository")
    return [json.loads(text) for text in path.read_text().splitlines()]


# Protobuf


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (b"\x08\x96\x01", [(1, 150)]),
        (b"\x12\x07testing", [(2, b"testing")]),
        (b"\x08\x01\x08\x02", [(1, 1), (1, 2)]),
        (b"\x0a\x00", [(1, b"")]),
        (b"\xca\x13\x01x", [(313, b"x")]),
        (b"\x09" + bytes(8) + b"\x08\x01", [(1, 1)]),
        (b"\x0d" + bytes(4) + b"\x08\x01", [(1, 1)]),
        (b"\x08" + b"\xff" * 9 + b"\x01", [(1, (1 << 64) - 1)]),
        (b"\x0a\x80\x01" + b"x" * 128, [(1, b"x" * 128)]),
    ],
)
def test_a_message_is_its_fields(data: bytes, found: list[Any]) -> None:
    assert fields(data) == found


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x08", id="ends after a key"),
        pytest.param(b"\x08\x96", id="ends within a number"),
        pytest.param(b"\x08" + b"\xff" * 11, id="a number without end"),
        pytest.param(b"\x12\x07test", id="longer than the message"),
        pytest.param(b"\x12\xff\xff\xff\xff\xff\x01x", id="of a terabyte"),
        pytest.param(b"\x09\x00", id="ends within 64 bits"),
        pytest.param(b"\x0d\x00", id="ends within 32 bits"),
        pytest.param(b"\x0b\x0c", id="a group"),
        pytest.param(b"\x0e", id="of no kind"),
        pytest.param(b"\x02\x00", id="the number 0"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        fields(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_fields_or_refused(data: bytes) -> None:
    try:
        found = fields(data)
    except ValueError:
        return
    assert sum(len(value) for _, value in found if isinstance(value, bytes)) <= len(data)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 1 << 29),
            st.integers(1, (1 << 64) - 1) | st.binary(min_size=1, max_size=300),
        )
    )
)
def test_what_was_written_is_read(pairs: list[tuple[int, int | bytes]]) -> None:
    assert fields(b"".join(field(at, value) for at, value in pairs)) == pairs


# What others have of it

#: Samples and pairs that are not ours to read, by a part of them.
RETIRED = {
    '"spot@public.increase.depth.v3.api@': "JSON until August 2025, gone",
    '"spot@public.bookTicker.v3.api@': "JSON until August 2025, gone",
    '"spot@public.kline.v3.api@': "JSON until August 2025, gone",
    '"spot@public.miniTicker.v3.api@': "JSON until August 2025, gone",
    '"spot@public.limit.depth.v3.api@': "JSON until August 2025, gone",
    '"push.': "the API of 2021 and 2022, gone",
}


def is_retired(raw: str) -> bool:
    return any(part in raw for part in RETIRED)


def test_every_sample_of_today_is_read() -> None:
    reader = mexc(
        *(Stream(f"{kind}@100ms", "BTCUSDT") for kind in ("aggre.deals", "aggre.bookTicker"))
    )
    counts: dict[str, int] = {}
    for sample in lines("samples.jsonl"):
        if sample["dir"] != "in" or is_retired(sample.get("raw", "")):
            continue
        frame = base64.b64decode(sample.get("raw_b64", "")) or sample["raw"].encode()
        for kind in [type(output).__name__ for output in reader.parse(frame, 1)] or ["nothing"]:
            counts[kind] = counts.get(kind, 0) + 1
    # Of a book of 5 levels, a candle and an ack.
    assert counts == {"Quote": 1, "Trade": 2, "nothing": 3}


def test_the_real_frames_say_what_others_read_in_them() -> None:
    checked = 0
    for pair in lines("expected.jsonl"):
        if pair["schema"] != "decoded":
            continue
        expected, frame = pair["expected"], base64.b64decode(pair["raw_b64"])
        stream = stream_of(expected["channel"])
        assert stream is not None and name_of(stream) == expected["channel"]
        outputs = feed(mexc(stream), frame)
        match stream.channel.partition("@")[0]:
            case "aggre.bookTicker":
                (quote,) = only(Quote, outputs)
                assert (quote.bid, quote.bid_size) == (expected["bid"], expected["bid_qty"])
                assert (quote.ask, quote.ask_size) == (expected["ask"], expected["ask_qty"])
            case "aggre.deals":
                assert [
                    (one.price, one.size, one.side, one.ts) for one in only(Trade, outputs)
                ] == [
                    (one["price"], one["qty"], one["side"], one["time_ms"] * 1_000)
                    for one in expected["trades"]
                ]
                assert only(Trade, outputs)[0].id == "710342948650209280X0_710342948650209281X0"
            case "limit.depth" | "kline":
                assert outputs == []
            case other:
                pytest.fail(f"unknown channel {other}")
        checked += 1
    assert checked == 4


def frame_of(raw: dict[str, Any]) -> bytes:
    """Write a decoded wrapper again as protobuf."""
    name, sent = raw["channel"], int(raw.get("sendTime", 0))
    if "publicAggreDeals" in raw:
        items = [
            deal(one["price"], one["quantity"], one["tradeType"], int(one["time"]),
                 one.get("tradeId", ""))
            for one in raw["publicAggreDeals"]["deals"]
        ]  # fmt: skip
        return wrapped(name, 314, b"".join(items), sent)
    if "publicAggreBookTicker" in raw:
        best_ = raw["publicAggreBookTicker"]
        keys = ("bidPrice", "bidQuantity", "askPrice", "askQuantity")
        return wrapped(name, 315, message(*(best_[key] for key in keys)), sent)
    if "publicAggreDepths" in raw:
        book = raw["publicAggreDepths"]
        sides = [
            field(at, message(one["price"], one["quantity"]))
            for at, side in ((1, "asks"), (2, "bids"))
            for one in book.get(side, [])
        ]
        versions = field(4, book["fromVersion"]) + field(5, book["toVersion"])
        return wrapped(name, 313, b"".join(sides) + versions, sent)
    return wrapped(name, 0, b"", sent)


def test_the_decoded_messages_of_another_project_mean_the_same_to_us() -> None:
    cases: dict[str, list[dict[str, Any]]] = {}
    for pair in lines("expected.jsonl"):
        if pair["schema"] == "tardis":
            cases.setdefault(pair["case"], []).append(pair)
    checked = 0
    for pairs in cases.values():
        raws = [json.loads(pair["raw"]) for pair in pairs]
        names = {raw["channel"] for raw in raws if "generated" not in raw}
        streams = [one for name in names if (one := stream_of(name))]
        if not streams:
            continue
        reader = mexc(*streams)
        outputs: list[Output] = []
        for raw in raws:
            if "generated" in raw:
                body = dict(raw["publicAggreDepthsSnapshot"])
                outputs += reader.fetched("depth:BTCUSDT", json.dumps(body).encode(), 1)
            else:
                outputs += feed(reader, frame_of(raw))
        expected = [one for pair in pairs for one in pair["expected"]]
        trades = [one for one in expected if one["type"] == "trade"]
        for mine, theirs in zip(only(Trade, outputs), trades, strict=True):
            assert (mine.id, mine.side) == (theirs["id"], theirs["side"])
            assert is_same(mine.price, theirs["price"]) and is_same(mine.size, theirs["amount"])
        quotes = [one for one in expected if one["type"] == "book_ticker"]
        told = only(Quote, outputs) if any("bookTicker" in name for name in names) else []
        for best_, theirs in zip(told, quotes, strict=True):
            assert is_same(best_.bid, theirs["bidPrice"]) and is_same(best_.ask, theirs["askPrice"])
        for book in clients_books(outputs).values():
            (theirs,) = [one for one in expected if one["type"] == "book_change"]
            for side, name in zip(book, ("bids", "asks"), strict=True):
                levels = {level["price"]: level["amount"] for level in theirs[name]}
                assert {float(price): float(size) for price, size in side.items()} == levels
        checked += len(expected)
    assert checked > 5


# The book


def booked(outputs: Sequence[Output]) -> list[tuple[bool, list[tuple[str, str]]]]:
    return [(book.snapshot, book.bids) for book in only(Book, outputs)]


def joined() -> Mexc:
    """Return an adapter whose book ends at version 12."""
    reader = mexc(DEPTH)
    assert feed(reader, depth(10, 12, [("10.0", "1")])) == [FETCH]
    outputs = list(reader.fetched("depth:BTCUSDT", snapshot(11, [["7.0", "1"]]), 2))
    assert booked(outputs) == [(True, [("7.0", "1")]), (False, [("10.0", "1")])]
    return reader


@pytest.mark.parametrize(("version", "joins"), [(8, False), (9, True), (10, True), (12, True)])
def test_a_snapshot_joins_where_no_version_is_missed(version: int, joins: bool) -> None:
    reader = mexc(DEPTH)
    feed(reader, depth(10, 12, [("10.0", "1")]))
    outputs = list(reader.fetched("depth:BTCUSDT", snapshot(version, [["7.0", "1"]]), 2))
    assert bool(booked(outputs)) == joins
    assert only(Fetch, outputs) == ([] if joins else [FETCH])


def test_a_version_that_is_missing_breaks_the_book_until_a_new_snapshot() -> None:
    reader = joined()
    assert feed(reader, depth(14, 15, [("14.0", "1")])) == [
        Health("BTCUSDT", ("book", "depth", "quote"), "invalid", "sequence"),
        Gap(BOOK, 0, None, 1, 0, "upstream_sequence", None),
        FETCH,
    ]
    back = list(reader.fetched("depth:BTCUSDT", snapshot(14, [["9.0", "1"]]), 3))
    assert booked(back) == [(True, [("9.0", "1")]), (False, [("14.0", "1")])]
    assert only(Health, back)[-1].state == "live"


def test_a_book_that_crosses_is_given_up() -> None:
    reader = joined()
    (health, *_) = only(Health, feed(reader, depth(13, 13, [], [("9.0", "1")])))
    assert (health.state, health.reason) == ("invalid", "crossed")


def test_a_failed_fetch_is_asked_again_and_a_bad_body_refused() -> None:
    reader = mexc(DEPTH)
    feed(reader, depth(10, 12))
    for bad in (b"", b"{}", snapshot(-1), snapshot(11, [["x", "1"]]), b"[" * 100_000):
        with pytest.raises(BadPayload):
            reader.fetched("depth:BTCUSDT", bad, 2)
    assert list(reader.fetch_failed("depth:BTCUSDT", 2)) == [FETCH]


def test_without_best_quotes_the_book_tells_them() -> None:
    reader = joined()
    (quote,) = only(Quote, feed(reader, depth(13, 13, [("11.0", "2")])))
    assert (quote.bid, quote.bid_size, quote.ask) == ("11.0", "2", None)
    reader = mexc(DEPTH, QUOTES)
    feed(reader, depth(10, 12))
    assert only(Quote, reader.fetched("depth:BTCUSDT", snapshot(12, [["7", "1"]]), 2)) == []


def test_a_level_is_read_in_any_order_of_its_fields() -> None:
    turned = field(2, field(2, "1.50") + field(1, "11.0"))
    long = field(2, field(1, "12.0") + field(2, "2") + field(9, "x" * 200))
    body = turned + long + field(4, "13") + field(5, "13")
    name = "spot@public.aggre.depth.v3.api.pb@100ms@BTCUSDT"
    outputs = feed(joined(), wrapped(name, 313, body))
    assert booked(outputs) == [(False, [("11.0", "1.50"), ("12.0", "2")])]


# Trades, quotes, tickers

ONE = deal("65219.380", "0.14191302", 2, SENT - 4, "710342948650209280X0_710342948650209281X0")


def test_a_trade_has_its_digits_its_id_and_the_taker_s_side() -> None:
    (sold,) = feed(mexc(), deals(ONE))
    id = "710342948650209280X0_710342948650209281X0"
    ts = (SENT - 4) * 1_000
    assert sold == Trade(TOPIC, 0, ts, 1, 0, id, "65219.380", "0.14191302", "sell")
    (bought,) = only(Trade, feed(mexc(), deals(deal("1", "2", 1, SENT))))
    assert (bought.side, bought.id) == ("buy", None)


def test_a_trade_that_comes_twice_is_told_once_and_one_without_an_id_always() -> None:
    reader = mexc()
    assert len(only(Trade, feed(reader, deals(ONE), deals(ONE, deal("1", "2", 1, SENT))))) == 2
    assert len(only(Trade, feed(reader, deals(deal("1", "2", 1, SENT))))) == 1


def test_an_empty_side_of_a_quote_is_null() -> None:
    (quote,) = feed(mexc(QUOTES), best(("100", "4"), ("", "")))
    assert quote == Quote("quote.mexc.BTC-USDT", 0, SENT * 1000, 1, 0, "100", "4", None, None)
    (quote,) = feed(mexc(QUOTES), best(("0", "0"), ("101.50", "3")))
    assert isinstance(quote, Quote) and (quote.bid, quote.ask) == (None, "101.50")


def test_a_ticker_s_volume_is_the_turnover_and_its_quantity_the_volume() -> None:
    frame = day("64521.46", "0.0354", "0.0354", "65210.00", "63105.44", "375173478.65", "5816.7290")
    assert feed(mexc(TICKER), frame) == [
        Ticker("ticker.mexc.BTC-USDT", 0, SENT * 1000, 1, 0, "64521.46", None,
               "65210.00", "63105.44", "5816.7290", "375173478.65", None, None)
    ]  # fmt: skip


def test_a_wrapper_around_nothing_tells_nothing() -> None:
    reader = mexc(DEALS, QUOTES, TICKER, DEPTH)
    for stream in (DEALS, QUOTES, TICKER, DEPTH):
        assert feed(reader, wrapped(name_of(stream), 0, b"")) == []
    assert booked(feed(joined(), wrapped(name_of(DEPTH), 0, b""), depth(13, 13, [("9", "1")])))


def test_of_two_speeds_one_feeds() -> None:
    reader = mexc(DEALS, Stream("aggre.deals@100ms", "BTCUSDT"))
    slow = deals(ONE).replace(b"@10ms@", b"@100ms@").replace(b"\x0a\x2e", b"\x0a\x2f")
    assert feed(reader, slow) == []
    assert len(feed(reader, deals(ONE))) == 1


BAD = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\xff\xfe{}", id="garbage"),
    pytest.param(deals(ONE)[:-1], id="cut off"),
    pytest.param(deals(ONE)[: len(deals(ONE)) // 2], id="half"),
    pytest.param(deals(deal("x", "1", 1, SENT)), id="no price"),
    pytest.param(deals(deal("-1", "1", 1, SENT)), id="a negative price"),
    pytest.param(deals(deal("1", "", 1, SENT)), id="no size"),
    pytest.param(deals(deal("1", "1", 3, SENT)), id="neither bought nor sold"),
    pytest.param(deals(deal("1", "1", 1, 1 << 60)), id="a time beyond all clocks"),
    pytest.param(deals(ONE, field(1, b"\xff")), id="the second is garbage"),
    pytest.param(deals(ONE, field(1, 5)), id="a number where a deal belongs"),
    pytest.param(deals(ONE, native="ETHUSDT").replace(b"ETH", b"BTC", 1), id="another symbol"),
    pytest.param(deals(ONE, native="ETHUSDT").replace(b"ETH", b"\xff\xfe\xfd", 1), id="no UTF-8"),
    pytest.param(wrapped("spot@public.aggre.news.v3.api.pb@10ms@BTCUSDT", 399, b"x"), id="unknown"),
    pytest.param(field(3, "BTCUSDT") + field(314, ONE), id="of no channel"),
    pytest.param(depth(14, 13), id="versions that go back"),
    pytest.param(depth(13, 13, [("x", "1")]), id="a level without a price"),
    pytest.param(depth(13, 13, [("9", "1e400")]), id="a size beyond all numbers"),
    pytest.param(depth(13, 13).replace(b"\x22\x0213", b"\x22\x02\xd9\xa1"), id="another script"),
    pytest.param(best(("100", "4"), ("x", "1")), id="no best price"),
]


@pytest.mark.parametrize("frame", BAD)
def test_a_frame_that_cannot_be_read_changes_nothing(frame: bytes) -> None:
    reader = mexc(DEALS, DEPTH, QUOTES)
    feed(reader, depth(10, 12))
    list(reader.fetched("depth:BTCUSDT", snapshot(12, [["7", "1"]]), 2))
    with pytest.raises(BadPayload):
        feed(reader, frame)
    assert len(only(Trade, feed(reader, deals(ONE)))) == 1
    assert booked(feed(reader, depth(13, 13, [("9", "1")]))) == [(False, [("9", "1")])]


def test_an_unreadable_frame_puts_its_trades_in_doubt_and_nothing_else() -> None:
    eth = Stream("aggre.deals@10ms", "ETHUSDT")
    reader = mexc(DEALS, eth, DEPTH)
    gap = Gap(TOPIC, 0, None, 1, 0, "upstream_sequence", None)
    assert list(reader.unread(deals(ONE)[:-1], 1)) == [gap]
    assert list(reader.unread(deals(ONE)[:-1], 1)) == []  # said already
    assert list(reader.unread(depth(14, 13), 1)) == []
    assert list(reader.unread(b'{"msg":5}', 1)) == []
    assert [one.topic for one in only(Gap, reader.unread(b"\xff", 1))] == ["trade.mexc.ETH-USDT"]
    feed(reader, deals(ONE))
    assert list(reader.unread(deals(ONE)[:-1], 1)) == [gap]


# Subscriptions


def test_each_instrument_is_asked_for_by_a_request_of_its_own() -> None:
    instrument = Mexc.instrument("BTCUSDT")
    assert instrument is not None
    streams = Mexc.streams(instrument, Mexc.kinds)
    reader = mexc(*streams, Stream("aggre.deals@10ms", "ETHUSDT"))
    first, second = (json.loads(send.frame) for send in reader.opened())
    assert first == {
        "method": "SUBSCRIPTION",
        "params": [
            "spot@public.aggre.deals.v3.api.pb@10ms@BTCUSDT",
            "spot@public.aggre.bookTicker.v3.api.pb@10ms@BTCUSDT",
            "spot@public.aggre.depth.v3.api.pb@100ms@BTCUSDT",
            "spot@public.miniTicker.v3.api.pb@BTCUSDT@24H",
        ],
    }
    assert second["params"] == ["spot@public.aggre.deals.v3.api.pb@10ms@ETHUSDT"]
    assert Mexc.streams(instrument, {"depth"}) == [DEPTH]


@pytest.mark.parametrize(
    "name",
    [
        "spot@public.aggre.deals.v3.api.pb@10ms@BTCUSDT",
        "spot@public.miniTicker.v3.api.pb@BTCUSDT@UTC+8",
        "spot@public.limit.depth.v3.api.pb@BTCUSDT@20",
        "spot@public.bookTicker.batch.v3.api.pb@BTCUSDT",
    ],
)
def test_a_subscription_s_name_is_read_and_written_alike(name: str) -> None:
    stream = stream_of(name)
    assert stream is not None and stream.native == "BTCUSDT"
    assert name_of(stream) == name


@pytest.mark.parametrize(
    "name", ["", "PONG", "spot@public.miniTickers.v3.api.pb@UTC+8", "spot@public.deals.v3.api@BTC"]
)
def test_what_names_no_symbol_is_no_stream(name: str) -> None:
    assert stream_of(name) is None


def answer(msg: str, code: int = 0) -> bytes:
    return json.dumps({"id": 0, "code": code, "msg": msg}, ensure_ascii=False).encode()


def test_acks_and_pongs_say_nothing() -> None:
    reader = mexc(DEALS, DEPTH)
    assert feed(reader, answer("PONG"), answer(name_of(DEALS))) == []
    assert feed(reader, answer(f"{name_of(DEALS)},{name_of(DEPTH)}")) == []
    assert reader.ping() == '{"method":"PING"}'


def test_a_refusal_costs_what_it_names() -> None:
    reader = mexc(DEALS, DEPTH)
    msg = f"Not Subscribed successfully! [{name_of(DEPTH)}].  Reason： Blocked! "
    assert feed(reader, answer(msg)) == [Refused((DEPTH,), msg)]
    assert feed(reader, answer("msg format invalid", 1)) == [Refused((), "msg format invalid")]


def test_a_resync_takes_those_streams_anew_and_says_what_may_be_lost() -> None:
    reader = mexc(DEALS, DEPTH, Stream("aggre.deals@10ms", "ETHUSDT"))
    feed(reader, depth(10, 12))
    list(reader.fetched("depth:BTCUSDT", snapshot(12, [["7", "1"]]), 2))
    outputs = list(reader.resync([DEALS, DEPTH], 5))
    assert {one.topic for one in only(Gap, outputs)} == {TOPIC, BOOK}
    leave, again = (json.loads(send.frame) for send in only(Send, outputs))
    assert (leave["method"], again["method"]) == ("UNSUBSCRIPTION", "SUBSCRIPTION")
    assert leave["params"] == again["params"] == [name_of(DEALS), name_of(DEPTH)]
    assert only(Fetch, outputs) == [FETCH]


def test_a_client_s_book_is_told_whole() -> None:
    reader = joined()
    (book, _) = reader.whole("BTCUSDT", 5, 6)
    assert isinstance(book, Book) and book.snapshot
    assert book.bids == [("10.0", "1"), ("7.0", "1")]
    assert reader.whole("ETHUSDT", 5, 6) == ()


def test_depth_follows_the_book() -> None:
    recording = Session(Mexc, MexcVenue(), SESSION)
    done = recording.run()
    assert len(only(Depth, done.outputs)) > 30
    assert len(only(Trade, done.outputs)) == 80
    assert len(only(Ticker, done.outputs)) == 3


# The listing


def test_the_listing_is_read_whole() -> None:
    recording = Session(Mexc, MexcVenue(), SESSION)
    bitcoin, ether = recording.listed
    assert bitcoin == Instrument(
        exchange="mexc",
        symbol="BTC-USDT",
        native="BTCUSDT",
        type="spot",
        base="BTC",
        quote="USDT",
        price_step="0.01",
        size_step="0.00000001",
    )
    assert ether.size_step == "0.00001"
    for body in (b"", b"{}", b'{"symbols":[{"symbol":1}]}', b"[" * 100_000):
        with pytest.raises(BadPayload):
            Mexc.instruments([body])


def test_a_symbol_alone_is_named_by_its_quote_asset() -> None:
    named = {native: Mexc.instrument(native) for native in ("BTCUSDT", "ETHBTC", "USDT", "MX")}
    assert {native: one and one.symbol for native, one in named.items()} == {
        "BTCUSDT": "BTC-USDT",
        "ETHBTC": "ETH-BTC",
        "USDT": None,
        "MX": None,
    }


# The exchange's side


def test_the_venue_serves_what_it_has_and_refuses_the_rest() -> None:
    venue = MexcVenue()
    recording = Session(Mexc, venue, SESSION)
    reader = recording.adapter()
    acks = [venue.request("/ws", send.frame) for send in reader.opened()]
    assert {stream for ack in acks for stream in ack.streams} == set(recording.streams)
    assert feed(mexc(), *(one.encode() for ack in acks for one in ack.frames)) == []
    other = Stream("aggre.deals@10ms", "XRPUSDT")
    send = mexc(other).opened()[0]
    (refusal,) = venue.request("/ws", send.frame).frames
    (refused,) = feed(mexc(other), refusal.encode())
    assert isinstance(refused, Refused) and refused.streams == (other,)
    assert venue.request("/ws", send.frame.replace("SUBSCR", "UNSUBSCR")).unsubscribe
    for wrong in ("", "{}", '{"method":"FLY"}', "[" * 100_000):
        (refusal,) = venue.request("/ws", wrong).frames
        assert json.loads(refusal)["code"] == 1
    assert json.loads(venue.request("/ws", '{"method":"PING"}').frames[0])["msg"] == "PONG"


def test_a_frame_that_happens_to_be_text_is_told_by_how_it_came() -> None:
    frame = wrapped(name_of(DEALS), 314, b"", 0).decode()
    line = TapeLine("in", raw=frame, frame="binary")
    assert MexcVenue().stream_of(line) == DEALS
    assert MexcVenue().stream_of(TapeLine("in", raw=frame)) is None


def test_the_venue_tells_who_comes_late_where_the_book_stands() -> None:
    venue = MexcVenue()
    recording = Session(Mexc, venue, SESSION)
    standing = venue.standing(DEPTH, recording.bodies)
    assert standing is not None and standing.key == "depth:BTCUSDT"
    updates = [one for one in recording.frames if b"aggre.depth" in one[:40]]
    for one in updates[:-1]:
        standing.take(one)
    reader = mexc(DEPTH)
    feed(reader, updates[-1])
    told = standing.told()
    assert told is not None
    late = clients_books(list(reader.fetched("depth:BTCUSDT", told, 2)))
    assert late == clients_books(recording.run().outputs)
    assert venue.standing(DEALS, recording.bodies) is None


def test_a_number_is_written_as_protobuf_has_it() -> None:
    assert (number(150), number(1)) == (b"\x96\x01", b"\x01")
