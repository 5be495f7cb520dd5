"""Bitget: chained numbers, the former checksum, old trades, two markets; ``payloads/bitget*``."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from adapters import tape
from adapters.base import (
    Adapter,
    Health,
    Leave,
    Output,
    Refused,
    Send,
    Stream,
    TapeLine,
    Venue,
)
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.bitget.adapter import (
    ARGS_PER_REQUEST,
    Bitget,
    BitgetFutures,
)
from adapters.exchanges.bitget.venue import BitgetFuturesVenue, BitgetVenue
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
from tests.adapters.tapes import CAPTURES

Market = tuple[type[Adapter], Callable[[], Venue]]
SPOT: Market = (Bitget, BitgetVenue)
FUTURES: Market = (BitgetFutures, BitgetFuturesVenue)
markets = pytest.mark.parametrize("market", [SPOT, FUTURES], ids=["spot", "futures"])


def session(market: Market) -> Session:
    cls, venue = market
    return Session(cls, venue(), PAYLOADS / cls.name / "session.jsonl")


def spot(*channels: str, native: str = "BTCUSDT") -> Adapter:
    return adapter(Bitget, [Stream(one, native) for one in channels])


def futures(*channels: str, native: str = "BTCUSDT") -> Adapter:
    return adapter(BitgetFutures, [Stream(one, native) for one in channels])


def parse(reader: Adapter, frames: Iterable[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def frame(
    channel: str,
    *data: dict[str, Any],
    action: str = "snapshot",
    type_: str = "SPOT",
    native: str = "BTCUSDT",
) -> bytes:
    arg = {"instType": type_, "channel": channel, "instId": native}
    given = [{"ts": "1793000000000"} | one for one in data]
    message = {"action": action, "arg": arg, "data": given, "ts": 1793000000005}
    return json.dumps(message, separators=(",", ":")).encode()


def book(
    bids: Sequence[tuple[str, str]],
    asks: Sequence[tuple[str, str]],
    action: str = "update",
    channel: str = "books",
    **proof: int,
) -> bytes:
    return frame(channel, {"asks": asks, "bids": bids, **proof}, action=action)


def start(seq: int = 10) -> bytes:
    return book([("100", "1")], [("101", "2")], "snapshot", seq=seq, pseq=0)


def update(seq: int, before: int, *bids: tuple[str, str]) -> bytes:
    return book(bids or [("99", "1")], [], seq=seq, pseq=before)


def traded(*ids: str, action: str = "update", native: str = "BTCUSDT") -> bytes:
    trades = [{"price": "100.10", "size": "1", "side": "sell", "tradeId": one} for one in ids]
    return frame("trade", *trades, action=action, native=native)


def asked(outputs: Iterable[Output]) -> list[dict[str, Any]]:
    return [json.loads(one.frame) for one in only(Send, outputs)]


@markets
def test_every_trade_since_we_came_is_there_digit_for_digit(market: Market) -> None:
    recording = session(market)
    sent: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for raw in recording.frames:
        message = {} if raw == b"pong" else json.loads(raw)
        if message.get("action") == "update" and message["arg"]["channel"] == "trade":
            # Newest first, as they are recorded.
            for one in reversed(message["data"]):
                values = (one[key] for key in ("tradeId", "price", "size", "side", "ts"))
                sent[message["arg"]["instId"]].append(tuple(values))
    outputs = recording.run().outputs
    instruments = recording.adapter().plan_.instruments
    assert sum(map(len, sent.values())) > 20
    for native, trades in sent.items():
        topic = f"trade.{market[0].name}.{instruments[native].symbol}"
        assert [
            (one.id, one.price, one.size, one.side, str((one.ts or 0) // 1_000))
            for one in only(Trade, outputs)
            if one.topic == topic
        ] == trades


@markets
def test_books_are_the_exchange_s_books_and_every_proof_holds(market: Market) -> None:
    recording = session(market)
    naive: dict[str, Sides] = {}
    last: dict[str, int] = {}
    for raw in recording.frames:
        message = {} if raw == b"pong" else json.loads(raw)
        if message.get("arg", {}).get("channel") != "books" or "data" not in message:
            continue
        native, (one,) = message["arg"]["instId"], message["data"]
        if message["action"] == "snapshot":
            naive[native] = ({}, {})
        else:
            assert one["pseq"] == last[native]
        last[native] = one["seq"]
        apply(naive[native], one["bids"], one["asks"])
    instruments = recording.adapter().plan_.instruments
    assert clients_books(recording.run().outputs) == {
        f"book.{market[0].name}.{instruments[native].symbol}": sides
        for native, sides in naive.items()
    }


def test_a_broken_chain_makes_the_book_invalid_until_a_snapshot() -> None:
    reader = spot("books", "trade")
    assert len(only(Book, parse(reader, [start(10), update(17, 10)]))) == 2
    broken = parse(reader, [update(30, 20)])
    kinds = ("book", "depth", "quote")
    assert broken[0] == Health("BTCUSDT", kinds, "invalid", "sequence")
    topic = "book.bitget.BTC-USDT"
    assert broken[1] == Gap(topic, 0, None, 0, 0, "upstream_sequence", None)
    arg = {"instType": "SPOT", "channel": "books", "instId": "BTCUSDT"}
    assert asked(broken) == [{"op": op, "args": [arg]} for op in ("unsubscribe", "subscribe")]
    assert parse(reader, [update(31, 30)], 1) == []
    assert len(parse(reader, [update(32, 31)], RESUBSCRIBE_US)) == 2
    fresh = parse(reader, [start(50)], RESUBSCRIBE_US + 1)
    assert only(Book, fresh)[0].snapshot
    assert fresh[-1] == Health("BTCUSDT", kinds, "live", None)
    assert only(Book, parse(reader, [update(60, 50, ("98", "1"))]))


def test_numbers_beyond_2_53_are_exact() -> None:
    big = 1483653649791156272
    reader = spot("books")
    assert only(Health, parse(reader, [start(big), update(big + 1, big)])) == []
    assert only(Health, parse(reader, [update(big + 9, big + 2)]))


def test_an_update_of_the_former_form_is_proven_by_its_checksum() -> None:
    text = "100:1:101:2:99.0:1"
    crc = int.from_bytes(zlib.crc32(text.encode()).to_bytes(4), signed=True)
    reader = spot("books")
    whole = book([("100", "1")], [("101", "2")], "snapshot", checksum=0)
    good = book([("99.0", "1")], [], checksum=crc)
    assert len(only(Book, parse(reader, [whole, good]))) == 2
    broken = parse(reader, [book([("98", "1")], [], checksum=crc)])
    assert [one.reason for one in only(Health, broken)] == ["checksum"]
    alone = parse(spot("books"), [whole, book([("98", "1")], [])])
    assert [one.reason for one in only(Health, alone)] == ["checksum"], "nothing proves it"


def test_a_crossed_book_is_not_shown_until_it_is_crossed_no_more() -> None:
    reader = spot("books")
    outputs = parse(reader, [start(10), update(11, 10, ("102", "1"))])
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    assert only(Send, outputs) == [], "nothing is lost, so nothing is asked for"
    fresh = parse(reader, [update(12, 11, ("102", "0"))])
    assert only(Book, fresh)[0].snapshot and only(Book, fresh)[0].bids == [("100", "1")]
    assert only(Health, fresh)[0].state == "live"


def bbo(bid: str | None, ask: str | None) -> bytes:
    bids, asks = ([(one, "1")] if one else [] for one in (bid, ask))
    return book(bids, asks, "snapshot", "books1", seq=5, pseq=0, checksum=0)


def test_the_quote_has_its_own_channel_when_live_and_else_the_book_s() -> None:
    reader = spot("books", "books1")
    assert only(Quote, parse(reader, [start(10)])) == []
    quotes = only(Quote, parse(reader, [bbo("100", "101"), bbo("100", "101"), bbo("100", None)]))
    assert [(one.bid, one.ask, one.ask_size) for one in quotes] == [
        ("100", "101", "1"),
        ("100", None, None),
    ]
    assert [one.bid for one in only(Quote, parse(spot("books"), [start(10)]))] == ["100"]


def test_a_crossed_quote_is_not_shown() -> None:
    reader = spot("books1")
    outputs = parse(reader, [bbo("100", "101"), bbo("102", "101"), bbo("103", "101")])
    assert [one.bid for one in only(Quote, outputs)] == ["100"]
    assert only(Health, outputs) == [Health("BTCUSDT", ("quote",), "invalid", "crossed")]
    outputs = parse(reader, [bbo("100.5", "101")])
    assert [one.bid for one in only(Quote, outputs)] == ["100.5"]
    assert only(Health, outputs) == [Health("BTCUSDT", ("quote",), "live", None)]


def test_trades_of_before_are_not_news_and_a_repeat_is_dropped() -> None:
    reader = spot("trade")
    big = "1486493420166930434"
    old = traded("2", "1", action="snapshot")
    trades = only(Trade, parse(reader, [old, traded("3", "2"), traded(big), traded(big)]))
    assert [one.id for one in trades] == ["3", big]
    assert (trades[0].side, trades[0].price) == ("sell", "100.10")
    # After a resubscription what comes first is old again.
    assert parse(reader, [traded("9", action="snapshot"), traded("9")]) == []


def test_of_the_trades_of_a_symbol_the_last_thousand_are_known() -> None:
    reader = spot("trade")
    parse(reader, [traded(*map(str, range(KNOWN_TRADES + 1)))])
    again = only(Trade, parse(reader, [traded("1", str(KNOWN_TRADES)), traded("0")]))
    assert [trade.id for trade in again] == ["0"], "forgotten, so that memory has a bound"


def test_trades_of_one_message_come_oldest_first() -> None:
    trades = only(Trade, parse(spot("trade"), [traded("12", "11", "9")]))
    assert [one.id for one in trades] == ["9", "11", "12"]


DAY = {
    **{"lastPr": "100.0", "open24h": "90", "high24h": "", "low24h": "80", "baseVolume": "7"},
    **{"quoteVolume": "700", "bidPr": "99.9", "askPr": "100.1"},
}
STATE = {
    **{"markPrice": "100.2", "indexPrice": "100.25", "fundingRate": "-0.00001"},
    **{"nextFundingTime": "1793001600000", "holdingAmount": "929.50"},
}


def test_a_ticker_says_only_what_changed() -> None:
    given = frame("ticker", DAY)
    (ticker,) = parse(spot("ticker"), [given, given])
    day = ("100.0", "90", None, "80", "7", "700", "99.9", "100.1")
    assert ticker == Ticker("ticker.bitget.BTC-USDT", 0, 1793000000000000, 0, 0, *day)


def test_a_contract_s_ticker_has_its_state_and_a_dated_one_no_funding() -> None:
    given = frame("ticker", DAY | STATE, type_="USDT-FUTURES")
    ticker, derived = parse(futures("ticker"), [given, given])
    assert isinstance(ticker, Ticker)
    topic = "derivative.bitget-futures.BTC-USDT-PERP"
    values = ("100.2", "100.25", "-0.00001", 1793001600000000, "929.50")
    assert derived == Derivative(topic, 0, 1793000000000000, 0, 0, *values)
    none = {"fundingRate": "0", "nextFundingTime": "0"}
    dated = frame("ticker", DAY | STATE | none, type_="COIN-FUTURES", native="BTCUSDZ26")
    (derived,) = only(Derivative, parse(futures("ticker", native="BTCUSDZ26"), [dated]))
    assert (derived.funding_rate, derived.funding_time) == (None, None)


@pytest.mark.parametrize(
    ("bad", "gaps"),
    [
        pytest.param(traded("5")[:-5], 1, id="trades"),
        pytest.param(traded("5", native="ETHUSDT")[:-5], 0, id="trades of another"),
        pytest.param(b"\x00\xff garbage", 1, id="anything"),
        pytest.param(start()[:-5], 0, id="a book proves itself"),
        pytest.param(b'{"unheard":"of"}', 0, id="an unknown type"),
    ],
)
def test_an_unreadable_frame_is_declared_where_nothing_else_would_show_it(
    bad: bytes, gaps: int
) -> None:
    reader = spot("trade", "books")
    with pytest.raises(BadPayload):
        list(reader.parse(bad, 0))
    outputs = list(reader.unread(bad, 1))
    assert [one.topic for one in only(Gap, outputs)] == ["trade.bitget.BTC-USDT"] * gaps
    assert not list(reader.unread(bad, 2)), "said once, not for every bad frame"
    assert len(parse(reader, [traded("7")])) == 1
    assert len(list(reader.unread(bad, 3))) == gaps


def test_a_resync_asks_for_its_streams_alone_and_declares_what_may_be_lost() -> None:
    reader = adapter(
        Bitget,
        [
            Stream(channel, native)
            for native in ("BTCUSDT", "ETHUSDT")
            for channel in ("books", "trade")
        ],
    )
    outputs = reader.resync([Stream("books", "BTCUSDT"), Stream("trade", "BTCUSDT")], 5)
    assert [one.topic for one in only(Gap, outputs)] == ["trade.bitget.BTC-USDT"]
    for request, op in zip(asked(outputs), ("unsubscribe", "subscribe"), strict=True):
        assert request["op"] == op
        assert [(one["channel"], one["instId"]) for one in request["args"]] == [
            ("books", "BTCUSDT"),
            ("trade", "BTCUSDT"),
        ]


def test_a_refused_argument_costs_its_own_stream_alone() -> None:
    reader = adapter(Bitget, [Stream("trade", "BTCUSDT"), Stream("trade", "NOPEUSDT")])
    arg = {"instType": "SPOT", "channel": "trade", "instId": "NOPEUSDT"}
    reason = "instType:SPOT,channel:trade,instId:NOPEUSDT doesn't exist"
    error = {"event": "error", "arg": arg, "code": 30001, "msg": reason, "op": "subscribe"}
    assert parse(reader, [json.dumps(error).encode()]) == [
        Refused((Stream("trade", "NOPEUSDT"),), f"30001 {reason}")
    ]
    with pytest.raises(BadPayload):
        parse(reader, [b'{"event":"error","code":30016,"msg":"Param error","op":"subscribe"}'])


def test_too_many_requests_end_the_connection() -> None:
    error = b'{"event":"error","code":30006,"msg":"request too many"}'
    assert parse(spot("trade"), [error]) == [Leave("rate_limited")]


def test_pings_are_text_and_so_are_their_answers() -> None:
    reader = spot("trade")
    assert (reader.limits.ping_every_s, reader.ping()) == (10, "ping")
    assert BitgetVenue().request("", "ping").frames == ("pong",)
    assert parse(reader, [b"pong"]) == []


def test_arguments_are_spread_over_requests_of_4096_bytes() -> None:
    natives = [f"1000000COIN{number}USDT" for number in range(ARGS_PER_REQUEST + 6)]
    reader = adapter(BitgetFutures, [Stream("books", native) for native in natives])
    requests = [one.frame for one in only(Send, reader.opened())]
    assert [len(json.loads(one)["args"]) for one in requests] == [ARGS_PER_REQUEST, 6]
    assert max(map(len, requests)) <= 4_096


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(start().replace(b"BTCUSDT", b"ETHUSDT"), id="symbol-not-carried"),
        pytest.param(start().replace(b"SPOT", b"USDT-FUTURES"), id="another-market"),
        pytest.param(start().replace(b'"1793000000000"', b'"99999999999999999"'), id="time"),
        pytest.param(start().replace(b"snapshot", b"partial"), id="action"),
        pytest.param(frame("surprise", {}), id="unknown-channel"),
        pytest.param(traded("5").replace(b"sell", b"none"), id="side"),
        pytest.param(b'{"event":"surprise"}', id="unknown-event"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: bytes) -> None:
    with pytest.raises(BadPayload):
        parse(spot("books", "trade"), [bad])


def test_keys_may_come_in_any_order_and_what_we_leave_out_is_no_news() -> None:
    message = json.loads(traded("5"))
    turned = {key: message[key] for key in reversed(message)}
    assert len(only(Trade, parse(spot("trade"), [json.dumps(turned).encode()]))) == 1
    candle = frame("candle1m", {}).replace(b'{"ts":"1793000000000"}', b'["1","2"]')
    taken_back = b'{"op":"unsubscribe","args":[{"instType":"SPOT"}]}'
    assert parse(spot("trade"), [candle, frame("books5", {}), taken_back]) == []


@pytest.mark.parametrize(
    ("cls", "native", "symbol", "settle", "inverse"),
    [
        (Bitget, "BTCUSDT", "BTC-USDT", None, False),
        (Bitget, "ETHBTC", "ETH-BTC", None, False),
        (Bitget, "牛来USDT", "_725B__6765_-USDT", None, False),
        (Bitget, "USDT", None, None, False),
        (BitgetFutures, "BTCUSDT", "BTC-USDT-PERP", "USDT", False),
        (BitgetFutures, "BTCPERP", "BTC-USDC-PERP", "USDC", False),
        (BitgetFutures, "DOGEUSD", "DOGE-USD:DOGE-PERP", "DOGE", True),
        (BitgetFutures, "BTCUSDZ24", "BTC-USD:BTC-20241227", "BTC", True),
        (BitgetFutures, "ETHUSDH27", "ETH-USD:ETH-20270326", "ETH", True),
        (BitgetFutures, "USDT", None, None, False),
    ],
)
def test_names_without_a_listing(
    cls: type[Adapter], native: str, symbol: str | None, settle: str | None, inverse: bool
) -> None:
    named = cls.instrument(native)
    assert (named.symbol if named else None) == symbol
    if named is not None:
        assert (named.settle, named.inverse) == (settle, inverse)
        assert named.size_unit == "base"


@markets
def test_the_listings_are_read_and_name_as_the_rules_do(market: Market) -> None:
    cls, venue = market
    lines = [
        line for line in tape.read(PAYLOADS / cls.name / "session.jsonl") if line.dir == "rest"
    ]
    keys = [venue().rest_key_of(line) for line in lines]
    assert keys == [venue().rest_key(path) for path in cls.listing_paths]
    found = cls.instruments([tape.body(line) for line in lines])
    for one in found:
        named = cls.instrument(one.native)
        assert named is not None
        assert (named.symbol, named.type, named.expiry) == (one.symbol, one.type, one.expiry)
        assert one.state == "trading"
    steps = {one.native: (one.price_step, one.size_step) for one in found}
    assert (
        steps
        == {
            "bitget": {"BTCUSDT": ("0.01", "0.000001"), "ETHUSDC": ("0.01", "0.0001")},
            "bitget-futures": {
                "BTCUSDT": ("0.1", "0.0001"),
                "ETHPERP": ("0.01", "0.01"),
                "BTCUSDZ26": ("0.5", "0.001"),
            },
        }[cls.name]
    )
    for bad in (b'{"code":"429","msg":"too many"}', b'{"data":[{"symbol":"BTCUSDT"}]}'):
        with pytest.raises(BadPayload):
            cls.instruments([bad])


@markets
def test_the_venue_answers_each_argument_and_the_adapter_understands_it(market: Market) -> None:
    cls, make = market
    venue = make()
    recording = Session(cls, venue, PAYLOADS / cls.name / "session.jsonl")
    unknown = Stream("trade", "NOSUCHUSDT")
    reader = adapter(cls, [*recording.streams, unknown])
    outputs: list[Output] = []
    streams: list[Stream] = []
    for send in only(Send, reader.opened()):
        ack = venue.request("/v2/ws/public", send.frame)
        streams += ack.streams
        outputs += parse(reader, [one.encode() for one in ack.frames])
    assert [one.streams for one in only(Refused, outputs)] == [(unknown,)]
    assert set(streams) == set(recording.streams)
    again = json.dumps({"op": "unsubscribe", "args": []})
    assert venue.request("", again).unsubscribe
    for nonsense in ("nonsense", '{"op":"login","args":[]}'):
        assert '"event":"error"' in venue.request("", nonsense).frames[0]


def test_a_venue_knows_its_own_market_on_a_tape_of_both() -> None:
    lines = [
        TapeLine("in", 0.0, "ws1", raw=one.decode())
        for one in (traded("1"), frame("ticker", DAY | STATE, type_="USDT-FUTURES"))
    ]
    for venue, channels in ((BitgetVenue(), ["trade"]), (BitgetFuturesVenue(), ["ticker"])):
        for line in lines:
            venue.scan(line)
        streams = [venue.stream_of(line) for line in lines]
        assert [one.channel for one in streams if one] == channels


@markets
def test_who_comes_late_is_told_the_book_as_it_is_by_then(market: Market) -> None:
    cls, make = market
    recording = session(market)
    stream = Stream("books", "BTCUSDT")
    standing = make().standing(stream, {})
    assert standing is not None and standing.told() is None
    frames = [
        one for one in recording.frames if b'"channel":"books","instId":"BTCUSDT"},"data"' in one
    ]
    for one in frames[:15]:
        standing.take(one)
    told = standing.told()
    assert told is not None
    outputs = parse(adapter(cls, [stream]), [told, *frames[15:]])
    assert only(Health, outputs) == []
    assert only(Send, outputs) == []
    assert clients_books(outputs) == clients_books(parse(adapter(cls, [stream]), frames))


def left_out(pair: dict[str, Any]) -> str | None:
    """Say why a pair cannot agree; None where it must."""
    sent = json.loads(pair["raw"])
    if "arg" not in sent:
        return "of 2022 and before, or an answer of REST"
    if sent["arg"]["instType"] in ("sp", "mc"):
        return "v1, which is gone"
    if "topic" in sent["arg"]:
        return "v3, another path with other names"
    return None


def test_others_make_the_same_of_the_same_messages() -> None:
    path = CAPTURES / "bitget" / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings of bitget beside the repository")
    reasons: dict[str, int] = defaultdict(int)
    compared = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        if reason := left_out(pair):
            reasons[reason] += 1
            continue
        arg = json.loads(pair["raw"])["arg"]
        cls = Bitget if pair["exchange"] == "bitget" else BitgetFutures
        reader = adapter(cls, [Stream(arg["channel"], arg["instId"])])
        events = parse(reader, [pair["raw"].encode()])
        if not pair["expected"] and '"action":"snapshot"' not in pair["raw"]:
            assert only(Book, events) == []
        compared += sum(same(one, events) for one in pair["expected"])
    assert compared == 5
    assert dict(reasons) == {
        "of 2022 and before, or an answer of REST": 9,
        "v1, which is gone": 11,
        "v3, another path with other names": 9,
    }


def same(other: dict[str, Any], events: list[Output]) -> int:
    """Compare one normalised message of another project with our events of the same frame."""
    match other["type"]:
        case "trade":
            (trade,) = only(Trade, events)
            assert (trade.id, trade.side) == (other["id"], other["side"])
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "book_ticker":
            (quote,) = only(Quote, events)
            assert is_same(quote.bid, other["bidPrice"]) and is_same(quote.ask, other["askPrice"])
            assert is_same(quote.bid_size, other["bidAmount"])
            assert is_same(quote.ask_size, other["askAmount"])
        case "derivative_ticker":
            (derived,) = only(Derivative, events)
            (ticker,) = only(Ticker, events)
            assert is_same(ticker.last, other["lastPrice"])
            assert is_same(derived.mark, other["markPrice"])
            assert is_same(derived.index, other["indexPrice"])
            assert is_same(derived.funding_rate, other["fundingRate"])
            assert is_same(derived.open_interest, other["openInterest"])
        case kind:
            raise AssertionError(kind)
    return 1
