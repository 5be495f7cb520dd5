"""Bitstamp: books told whole and books of changes, trades, refusals without a name, the listing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from adapters.base import Fetch, Health, Leave, Output, Refused, Send, Stream
from adapters.exchanges.bitstamp.adapter import Bitstamp
from adapters.exchanges.bitstamp.book import MAX_HELD
from adapters.exchanges.bitstamp.frames import name_of, stream_of
from adapters.exchanges.bitstamp.venue import BitstampVenue
from feed.errors import BadPayload
from feed.models import Book, Depth, Gap, Instrument, Quote, Trade
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

SESSION = PAYLOADS / "bitstamp" / "session.jsonl"
T0 = 1_790_000_000_000_000
TRADES, BOOK = Stream("live_trades", "ethusd"), Stream("order_book", "ethusd")
DIFFS = Stream("diff_order_book", "ethusd")
TRADE_TOPIC, BOOK_TOPIC = "trade.bitstamp.ETH-USD", "book.bitstamp.ETH-USD"
FETCH = Fetch("/api/v2/order_book/ethusd/?group=1", "depth:ethusd")
Levels = Sequence[Sequence[str]]


def bitstamp(*streams: Stream) -> Bitstamp:
    reader = adapter(Bitstamp, streams or [TRADES])
    assert isinstance(reader, Bitstamp)
    return reader


def feed(reader: Bitstamp, *frames: bytes) -> list[Output]:
    return [output for frame in frames for output in reader.parse(frame, 1)]


def frame(event: str, channel: str, data: Any) -> bytes:
    return json.dumps({"data": data, "channel": channel, "event": event}).encode()


def sides(at: int, bids: Levels, asks: Levels) -> dict[str, Any]:
    ts = T0 + at
    return {
        "timestamp": str(ts // 1_000_000),
        "microtimestamp": str(ts),
        "bids": bids,
        "asks": asks,
    }


def whole(at: int, bids: Levels = (), asks: Levels = ()) -> bytes:
    return frame("data", "order_book_ethusd", sides(at, bids, asks))


def diff(at: int, bids: Levels = (), asks: Levels = ()) -> bytes:
    return frame("data", "diff_order_book_ethusd", sides(at, bids, asks))


def snapshot(at: int, bids: Levels = (), asks: Levels = ()) -> bytes:
    return json.dumps(sides(at, bids, asks)).encode()


def trade(number: int, **more: Any) -> bytes:
    data = {
        "id": number,
        "timestamp": "1790000000",
        "amount": 0.241,
        "amount_str": "0.24100000",
        "price": 2090.2,
        "price_str": "2090.20",
        "type": 0,
        "microtimestamp": str(T0),
        "buy_order_id": 1982008431775746,
        "sell_order_id": 1982008430600193,
    }
    return frame("trade", "live_trades_ethusd", {**data, **more})


def booked(outputs: Sequence[Output]) -> list[tuple[bool, list[Any], list[Any]]]:
    return [(book.snapshot, book.bids, book.asks) for book in only(Book, outputs)]


# Recordings


@pytest.mark.parametrize("path", captures("bitstamp"))
def test_books_of_changes_are_what_the_simplest_reader_makes_of_them(path: Any) -> None:
    recording = Session(Bitstamp, BitstampVenue(), path)
    done = recording.run()
    books: dict[str, Sides] = {}
    since: dict[str, int] = {}
    for key, bodies in recording.bodies.items():
        told = json.loads(bodies[0])
        native = key.removeprefix("depth:")
        books[native] = (dict(told["bids"]), dict(told["asks"]))
        since[native] = int(told["microtimestamp"])
    for message in recording.payloads():
        stream = stream_of(message["channel"])
        if message["event"] != "data" or stream is None:
            continue
        data = message["data"]
        if int(data["microtimestamp"]) > since[stream.native]:
            apply(books[stream.native], data["bids"], data["asks"])
    shown = clients_books(done.outputs)
    told_of = {stream.native for stream in recording.streams if stream.channel == DIFFS.channel}
    assert len(told_of) >= 9
    for native in told_of:
        naive = books[native]
        instrument = Bitstamp.instrument(native)
        assert instrument is not None
        bids, asks = best_first(naive)
        mine = shown.pop(f"book.bitstamp.{instrument.symbol}")
        assert mine == (dict(bids[:1000]), dict(asks[:1000]))
    assert shown == {}


@pytest.mark.parametrize("path", [pytest.param(SESSION, id="bundled"), *captures("bitstamp")])
def test_every_trade_is_there_digit_for_digit(path: Any) -> None:
    recording = Session(Bitstamp, BitstampVenue(), path)
    sent = [
        (data["id"], data["price_str"], data["amount_str"], data["type"], data["microtimestamp"])
        for data in (one["data"] for one in recording.payloads() if one["event"] == "trade")
    ]
    trades = only(Trade, recording.run().outputs)
    sides_ = {"buy": "0", "sell": "1"}
    assert sent == [
        (one.id, one.price, one.size, sides_[one.side or ""], str(one.ts)) for one in trades
    ]
    assert len(sent) >= 10


def test_whole_books_come_to_the_last_one_told() -> None:
    recording = Session(Bitstamp, BitstampVenue(), SESSION)
    done = recording.run()
    last = {
        message["channel"]: message["data"]
        for message in recording.payloads()
        if message["event"] == "data"
    }
    shown = clients_books(done.outputs)
    assert shown == {
        f"book.bitstamp.{symbol}": (
            dict(last[f"order_book_{native}"]["bids"]),
            dict(last[f"order_book_{native}"]["asks"]),
        )
        for native, symbol in (("ethusd", "ETH-USD"), ("xrpeur", "XRP-EUR"))
    }
    snapshots = [book for book in only(Book, done.outputs) if book.snapshot]
    assert len(snapshots) == 2  # all the others are changes
    assert len(only(Depth, done.outputs)) > 20


#: Samples and pairs that are not what the exchange sends today, by a part of them.
RETIRED = {
    '"order_type":1': "trades of 2017, without texts of their numbers",
    '"generated":true': "a wrapper of another project around a REST book",
}


def lines(name: str) -> list[dict[str, Any]]:
    path = CAPTURES / "bitstamp" / name
    if not path.exists():
        pytest.skip("no recordings of bitstamp beside the repository")
    found = [json.loads(text) for text in path.read_text().splitlines()]
    return [one for one in found if not any(part in one["raw"] for part in RETIRED)]


def reader_of(message: dict[str, Any]) -> Bitstamp:
    stream = stream_of(message.get("channel", ""))
    return bitstamp(stream or TRADES)


def test_every_sample_of_today_is_read() -> None:
    counts: dict[str, int] = {}
    for sample in lines("samples.jsonl"):
        if sample["dir"] == "in":
            outputs = feed(reader_of(json.loads(sample["raw"])), sample["raw"].encode())
            for name in {type(one).__name__ for one in outputs} or {"nothing"}:
                counts[name] = counts.get(name, 0) + 1
    # Three acks; of the two books of changes only the snapshot is asked for.
    assert counts["nothing"] == 3 and counts["Trade"] == 1
    assert counts["Book"] == counts["Quote"] == counts["Depth"] == 1
    assert counts["Fetch"] == 2


def test_pairs_of_other_projects_agree() -> None:
    checked = 0
    for pair in lines("expected.jsonl"):
        message = json.loads(pair["raw"])
        if "event" not in message:  # a REST book
            assert message["microtimestamp"]
            continue
        outputs = feed(reader_of(message), pair["raw"].encode())
        if pair["schema"] == "tardis":
            for mine, theirs in zip(only(Trade, outputs), pair["expected"], strict=True):
                assert (mine.id, mine.side) == (theirs["id"], theirs["side"])
                assert is_same(mine.price, theirs["price"])
                assert is_same(mine.size, theirs["amount"])
                checked += 1
            continue
        expected = pair["expected"]["asserts"]
        if message["event"] == "trade":
            (sold,) = only(Trade, outputs)
            assert is_same(sold.price, expected["trade.price"])
            assert is_same(sold.size, expected["trade.quantity_base"])
            assert sold.side == expected["trade.side"]
            assert sold.ts is not None and sold.ts // 1_000 == expected["timestamp"]
        else:
            (book,) = only(Book, outputs)
            assert is_same(book.bids[2][0], expected["orderbook.bids[2].price"])
            assert is_same(book.asks[0][0], expected["orderbook.asks[0].price"])
        checked += 1
    assert checked == 3


# Books that are told whole


def test_the_first_book_is_a_snapshot_and_the_next_ones_say_what_has_changed() -> None:
    reader = bitstamp(BOOK)
    first = feed(reader, whole(1, [["10", "1"], ["9", "1"]], [["11", "1"]]))
    assert booked(first) == [(True, [("10", "1"), ("9", "1")], [("11", "1")])]
    second = feed(reader, whole(2, [["10", "2"]], [["11", "1"]]))
    assert booked(second) == [(False, [("9", "0"), ("10", "2")], [])]
    assert only(Quote, second)[0].bid_size == "2"
    assert booked(feed(reader, whole(3, [["10", "2"]], [["11", "1"]]))) == []


def test_a_lost_message_is_made_good_by_the_next() -> None:
    reader, other = bitstamp(BOOK), bitstamp(BOOK)
    one, two, three = (
        whole(1, [["10", "1"]], [["11", "1"]]),
        whole(2, [["9", "1"]], [["10", "1"]]),
        whole(3, [["8", "1"]], [["12", "5"]]),
    )
    books = [clients_books(feed(reader, one, two, three)), clients_books(feed(other, one, three))]
    assert books[0] == books[1]


def test_a_message_that_was_overtaken_is_dropped() -> None:
    reader = bitstamp(BOOK)
    feed(reader, whole(5, [["10", "1"]]))
    assert feed(reader, whole(4, [["9", "1"]])) == []
    assert booked(feed(reader, whole(6, [["9", "1"]])))


def test_a_crossed_book_is_not_shown_and_the_next_one_is() -> None:
    reader = bitstamp(BOOK)
    assert feed(reader, whole(1, [["11", "1"]], [["10", "1"]])) == []
    feed(reader, whole(2, [["9", "1"]], [["10", "1"]]))
    crossed = feed(reader, whole(3, [["11", "1"]], [["10", "1"]]))
    assert [type(one) for one in crossed] == [Health, Gap]
    back = feed(reader, whole(4, [["9", "1"]], [["10", "1"]]))
    assert booked(back) == [(True, [("9", "1")], [("10", "1")])]
    assert only(Health, back) == [Health("ethusd", ("book", "depth", "quote"), "live", None)]


# Books of changes


def joined() -> Bitstamp:
    """Return an adapter whose book is live as of 12."""
    reader = bitstamp(DIFFS)
    assert feed(reader, diff(10, [["9", "1"]])) == [FETCH]
    feed(reader, diff(12, [["10", "1"]]))
    outputs = list(reader.fetched("depth:ethusd", snapshot(11, [["7", "1"]]), 2))
    assert booked(outputs) == [(True, [("7", "1")], []), (False, [("10", "1")], [])]
    return reader


@pytest.mark.parametrize(("at", "joins"), [(9, False), (10, True), (12, True), (99, True)])
def test_a_snapshot_joins_where_changes_were_held_before_it(at: int, joins: bool) -> None:
    reader = bitstamp(DIFFS)
    feed(reader, diff(10, [["9", "1"]]))
    outputs = list(reader.fetched("depth:ethusd", snapshot(at, [["7", "1"]]), 2))
    assert bool(booked(outputs)) == joins
    assert only(Fetch, outputs) == ([] if joins else [FETCH])


def test_another_channel_tells_since_when_changes_of_a_quiet_market_would_have_come() -> None:
    reader = bitstamp(TRADES, DIFFS)
    ack = reply("bts:subscription_succeeded", name_of(DIFFS))
    feed(reader, ack, trade(7, microtimestamp=str(T0 + 5)), diff(10, [["9", "1"]]))
    assert only(Fetch, reader.fetched("depth:ethusd", snapshot(4, [["7", "1"]]), 2)) == [FETCH]
    outputs = list(reader.fetched("depth:ethusd", snapshot(6, [["7", "1"]]), 2))
    assert booked(outputs) == [(True, [("7", "1")], []), (False, [("9", "1")], [])]


def test_changes_held_are_bounded_and_a_snapshot_from_before_them_is_asked_again() -> None:
    reader = bitstamp(DIFFS)
    for at in range(1, MAX_HELD + 11):
        feed(reader, diff(at))
    assert list(reader.fetched("depth:ethusd", snapshot(10, [["7", "1"]]), 2)) == [FETCH]
    assert booked(list(reader.fetched("depth:ethusd", snapshot(11, [["7", "1"]]), 2)))


def test_a_change_that_the_book_has_is_dropped() -> None:
    reader = joined()
    assert feed(reader, diff(12, [["10", "5"]])) == []
    assert booked(feed(reader, diff(13, [["10", "0.00"]]))) == [(False, [("10", "0")], [])]


def test_a_book_of_changes_that_crosses_is_asked_for_again() -> None:
    reader = joined()
    outputs = feed(reader, diff(13, [], [["9", "1"]]))
    assert [type(one) for one in outputs] == [Health, Gap, Fetch]
    assert feed(reader, diff(14, [["8", "1"]])) == []
    assert list(reader.fetched("depth:ethusd", snapshot(13, [["8", "1"]]), 3)) == [FETCH]
    back = list(reader.fetched("depth:ethusd", snapshot(15, [["8", "1"]], [["9", "1"]]), 3))
    assert booked(back) == [(True, [("8", "1")], [("9", "1")])]
    assert only(Health, back)[-1].state == "live"


def test_a_failed_fetch_is_asked_again_and_a_bad_body_refused() -> None:
    reader = bitstamp(DIFFS)
    feed(reader, diff(10))
    for bad in (b"", b"{}", b"[]", snapshot(11, [["x", "1"]]), snapshot(11, [["1", "1"]] * 2)):
        with pytest.raises(BadPayload):
            reader.fetched("depth:ethusd", bad, 2)
    assert list(reader.fetch_failed("depth:ethusd", 2)) == [FETCH]
    joined_ = joined()
    assert list(joined_.fetched("depth:ethusd", snapshot(99), 2)) == []
    assert list(joined_.fetch_failed("depth:ethusd", 2)) == []


def test_of_two_kinds_of_book_the_whole_one_feeds() -> None:
    reader = bitstamp(DIFFS, BOOK)
    assert feed(reader, diff(10, [["9", "1"]])) == []
    assert booked(feed(reader, whole(11, [["9", "1"]])))
    instrument = Bitstamp.instrument("ethusd")
    assert instrument is not None
    assert Bitstamp.carried([DIFFS], instrument, {"book"}) == ((BOOK_TOPIC,), 1_000)
    assert Bitstamp.carried([BOOK], instrument, {"book"}) == ((BOOK_TOPIC,), 100)


# Trades


def test_a_trade_has_its_own_digits_its_id_and_the_taker_s_side() -> None:
    bought, sold = feed(bitstamp(), trade(1 << 60), trade(7, type=1, amount_str="1E-8"))
    assert bought == Trade(
        TRADE_TOPIC, 0, T0, 1, 0, "1152921504606846976", "2090.20", "0.24100000", "buy"
    )
    assert isinstance(sold, Trade) and (sold.side, sold.size) == ("sell", "0.00000001")


def test_a_trade_that_comes_twice_is_told_once() -> None:
    assert len(feed(bitstamp(), trade(7), trade(8), trade(7))) == 2


BAD = [
    b"",
    b"{}",
    b'{"event":"neverSeen"}',
    frame("neverSeen", "order_book_ethusd", {}),
    frame("data", "never_seen_ethusd", {}),
    frame("data", "order_book_btcusd", sides(1, [], [])),
    frame("trade", "live_trades_btcusd", json.loads(trade(1))["data"]),
    trade(8, price_str="-1"),
    trade(8, amount_str=""),
    trade(8, type=2),
    trade(8, id="8"),
    trade(8, microtimestamp="9" * 19),
    trade(8, microtimestamp="-5"),
    whole(8, [["x", "1"]]),
    whole(8, [["1", "1"], ["1.0", "1"]]),
    whole(8, [["1", "1", "17"]]),
    diff(8, [["9", "1e400"]]),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_frame_that_cannot_be_read_changes_nothing(bad: bytes) -> None:
    xrp = Stream("diff_order_book", "xrpeur")
    reader = bitstamp(TRADES, BOOK, xrp)
    feed(reader, whole(1, [["10", "1"]], [["11", "1"]]))
    with pytest.raises(BadPayload):
        feed(reader, bad.replace(b"diff_order_book_ethusd", b"diff_order_book_xrpeur"))
    assert len(feed(reader, trade(8))) == 1
    changes = feed(reader, whole(9, [["10", "2"]], [["11", "1"]]))
    assert booked(changes) == [(False, [("10", "2")], [])]


def test_an_unreadable_frame_puts_in_doubt_what_nothing_proves() -> None:
    gap = Gap(TRADE_TOPIC, 0, None, 1, 0, "upstream_sequence", None)
    reader = bitstamp(TRADES, BOOK)
    assert list(reader.unread(trade(7)[:-1], 1)) == [gap]
    assert list(reader.unread(b"\xff", 1)) == []  # said already
    feed(reader, trade(7))
    assert list(reader.unread(b"\xff", 1)) == [gap]
    assert list(reader.unread(whole(5)[:-1], 1)) == []  # the next one has it all
    assert list(reader.unread(b'{"event":"neverSeen"}', 1)) == []
    reader = joined()
    assert [type(one) for one in reader.unread(diff(13)[:-1], 1)] == [Health, Gap, Fetch]


# Subscriptions


def reply(event: str, channel: str = "", **data: Any) -> bytes:
    return frame(event, channel, data)


REFUSAL = reply("bts:error", code=None, message="Bad subscription string.")


def test_each_channel_is_asked_for_alone() -> None:
    instrument = Bitstamp.instrument("ethusd")
    assert instrument is not None
    streams = Bitstamp.streams(instrument, Bitstamp.kinds)
    assert streams == [TRADES, BOOK]
    assert Bitstamp.streams(instrument, {"depth"}) == [BOOK]
    sent = [json.loads(send.frame) for send in bitstamp(*streams).opened()]
    assert sent == [
        {"event": "bts:subscribe", "data": {"channel": name}}
        for name in ("live_trades_ethusd", "order_book_ethusd")
    ]


def test_acks_and_heartbeats_say_nothing() -> None:
    reader = bitstamp(TRADES, BOOK)
    reader.opened()
    for stream in (TRADES, BOOK):
        assert feed(reader, reply("bts:subscription_succeeded", name_of(stream))) == []
    assert feed(reader, reply("bts:heartbeat", status="success")) == []
    assert reader.ping() == '{"event":"bts:heartbeat"}'


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_refusal_without_a_name_is_of_what_stays_unanswered(at: int) -> None:
    bad = Stream("live_trades", "nonousd")
    reader = bitstamp(TRADES, BOOK, bad)
    reader.opened()
    answers = [reply("bts:subscription_succeeded", name_of(one)) for one in (TRADES, BOOK)]
    answers.insert(at, REFUSAL)
    assert feed(reader, *answers) == [Refused((bad,), "Bad subscription string.")]
    # One at a later request is of that.
    reader.resync([BOOK], 1)
    feed(reader, reply("bts:unsubscription_succeeded", name_of(BOOK)))
    assert feed(reader, REFUSAL) == [Refused((BOOK,), "Bad subscription string.")]


def test_an_announced_end_makes_us_leave() -> None:
    assert feed(bitstamp(), reply("bts:request_reconnect")) == [
        Leave("request_reconnect", serves_on=True)
    ]


def test_channels_left_out_on_purpose_give_nothing() -> None:
    reader = bitstamp()
    assert (
        feed(
            reader,
            frame("order_created", "live_orders_ethusd", {"id": 1}),
            frame("data", "detail_order_book_ethusd", {}),
            frame("funding_rate_saved", "funding_rate_btcusd-perp", {}),
        )
        == []
    )


def test_a_resync_takes_those_streams_anew_and_says_what_may_be_lost() -> None:
    reader = bitstamp(TRADES, BOOK)
    feed(reader, whole(1, [["10", "1"]]))
    outputs = list(reader.resync([TRADES], 5))
    assert outputs[0] == Gap(TRADE_TOPIC, 0, None, 5, 0, "upstream_sequence", None)
    sent = [json.loads(send.frame) for send in only(Send, outputs)]
    assert [one["event"] for one in sent] == ["bts:unsubscribe", "bts:subscribe"]
    # The next whole book has all that was missed.
    assert [type(one) for one in reader.resync([BOOK], 5)] == [Send, Send]
    assert [type(one) for one in joined().resync([DIFFS], 5)] == [Send, Send, Health, Gap, Fetch]


def test_a_client_s_book_is_told_whole() -> None:
    (book, _) = joined().whole("ethusd", 5, 6)
    assert isinstance(book, Book) and book.snapshot
    assert book.bids == [("10", "1"), ("7", "1")]
    assert not bitstamp().whole("ethusd", 5, 6)


# The listing, and the exchange's side


def test_the_listing_is_read_without_the_perpetuals() -> None:
    recording = Session(Bitstamp, BitstampVenue(), SESSION)
    ether, ripple = recording.listed
    assert ether == Instrument(
        exchange="bitstamp",
        symbol="ETH-USD",
        native="ethusd",
        type="spot",
        base="ETH",
        quote="USD",
        price_step="0.01",
        size_step="0.00000001",
    )
    assert (ripple.symbol, ripple.price_step) == ("XRP-EUR", "0.00001")
    for body in (b"", b"{}", b'[{"market_symbol":1}]', b"[" * 100_000):
        with pytest.raises(BadPayload):
            Bitstamp.instruments([body])


@pytest.mark.parametrize(
    ("native", "symbol"),
    [
        ("btcusd", "BTC-USD"),
        ("usdtusd", "USDT-USD"),
        ("usdcusdt", "USDC-USDT"),
        ("pyusdusd", "PYUSD-USD"),
        ("sgbeur", "SGB-EUR"),
        ("batbtc", "BAT-BTC"),
        ("btcusd-perp", None),
        ("usd", None),
    ],
)
def test_a_symbol_alone_is_named_by_its_quote_asset(native: str, symbol: str | None) -> None:
    instrument = Bitstamp.instrument(native)
    assert (instrument and instrument.symbol) == symbol


def test_the_venue_serves_what_it_has_and_refuses_the_rest_without_a_name() -> None:
    venue = BitstampVenue()
    recording = Session(Bitstamp, venue, SESSION)
    reader = recording.adapter()
    acks = [venue.request("/", send.frame) for send in reader.opened()]
    assert {stream for ack in acks for stream in ack.streams} == set(recording.streams)
    assert feed(bitstamp(), *(one.encode() for ack in acks for one in ack.frames)) == []
    for wrong in (
        "",
        "{}",
        '{"event":"bts:subscribe","data":{"channel":"live_trades_nonousd"}}',
        "[" * 100_000,
    ):
        (refusal,) = venue.request("/", wrong).frames
        assert json.loads(refusal)["event"] == "bts:error"
    ping = reader.ping()
    assert ping is not None and "success" in venue.request("/", ping).frames[0]
    leave = venue.farewell(0)
    assert leave is not None and only(Leave, feed(bitstamp(), leave.encode()))


@pytest.mark.parametrize("path", captures("bitstamp"))
def test_the_venue_tells_who_comes_late_where_a_book_of_changes_stands(path: Any) -> None:
    venue = BitstampVenue()
    recording = Session(Bitstamp, venue, path)
    standing = venue.standing(DIFFS, recording.bodies)
    assert standing is not None and standing.key == "depth:ethusd"
    changes = [one for one in recording.frames if b'"diff_order_book_ethusd","event":"data"' in one]
    for one in changes:
        standing.take(one)
    reader = bitstamp(DIFFS)
    feed(reader, changes[-1])
    told = standing.told()
    assert told is not None
    late = clients_books(list(reader.fetched("depth:ethusd", told, 2)))
    assert late[BOOK_TOPIC] == clients_books(recording.run().outputs)[BOOK_TOPIC]
