"""dYdX v4: a connection's numbers, books that cross, trades told again; ``payloads/dydx``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Adapter, Health, Leave, Output, Refused, Send, Stream
from adapters.book import Book as LevelBook
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.dydx.adapter import MARKETS_PER_CONNECTION, Dydx
from adapters.exchanges.dydx.book import uncrossed
from adapters.exchanges.dydx.venue import DydxVenue
from adapters.trade_ids import KNOWN_TRADES
from feed.errors import BadPayload
from feed.models import Book, Depth, Derivative, Gap, Level, Quote, Ticker, Trade
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

SESSION = PAYLOADS / "dydx" / "session.jsonl"
MARKET = "BTC-USD"
NAME = "dydx.BTC-USDC-PERP"
BOOK, TRADES, MARKETS = "v4_orderbook", "v4_trades", "v4_markets"
FEEDS = (BOOK, TRADES, MARKETS)
BOOK_KINDS = ("book", "depth", "quote")


def session() -> Session:
    return Session(Dydx, DydxVenue(), SESSION)


def reader_of(*channels: str, native: str = MARKET) -> Adapter:
    return adapter(Dydx, [Stream(one, native) for one in channels])


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def message(number: int, type_: str, channel: str, contents: object, id_: str = MARKET) -> bytes:
    fields: dict[str, Any] = {"type": type_, "connection_id": "c", "message_id": number}
    if channel != MARKETS:
        fields["id"] = id_
    return json.dumps(fields | {"channel": channel, "contents": contents}).encode()


def start(number: int, bids: dict[str, str], asks: dict[str, str], id_: str = MARKET) -> bytes:
    bid_levels, ask_levels = (
        [{"price": price, "size": size} for price, size in side.items()] for side in (bids, asks)
    )
    contents = {"bids": bid_levels, "asks": ask_levels}
    return message(number, "subscribed", BOOK, contents, id_)


def update(number: int, id_: str = MARKET, **sides: list[list[str]]) -> bytes:
    return message(number, "channel_data", BOOK, sides, id_)


def trades(number: int, *ids: str, type_: str = "channel_data", id_: str = MARKET) -> bytes:
    given_ = [
        {
            **{"id": one, "size": "79.2", "price": "25.22", "side": "BUY"},
            **{"createdAt": "2024-08-22T23:59:58.855Z", "type": "LIMIT"},
        }
        for one in ids
    ]
    return message(number, type_, TRADES, {"trades": given_}, id_)


def error(number: int, text: str) -> bytes:
    fields = {"type": "error", "message": text, "connection_id": "c", "message_id": number}
    return json.dumps(fields).encode()


GOOD = {"100": "1", "99": "2"}, {"101": "3", "102": "4"}


def test_every_frame_of_the_session_is_read() -> None:
    done = session().run()
    assert done.bad == []
    assert not any(isinstance(one, Health | Gap | Send | Refused) for one in done.outputs)


def naive_uncross(sides: Sides, told: dict[tuple[int, str], int]) -> None:
    """Uncross as the exchange's guide says: the older of the best two goes, again and again."""
    while sides[0] and sides[1]:
        bid, ask = max(sides[0], key=float), min(sides[1], key=float)
        if float(bid) < float(ask):
            return
        if told[0, bid] == told[1, ask]:
            is_bid_gone = float(sides[0][bid]) <= float(sides[1][ask])
        else:
            is_bid_gone = told[0, bid] < told[1, ask]
        del (sides[0] if is_bid_gone else sides[1])[bid if is_bid_gone else ask]


def test_books_are_the_exchange_s_books_uncrossed_as_its_guide_says() -> None:
    recording = session()
    naive: dict[str, Sides] = {}
    told: dict[str, dict[tuple[int, str], int]] = {}
    crossed = steps = 0
    for one in recording.payloads():
        if one.get("channel") != BOOK:
            continue
        if one["type"] == "subscribed":
            naive[one["id"]], told[one["id"]] = ({}, {}), {}
        parts = one["contents"] if one["type"] == "channel_batch_data" else [one["contents"]]
        for part in parts:
            steps += 1
            sides = [
                [tuple(level.values()) if isinstance(level, dict) else level for level in given_]
                for given_ in (part.get("bids", []), part.get("asks", []))
            ]
            for side, given_ in enumerate(sides):
                told[one["id"]] |= {(side, price): steps for price, _ in given_}
            own = naive[one["id"]]
            apply(own, *sides)
            before = len(own[0]) + len(own[1])
            naive_uncross(own, told[one["id"]])
            crossed += before > len(own[0]) + len(own[1])
    assert crossed == 3
    instruments = recording.adapter().plan_.instruments
    assert clients_books(recording.run().outputs) == {
        f"book.dydx.{instruments[native].symbol}": sides for native, sides in naive.items()
    }


