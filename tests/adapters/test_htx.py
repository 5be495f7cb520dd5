"""HTX: gzip frames, refreshes joined by number, trades by number; ``payloads/htx``."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.base import Fetch, Health, Mark, Output, Page, Refused, Resumed, Send, Stream
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.htx.adapter import Htx
from adapters.exchanges.htx.book import REFRESH_US
from adapters.exchanges.htx.frames import MAX_INFLATED, inflate
from adapters.exchanges.htx.venue import HtxVenue
from feed.errors import BadPayload
from feed.models import Book, Depth, Gap, Quote, Ticker, Trade
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

SESSION = PAYLOADS / "htx" / "session.jsonl"
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("htx")]
)


def spot(*channels: str, native: str = "btcusdt") -> Htx:
    reader = adapter(Htx, [Stream(one, native) for one in channels])
    assert isinstance(reader, Htx)
    return reader


def pack(text: str) -> bytes:
    return gzip.compress(text.encode())


def parse(reader: Htx, texts: Sequence[str], recv: int = 0) -> list[Output]:
    return [output for one in texts for output in reader.parse(pack(one), recv)]


def payloads(session: Session) -> list[dict[str, Any]]:
    """Return the frames as plain JSON, numbers as their own text."""
    return [
        json.loads(gzip.decompress(one), parse_float=str, parse_int=str) for one in session.frames
    ]


def update(
    seq: int, after: int, bids: str = "", asks: str = "", ts: int = 1_790_134_136_934
) -> str:
    return (
        f'{{"ch":"market.btcusdt.mbp.150","ts":{ts},"tick":{{"seqNum":{seq},"prevSeqNum":{after},'
        f'"bids":[{bids}],"asks":[{asks}]}}}}'
    )


def refresh(seq: int, bids: str = "[100.0,1]", asks: str = "[101.0,2]") -> str:
    return (
        f'{{"id":"req market.btcusdt.mbp.150","status":"ok","ts":1790134138994,'
        f'"rep":"market.btcusdt.mbp.150","data":{{"seqNum":{seq},"bids":[{bids}],"asks":[{asks}]}}}}'
    )


def live_book() -> Htx:
    """Return a reader whose book is live, with 7 as its last update."""
    reader = spot("mbp.150")
    parse(reader, [update(7, 5), refresh(5)])
    return reader


def subscribed(channel: str = "trade.detail", ts: int = 1_000) -> str:
    return f'{{"id":"1","status":"ok","subbed":"market.btcusdt.{channel}","ts":{ts}}}'


def traded(*numbers: int, ts: int = 2_000) -> str:
    data = ",".join(
        f'{{"id":1370054451093592900{one},"ts":{ts},"tradeId":{one},"amount":0.10,"price":9.2E-7,'
        '"direction":"sell"}'
        for one in numbers
    )
    return (
        f'{{"ch":"market.btcusdt.trade.detail","ts":{ts + 2},"tick":{{"id":7,"ts":{ts},'
        f'"data":[{data}]}}}}'
    )


def best(seq: str, bid: str = "10008.31", ask: str = "10009.54") -> str:
    return (
        f'{{"ch":"market.btcusdt.bbo","ts":1489474082831,"tick":{{"symbol":"btcusdt",'
        f'"quoteTime":1489474082811,"bid":{bid},"bidSize":0.010,"ask":{ask},"askSize":0.3,'
        f'"seqId":{seq}}}}}'
    )


@recordings
def test_every_trade_since_we_came_is_there_digit_for_digit(path: Path) -> None:
    recording = Session(Htx, HtxVenue(), path)
    since: dict[str, int] = {}
    sent: list[tuple[str, ...]] = []
    last: dict[str, int] = {}
    for message in payloads(recording):
        topic = message.get("subbed") or message.get("ch", "")
        if not topic.endswith(".trade.detail"):
            continue
        native = topic.split(".")[1]
        if "subbed" in message:
            since[native] = int(message["ts"])
            continue
        for one in reversed(message["tick"]["data"]):  # the newest is the first
            if native in last:
                assert int(one["tradeId"]) == last[native] + 1, "ids are not consecutive"
            last[native] = int(one["tradeId"])
            if int(one["ts"]) >= since[native]:
                sent.append((native, one["tradeId"], one["amount"], one["direction"], one["ts"]))
    shown = [
        (trade.topic, trade.id, float(trade.size), trade.side, trade.ts)
        for trade in only(Trade, recording.run().outputs)
    ]
    assert shown == [
        (
            f"trade.htx.{recording.adapter().plan_.instruments[native].symbol}",
            number,
            float(size),
            side,
            int(ts) * 1_000,
        )
        for native, number, size, side, ts in sent
    ]
    assert len(shown) >= 5


def test_digits_stay_as_they_are_and_exponents_are_written_out() -> None:
    reader = spot("trade.detail")
    (trade,) = parse(reader, [subscribed(), traded(102523573486)])
    assert isinstance(trade, Trade)
    assert (trade.id, trade.price, trade.size) == ("102523573486", "0.00000092", "0.10")
    assert (trade.side, trade.ts) == ("sell", 2_000_000)


@recordings
def test_books_are_the_exchange_s_books(path: Path) -> None:
    recording = Session(Htx, HtxVenue(), path)
    naive: dict[str, Sides] = {}
    held: dict[str, list[dict[str, Any]]] = {}
    for message in payloads(recording):
        topic = message.get("rep") or message.get("ch", "")
        native, _, channel = topic.removeprefix("market.").partition(".")
        if channel == "depth.step0":
            naive[native] = ({}, {})
            apply(naive[native], message["tick"]["bids"], message["tick"]["asks"])
        elif "rep" in message:
            data = message["data"]
            naive[native] = ({}, {})
            apply(naive[native], data["bids"], data["asks"])
            last = data["seqNum"]
            for tick in held.pop(native):
                if int(tick["seqNum"]) > int(last):
                    assert tick["prevSeqNum"] == last
                    apply(naive[native], tick.get("bids", ()), tick.get("asks", ()))
                    last = tick["seqNum"]
        elif channel == "mbp.150" and native in naive:
            tick = message["tick"]
            apply(naive[native], tick.get("bids", ()), tick.get("asks", ()))
        elif channel == "mbp.150":
            held.setdefault(native, []).append(message["tick"])
    instruments = recording.adapter().plan_.instruments
    shown = clients_books(recording.run().outputs)
    assert shown.keys() == {f"book.htx.{instruments[native].symbol}" for native in naive}
    for native, sides in naive.items():
        mine = shown[f"book.htx.{instruments[native].symbol}"]
        for ours, theirs in zip(mine, sides, strict=True):
            assert {float(p): float(s) for p, s in ours.items()} == {
                float(p): float(s) for p, s in theirs.items()
            }


def test_of_a_whole_book_only_what_has_changed_goes_out() -> None:
    reader = spot("depth.step0")
    whole = (
        '{{"ch":"market.btcusdt.depth.step0","ts":{},"tick":{{"bids":[{}],"asks":[[101,2.0]],'
        '"version":1,"ts":1}}}}'
    )
    frames = [
        whole.format(1_000, "[100.0,1],[99,5]"),
        whole.format(2_000, "[100.0,1],[99,5]"),
        whole.format(3_000, "[100.5,3],[99,5]"),
    ]
    books = only(Book, parse(reader, frames))
    assert [(book.bids, book.snapshot) for book in books] == [
        ([("100.0", "1"), ("99", "5")], True),
        ([("100.0", "0"), ("100.5", "3")], False),
    ]
    assert len(only(Quote, parse(spot("depth.step0"), frames))) == 2
    assert len(only(Depth, parse(spot("depth.step0"), frames))) == 2


def test_a_whole_book_that_is_crossed_is_asked_for_again() -> None:
    reader = spot("depth.step0")
    outputs = parse(
        reader,
        [
            '{"ch":"market.btcusdt.depth.step0","ts":1,"tick":{"bids":[[100,1]],"asks":[[101,1]]}}',
            '{"ch":"market.btcusdt.depth.step0","ts":2,"tick":{"bids":[[101,1]],"asks":[[101,1]]}}',
        ],
    )
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    assert len(only(Book, outputs)) == 1
    assert [json.loads(one.frame) for one in only(Send, outputs)] == [
        {op: "market.btcusdt.depth.step0", "id": f"{op} market.btcusdt.depth.step0"}
        for op in ("unsub", "sub")
    ]


def test_a_refresh_is_joined_to_the_updates_that_came_before_it() -> None:
    reader = spot("mbp.150")
    assert parse(reader, [update(3, 1, "[99,9]"), update(5, 3, "[98,1]")]) == []
    outputs = parse(reader, [update(7, 5, "[100.5,4]"), refresh(5)])
    assert [(one.bids, one.snapshot) for one in only(Book, outputs)] == [
        ([("100.0", "1")], True),
        ([("100.5", "4")], False),
    ]
    assert only(Send, outputs) == []


def test_a_refresh_waits_for_the_update_that_follows_it() -> None:
    reader = spot("mbp.150")
    assert parse(reader, [refresh(5), update(5, 4, "[100,9]")]) == []
    assert len(only(Book, parse(reader, [update(7, 5, "[100.5,4]")]))) == 2


def test_a_refresh_older_than_what_is_held_is_asked_for_again() -> None:
    reader = spot("mbp.150")
    assert parse(reader, [update(9, 7), refresh(5)]) == []
    assert parse(reader, [update(11, 9)], REFRESH_US - 1) == []
    (again,) = parse(reader, [update(12, 11)], REFRESH_US)
    assert isinstance(again, Send)
    assert json.loads(again.frame)["req"] == "market.btcusdt.mbp.150"
    assert only(Book, parse(reader, [refresh(9)], REFRESH_US + 1))


def test_a_refresh_that_does_not_come_makes_the_book_be_subscribed_afresh() -> None:
    reader = spot("mbp.150")
    assert parse(reader, [update(9, 7)]) == []
    sent = only(Send, parse(reader, [update(11, 9)], RESUBSCRIBE_US))
    assert [next(iter(json.loads(one.frame))) for one in sent] == ["unsub", "sub", "req"]


def test_an_update_that_follows_another_one_makes_the_book_invalid_until_a_refresh() -> None:
    reader = live_book()
    broken = parse(reader, [update(11, 9, "[100.7,1]")])
    assert broken[0] == Health("btcusdt", ("book", "depth"), "invalid", "sequence")
    assert broken[1] == Gap("book.htx.BTC-USDT", 0, None, 0, 0, "upstream_sequence", None)
    assert [next(iter(json.loads(one.frame))) for one in only(Send, broken)] == [
        "unsub",
        "sub",
        "req",
    ]
    assert parse(reader, [update(12, 11)]) == []
    fresh = parse(reader, [refresh(9)])
    assert Health("btcusdt", ("book", "depth"), "live", None) in fresh
    assert [one.snapshot for one in only(Book, fresh)] == [True, False]


def test_an_update_that_comes_again_changes_nothing_and_a_refresh_nobody_waits_for_neither() -> (
    None
):
    reader = live_book()
    assert parse(reader, [update(7, 5, "[100.7,1]"), refresh(99)]) == []
    assert len(only(Book, parse(reader, [update(8, 7, "[100.7,1]")]))) == 1


def test_a_crossed_book_is_not_shown() -> None:
    outputs = parse(live_book(), [update(8, 7, "[101.0,1]")])
    assert only(Book, outputs) == []
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]


def test_books_are_on_a_connection_of_their_own_and_feed_no_quote() -> None:
    instrument = Htx.instrument("btcusdt")
    assert instrument is not None
    live = Htx.streams(instrument, Htx.kinds)
    assert [one.channel for one in live] == ["mbp.150", "bbo", "trade.detail", "detail"]
    feed, ws = Htx.plan(live, {"btcusdt": instrument})
    assert (feed.path, ws.path) == ("/feed", "/ws")
    assert Htx.carried(feed.streams, instrument, Htx.kinds) == (
        ("book.htx.BTC-USDT", "depth.htx.BTC-USDT"),
        150,
    )
    topics, levels = Htx.carried(ws.streams, instrument, Htx.kinds)
    assert ({one.partition(".")[0] for one in topics}, levels) == (
        {"quote", "trade", "ticker"},
        None,
    )


def test_of_two_books_of_one_symbol_the_incremental_one_is_taken() -> None:
    instrument = Htx.instrument("btcusdt")
    assert instrument is not None
    both = [Stream("depth.step0", "btcusdt"), Stream("mbp.150", "btcusdt")]
    (plan,) = Htx.plan(both, {"btcusdt": instrument})
    assert plan.streams == (both[1],)


def test_all_is_subscribed_to_before_the_first_refresh_is_asked_for() -> None:
    sent = [json.loads(one.frame) for one in spot("mbp.150", "bbo").opened()]
    assert sent == [
        {"sub": "market.btcusdt.mbp.150", "id": "sub market.btcusdt.mbp.150"},
        {"sub": "market.btcusdt.bbo", "id": "sub market.btcusdt.bbo"},
        {"req": "market.btcusdt.mbp.150", "id": "req market.btcusdt.mbp.150"},
    ]


def test_quotes_go_forward_only_and_say_what_is_new() -> None:
    reader = spot("bbo")
    frames = [best("7"), best("7"), best("6", "10008.30"), best("9", "10008.30")]
    quotes = only(Quote, parse(reader, frames))
    assert [quote.bid for quote in quotes] == ["10008.31", "10008.30"]
    assert quotes[0] == Quote(
        "quote.htx.BTC-USDT", 0, 1489474082811000, 0, 0, "10008.31", "0.010", "10009.54", "0.3"
    )


def test_quotes_are_read_where_numbers_are_text_and_where_a_side_is_empty() -> None:
    (quote,) = parse(spot("bbo"), [best('"7"', '"10008.310"', "null")])
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.ask, quote.ask_size) == ("10008.310", None, None)


def test_a_day_is_told_when_it_has_changed() -> None:
    day = (
        '{"ch":"market.btcusdt.detail","ts":1654164208520,"tick":{"id":311070770838,"low":29326.15,'
        '"high":31899.51,"open":31666.3,"close":29952.31,"vol":8.181588598785326E8,'
        '"amount":26897.159881877742,"version":311070770838,"count":699452}}'
    )
    assert parse(spot("detail"), [day, day]) == [
        Ticker(
            *("ticker.htx.BTC-USDT", 0, 1654164208520000, 0, 0, "29952.31", "31666.3", "31899.51"),
            *("29326.15", "26897.159881877742", "818158859.8785326", None, None),
        )
    ]


def test_the_last_trade_of_before_we_came_is_counted_on_from() -> None:
    reader = spot("trade.detail")
    assert parse(reader, [subscribed(ts=1_000), traded(6, 5, ts=999)]) == []
    assert reader.marks() == {"btcusdt": Mark(6)}
    gap, trade = parse(reader, [traded(9)])
    assert gap == Gap("trade.htx.BTC-USDT", 0, None, 0, 0, "upstream_sequence", 2)
    assert isinstance(trade, Trade) and trade.id == "9"


def test_a_message_s_trades_come_in_the_order_of_their_ids_and_each_once() -> None:
    reader = spot("trade.detail")
    outputs = parse(reader, [subscribed(), traded(8, 7), traded(8), traded(10, 9, 8)])
    assert [one.id for one in only(Trade, outputs)] == ["7", "8", "9", "10"]
    assert len(outputs) == 4


def test_who_comes_back_goes_on_from_the_trade_it_had() -> None:
    reader = spot("trade.detail")
    reader.resume("btcusdt", Mark(7))
    # The exchange tells its last trade: none is missing.
    assert parse(reader, [subscribed(ts=9_000), traded(7)]) == [Resumed("btcusdt", Mark(7), 8)]
    reader = spot("trade.detail")
    reader.resume("btcusdt", Mark(7))
    resumed, trade = parse(reader, [subscribed(ts=9_000), traded(10)])
    assert resumed == Resumed("btcusdt", Mark(7), 10)
    assert isinstance(trade, Trade) and trade.id == "10"


def test_what_is_missing_is_taken_from_the_last_trades_of_rest() -> None:
    reader = spot("trade.detail")
    fetch = reader.backfill("btcusdt", Mark(7))
    assert fetch == Fetch("/market/history/trade?symbol=btcusdt&size=2000", "trades:btcusdt@7")
    body = (
        '{"ch":"market.btcusdt.trade.detail","status":"ok","ts":3000,"data":['
        '{"id":2,"ts":2000,"data":[{"id":21,"ts":2000,"trade-id":9,"amount":2.0E-4,"price":7.10,'
        '"direction":"buy"}]},'
        '{"id":1,"ts":1000,"data":[{"id":11,"ts":1000,"trade-id":8,"amount":1,"price":7,'
        '"direction":"sell"}]}]}'
    )
    (page,) = reader.fetched(fetch.key, body.encode(), 5)
    assert isinstance(page, Page)
    assert [number for number, _ in page.trades] == [8, 9]
    last = page.trades[1][1]
    assert last is not None
    assert (last.id, last.price, last.size, last.side) == ("9", "7.10", "0.00020", "buy")
    assert (last.ts, last.backfill) == (2_000_000, True)
    with pytest.raises(BadPayload):
        list(reader.fetched(fetch.key, b'{"status":"error","err-msg":"invalid symbol"}', 5))


def test_a_refused_symbol_costs_itself_alone() -> None:
    reader = spot("bbo", "trade.detail")
    refusal = (
        '{"status":"error","ts":1,"id":"sub market.btcusdt.bbo","err-code":"bad-request",'
        '"err-msg":"invalid symbol btcusdt"}'
    )
    assert parse(reader, [refusal]) == [
        Refused((Stream("bbo", "btcusdt"),), "invalid symbol btcusdt")
    ]


@pytest.mark.parametrize(
    ("request_id", "reason"),
    [
        ("req market.btcusdt.mbp.150", "429 too many request topic is market.btcusdt.mbp.150"),
        ("unsub market.btcusdt.mbp.150", "unsub with not subbed topic"),
    ],
)
def test_a_refusal_of_what_is_asked_again_anyway_is_passed_over(
    request_id: str, reason: str
) -> None:
    refusal = f'{{"status":"error","ts":1,"id":"{request_id}","err-msg":"{reason}"}}'
    assert parse(spot("mbp.150"), [refusal]) == []


def test_pings_are_answered() -> None:
    assert parse(spot("bbo"), ['{"ping":1618678073643}']) == [Send('{"pong":1618678073643}')]


def test_frames_are_inflated_within_bounds() -> None:
    whole = gzip.compress(b"{}")
    assert inflate(whole) == b"{}" == inflate(b"{}")
    for bad in (whole[:-1], whole + b"}", gzip.compress(b" " * (MAX_INFLATED + 1)), b"\x1f\x8b"):
        with pytest.raises(ValueError, match="gzip"):
            inflate(bad)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(best("7").replace("btcusdt.bbo", "ethusdt.bbo"), id="symbol-not-carried"),
        pytest.param(best("7").replace("1489474082811", "null"), id="no-time"),
        pytest.param(best('"x"'), id="number-of-a-quote"),
        pytest.param('{"ch":"market.btcusdt.surprise","ts":1,"tick":{}}', id="unknown-topic"),
        pytest.param('{"ch":"btcusdt","ts":1,"tick":{}}', id="no-topic"),
        pytest.param(refresh(5, "[100,1],[100.0,2]"), id="two-levels-of-one-price"),
        pytest.param(refresh(5).replace("mbp.150", "mbp.20"), id="refresh-of-another-book"),
        pytest.param(update(7, 5).replace('"seqNum":7', '"seqNum":7.5'), id="sequence"),
        pytest.param('{"status":"error","ts":1,"err-msg":"429"}', id="refusal-of-nothing"),
        pytest.param('{"status":"error","id":"sub market.x.bbo"}', id="refusal-of-another"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: str) -> None:
    with pytest.raises(BadPayload):
        parse(spot("mbp.150", "bbo"), [bad])


def test_a_resync_asks_for_the_streams_alone() -> None:
    reader = spot("mbp.150", "trade.detail")
    sent = only(Send, reader.resync([Stream("trade.detail", "btcusdt")], 0))
    assert [json.loads(one.frame) for one in sent] == [
        {op: "market.btcusdt.trade.detail", "id": f"{op} market.btcusdt.trade.detail"}
        for op in ("unsub", "sub")
    ]


def test_a_book_is_whole_once_it_is_live() -> None:
    assert spot("mbp.150").whole("btcusdt", 5, 6) == []
    (book, _) = live_book().whole("btcusdt", 5, 6)
    assert isinstance(book, Book) and book.snapshot and book.bids == [("100.0", "1")]


@pytest.mark.parametrize(
    ("native", "symbol"),
    [
        ("btcusdt", "BTC-USDT"),
        ("trioeth", "TRIO-ETH"),
        ("yfihusd", "YFI-HUSD"),
        ("fil3susdt", "FIL3S-USDT"),
        ("ethht", "ETH-HT"),
        ("usdt", None),
        ("BTC-USDT", None),
    ],
)
def test_names_without_a_listing(native: str, symbol: str | None) -> None:
    instrument = Htx.instrument(native)
    assert (instrument.symbol if instrument else None) == symbol


def test_the_listing_is_read() -> None:
    listed = Session(Htx, HtxVenue(), SESSION).listed
    assert [
        (one.symbol, one.native, one.price_step, one.size_step, one.state) for one in listed
    ] == [
        ("BTC-USDT", "btcusdt", "0.01", "0.000001", "trading"),
        ("XVG-ETH", "xvgeth", "0.000000001", "0.01", "trading"),
        ("OLD-USDT", "oldusdt", "0.0001", "0.0001", "offline"),
    ]
    with pytest.raises(BadPayload):
        Htx.instruments([b'{"status":"error","err-code":"x"}'])


#: Samples and pairs that we don't read, by a part of each -> why.
NOT_READ = {
    '"update":true': "changes of a joined book, of 2019",
    '"id":"100201717928521000104525"': "of before trades had a ``tradeId``, 2019",
    "market.BTC_CW.": "a future",
    "market.ETH_CQ.": "a future",
    "market.BCH_CQ.": "a future",
}
CHANNELS = ("bbo", "trade.detail", "detail", "ticker", "mbp.150")
FED: dict[str, type[Trade | Ticker | Quote | Book]] = {
    "bbo": Quote,
    "detail": Ticker,
    "depth.step0": Book,
}


def natively(text: str) -> tuple[str, str]:
    """Return what symbol and channel a message is of."""
    message = json.loads(text)
    topic = message.get("ch") or message.get("rep") or message.get("subbed")
    native, _, channel = topic.removeprefix("market.").partition(".")
    return native, channel


def reason_against(text: str) -> str:
    return next((reason for part, reason in NOT_READ.items() if part in text), "")


def test_sample_messages_are_read() -> None:
    path = CAPTURES / "htx" / "samples.jsonl"
    if not path.exists():
        pytest.skip("no recordings of htx beside the repository")
    read = 0
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        if sample["dir"] != "in":
            continue
        native, channel = natively(sample["raw"])
        outputs = parse(spot(channel, native=native), [sample["raw"]])
        kind = FED.get(channel)
        assert kind is None or '"subbed"' in sample["raw"] or only(kind, outputs), sample["raw"]
        read += 1
    assert read == 21


def test_others_make_the_same_of_the_same_messages() -> None:
    path = CAPTURES / "htx" / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings of htx beside the repository")
    readers: dict[tuple[str, str, str], Htx] = {}
    compared = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        native, channel = natively(pair["raw"])
        if reason_against(pair["raw"]):
            if Htx.instrument(native) is not None:
                with pytest.raises(BadPayload):
                    parse(spot(channel, native=native), [pair["raw"]])
            continue
        # Mappers of other dates know nothing of each other; theirs of mbp do.
        key = (pair["case"], native, channel)
        if key not in readers:
            readers[key] = spot(channel, native=native)
            parse(readers[key], [subscribed(ts=0).replace("btcusdt", native)])
        outputs = parse(readers[key], [pair["raw"]])
        others = pair["expected"]
        compared += compare(others if isinstance(others, list) else [others], outputs)
    assert compared >= 5


def compare(others: list[dict[str, Any]], outputs: list[Output]) -> int:
    """Compare what another project made of a frame with what we do."""
    done = 0
    for other in others:
        match other.get("type"):
            case "trade":
                (trade,) = only(Trade, outputs)
                assert (trade.id, trade.side) == (other["id"], other["side"])
                assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
            case "book_ticker":
                (quote,) = only(Quote, outputs)
                assert is_same(quote.bid, other["bidPrice"])
                assert is_same(quote.ask, other["askPrice"])
                assert is_same(quote.bid_size, other["bidAmount"])
                assert is_same(quote.ask_size, other["askAmount"])
            case None:
                asserts = other["asserts"]
                for name, value in asserts.items():
                    if name == "trade.side":
                        assert [one.side for one in only(Trade, outputs)] == [value]
                    elif name == "bbo_msg.ask_price":
                        assert is_same(only(Quote, outputs)[0].ask, value)
                    elif name == "bbo_msg.bid_quantity_base":
                        assert is_same(only(Quote, outputs)[0].bid_size, value)
                    else:
                        continue
                    done += 1
                continue
            case _:
                continue
        done += 1
    return done
