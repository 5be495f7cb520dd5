"""Crypto.com: updates by ``pu``, the past that trades begin with, merged derivatives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.base import Health, Output, Refused, Send, Stream
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.crypto_com.adapter import (
    BOOK_PARAMS,
    CHANNELS_PER_REQUEST,
    CryptoCom,
)
from adapters.exchanges.crypto_com.venue import CryptoComVenue
from adapters.trade_ids import KNOWN_TRADES
from feed.errors import BadPayload
from feed.models import Book, Derivative, Gap, Quote, Ticker, Trade
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

SESSION = PAYLOADS / "crypto-com" / "session.jsonl"
PERP = "BTCUSD-PERP"
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("crypto-com")]
)


def reader_of(*channels: str, native: str = PERP) -> CryptoCom:
    reader = adapter(CryptoCom, [Stream(one, native) for one in channels])
    assert isinstance(reader, CryptoCom)
    return reader


def parse(reader: CryptoCom, messages: Sequence[object], recv: int = 0) -> list[Output]:
    frames = [one if isinstance(one, str) else json.dumps(one) for one in messages]
    return [output for one in frames for output in reader.parse(one.encode(), recv)]


def data(channel: str, subscription: str, *told: dict[str, Any], id_: int | None = -1) -> Any:
    """Return a data message; without an id as in 2021."""
    result = {"subscription": subscription, "channel": channel, "data": told}
    message = {"method": "subscribe", "code": 0, "result": result}
    return message if id_ is None else message | {"id": id_}


def snapshot(u: int, *bids: list[str], asks: Sequence[list[str]] = (["101.0", "2", "1"],)) -> Any:
    told = {"bids": bids, "asks": asks, "t": 1_000, "u": u, "cs": 7}
    return data("book", f"book.{PERP}.50", told)


def update(u: int, pu: int, *bids: list[str], ts: int = 2_000) -> Any:
    told = {"update": {"bids": bids, "asks": []}, "t": ts, "tt": ts, "u": u, "pu": pu, "cs": 7}
    return data("book.update", f"book.{PERP}.50", told)


def live_book() -> CryptoCom:
    """Return a reader whose book is live, with 5 as its last update."""
    reader = reader_of("book.50", "trade")
    parse(reader, [snapshot(5, ["100.0", "1", "1"])])
    return reader


def traded(*ids: int, id_: int | None = -1, ts: int = 3_000) -> Any:
    """Return a message of trades; its last one is the newest."""
    rows = [
        {"d": str(one), "t": ts, "p": "51327.500000", "q": "0.000100", "s": "SELL", "i": PERP}
        for one in reversed(ids)
    ]
    return data("trade", f"trade.{PERP}", *rows, id_=id_)


def value(channel: str, told: str, symbol: str = PERP, ts: int = 1_613_582_832_000) -> Any:
    return data(channel, f"{channel}.{symbol}", {"v": told, "t": ts})


def ids(outputs: Sequence[Output]) -> list[str | None]:
    return [one.id for one in only(Trade, outputs)]


@recordings
def test_every_trade_since_we_came_is_there_digit_for_digit(path: Path) -> None:
    recording = Session(CryptoCom, CryptoComVenue(), path)
    sent: dict[str, list[tuple[object, ...]]] = {}
    told: set[str] = set()
    for message in recording.payloads():
        result = message.get("result")
        if result is None or result["channel"] != "trade":
            continue
        native = result["instrument_name"]
        instrument = CryptoCom.instrument(native)
        assert instrument is not None
        if native not in told:  # what was traded before
            assert len(result["data"]) >= 8
            told.add(native)
            continue
        for one in reversed(result["data"]):
            row = (one["d"], one["p"], one["q"], one["s"].lower(), int(one["t"]) * 1_000)
            sent.setdefault(f"trade.crypto-com.{instrument.symbol}", []).append(row)
    shown: dict[str, list[tuple[object, ...]]] = {}
    for trade in only(Trade, recording.run().outputs):
        fields = (trade.id, trade.price, trade.size, trade.side, trade.ts)
        shown.setdefault(trade.topic, []).append(fields)
    assert shown == sent
    assert sum(map(len, sent.values())) > 20


@recordings
def test_books_are_the_exchange_s_books_after_every_message(path: Path) -> None:
    recording = Session(CryptoCom, CryptoComVenue(), path)
    naive: dict[str, Sides] = {}
    last: dict[str, str] = {}
    outputs: list[Output] = []
    reader = recording.adapter()
    compared = 0
    for frame, message in zip(recording.frames, recording.payloads(), strict=True):
        outputs += reader.parse(frame, 0)
        result = message.get("result")
        if result is None or not result["channel"].startswith("book"):
            continue
        native, (told,) = result["instrument_name"], result["data"]
        if result["channel"] == "book":
            naive[native] = ({}, {})
            apply(naive[native], *[[one[:2] for one in told[side]] for side in ("bids", "asks")])
        else:
            assert told["pu"] == last[native]
            sides = [[one[:2] for one in told["update"][side]] for side in ("bids", "asks")]
            apply(naive[native], *sides)
        last[native] = told.get("u", "")
        compared += 1
        if compared % 50:
            continue
        shown = clients_books(outputs)
        for one, sides_ in naive.items():
            instrument = CryptoCom.instrument(one)
            assert instrument is not None
            mine = shown[f"book.crypto-com.{instrument.symbol}"]
            assert [
                {float(price): float(size) for price, size in side.items()} for side in mine
            ] == [{float(price): float(size) for price, size in side.items()} for side in sides_]
    assert compared >= 150


def test_an_update_that_follows_another_one_makes_the_book_invalid_until_a_snapshot() -> None:
    reader = live_book()
    assert len(only(Book, parse(reader, [update(9, 5, ["99.5", "1", "1"])]))) == 1
    broken = parse(reader, [update(20, 12, ["99.6", "1", "1"])])
    kinds = ("book", "depth", "quote")
    assert broken[0] == Health(PERP, kinds, "invalid", "sequence")
    name = "book.crypto-com.BTC-USD-PERP"
    assert broken[1] == Gap(name, 0, None, 0, 0, "upstream_sequence", None)
    asked = [json.loads(one.frame) for one in only(Send, broken)]
    assert [one["method"] for one in asked] == ["unsubscribe", "subscribe"]
    assert all(one["params"]["channels"] == [f"book.{PERP}.50"] for one in asked)
    assert parse(reader, [update(21, 20)], 1) == []
    assert len(parse(reader, [update(22, 21)], RESUBSCRIBE_US)) == 2
    fresh = parse(reader, [snapshot(30, ["100.0", "1", "1"])], RESUBSCRIBE_US + 1)
    assert Health(PERP, kinds, "live", None) in fresh
    assert only(Book, fresh)[0].snapshot
    assert only(Book, parse(reader, [update(31, 30, ["99", "1", "1"])]))


def test_an_empty_update_is_counted_on_from() -> None:
    reader = live_book()
    assert parse(reader, [update(6, 5), update(6, 6), update(8, 6)]) == []
    assert only(Book, parse(reader, [update(9, 8, ["99.5", "1", "1"])]))


def test_a_book_that_is_sent_whole_each_time_goes_out_as_what_has_changed() -> None:
    reader = reader_of("book.150", native="HOT_USDT")
    asks = '[[0.013860,"7","1"]]'
    whole = (
        '{{"code":0,"method":"subscribe","result":{{"instrument_name":"HOT_USDT","subscription":'
        '"book.HOT_USDT.150","channel":"book","depth":150,"data":[{{"bids":[{}],"asks":{},'
        '"t":{}}}]}}}}'
    )
    first = "[0.013855,32626,1],[0.013850,236075,1]"
    second = "[0.013855,32626,1],[0.013852,5,1]"
    books = only(
        Book,
        parse(reader, [whole.format(part, asks, at) for at, part in enumerate((first, second), 1)]),
    )
    assert [(one.bids, one.snapshot) for one in books] == [
        ([("0.013855", "32626"), ("0.013850", "236075")], True),
        ([("0.013850", "0"), ("0.013852", "5")], False),
    ]


def test_a_crossed_book_is_not_shown() -> None:
    outputs = parse(live_book(), [update(6, 5, ["101.0", "1", "1"])])
    assert only(Book, outputs) == []
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    crossed = parse(reader_of("book.50"), [snapshot(5, ["101.0", "1", "1"])])
    assert only(Book, crossed) == [] and len(only(Send, crossed)) == 2


def test_quotes_are_the_book_s() -> None:
    reader = reader_of("book.50")
    outputs = parse(reader, [snapshot(5, ["100.0", "1", "1"]), update(6, 5, ["100.50", "3", "1"])])
    assert [(one.bid, one.bid_size) for one in only(Quote, outputs)] == [
        ("100.0", "1"),
        ("100.50", "3"),
    ]


def test_the_past_that_a_subscription_begins_with_is_known_and_not_told() -> None:
    reader = reader_of("trade")
    assert ids(parse(reader, [traded(1, 2, 3, id_=2), traded(3, 4)])) == ["4"]


def test_without_ids_of_messages_the_first_one_is_the_past() -> None:
    reader = reader_of("trade")
    assert ids(parse(reader, [traded(1, 2, id_=None), traded(3, id_=None)])) == ["3"]


def test_who_was_told_no_past_is_told_the_first_trade() -> None:
    assert ids(parse(reader_of("trade"), [traded(1)])) == ["1"]


def test_after_a_resubscription_the_past_fills_the_hole() -> None:
    reader = reader_of("trade")
    parse(reader, [traded(1, 2, id_=2), traded(3)])
    outputs = parse(reader, [traded(2, 3, 4, 5, id_=3)])
    assert ids(outputs) == ["4", "5"] and only(Gap, outputs) == []


def test_a_past_that_reaches_no_known_trade_leaves_a_hole() -> None:
    reader = reader_of("trade")
    parse(reader, [traded(1, 2, id_=2), traded(3)])
    outputs = parse(reader, [traded(50, 51, id_=3)])
    name = "trade.crypto-com.BTC-USD-PERP"
    assert outputs[0] == Gap(name, 0, None, 0, 0, "upstream_sequence", None)
    assert ids(outputs) == ["50", "51"]


def test_trades_come_oldest_first_and_each_once() -> None:
    reader = reader_of("trade")
    message = data(
        "trade",
        f"trade.{PERP}",
        *(
            {"d": number, "t": ts, "p": "1", "q": "2", "s": "BUY"}
            for number, ts in (("7", 20), ("5", 10), ("6", 10))
        ),
    )
    assert ids(parse(reader, [message, message, traded(7, 8)])) == ["5", "6", "7", "8"]


def test_of_the_trades_of_a_symbol_the_last_thousand_are_known() -> None:
    reader = reader_of("trade")
    parse(reader, [traded(*range(KNOWN_TRADES + 1))])
    assert ids(parse(reader, [traded(1, KNOWN_TRADES), traded(0)])) == ["0"], "memory has a bound"


def test_ids_and_digits_stay_what_they_are() -> None:
    reader = reader_of("trade", native="MATIC_USDT")
    frame = (
        '{"id":-1,"code":0,"method":"subscribe","result":{"subscription":"trade.MATIC_USDT",'
        '"channel":"trade","data":[{"dataTime":1,"d":2008994948736251682,"s":"SELL","p":1.75440,'
        '"q":39.820,"t":1637709515137,"i":"MATIC_USDT"}]}}'
    )
    (trade,) = parse(reader, [frame])
    assert isinstance(trade, Trade)
    assert (trade.id, trade.price, trade.size) == ("2008994948736251682", "1.75440", "39.820")
    assert (trade.side, trade.ts) == ("sell", 1637709515137000)


@pytest.mark.parametrize(
    ("frame", "gaps"),
    [
        pytest.param(b'{"result":{"subscription":"trade.BTCUSD-PERP","data":[{', 1, id="trades"),
        pytest.param(b'{"result":{"subscription":"book.BTCUSD-PERP.50","data":7}}', 0, id="a-book"),
        pytest.param(b"\x00\xff garbage", 1, id="anything"),
        pytest.param(b'{"method":"surprise"}', 0, id="an-unknown-type"),
    ],
)
def test_an_unreadable_frame_is_a_gap_in_trades_once(frame: bytes, gaps: int) -> None:
    reader = reader_of("trade", "book.50")
    assert len(list(reader.unread(frame, 0))) == gaps
    assert list(reader.unread(frame, 1)) == []
    parse(reader, [traded(5)])
    assert len(list(reader.unread(frame, 2))) == gaps


def test_what_is_known_of_a_contract_is_told_whole_when_it_changes() -> None:
    reader = reader_of("mark", "index", "funding", "ticker")
    ticker = {"t": 1_613_582_833_000, "a": None, "oi": "12345.12"}
    outputs = parse(
        reader,
        [
            value("mark", "51279.77000"),
            value("index", "51204.52000", "BTCUSD-INDEX"),
            value("funding", "-0.000004992"),
            data("ticker", f"ticker.{PERP}", ticker),
            value("mark", "51279.77000"),
            value("mark", "51279.78000"),
        ],
    )
    name, ts = "derivative.crypto-com.BTC-USD-PERP", 1_613_582_832_000_000
    told = only(Derivative, outputs)
    assert [(one.mark, one.index, one.funding_rate, one.open_interest) for one in told] == [
        ("51279.77000", None, None, None),
        ("51279.77000", "51204.52000", None, None),
        ("51279.77000", "51204.52000", "-0.000004992", None),
        ("51279.77000", "51204.52000", "-0.000004992", "12345.12"),
        ("51279.78000", "51204.52000", "-0.000004992", "12345.12"),
    ]
    assert {one.topic for one in told} == {name}
    assert told[0].ts == ts
    assert told[2].funding_time == 1_613_584_800_000_000, "the end of the hour"


def test_an_index_is_asked_for_once_and_told_to_all_its_contracts() -> None:
    natives = (PERP, "BTCUSD-261225")
    reader = adapter(
        CryptoCom, [Stream(name, one) for one in natives for name in ("mark", "index")]
    )
    assert isinstance(reader, CryptoCom)
    (sent,) = only(Send, reader.opened())
    channels = json.loads(sent.frame)["params"]["channels"]
    assert channels.count("index.BTCUSD-INDEX") == 1 and len(channels) == 3
    outputs = parse(reader, [value("index", "51204.52", "BTCUSD-INDEX")])
    assert {one.topic for one in only(Derivative, outputs)} == {
        "derivative.crypto-com.BTC-USD-PERP",
        "derivative.crypto-com.BTC-USD-20261225",
    }


@pytest.mark.parametrize(
    ("native", "worth"), [(PERP, "26370000.12"), ("BTC_USDT", None)], ids=["usd", "usdt"]
)
def test_a_day_s_worth_is_in_usd_and_told_where_that_is_the_quote(
    native: str, worth: str | None
) -> None:
    day = {
        **{"h": "51790.00", "l": "47895.50", "a": "51174.500000", "c": "0.03955106"},
        **{"b": "51170.000000", "bs": "0.1000", "k": None, "ks": None, "v": "879.5024"},
        **{"vv": "26370000.12", "oi": None, "t": 1613580710768},
    }
    (ticker,) = parse(
        reader_of("ticker", native=native), [data("ticker", f"ticker.{native}", day, id_=1)] * 2
    )
    assert isinstance(ticker, Ticker)
    assert (ticker.last, ticker.high, ticker.low) == ("51174.500000", "51790.00", "47895.50")
    assert (ticker.volume, ticker.quote_volume) == ("879.5024", worth)
    assert (ticker.bid, ticker.ask, ticker.ts) == ("51170.000000", None, 1613580710768000)


def test_books_are_asked_for_with_their_updates_and_everything_else_beside_them() -> None:
    natives = [f"A{number}_USDT" for number in range(CHANNELS_PER_REQUEST + 1)]
    reader = adapter(
        CryptoCom, [Stream(name, one) for one in natives for name in ("book.50", "trade")]
    )
    sent = [json.loads(one.frame) for one in only(Send, reader.opened())]
    assert [one["id"] for one in sent] == [1, 2, 3, 4]
    assert [len(one["params"]["channels"]) for one in sent] == [100, 1, 100, 1]
    for one in sent[:2]:
        assert one["params"].items() >= BOOK_PARAMS.items()
        assert all(channel.startswith("book.") for channel in one["params"]["channels"])
    assert all(one["params"].keys() == {"channels"} for one in sent[2:])


def test_a_new_connection_is_left_alone_for_a_second() -> None:
    assert CryptoCom.limits.settle_s == 1.0


def test_heartbeats_are_answered_with_their_id() -> None:
    beat = '{"id":1790274309177,"method":"public/heartbeat","code":0}'
    (sent,) = only(Send, parse(reader_of("trade"), [beat]))
    assert json.loads(sent.frame) == {"id": 1790274309177, "method": "public/respond-heartbeat"}


def test_a_refused_channel_costs_itself_alone() -> None:
    reader = reader_of("book.50", "index")
    refusal = {
        **{"id": 1, "method": "subscribe", "code": 40003, "channel": f"book.{PERP}.50"},
        "message": "Unknown symbol",
    }
    assert parse(reader, [refusal]) == [Refused((Stream("book.50", PERP),), "Unknown symbol")]
    refusal |= {"channel": "index.BTCUSD-INDEX", "message": "Unsupported instrument"}
    assert parse(reader, [refusal]) == [Refused((Stream("index", PERP),), "Unsupported instrument")]


def test_a_refusal_that_names_nothing_is_found_by_asking_one_by_one() -> None:
    reader = reader_of("trade", "ticker")
    reader.opened()
    refusal = {"id": 1, "method": "subscribe", "code": 40107, "message": "Maximum"}
    singles = [json.loads(one.frame) for one in only(Send, parse(reader, [refusal]))]
    assert [one["params"]["channels"] for one in singles] == [[f"trade.{PERP}"], [f"ticker.{PERP}"]]
    assert parse(reader, [refusal | {"id": 2}]) == [Refused((Stream("trade", PERP),), "Maximum")]


def test_acks_say_nothing_of_ours() -> None:
    acks = [
        '{"id":1,"method":"subscribe","code":0,"channel":"book.BTCUSD-PERP.50"}',
        '{"id":1,"code":0,"method":"subscribe"}',
        '{"id":22,"method":"unsubscribe","code":0}',
    ]
    assert parse(reader_of("trade"), acks) == []


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(data("trade", "trade.ETHUSD-PERP"), id="symbol-not-carried"),
        pytest.param(data("surprise", f"surprise.{PERP}"), id="unknown-channel"),
        pytest.param(data("trade", f"trade.{PERP}", {"d": "x"}), id="half-a-trade"),
        pytest.param(
            data("book", f"book.{PERP}.50", {"bids": [["1", "1", "1"]] * 2, "asks": [], "t": 1}),
            id="two-levels-of-one-price",
        ),
        pytest.param(
            data("book.update", f"book.{PERP}.50", {"update": {"bids": [], "asks": []}, "t": 1}),
            id="an-update-of-before-pu",
        ),
        pytest.param({"method": "subscribe", "code": 40003}, id="refusal-of-nothing"),
        pytest.param({"method": "public/nope", "code": 40003}, id="no-such-method"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: object) -> None:
    with pytest.raises(BadPayload):
        parse(reader_of("trade", "book.50"), [bad])


def test_a_book_is_whole_once_it_is_live() -> None:
    assert reader_of("book.50").whole(PERP, 5, 6) == []
    (book, _) = live_book().whole(PERP, 5, 6)
    assert isinstance(book, Book) and book.snapshot and book.bids == [("100.0", "1")]


@pytest.mark.parametrize(
    ("native", "symbol"),
    [
        ("BTC_USDT", "BTC-USDT"),
        ("MATIC_BTC", "MATIC-BTC"),
        ("BTCUSD-PERP", "BTC-USD-PERP"),
        ("BTCUSDT-PERP", "BTC-USDT-PERP"),
        ("1INCHUSD-PERP", "1INCH-USD-PERP"),
        ("BTCUSD-261225", "BTC-USD-20261225"),
        ("BTCUSD-269925", None),
        ("BTCUSD-INDEX", None),
        ("BTC", None),
    ],
)
def test_names_without_a_listing(native: str, symbol: str | None) -> None:
    instrument = CryptoCom.instrument(native)
    assert (instrument.symbol if instrument else None) == symbol


def test_the_listing_is_read() -> None:
    listed = Session(CryptoCom, CryptoComVenue(), SESSION).listed
    assert [
        (one.symbol, one.type, one.price_step, one.size_step, one.expiry, one.state)
        for one in listed
    ] == [
        ("BTC-USDT", "spot", "0.01", "0.00001", None, "trading"),
        ("BTC-USD-PERP", "perpetual", "0.1", "0.0001", None, "trading"),
        ("BTC-USD-20261225", "future", "0.1", "0.0001", 1798185600000000, "halted"),
    ]
    for one in listed:
        named = CryptoCom.instrument(one.native)
        assert named is not None
        assert (named.symbol, named.type, named.expiry) == (one.symbol, one.type, one.expiry)
        assert (one.size_unit, one.inverse, one.settle) == (
            "base",
            False,
            None if one.type == "spot" else "USD",
        )
    with pytest.raises(BadPayload):
        CryptoCom.instruments([b'{"code":0,"result":{"instruments":[]}}'])


#: Samples and pairs that we don't read, by a part of each -> why.
NOT_READ = {
    '"result":{"channel":"trade","data"': "trimmed by another project: it says no symbol",
    '"50113.500000","0.400000"': "made up: one price stands there twice",
    '"s":763793123': "updates of before they named the one before them, until 2022",
}


def reason_against(text: str) -> str:
    return next((reason for part, reason in NOT_READ.items() if part in text), "")


def reader_for(text: str) -> CryptoCom:
    """Return one that carries what a message is of."""
    result = json.loads(text).get("result", {})
    subscription = result.get("subscription", "")
    lines = CryptoComVenue()
    stream = lines.request(
        "", json.dumps({"method": "unsubscribe", "params": {"channels": [subscription]}})
    ).streams
    return reader_of(
        *(one.channel for one in stream or (Stream("trade", PERP),)),
        native=(stream[0].native if stream else PERP),
    )


def test_sample_messages_are_read() -> None:
    path = CAPTURES / "crypto-com" / "samples.jsonl"
    if not path.exists():
        pytest.skip("no recordings of crypto-com beside the repository")
    fed: dict[str, type[Book | Trade]] = {"book": Book, "trade": Trade}
    read = 0
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        if sample["dir"] != "in":
            continue
        text = sample["raw"]
        if reason_against(text):
            with pytest.raises(BadPayload):
                parse(reader_for(text), [text])
            continue
        kind = fed.get(json.loads(text).get("result", {}).get("channel", ""))
        outputs = parse(reader_for(text), [text])
        assert kind is None or only(kind, outputs), text
        read += 1
    assert read == 6


def test_others_make_the_same_of_the_same_messages() -> None:
    path = CAPTURES / "crypto-com" / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings of crypto-com beside the repository")
    compared = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        text = pair["raw"]
        reader = reader_for(text)
        if reason_against(text):
            with pytest.raises(BadPayload):
                parse(reader, [text])
            continue
        message = json.loads(text)
        result = message.get("result", {})
        match result.get("channel"):
            case "trade":  # theirs begin with the past
                parse(reader, [data("trade", result["subscription"], id_=1)])
            case "book.update":
                told = result["data"][0]
                before = {"bids": [["0.116116", "9", "1"]], "asks": [["0.2", "1", "1"]], "t": 1}
                parse(reader, [data("book", result["subscription"], before | {"u": told["pu"]})])
        outputs = parse(reader, [text])
        for other in pair["expected"]:
            compared += compare(other, outputs)
    assert compared == 5


def compare(other: dict[str, Any], outputs: list[Output]) -> int:
    """Compare one normalised message of another project with what we make of the same frame."""
    match other["type"]:
        case "trade":
            (trade,) = (one for one in only(Trade, outputs) if one.id == other["id"])
            assert trade.side == other["side"]
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "book_change":
            (change,) = only(Book, outputs)
            for mine, theirs in ((change.bids, other["bids"]), (change.asks, other["asks"])):
                assert {float(price): float(size) for price, size in mine} == {
                    one["price"]: one["amount"] for one in theirs
                }
        case "book_ticker":  # theirs is made of the ticker, ours of the book
            (ticker,) = only(Ticker, outputs)
            assert is_same(ticker.bid, other["bidPrice"]) and is_same(ticker.ask, other["askPrice"])
    return 1


def test_the_venue_answers_as_measured() -> None:
    venue = CryptoComVenue()
    Session(CryptoCom, venue, SESSION)
    channels = ["book.BTC_USDT.50", "book.NOPE_USDT.50", "mark.BTCUSD-PERP", "index.BTCUSD-INDEX"]
    request = {"id": 9, "method": "subscribe", "params": {"channels": channels}}
    ack = venue.request("", json.dumps(request))
    assert set(ack.streams) == {
        Stream("book.50", "BTC_USDT"),
        Stream("mark", PERP),
        Stream("index", PERP),
    }
    said = {"id": 9, "method": "subscribe"}
    assert [json.loads(one) for one in ack.frames] == [
        said | {"code": 0, "channel": "book.BTC_USDT.50"},
        said | {"code": 40003, "channel": "book.NOPE_USDT.50", "message": "Unknown symbol"},
    ]
    assert venue.request("", "nonsense").frames == ()
    assert venue.request("", json.dumps(request | {"method": "unsubscribe"})).unsubscribe
    assert venue.rest_key(CryptoCom.listing_paths[0]) == "listing"
    assert venue.rest_key("/v2/public/get-instruments") is None
