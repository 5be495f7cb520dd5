"""Bitfinex: channels by number, numbered frames, checksums, notices; ``payloads/bitfinex``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from adapters.base import Adapter, Health, Leave, Output, Refused, Send, Stream, TapeLine
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.bitfinex.adapter import FLAGS, Bitfinex
from adapters.exchanges.bitfinex.frames import checksum
from adapters.exchanges.bitfinex.venue import BitfinexVenue
from adapters.trade_ids import KNOWN_TRADES
from feed.errors import BadPayload
from feed.models import Book, Depth, Derivative, Gap, Ticker, Trade
from tests.adapters.playing import played
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

SESSION = PAYLOADS / "bitfinex" / "session.jsonl"
BTC, PERPETUAL = "tBTCUSD", "tBTCF0:USTF0"
#: Channel numbers of these tests.
NUMBERS = {"book-250": 1, "trades": 2, "ticker": 3, "status": 4}
recordings = pytest.mark.parametrize(
    "path", [pytest.param(SESSION, id="bundled"), *captures("bitfinex")]
)


def session(path: Path = SESSION) -> Session:
    return Session(Bitfinex, BitfinexVenue(), path)


def ack(stream: Stream, number: int) -> bytes:
    channel, _, levels = stream.channel.partition("-")
    fields: dict[str, Any] = {"event": "subscribed", "channel": channel, "chanId": number}
    if channel == "status":
        fields["key"] = f"deriv:{stream.native}"
    else:
        fields |= {"symbol": stream.native, "pair": stream.native[1:]}
    if levels:
        fields |= {"prec": "P0", "freq": "F0", "len": levels}
    return json.dumps(fields).encode()


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def subscribed(*channels: str, native: str = BTC) -> Adapter:
    """Return a reader of these channels of one pair, which have been acknowledged."""
    streams = [Stream(one, native) for one in channels or ("book-250", "trades", "ticker")]
    reader = adapter(Bitfinex, streams)
    assert parse(reader, [ack(one, NUMBERS[one.channel]) for one in streams]) == []
    return reader


class Wire:
    """Numbers frames as the exchange does.

    Attributes:
        last: The last number given.
    """

    def __init__(self) -> None:
        self.last = 0

    def __call__(self, channel: str, payload: str, tag: str = "") -> bytes:
        self.last += 1
        tagged = f'"{tag}",' if tag else ""
        body = f"{tagged}{payload}," if payload else tagged
        return f"[{NUMBERS[channel]},{body}{self.last},{1790134400000 + self.last}]".encode()

    def start(self) -> bytes:
        return self("book-250", "[[100,1,1.5],[99.5,2,5e-7],[101,1,-2],[102,3,-0.25]]")

    def trade(self, number: int, amount: str = "0.5", price: str = "100", tag: str = "te") -> bytes:
        return self("trades", f"[{number},1790134399990,{amount},{price}]", tag)


def ids(outputs: Sequence[Output]) -> list[str | None]:
    return [one.id for one in only(Trade, outputs)]


def arrays(recording: Session) -> list[tuple[str, str, list[Any]]]:
    """Return the data of a recording with the channel and symbol that its acks tell."""
    known: dict[str, tuple[str, str]] = {}
    found: list[tuple[str, str, list[Any]]] = []
    for one in recording.payloads():
        if isinstance(one, list):
            found.append((*known[one[0]], one))
        elif one["event"] == "subscribed":
            symbol = one.get("symbol") or one["key"].removeprefix("deriv:")
            known[one["chanId"]] = one["channel"], symbol
    return found


@recordings
def test_every_trade_is_there_once_digit_for_digit(path: Path) -> None:
    recording = session(path)
    sent = [
        (one[2][0], one[2][3], one[2][2], int(one[2][1]) * 1_000)
        for channel, _, one in arrays(recording)
        if channel == "trades" and one[1] == "te"
    ]
    trades = only(Trade, recording.run().outputs)
    assert sent
    assert [t.id for t in trades] == [one[0] for one in sent]
    for trade, (_, price, amount, ts) in zip(trades, sent, strict=True):
        # What has an exponent is written out, its digits are the same.
        assert float(trade.price) == float(price) and float(trade.size) == abs(float(amount))
        assert "e" in price or trade.price == price
        assert trade.size == amount.lstrip("-")
        assert trade.side == ("sell" if amount.startswith("-") else "buy")
        assert trade.ts == ts


@recordings
def test_books_are_the_exchange_s_books_by_its_checksums(path: Path) -> None:
    recording = session(path)
    books: dict[str, Sides] = {}
    last = proven = 0
    for channel, symbol, one in arrays(recording):
        at = 3 if one[1] in ("te", "tu", "cs", "fte") else 2
        assert int(one[at]) == last + 1
        last += 1
        if channel != "book" or one[1] == "hb":
            continue
        if one[1] == "cs":
            texts: list[str] = []
            bids, asks = best_first(books[symbol])
            for level in range(25):
                texts += bids[level] if level < len(bids) else ()
                texts += (asks[level][0], f"-{asks[level][1]}") if level < len(asks) else ()
            assert crc32(":".join(texts).encode()) == int(one[2]) % (1 << 32)
            proven += 1
            continue
        if isinstance(one[1][0], list):
            books[symbol] = ({}, {})
            levels = one[1]
        else:
            levels = [one[1]]
        for price, count, amount in levels:
            level_ = [(price, amount.lstrip("-") if count != "0" else "0")]
            apply(books[symbol], *(([], level_) if amount.startswith("-") else (level_, [])))
    outputs = recording.run().outputs
    assert only(Health, outputs) == []
    shown = clients_books(outputs)
    instruments = recording.adapter().plan_.instruments
    assert len(books) >= 3 and (proven > 10 or path != SESSION)
    for symbol, naive in books.items():
        sides = shown[f"book.bitfinex.{instruments[symbol].symbol}"]
        for mine, theirs in zip(sides, naive, strict=True):
            assert {float(p): float(s) for p, s in mine.items()} == {
                float(p): float(s) for p, s in theirs.items()
            }
            assert all(mine.get(p) == s for p, s in theirs.items() if "e" not in p + s)


@recordings
def test_tickers_are_read_digit_for_digit(path: Path) -> None:
    recording = session(path)
    sent = [
        (one[1][6], one[1][8], one[1][9], one[1][7], one[1][0], one[1][2])
        for channel, _, one in arrays(recording)
        if channel == "ticker" and one[1] != "hb"
    ]
    tickers = only(Ticker, recording.run().outputs)
    shown = [(t.last, t.high, t.low, t.volume, t.bid, t.ask) for t in tickers]
    assert [tuple(map(float, map(str, one))) for one in shown] == [
        tuple(map(float, one)) for one in sent
    ]
    assert any("e" not in "".join(one) for one in sent)
    assert all(
        m == t or "e" in t
        for mine, one in zip(shown, sent, strict=True)
        for m, t in zip(mine, one, strict=True)
    )


def test_the_checksum_is_of_the_digits_as_sent_with_their_exponents() -> None:
    texts = "100:1.5:101:-2:99.5:5e-7:102:-0.25:103:-1"
    proof = crc32(texts.encode()) - (1 << 32)
    bids = [("100", "1.5"), ("99.5", "0.0000005")]
    asks = [("101", "2"), ("102", "0.25"), ("103", "1")]
    assert checksum(bids, asks) == proof == -569219243
    longer = crc32(b"1.25e-8:0.000001") & 0xFFFFFFFF
    assert checksum([("0.0000000125", "0.000001")], []) % (1 << 32) == longer


def test_a_right_checksum_says_nothing_and_a_wrong_one_makes_that_book_invalid() -> None:
    reader, wire = subscribed(), Wire()
    parse(reader, [wire.start(), wire("book-250", "[103,1,-1]")])
    assert parse(reader, [wire("book-250", "-569219243", "cs")]) == []
    broken = parse(reader, [wire("book-250", "-569219242", "cs")])
    assert broken[:2] == [
        Health(BTC, ("book", "depth", "quote"), "invalid", "checksum"),
        Gap("book.bitfinex.BTC-USD", 0, None, 0, 0, "upstream_sequence", None),
    ]
    requests = [json.loads(one.frame) for one in only(Send, broken)]
    assert requests == [
        {"event": "unsubscribe", "chanId": 1},
        {
            **{"event": "subscribe", "channel": "book", "symbol": BTC},
            **{"prec": "P0", "freq": "F0", "len": "250"},
        },
    ]
    assert parse(reader, [wire("book-250", "[98,1,1]")], 1) == []
    assert len(only(Send, parse(reader, [wire("book-250", "[98,1,1]")], RESUBSCRIBE_US))) == 2
    assert parse(reader, [b'{"event":"unsubscribed","status":"OK","chanId":1}']) == []
    assert parse(reader, [ack(Stream("book-250", BTC), 1)]) == []
    fresh = parse(reader, [wire.start()], RESUBSCRIBE_US + 1)
    assert only(Book, fresh)[0].snapshot
    assert fresh[-1] == Health(BTC, ("book", "depth", "quote"), "live", None)


def test_a_hole_in_the_numbers_may_be_anybody_s() -> None:
    reader, wire = subscribed(), Wire()
    parse(reader, [wire.start(), wire.trade(5)])
    wire.last += 1
    outputs = parse(reader, [wire("ticker", "", "hb")])
    assert [one.reason for one in only(Health, outputs)] == ["sequence"]
    assert [(one.topic, one.lost) for one in only(Gap, outputs)] == [
        ("book.bitfinex.BTC-USD", None),
        ("trade.bitfinex.BTC-USD", None),
    ]
    assert all('"book"' in one.frame or '"chanId":1}' in one.frame for one in only(Send, outputs))
    assert ids(parse(reader, [wire.trade(9)])) == ["9"]


def test_a_frame_that_comes_again_or_late_is_dropped() -> None:
    reader, wire = subscribed(), Wire()
    first, second, third = wire.start(), wire("book-250", "[98,1,1]"), wire.trade(5)
    outputs = parse(reader, [first, second, second, third, first, third])
    assert len(only(Book, outputs)) == 2 and ids(outputs) == ["5"]
    assert only(Gap, outputs) == []


def test_a_number_far_off_does_not_make_all_that_follows_old() -> None:
    reader, wire = subscribed("trades"), Wire()
    parse(reader, [wire.trade(1), wire.trade(2).replace(b",2,1790", b",900000000,1790")])
    outputs = parse(reader, [wire.trade(3), wire.trade(4)])
    assert ids(outputs) == ["3", "4"] and len(only(Gap, outputs)) == 1


def test_an_unreadable_frame_shows_in_the_next_one_s_number() -> None:
    reader, wire = subscribed(), Wire()
    parse(reader, [wire.start()])
    bad = wire("book-250", '["98",1,1]')
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    assert not list(reader.unread(bad, 0))
    assert [one.reason for one in only(Health, parse(reader, [wire.trade(5)]))] == ["sequence"]


def test_a_trade_is_told_once_of_its_two_messages_and_once_of_more() -> None:
    reader, wire = subscribed(), Wire()
    old = wire("trades", "[[4,1790134399000,1,100],[3,1790134398000,-1,100]]")
    frames = [wire.trade(5), wire.trade(5, tag="tu"), wire.trade(7, tag="tu"), wire.trade(6, "-1")]
    outputs = parse(reader, [old, *frames, wire.trade(5)])
    assert ids(outputs) == ["5", "7", "6"]
    assert [one.side for one in only(Trade, outputs)] == ["buy", "buy", "sell"]
    parse(reader, [wire.trade(number) for number in range(10, 10 + KNOWN_TRADES)])
    assert ids(parse(reader, [wire.trade(5)])) == ["5"], "forgotten, so that memory has a bound"


def test_a_level_is_deleted_by_its_count_on_the_side_of_its_amount() -> None:
    reader, wire = subscribed(), Wire()
    parse(reader, [wire.start()])
    outputs = parse(reader, [wire("book-250", "[101,0,-1]"), wire("book-250", "[99.5,0,1]")])
    assert [(one.bids, one.asks) for one in only(Book, outputs)] == [
        ([], [("101", "0")]),
        ([("99.5", "0")], []),
    ]


def test_a_snapshot_starts_the_book_afresh_and_an_empty_one_empties_it() -> None:
    reader, wire = subscribed(), Wire()
    outputs = parse(reader, [wire.start(), wire("book-250", "[]"), wire("book-250", "[98,1,3]")])
    assert [one.snapshot for one in only(Book, outputs)] == [True, True, False]
    assert list(clients_books(outputs).values()) == [({"98": "3"}, {})]


def test_a_crossed_book_is_not_shown() -> None:
    reader, wire = subscribed(), Wire()
    outputs = parse(reader, [wire.start(), wire("book-250", "[101,1,1]")])
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    assert len(only(Book, outputs)) == 1


def test_a_perpetual_s_state_is_told_when_it_has_changed() -> None:
    reader, wire = subscribed("status", native=PERPETUAL), Wire()
    row = (
        "[1790133734000,null,86710.46123944,86670.5,null,62210384.95685668,null,1790150400000,"
        "0.00015317,3873,null,-3.1e-7,null,null,86676.3172,null,null,8851.89352831,null,null,null,"
        "0.0005,0.0025]"
    )
    later = row.replace("1790133734000", "1790133737000")
    (state,) = parse(reader, [wire("status", row), wire("status", row), wire("status", later)])
    assert state == Derivative(
        *("derivative.bitfinex.BTC-USDT-PERP", 0, 1790133734000000, 0, 0, "86676.3172", "86670.5"),
        *("-0.00000031", 1790150400000000, "8851.89352831"),
    )
    short = "[1569715201000,null,173.535,173.57,null,101052.04082882,null,1569744000000,0,0,null]"
    (state,) = only(Derivative, parse(reader, [wire("status", short)]))
    assert (state.mark, state.funding_rate, state.open_interest) == (None, None, None)


def test_depth_is_paced_by_the_frames_times_and_heartbeats_move_them() -> None:
    reader, wire = subscribed(), Wire()
    outputs = parse(reader, [wire.start(), wire("book-250", "[98,1,1]")])
    assert len(only(Depth, outputs)) == 1
    wire.last += 100
    late = f'[3,"hb",3,{1790134400000 + wire.last}]'.encode()
    assert [type(one) for one in parse(reader, [late])] == [Depth]


def test_frames_are_read_by_the_flags_that_were_granted() -> None:
    reader = subscribed("trades")
    trade = '[2,"te",[{},1790134399990,1,100],{}]'
    parse(reader, [b'{"event":"conf","status":"OK","flags":32768}'])
    frames = [trade.format(number, 1790134400000 - number).encode() for number in (1, 2)]
    assert ids(parse(reader, frames)) == ["1", "2"], "what falls is a time, no number"
    parse(reader, [b'{"event":"conf","status":"OK","flags":65536}'])
    outputs = parse(reader, [trade.format(3, 7).encode(), trade.format(4, 9).encode()])
    assert ids(outputs) == ["3", "4"] and len(only(Gap, outputs)) == 1


def test_flags_come_first_and_then_a_request_for_each_channel() -> None:
    instrument = Bitfinex.instrument(PERPETUAL)
    assert instrument is not None
    streams = Bitfinex.streams(instrument, Bitfinex.kinds)
    assert [one.channel for one in streams] == ["book-250", "trades", "ticker", "status"]
    requests = [json.loads(one.frame) for one in only(Send, adapter(Bitfinex, streams).opened())]
    assert requests[0] == {"event": "conf", "flags": FLAGS} and FLAGS == 229376
    assert requests[1]["len"] == "250"
    assert requests[2:] == [
        {"event": "subscribe", "channel": "trades", "symbol": PERPETUAL},
        {"event": "subscribe", "channel": "ticker", "symbol": PERPETUAL},
        {"event": "subscribe", "channel": "status", "key": f"deriv:{PERPETUAL}"},
    ]
    pair = Bitfinex.instrument(BTC)
    assert pair is not None
    assert "status" not in {one.channel for one in Bitfinex.streams(pair, Bitfinex.kinds)}


def test_a_resubscription_takes_back_the_channel_s_number_and_declares_trades() -> None:
    reader = subscribed()
    outputs = list(reader.resync([Stream("trades", BTC)], 7))
    assert outputs[0] == Gap("trade.bitfinex.BTC-USD", 0, None, 7, 0, "upstream_sequence", None)
    assert [json.loads(one.frame) for one in only(Send, outputs)] == [
        {"event": "unsubscribe", "chanId": 2},
        {"event": "subscribe", "channel": "trades", "symbol": BTC},
    ]
    unanswered = adapter(Bitfinex, [Stream("ticker", BTC)])
    (send,) = only(Send, unanswered.resync([Stream("ticker", BTC)], 7))
    assert '"subscribe"' in send.frame


def test_a_refused_pair_costs_itself_alone() -> None:
    refusal = {"channel": "trades", "symbol": BTC, "event": "error", "msg": "symbol: invalid"}
    reader = subscribed()
    (refused,) = parse(reader, [json.dumps(refusal | {"code": 10300}).encode()])
    assert refused == Refused((Stream("trades", BTC),), "symbol: invalid")
    repeated = json.dumps(refusal | {"msg": "subscribe: dup", "code": 10301}).encode()
    assert parse(reader, [repeated]) == []
    with pytest.raises(BadPayload):
        parse(reader, [b'{"event":"error","msg":"subscribe: limit","code":10305}'])


@pytest.mark.parametrize(
    ("notice", "follows"),
    [
        pytest.param('"code":20051,"msg":"restart"', [Leave("restart", True)], id="restart"),
        pytest.param('"code":20060,"msg":"pause"', [], id="maintenance-begins"),
        pytest.param('"code":20061,"msg":"resume"', [Leave("maintenance")], id="maintenance-over"),
        pytest.param('"version":2,"platform":{"status":1}', [], id="hello"),
    ],
)
def test_notices_are_heeded(notice: str, follows: list[Output]) -> None:
    assert parse(subscribed(), [f'{{"event":"info",{notice}}}'.encode()]) == follows


def test_pings_are_sent_and_their_answers_are_silent() -> None:
    reader = subscribed()
    assert (reader.limits.ping_every_s, reader.ping()) == (20, '{"event":"ping"}')
    assert parse(reader, [b'{"event":"pong","ts":1511545528111,"cid":null}']) == []


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"[9,[98,1,1],1,2]", id="channel-not-carried"),
        pytest.param(b'[1,[98,1,"1"],1,2]', id="text"),
        pytest.param(b"[1,[-98,1,1],1,2]", id="negative-price"),
        pytest.param(b"[1,[98,-1,1],1,2]", id="negative-count"),
        pytest.param(b"[1,[98,1],1,2]", id="too-short"),
        pytest.param(b'[1,"cs","x",1,2]', id="proof"),
        pytest.param(b'[2,"tx",[1,1,1,1],1,2]', id="unknown-tag"),
        pytest.param(b'[2,"te",[-1,1,1,1],1,2]', id="trade-number"),
        pytest.param(b"[2,[1,1,1,1],1,2]", id="trade-without-tag"),
        pytest.param(b"[2,[[1,1,1]],1,2]", id="old-trade-too-short"),
        pytest.param(b'{"event":"subscribed","channel":"book"}', id="ack-without-number"),
        pytest.param(b'{"event":"surprise"}', id="unknown-event"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused_and_changes_nothing(bad: bytes) -> None:
    reader, wire = subscribed(), Wire()
    with pytest.raises(BadPayload):
        parse(reader, [bad])
    assert only(Gap, parse(reader, [wire.start(), wire.trade(5)])) == []


def test_what_a_tape_has_of_other_channels_is_left_out_but_counts() -> None:
    reader, wire = subscribed(), Wire()
    acks = [
        b'{"event":"subscribed","channel":"book","symbol":"tBTCUSD","prec":"R0","chanId":7}',
        b'{"event":"subscribed","channel":"candles","key":"trade:1m:tBTCUSD","chanId":8}',
        b'{"event":"subscribed","channel":"trades","symbol":"fUSD","chanId":9}',
    ]
    frames = [
        b"[7,[[8537681660,136.39,8.688]],2,1790134400002]",
        b"[8,[[1574698260000,7379.7,7383.8,7388.3,7379.7,1.6]],3,1790134400003]",
        b'[9,"fte",[2,1790134399990,1,0.001,30],4,1790134400004]',
    ]
    assert len(only(Book, parse(reader, [wire.start()]))) == 1
    assert parse(reader, [*acks, *frames]) == []
    wire.last = 4
    assert only(Gap, parse(reader, [wire.trade(5)])) == []
    venue = BitfinexVenue()
    for one in acks:
        venue.scan(TapeLine(dir="in", raw=one.decode()))
    assert venue.stream_of(TapeLine(dir="in", raw=frames[0].decode())) is None


def test_funding_is_left_out_but_counts() -> None:
    reader, wire = subscribed(), Wire()
    frames = [wire.trade(1), wire("trades", "[2,1790134399990,1,0.001,30]", "fte"), wire.trade(3)]
    outputs = parse(reader, frames)
    assert ids(outputs) == ["1", "3"] and only(Gap, outputs) == []


@pytest.mark.parametrize(
    ("native", "symbol", "settle"),
    [
        ("tBTCUSD", "BTC-USD", None),
        ("tBTCUST", "BTC-USDT", None),
        ("tUDCUSD", "USDC-USD", None),
        ("tDOGE:USD", "DOGE-USD", None),
        ("tIOTUSD", "IOTA-USD", None),
        ("tETH2X:ETH", "ETH2X-ETH", None),
        ("tBTCF0:USTF0", "BTC-USDT-PERP", "USDT"),
        ("tETHF0:BTCF0", "ETH-BTC-PERP", "BTC"),
    ],
)
def test_names_without_a_listing(native: str, symbol: str, settle: str | None) -> None:
    named = Bitfinex.instrument(native)
    assert named is not None
    assert (named.symbol, named.settle, named.inverse, named.size_unit) == (
        *(symbol, settle, False),
        "base",
    )
    assert named.type == ("spot" if settle is None else "perpetual")


@pytest.mark.parametrize("native", ["BTCUSD", "fUSD", "t", "tBTC", "tBTC:", "t:USD", "tF0:F0"])
def test_what_is_no_pair_has_no_name(native: str) -> None:
    assert Bitfinex.instrument(native) is None


def test_the_listing_is_read() -> None:
    body = b'[["1INCH:USD","BTCUSD","BTCUST"],["BTCF0:USTF0","ETHF0:BTCF0"]]'
    found = Bitfinex.instruments([body])
    assert [(one.native, one.symbol, one.state) for one in found] == [
        ("t1INCH:USD", "1INCH-USD", "trading"),
        ("tBTCUSD", "BTC-USD", "trading"),
        ("tBTCUST", "BTC-USDT", "trading"),
        ("tBTCF0:USTF0", "BTC-USDT-PERP", "trading"),
        ("tETHF0:BTCF0", "ETH-BTC-PERP", "trading"),
    ]
    with pytest.raises(BadPayload):
        Bitfinex.instruments([b'["error",10020,"conf: invalid"]'])


async def test_a_connection_that_breaks_ends_with_the_same_books() -> None:
    whole = session().run().outputs
    books = clients_books(whole)
    last = ids(whole)[-1]
    sink = await played(
        Bitfinex,
        SESSION,
        ["close:after=200:times=2"],
        lambda sink: last in ids(sink.events) and clients_books(sink.events) == books,
    )
    trades = ids(sink.events)
    assert len(trades) == len(set(trades))
    assert "upstream_disconnect" in {one.cause for one in sink.of(Gap)}


async def test_lost_frames_are_noticed_and_the_books_asked_for_again() -> None:
    books = clients_books(session().run().outputs)
    sink = await played(
        Bitfinex,
        SESSION,
        ["drop:1:after=100:times=1"],
        lambda sink: set(clients_books(sink.events)) == set(books) and bool(sink.of(Gap)),
    )
    assert "upstream_sequence" in {one.cause for one in sink.of(Gap)}


#: Samples that are no message of ours, by a part of each -> why.
NOT_OURS = {
    '"event":"auth"': "private",
    '[0,"f': "private",
    '"channel":"candles"': "candles are made from the trades",
    "[1,[[1574698260000": "candles are made from the trades",
    '"prec":"R0"': "books of single orders are not asked for",
    "[1,[[34753002978": "books of single orders are not asked for",
    '"symbol":"fUSD"': "funding is not carried",
    "[1,[[658282397": "funding is not carried",
    '"Already subscribed"': "a code and a form of before 2020, and names nothing",
}


def test_sample_messages_are_read() -> None:
    path = CAPTURES / "bitfinex" / "samples.jsonl"
    if not path.exists():
        pytest.skip("no recordings of bitfinex beside the repository")
    readers: dict[int, Adapter] = {}
    read = 0
    found: list[Output] = []
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        frame = sample["raw"]
        if sample["dir"] != "in" or any(part in frame for part in NOT_OURS):
            continue
        message = json.loads(frame)
        if isinstance(message, dict) and message["event"] == "subscribed":
            channel = message["channel"] + ("-25" if "len" in message else "")
            native = message.get("symbol") or message["key"].removeprefix("deriv:")
            readers[message["chanId"]] = adapter(Bitfinex, [Stream(channel, native)])
        number = message[0] if isinstance(message, list) else message.get("chanId", 0)
        if number not in readers:  # the ack is not among the samples
            readers[number] = adapter(Bitfinex, [Stream("trades", BTC)])
            parse(readers[number], [ack(Stream("trades", BTC), number)])
        found += parse(readers[number], [frame.encode()])
        read += 1
    assert read == 15
    assert len(only(Derivative, found)) == 1
    # Three of the six are of one id.
    assert ids(found) == ["5690221201", "5690221202", "1225484398"]


#: What the pairs' channels are of; their acks are not among them.
CHANNELS = {
    89: Stream("trades", "tBTCUSD"),
    6959: Stream("book-25", "tETHUSD"),
    147794: Stream("ticker", "tBTCUSD"),
    127758: Stream("status", PERPETUAL),
    23918: Stream("book-25", PERPETUAL),
    23928: Stream("status", PERPETUAL),
    23916: Stream("trades", PERPETUAL),
    138325: Stream("ticker", PERPETUAL),
}
#: Pairs that cannot agree, by a part of the message -> why.
DIFFERENT = {
    '"event":"subscribed"': "an ack, which others make nothing of either",
    "[129136,": "funding is not carried",
    "[386841,": "liquidations are not carried of this exchange",
    '"prec":"R0"': "books of single orders are not asked for",
    '"channel":"candles"': "candles are made from the trades",
    "[[23144,": "of REST, which is not asked",
    "[23918,": "a deletion without the book that it is of",
}


def test_others_make_the_same_of_the_same_messages() -> None:
    path = CAPTURES / "bitfinex" / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings of bitfinex beside the repository")
    readers: dict[int, Adapter] = {}
    compared = different = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        if any(part in pair["raw"] for part in DIFFERENT):
            different += 1
            continue
        if pair["schema"] == "tardis":
            number = json.loads(pair["raw"])[0]
            if number not in readers:
                readers[number] = adapter(Bitfinex, [CHANNELS[number]])
                parse(readers[number], [ack(CHANNELS[number], number)])
            # They are cut from a longer session, whose numbers have holes here.
            outputs = parse(readers[number], [renumbered(pair["raw"], pair["seq"])])
            compared += sum(compare(other, outputs) for other in pair["expected"])
        else:
            compared += compare_asserted(pair)
    assert (compared, different) == (19, 10)


def renumbered(raw: str, number: int) -> bytes:
    parts = json.loads(raw)
    parts[3 if isinstance(parts[1], str) else 2] = number
    return json.dumps(parts).encode()


def compare(other: dict[str, Any], events: list[Output]) -> int:
    """Compare one normalised message of another project with our events of the same frame."""
    match other["type"]:
        case "trade":
            (trade,) = only(Trade, events)
            assert (trade.id, trade.side) == (other["id"], other["side"])
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "book_change":
            changes = only(Book, events)
            if not changes:  # a deletion of what the snapshot, which is cut, never had
                assert all(one["amount"] == 0 for one in other["bids"] + other["asks"])
                return 1
            (change,) = changes
            assert change.snapshot == other["isSnapshot"]
            for mine, theirs in ((change.bids, other["bids"]), (change.asks, other["asks"])):
                assert {float(price): float(size) for price, size in mine} == {
                    one["price"]: one["amount"] for one in theirs
                }
        case "book_ticker":
            # Our quote is the book's; the ticker's best prices are the same.
            (day,) = only(Ticker, events)
            assert is_same(day.bid, other["bidPrice"]) and is_same(day.ask, other["askPrice"])
        case "derivative_ticker":
            (state,) = only(Derivative, events)
            assert is_same(state.mark, other["markPrice"])
            assert is_same(state.index, other["indexPrice"])
            assert is_same(state.funding_rate, other["fundingRate"])
            assert is_same(state.open_interest, other["openInterest"])
        case unknown:
            raise AssertionError(unknown)
    return 1


def compare_asserted(pair: dict[str, Any]) -> int:
    """Compare what another project asserts; its messages have a channel's ack for its number."""
    asserts = pair["expected"]["asserts"]
    described, *behind = json.loads(pair["raw"])
    levels = f"-{described['len']}" if "len" in described else ""
    stream = Stream(described["channel"] + levels, described["symbol"])
    reader = adapter(Bitfinex, [stream])
    outputs = parse(reader, [ack(stream, 5), json.dumps([5, *behind]).encode()])
    if "trade.side" in asserts:
        (trade,) = only(Trade, outputs)
        assert trade.side == asserts["trade.side"]
        assert trade.ts == asserts["timestamp"] * 1_000
        assert is_same(trade.size, asserts["trade.quantity_base"])
    elif "orderbook.asks.len()" in asserts:
        (book,) = only(Book, outputs)
        for side, shown in (("bids", book.bids), ("asks", book.asks)):
            assert len(shown) == asserts[f"orderbook.{side}.len()"]
            for at in (0, len(shown) - 1):
                assert is_same(shown[at][0], asserts[f"orderbook.{side}[{at}].price"])
                assert is_same(shown[at][1], asserts[f"orderbook.{side}[{at}].quantity_base"])
    elif "trades.len()" in asserts:
        assert outputs == [], "old trades are not told"
    else:
        assert len(only(Ticker, outputs)) == 1
    return 1