def test_every_trade_but_those_told_at_first_is_there_digit_for_digit() -> None:
    recording = session()
    sent = [
        (one["id"], one["price"], one["size"], one["side"].lower())
        for frame in recording.payloads()
        if frame.get("channel") == TRADES and frame["type"] == "channel_data"
        for one in frame["contents"]["trades"]
    ]
    found = only(Trade, recording.run().outputs)
    assert len(sent) > 20
    assert [(t.id, t.price, t.size, t.side) for t in found] == sent


def test_of_two_crossed_levels_the_newer_one_stays() -> None:
    reader = reader_of(BOOK)
    crossing = update(1, bids=[["101.5", "9"]], asks=[["103", "5"]])
    outputs = parse(reader, [start(0, *GOOD), crossing])
    assert only(Health, outputs) == []
    _, change = only(Book, outputs)
    assert change.bids == [("101.5", "9")]
    assert sorted(change.asks) == [("101", "0"), ("103", "5")]
    assert [(one.bid, one.ask) for one in only(Quote, outputs)] == [
        ("100", "101"),
        ("101.5", "102"),
    ]
    back = only(Book, parse(reader, [update(2, asks=[["100.5", "1"]])]))
    assert back[0].bids == [("101.5", "0")]
    assert list(clients_books([*outputs, *back]).values()) == [
        ({"100": "1", "99": "2"}, {"100.5": "1", "102": "4", "103": "5"})
    ]


@pytest.mark.parametrize(
    ("bid", "ask", "left"),
    [
        pytest.param("3", "2", ("101", None), id="the-larger-bid"),
        pytest.param("2", "3", (None, "101"), id="the-larger-ask"),
        pytest.param("2", "2", (None, "101"), id="the-ask-of-equals"),
    ],
)
def test_of_two_crossed_levels_of_one_message_the_larger_one_stays(
    bid: str, ask: str, left: tuple[str | None, str | None]
) -> None:
    reader = reader_of(BOOK)
    (begun,) = only(Book, parse(reader, [start(0, {"101": bid}, {"101": ask})]))
    assert [one[0][0] if one else None for one in (begun.bids, begun.asks)] == list(left)


LEVELS = st.lists(st.tuples(st.integers(1, 9).map(str), st.integers(0, 3).map(str)), max_size=6)


@given(st.lists(st.tuples(LEVELS, LEVELS), max_size=12))
def test_no_changes_ever_leave_a_book_crossed(
    changes: list[tuple[list[Level], list[Level]]],
) -> None:
    book = LevelBook(100)
    for bids, asks in changes:
        # A message names a level once.
        unique = list(dict(bids).items()), list(dict(asks).items())
        book.apply(*uncrossed(book, *unique))
        assert not book.is_crossed


def test_a_lost_message_is_one_of_any_stream() -> None:
    reader = adapter(
        Dydx, [Stream(one, market) for one in FEEDS for market in ("BTC-USD", "ETH-USD")]
    )
    begun = [
        start(0, *GOOD),
        start(1, *GOOD, id_="ETH-USD"),
        trades(2, type_="subscribed"),
        trades(3, type_="subscribed", id_="ETH-USD"),
        message(4, "subscribed", MARKETS, {"markets": {}}),
    ]
    assert only(Health, parse(reader, begun)) == []
    broken = parse(reader, [trades(6, "7")])
    assert [(one.native, one.kinds, one.reason) for one in only(Health, broken)] == [
        ("BTC-USD", BOOK_KINDS, "sequence"),
        ("ETH-USD", BOOK_KINDS, "sequence"),
    ]
    assert {gap.topic for gap in only(Gap, broken)} == {
        f"{kind}.dydx.{base}-USDC-PERP" for kind in ("book", "trade") for base in ("BTC", "ETH")
    }
    asked = [json.loads(one.frame) for one in only(Send, broken)]
    assert [one["type"] for one in asked] == ["unsubscribe", "subscribe"] * 3
    assert {one["channel"] for one in asked} == {BOOK, MARKETS}
    assert [one.id for one in only(Trade, broken)] == ["7"]
    back = json.dumps({"type": "unsubscribed", "message_id": 7, "channel": BOOK, "id": MARKET})
    fresh = parse(reader, [back.encode(), start(8, *GOOD)], 1)
    assert [one.state for one in only(Health, fresh)] == ["live"]


