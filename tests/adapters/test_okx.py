"""OKX: the chain of ids, the former checksum, joined trades, shared channels; ``payloads/okx``."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from adapters import tape
from adapters.base import (
    Adapter,
    Health,
    Leave,
    Mark,
    Output,
    Page,
    Refused,
    Resumed,
    Send,
    Stream,
)
from adapters.channels import RESUBSCRIBE_US
from adapters.checksums import alternating
from adapters.exchanges.okx.adapter import PAGE, Okx
from adapters.exchanges.okx.requests import ARGS_PER_REQUEST
from adapters.exchanges.okx.venue import OkxVenue
from feed.errors import BadPayload
from feed.models import Book, Derivative, Gap, Level, Liquidation, Quote, Ticker, Trade
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
from tests.adapters.tapes import CAPTURES, captures, run

SESSION = PAYLOADS / "okx" / "session.jsonl"
SPOT, SWAP, FUTURE = "BTC-USDT", "BTC-USDT-SWAP", "BTC-USD-261225"
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("okx")]
)


def okx(*channels: str, native: str = SWAP) -> Adapter:
    return adapter(Okx, [Stream(one, native) for one in channels])


def parse(reader: Adapter, frames: Iterable[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def frame(channel: str, *data: dict[str, Any], **more: Any) -> bytes:
    arg = {"channel": channel, "instId": SWAP} | more.pop("arg", {})
    message = {"arg": arg, **more, "data": [{"ts": "1793000000000"} | one for one in data]}
    return json.dumps(message, separators=(",", ":")).encode()


def book(
    bids: Sequence[Sequence[str]],
    asks: Sequence[Sequence[str]],
    action: str = "update",
    channel: str = "books",
    **ids: int,
) -> bytes:
    """Return a message of the book; without ``ids`` in the former form, its checksum wrong."""
    sides = {
        side: [[*level, "0", "1"] for level in given]
        for side, given in (("asks", asks), ("bids", bids))
    }
    return frame(channel, {**sides, "checksum": 0, **ids}, action=action)


def start(seq: int = 10, action: str = "snapshot") -> bytes:
    return book([("100", "1")], [("101", "2")], action, seqId=seq, prevSeqId=-1)


def update(seq: int, before: int, bids: Sequence[Sequence[str]] = (("99", "1"),)) -> bytes:
    return book(bids, [], seqId=seq, prevSeqId=before)


def traded(last: int, count: int | None = None, **fields: str) -> bytes:
    joined = {} if count is None else {"count": str(count)}
    one = {"instId": SWAP, "tradeId": str(last), "px": "100", "sz": "1", "side": "buy"}
    return frame("trades", one | joined | fields)


def asked(outputs: Iterable[Output]) -> list[dict[str, Any]]:
    return [json.loads(one.frame) for one in only(Send, outputs)]


def by_connection(path: Path) -> list[tuple[Adapter, list[bytes]]]:
    """Return a reader and the frames of each connection; one recorder had all on three."""
    found: dict[str | None, tuple[OkxVenue, set[Stream], list[bytes]]] = {}
    for line in tape.read(path):
        if line.dir == "in":
            venue, streams, frames = found.setdefault(line.conn, (OkxVenue(), set(), []))
            venue.scan(line)
            if (stream := venue.stream_of(line)) is not None:
                streams.add(stream)
            frames.append(tape.body(line))
    return [
        (adapter(Okx, sorted(streams, key=lambda one: (one.native, one.channel))), frames)
        for _, streams, frames in found.values()
    ]


def plain(frames: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return the messages with data; of pongs and answers none."""
    found = [json.loads(one, parse_float=str) for one in frames if one != b"pong"]
    return [one for one in found if "data" in one]


def crc(sides: Sides) -> int:
    """Return the checksum as documented, by code of its own."""
    bids, asks = best_first(sides)
    parts: list[str] = []
    for pair in zip_longest(bids[:25], asks[:25]):
        parts += [f"{price}:{size}" for level in pair if level for price, size in [level]]
    return int.from_bytes(zlib.crc32(":".join(parts).encode()).to_bytes(4), signed=True)


@recordings
def test_every_frame_is_read_and_every_trade_is_there_digit_for_digit(path: Path) -> None:
    compared = 0
    for reader, frames in by_connection(path):
        done = run(reader, frames)
        assert done.bad == []
        for kind in (Health, Gap, Send, Refused):
            assert only(kind, done.outputs) == []
        sent = [
            (one["tradeId"], one["px"], one["sz"], one["side"], int(one["ts"]) * 1_000)
            for message in plain(frames)
            if message["arg"]["channel"] == "trades"
            for one in message["data"]
        ]
        trades = only(Trade, done.outputs)
        assert [(one.id, one.price, one.size, one.side, one.ts) for one in trades] == sent
        compared += len(sent)
    assert compared > 30


