"""Hyperliquid: whole books, trades told again, contexts, names; ``payloads/hyperliquid``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.base import Adapter, Health, Leave, Output, Refused, Send, Stream, TapeLine
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.hyperliquid.adapter import RESTATE_US, Hyperliquid
from adapters.exchanges.hyperliquid.venue import HyperliquidVenue
from adapters.naming import spot
from adapters.trade_ids import KNOWN_TRADES
from feed.errors import BadPayload
from feed.models import Book, Derivative, Gap, Quote, Ticker, Trade
from tests.adapters.sessions import (
    PAYLOADS,
    Session,
    Sides,
    adapter,
    clients_books,
    is_same,
    only,
)
from tests.adapters.tapes import CAPTURES, captures

SESSION = PAYLOADS / "hyperliquid" / "session.jsonl"
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("hyperliquid")]
)
NAME = "hyperliquid.BTC-USDC-PERP"
ALL = ("l2Book", "bbo", "trades", "activeAssetCtx")


def session(path: Path = SESSION) -> Session:
    return Session(Hyperliquid, HyperliquidVenue(), path)


def reader_of(*channels: str, native: str = "BTC") -> Adapter:
    return adapter(Hyperliquid, [Stream(one, native) for one in channels])


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def frame(channel: str, data: object) -> bytes:
    return json.dumps({"channel": channel, "data": data}, separators=(",", ":")).encode()


def book(
    bids: dict[str, str], asks: dict[str, str], time: int = 1737918843542, coin: str = "BTC"
) -> bytes:
    sides = [
        [{"px": price, "sz": size, "n": 1} for price, size in side.items()] for side in (bids, asks)
    ]
    return frame("l2Book", {"coin": coin, "time": time, "levels": sides})


def trades(*ids: int, coin: str = "BTC", side: str = "B") -> bytes:
    given = [
        {
            **{"coin": coin, "side": side, "px": "105056.0", "sz": "0.00219"},
            **{"time": 1737918794873, "hash": "0x0", "tid": one, "users": ["0x1", "0x2"]},
        }
        for one in ids
    ]
    return frame("trades", given)


def bbo(bid: str | None, ask: str | None) -> bytes:
    sides = [None if price is None else {"px": price, "sz": "2", "n": 1} for price in (bid, ask)]
    return frame("bbo", {"coin": "BTC", "time": 1785251522090, "bbo": sides})


@recordings
def test_every_frame_of_a_session_is_read(path: Path) -> None:
    done = session(path).run()
    assert done.bad == []
    assert not any(isinstance(one, Health | Gap | Send | Refused) for one in done.outputs)


@recordings
def test_books_are_the_exchange_s_books_after_every_message(path: Path) -> None:
    recording = session(path)
    instruments = recording.adapter().plan_.instruments
    outputs: list[Output] = []
    books = 0

    def check(raw: bytes, found: list[Output]) -> None:
        nonlocal books
        outputs.extend(found)
        message = json.loads(raw)
        if message["channel"] != "l2Book":
            return
        data = message["data"]
        bids, asks = ({one["px"]: one["sz"] for one in side} for side in data["levels"])
        sides: Sides = (bids, asks)
        shown = clients_books(outputs)[f"book.hyperliquid.{instruments[data['coin']].symbol}"]
        assert shown == sides
        books += 1

    recording.run(check)
    assert books > 30


@recordings
def test_every_trade_but_those_told_at_first_is_there_digit_for_digit(path: Path) -> None:
    recording = session(path)
    sent: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for message in recording.payloads():
        if message["channel"] == "trades":
            coin = message["data"][0]["coin"]
            if coin in seen:
                for one in message["data"]:
                    side = {"A": "sell", "B": "buy"}[one["side"]]
                    sent.append((one["tid"], one["px"], one["sz"], side, one["time"] + "000"))
            seen.add(coin)
    found = only(Trade, recording.run().outputs)
    assert sent
    assert [(t.id, t.price, t.size, t.side, str(t.ts)) for t in found] == sent


def test_a_whole_book_is_told_as_what_has_changed() -> None:
    reader = reader_of("l2Book")
    first, second = only(
        Book,
        parse(
            reader,
            [
                book({"100": "1", "99": "2"}, {"101": "3"}),
                book({"100": "1", "98.5": "4"}, {"101": "5"}),
            ],
        ),
    )
    assert first.snapshot and not second.snapshot
    assert sorted(second.bids) == [("98.5", "4"), ("99", "0")]
    assert second.asks == [("101", "5")]


def test_a_book_that_stands_still_is_said_again_after_a_while() -> None:
    reader = reader_of("l2Book")
    start, later = 1737918843542, RESTATE_US // 1_000
    times = (start, start + 500, start + later, start + later + 500, start + 2 * later)
    found = only(Book, parse(reader, [book({"100": "1"}, {"101": "3"}, time) for time in times]))
    assert [(one.snapshot, one.ts) for one in found] == [
        (True, time * 1_000) for time in (start, start + later, start + 2 * later)
    ]


def test_an_empty_book_is_one() -> None:
    reader = reader_of("l2Book")
    (begun,) = only(Book, parse(reader, [book({}, {})]))
    assert begun.snapshot
    quotes = only(Quote, parse(reader, [book({"100": "1"}, {}), book({}, {})]))
    assert [(one.bid, one.ask) for one in quotes] == [("100", None), (None, None)]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_crossed_book_is_not_shown(is_first: bool) -> None:
    reader = reader_of("l2Book")
    crossed = book({"101": "1"}, {"101": "3"})
    if is_first:
        outputs = parse(reader, [crossed])
    else:
        outputs = parse(reader, [book({"100": "1"}, {"101": "3"}), crossed])
        assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    assert len(only(Book, outputs)) == (0 if is_first else 1)
    assert [json.loads(one.frame)["method"] for one in only(Send, outputs)] == [
        "unsubscribe",
        "subscribe",
    ]
    good = parse(reader, [book({"100": "1"}, {"101": "3"})], 1)
    assert only(Book, good)[0].snapshot
    assert [one.state for one in only(Health, good)] == ([] if is_first else ["live"])


def test_the_quote_has_its_own_channel_when_live_and_else_the_book_s() -> None:
    instrument = Hyperliquid.instrument("BTC")
    assert instrument is not None
    streams = Hyperliquid.streams(instrument, Hyperliquid.kinds)
    assert tuple(one.channel for one in streams) == ALL
    reader = adapter(Hyperliquid, streams)
    assert only(Quote, parse(reader, [book({"100": "1"}, {"101": "3"})])) == []
    found = only(Quote, parse(reader, [bbo("100", "101"), bbo("100", "101"), bbo(None, "101")]))
    assert [(one.bid, one.bid_size, one.ask) for one in found] == [
        ("100", "2", "101"),
        (None, None, "101"),
    ]
    alone = only(Quote, parse(reader_of("l2Book"), [book({"100": "1"}, {"101": "3"})]))
    assert [(one.bid, one.ask) for one in alone] == [("100", "101")]


def test_what_is_told_at_first_is_old_and_a_repeat_is_dropped() -> None:
    reader = adapter(Hyperliquid, [Stream("trades", "BTC"), Stream("trades", "ETH")])
    frames = [trades(1, 2), trades(2, 3, side="A"), trades(3, coin="ETH"), trades(3, 4, 3)]
    found = only(Trade, parse(reader, [*frames, trades(4, coin="ETH")]))
    assert [(one.topic, one.id, one.side) for one in found] == [
        (f"trade.{NAME}", "3", "sell"),
        (f"trade.{NAME}", "4", "buy"),
        ("trade.hyperliquid.ETH-USDC-PERP", "4", "buy"),
    ]


def test_a_resync_declares_trades_lost_and_emits_what_is_told_again() -> None:
    reader = reader_of("trades", "l2Book")
    parse(reader, [trades(1, 2), trades(3)])
    outputs = list(reader.resync(reader.plan_.streams, 7))
    assert only(Gap, outputs) == [Gap(f"trade.{NAME}", 0, None, 7, 0, "upstream_sequence", None)]
    assert len(only(Send, outputs)) == 4
    assert [one.id for one in only(Trade, parse(reader, [trades(2, 3, 4)]))] == ["4"]


def test_of_the_trades_of_a_coin_the_last_thousand_are_known() -> None:
    reader = reader_of("trades")
    parse(reader, [trades(*range(KNOWN_TRADES + 1))])
    again = only(Trade, parse(reader, [trades(1, 0, KNOWN_TRADES)]))
    assert [one.id for one in again] == ["0"], "forgotten, so that memory has a bound"


def test_a_context_feeds_the_day_and_the_derivative() -> None:
    reader = reader_of("activeAssetCtx")
    ctx = {
        **{"funding": "-0.0000015186", "openInterest": "27353.17682", "prevDayPx": "76317.0"},
        **{"dayNtlVlm": "1516669192.19", "premium": None, "oraclePx": "77605.0"},
        **{"markPx": "77562.0", "midPx": None, "impactPxs": None, "dayBaseVlm": "19707.77457"},
    }
    given = frame("activeAssetCtx", {"coin": "BTC", "ctx": ctx})
    day, derivative = parse(reader, [given, given])
    assert day == Ticker(
        *(f"ticker.{NAME}", 0, None, 0, 0, None, "76317.0", None, None),
        *("19707.77457", "1516669192.19", None, None),
    )
    assert derivative == Derivative(
        *(f"derivative.{NAME}", 0, None, 0, 0, "77562.0", "77605.0"),
        *("-0.0000015186", None, "27353.17682"),
    )
    moved = frame("activeAssetCtx", {"coin": "BTC", "ctx": ctx | {"markPx": "77563.0"}})
    assert [type(one) for one in parse(reader, [moved])] == [Derivative]
    reader = reader_of("activeAssetCtx", "trades")
    (day,) = only(Ticker, parse(reader, [trades(1), given]))
    assert day.last == "105056.0", "the context has none, so it is the last trade's"


def test_a_spot_pair_has_no_derivative() -> None:
    instrument = Hyperliquid.instrument("PURR/USDC")
    assert instrument is not None
    streams = Hyperliquid.streams(instrument, Hyperliquid.kinds)
    topics, _ = Hyperliquid.carried(streams, instrument, Hyperliquid.kinds)
    kinds = {topic.partition(".")[0] for topic in topics}
    assert kinds == Hyperliquid.kinds - {"derivative"}
    ctx = {"prevDayPx": "0.1", "dayNtlVlm": "5.0", "dayBaseVlm": "50.0", "markPx": "0.11"}
    given = frame("activeSpotAssetCtx", {"coin": "PURR/USDC", "ctx": ctx})
    (day,) = parse(adapter(Hyperliquid, streams), [given])
    assert isinstance(day, Ticker) and day.topic == "ticker.hyperliquid.PURR-USDC"


def test_each_stream_is_asked_for_in_a_frame_of_its_own_and_pings_are_sent() -> None:
    reader = reader_of("l2Book", "trades", native="xyz:TSLA")
    assert [json.loads(one.frame) for one in only(Send, reader.opened())] == [
        {"method": "subscribe", "subscription": {"type": channel, "coin": "xyz:TSLA"}}
        for channel in ("l2Book", "trades")
    ]
    assert (reader.limits.ping_every_s, reader.ping()) == (10, '{"method":"ping"}')
    assert parse(reader, [b'{"channel":"pong"}']) == []


def test_a_refusal_costs_the_stream_that_it_names() -> None:
    reader = reader_of("l2Book", "trades")
    reason = 'Invalid subscription {"type":"trades","coin":"BTC"}'
    assert parse(reader, [frame("error", reason)]) == [Refused((Stream("trades", "BTC"),), reason)]
    already = 'Already subscribed: {"type":"trades","coin":"BTC"}'
    assert parse(reader, [frame("error", already)]) == []
    full = "Cannot track more than 1000 total subscriptions."
    assert parse(reader, [frame("error", full)]) == [Leave("error")]


@pytest.mark.parametrize(
    ("bad", "gaps", "asked"),
    [
        pytest.param(trades(7)[:90], 1, 0, id="trades"),
        pytest.param(bbo("1", "2").replace(b'"1"', b'"x"'), 0, 2, id="quote"),
        pytest.param(book({"1": "x"}, {}), 0, 0, id="the-next-book-heals-it"),
        pytest.param(b"\x00\xff garbage", 1, 4, id="anything"),
        pytest.param(b'{"channel":"unheard_of"}', 0, 0, id="an-unknown-type"),
    ],
)
def test_an_unreadable_frame_is_declared_where_nothing_else_would_show_it(
    bad: bytes, gaps: int, asked: int
) -> None:
    reader = reader_of(*ALL)
    with pytest.raises(BadPayload):
        list(reader.parse(bad, 0))
    outputs = list(reader.unread(bad, 1))
    assert [gap.topic for gap in only(Gap, outputs)] == [f"trade.{NAME}"] * gaps
    assert len(only(Send, outputs)) == asked
    assert not list(reader.unread(bad, 2)), "said once, not for every bad frame"
    assert len(only(Send, reader.unread(bad, RESUBSCRIBE_US + 1))) == asked


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(book({"1": "1"}, {}, coin="ETH"), id="coin-not-carried"),
        pytest.param(book({"1": "1"}, {}, time=99999999999999999), id="time"),
        pytest.param(book({"-1": "1"}, {}), id="price"),
        pytest.param(trades(1, side="C"), id="side"),
        pytest.param(trades(1).replace(b'"tid":1', b'"tid":"1"'), id="trade-id-text"),
        pytest.param(b'{"coin":"BTC","levels":[[],[]],"time":1}', id="a-part-of-a-message"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: bytes) -> None:
    with pytest.raises(BadPayload):
        parse(reader_of(*ALL), [bad])


@pytest.mark.parametrize(
    ("native", "symbol", "type_"),
    [
        ("BTC", "BTC-USDC-PERP", "perpetual"),
        ("kPEPE", "KPEPE-USDC-PERP", "perpetual"),
        ("xyz:TSLA", "XYZ:TSLA-USDC-PERP", "perpetual"),
        ("PURR/USDC", "PURR-USDC", "spot"),
        ("@107", None, None),
        ("PURR/", None, None),
        ("", None, None),
    ],
)
def test_names_without_a_listing(native: str, symbol: str | None, type_: str | None) -> None:
    found = Hyperliquid.instrument(native)
    assert (found and found.symbol, found and found.type) == (symbol, type_)


def listings() -> list[bytes]:
    lines = (json.loads(line) for line in SESSION.read_text().splitlines())
    return [line["raw"].encode() for line in lines if line["dir"] == "rest"]


def test_the_listings_are_read_with_those_of_builders() -> None:
    listed = {one.native: one for one in Hyperliquid.instruments(listings())}
    assert {native: one.symbol for native, one in listed.items()} == {
        "BTC": "BTC-USDC-PERP",
        "ETH": "ETH-USDC-PERP",
        "MATIC": "MATIC-USDC-PERP",
        "kPEPE": "KPEPE-USDC-PERP",
        "xyz:TSLA": "XYZ:TSLA-USDC-PERP",
        "xyz:XYZ100": "XYZ:XYZ100-USDC-PERP",
        "hyna:BTC": "HYNA:BTC-USDE-PERP",
        "PURR/USDC": "PURR-USDC",
        "@107": "HYPE-USDC",
        "@142": "UBTC-USDC",
    }
    assert (listed["BTC"].size_step, listed["kPEPE"].size_step) == ("0.00001", "1")
    assert (listed["MATIC"].state, listed["BTC"].state) == ("delisted", "trading")
    assert (listed["hyna:BTC"].settle, listed["@107"].size_step) == ("USDE", "0.01")
    for native, one in listed.items():
        named = Hyperliquid.instrument(native)
        assert named is None or named.symbol == one.symbol or native == "hyna:BTC"
    with pytest.raises(BadPayload):
        Hyperliquid.instruments([b'{"error":"rate limited"}'])


def test_of_two_pairs_with_one_name_the_first_stands_and_meta_alone_is_read_too() -> None:
    spots = json.loads(listings()[1])
    spots["universe"].append({"tokens": [150, 0], "name": "@900"})
    spots["universe"].append({"tokens": [150, 999], "name": "@901"})
    meta = json.dumps(json.loads(listings()[0])[0]).encode()
    found = Hyperliquid.instruments([meta, json.dumps(spots).encode()])
    assert [one.native for one in found if one.base == "HYPE"] == ["@107"]
    assert [one.symbol for one in found if one.native == "BTC"] == ["BTC-USDC-PERP"]


#: Samples that give no event -> why; ``error`` has a test of its own.
SILENT = {"allDexsAssetCtxs", "allMids", "candle", "subscriptionResponse", "pong", "error"}


def kept(name: str) -> list[dict[str, Any]]:
    path = CAPTURES / "hyperliquid" / name
    if not path.exists():
        pytest.skip("no recordings of hyperliquid beside the repository")
    return [json.loads(line) for line in path.read_text().splitlines()]


def reader_for(raw: str) -> Adapter:
    """Return a reader of the message's stream; pairs that only a listing names get a name."""
    stream = HyperliquidVenue().stream_of(TapeLine(dir="in", raw=raw))
    assert stream is not None
    named = Hyperliquid.instrument(stream.native) or spot("hyperliquid", stream.native, "A", "B")
    (plan,) = Hyperliquid.plan([stream], {stream.native: named})
    return Hyperliquid(plan, Hyperliquid.kinds)