def test_the_venue_answers_with_the_recorded_acks_and_their_numbers() -> None:
    venue = BitfinexVenue()
    recording = Session(Bitfinex, venue, SESSION)
    assert {one.channel for one in recording.streams} == {"book-250", "trades", "ticker", "status"}
    asked = {"event": "subscribe", "channel": "book", "symbol": BTC, "len": "25"}
    given = venue.request("/ws/2", json.dumps(asked))
    assert given.streams == (Stream("book-250", BTC),) and not given.unsubscribe
    (answer,) = given.frames
    assert answer.encode() in recording.frames
    number = json.loads(answer)["chanId"]
    back = venue.request("/ws/2", json.dumps({"event": "unsubscribe", "chanId": number}))
    assert back.unsubscribe and back.streams == given.streams
    unknown = venue.request("/ws/2", json.dumps(asked | {"symbol": "tNOPEUSD"}))
    assert json.loads(unknown.frames[0])["code"] == 10300 and unknown.streams == ()
    assert venue.request("", '{"event":"unsubscribe","chanId":1}').streams == ()
    assert venue.request("", "nonsense").frames == ()
    notice = venue.farewell(0)
    assert notice is not None
    assert parse(subscribed(), [notice.encode()]) == [Leave("restart", True)]
    (path,) = Bitfinex.listing_paths
    assert venue.rest_key(Bitfinex.rest_url + path) == "listing"
    assert venue.rest_key("/v2/trades/tBTCUSD/hist") is None