@recordings
def test_books_are_the_exchange_s_books_and_every_proof_holds(path: Path) -> None:
    proven = 0
    for reader, frames in by_connection(path):
        naive: dict[str, Sides] = defaultdict(lambda: ({}, {}))
        last: dict[str, int] = {}
        for message in plain(frames):
            if not message["arg"]["channel"].startswith("books"):
                continue
            native = message["arg"]["instId"]
            for one in message["data"]:
                if message["action"] == "snapshot":
                    naive[native] = ({}, {})
                changes = ([level[:2] for level in one[side]] for side in ("bids", "asks"))
                apply(naive[native], *changes)
                if "seqId" in one:
                    assert one["prevSeqId"] == last.get(native, -1)
                    last[native] = one["seqId"]
                else:
                    assert crc(naive[native]) == one["checksum"]
                proven += 1
        shown = clients_books(run(reader, frames).outputs)
        assert shown == {
            f"book.okx.{reader.plan_.instruments[native].symbol}": sides
            for native, sides in naive.items()
        }
        assert max(len(side) for sides in shown.values() for side in sides) <= 400
    assert proven > 80


def test_the_checksum_alternates_and_goes_on_with_the_longer_side() -> None:
    bids: list[Level] = [("3366.1", "7")]
    asks: list[Level] = [("3366.8", "9"), ("3368", "8"), ("3372", "8")]
    text = "3366.1:7:3366.8:9:3368:8:3372:8"  # the documentation's example
    assert alternating(bids, asks) & 0xFFFF_FFFF == zlib.crc32(text.encode())


def test_a_broken_chain_makes_the_book_invalid_until_a_snapshot() -> None:
    reader = okx("books", "trades")
    assert len(only(Book, parse(reader, [start(10), update(17, 10)]))) == 2
    broken = parse(reader, [update(30, 20)])
    name = "okx.BTC-USDT-PERP"
    assert broken[0] == Health(SWAP, ("book", "depth", "quote"), "invalid", "sequence")
    assert broken[1] == Gap(f"book.{name}", 0, None, 0, 0, "upstream_sequence", None)
    assert [one["op"] for one in asked(broken)] == ["unsubscribe", "subscribe"]
    assert all(one["args"] == [{"channel": "books", "instId": SWAP}] for one in asked(broken))
    assert parse(reader, [update(31, 30)], 1) == []
    assert len(parse(reader, [update(32, 31)], RESUBSCRIBE_US)) == 2
    fresh = parse(reader, [start(50)], RESUBSCRIBE_US + 1)
    assert only(Book, fresh)[0].snapshot
    assert fresh[-1] == Health(SWAP, ("book", "depth", "quote"), "live", None)
    assert only(Book, parse(reader, [update(60, 50, [("98", "1")])]))


def test_ids_may_stand_still_and_start_anew_as_long_as_the_chain_holds() -> None:
    reader = okx("books")
    unchanged = book([], [], seqId=15, prevSeqId=15)
    outputs = parse(reader, [start(10), update(15, 10), unchanged, update(3, 15, [("98", "1")])])
    outputs += parse(reader, [update(5, 3, [("97", "1")])])
    assert only(Health, outputs) == []
    assert [one.snapshot for one in only(Book, outputs)] == [True, False, False, False]


def test_a_message_with_an_id_is_not_judged_by_its_checksum() -> None:
    given = [start(10).replace(b'"checksum":0', b'"checksum":-855196043')]
    assert only(Book, parse(okx("books"), given))


def test_a_message_with_neither_id_nor_right_checksum_is_not_believed() -> None:
    outputs = parse(okx("books"), [book([("100", "1")], [("101", "2")], "snapshot")])
    assert only(Book, outputs) == []
    assert [one["op"] for one in asked(outputs)] == ["unsubscribe", "subscribe"]


def test_a_wrong_checksum_of_the_former_form_makes_the_book_invalid() -> None:
    def former(bids: Sequence[Level], sides: Sides, action: str) -> bytes:
        asks = [("101", "2")] if action == "snapshot" else []
        found = book(bids, asks, action)
        return found.replace(b'"checksum":0', b'"checksum":%d' % crc(sides))

    whole = former([("100", "1")], ({"100": "1"}, {"101": "2"}), "snapshot")
    good = former([("99.0", "1")], ({"100": "1", "99.0": "1"}, {"101": "2"}), "update")
    bad = former([("98", "1")], ({"100": "1"}, {"101": "2"}), "update")
    outputs = parse(okx("books"), [whole, good, bad])
    assert len(only(Book, outputs)) == 2
    assert [one.reason for one in only(Health, outputs)] == ["checksum"]


