"""The Binance adapters on recorded sessions: all of it read, digit for digit, at any pace."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from adapters.base import Checkpoint, Health, Stream
from adapters.exchanges.binance.adapter import (
    CHANNELS,
    Binance,
    BinanceCoinm,
    BinanceUs,
    BinanceUsdm,
)
from feed.models import Book, Depth, Gap, Level, Liquidation, Quote, Trade
from tests.adapters.binance_kit import (
    COINM,
    SPOT,
    US,
    USDM,
    AnyBinance,
    Reader,
    Tape,
    adapter,
    answer,
    only,
)
from tests.adapters.tapes import CAPTURES, Run, captures, run

BUNDLED_SPOT = [SPOT / "session.jsonl", SPOT / "trades.jsonl"]
BUNDLED_USDM = [USDM / "session.jsonl", USDM / "trades.jsonl"]
RECORDINGS = [
    *(pytest.param(Binance, path, id=f"spot-{path.name}") for path in BUNDLED_SPOT),
    *(pytest.param(BinanceUsdm, path, id=f"usdm-{path.name}") for path in BUNDLED_USDM),
    pytest.param(BinanceCoinm, COINM / "session.jsonl", id="coinm-session.jsonl"),
    pytest.param(BinanceUs, US / "session.jsonl", id="us-session.jsonl"),
    *(
        pytest.param(cls, *found.values, id=found.id, marks=found.marks)
        for cls, exchange in (
            (Binance, "binance-spot"),
            (BinanceUsdm, "binance-usdm"),
            (BinanceCoinm, "binance-coinm"),
            (BinanceUs, "binance-us"),
        )
        for found in captures(exchange)
    ),
]
recordings = pytest.mark.parametrize(("cls", "path"), RECORDINGS)


def by_topic(done: Run) -> dict[str, list[bytes]]:
    """Return what would be published, topic by topic, without the receive times."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for output in done.outputs:
        if isinstance(output, Checkpoint):
            book = replace(output.book, recv=0)
            found[f"checkpoint {book.topic}"].append(msgspec.json.encode(book))
        elif isinstance(output, Trade | Quote | Book | Depth | Gap):
            found[output.topic].append(msgspec.json.encode(replace(output, recv=0)))
        elif isinstance(output, Health):
            found[f"health {output.native}"].append(msgspec.json.encode(output))
    return found


@recordings
def test_every_frame_is_read_or_of_a_type_left_out_on_purpose(cls: AnyBinance, path: Path) -> None:
    recording = Tape(cls, path)
    done = run(recording.adapter(), recording.frames, recording.rest())
    assert done.bad == []
    assert only(Gap, done.outputs) == []
    assert only(Health, done.outputs) == []


@recordings
def test_every_trade_is_there_digit_for_digit(cls: AnyBinance, path: Path) -> None:
    recording = Tape(cls, path)
    done = run(recording.adapter(), recording.frames, recording.rest())
    sent = [
        (
            f"trade.{cls.name}.{cls.instrument(trade['s']).symbol}",  # type: ignore[union-attr]
            str(trade["t"] if trade["e"] == "trade" else trade["a"]),
            trade["p"],
            trade["q"],
            "sell" if trade["m"] else "buy",
            trade["T"] * 1000,
        )
        for trade in recording.payloads("trade", "aggTrade")
    ]
    trades = only(Trade, done.outputs)
    assert [(t.topic, t.id, t.price, t.size, t.side, t.ts) for t in trades] == sent


@recordings
def test_every_quote_is_there_digit_for_digit(cls: AnyBinance, path: Path) -> None:
    recording = Tape(cls, path)
    done = run(recording.adapter(), recording.frames, recording.rest())
    sent = [
        (best["b"], best["B"], best["a"], best["A"]) for best in recording.payloads("bookTicker")
    ]
    quotes = only(Quote, done.outputs)
    assert [(q.bid, q.bid_size, q.ask, q.ask_size) for q in quotes] == sent


def naive_book(recording: Tape, native: str) -> tuple[dict[str, str], dict[str, str], float, float]:
    """Return the book at the end of the recording, and the worst prices known."""
    snapshot = json.loads(recording.bodies[f"depth:{native}"])
    bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
    worst_bid = float(snapshot["bids"][-1][0]) if len(bids) in (100, 1000) else 0.0
    worst_ask = float(snapshot["asks"][-1][0]) if len(asks) in (100, 1000) else float("inf")
    updates = [
        frame["data"]
        for frame in map(json.loads, recording.frames)
        if frame["stream"].startswith(f"{native.lower()}@depth")
    ]
    for update in updates:
        if update["u"] > snapshot["lastUpdateId"]:
            for side, changes in ((bids, update["b"]), (asks, update["a"])):
                for price, size in changes:
                    side.pop(price, None)
                    if float(size):
                        side[price] = size
    return bids, asks, worst_bid, worst_ask


