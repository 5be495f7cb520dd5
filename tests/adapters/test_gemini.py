"""Gemini: streams numbered by update ids, and recordings of version 2; ``payloads/gemini``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters import tape
from adapters.base import Adapter, Health, Leave, Output, Refused, Send, Stream
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.gemini.adapter import Gemini
from adapters.exchanges.gemini.venue import GeminiVenue
from adapters.registry import exchanges_of
from feed.errors import BadPayload
from feed.models import Book, Depth, Derivative, Gap, Instrument, Quote, Ticker, Trade
from tests.adapters import broken
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

SESSION = PAYLOADS / "gemini" / "session.jsonl"
OLD = PAYLOADS / "gemini" / "old_session.jsonl"
TS = 1786500000123456
E = TS * 1_000 + 789
KINDS = ("book", "depth")
old_recordings = pytest.mark.parametrize(
    "path", [pytest.param(OLD, id="bundled"), *captures("gemini")]
)


def session(path: Path = SESSION) -> Session:
    return Session(Gemini, GeminiVenue(), path)


def gemini(*channels: str, natives: Sequence[str] = ("BTCUSD",)) -> Gemini:
    reader = adapter(Gemini, [Stream(one, native) for native in natives for one in channels])
    assert isinstance(reader, Gemini)
    return reader


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def depth(
    first: int, last: int, *bids: tuple[str, str], asks: Any = (), s: str = "btcusd"
) -> bytes:
    fields = {"e": "depthUpdate", "E": E, "s": s, "U": first, "u": last, "b": bids, "a": asks}
    return json.dumps(fields).encode()


def snapshot(last: int, s: str = "btcusd", bid: str = "100.00") -> bytes:
    return depth(last, last, (bid, "1.0"), ("99.00", "2"), asks=[("101.00", "3")], s=s)


def best(update: int, bid: str = "100.00", **more: str) -> bytes:
    fields = {"u": update, "E": E, "s": "btcusd", "b": bid, "B": "1.0", "a": "101.00", "A": "2.50"}
    return json.dumps(fields | more).encode()


def trade(number: int, buyer_is_maker: bool = True) -> bytes:
    fields = {"E": E, "s": "btcusd", "t": number, "p": "100.10", "q": "0.50", "m": buyer_is_maker}
    return json.dumps(fields).encode()


def reply(number: str, **fields: object) -> bytes:
    return json.dumps({"id": number, "status": 200} | fields).encode()


def asked(outputs: Sequence[Output]) -> list[tuple[str, list[str]]]:
    requests = [json.loads(one.frame) for one in only(Send, outputs)]
    return [(one["method"], one["params"]) for one in requests]


def again(reader: Gemini, outputs: Sequence[Output]) -> list[Output]:
    """Return what comes of the acknowledgement that the old subscription has ended."""
    leave = json.loads(only(Send, outputs)[-2].frame)
    assert leave["method"] == "UNSUBSCRIBE"
    return parse(reader, [reply(leave["id"])])


def test_the_session_is_read_digit_for_digit() -> None:
    recording = session()
    outputs = recording.run().outputs
    naive: dict[str, Sides] = {}
    trades, quotes, marks = [], [], []
    for one in recording.payloads():
        topic = one.get("s", "").upper()
        if one.get("e") == "depthUpdate":
            apply(naive.setdefault(topic, ({}, {})), one["b"], one["a"])
        elif "t" in one:
            trades.append((one["t"], one["p"], one["q"], "sell" if one["m"] else "buy"))
        elif "B" in one:
            quotes.append((one["b"], one["B"], one["a"], one["A"], int(one["E"]) // 1_000))
        elif one.get("e") == "markPrice":
            marks.append(one["p"])
    books = clients_books(outputs)
    assert books["book.gemini.BTC-USD"] == naive["BTCUSD"]
    assert books["book.gemini.ETH-GUSD-PERP"] == naive["ETHGUSDPERP"]
    assert [(t.id, t.price, t.size, t.side) for t in only(Trade, outputs)] == trades
    shown = [(q.bid, q.bid_size, q.ask, q.ask_size, q.ts) for q in only(Quote, outputs)]
    # The last price may change alone: then only the ticker says more.
    assert set(shown) <= set(quotes) and len(shown) > 20
    tickers = only(Ticker, outputs)
    assert {(t.bid, t.ask) for t in tickers} == {(q[0], q[2]) for q in quotes}
    derivatives = only(Derivative, outputs)
    assert list(dict.fromkeys(one.mark for one in derivatives)) == marks
    assert derivatives[-1].funding_time == 1786503600000000
    assert {one.topic for one in derivatives} == {"derivative.gemini.ETH-GUSD-PERP"}


def test_the_first_update_is_the_whole_book_and_the_next_begins_where_it_ended() -> None:
    reader = gemini("depth@100ms")
    updates = [snapshot(10), depth(10, 15, ("100.00", "4")), depth(16, 16, ("98.00", "1"))]
    outputs = parse(reader, updates)
    assert [one.snapshot for one in only(Book, outputs)] == [True, False, False]
    assert {one.ts for one in only(Book, outputs)} == {TS}
    assert {one.ts for one in only(Depth, outputs)} == {TS}
    assert parse(reader, [depth(10, 15, ("100.00", "9"))]) == [], "it came before"


def test_a_hole_in_a_book_asks_for_it_afresh_and_old_updates_are_no_snapshot() -> None:
    reader = gemini("depth@100ms", natives=("BTCUSD", "ETHUSD"))
    parse(reader, [snapshot(10), snapshot(10, "ethusd")])
    lost = parse(reader, [depth(12, 15, ("100.00", "4"))])
    assert only(Health, lost) == [Health("BTCUSD", KINDS, "invalid", "sequence")]
    gap = Gap("book.gemini.BTC-USD", 0, None, 0, 0, "upstream_sequence", None)
    assert only(Gap, lost) == [gap]
    stream = ["btcusd@depth@100ms"]
    assert asked(lost) == [("UNSUBSCRIBE", stream), ("SUBSCRIBE", stream)]
    assert parse(reader, [depth(15, 16, ("100.00", "5"))]) == []
    assert again(reader, lost) == []
    fresh = parse(reader, [snapshot(17)])
    assert only(Health, fresh) == [Health("BTCUSD", KINDS, "live", None)]
    assert [type(one) for one in parse(reader, [depth(17, 18, ("100.00", "6"))])] == [Book]


def test_a_fresh_book_that_does_not_come_is_asked_for_again() -> None:
    reader = gemini("depth@100ms")
    parse(reader, [snapshot(10)])
    parse(reader, [depth(12, 15)])
    assert parse(reader, [depth(15, 16)], RESUBSCRIBE_US - 1) == []
    assert len(asked(parse(reader, [depth(16, 17)], RESUBSCRIBE_US))) == 2


def test_a_crossed_book_is_invalid_until_a_fresh_snapshot() -> None:
    reader = gemini("depth@100ms")
    parse(reader, [snapshot(10)])
    lost = parse(reader, [depth(10, 11, ("101.00", "4"))])
    assert only(Health, lost)[0].reason == "crossed" and only(Book, lost) == []
    again(reader, lost)
    assert only(Book, parse(reader, [snapshot(12, bid="102.00")])) == []
    assert only(Book, parse(reader, [depth(12, 13, ("100.00", "4"))])) == []


def test_the_best_prices_feed_quote_and_ticker_when_they_change_and_in_order() -> None:
    reader = gemini("bookTicker")
    outputs = parse(reader, [best(5, c="99.90"), best(6, c="99.90"), best(7, c="100.0"), best(3)])
    assert only(Quote, outputs) == [
        Quote("quote.gemini.BTC-USD", 0, TS, 0, 0, "100.00", "1.0", "101.00", "2.50")
    ]
    assert [(one.last, one.bid, one.ask) for one in only(Ticker, outputs)] == [
        ("99.90", "100.00", "101.00"),
        ("100.0", "100.00", "101.00"),
    ]
    assert parse(reader, [best(8, bid="101.00")]) == [], "a crossed one is none"
    (quote, _) = parse(reader, [b'{"u":9,"E":1786500000123456789,"s":"btcusd"}'])
    assert isinstance(quote, Quote) and (quote.bid, quote.bid_size, quote.ask) == (None, None, None)


def test_trades_have_the_taker_s_side_and_none_comes_twice() -> None:
    reader = gemini("trade")
    numbers = [2840141014190422, 2840141014190423, 2840141014190422]
    outputs = parse(reader, [trade(numbers[0]), trade(numbers[1], False), trade(numbers[2])])
    assert [(one.id, one.side) for one in only(Trade, outputs)] == [
        ("2840141014190422", "sell"),
        ("2840141014190423", "buy"),
    ]


def test_mark_price_and_funding_time_are_one_state() -> None:
    reader = gemini("fundingAmount", "markPrice", natives=("ETHGUSDPERP",))
    mark = {"e": "markPrice", "E": E, "s": "ethgusdperp", "p": "1926.10", "i": "19261.3"}
    due = 1786503600000000000
    paid = {"e": "fundingAmount", "E": due, "s": "ethgusdperp", "T": due, "i": 60, "f": "-0.1"}
    paid |= {"r": "0.005", "p": "1926.10", "R": False}
    frames = [mark, mark, paid, paid | {"T": due + 1_000, "R": True}]
    outputs = parse(reader, [json.dumps(one).encode() for one in frames])
    topic = "derivative.gemini.ETH-GUSD-PERP"
    assert outputs == [
        Derivative(topic, 0, TS, 0, 0, "1926.10", None, None, None, None),
        Derivative(topic, 0, None, 0, 0, "1926.10", None, None, due // 1_000, None),
    ]


def test_streams_are_asked_for_in_batches_and_contracts_have_more() -> None:
    spot, perpetual = Gemini.instrument("BTCUSD"), Gemini.instrument("ETHGUSDPERP")
    assert spot is not None and perpetual is not None
    streams = [
        one for instrument in (spot, perpetual) for one in Gemini.streams(instrument, Gemini.kinds)
    ]
    (request,) = adapter(Gemini, streams).opened()
    assert isinstance(request, Send)
    assert json.loads(request.frame)["params"] == [
        "btcusd@depth@100ms",
        "btcusd@bookTicker",
        "btcusd@trade",
        "ethgusdperp@depth@100ms",
        "ethgusdperp@bookTicker",
        "ethgusdperp@trade",
        "ethgusdperp@fundingAmount",
        "ethgusdperp@markPrice",
    ]
    many = gemini("depth@100ms", natives=[f"A{number}USD" for number in range(120)])
    assert [len(params) for _, params in asked(many.opened())] == [50, 50, 20]


def test_one_bad_symbol_is_refused_and_the_others_asked_for_again() -> None:
    reader = gemini("trade", natives=("BTCUSD", "FOOUSD"))
    reader.opened()
    error = {"code": -1013, "msg": "Invalid stream foousd@trade"}
    refused, rest = parse(reader, [reply("1", status=400, error=error)])
    assert isinstance(refused, Refused) and refused.streams == (Stream("trade", "FOOUSD"),)
    assert asked([rest]) == [("SUBSCRIBE", ["btcusd@trade"])]
    unclear = gemini("trade", natives=("BTCUSD", "FOOUSD"))
    unclear.opened()
    alone = parse(unclear, [reply("1", status=400, error={"code": -1013, "msg": "Invalid"})])
    assert asked(alone) == [("SUBSCRIBE", ["btcusd@trade"]), ("SUBSCRIBE", ["foousd@trade"])]
    (refused,) = parse(unclear, [reply("3", status=400, error={"code": -1013, "msg": "Invalid"})])
    assert isinstance(refused, Refused) and refused.streams == (Stream("trade", "FOOUSD"),)
    limited = reply("2", status=429, error={"code": -1003, "msg": "Rate limit exceeded"})
    assert parse(unclear, [limited]) == [Leave("error")]


def test_resync_declares_the_trades_that_may_be_lost() -> None:
    reader = gemini("depth@100ms", "trade", natives=("BTCUSD", "ETHUSD"))
    gap, *requests = reader.resync([Stream("trade", "ETHUSD")], 7)
    assert gap == Gap("trade.gemini.ETH-USD", 0, None, 7, 0, "upstream_sequence", None)
    params = ["ethusd@trade"]
    assert asked(requests) == [("UNSUBSCRIBE", params), ("SUBSCRIBE", params)]


@pytest.mark.parametrize(
    ("bad", "doubted"),
    [
        pytest.param(trade(5)[:-9], {"BTC-USD"}, id="cut short"),
        pytest.param(trade(5).replace(b"100.10", b"NaN"), {"BTC-USD"}, id="a trade"),
        pytest.param(b"\x00\xff garbage", {"BTC-USD", "ETH-USD"}, id="anybody's"),
        pytest.param(depth(1, 2, ("NaN", "1")), set(), id="numbers show a book's loss"),
        pytest.param(best(5, bid="NaN"), set(), id="the next best prices are whole"),
        pytest.param(b'{"e":"surprise","s":"btcusd"}', set(), id="nothing of ours"),
    ],
)
def test_an_unreadable_frame_doubts_the_trades_it_may_have_been(
    bad: bytes, doubted: set[str]
) -> None:
    reader = gemini("depth@100ms", "bookTicker", "trade", natives=("BTCUSD", "ETHUSD"))
    parse(reader, [snapshot(0), snapshot(0, "ethusd")])
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    outputs = list(reader.unread(bad, 1))
    assert {gap.topic for gap in only(Gap, outputs)} == {f"trade.gemini.{one}" for one in doubted}
    assert len(outputs) == len(doubted)
    assert list(reader.unread(bad, 2)) == [], "said once"


def test_after_an_unreadable_beginning_the_next_update_is_not_taken_for_the_whole_book() -> None:
    reader = gemini("depth@100ms", natives=("BTCUSD", "ETHUSD"))
    bad = snapshot(10)[:-9]
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    lost = list(reader.unread(bad, 0))
    assert [method for method, _ in asked(lost)] == ["UNSUBSCRIBE", "SUBSCRIBE"]
    assert parse(reader, [depth(10, 11, ("100.00", "1"))]) == []
    again(reader, lost)
    assert only(Book, parse(reader, [snapshot(12)]))[0].snapshot
    assert only(Book, parse(reader, [snapshot(12, "ethusd")]))[0].snapshot


def test_kinds_left_out_are_silent_and_unknown_ones_refused() -> None:
    reader = gemini("trade", "l2")
    for one in Gemini.ignored:
        key = "e" if one == "contractStatus" else "type"
        assert parse(reader, [json.dumps({key: one, "symbol": "BTCUSD"}).encode()]) == []
    for bad in (b'{"type":"surprise"}', b'{"e":"surprise"}', trade(1).replace(b"btc", b"eth")):
        with pytest.raises(BadPayload):
            parse(reader, [bad])


@old_recordings
def test_version_2_is_read_digit_for_digit(path: Path) -> None:
    recording = session(path)
    outputs = recording.run().outputs
    naive: dict[str, Sides] = {}
    trades = []
    for one in recording.payloads():
        if one["type"] == "l2_updates":
            for side, price, size in one["changes"]:
                sides = naive.setdefault(one["symbol"], ({}, {}))
                apply(sides, *(([(price, size)], ()) if side == "buy" else ((), [(price, size)])))
        elif one["type"] == "trade":
            number = one.get("tid", one["event_id"])
            trades.append((number, one["price"], one["quantity"], one["side"]))
    assert [(t.id, t.price, t.size, t.side) for t in only(Trade, outputs)] == trades
    assert len(trades) >= 2
    books = clients_books(outputs)
    assert len(books) == len(naive)
    for native, sides in naive.items():
        instrument = Gemini.instrument(native)
        assert instrument is not None
        bids, asks = best_first(sides)
        assert books[f"book.gemini.{instrument.symbol}"] == (dict(bids[:1_000]), dict(asks[:1_000]))
    assert {one.ts for one in only(Quote, outputs)} == {None}


def old(symbol: str = "BTCUSD", *changes: tuple[str, str, str], **lists: object) -> bytes:
    fields = {"type": "l2_updates", "symbol": symbol, "changes": changes}
    return json.dumps(fields | lists).encode()


def test_version_2_doubts_a_book_after_an_unreadable_frame_and_asks_in_its_own_words() -> None:
    reader = gemini("l2", natives=("BTCUSD", "ETHUSD"))
    levels = (("buy", "100", "1"), ("sell", "101", "1"))
    for symbol in ("BTCUSD", "ETHUSD"):
        parse(reader, [old(symbol, *levels, trades=[], auction_events=[])])
    bad = old("ETHUSD", ("buy", "NaN", "1"))
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    outputs = list(reader.unread(bad, 1))
    assert [one.native for one in only(Health, outputs)] == ["ETHUSD"]
    assert [json.loads(one.frame) for one in only(Send, outputs)] == [
        {"type": type_, "subscriptions": [{"name": "l2", "symbols": ["ETHUSD"]}]}
        for type_ in ("unsubscribe", "subscribe")
    ]
    assert parse(reader, [old("ETHUSD", ("buy", "100", "2"))], 2) == []
    fresh = parse(reader, [old("ETHUSD", *levels, trades=[], auction_events=[])], 3)
    assert only(Health, fresh)[0].state == "live"


def test_version_2_tells_old_trades_that_are_known_when_they_come_again() -> None:
    reader = gemini("l2")
    told = {"type": "trade", "symbol": "BTCUSD", "event_id": 5, "timestamp": 1786500000123}
    told |= {"price": "1.0", "quantity": "2", "side": "buy"}
    first = old("BTCUSD", ("buy", "1", "1"), trades=[told])
    outputs = parse(reader, [first, json.dumps(told).encode()])
    assert only(Trade, outputs) == []
    new = json.dumps(told | {"event_id": 6, "tid": 77}).encode()
    assert [one.id for one in only(Trade, parse(reader, [new]))] == ["77"]


def test_the_listing_is_read_and_names_agree_with_the_symbols() -> None:
    listed = {one.native: one for one in session().listed}
    spot, perpetual, gold = listed["BTCUSD"], listed["ETHGUSDPERP"], listed["PAXGUSD"]
    assert (spot.symbol, spot.type, spot.state) == ("BTC-USD", "spot", "trading")
    assert (spot.price_step, spot.size_step) == ("0.01", "0.00000001")
    assert (perpetual.symbol, perpetual.type) == ("ETH-GUSD-PERP", "perpetual")
    assert (perpetual.settle, perpetual.size_unit, perpetual.inverse) == ("GUSD", "base", False)
    assert (gold.symbol, gold.state) == ("PAXG-USD", "limit_only")
    for native, one in listed.items():
        named = Gemini.instrument(native)
        assert named is not None and (named.symbol, named.type) == (one.symbol, one.type)
    assert Gemini.instrument("BTC") is None and Gemini.instrument("USD") is None
    with pytest.raises(BadPayload):
        Gemini.instruments([b'{"result":"error"}'])


def details() -> list[Instrument]:
    lines = tape.read(CAPTURES / "gemini" / "session_20260809.jsonl.gz")
    bodies = [line.raw for line in lines if line.url and "/symbols/details/" in line.url]
    return Gemini.instruments([f"[{','.join(one or '' for one in bodies)}]".encode()])


@pytest.mark.parametrize("path", captures("gemini", "session_2026*"))
def test_every_symbol_of_the_recorded_listing_is_named_as_it_is_listed(path: Path) -> None:
    listed = details()
    assert len(listed) > 300
    for one in listed:
        named = Gemini.instrument(one.native)
        assert named is not None
        assert (named.symbol, named.type, named.settle) == (one.symbol, one.type, one.settle)


#: A pair of which they make nothing: theirs reads trades and books alone. To us it says that there
#: is no best price.
NO_PRICES = '{"u":1764549594389752,"E":1784870400000000000,"s":"btcusd"}'


@pytest.mark.parametrize("path", captures("gemini", "expected.jsonl"))
def test_others_make_the_same_of_the_same_messages(path: Path) -> None:
    compared = 0
    readers: dict[tuple[str, str], Gemini] = {}
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        sent = json.loads(pair["raw"])
        native = sent.get("symbol") or sent["s"].upper()
        is_old = "type" in sent
        if native == "EMPTYBOOK":
            native = "EMPTYUSD"  # a symbol they made up
            pair["raw"] = pair["raw"].replace("emptybook", "emptyusd")
        key = pair["case"], native
        if key not in readers:
            channels = ("l2",) if is_old else ("depth@100ms", "trade", "bookTicker")
            readers[key] = gemini(*channels, natives=(native,))
        outputs = parse(readers[key], [pair["raw"].encode()])
        if not pair["expected"]:
            assert [type(one) for one in outputs] == [Quote, Ticker]
            assert pair["raw"] == NO_PRICES
            compared += 1
            continue
        (other,) = pair["expected"]
        if other["type"] == "trade":
            (found,) = only(Trade, outputs)
            assert (found.id, found.side) == (other["id"], other["side"])
            assert is_same(found.price, other["price"]) and is_same(found.size, other["amount"])
        else:
            (book,) = only(Book, outputs)
            assert book.snapshot == other["isSnapshot"]
            for mine, theirs in ((book.bids, other["bids"]), (book.asks, other["asks"])):
                assert sorted((float(price), float(size)) for price, size in mine) == sorted(
                    (one["price"], one["amount"]) for one in theirs
                )
        compared += 1
    assert compared == 8


@pytest.mark.parametrize("path", captures("gemini", "samples.jsonl"))
def test_the_sample_is_of_what_is_left_out(path: Path) -> None:
    (line,) = path.read_text().splitlines()
    assert parse(gemini("l2"), [json.loads(line)["raw"].encode()]) == []


def test_tapes_of_both_kinds_tell_whose_they_are() -> None:
    for path in (SESSION, OLD):
        lines = list(tape.read(path))
        assert exchanges_of(lines) == ["gemini"]
        assert exchanges_of([one for one in lines if one.url is None]) == ["gemini"]


def test_the_adapter_understands_what_the_venue_answers() -> None:
    venue = GeminiVenue()
    Session(Gemini, venue, SESSION)
    reader = gemini("trade", natives=("BTCUSD", "FOOUSD"))
    (first,) = only(Send, reader.opened())
    refused, rest = parse(reader, [one.encode() for one in venue.request("/", first.frame).frames])
    assert isinstance(refused, Refused) and isinstance(rest, Send)
    ack = venue.request("/", rest.frame)
    assert ack.streams == (Stream("trade", "BTCUSD"),)
    assert parse(reader, [one.encode() for one in ack.frames]) == []
    assert venue.request("/", "nonsense").streams == ()
    assert venue.request("/", '{"id":"1","method":"dance"}').streams == ()
    ping = reader.ping()
    assert ping is not None
    assert parse(reader, [one.encode() for one in venue.request("/", ping).frames]) == []
    leave = venue.request("/", '{"id":"9","method":"UNSUBSCRIBE","params":["btcusd@trade"]}')
    assert leave.unsubscribe and leave.streams == (Stream("trade", "BTCUSD"),)


def test_the_venue_serves_version_2_in_its_own_words() -> None:
    venue = GeminiVenue()
    recording = Session(Gemini, venue, OLD)
    assert {one.channel for one in recording.streams} == {"l2"}
    (request,) = only(Send, recording.adapter().opened())
    ack = venue.request("/", request.frame)
    assert set(ack.streams) == set(recording.streams) and ack.frames == ()
    stream = Stream("l2", "FILUSD")
    standing = venue.standing(stream, {})
    assert standing is not None and standing.told() is None
    for frame in recording.frames:
        if json.loads(frame).get("symbol") == "FILUSD":
            standing.take(frame)
    told = standing.told()
    assert told is not None
    (shown,) = clients_books(parse(gemini("l2", natives=("FILUSD",)), [told])).values()
    assert shown == clients_books(recording.run().outputs)["book.gemini.FIL-USD"]


async def test_version_2_is_played_over_real_sockets_and_begins_anew_after_a_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broken, "_loaded", {})
    monkeypatch.setitem(broken.TAPES, "gemini", (OLD, 60.0, 20.0))
    outcome = await broken.play("gemini", "close:after=50:times=1")
    assert outcome.counters.reconnects == 1 and outcome.counters.bad_frames == 0
    broken.check_uncrossed(outcome)
    expected = clients_books(session(OLD).run().outputs)
    shown = clients_books([one for one in outcome.events if isinstance(one, Book)])
    for topic, sides in expected.items():
        assert [side[:20] for side in best_first(shown[topic])] == [
            side[:20] for side in best_first(sides)
        ]