def test_a_book_that_is_crossed_before_trading_begins_is_shown_when_it_is_not() -> None:
    reader = okx("books")
    outputs = parse(reader, [start(10), update(11, 10, [("102", "1")])])
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    assert only(Send, outputs) == [], "nothing is lost, so nothing is asked for"
    assert parse(reader, [update(12, 11, [("103", "1")])]) == []
    fresh = parse(reader, [update(13, 12, [("102", "0"), ("103", "0")])])
    assert only(Book, fresh)[0].snapshot
    assert only(Book, fresh)[0].bids == [("100", "1")]
    assert only(Health, fresh)[0].state == "live"


def bbo(bid: str | None, ask: str | None) -> bytes:
    sides = {"bids": bid, "asks": ask}
    return frame(
        "bbo-tbt",
        {"seqId": 1} | {side: [[p, "1", "0", "1"]] if p else [] for side, p in sides.items()},
    )


def test_the_quote_has_its_own_channel_when_live_and_else_the_book_s() -> None:
    reader = okx("books", "bbo-tbt")
    assert only(Quote, parse(reader, [start(10)])) == []
    quotes = only(Quote, parse(reader, [bbo("100", "101"), bbo("100", "101"), bbo("100", None)]))
    assert [(one.bid, one.ask, one.ask_size) for one in quotes] == [
        ("100", "101", "1"),
        ("100", None, None),
    ]
    assert [one.bid for one in only(Quote, parse(okx("books"), [start(10)]))] == ["100"]


def test_a_crossed_quote_is_not_shown() -> None:
    reader = okx("bbo-tbt")
    outputs = parse(reader, [bbo("100", "101"), bbo("102", "101"), bbo("103", "101")])
    assert [one.bid for one in only(Quote, outputs)] == ["100"]
    assert only(Health, outputs) == [Health(SWAP, ("quote",), "invalid", "crossed")]
    outputs = parse(reader, [bbo("100.5", "101")])
    assert [one.bid for one in only(Quote, outputs)] == ["100.5"]
    assert only(Health, outputs) == [Health(SWAP, ("quote",), "live", None)]


def test_the_trades_of_one_order_are_one_and_their_ids_are_counted() -> None:
    reader = okx("trades")
    outputs = parse(reader, [traded(120), traded(123, 3), traded(124, 1)])
    assert [one.id for one in only(Trade, outputs)] == ["120", "123", "124"]
    assert only(Gap, outputs) == []
    gap, trade = parse(reader, [traded(130, 2)])
    assert isinstance(gap, Gap) and gap.lost == 4
    assert isinstance(trade, Trade) and trade.id == "130"


def test_trades_that_come_again_after_a_reconnect_are_dropped_and_the_rest_is_counted_on() -> None:
    first = okx("trades")
    parse(first, [traded(123, 3)])
    assert first.marks() == {SWAP: Mark(123, 1793000000000000)}
    second = okx("trades")
    second.resume(SWAP, Mark(123, 1793000000000000))
    assert parse(second, [traded(123, 3), traded(122)]) == []
    resumed, trade = parse(second, [traded(130, 2)])
    assert resumed == Resumed(SWAP, Mark(123, 1793000000000000), 129)
    assert isinstance(trade, Trade)
    third = okx("trades")
    third.resume(SWAP, Mark(123))
    resumed, _ = parse(third, [traded(125, 3)])
    assert isinstance(resumed, Resumed) and resumed.before == 124, "124 and 125 are new"


def test_missing_trades_are_asked_for_by_id_and_come_oldest_first() -> None:
    reader = okx("trades")
    fetch = reader.backfill(SWAP, Mark(1_000))
    assert fetch is not None
    assert fetch.path == (
        "/api/v5/market/history-trades?instId=BTC-USDT-SWAP&type=1"
        f"&after={1_000 + PAGE + 1}&limit={PAGE}"
    )
    assert OkxVenue().rest_key(fetch.path) == f"trades:{SWAP}@1101"
    rows = [
        {"instId": SWAP, "tradeId": str(number), "px": "100.10", "sz": "1", "side": "sell"}
        for number in (1_002, 1_001)
    ]
    body = json.dumps({"code": "0", "msg": "", "data": [row | {"ts": "7"} for row in rows]})
    (page,) = reader.fetched(fetch.key, body.encode(), 9)
    assert isinstance(page, Page) and page.native == SWAP
    assert [number for number, _ in page.trades] == [1_001, 1_002]
    topic = "trade.okx.BTC-USDT-PERP"
    assert page.trades[0][1] == Trade(
        topic, 0, 7_000, 9, 0, "1001", "100.10", "1", "sell", backfill=True
    )
    for bad in (b"", b'{"code":"50011","msg":"Too Many Requests"}', b'{"data":[{"tradeId":"x"}]}'):
        with pytest.raises(BadPayload):
            reader.fetched(fetch.key, bad, 9)