def test_sample_messages_are_read() -> None:
    fed: dict[str, type[object]] = {"l2Book": Book, "bbo": Quote, "trades": Trade}
    read = 0
    for sample in kept("samples.jsonl"):
        raw = sample["raw"].encode()
        if sample["dir"] != "in":
            continue
        channel = json.loads(raw).get("channel", "")
        if not channel:  # the data of a message alone
            with pytest.raises(BadPayload):
                parse(reader_of("l2Book"), [raw])
            continue
        if channel in SILENT:
            assert parse(reader_of("l2Book"), [raw]) == (
                [Leave("error")] if channel == "error" else []
            )
            continue
        reader = reader_for(sample["raw"])
        if channel == "trades":  # not the first
            coin = json.loads(raw)["data"][0]["coin"]
            assert parse(reader, [trades(1, coin=coin)]) == []
        assert only(fed[channel], parse(reader, [raw])), raw
        read += 1
    assert read == 5


def test_others_make_the_same_of_the_same_messages() -> None:
    readers: dict[str, Adapter] = {}
    compared = 0
    for pair in kept("expected.jsonl"):
        key = f"{json.loads(pair['raw'])['channel']} {pair['case']}"
        if key not in readers:
            readers[key] = reader_for(pair["raw"])
        events = parse(readers[key], [pair["raw"].encode()])
        if not pair["expected"]:
            assert events == []
        for other in pair["expected"]:
            compare(other, events)
            compared += 1
    assert compared == 4