@recordings
def test_books_are_the_exchange_s_books_and_never_crossed(cls: AnyBinance, path: Path) -> None:
    recording = Tape(cls, path)
    done = run(recording.adapter(), recording.frames, recording.rest())
    shown: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    for output in done.outputs:
        if isinstance(output, Depth) and output.bids and output.asks:
            assert float(output.bids[0][0]) < float(output.asks[0][0])
        if not isinstance(output, Book):
            continue
        if output.snapshot:
            shown[output.topic] = (dict(output.bids), dict(output.asks))
        for side, changes in zip(shown[output.topic], (output.bids, output.asks), strict=True):
            for price, size in changes:
                if size == "0":
                    del side[price]
                else:
                    side[price] = size
    natives = {key.removeprefix("depth:") for key in recording.bodies}
    assert len(shown) == len(natives)
    for native in natives:
        instrument = cls.instrument(native)
        assert instrument is not None
        bids, asks, worst_bid, worst_ask = naive_book(recording, native)
        known_bids = [level for level in bids.items() if float(level[0]) >= worst_bid]
        known_asks = [level for level in asks.items() if float(level[0]) <= worst_ask]
        true_bids = sorted(known_bids, key=lambda level: -float(level[0]))[:1000]
        true_asks = sorted(known_asks, key=lambda level: float(level[0]))[:1000]
        mine = shown[f"book.{cls.name}.{instrument.symbol}"]
        assert mine == (dict(true_bids), dict(true_asks))