def test_the_venue_numbers_each_connection_s_frames_from_one() -> None:
    venue = BitfinexVenue()
    recording = Session(Bitfinex, venue, SESSION)
    number = venue.numbering()
    assert number is not None
    cut = [one for one in recording.frames if one.startswith(b"[")][100:110]
    numbered = [json.loads(number(one)) for one in cut]
    assert [one[-2] for one in numbered] == list(range(1, 11))
    assert [one[:-2] for one in numbered] == [json.loads(one)[:-2] for one in cut]
    assert number(b'{"event":"pong"}') == b'{"event":"pong"}'


def test_who_comes_late_is_told_a_book_that_keeps_its_checksums() -> None:
    venue = BitfinexVenue()
    recording = Session(Bitfinex, venue, SESSION)
    cut = len(recording.frames) // 2
    told = {stream: venue.standing(stream, {}) for stream in recording.streams}
    for frame in recording.frames[:cut]:
        stream = venue.stream_of(TapeLine(dir="in", raw=frame.decode()))
        standing = told.get(stream) if stream else None
        if standing is not None:
            standing.take(frame)
    acks = [one for one in recording.frames if b'"subscribed"' in one]
    number = venue.numbering()
    assert number is not None
    starts = [body for one in told.values() if one and (body := one.told())]
    assert len(starts) == len(recording.streams)
    late = recording.adapter()
    parse(late, acks)
    outputs = parse(late, [number(one) for one in [*starts, *recording.frames[cut:]]])
    assert only(Gap, outputs) == [] and only(Health, outputs) == []
    assert clients_books(outputs) == clients_books(recording.run().outputs)