def test_a_ticker_has_the_volume_in_its_own_unit_and_says_only_what_changed() -> None:
    fields = {
        **{"last": "100.0", "open24h": "90", "high24h": "", "low24h": "80", "vol24h": "7"},
        **{"volCcy24h": "0.07", "bidPx": "99.9", "askPx": "100.1"},
    }
    given = frame("tickers", fields)
    again = given.replace(b"1793000000000", b"1793000000100")
    (ticker,) = parse(okx("tickers"), [given, again])
    day = ("100.0", "90", None, "80", "7", None, "99.9", "100.1")
    assert ticker == Ticker("ticker.okx.BTC-USDT-PERP", 0, 1793000000000000, 0, 0, *day)
    (spot,) = parse(okx("tickers", native=SPOT), [frame("tickers", fields, arg={"instId": SPOT})])
    assert isinstance(spot, Ticker)
    assert (spot.volume, spot.quote_volume) == ("7", "0.07")


def test_a_derivative_is_merged_of_four_channels_and_says_only_what_changed() -> None:
    channels = ("mark-price", "index-tickers", "funding-rate", "open-interest")
    given = [
        frame("mark-price", {"markPx": "100.10"}),
        frame("index-tickers", {"idxPx": "100.0"}, arg={"instId": "BTC-USDT"}),
        frame("funding-rate", {"fundingRate": "-0.0001", "fundingTime": "1793001600000"}),
        frame("open-interest", {"oi": "5000", "oiCcy": "50"}),
        frame("open-interest", {"oi": "5000", "oiCcy": "51"}),
    ]
    outputs = only(Derivative, parse(okx(*channels), given))
    assert [
        (one.mark, one.index, one.funding_rate, one.funding_time, one.open_interest)
        for one in outputs
    ] == [
        ("100.10", None, None, None, None),
        ("100.10", "100.0", None, None, None),
        ("100.10", "100.0", "-0.0001", 1793001600000000, None),
        ("100.10", "100.0", "-0.0001", 1793001600000000, "5000"),
    ]


def test_an_index_is_asked_for_once_and_counts_for_every_contract_that_follows_it() -> None:
    natives = ("BTC-USD-SWAP", "BTC-USD_UM-SWAP", FUTURE)
    reader = adapter(Okx, [Stream("index-tickers", native) for native in natives])
    (request,) = asked(reader.opened())
    assert request["args"] == [{"channel": "index-tickers", "instId": "BTC-USD"}]
    given = frame("index-tickers", {"idxPx": "100.0"}, arg={"instId": "BTC-USD"})
    assert {one.topic for one in only(Derivative, parse(reader, [given]))} == {
        "derivative.okx.BTC-USD:BTC-PERP",
        "derivative.okx.BTC-USD-PERP",
        "derivative.okx.BTC-USD:BTC-20261225",
    }


def test_a_pair_that_is_traded_on_margin_may_have_a_mark_price() -> None:
    given = frame("mark-price", {"markPx": "100.10"}, arg={"instId": SPOT})
    (derived,) = only(Derivative, parse(okx("mark-price", native=SPOT), [given]))
    assert (derived.topic, derived.mark) == ("derivative.okx.BTC-USDT", "100.10")


def liquidated(*natives: str) -> bytes:
    details = [{"bkPx": "95.50", "sz": "2", "side": "sell", "posSide": "long", "ts": "7"}]
    data = [{"instId": native, "details": details} for native in natives]
    arg = {"channel": "liquidation-orders", "instType": "SWAP"}
    return json.dumps({"arg": arg, "data": data}).encode()


def test_liquidations_are_asked_for_by_type_and_those_of_others_are_passed_over() -> None:
    natives = (SWAP, "ETH-USDT-SWAP", FUTURE)
    reader = adapter(Okx, [Stream("liquidation-orders", native) for native in natives])
    (request,) = asked(reader.opened())
    assert sorted(one["instType"] for one in request["args"]) == ["FUTURES", "SWAP"]
    (found,) = parse(reader, [liquidated("DOGE-USDT-SWAP", SWAP)])
    topic = "liquidation.okx.BTC-USDT-PERP"
    assert found == Liquidation(topic, 0, 7_000, 0, 0, None, "95.50", "2", "sell")