def test_an_answer_may_be_overtaken_but_a_hole_beside_it_is_a_loss() -> None:
    reader = reader_of(BOOK, TRADES)
    overtaken = [start(1, *GOOD), update(3, bids=[["98", "1"]]), update(4, bids=[["97", "1"]])]
    assert only(Health, parse(reader, overtaken)) == []
    late = trades(2, "1", type_="subscribed")
    assert only(Health, parse(reader, [late, update(5, bids=[["96", "1"]])])) == []
    assert [one.reason for one in only(Health, parse(reader, [update(7)]))] == ["sequence"]


def test_a_loss_hidden_by_an_open_answer_shows_once_it_has_come() -> None:
    reader = reader_of(BOOK, TRADES)
    assert only(Health, parse(reader, [start(1, *GOOD), update(3, bids=[["98", "1"]])])) == []
    outputs = parse(reader, [trades(4, "1", type_="subscribed")])
    assert [one.reason for one in only(Health, outputs)] == ["sequence"], "2 was no answer"


def test_a_message_that_comes_twice_changes_nothing() -> None:
    reader = reader_of(BOOK, TRADES)
    first = [start(0, *GOOD), trades(1, type_="subscribed"), update(2, bids=[["100", "5"]])]
    parse(reader, [*first, update(3, bids=[["100", "6"]])])
    assert parse(reader, [update(2, bids=[["100", "5"]])]) == []
    (change,) = only(Book, parse(reader, [update(4, bids=[["100", "7"]])]))
    assert change.bids == [("100", "7")]


def test_an_unreadable_message_shows_by_the_next_number() -> None:
    reader = reader_of(BOOK)
    parse(reader, [start(0, *GOOD)])
    with pytest.raises(BadPayload):
        parse(reader, [update(1, bids=[["x", "1"]])])
    assert list(reader.unread(b"", 0)) == []
    assert [one.reason for one in only(Health, parse(reader, [update(2)]))] == ["sequence"]
    assert parse(reader, [update(3)], 1) == []
    assert len(only(Send, parse(reader, [update(4)], RESUBSCRIBE_US))) == 2


def test_a_batch_is_taken_part_by_part() -> None:
    reader = reader_of(BOOK)
    parts = [{"bids": [["100.5", "1"]]}, {"asks": [["100.25", "2"]]}]
    outputs = parse(reader, [start(0, *GOOD), message(1, "channel_batch_data", BOOK, parts)])
    assert [(one.bid, one.ask) for one in only(Quote, outputs)] == [
        ("100", "101"),
        ("100.5", "101"),
        ("100", "100.25"),
    ]


def test_beyond_a_snapshot_of_a_hundred_levels_nothing_is_known() -> None:
    bids = {str(1_000 - at): "1" for at in range(100)}
    reader = reader_of(BOOK)
    parse(reader, [start(0, bids, {"1001": "1"})])
    assert only(Book, parse(reader, [update(1, bids=[["900", "5"]])])) == []
    thinned = [[str(1_000 - at), "0"] for at in range(80)]
    asked = only(Send, parse(reader, [update(2, bids=thinned)], 1))
    assert [json.loads(one.frame)["type"] for one in asked] == ["unsubscribe", "subscribe"]
    assert only(Send, parse(reader, [update(3, bids=[["1000", "1"]])], 2)) == []


def test_depth_follows_every_change_because_books_carry_no_time() -> None:
    reader = reader_of(BOOK, TRADES)
    frames_ = [start(0, *GOOD), trades(1, type_="subscribed"), trades(2, "1")]
    moves = [update(3 + at, bids=[["100", str(5 + at)]]) for at in range(4)]
    found = only(Depth, parse(reader, [*frames_, *moves]))
    assert [one.bids[0][1] for one in found] == ["1", "5", "6", "7", "8"]
    assert {one.ts for one in found} == {None}