@recordings
def test_what_is_published_does_not_depend_on_when_the_snapshot_comes(
    cls: AnyBinance, path: Path
) -> None:
    recording = Tape(cls, path)
    frames = recording.frames[:3000]
    prompt = by_topic(run(recording.adapter(), frames, recording.rest()))
    for late in (1, 7, 60):
        reader = recording.adapter()
        # More frames than there are would leave the last snapshots unanswered.
        done = run(reader, frames, recording.rest(), answer_after=min(late, len(frames) // 3))
        assert by_topic(done) == prompt


@pytest.mark.parametrize(
    ("cls", "path"),
    [
        pytest.param(cls, path, id=f"{cls.name}-{path.parent.name}")
        for cls, path in (
            (Binance, SPOT / "samples.jsonl"),
            (BinanceUsdm, USDM / "samples.jsonl"),
            (Binance, CAPTURES / "binance-spot" / "samples.jsonl"),
            (BinanceUsdm, CAPTURES / "binance-usdm" / "samples.jsonl"),
            (BinanceCoinm, CAPTURES / "binance-coinm" / "samples.jsonl"),
        )
    ],
)
def test_sample_messages_are_read(cls: AnyBinance, path: Path) -> None:
    if not path.exists():
        pytest.skip("no recordings beside the repository")
    for text in path.read_text().splitlines():
        sample = json.loads(text)
        frame = json.loads(sample["raw"])
        if sample["dir"] != "in" or "lastUpdateId" in frame:
            continue
        data = frame.get("data", frame)
        native = native_of(data)
        # A name of no instrument is that of a pair: COIN-M has candles of one.
        if cls.instrument(native) is None or frame.get("stream", "").startswith("!"):
            other = "BTCUSD_PERP" if cls is BinanceCoinm else "BTCUSDT"
            reader = adapter(cls, [Stream("trade", other)])
            assert list(reader.parse(sample["raw"].encode(), 1)) == []
            continue
        # The names of streams are invented (btcusdt@trade holds a trade of BNBBTC): the bare
        # payload says whose it is.
        kind: str = data.get("e", "bookTicker")
        partial = "depth5" in frame.get("stream", "")
        reader = adapter(cls, [Stream(CHANNELS.get(kind, kind), native)])
        outputs = list(reader.parse(json.dumps(data).encode(), 1))
        names = {"kline", "24hrMiniTicker", "1hTicker", "compositeIndex", "contractInfo"}
        assert partial or (kind in names) == (outputs == []), sample["raw"]


def native_of(data: Any) -> str:
    """Return the symbol of a payload; empty where it names none."""
    if not isinstance(data, dict):
        return ""
    inner = data["o"] if data.get("e") == "forceOrder" else data
    return str(inner.get("s", ""))


def agrees(text: str | None, value: float | None) -> bool:
    return text is None if value is None else text is not None and float(text) == value


#: Pairs of others' tests that say something else on purpose, by a part of the message.
DIFFERENT = {
    '"stream":"!bookTicker"': "one stream of all symbols, which we do not subscribe to",
    "@kline": "candles are made from trades",
    "TICKER_ALL": "an option, of another exchange",
    "TRADE_ALL": "options, of another exchange",
    "etcusdt@trade": "of USD-M, among the pairs of COIN-M; read as such below",
    "@depth5": "the best levels alone; depth is made from the book",
    "@depth20": "the best levels alone; depth is made from the book",
    "openInterest": "by REST only; not polled",
}


def pairs(exchange: str, cls: AnyBinance) -> list[object]:
    path = CAPTURES / exchange / "expected.jsonl"
    if not path.exists():
        skip = pytest.mark.skip(reason="no recordings beside the repository")
        return [pytest.param(cls, {}, id=exchange, marks=skip)]
    found = [json.loads(text) for text in path.read_text().splitlines()]
    return [
        pytest.param(cls, pair, id=f"{cls.name}-{number}")
        for number, pair in enumerate(found)
        if not any(part in pair["raw"] for part in DIFFERENT)
    ]


@pytest.mark.parametrize(
    ("cls", "pair"),
    [
        *pairs("binance-spot", Binance),
        *pairs("binance-usdm", BinanceUsdm),
        *pairs("binance-coinm", BinanceCoinm),
    ],
)
def test_pairs_of_other_projects_agree(cls: AnyBinance, pair: dict[str, Any]) -> None:
    frame = json.loads(pair["raw"])
    if "lastUpdateId" in frame or "Snapshot" in frame.get("stream", ""):
        check_snapshot(cls, frame.get("data", frame), pair)
        return
    data, channel = frame["data"], frame["stream"].partition("@")[2]
    reader = adapter(cls, [Stream(channel, native_of(data))])
    if channel.startswith("depth"):
        check_update(reader, data, pair)
        return
    if channel == "aggTrade" and "a" not in data:  # of 2019, before these trades had ids
        with pytest.raises(ValueError, match="missing"):
            raise_cause(reader, pair["raw"])
        return
    (event,) = reader.parse(pair["raw"].encode(), 1)
    if pair["schema"] == "tardis":
        for expected in pair["expected"]:
            check_tardis(event, expected)
        return
    for name, value in pair["expected"]["asserts"].items():
        check_assert(event, name, value, data)


def raise_cause(reader: Reader, raw: str) -> None:
    from feed.errors import BadPayload

    try:
        list(reader.parse(raw.encode(), 1))
    except BadPayload as e:
        assert e.__cause__ is not None
        raise e.__cause__ from None


def micros(text: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(text).timestamp() * 1000) * 1000


def check_tardis(event: Any, expected: dict[str, Any]) -> None:
    match expected["type"]:
        case "trade":
            assert (event.id, event.side) == (expected["id"], expected["side"])
            assert agrees(event.price, expected["price"]) and agrees(event.size, expected["amount"])
            assert event.ts == micros(expected["timestamp"])
        case "book_ticker":  # their time is the recorder's, spot sends none
            assert agrees(event.bid, expected["bidPrice"]) and agrees(
                event.bid_size, expected["bidAmount"]
            )
            assert agrees(event.ask, expected["askPrice"]) and agrees(
                event.ask_size, expected["askAmount"]
            )
        case "liquidation":
            assert isinstance(event, Liquidation)
            assert (event.id, event.side) == (expected["id"], expected["side"])
            assert agrees(event.price, expected["price"]) and agrees(event.size, expected["amount"])
            assert event.ts == micros(expected["timestamp"])
        case "derivative_ticker" if event.topic.startswith("derivative."):
            assert agrees(event.mark, expected["markPrice"])
            assert agrees(event.index, expected["indexPrice"])
            assert agrees(event.funding_rate, expected["fundingRate"])
            assert event.ts == micros(expected["timestamp"])
            when = expected["fundingTimestamp"]
            assert event.funding_time == (None if when is None else micros(when))
        case "derivative_ticker":  # theirs gathers several messages; this one brings the last price
            assert agrees(event.last, expected["lastPrice"])
            assert event.ts == micros(expected["timestamp"])
        case other:
            pytest.fail(f"unknown type {other}")


def check_assert(event: Any, name: str, value: Any, data: dict[str, Any]) -> None:
    match name:
        case "timestamp":
            # They say when it was sent; of a trade we say when it was matched.
            assert event.ts == (data["T"] if "m" in data else value) * 1000
        case "trade.side":
            assert event.side == value
        case "trade.quantity_base" if not event.topic.startswith("trade.binance-coinm."):
            assert agrees(event.size, value)
        case "funding_rates[0].funding_rate":
            assert agrees(event.funding_rate, value)
        case "funding_rates[0].funding_time":
            assert event.funding_time == value * 1000
        case "trade.quantity_contract" if event.topic.startswith("trade.binance-coinm."):
            assert agrees(event.size, value)
        case "symbol":
            assert data["s"] == value
        case _:  # turnover and contracts, which we do not work out, and counts of their lists
            assert "quantity" in name or "len" in name or "pair" in name or "timestamp" in name


def check_update(reader: Reader, data: dict[str, Any], pair: dict[str, Any]) -> None:
    """Join the update to a made snapshot of other sizes, so that all of it is news."""
    before = data["U"] - 1
    if not isinstance(reader, Binance):  # within it, or, of a single id, at its predecessor
        before = data["U"] if data["U"] < data["u"] else data["pu"]
    sides = [[[price, "987"] for price, _ in data[side]] for side in "ba"]
    frame = {"stream": f"{data['s'].lower()}@depth", "data": data}
    reader.parse(json.dumps(frame).encode(), 1)
    outputs = list(reader.fetched(f"depth:{data['s']}", answer(before, *sides), 2))
    _, update = only(Book, outputs)
    sent: list[Level] = [(p, s if float(s) else "0") for p, s in (*data["b"], *data["a"])]
    assert [*update.bids, *update.asks] == sent
    assert update.ts == data["E"] * 1000
    for name, value in pair["expected"]["asserts"].items() if pair["schema"] != "tardis" else ():
        if name in ("timestamp", "orderbook.timestamp"):
            assert update.ts == value * 1000


def check_snapshot(cls: AnyBinance, data: dict[str, Any], pair: dict[str, Any]) -> None:
    """Join the snapshot to an update that ends with it; then it is the book."""
    native = data.get("symbol", "BTCUSDT")
    reader = adapter(cls, [Stream("depth", native)])
    last = data["lastUpdateId"]
    update = {"e": "depthUpdate", "E": 5, "s": native, "U": last, "u": last, "pu": 1}
    frame = {"stream": f"{native.lower()}@depth", "data": {**update, "b": [], "a": []}}
    reader.parse(json.dumps(frame).encode(), 1)
    outputs = list(reader.fetched(f"depth:{native}", json.dumps(data).encode(), 2))
    (book,) = only(Book, outputs)
    assert book.snapshot
    assert [list(level) for level in book.bids] == data["bids"]
    assert [list(level) for level in book.asks] == data["asks"]
    if pair["schema"] == "tardis":
        return  # theirs has the update before it applied: see the test below
    for name, value in pair["expected"]["asserts"].items():
        size = "contract" if cls is BinanceCoinm else "base"
        if name.endswith(".price") or name.endswith(f".quantity_{size}"):
            side = book.bids if "bids" in name else book.asks
            number = int(name.partition("[")[2].partition("]")[0])
            assert agrees(side[number][name.endswith(size)], value)
        elif name in ("timestamp", "orderbook.timestamp"):
            assert book.ts == value * 1000


@pytest.mark.parametrize(
    ("cls", "exchange"), [(Binance, "binance-spot"), (BinanceUsdm, "binance-usdm")]
)
def test_a_joined_book_is_what_another_project_makes_of_it(cls: AnyBinance, exchange: str) -> None:
    path = CAPTURES / exchange / "expected.jsonl"
    if not path.exists():
        pytest.skip("no recordings beside the repository")
    found = [json.loads(text) for text in path.read_text().splitlines()]
    books = [pair for pair in found if "@depth" in pair["raw"] and pair["schema"] == "tardis"]
    at = next(i for i, pair in enumerate(books) if "Snapshot" in pair["raw"])
    frames = [json.loads(pair["raw"]) for pair in books]
    reader = adapter(cls, [Stream(frames[0]["stream"].partition("@")[2], frames[0]["data"]["s"])])
    for frame in frames[:at]:
        reader.parse(json.dumps(frame).encode(), 1)
    key = f"depth:{frames[0]['data']['s']}"
    outputs = list(reader.fetched(key, json.dumps(frames[at]["data"]).encode(), 2))
    shown: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for book in only(Book, outputs):
        for side, changes in zip(shown, (book.bids, book.asks), strict=True):
            side.update(changes)
    (expected,) = books[at]["expected"]
    for side, name in zip(shown, ("bids", "asks"), strict=True):
        theirs = {level["price"]: level["amount"] for level in expected[name]}
        mine = {float(price): float(size) for price, size in side.items()}
        assert mine == theirs
    # The update after it overlaps (spot) or does not follow (futures): the ids are invented, they
    # look at none. For us the book is broken, which is right for a real one.
    broken = list(reader.parse(json.dumps(frames[at + 1]).encode(), 3))
    if cls is Binance:
        assert [health.state for health in only(Health, broken)] == ["invalid"]
    else:
        assert broken == []  # its ids are those of the update before: a repeat