@pytest.mark.parametrize(
    ("bad", "gaps"),
    [
        pytest.param(liquidated(SWAP)[:-5], 1, id="liquidations"),
        pytest.param(b"\x00\xff garbage", 1, id="anything"),
        pytest.param(traded(5)[:-5], 0, id="trades are counted"),
        pytest.param(start()[:-5], 0, id="a book proves itself"),
        pytest.param(b'{"unheard":"of"}', 0, id="an unknown type"),
    ],
)
def test_an_unreadable_frame_is_declared_where_nothing_else_would_show_it(
    bad: bytes, gaps: int
) -> None:
    reader = okx("liquidation-orders", "trades", "books")
    with pytest.raises(BadPayload):
        list(reader.parse(bad, 0))
    outputs = list(reader.unread(bad, 1))
    assert [one.topic for one in only(Gap, outputs)] == ["liquidation.okx.BTC-USDT-PERP"] * gaps
    assert not list(reader.unread(bad, 2)), "said once, not for every bad frame"
    assert len(parse(reader, [liquidated(SWAP)])) == 1
    assert len(list(reader.unread(bad, 3))) == gaps


def test_a_resync_asks_for_its_streams_alone_and_declares_what_may_be_lost() -> None:
    reader = adapter(
        Okx,
        [
            Stream(channel, native)
            for native in (SWAP, "ETH-USDT-SWAP")
            for channel in ("books", "trades", "liquidation-orders")
        ],
    )
    outputs = reader.resync([Stream("books", SWAP)], 5)
    assert [(one["op"], one["args"]) for one in asked(outputs)] == [
        (op, [{"channel": "books", "instId": SWAP}]) for op in ("unsubscribe", "subscribe")
    ]
    assert len(outputs) == 2
    shared = reader.resync([Stream("liquidation-orders", SWAP)], 5)
    assert sorted(one.topic for one in only(Gap, shared)) == [
        "liquidation.okx.BTC-USDT-PERP",
        "liquidation.okx.ETH-USDT-PERP",
    ]


def error(code: str, reason: str, id_: str = "1") -> bytes:
    answer = {"id": id_, "event": "error", "code": code, "msg": reason, "connId": "a4d3ae55"}
    return json.dumps(answer).encode()


def test_a_refused_argument_costs_its_own_streams_alone() -> None:
    reader = adapter(Okx, [Stream("trades", SWAP), Stream("trades", SPOT)])
    reader.opened()
    reason = "Wrong URL or channel:trades,instId:BTC-USDT doesn't exist. Please use another."
    assert parse(reader, [error("60018", reason)]) == [
        Refused((Stream("trades", SPOT),), f"60018 {reason}")
    ]
    types = adapter(Okx, [Stream("liquidation-orders", one) for one in (SWAP, "ETH-USDT-SWAP")])
    types.opened()
    (refused,) = parse(types, [error("60018", "channel:liquidation-orders,instType:SWAP …")])
    assert isinstance(refused, Refused) and len(refused.streams) == 2


def test_a_request_refused_whole_is_asked_again_by_halves() -> None:
    natives = [f"{name}-USDT" for name in "ABC"]
    reader = adapter(Okx, [Stream("trades", native) for native in natives])
    reader.opened()
    halves = asked(parse(reader, [error("60012", "Invalid request: {…}")]))
    assert [[one["instId"] for one in half["args"]] for half in halves] == [
        ["A-USDT"],
        ["B-USDT", "C-USDT"],
    ]
    (refused,) = parse(reader, [error("60012", "Invalid request: {…}", "2")])
    assert refused == Refused((Stream("trades", "A-USDT"),), "60012 Invalid request: {…}")
    ack = {"id": "3", "event": "subscribe", "arg": {"channel": "trades", "instId": "B-USDT"}}
    assert parse(reader, [json.dumps(ack).encode()]) == []
    (refused,) = parse(reader, [error("60012", "Invalid request: {…}", "3")])
    assert isinstance(refused, Refused) and refused.streams == (Stream("trades", "C-USDT"),)
    with pytest.raises(BadPayload):
        parse(reader, [error("60012", "Invalid request: {…}", "7")])


def test_notices_of_an_upgrade_and_of_too_many_requests_end_the_connection() -> None:
    reader = okx("trades")
    notice = {"event": "notice", "code": "64008", "msg": "The connection will soon be closed …"}
    assert parse(reader, [json.dumps(notice).encode()]) == [Leave("notice", serves_on=True)]
    told = OkxVenue().farewell(0)
    assert told is not None
    assert parse(reader, [told.encode()]) == [Leave("notice", serves_on=True)]
    assert parse(reader, [error("60014", "Requests too frequent")]) == [Leave("rate_limited")]