def test_trades_told_at_first_are_old_and_later_only_new_ones_are_emitted() -> None:
    reader = reader_of(TRADES)
    told = [trades(0, "2", "1", type_="subscribed"), trades(1, "2", "3")]
    assert [one.id for one in only(Trade, parse(reader, told))] == ["3"]
    outputs = list(reader.resync(reader.plan_.streams, 7))
    assert only(Gap, outputs) == [Gap(f"trade.{NAME}", 0, None, 7, 0, "upstream_sequence", None)]
    assert [json.loads(one.frame)["type"] for one in only(Send, outputs)] == [
        "unsubscribe",
        "subscribe",
    ]
    again = parse(reader, [trades(2, "5", "4", "3", "2", type_="subscribed")])
    assert [one.id for one in only(Trade, again)] == ["4", "5"], "newest first, so turned round"


def test_of_the_trades_of_a_market_the_last_thousand_are_known() -> None:
    reader = reader_of(TRADES)
    ids = [str(one) for one in range(KNOWN_TRADES + 1)]
    parse(reader, [trades(0, *reversed(ids), type_="subscribed")])
    again = only(Trade, parse(reader, [trades(1, "1", "0", ids[-1])]))
    assert [one.id for one in again] == ["0"], "forgotten, so that memory has a bound"


def test_figures_are_merged_and_said_when_they_change() -> None:
    reader = reader_of(MARKETS, TRADES)
    whole = {"oraclePrice": "43250.00", "nextFundingRate": "-0.0000104", "openInterest": "512.43"}
    markets = {MARKET: whole | {"volume24H": "184.5", "trades24H": 9}, "XRP-USD": whole}
    first = [
        trades(0, "1", type_="subscribed"),
        message(1, "subscribed", MARKETS, {"markets": markets}),
    ]
    day, derivative = parse(reader, first)
    assert day == Ticker(
        f"ticker.{NAME}", 0, None, 0, 0, "25.22", None, None, None, None, "184.5", None, None
    )
    mark, rate, interest = "43250.00", "-0.0000104", "512.43"
    assert derivative == Derivative(
        f"derivative.{NAME}", 0, None, 0, 0, mark, None, rate, None, interest
    )
    same = {"trading": {MARKET: {"id": "0", "openInterest": "512.43"}}}
    other = {"trading": {"XRP-USD": {"openInterest": "1"}}}
    oracle = {"oraclePrices": {MARKET: {"oraclePrice": "43300", "marketId": 0}}}
    updates = [
        message(2 + at, "channel_data", MARKETS, one)
        for at, one in enumerate((same, other, oracle))
    ]
    (moved,) = parse(reader, updates)
    assert isinstance(moved, Derivative)
    assert (moved.mark, moved.funding_rate, moved.open_interest) == ("43300", rate, interest)


def test_the_shared_channel_is_asked_for_once() -> None:
    instruments = [Dydx.instrument(native) for native in ("BTC-USD", "ETH-USD")]
    streams = [one for each in instruments if each for one in Dydx.streams(each, Dydx.kinds)]
    asked = [json.loads(one.frame) for one in only(Send, adapter(Dydx, streams).opened())]
    assert asked == [
        *(
            {"type": "subscribe", "channel": channel, "id": native}
            for native in ("BTC-USD", "ETH-USD")
            for channel in (BOOK, TRADES)
        ),
        {"type": "subscribe", "channel": MARKETS},
    ]


def test_the_shared_channel_shows_that_a_connection_of_quiet_markets_lives() -> None:
    named = Dydx.instrument(MARKET)
    assert named is not None
    streams = Dydx.streams(named, {"trade"})
    assert [one.channel for one in streams] == [TRADES, MARKETS]
    assert Dydx.carried(streams, named, {"trade"}) == ((f"trade.{NAME}",), None)
    (plan,) = Dydx.plan(streams, {MARKET: named})
    whole = {"markets": {MARKET: {"oraclePrice": "1"}}}
    assert parse(Dydx(plan, {"trade"}), [message(0, "subscribed", MARKETS, whole)]) == []