def compare(other: dict[str, Any], events: list[Output]) -> None:
    """Compare one normalised message of another project with our events of the same frame."""
    match other["type"]:
        case "trade":
            (trade,) = only(Trade, events)
            assert (trade.id, trade.side) == (other["id"], other["side"])
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "book_change":
            (whole,) = only(Book, events)
            assert (whole.snapshot, whole.bids, whole.asks) == (other["isSnapshot"], [], [])
        case "book_ticker":
            (quote,) = only(Quote, events)
            assert is_same(quote.bid, other["bidPrice"]) and is_same(quote.ask, other["askPrice"])
            assert is_same(quote.bid_size, other["bidAmount"])
            assert is_same(quote.ask_size, other["askAmount"])
        case "derivative_ticker":
            (derived,) = only(Derivative, events)
            assert is_same(derived.mark, other["markPrice"])
            assert is_same(derived.index, other["indexPrice"])
            assert is_same(derived.funding_rate, other["fundingRate"])
            assert is_same(derived.open_interest, other["openInterest"])
        case kind:
            raise AssertionError(kind)


def test_the_venue_answers_and_the_adapter_understands_it() -> None:
    venue = HyperliquidVenue()
    recording = Session(Hyperliquid, venue, SESSION)
    unknown = Stream("bbo", "NOSUCH")
    reader = adapter(Hyperliquid, [*recording.streams, unknown])
    asked: list[Stream] = []
    refused: list[Refused] = []
    for send in only(Send, reader.opened()):
        ack = venue.request(Hyperliquid.path, send.frame)
        asked += ack.streams
        refused += only(Refused, parse(reader, [one.encode() for one in ack.frames]))
    assert set(asked) == set(recording.streams)
    assert [one.streams for one in refused] == [(unknown,)]
    back, again = only(Send, reader.resync((asked[0],), 0))
    assert venue.request("", back.frame).unsubscribe
    assert venue.request("", again.frame).streams == (asked[0],)
    (pong,) = venue.request("", reader.ping() or "").frames
    assert parse(reader, [pong.encode()]) == []
    assert venue.request("", "nonsense").streams == ()
    assert [venue.rest_key(path) for path in Hyperliquid.listing_paths] == [
        'info#{"type":"allPerpMetas"}',
        'info#{"type":"spotMeta"}',
    ]


def test_who_comes_late_is_told_the_last_trades_first() -> None:
    recording = session()
    own = [one for one in recording.frames if b'"channel":"trades"' in one and b'"BTC"' in one]
    standing = HyperliquidVenue().standing(Stream("trades", "BTC"), {})
    assert standing is not None and standing.told() is None
    for raw in own[:3]:
        standing.take(raw)
    told = standing.told()
    assert told is not None
    late = only(Trade, parse(reader_of("trades"), [told, *own[3:]]))
    whole = only(Trade, parse(reader_of("trades"), own))
    assert late and late == whole[-len(late) :]