def test_pings_are_text_and_so_are_their_answers() -> None:
    reader = okx("trades")
    assert (reader.limits.ping_every_s, reader.ping()) == (10, "ping")
    assert OkxVenue().request("", "ping").frames == ("pong",)
    assert parse(reader, [b"pong"]) == []


def test_arguments_are_spread_over_requests() -> None:
    natives = [f"COIN{number}-USDT" for number in range(2 * ARGS_PER_REQUEST + 6)]
    reader = adapter(Okx, [Stream("trades", native) for native in natives])
    requests = asked(reader.opened())
    assert [len(one["args"]) for one in requests] == [ARGS_PER_REQUEST, ARGS_PER_REQUEST, 6]
    assert [one["id"] for one in requests] == ["1", "2", "3"]
    assert max(len(json.dumps(one)) for one in requests) < 64_000


def test_each_type_of_instrument_has_its_own_channels() -> None:
    def channels(native: str) -> list[str]:
        instrument = Okx.instrument(native)
        assert instrument is not None
        return [one.channel for one in Okx.streams(instrument, Okx.kinds)]

    spot = ["books", "bbo-tbt", "trades", "tickers"]
    derived = ["mark-price", "index-tickers", "open-interest"]
    assert channels(SPOT) == spot
    assert channels(SWAP) == [*spot, *derived, "funding-rate", "liquidation-orders"]
    assert channels(FUTURE) == [*spot, *derived, "liquidation-orders"]
    assert channels("BTC-USD-261225-90000-C") == [*spot, *derived]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(start().replace(b"BTC-USDT-SWAP", b"ETH-USDT-SWAP"), id="symbol-not-carried"),
        pytest.param(start().replace(b"1793000000000", b"99999999999999999"), id="time"),
        pytest.param(start(action="partial"), id="action"),
        pytest.param(frame("surprise", {}), id="unknown-channel"),
        pytest.param(b'{"event":"surprise"}', id="unknown-event"),
        pytest.param(b'{"event":"error","code":"60012","msg":"no"}', id="refusal-of-nothing"),
        pytest.param(traded(5, side="none"), id="side"),
        pytest.param(traded(5, 0), id="count"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: bytes) -> None:
    with pytest.raises(BadPayload):
        parse(okx("books", "trades"), [bad])


def test_keys_may_come_in_any_order() -> None:
    message = json.loads(traded(5))
    turned = {key: message[key] for key in reversed(message)}
    assert len(only(Trade, parse(okx("trades"), [json.dumps(turned).encode()]))) == 1


@pytest.mark.parametrize(
    ("native", "symbol", "settle", "inverse"),
    [
        ("BTC-USDT", "BTC-USDT", None, False),
        ("BTC-USDT-SWAP", "BTC-USDT-PERP", "USDT", False),
        ("BTC-USDC-SWAP", "BTC-USDC-PERP", "USDC", False),
        ("BTC-USD-SWAP", "BTC-USD:BTC-PERP", "BTC", True),
        ("BTC-USD_UM-SWAP", "BTC-USD-PERP", "USD", False),
        ("BTC-USD-261225", "BTC-USD:BTC-20261225", "BTC", True),
        ("ADA-USDT-211224", "ADA-USDT-20211224", "USDT", False),
        ("BTC-USD-210924-66000-C", "BTC-USD:BTC-20210924-66000-C", "BTC", False),
        ("BTC-USD-261399", None, None, False),
        ("BTC-USD_XX-SWAP", None, None, False),
        ("BTCUSDT", None, None, False),
    ],
)
def test_names_without_a_listing(
    native: str, symbol: str | None, settle: str | None, inverse: bool
) -> None:
    named = Okx.instrument(native)
    assert (named.symbol if named else None) == symbol
    if named is not None:
        assert (named.settle, named.inverse) == (settle, inverse)
        assert named.size_unit == ("base" if named.type == "spot" else "contract")


def test_the_listing_is_read() -> None:
    listed = {one.native: one for one in Session(Okx, OkxVenue(), SESSION).listed}
    lines = [line for line in tape.read(SESSION) if line.dir == "rest"]
    assert [OkxVenue().rest_key_of(line) for line in lines] == [
        OkxVenue().rest_key(path) for path in Okx.listing_paths
    ]
    found = {one.native: one for one in Okx.instruments([tape.body(line) for line in lines])}
    assert found == listed
    assert found.keys() == {SPOT, SWAP, FUTURE}
    assert found[SWAP].contract_size == "0.01" and found[SWAP].contract_currency == "BTC"
    assert found[FUTURE].contract_size == "100" and found[FUTURE].contract_currency == "USD"
    assert found[FUTURE].expiry == 1798185600000000
    assert (found[SPOT].price_step, found[SPOT].size_step) == ("0.1", "0.00000001")
    assert found[SPOT].contract_size is None and found[SPOT].state == "trading"
    option = {"instId": "BTC-USD-261225-90000-C", "instType": "OPTION", "state": "preopen"}
    details = {"ctVal": "1", "ctMult": "0.01", "ctValCcy": "BTC", "expTime": "1798185600000"}
    spread = {"instId": "BTC-USDT_BTC-USDT-SWAP", "instType": "SPREAD", "state": "live"}
    (one,) = Okx.instruments([json.dumps({"data": [option | details, spread]}).encode()])
    assert (one.contract_size, one.state, one.expiry) == ("0.01", "preopen", 1798185600000000)
    with pytest.raises(BadPayload):
        Okx.instruments([b'{"code":"50011","msg":"Too Many Requests"}'])