@pytest.mark.parametrize("channels", [(TRADES,), FEEDS])
def test_a_connection_has_no_more_markets_than_a_channel_may_have(channels: Sequence[str]) -> None:
    natives = [f"C{number}-USD" for number in range(70)]
    named = Dydx.instrument("BTC-USD")
    assert named is not None
    streams = [Stream(channel, native) for native in natives for channel in channels]
    plans = Dydx.plan(streams, dict.fromkeys(natives, named))
    assert [len(plan.instruments) for plan in plans] == [MARKETS_PER_CONNECTION] * 2 + [6]
    assert [one for plan in plans for one in plan.streams] == streams


def test_a_refusal_costs_the_stream_that_it_names() -> None:
    reader = reader_of(BOOK, TRADES)
    reason = f"Invalid subscription id for channel: ({TRADES}-{MARKET})"
    refused = Refused((Stream(TRADES, MARKET),), reason)
    assert parse(reader, [start(1, *GOOD), error(2, reason)])[-1] == refused
    already = f"Invalid subscribe message: already subscribed ({BOOK}-{MARKET})"
    assert parse(reader, [error(3, already)]) == []
    many = f"Too many subscribe attempts for channel {BOOK}-{MARKET}. Please  reconnect"
    assert parse(reader, [error(4, many)]) == [Leave("error")]


