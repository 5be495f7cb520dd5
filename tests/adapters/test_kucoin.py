"""KuCoin: books joined to REST by number, trades, tickers, refusals, names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters import tape
from adapters.base import Adapter, Fetch, Health, Output, Refused, Send, Stream, TapeLine, Venue
from adapters.exchanges.kucoin.adapter import (
    TOPICS_PER_REQUEST,
    Kucoin,
    KucoinFutures,
)
from adapters.exchanges.kucoin.book import MAX_HELD
from adapters.exchanges.kucoin.venue import KucoinFuturesVenue, KucoinVenue
from adapters.trade_ids import KNOWN_TRADES
from feed.errors import BadPayload
from feed.models import Book, Depth, Derivative, Gap, Quote, Ticker, Trade
from tests.adapters.sessions import PAYLOADS, Session, adapter, apply, clients_books, is_same, only
from tests.adapters.tapes import CAPTURES, captures, run

Market = tuple[type[Kucoin] | type[KucoinFutures], Callable[[], KucoinVenue]]
SPOT: Market = (Kucoin, KucoinVenue)
FUTURES: Market = (KucoinFutures, KucoinFuturesVenue)
markets = pytest.mark.parametrize("market", [SPOT, FUTURES], ids=["spot", "futures"])
recordings = pytest.mark.parametrize(
    ("market", "path"),
    [
        pytest.param(SPOT, PAYLOADS / "kucoin" / "session.jsonl", id="spot"),
        pytest.param(FUTURES, PAYLOADS / "kucoin-futures" / "session.jsonl", id="futures"),
        *(
            pytest.param(SPOT, *one.values, id=one.id, marks=one.marks)
            for one in captures("kucoin", "session_*.jsonl.gz")
        ),
    ],
)
BOOK = "book.kucoin.BTC-USDT"
FETCH = Fetch("/api/v1/market/orderbook/level2_100?symbol=BTC-USDT", "depth:BTC-USDT")
KINDS = ("book", "depth", "quote")


def spot(*channels: str, native: str = "BTC-USDT") -> Adapter:
    return adapter(Kucoin, [Stream(f"/market/{one}", native) for one in channels])


def futures(*channels: str, native: str = "XBTUSDTM") -> Adapter:
    return adapter(KucoinFutures, [Stream(one, native) for one in channels])


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 1) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def message(topic: str, subject: str = "", **data: Any) -> bytes:
    return json.dumps(
        {"topic": topic, "type": "message", "subject": subject, "data": data}
    ).encode()


def changes(
    first: int, *bids: tuple[str, str], asks: Sequence[tuple[str, str]] = (), at: int = 0
) -> bytes:
    """Return numbered changes of the book, bids first."""
    numbered = [[*one, str(first + index)] for index, one in enumerate((*bids, *asks))]
    return message(
        "/market/level2:BTC-USDT",
        "trade.l2update",
        changes={"bids": numbered[: len(bids)], "asks": numbered[len(bids) :]},
        sequenceStart=first,
        sequenceEnd=first + len(numbered) - 1,
        symbol="BTC-USDT",
        time=at or first,
    )


def bid(price: int, size: str = "1") -> tuple[str, str]:
    return f"{price}.0", size


def snapshot(
    sequence: int,
    bids: Sequence[tuple[str, str]] = (("7.0", "1"),),
    asks: Sequence[tuple[str, str]] = (("90.0", "1"),),
) -> bytes:
    data = {"time": 5, "sequence": str(sequence), "bids": bids, "asks": asks}
    return json.dumps({"code": "200000", "data": data}).encode()


def booked(outputs: Sequence[Output]) -> list[tuple[bool, list[str]]]:
    return [(one.snapshot, [price for price, _ in one.bids]) for one in only(Book, outputs)]


def match(number: str, *, native: str = "BTC-USDT", **changed: str) -> bytes:
    data = {"symbol": native, "side": "sell", "price": "100.10", "size": "0.50"}
    data |= {"tradeId": number, "time": "1729843222921000999", "sequence": number} | changed
    return message(f"/market/match:{native}", "trade.l3match", **data)


def joined() -> Adapter:
    """Return a spot reader whose book stands at change 10."""
    reader = spot("level2", "match")
    assert parse(reader, [changes(10, bid(10))]) == [FETCH]
    assert booked(list(reader.fetched(FETCH.key, snapshot(9), 2)))
    return reader


@recordings
def test_every_trade_is_there_digit_for_digit(market: Market, path: Path) -> None:
    recording = Session(market[0], market[1](), path)
    sent = [
        (one["tradeId"], one["price"], one["size"], one["side"], int(one.get("time") or one["ts"]))
        for frame in recording.payloads()
        if frame.get("topic", "").startswith(("/market/match", "/contractMarket/execution"))
        for one in (frame["data"],)
    ]
    trades = only(Trade, recording.run().outputs)
    assert sent
    assert [(t.id, t.price, t.size, t.side) for t in trades] == [one[:4] for one in sent]
    assert [t.ts for t in trades] == [one[4] // 1_000 for one in sent]


def naive_changes(data: dict[str, Any]) -> Iterator[tuple[int, str, str, str]]:
    """Yield number, side, price and size, as a plain reader of the documentation would."""
    if "change" in data:
        price, side, size = data["change"].split(",")
        yield int(data["sequence"]), "bids" if side == "buy" else "asks", price, size
        return
    for side, levels in data["changes"].items():
        for price, size, number in levels:
            yield int(number), side, price, size


@recordings
def test_books_are_the_exchange_s_books_and_changes_are_numbered_consecutively(
    market: Market, path: Path
) -> None:
    recording = Session(market[0], market[1](), path)
    naive: dict[str, Any] = {}
    at: dict[str, int] = {}
    for key, (body, *_) in recording.bodies.items():
        if key.startswith("depth:"):
            data = json.loads(body, parse_float=str, parse_int=str)["data"]
            naive[key[6:]] = tuple({p: s for p, s in data[side]} for side in ("bids", "asks"))
            at[key[6:]] = int(data["sequence"])
    last: dict[str, int] = {}
    for frame in recording.payloads():
        topic, _, native = frame.get("topic", "").partition(":")
        if not topic.endswith("/level2"):
            continue
        for number, side, price, size in sorted(naive_changes(frame["data"])):
            assert number == last.get(native, number - 1) + 1
            last[native] = number
            if number > at[native] and float(price):
                apply(
                    naive[native],
                    *([[(price, size)], []] if side == "bids" else [[], [(price, size)]]),
                )
    shown = clients_books(recording.run().outputs)
    assert len(shown) == len(naive) > 1
    for native, sides in naive.items():
        instrument = market[0].instrument(native)
        assert instrument is not None
        mine = shown[f"book.{market[0].name}.{instrument.symbol}"]
        for own, other, sign in zip(mine, sides, (-1, 1), strict=True):
            window = sorted(other.items(), key=lambda level: sign * float(level[0]))[: len(own)]
            # A snapshot that was cut knows nothing beyond its last level.
            assert own == dict(window)
            assert len(own) >= min(90, len(other))


@pytest.mark.parametrize("path", captures("kucoin", "session_*.jsonl.gz"))
def test_the_exchange_s_own_best_quotes_are_ours_at_the_same_number(path: Path) -> None:
    recording = Session(*_made(SPOT), path)
    reader, rest = recording.adapter(), recording.rest()
    best: dict[str, Quote] = {}
    at: dict[tuple[str, str], Quote] = {}
    compared = 0
    for frame, raw in zip(recording.payloads(), recording.frames, strict=True):
        outputs = list(reader.parse(raw, 1))
        for fetch in only(Fetch, outputs):
            outputs += reader.fetched(fetch.key, rest(fetch) or b"", 1)
        best |= {one.topic: one for one in only(Quote, outputs)}
        channel, _, native = frame.get("topic", "").partition(":")
        topic, data = f"quote.kucoin.{native}", frame.get("data", {})
        if channel == "/market/level2" and topic in best:
            at[native, data["sequenceEnd"]] = best[topic]
        elif channel == "/market/ticker" and (native, data["sequence"]) in at:
            ours = at[native, data["sequence"]]
            theirs = [data[key] for key in ("bestBid", "bestBidSize", "bestAsk", "bestAskSize")]
            assert [ours.bid, ours.bid_size, ours.ask, ours.ask_size] == theirs
            compared += 1
    assert compared > 500


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        pytest.param(8, "again", id="older than what is held"),
        pytest.param(9, [["7.0"], ["10.0", "11.0"], ["12.0"]], id="just before"),
        pytest.param(10, [["7.0"], ["11.0"], ["12.0"]], id="within a message"),
        pytest.param(11, [["7.0"], ["12.0"]], id="at the end of a message"),
        pytest.param(12, [["7.0"]], id="at the end of the last"),
        pytest.param(13, [], id="not reached yet"),
    ],
)
def test_a_snapshot_joins_where_no_change_is_missed(number: int, expected: Any) -> None:
    reader = spot("level2")
    held = [changes(10, bid(10), bid(11)), changes(12, bid(12))]
    assert parse(reader, held) == [FETCH]
    outputs = list(reader.fetched(FETCH.key, snapshot(number), 2))
    if expected == "again":
        assert outputs == [FETCH]
        return
    assert booked(outputs) == [(at == 0, prices) for at, prices in enumerate(expected)]
    if not expected:
        later = booked(parse(reader, [changes(13, bid(13)), changes(14, bid(14))]))
        assert later == [(True, ["7.0"]), (False, ["14.0"])]


def test_a_change_of_price_0_is_none_but_has_its_number() -> None:
    reader = joined()
    assert booked(parse(reader, [changes(11, ("0", "0"), asks=[("0", "0")])])) == []
    assert booked(parse(reader, [changes(13, bid(13))])) == [(False, ["13.0"])]


def test_changes_that_came_before_are_left_out_of_a_message_that_overlaps() -> None:
    reader = joined()
    assert booked(parse(reader, [changes(9, bid(1), bid(2), bid(3))])) == [(False, ["3.0"])]
    assert booked(parse(reader, [changes(10, bid(4))])) == []


def test_a_missing_change_makes_the_book_invalid_until_a_new_snapshot_joins() -> None:
    reader = joined()
    assert parse(reader, [changes(12, bid(12))]) == [
        Health("BTC-USDT", KINDS, "invalid", "sequence"),
        Gap(BOOK, 0, None, 1, 0, "upstream_sequence", None),
        FETCH,
    ]
    assert parse(reader, [changes(13, bid(13))]) == []
    # Another hole while it waits: what lies before it is of no use any more.
    assert parse(reader, [changes(15, bid(15))]) == []
    assert list(reader.fetched(FETCH.key, snapshot(13), 3)) == [FETCH]
    back = list(reader.fetched(FETCH.key, snapshot(14, [bid(8)]), 4))
    assert booked(back) == [(True, ["8.0"]), (False, ["15.0"])]
    assert Health("BTC-USDT", KINDS, "live", None) in back


def test_a_crossed_book_is_given_up() -> None:
    outputs = parse(joined(), [changes(11, bid(90))])
    assert outputs[0] == Health("BTC-USDT", KINDS, "invalid", "crossed")
    assert outputs[-1] == FETCH and not only(Book, outputs)


def test_a_snapshot_that_fails_is_asked_for_again() -> None:
    reader = spot("level2")
    parse(reader, [changes(10, bid(10))])
    assert list(reader.fetch_failed(FETCH.key, 2)) == [FETCH]
    for body in (
        b'{"code":"429000","msg":"Too Many Requests"}',
        b"nonsense",
        snapshot(9, [("NaN", "1")]),
    ):
        with pytest.raises(BadPayload):
            list(reader.fetched(FETCH.key, body, 2))
    assert list(reader.fetch_failed(FETCH.key, 3)) == [FETCH]
    assert booked(list(reader.fetched(FETCH.key, snapshot(9), 4)))
    assert list(reader.fetch_failed(FETCH.key, 5)) == [], "no longer wanted"


def test_an_empty_book_is_one_too() -> None:
    reader = spot("level2")
    parse(reader, [changes(10, bid(10))])
    body = b'{"code":"200000","data":{"time":1,"sequence":"9","bids":null,"asks":null}}'
    assert booked(list(reader.fetched(FETCH.key, body, 2))) == [(True, []), (False, ["10.0"])]


def test_of_a_cut_book_nothing_is_shown_beyond_what_is_known_and_a_thin_one_is_renewed() -> None:
    reader = spot("level2")
    parse(reader, [changes(10, bid(10))])
    bids = [bid(price) for price in range(500, 400, -1)]
    asks = [bid(price) for price in range(600, 700)]
    list(reader.fetched(FETCH.key, snapshot(10, bids, asks), 2))
    assert booked(parse(reader, [changes(11, bid(400))])) == []
    gone = [changes(12 + at, bid(500 - at, "0")) for at in range(80)]
    assert only(Fetch, parse(reader, gone)) == [FETCH]
    deeper = [bid(price) for price in range(421, 321, -1)]
    assert list(reader.fetched(FETCH.key, snapshot(95, deeper, asks), 3)) == []
    # The new snapshot is newer than the last change: it takes over when it is reached.
    last = parse(reader, [changes(92, bid(410, "5"), bid(409, "0"), bid(420, "0"), bid(419, "7"))])
    assert booked(last)[-1][0] and len(booked(last)[-1][1]) == 100
    assert only(Gap, last) == [] and only(Health, last) == []


def test_what_waits_for_a_snapshot_has_a_bound() -> None:
    reader = spot("level2")
    parse(reader, [changes(number, bid(5)) for number in range(1, MAX_HELD + 3)])
    assert list(reader.fetched(FETCH.key, snapshot(1), 2)) == [FETCH], "1 and 2 are forgotten"
    assert booked(list(reader.fetched(FETCH.key, snapshot(2), 2)))[0] == (True, ["7.0"])


def test_quote_and_depth_come_from_the_book() -> None:
    outputs = parse(joined(), [changes(11, bid(13, "2.50"))])
    (quote,) = only(Quote, outputs)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ts) == ("13.0", "2.50", "90.0", 11_000)
    far = parse(joined(), [changes(11, bid(13), at=1_000)])
    assert only(Depth, far)[-1].bids[0] == ("13.0", "1")


def test_futures_changes_come_one_by_one_and_join_alike() -> None:
    reader = futures("/contractMarket/level2")
    name = "kucoin-futures.BTC-USDT-PERP"

    def change(number: int, text: str) -> bytes:
        data = {"sequence": number, "change": text, "timestamp": 1_000 + number}
        return message("/contractMarket/level2:XBTUSDTM", "level2", **data)

    (fetch,) = parse(reader, [change(16, "3988.60,sell,9"), change(17, "3988.50,buy,44")])
    assert fetch == Fetch("/api/v1/level2/snapshot?symbol=XBTUSDTM", "depth:XBTUSDTM")
    body = (
        b'{"code":"200000","data":{"symbol":"XBTUSDTM","sequence":16,"ts":1654326922830525196,'
        b'"asks":[[3988.60,47],[3988.610,32]],"bids":[["3988.5",56],[3988.49,100]]}}'
    )
    first, *_ = only(Book, list(reader.fetched(fetch.key, body, 2)))
    assert (first.topic, first.ts) == (f"book.{name}", 1654326922830525)
    assert first.asks == [("3988.60", "47"), ("3988.610", "32")]
    gone = parse(reader, [change(18, "3988.61,sell,0")])
    assert only(Book, gone)[0].asks == [("3988.61", "0")]
    for bad in ("3988.61,sell", "3988.61,short,1", "NaN,buy,1", "1,buy,1e999"):
        with pytest.raises(BadPayload):
            parse(reader, [change(19, bad)])
    assert only(Health, parse(reader, [change(20, "3988.1,buy,1")]))[0].reason == "sequence"


def test_a_trade_that_comes_again_is_dropped_of_its_own_symbol_alone() -> None:
    natives = ("BTC-USDT", "ETH-USDT")
    reader = adapter(Kucoin, [Stream("/market/match", native) for native in natives])
    big = "11067996711960577"  # beyond what a float holds
    frames = [match(big), match(big), match("8"), match(big, native="ETH-USDT")]
    trades = only(Trade, parse(reader, frames))
    assert [(one.topic.rpartition(".")[2], one.id) for one in trades] == [
        ("BTC-USDT", big),
        ("BTC-USDT", "8"),
        ("ETH-USDT", big),
    ]
    assert (trades[0].ts, trades[0].price, trades[0].size) == (1729843222921000, "100.10", "0.50")


def test_of_the_trades_of_a_symbol_the_last_thousand_are_known() -> None:
    reader = spot("match")
    parse(reader, [match(str(number)) for number in range(KNOWN_TRADES + 1)])
    again = only(Trade, parse(reader, [match("1"), match("0"), match(str(KNOWN_TRADES))]))
    assert [trade.id for trade in again] == ["0"], "forgotten, so that memory has a bound"


def test_a_spot_ticker_says_only_what_changed() -> None:
    reader = spot("snapshot")
    day = (
        b'{"topic":"/market/snapshot:BTC-USDT","type":"message","data":{"sequence":"1","data":{'
        b'"buy":21423,"high":22030.70000000000000000000,"datetime":1676310802092,"low":null,'
        b'"lastTradedPrice":21423.1,"sell":2.14231E4,"symbol":"BTC-USDT","vol":6179.80570155}}}'
    )
    (ticker,) = parse(reader, [day])
    figures = ("21423.1", None, "22030.70000000000000000000", None, "6179.80570155", None)
    topic = "ticker.kucoin.BTC-USDT"
    assert ticker == Ticker(topic, 0, 1676310802092000, 1, 0, *figures, "21423", "21423.1")
    assert parse(reader, [day.replace(b"802092", b"804092")]) == []


def test_a_contract_s_volume_is_of_the_base_and_its_turnover_of_the_quote() -> None:
    for native, volume, quoted in (("XBTUSDTM", "590275", "19.41"), ("XBTMM22", "19.41", "590275")):
        figures = (
            b'"volume":590275,"turnover":19.41,"lastPrice":29912,"lowPrice":29332.0,'
            b'"highPrice":31884.0,"priceChgPct":-0.0534,"ts":1654165755087785336'
        )
        topic = f"/contractMarket/snapshot:{native}".encode()
        day = b'{"topic":"%b","subject":"snapshot.24h","data":{%b}}' % (topic, figures)
        (ticker,) = only(Ticker, parse(futures("/contractMarket/snapshot", native=native), [day]))
        assert (ticker.volume, ticker.quote_volume) == (volume, quoted)
        assert (ticker.last, ticker.low, ticker.ts) == ("29912", "29332.0", 1654165755087785)


def test_mark_index_and_funding_are_merged_and_said_when_they_change() -> None:
    reader = futures("/contract/instrument")

    def told(text: str) -> bytes:
        subject = "funding.rate" if "fundingRate" in text else "mark.index.price"
        head = f'{{"topic":"/contract/instrument:XBTUSDTM","subject":"{subject}",'
        return f'{head}"data":{{{text}}}}}'.encode()

    marked = told('"markPrice":39610.10,"indexPrice":39615.44,"timestamp":1706068861000')
    funded = told('"granularity":60000,"fundingRate":-3.8E-5,"timestamp":1706068800000')
    name = "derivative.kucoin-futures.BTC-USDT-PERP"
    ts = 1706068861000000
    assert parse(reader, [marked, marked, funded]) == [
        Derivative(name, 0, ts, 1, 0, "39610.10", "39615.44", None, None, None),
        Derivative(name, 0, ts, 1, 0, "39610.10", "39615.44", "-0.000038", None, None),
    ]
    with pytest.raises(BadPayload):
        parse(reader, [marked.replace(b"mark.index.price", b"surprise")])


def test_topics_are_asked_for_by_the_hundred_one_channel_at_a_time() -> None:
    natives = [f"A{number}-USDT" for number in range(101)]
    streams = [
        Stream(one, native) for native in natives for one in ("/market/match", "/market/level2")
    ]
    reader = adapter(Kucoin, streams)
    requests = [json.loads(send.frame) for send in reader.opened()]
    asked = [(one["topic"].partition(":")[0], one["topic"].count(",") + 1) for one in requests]
    assert asked == [
        ("/market/match", TOPICS_PER_REQUEST),
        ("/market/match", 1),
        ("/market/level2", TOPICS_PER_REQUEST),
        ("/market/level2", 1),
    ]
    assert [one["id"] for one in requests] == ["1", "2", "3", "4"]
    assert all(one["type"] == "subscribe" and one["response"] for one in requests)


def refusal(request_id: str, reason: str) -> bytes:
    return json.dumps({"id": request_id, "type": "error", "code": 404, "data": reason}).encode()


def test_one_refused_topic_does_not_cost_the_others() -> None:
    streams = [Stream("/market/match", native) for native in ("BTC-USDT", "ETH-USDT", "NO-SUCH")]
    reader = adapter(Kucoin, streams)
    reader.opened()
    refused, again = parse(reader, [refusal("1", "topic /market/match:NO-SUCH is not found")])
    assert isinstance(refused, Refused) and refused.streams == (Stream("/market/match", "NO-SUCH"),)
    assert "404" in refused.reason and isinstance(again, Send)
    assert json.loads(again.frame)["topic"] == "/market/match:BTC-USDT,ETH-USDT"
    # Which one is not said: they are found by asking one by one.
    singles = only(Send, parse(reader, [refusal("2", "topic does not exist")]))
    assert [json.loads(one.frame)["topic"] for one in singles] == [
        "/market/match:BTC-USDT",
        "/market/match:ETH-USDT",
    ]
    (refused,) = parse(reader, [refusal("3", "topic does not exist")])
    assert isinstance(refused, Refused) and refused.streams == (streams[0],)
    (unasked,) = parse(reader, [refusal("connect", "token is expired")])
    assert isinstance(unasked, Refused) and unasked.streams == ()


def test_a_refusal_that_names_all_of_a_long_request_refuses_none_of_it() -> None:
    natives = [f"A{number}-USDT" for number in range(100)]
    reader = adapter(Kucoin, [Stream("/market/match", native) for native in natives])
    (request,) = reader.opened()
    topic = json.loads(request.frame)["topic"]
    singles = parse(reader, [refusal("1", f"topic {topic} is not found")])
    assert len(only(Send, singles)) == len(singles) == 100


def test_a_limit_that_is_exceeded_is_not_met_with_more_requests() -> None:
    reader = spot("match", "level2")
    reader.opened()
    limit = refusal("1", "exceed max subscription count limitation of 300 per session")
    (refused,) = parse(reader, [limit.replace(b"404", b"509")])
    assert isinstance(refused, Refused)
    assert refused.streams == (Stream("/market/match", "BTC-USDT"),)


def test_what_the_service_says_of_itself_is_silent_and_pings_are_sent() -> None:
    reader = spot("match")
    ping = reader.ping()
    assert ping is not None and json.loads(ping)["type"] == "ping"
    assert (reader.limits.ping_every_s or 99) < reader.limits.silent_after_s
    for kind in ("welcome", "ack", "pong"):
        assert parse(reader, [json.dumps({"id": "x", "type": kind}).encode()]) == []


def test_a_silent_stream_is_taken_afresh_alone_and_what_that_may_cost_is_said() -> None:
    reader = joined()
    outputs = list(reader.resync([Stream("/market/match", "BTC-USDT")], 9))
    assert only(Gap, outputs) == [
        Gap("trade.kucoin.BTC-USDT", 0, None, 9, 0, "upstream_sequence", None)
    ]
    asked = [json.loads(one.frame) for one in only(Send, outputs)]
    assert [(one["type"], one["topic"]) for one in asked] == [
        ("unsubscribe", "/market/match:BTC-USDT"),
        ("subscribe", "/market/match:BTC-USDT"),
    ]
    book = list(reader.resync([Stream("/market/level2", "BTC-USDT")], 9))
    assert only(Health, book) == [Health("BTC-USDT", KINDS, "invalid", "resync")]
    assert len(only(Send, book)) == 2 and book[-1] == FETCH


@pytest.mark.parametrize(
    ("frame", "gaps"),
    [
        pytest.param(match("1")[:-9], 1, id="a trade"),
        pytest.param(match("1", native="ETH-USDT")[:-9], 0, id="another's"),
        pytest.param(changes(11, bid(1))[:-9], 0, id="a book proves itself"),
        pytest.param(b"\x00\xff garbage", 1, id="anything"),
        pytest.param(b'{"type":"unheard of"}', 0, id="an unknown type"),
    ],
)
def test_an_unreadable_frame_is_declared_where_nothing_else_would_show_it(
    frame: bytes, gaps: int
) -> None:
    reader = joined()
    with pytest.raises(BadPayload):
        parse(reader, [frame])
    outputs = list(reader.unread(frame, 2))
    assert [gap.topic for gap in only(Gap, outputs)] == ["trade.kucoin.BTC-USDT"] * gaps
    assert len(outputs) == gaps
    assert not list(reader.unread(frame, 3)), "said once, not for every bad frame"
    assert only(Trade, parse(reader, [match("2")]))
    assert len(list(reader.unread(frame, 4))) == gaps


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(match("1").replace(b'"symbol": "BTC', b'"symbol": "ETH'), id="another symbol"),
        pytest.param(match("1", native="ETH-USDT"), id="not carried"),
        pytest.param(match("1", time="9" * 25), id="time"),
        pytest.param(match("1", time="\u0661"), id="digits of another script"),
        pytest.param(match("1", side="short"), id="side"),
        pytest.param(
            changes(11, bid(1)).replace(b'"sequenceEnd": 11', b'"sequenceEnd": 10'), id="numbers"
        ),
        pytest.param(changes(11, ("1e999", "1")), id="price"),
        pytest.param(message("/market/surprise:BTC-USDT"), id="unknown topic"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: bytes) -> None:
    with pytest.raises(BadPayload):
        parse(joined(), [bad])


def test_where_to_connect_is_told_with_a_token() -> None:
    assert Kucoin.door_path == "/api/v1/bullet-public#"
    for cls, make in (SPOT, FUTURES):
        told = make().made("door")
        assert told is not None
        assert cls.address(told) == f"{cls.ws_url}/?token=made-up"
    server = {"endpoint": "wss://ws-api-spot.kucoin.com/endpoint", "pingInterval": 18000}
    body = {"code": "200000", "data": {"token": "2neA-._iY==", "instanceServers": [server]}}
    where = "wss://ws-api-spot.kucoin.com/endpoint?token=2neA-._iY=="
    assert Kucoin.address(json.dumps(body).encode()) == where
    for bad in (
        b'{"code":"429000"}',
        b'{"data":{"token":"x","instanceServers":[]}}',
        b'{"data":{"token":"x","instanceServers":[{"endpoint":"file:///etc"}]}}',
    ):
        with pytest.raises(BadPayload):
            Kucoin.address(bad)


def test_spot_is_listed_and_named() -> None:
    listed = Session(*_made(SPOT), PAYLOADS / "kucoin" / "session.jsonl").listed
    assert [(one.symbol, one.state) for one in listed] == [
        ("BTC-USDT", "trading"),
        ("ETH-USDT", "trading"),
        ("BCHSV-USDT", "disabled"),
    ]
    assert (listed[0].price_step, listed[0].size_step) == ("0.1", "0.00000001")
    assert Kucoin.instrument("BTC") is None
    named = Kucoin.instrument("BTC-USDT")
    assert named is not None and (named.symbol, named.type) == ("BTC-USDT", "spot")
    with pytest.raises(BadPayload):
        Kucoin.instruments([b'{"code":"429000","msg":"Too Many Requests"}'])


def test_contracts_are_listed_and_named_linear_and_inverse_apart() -> None:
    listed = Session(*_made(FUTURES), PAYLOADS / "kucoin-futures" / "session.jsonl").listed
    assert [
        (one.native, one.symbol, one.inverse, one.contract_size, one.contract_currency, one.settle)
        for one in listed
    ] == [
        ("XBTUSDTM", "BTC-USDT-PERP", False, "0.001", "BTC", "USDT"),
        ("XBTUSDM", "BTC-USD:BTC-PERP", True, "1.0", "USD", "BTC"),
        ("ETHUSDCM", "ETH-USDC-PERP", False, "0.01", "ETH", "USDC"),
        ("XBTMZ26", "BTC-USD:BTC-20261225", True, "1.0", "USD", "BTC"),
    ]
    assert all(one.size_unit == "contract" and one.state == "trading" for one in listed)
    for one in listed:
        named = KucoinFutures.instrument(one.native)
        assert named is not None
        assert (named.symbol, named.inverse, named.settle, named.type, named.expiry) == (
            *(one.symbol, one.inverse, one.settle, one.type, one.expiry),
        )
    for other in ("BTC-USDT", ".KXBTUSDT", "XBT"):
        assert KucoinFutures.instrument(other) is None


def _made(market: Market) -> tuple[type[Kucoin] | type[KucoinFutures], Venue]:
    return market[0], market[1]()


@markets
def test_the_adapter_understands_what_the_venue_answers(market: Market) -> None:
    cls, venue = _made(market)
    recording = Session(cls, venue, PAYLOADS / cls.name / "session.jsonl")
    channel = recording.streams[0].channel
    native = "NO-SUCH" if cls is Kucoin else "NOSUCHUSDTM"
    unknown = Stream(channel, native)
    reader = adapter(cls, [*recording.streams, unknown])
    assert parse(reader, [one.encode() for one in venue.connected("/").frames]) == []
    waiting = only(Send, reader.opened())
    refused: list[Refused] = []
    asked: list[Stream] = []
    while waiting:
        ack = venue.request("/", waiting.pop().frame)
        asked += ack.streams
        outputs = parse(reader, [one.encode() for one in ack.frames])
        refused += only(Refused, outputs)
        waiting += only(Send, outputs)
    assert [one.streams for one in refused] == [(unknown,)]
    assert set(asked) == set(recording.streams)
    (pong,) = venue.request("/", reader.ping() or "").frames
    assert json.loads(pong) == {"id": "ping", "type": "pong"}
    assert venue.request("/", "nonsense").streams == ()
    back = only(Send, reader.resync(recording.streams[:1], 1))
    assert venue.request("/", back[0].frame).unsubscribe
    assert venue.rest_key(cls.listing_paths[0]) == "listing"
    assert venue.rest_key(cls.door_path or "") == "door"
    assert venue.rest_key("/api/v1/timestamp") is None


#: What of the samples and pairs is not understood -> why.
FOREIGN = {
    '"result":true': "an ack of the unified API, another protocol on another host",
    '"T":"': "data of the unified API",
    '"/market/snapshot:BTC"': "of a whole market, which is never asked for",
    '"data":[{"symbol"': "a REST listing, read below",
    '{"code":"200000","data":{"': "a REST book, read below",
}


def lines_of(market: Market, file: str) -> list[dict[str, Any]]:
    path = CAPTURES / market[0].name / file
    if not path.exists():
        pytest.skip("no recordings of KuCoin beside the repository")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [one for one in found if one.get("dir", "in") == "in"]


def read(market: Market, raw: str) -> tuple[list[Output], Stream | None]:
    """Return what comes of one message alone; its book begins empty just before it."""
    cls, venue = _made(market)
    stream = venue.stream_of(TapeLine(dir="in", raw=raw))
    native = "BTC-USDT" if cls is Kucoin else "XBTUSDTM"
    reader = adapter(cls, [stream or Stream("/market/match", native)])
    data = json.loads(raw).get("data")
    number = data.get("sequenceStart", data.get("sequence")) if isinstance(data, dict) else 0

    def rest(fetch: Fetch) -> bytes:
        return snapshot(int(number or 1) - 1, (), ())

    done = run(reader, [raw.encode()], rest)
    if done.bad:
        raise BadPayload(cls.name, done.bad[0])
    return done.outputs, stream


@markets
@pytest.mark.parametrize("file", ["samples.jsonl", "expected.jsonl"])
def test_samples_and_pairs_are_understood_or_named_with_the_reason(
    market: Market, file: str
) -> None:
    read_of: dict[str, int] = {}
    for line in lines_of(market, file):
        raw = line["raw"]
        if any(part in raw for part in FOREIGN):
            with pytest.raises(BadPayload):
                read(market, raw)
            continue
        outputs, stream = read(market, raw)
        channel = "" if stream is None else stream.channel.partition("_")[0]
        is_fed = channel in market[0].feeds
        assert is_fed or channel in market[0].ignored or stream is None
        has_event = any(isinstance(one, Trade | Book | Ticker | Derivative) for one in outputs)
        assert has_event == is_fed
        read_of[channel] = read_of.get(channel, 0) + 1
    assert sum(read_of.values()) > 5


@markets
def test_pairs_of_another_project_agree(market: Market) -> None:
    compared = 0
    reader = futures("/contract/instrument")
    for line in lines_of(market, "expected.jsonl"):
        raw, expected = line["raw"], line["expected"]
        if any(part in raw for part in FOREIGN):
            continue
        outputs, _ = read(market, raw)
        for other in expected if line["schema"] == "tardis" else ():
            if other["type"] == "trade":
                (trade,) = only(Trade, outputs)
                assert trade.id == other["id"] and trade.side == other["side"]
                assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
            else:  # merged; theirs has the REST listing's open interest too
                outputs = parse(reader, [raw.encode()])
                for derived in only(Derivative, outputs):
                    assert is_same(derived.mark, other["markPrice"])
                    assert is_same(derived.index, other["indexPrice"])
                    assert is_same(derived.funding_rate, other["fundingRate"])
            compared += 1
        if line["schema"] != "crypto-msg-parser":
            continue
        asserts = expected["asserts"]
        for trade in only(Trade, outputs):
            size = asserts.get("trade.quantity_contract") or asserts["trade.quantity_base"]
            assert trade.side == asserts["trade.side"] and is_same(trade.size, size)
            assert trade.ts is not None and trade.ts // 1_000 == asserts["timestamp"]
            compared += 1
        for book in [one for one in only(Book, outputs) if not one.snapshot]:
            for side, levels in (("bids", book.bids), ("asks", book.asks)):
                assert len(levels) == asserts[f"orderbook.{side}.len()"]
                for price, size in levels:
                    head = f"orderbook.{side}[0]"
                    contracts = asserts.get(f"{head}.quantity_contract")
                    assert is_same(price, asserts[f"{head}.price"])
                    assert is_same(size, contracts or asserts[f"{head}.quantity_base"])
            compared += 1
        for ticker in only(Ticker, outputs):
            assert ticker.ts is not None and ticker.ts // 1_000 == asserts["timestamp"]
            compared += 1
    assert compared == {"kucoin": 5, "kucoin-futures": 14}[market[0].name]


@markets
def test_rest_answers_among_the_pairs_are_read(market: Market) -> None:
    cls, _ = market
    found = 0
    for line in lines_of(market, "expected.jsonl"):
        body = line["raw"].encode()
        if line["case"].startswith("l2_snapshot"):
            reader = spot("level2") if cls is Kucoin else futures("/contractMarket/level2")
            native = reader.plan_.streams[0].native
            assert list(reader.fetched(f"depth:{native}", body, 1)) == []  # nobody asked
            found += 1
        elif body.startswith(b'{"code"'):
            assert [one.symbol for one in cls.instruments([body])][:2] == [
                "BTC-USDT-PERP",
                "BTC-USD:BTC-PERP",
            ]
            found += 1
    assert found == {"kucoin": 1, "kucoin-futures": 3}[cls.name]


def test_a_tape_of_both_markets_is_told_apart_by_its_topics() -> None:
    lines = [
        line
        for name in ("kucoin", "kucoin-futures")
        for line in tape.read(PAYLOADS / name / "session.jsonl")
    ]
    for cls, make in (SPOT, FUTURES):
        venue = make()
        streams = {stream for line in lines if (stream := venue.stream_of(line))}
        assert {stream.channel for stream in streams} == set(cls.feeds)
