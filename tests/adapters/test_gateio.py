"""Gate: update ids, REST joins, contracts of a fraction, refusals.

Messages are in ``payloads/gateio`` and ``payloads/gateio-futures``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from adapters.base import (
    Adapter,
    Fetch,
    Health,
    Leave,
    Output,
    Refused,
    Send,
    Stream,
)
from adapters.channels import RESUBSCRIBE_US
from adapters.exchanges.gateio.adapter import GateIo, GateIoFutures
from adapters.exchanges.gateio.gate import SYMBOLS_PER_REQUEST, UPDATE_LEVELS
from adapters.exchanges.gateio.venue import GateIoFuturesVenue, GateIoVenue
from adapters.registry import REGISTRY
from adapters.replay import FakeExchange
from adapters.rest import Rest
from adapters.trade_ids import KNOWN_TRADES
from feed.errors import BadPayload
from feed.models import Book, Derivative, Gap, Quote, Ticker, Trade
from tests.adapters import broken
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

NAMES = ("gateio", "gateio-futures")
names = pytest.mark.parametrize("name", NAMES)
recordings = pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param(name, one.values[0], id=f"{name}-{one.id}", marks=one.marks)
        for name in NAMES
        for one in (
            pytest.param(PAYLOADS / name / "session.jsonl", id="bundled"),
            pytest.param(PAYLOADS / name / "updates.jsonl", id="updates"),
            *captures(name),
        )
    ],
)


def session(name: str, path: Path) -> Session:
    entry = REGISTRY[name]
    return Session(entry.load_adapter(), entry.load_venue()(), path)


def spot(*channels: str, native: str = "BTC_USDT") -> Adapter:
    return adapter(GateIo, [Stream(one, native) for one in channels])


def futures(*channels: str, native: str = "BTC_USDT") -> Adapter:
    return adapter(GateIoFutures, [Stream(one, native) for one in channels])


def parse(reader: Adapter, frames: Sequence[bytes], recv: int = 0) -> list[Output]:
    return [output for one in frames for output in reader.parse(one, recv)]


def message(channel: str, result: Any, event: str = "update", **fields: Any) -> bytes:
    told = {"time": 1789300800, "time_ms": 1789300800123, "channel": channel, "event": event}
    return json.dumps(told | fields | {"result": result}, separators=(",", ":")).encode()


def obu(u: int, *levels: list[list[str]], first: int | None = None, market: str = "spot") -> bytes:
    """Return an update; a full one where it has no first change."""
    result: dict[str, Any] = {"t": 1789300800100, "s": "ob.BTC_USDT.400", "u": u}
    result |= {"full": True} if first is None else {"U": first}
    result |= dict(zip("ba", levels, strict=False))
    return message(f"{market}.obu", result)


def start(u: int = 10) -> bytes:
    return obu(u, [["100", "1"]], [["101", "2"]])


def update(first: int, u: int, bids: list[Any], asks: list[Any] | None = None) -> bytes:
    result = {"t": 1789300800100, "s": "BTC_USDT", "U": first, "u": u, "b": bids, "a": asks or []}
    return message("spot.order_book_update", result)


def rest(number: int, bids: list[Any], asks: list[Any]) -> bytes:
    return json.dumps({"id": number, "asks": asks, "bids": bids}).encode()


def spot_trade(number: int, **fields: Any) -> bytes:
    result = {
        "id": number,
        "create_time": 1789300800,
        "create_time_ms": "1789300800402.208000",
        "side": "sell",
        "currency_pair": "BTC_USDT",
        "amount": "0.000021",
        "price": "77474",
        "range": f"{number}-{number}",
    }
    return message("spot.trades", result | fields)


def contract_trades(*trades: tuple[int, Any], **fields: Any) -> bytes:
    result = [
        {"contract": "BTC_USDT", "create_time_ms": 5, "id": number, "price": "7.50", "size": size}
        for number, size in trades
    ]
    return message("futures.trades", [one | fields for one in result])


def raw_levels(given: list[Any]) -> list[list[str]]:
    return [[one["p"], one["s"]] if isinstance(one, dict) else one for one in given]


@recordings
def test_every_trade_is_there_digit_for_digit(name: str, path: Path) -> None:
    recording = session(name, path)
    sent = []
    for told in recording.payloads():
        if told["event"] != "update" or not told["channel"].endswith(".trades"):
            continue
        for one in told["result"] if name == "gateio-futures" else [told["result"]]:
            size = one.get("amount") or one["size"]
            side = one.get("side") or ("sell" if size.startswith("-") else "buy")
            ts = int(one["create_time_ms"].partition(".")[0])
            sent.append((one["id"], one["price"], size.removeprefix("-"), side, ts))
    trades = only(Trade, recording.run().outputs)
    assert [(t.id, t.price, t.size, t.side, (t.ts or 0) // 1_000) for t in trades] == sent


@recordings
def test_books_are_the_exchange_s_books_and_updates_leave_no_hole(name: str, path: Path) -> None:
    recording = session(name, path)
    naive: dict[str, Sides] = {}
    last: dict[str, int] = {}
    last_seen: dict[str, int] = {}
    for key, bodies in recording.bodies.items():
        if key.startswith("depth:"):
            body = json.loads(bodies[0], parse_float=str, parse_int=str)
            native = key.removeprefix("depth:")
            naive[native] = ({}, {})
            apply(naive[native], raw_levels(body["bids"]), raw_levels(body["asks"]))
            last[native] = int(body["id"])
    for told in recording.payloads():
        is_book = told["channel"].endswith((".obu", ".order_book_update"))
        if told["event"] != "update" or not is_book:
            continue
        result = told["result"]
        native = result["s"].removeprefix("ob.").removesuffix(".400")
        if "full" in result:
            naive[native], last[native] = ({}, {}), 0
        else:
            assert last_seen.get(native) in (None, int(result["U"]) - 1)
        last_seen[native] = int(result["u"])
        if int(result["u"]) > last[native]:
            bids, asks = raw_levels(result.get("b", [])), raw_levels(result.get("a", []))
            apply(naive[native], bids, asks)
        limit = 400 if told["channel"].endswith("obu") else UPDATE_LEVELS
        assert all(len(side) <= limit for side in naive[native]), "levels that leave are told"
    instruments = recording.adapter().plan_.instruments
    assert clients_books(recording.run().outputs) == {
        f"book.{name}.{instruments[native].symbol}": sides for native, sides in naive.items()
    }


@recordings
def test_quotes_are_those_of_the_best_price_s_channel_where_it_is_there(
    name: str, path: Path
) -> None:
    recording = session(name, path)
    sent = []
    for told in recording.payloads():
        if told["event"] == "update" and told["channel"].endswith(".book_ticker"):
            best = told["result"]
            sent.append((best["s"], int(best["t"]), best["b"], best["B"], best["a"], best["A"]))
    reader = recording.adapter()
    of = {
        f"quote.{name}.{instrument.symbol}": native
        for native, instrument in reader.plan_.instruments.items()
        if Stream("book_ticker", native) in reader.plan_.streams
    }
    shown = [
        (of[one.topic], (one.ts or 0) // 1_000, one.bid, one.bid_size, one.ask, one.ask_size)
        for one in only(Quote, recording.run().outputs)
        if one.topic in of
    ]
    assert shown == sent


def test_a_hole_in_the_updates_makes_the_book_invalid_until_a_full_one() -> None:
    reader = spot("obu.400", "trades")
    first = [start(), obu(14, [["99", "1"]], [], first=11)]
    assert len(only(Book, parse(reader, first))) == 2
    lost = parse(reader, [obu(16, [["98", "1"]], [], first=16)])
    assert lost[0] == Health("BTC_USDT", ("book", "depth", "quote"), "invalid", "sequence")
    assert lost[1] == Gap("book.gateio.BTC-USDT", 0, None, 0, 0, "upstream_sequence", None)
    requests = [json.loads(one.frame) for one in only(Send, lost)]
    assert [one["event"] for one in requests] == ["unsubscribe", "subscribe"]
    assert all(one["channel"] == "spot.obu" for one in requests)
    assert all(one["payload"] == ["ob.BTC_USDT.400"] for one in requests)
    assert parse(reader, [obu(17, [["98", "1"]], [], first=17)], 1) == []
    again = parse(reader, [obu(18, [["98", "1"]], [], first=18)], RESUBSCRIBE_US)
    assert len(only(Send, again)) == 2, "a full one that never came is asked for again"
    fresh = parse(reader, [start(30)], RESUBSCRIBE_US + 1)
    assert only(Book, fresh)[0].snapshot
    assert fresh[-1] == Health("BTC_USDT", ("book", "depth", "quote"), "live", None)
    assert only(Book, parse(reader, [obu(31, [["98", "1"]], [], first=31)], RESUBSCRIBE_US + 2))


def test_an_update_without_levels_moves_the_ids_on() -> None:
    reader = futures("obu.400")
    frames = [
        obu(10, [["100", "1"]], [["101", "2.5"]], market="futures"),
        obu(18, first=11, market="futures"),
        obu(19, [["100.5", "0.7"]], first=19, market="futures"),
    ]
    outputs = parse(reader, frames)
    assert only(Health, outputs) == []
    assert list(clients_books(outputs).values()) == [({"100": "1", "100.5": "0.7"}, {"101": "2.5"})]


def test_a_full_update_replaces_the_book_whenever_it_comes() -> None:
    outputs = parse(spot("obu.400"), [start(), obu(12, [["99", "1"]], [], first=11), start(500)])
    assert [one.snapshot for one in only(Book, outputs)] == [True, False, True]
    assert list(clients_books(outputs).values()) == [({"100": "1"}, {"101": "2"})]


def test_a_crossed_book_is_not_shown() -> None:
    outputs = parse(spot("obu.400"), [start(), obu(11, [["101", "1"]], [], first=11)])
    assert [one.reason for one in only(Health, outputs)] == ["crossed"]
    assert len(only(Book, outputs)) == 1


def test_updates_are_held_until_the_rest_snapshot_they_follow() -> None:
    reader = spot("order_book_update")
    asked = parse(reader, [update(8, 9, [["98", "7"]])])
    path = "/api/v4/spot/order_book?currency_pair=BTC_USDT&limit=100&with_id=true"
    assert asked == [Fetch(path, "depth:BTC_USDT")]
    # The second one begins before the snapshot and ends behind it.
    held = [update(10, 12, [["99", "3"]]), update(13, 14, [["99", "4"]])]
    assert parse(reader, held) == []
    outputs = list(reader.fetched("depth:BTC_USDT", rest(11, [["100", "1"]], [["101", "2"]]), 5))
    assert [one.snapshot for one in only(Book, outputs)] == [True, False, False]
    assert list(clients_books(outputs).values()) == [({"100": "1", "99": "4"}, {"101": "2"})]
    assert parse(reader, [update(13, 14, [["99", "4"]])]) == [], "had it"
    assert only(Book, parse(reader, [update(15, 15, [["99", "0"]])]))


def test_what_is_published_does_not_depend_on_when_the_snapshot_came() -> None:
    updates = [update(at, at, [[f"{90 + at % 7}", f"{at}"]]) for at in range(10, 30)]
    found = []
    for wait in (1, 15):
        reader = spot("order_book_update")
        outputs = parse(reader, updates[:wait])
        outputs += reader.fetched("depth:BTC_USDT", rest(9, [["80", "1"]], [["101", "2"]]), 5)
        outputs += parse(reader, updates[wait:])
        found.append([one for one in outputs if not isinstance(one, Fetch)])
    strip = [[(type(one), getattr(one, "bids", None)) for one in outputs] for outputs in found]
    assert strip[0] == strip[1]


def test_a_snapshot_older_than_the_updates_held_is_asked_for_again() -> None:
    reader = spot("order_book_update")
    parse(reader, [update(8, 9, [])])
    sides: tuple[list[Any], list[Any]] = ([["100", "1"]], [["101", "2"]])
    (again,) = reader.fetched("depth:BTC_USDT", rest(6, *sides), 1)
    assert isinstance(again, Fetch)
    assert list(reader.fetch_failed("depth:BTC_USDT", 2)) == [again]
    assert only(Book, reader.fetched("depth:BTC_USDT", rest(9, *sides), 3))
    assert list(reader.fetch_failed("depth:BTC_USDT", 4)) == []


def test_a_hole_behind_a_rest_snapshot_asks_for_another_one() -> None:
    reader = spot("order_book_update")
    parse(reader, [update(8, 9, [])])
    list(reader.fetched("depth:BTC_USDT", rest(9, [["100", "1"]], [["101", "2"]]), 1))
    lost = parse(reader, [update(11, 12, [["99", "5"]])])
    assert [type(one) for one in lost] == [Health, Gap, Fetch]
    joined = list(reader.fetched("depth:BTC_USDT", rest(10, [["100", "1"]], [["101", "2"]]), 2))
    assert only(Health, joined)[0].state == "live"
    assert list(clients_books(joined).values()) == [({"100": "1", "99": "5"}, {"101": "2"})]


def test_a_snapshot_that_cannot_be_read_changes_nothing() -> None:
    reader = spot("order_book_update")
    parse(reader, [update(8, 9, [])])
    for bad in (b"{}", rest(9, [["x", "1"]], []), rest(9, [["1", "1"], ["1.0", "2"]], [])):
        with pytest.raises(BadPayload):
            list(reader.fetched("depth:BTC_USDT", bad, 1))
    assert only(Book, reader.fetched("depth:BTC_USDT", rest(9, [["1", "1"]], []), 1))


def test_a_resync_of_either_channel_subscribes_it_alone_afresh() -> None:
    reader = spot("order_book_update", "trades")
    parse(reader, [update(8, 9, [])])
    list(reader.fetched("depth:BTC_USDT", rest(9, [["100", "1"]], [["101", "2"]]), 1))
    outputs = list(reader.resync([Stream("order_book_update", "BTC_USDT")], 2))
    payloads = [json.loads(one.frame)["payload"] for one in only(Send, outputs)]
    assert payloads == [["BTC_USDT", "100ms"]] * 2
    assert only(Health, outputs)[0].reason == "resync" and only(Fetch, outputs)
    outputs = list(futures("obu.400").resync([Stream("obu.400", "BTC_USDT")], 2))
    payloads = [json.loads(one.frame)["payload"] for one in only(Send, outputs)]
    assert payloads == [["ob.BTC_USDT.400"]] * 2 and len(outputs) == 2


@names
def test_trades_are_known_again_by_their_ids_and_come_in_any_order(name: str) -> None:
    reader = {"gateio": spot, "gateio-futures": futures}[name]("trades")

    def traded(number: int) -> bytes:
        return spot_trade(number) if name == "gateio" else contract_trades((number, "5"))

    outputs = parse(reader, [traded(7), traded(11), traded(9), traded(7), traded(8)])
    assert [one.id for one in only(Trade, outputs)] == ["7", "11", "9", "8"]
    assert only(Gap, outputs) == [] and reader.marks() == {}
    parse(reader, [traded(100 + number) for number in range(KNOWN_TRADES)])
    assert only(Trade, parse(reader, [traded(7)])), "forgotten, so that memory has a bound"


def test_a_spot_trade_has_the_taker_s_side_and_its_time_in_microseconds() -> None:
    (trade,) = parse(spot("trades"), [spot_trade(7)])
    name, ts = "trade.gateio.BTC-USDT", 1789300800402208
    assert trade == Trade(name, 0, ts, 0, 0, "7", "77474", "0.000021", "sell")


def test_a_negative_size_of_contracts_is_a_sale_and_may_be_a_fraction() -> None:
    sizes: list[tuple[Any, str, str]] = [
        (-108, "sell", "108"),
        ("-0.25", "sell", "0.25"),
        ("7", "buy", "7"),
        (9, "buy", "9"),
    ]
    frame = contract_trades(*((number, size) for number, (size, _, _) in enumerate(sizes)))
    trades = only(Trade, parse(futures("trades"), [frame]))
    assert [(one.side, one.size) for one in trades] == [one[1:] for one in sizes]


def test_a_takeover_of_a_liquidated_position_is_no_trade() -> None:
    assert parse(futures("trades"), [contract_trades((1, "5"), is_internal=True)]) == []


def test_bare_numbers_keep_their_digits() -> None:
    frame = contract_trades((1, -90)).replace(b'"7.50"', b"0.8360").replace(b"-90", b"-90.10")
    (trade,) = only(Trade, parse(futures("trades"), [frame]))
    assert (trade.price, trade.size) == ("0.8360", "90.10")


@names
async def test_decimal_sizes_are_asked_for_of_futures_in_handshakes_and_over_rest(
    name: str,
) -> None:
    asked: asyncio.Queue[str | None] = asyncio.Queue()

    def meet(socket: ServerConnection, request: Request) -> Response | None:
        asked.put_nowait(request.headers.get("X-Gate-Size-Decimal"))
        is_handshake = "Upgrade" in request.headers
        return None if is_handshake else socket.respond(HTTPStatus.OK, "[]")

    async def serves(socket: ServerConnection) -> None:
        await socket.wait_closed()

    expected = {"gateio": None, "gateio-futures": "1"}[name]
    async with serve(serves, "127.0.0.1", 0, process_request=meet) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with asyncio.timeout(30):
            async with broken.running(name, cast(FakeExchange, SimpleNamespace(url=url))):
                assert await asked.get() == expected
            async with Rest(url, REGISTRY[name].load_adapter().headers) as rest:
                assert await rest.get("/api/v4/any") == b"[]"
        assert asked.get_nowait() == expected


def test_an_empty_side_has_no_price() -> None:
    best = {"t": 0, "u": 0, "s": "BTC_USDT", "b": "", "B": 0, "a": "", "A": 0}
    (quote,) = parse(futures("book_ticker"), [message("futures.book_ticker", best)])
    assert isinstance(quote, Quote)
    assert (quote.ts, quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (None,) * 5
    half = best | {"t": 7, "b": "5.10", "B": "0.5"}
    (quote,) = parse(futures("book_ticker"), [message("futures.book_ticker", half)])
    assert isinstance(quote, Quote)
    assert (quote.ts, quote.bid, quote.bid_size, quote.ask) == (7_000, "5.10", "0.5", None)


def test_the_day_and_the_derivative_of_a_contract_are_said_when_they_change() -> None:
    day = {"last": "118.40", "high_24h": "132.5", "low_24h": "99.2", "volume_24h": "745487577"}
    derived = {
        "mark_price": "118.35",
        "index_price": "118.36",
        "funding_rate": "-0.000114",
        "funding_next_apply": 1789315200,
        "total_size": "73648.5",
    }
    told = {"contract": "BTC_USDT", **day, "volume_24h_quote": "1665006", **derived}
    reader, name = futures("tickers"), "gateio-futures.BTC-USDT-PERP"
    ts = 1789300800123000
    figures = ("118.40", None, "132.5", "99.2", "745487577", "1665006", None, None)
    assert parse(reader, [message("futures.tickers", [told])]) == [
        Ticker(f"ticker.{name}", 0, ts, 0, 0, *figures),
        Derivative(
            *(f"derivative.{name}", 0, ts, 0, 0, "118.35", "118.36", "-0.000114"),
            *(1789315200000000, "73648.5"),
        ),
    ]
    assert parse(reader, [message("futures.tickers", [told | {"change_percentage": "1"}])]) == []
    (changed,) = parse(reader, [message("futures.tickers", [told | {"mark_price": "118.37"}])])
    assert isinstance(changed, Derivative) and changed.mark == "118.37"


def test_a_message_without_milliseconds_is_of_its_second() -> None:
    told = json.loads(message("spot.tickers", {"currency_pair": "BTC_USDT", "last": "1"}))
    del told["time_ms"]
    (ticker,) = only(Ticker, parse(spot("tickers"), [json.dumps(told).encode()]))
    assert ticker.ts == 1789300800000000


def test_symbols_are_spread_over_requests_by_channel() -> None:
    natives = [f"C{number}_USDT" for number in range(SYMBOLS_PER_REQUEST + 1)]
    streams = [Stream(one, native) for native in natives for one in ("obu.400", "trades")]
    requests = [json.loads(one.frame) for one in only(Send, adapter(GateIo, streams).opened())]
    assert [(one["channel"], len(one["payload"])) for one in requests] == [
        ("spot.obu", SYMBOLS_PER_REQUEST),
        ("spot.obu", 1),
        ("spot.trades", SYMBOLS_PER_REQUEST),
        ("spot.trades", 1),
    ]
    assert [one["id"] for one in requests] == [1, 2, 3, 4]
    updates = [Stream("order_book_update", native) for native in natives[:2]]
    asked = [json.loads(one.frame) for one in only(Send, adapter(GateIoFutures, updates).opened())]
    assert [one["payload"] for one in asked] == [
        ["C0_USDT", "100ms", "100"],
        ["C1_USDT", "100ms", "100"],
    ]


def refusal(number: int, reason: str) -> bytes:
    error = {"code": 2, "message": reason}
    return message("spot.trades", {"status": "fail"}, "subscribe", id=number, error=error)


def test_one_unknown_symbol_does_not_cost_the_others() -> None:
    natives = ("BTC_USDT", "NO_USDT", "ETH_USDT")
    reader = adapter(GateIo, [Stream("trades", native) for native in natives])
    reader.opened()
    reason = "unknown currency pair NO_USDT"
    refused, again = parse(reader, [refusal(1, reason)])
    assert refused == Refused((Stream("trades", "NO_USDT"),), reason)
    assert isinstance(again, Send)
    assert json.loads(again.frame)["payload"] == ["BTC_USDT", "ETH_USDT"]
    apart = only(Send, parse(reader, [refusal(2, "service error")]))
    assert [json.loads(one.frame)["payload"] for one in apart] == [["BTC_USDT"], ["ETH_USDT"]]
    (refused,) = parse(reader, [refusal(3, "service error")])
    assert refused == Refused((Stream("trades", "BTC_USDT"),), "service error")
    with pytest.raises(BadPayload):
        parse(reader, [refusal(3, "service error")])


def test_acknowledgements_old_and_new_and_pongs_say_nothing() -> None:
    reader = spot("trades")
    reader.opened()
    success = {"status": "success"}
    frames = [
        message("spot.trades", success, "subscribe", id=1, payload=["BTC_USDT"]),
        b'{"time":1619093532,"channel":"spot.trades","event":"subscribe","result":{"status":"success"}}',
        message("spot.trades", success, "unsubscribe", id=0),
        message("spot.obu", {"status": "fail"}, "unsubscribe", id=0, error={"code": 2}),
        message("spot.pong", None, ""),
    ]
    assert parse(reader, frames) == []


def test_an_announced_upgrade_is_a_reason_to_leave_in_good_order() -> None:
    notice = {"type": "upgrade", "msg": "reconnect please"}
    outputs = parse(futures("trades"), [message("futures.system", notice)])
    assert outputs == [Leave("upgrade", serves_on=True)]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(start().replace(b"ob.BTC", b"ob.ETH"), id="symbol-not-carried"),
        pytest.param(start().replace(b".400", b".50"), id="depth-not-carried"),
        pytest.param(start().replace(b"1789300800100", b"99999999999999999"), id="time"),
        pytest.param(start().replace(b'"u":10', b'"u":"10"'), id="update-id-text"),
        pytest.param(obu(10, first=11), id="ends-before-it-begins"),
        pytest.param(start().replace(b'"full":true,', b""), id="neither-full-nor-first"),
        pytest.param(start().replace(b'"update"', b'"surprise"'), id="event"),
        pytest.param(message("spot.surprise", {}), id="unknown-channel"),
        pytest.param(message("futures.trades", []), id="other-market"),
        pytest.param(spot_trade(7, create_time_ms="99999999999999999"), id="trade-time"),
        pytest.param(spot_trade(7, amount=None), id="no-size"),
        pytest.param(spot_trade(7, side="none"), id="side"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(bad: bytes) -> None:
    with pytest.raises(BadPayload):
        parse(spot("obu.400", "trades"), [bad])


@pytest.mark.parametrize(
    ("frame", "gaps"),
    [
        pytest.param(contract_trades((1, "x")), 1, id="trades"),
        pytest.param(contract_trades((1, "5"))[:90], 1, id="half of trades"),
        pytest.param(b"\x00\xff garbage", 1, id="anything"),
        pytest.param(message("futures.obu", 7), 0, id="a book proves itself"),
        pytest.param(message("futures.tickers", 7), 0, id="a state is whole each time"),
        pytest.param(b'{"unheard":"of"}', 0, id="an unknown type"),
    ],
)
def test_an_unreadable_frame_is_declared_where_nothing_else_would_show_it(
    frame: bytes, gaps: int
) -> None:
    reader = futures("trades", "tickers", "obu.400")
    with pytest.raises(BadPayload):
        list(reader.parse(frame, 0))
    outputs = list(reader.unread(frame, 1))
    topic = "trade.gateio-futures.BTC-USDT-PERP"
    assert outputs == [Gap(topic, 0, None, 1, 0, "upstream_sequence", None)] * gaps
    assert not list(reader.unread(frame, 2)), "said once, not for every bad frame"


@pytest.mark.parametrize(
    ("cls", "native", "symbol"),
    [
        (GateIo, "BTC_USDT", "BTC-USDT"),
        (GateIo, "QTUM3S_USDT", "QTUM3S-USDT"),
        (GateIo, "HAI_ETH", "HAI-ETH"),
        (GateIo, "BTCUSDT", None),
        (GateIoFutures, "BTC_USDT", "BTC-USDT-PERP"),
        (GateIoFutures, "BTC_USD", None),
        (GateIoFutures, "BTC_USDT_20261225", None),
    ],
)
def test_names_without_a_listing(cls: type[Adapter], native: str, symbol: str | None) -> None:
    instrument = cls.instrument(native)
    assert (instrument.symbol if instrument else None) == symbol


def test_the_listings_are_read() -> None:
    pair = {"id": "ETH_USDT", "base": "ETH", "quote": "USDT", "trade_status": "tradable"}
    pairs = [pair | {"precision": 2, "amount_precision": 0}]
    pairs.append(pairs[0] | {"id": "OLD_USDT", "base": "OLD", "trade_status": "untradable"})
    found = GateIo.instruments([json.dumps(pairs).encode()])
    assert [(one.symbol, one.price_step, one.size_step, one.state) for one in found] == [
        ("ETH-USDT", "0.01", "1", "trading"),
        ("OLD-USDT", "0.01", "1", "untradable"),
    ]
    one: dict[str, Any] = {"name": "BTC_USDT", "type": "direct", "quanto_multiplier": "0.0001"}
    one |= {"order_price_round": "0.1", "status": "trading", "in_delisting": False}
    contracts = [
        one,
        one | {"name": "ETH_USDT", "enable_decimal": True, "in_delisting": True},
        one | {"name": "BTC_USD", "type": "inverse"},
    ]
    bitcoin, ether = GateIoFutures.instruments([json.dumps(contracts).encode()])
    assert (bitcoin.symbol, bitcoin.settle, bitcoin.inverse) == ("BTC-USDT-PERP", "USDT", False)
    assert (bitcoin.size_unit, bitcoin.contract_size) == ("contract", "0.0001")
    assert (bitcoin.contract_currency, bitcoin.price_step) == ("BTC", "0.1")
    assert (bitcoin.size_step, ether.size_step) == ("1", None), "told nowhere"
    assert (bitcoin.state, ether.state) == ("trading", "delisting")
    for cls in (GateIo, GateIoFutures):
        with pytest.raises(BadPayload):
            cls.instruments([b'{"label":"TOO_MANY_REQUESTS"}'])


#: Samples that are no message of ours, by a part of each -> why.
NOT_OURS = {
    "BTC_USD": "settles in BTC, at another address",
    "QUARTERLY": "dated contracts have an address of their own",
    '"futures.usertrades"': "private",
    '"futures.liquidates"': "private",
    '"futures.position_closes"': "private",
    '"futures.autoorders"': "private",
}


@names
def test_sample_messages_are_read(name: str) -> None:
    path = CAPTURES / name / "samples.jsonl"
    if not path.exists():
        pytest.skip(f"no recordings of {name} beside the repository")
    cls = REGISTRY[name].load_adapter()
    channels = ("obu.400", "order_book_update", "book_ticker", "trades", "tickers")
    natives = ("BTC_USDT", "ETH_USDT")
    fed = {"trades": Trade, "tickers": Ticker, "book_ticker": Quote, "order_book_update": Fetch}
    read = 0
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        if sample["dir"] != "in":
            continue
        frame = sample["raw"]
        told = json.loads(frame)
        reader = adapter(cls, [Stream(one, native) for native in natives for one in channels])
        why = next(
            (why for part, why in NOT_OURS.items() if part in frame.replace("_USDT", "")), None
        )
        if why is not None and told["channel"].partition(".")[2] not in reader.ignored:
            with pytest.raises(BadPayload):
                parse(reader, [frame.encode()])
            continue
        outputs = parse(reader, [frame.encode()])
        kind = fed.get(told["channel"].partition(".")[2])
        if told["event"] == "update" and kind is not None:
            assert any(isinstance(one, kind) for one in outputs), frame
        read += 1
    assert read >= 10


#: What is in a pair of another project that cannot agree -> why.
DIFFERENT = {
    '"method"': "v3 of the API, which is gone",
    '_USD"': "settles in BTC, at another address",
    "_USD_": "dated, and settles in BTC",
    "_USDT_": "dated contracts have an address of their own",
    '"event":"all"': "the best levels alone, ignored",
    '"channel":"futures.order_book"': "an older channel of the book, ignored",
    '"current"': "a REST body",
    '"long_liq_size"': "a REST body",
}


@names
def test_others_make_the_same_of_the_same_messages(name: str) -> None:
    path = CAPTURES / name / "expected.jsonl"
    if not path.exists():
        pytest.skip(f"no recordings of {name} beside the repository")
    cls = REGISTRY[name].load_adapter()
    compared = 0
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        frame = pair["raw"]
        if any(part in frame.replace(": ", ":") for part in DIFFERENT):
            continue
        told = json.loads(frame, parse_float=str)
        channel = told["channel"].partition(".")[2]
        result = told["result"][0] if isinstance(told["result"], list) else told["result"]
        native = result.get("currency_pair") or result.get("contract") or result.get("s")
        if native is None:  # an acknowledgement, a candle
            assert parse(adapter(cls, [Stream("trades", "BTC_USDT")]), [frame.encode()]) == []
            continue
        events = parse(adapter(cls, [Stream(channel, native)]), [frame.encode()])
        if pair["schema"] == "tardis":
            compared += sum(compare(other, events) for other in pair["expected"])
        else:
            compared += compare_values(pair["expected"]["asserts"], events)
    assert compared >= 3


def compare(other: dict[str, Any], events: list[Output]) -> int:
    """Compare one normalised message of tardis with our events of the same frame."""
    match other["type"]:
        case "trade":
            (trade,) = (one for one in only(Trade, events) if one.id == other["id"])
            assert trade.side == other["side"]
            assert is_same(trade.price, other["price"]) and is_same(trade.size, other["amount"])
        case "book_ticker":
            (quote,) = only(Quote, events)
            assert is_same(quote.bid, other["bidPrice"]) and is_same(quote.ask, other["askPrice"])
            assert is_same(quote.bid_size, other["bidAmount"])
            assert is_same(quote.ask_size, other["askAmount"])
        case _:
            raise AssertionError(f"{other['type']} is compared with nothing")
    return 1


def compare_values(values: dict[str, Any], events: list[Output]) -> int:
    """Compare what crypto-msg-parser asserts; quantities of contracts are theirs to convert."""
    for one in events:
        match one:
            case Trade():
                assert one.side == values.get("trade.side", one.side)
                assert is_same(one.size, values["trade.quantity_contract"])
                if "timestamp" in values:
                    assert one.ts == values["timestamp"] * 1_000
            case Quote():
                assert one.ts == values["bbo_msg.timestamp"] * 1_000
                assert is_same(one.bid, values["bbo_msg.bid_price"])
                assert is_same(one.ask, values["bbo_msg.ask_price"])
                assert is_same(one.bid_size, values["bbo_msg.bid_quantity_base"])
                assert is_same(one.ask_size, values["bbo_msg.ask_quantity_base"])
            case Ticker():
                assert one.ts == values["timestamp"] * 1_000
            case _:
                continue
        return 1
    return 0


@names
def test_the_venue_answers_in_the_documented_form_and_knows_its_own_market(name: str) -> None:
    venue = REGISTRY[name].load_venue()()
    recording = Session(REGISTRY[name].load_adapter(), venue, PAYLOADS / name / "session.jsonl")
    market = recording.adapter().market  # type: ignore[attr-defined]
    request = {"id": 9, "channel": f"{market}.obu", "event": "subscribe"}
    payload = {"payload": ["ob.BTC_USDT.400", "ob.ETH_USDT.400"]}
    ack = venue.request("", json.dumps(request | payload))
    assert ack.streams == (Stream("obu.400", "BTC_USDT"), Stream("obu.400", "ETH_USDT"))
    (answer,) = (json.loads(one) for one in ack.frames)
    assert answer["result"] == {"status": "success"} and answer["id"] == 9
    assert venue.request("", json.dumps(request | payload | {"event": "unsubscribe"})).unsubscribe
    other = {"gateio": GateIoFuturesVenue, "gateio-futures": GateIoVenue}[name]()
    ((refused,), other_streams) = (
        other.request("", json.dumps(request | payload)).frames,
        other.request("", json.dumps(request | payload)).streams,
    )
    assert other_streams == () and json.loads(refused)["error"]["code"] == 2
    assert venue.request("", "nonsense").streams == ()
    (path,) = recording.cls.listing_paths
    assert (venue.rest_key(path), other.rest_key(path)) == ("listing", None)


@names
def test_the_adapter_understands_what_the_venue_answers(name: str) -> None:
    venue = REGISTRY[name].load_venue()()
    cls = REGISTRY[name].load_adapter()
    recording = Session(cls, venue, PAYLOADS / name / "session.jsonl")
    unknown = Stream("trades", "NOSUCH_USDT")
    reader = adapter(cls, [*recording.streams, unknown])
    waiting = only(Send, reader.opened())
    refused: list[Refused] = []
    asked: list[Stream] = []
    while waiting:
        ack = venue.request("", waiting.pop().frame)
        asked += ack.streams
        outputs = parse(reader, [one.encode() for one in ack.frames])
        refused += only(Refused, outputs)
        waiting += only(Send, outputs)
    assert [one.streams for one in refused] == [(unknown,)]
    assert set(asked) == set(recording.streams)


@names
@pytest.mark.parametrize("fault", [None, "close:after=15:times=1"])
async def test_books_are_joined_to_rest_snapshots_over_sockets_too(
    name: str, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = PAYLOADS / name / "updates.jsonl"
    monkeypatch.setattr(broken, "_loaded", {})
    monkeypatch.setitem(broken.TAPES, name, (path, 40.0, 20.0))
    outcome = await broken.play(name, *([] if fault is None else [fault]))
    assert outcome.counters.bad_frames == 0
    broken.check_uncrossed(outcome)
    assert clients_books(outcome.events) == clients_books(session(name, path).run().outputs)
    assert (outcome.counters.reconnects > 0) == (fault is not None)