def test_the_venue_answers_each_argument_and_the_adapter_understands_it() -> None:
    venue = OkxVenue()
    recording = Session(Okx, venue, SESSION)
    unknown = Stream("trades", "NOSUCH-USDT")
    reader = adapter(Okx, [*recording.streams, unknown])
    outputs: list[Output] = []
    streams: list[Stream] = []
    for send in only(Send, reader.opened()):
        ack = venue.request("/ws/v5/public", send.frame)
        streams += ack.streams
        outputs += parse(reader, [one.encode() for one in ack.frames])
    assert [one.streams for one in only(Refused, outputs)] == [(unknown,)]
    assert set(streams) == set(recording.streams)
    args = [{"channel": "trades", "instId": SPOT}]
    assert venue.request("", json.dumps({"op": "unsubscribe", "args": args})).unsubscribe
    for nonsense in ("nonsense", '{"op":"login","args":[]}'):
        (answer,) = venue.request("", nonsense).frames
        assert '"60012"' in answer


def test_who_comes_late_is_told_the_book_as_it_is_by_then() -> None:
    venue = OkxVenue()
    recording = Session(Okx, venue, SESSION)
    stream = Stream("books", SPOT)
    standing = venue.standing(stream, {})
    assert standing is not None and standing.told() is None
    frames = [one for one in recording.frames if b'"channel":"books","instId":"BTC-USDT"}' in one]
    frames = [one for one in frames if b'"data"' in one]
    for one in frames[:20]:
        standing.take(one)
    told = standing.told()
    assert told is not None
    late = adapter(Okx, [stream])
    outputs = parse(late, [told, *frames[20:]])
    assert only(Health, outputs) == []
    assert only(Send, outputs) == []
    whole = clients_books(parse(adapter(Okx, [stream]), frames))
    assert clients_books(outputs) == whole


@pytest.mark.parametrize("path", captures("okx", "samples.jsonl"))
def test_sample_messages_are_read(path: Path) -> None:
    fed: dict[str, type] = {
        **{"trades": Trade, "tickers": Ticker, "books": Book, "bbo-tbt": Quote},
        **dict.fromkeys(("funding-rate", "mark-price", "open-interest"), Derivative),
    }
    read = 0
    reader: Adapter | None = None
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        if sample["dir"] != "in":
            continue
        message = json.loads(sample["raw"])
        channel = message.get("arg", {}).get("channel", "trades")
        native = message.get("arg", {}).get("instId", SWAP)
        if message.get("action") != "update":  # which follows its snapshot
            reader = adapter(Okx, [Stream(channel, native)])
        assert reader is not None
        if message.get("event") == "error":
            with pytest.raises(BadPayload):  # names no request
                parse(reader, [sample["raw"].encode()])
            continue
        outputs = parse(reader, [sample["raw"].encode()])
        kind = fed.get(channel)
        if kind is not None and "data" in message and message.get("action") != "update":
            assert only(kind, outputs), sample["raw"]
        assert only(Health, outputs) == [], sample["raw"]
        read += 1
    assert read == 37


#: Channels whose pairs cannot agree -> why.
DIFFERENT = {
    "liquidations": "made by another project from a REST answer",
    "opt-summary": "not a kind we carry",
    "price-limit": "not a kind we carry",
    "books5": "left out: depth is made from the book",
    "candle1m": "left out: candles are made from the trades",
}
#: Books that were cut, so that the checksum is not theirs; they are given ids in its place.
CUT = {"BTC-DAI", "ADA-USDT-211224", "BTC-USDT", "BTC-USDT-220325", "ETH-USD-220128-3500-C"}


def pairs() -> list[dict[str, Any]]:
    """Return the pairs of v5; the others are of v3, or answers of REST."""
    path = CAPTURES / "okx" / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings of okx beside the repository")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [one for one in found if one["raw"].startswith('{"arg"')]