def test_what_says_nothing_is_counted_like_the_rest() -> None:
    reader = reader_of(BOOK)
    hello = b'{"type":"connected","connection_id":"c","message_id":0}'
    candle = message(2, "channel_data", "v4_candles", {"low": "1"})
    assert parse(reader, [hello, start(1, *GOOD), candle, update(3)])[:1] != []
    assert only(Health, parse(reader, [update(4, bids=[["98", "1"]])])) == []


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(update(1, "ETH-USD"), id="market-not-carried"),
        pytest.param(update(1, bids=[["-1", "1"]]), id="price"),
        pytest.param(update(-1), id="number"),
        pytest.param(trades(1, "1").replace(b"BUY", b"HOLD"), id="side"),
        pytest.param(trades(1, "1").replace(b"T23:59", b"T23-59"), id="time"),
        pytest.param(message(1, "channel_data", "v4_surprise", {}), id="unknown-channel"),
        pytest.param(message(1, "surprise", BOOK, {}), id="unknown-type"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused_and_not_counted(bad: bytes) -> None:
    reader = reader_of(BOOK, TRADES)
    parse(reader, [start(0, *GOOD), trades(1, type_="subscribed")])
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    assert only(Health, parse(reader, [update(2, bids=[["98", "1"]])])) == []


@pytest.mark.parametrize(
    ("native", "symbol"),
    [
        ("BTC-USD", "BTC-USDC-PERP"),
        ("1INCH-USD", "1INCH-USDC-PERP"),
        ("FARTCOIN,RAYDIUM,9BB6NF-USD", "FARTCOIN-USDC-PERP"),
        ("BTC-EUR", None),
        ("-USD", None),
        ("BTC", None),
    ],
)
def test_names_without_a_listing(native: str, symbol: str | None) -> None:
    found = Dydx.instrument(native)
    assert (found and found.symbol) == symbol


def test_the_listing_is_read_and_names_by_rule_are_its_names() -> None:
    listed = {one.symbol: one for one in session().listed}
    assert list(listed) == [f"{base}-USDC-PERP" for base in ("BTC", "ETH", "FARTCOIN", "LUNA")]
    bitcoin = listed["BTC-USDC-PERP"]
    assert (bitcoin.price_step, bitcoin.size_step, bitcoin.size_unit) == ("1", "0.0001", "base")
    assert (bitcoin.type, bitcoin.settle, bitcoin.inverse) == ("perpetual", "USDC", False)
    assert listed["LUNA-USDC-PERP"].state == "final_settlement"
    for one in listed.values():
        named = Dydx.instrument(one.native)
        assert named is not None and named.symbol == one.symbol
    with pytest.raises(BadPayload):
        Dydx.instruments([b'{"errors":[{"msg":"Too many requests"}]}'])


def kept(name: str) -> list[dict[str, Any]]:
    path = CAPTURES / "dydx-v4" / name
    if not path.exists():
        pytest.skip("no recordings of dydx beside the repository")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sample_messages_are_read() -> None:
    # Each is of a connection of its own; trades and updates are not the first of theirs.
    read = 0
    for sample in kept("samples.jsonl"):
        raw = sample["raw"].encode()
        told = json.loads(raw)
        reader = reader_of(*FEEDS)
        if told["type"] == "error":
            assert parse(reader, [raw]) == [Leave("error")]
            continue
        number = told["message_id"] - 1
        if told["type"] == "channel_data":
            parse(reader, [start(number, *GOOD), trades(number, type_="subscribed")])
        outputs = parse(reader, [raw])
        fed = {BOOK: Book, TRADES: Trade, MARKETS: Derivative}[told["channel"]]
        is_old = told["type"] == "subscribed" and fed is Trade
        if is_old:
            assert outputs == []
        else:
            assert any(isinstance(one, fed) for one in outputs), sample["raw"]
        read += 1
    assert read == 7


def test_others_make_the_same_of_the_same_messages() -> None:
    compared = 0
    readers: dict[str, Adapter] = {}
    for number, pair in enumerate(kept("expected.jsonl"), 10):
        told = json.loads(pair["raw"])
        native = told.get("id", "ETH-USD")
        reader = readers.setdefault(native, reader_of(*FEEDS, native=native))
        if told["channel"] != MARKETS:
            begun = start(number - 1, {}, {"66.12": "1"}, native)
            parse(reader, [begun, trades(number - 1, type_="subscribed", id_=native)])
        # Cut from several connections, or in another order: numbered anew.
        raw = re.sub(r'"message_id":\d+', f'"message_id":{number}', pair["raw"])
        events = parse(reader, [raw.encode()])
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
            (change,) = only(Book, events)
            assert not change.snapshot and change.bids == other["bids"] == []
            assert [(float(price), float(size)) for price, size in change.asks] == [
                (one["price"], one["amount"]) for one in other["asks"]
            ]
        case "derivative_ticker":
            (derived,) = only(Derivative, events)
            # What its mapper knows from messages before these is not in the pairs.
            if derived.mark is not None:
                assert is_same(derived.mark, other["markPrice"])
            assert is_same(derived.open_interest, other["openInterest"])
        case kind:
            raise AssertionError(kind)


def test_the_venue_answers_and_the_adapter_understands_it() -> None:
    venue = DydxVenue()
    recording = Session(Dydx, venue, SESSION)
    unknown = Stream(BOOK, "NOSUCH-USD")
    reader = adapter(Dydx, [*recording.streams, unknown])
    numbered = venue.numbering()
    asked: list[Stream] = []
    outputs: list[Output] = []

    def answer(frame: str) -> None:
        ack = venue.request(Dydx.path, frame)
        asked.extend(ack.streams)
        outputs.extend(parse(reader, [numbered(one.encode()) for one in ack.frames]))

    assert parse(reader, [numbered(one.encode()) for one in venue.connected("").frames]) == []
    for send in only(Send, reader.opened()):
        answer(send.frame)
    assert set(asked) == set(recording.streams)
    assert [one.streams for one in only(Refused, outputs)] == [(unknown,)]
    assert only(Derivative, outputs), "the markets' first message is the recorded one"
    back, again = only(Send, reader.resync((Stream(BOOK, MARKET),), 0))
    assert venue.request("", back.frame).unsubscribe
    assert venue.request("", again.frame).streams == (Stream(BOOK, MARKET),)
    assert venue.request("", "nonsense").streams == ()
    assert venue.rest_key(Dydx.listing_paths[0]) == "listing"


def test_who_comes_late_is_told_what_goes_on() -> None:
    recording = session()
    for channel, kind in ((BOOK, Book), (TRADES, Trade)):
        own = [
            frame
            for frame in recording.frames
            if f'"channel":"{channel}"'.encode() in frame and b'"id":"BTC-USD"' in frame
        ]
        standing = DydxVenue().standing(Stream(channel, MARKET), {})
        assert standing is not None
        numbered = DydxVenue().numbering()
        for frame in own[:5]:
            standing.take(frame)
        told = standing.told()
        assert told is not None
        late = parse(reader_of(channel), [numbered(one) for one in (told, *own[5:])])
        assert only(Health, late) == []
        assert len(only(kind, late)) >= len(own) - 5