def test_others_make_the_same_of_the_same_messages() -> None:
    compared = left_out = 0
    for pair in pairs():
        sent = json.loads(pair["raw"])
        channel = sent["arg"]["channel"]
        if channel in DIFFERENT:
            left_out += 1
            continue
        native = sent["arg"].get("instId") or sent["data"][0]["instId"]
        raw = pair["raw"].encode()
        reader = adapter(
            Okx, [Stream(channel, f"{native}-SWAP" if channel == "index-tickers" else native)]
        )
        if channel.startswith("books") and native in CUT:
            raw = raw.replace(b'"checksum":', b'"seqId":2,"prevSeqId":1,"checksum":')
            if sent["action"] == "update":
                known = book([], [("0.18", "1")], "snapshot", channel, seqId=1, prevSeqId=-1)
                parse(reader, [known.replace(SWAP.encode(), native.encode())])
        events = parse(reader, [raw])
        if pair["schema"] == "tardis":
            compared += sum(same_as_tardis(one, events, channel) for one in pair["expected"])
        else:
            compared += same_as_asserted(pair["expected"]["asserts"], events)
    assert (compared, left_out) == (31, 10)


def same_as_tardis(other: dict[str, Any], events: list[Output], channel: str) -> int:
    """Compare one normalised message of another project with our events of the same frame."""
    match other["type"]:
        case "trade":
            (trade,) = only(Trade, events)
            assert (trade.id, trade.side) == (other["id"], other["side"])
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "book_change":
            (change,) = only(Book, events)
            assert change.snapshot == other["isSnapshot"]
            for mine, theirs in ((change.bids, other["bids"]), (change.asks, other["asks"])):
                assert {(float(price), float(size)) for price, size in mine} == {
                    (one["price"], one["amount"]) for one in theirs
                }
        case "book_ticker" if channel == "bbo-tbt":
            (quote,) = only(Quote, events)
            assert is_same(quote.bid, other["bidPrice"]) and is_same(quote.ask, other["askPrice"])
            assert is_same(quote.bid_size, other["bidAmount"])
            assert is_same(quote.ask_size, other["askAmount"])
        case "book_ticker":  # theirs of the ticker
            (ticker,) = only(Ticker, events)
            assert is_same(ticker.bid, other["bidPrice"]) and is_same(ticker.ask, other["askPrice"])
        case "derivative_ticker" if channel == "tickers":
            (ticker,) = only(Ticker, events)
            assert is_same(ticker.last, other["lastPrice"])
        case "derivative_ticker":
            # Theirs goes on from message to message of a case; ours has this one's alone.
            (derived,) = only(Derivative, events)
            values = (derived.mark, derived.index, derived.funding_rate, derived.open_interest)
            names = ("markPrice", "indexPrice", "fundingRate", "openInterest")
            for value, name in zip(values, names, strict=True):
                assert value is None or is_same(value, other[name])
            if derived.funding_time is not None:
                assert other["fundingTimestamp"] == iso(derived.funding_time)
        case "liquidation":
            (forced,) = only(Liquidation, events)
            assert forced.side == other["side"]
            assert is_same(forced.price, other["price"]) and is_same(forced.size, other["amount"])
    return 1


def iso(micros: int) -> str:
    at = datetime.fromtimestamp(micros / 1_000_000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def same_as_asserted(other: dict[str, Any], events: list[Output]) -> int:
    """Compare what another project asserts of one message, sizes as they are sent."""
    values: dict[str, Any] = {}
    for event in events:
        match event:
            case Trade():
                values |= {"trade.price": event.price, "trade.side": event.side}
                values |= {"trade.quantity_contract": event.size, "trade.timestamp": event.ts}
            case Book():
                values |= {"orderbook.asks.len()": len(event.asks)}
                values |= {"orderbook.bids.len()": len(event.bids)}
                values |= {"orderbook.asks[0].price": event.asks[0][0]}
                values |= {"orderbook.asks[0].quantity_contract": event.asks[0][1]}
            case Quote():
                values |= {"bbo_msg.ask_price": event.ask, "bbo_msg.bid_price": event.bid}
            case Derivative():
                values |= {"funding_rates[0].funding_rate": event.funding_rate}
                values |= {"funding_rates[0].funding_time": event.funding_time}
            case Ticker():
                values |= {"timestamp": event.ts}
            case _:
                pass
    shared = values.keys() & other.keys()
    for name in shared:
        mine, theirs = values[name], other[name]
        if theirs is None or isinstance(theirs, str):
            assert theirs in (None, mine)
        else:
            is_time = name.endswith(("timestamp", "funding_time"))
            assert float(mine) == (theirs * 1_000 if is_time else theirs), name
    return 1 if shared else 0
