"""Each exchange's trades of the past: what is asked for, and what an answer is read as."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from adapters.base import Adapter, Fetch, Mark, Page, Stream
from adapters.exchanges.binance.adapter import Binance, BinanceCoinm, BinanceUs, BinanceUsdm
from adapters.exchanges.bybit.adapter import Bybit
from adapters.exchanges.coinbase.adapter import Coinbase
from adapters.exchanges.kraken.adapter import Kraken
from feed.errors import BadPayload
from feed.models import Trade
from tests.adapters.sessions import adapter, only

SPOT = [
    {
        "id": 7,
        "price": "61837.63000000",
        "qty": "0.02000000",
        "quoteQty": "1236.75260000",
        "time": 1722988800123,
        "isBuyerMaker": True,
        "isBestMatch": True,
    },
    {"id": 8, "price": "61837.64", "qty": "1", "time": 1722988800124, "isBuyerMaker": False},
]
AGGREGATED = [
    {"a": 7, "p": "61837.6", "q": "0.020", "f": 1, "l": 3, "T": 1722988800123, "m": True},
    {"a": 8, "p": "0", "q": "0", "f": 4, "l": 4, "T": 1722988800124, "m": False},
]
COINBASE = [
    {"trade_id": 8, "side": "sell", "size": "1.0", "price": "2", "time": "2021-04-17T16:43:38Z"},
    {
        "trade_id": 7,
        "side": "buy",
        "size": "0.10",
        "price": "57786.80",
        "time": "2021-04-17T16:43:37.078325Z",
    },
]
KRAKEN = (
    '{"error":[],"result":{"XXBTZUSD":['
    '["30243.40000","0.34507674",1688669597.8277369,"b","m","",7],'
    '["30243.30000","0.00376960",1688669598.28,"s","l","",8]],"last":"1688671969993150842"}}'
)
CASES = [
    pytest.param(Binance, "trade", "BTCUSDT", json.dumps(SPOT), id="binance"),
    pytest.param(Binance, "aggTrade", "BTCUSDT", json.dumps(AGGREGATED), id="binance aggTrade"),
    pytest.param(BinanceUsdm, "aggTrade", "BTCUSDT", json.dumps(AGGREGATED), id="binance-usdm"),
    pytest.param(Coinbase, "matches", "BTC-USD", json.dumps(COINBASE), id="coinbase"),
    pytest.param(Kraken, "trade", "BTC/USD", KRAKEN, id="kraken"),
]
cases = pytest.mark.parametrize(("cls", "channel", "native", "body"), CASES)


def reader_of(cls: type[Adapter], channel: str, native: str) -> Adapter:
    return adapter(cls, [Stream(channel, native)])


def asked(reader: Adapter, native: str) -> Fetch:
    fetch = reader.backfill(native, Mark(6, 1_688_669_597_000_001))
    assert fetch is not None
    return fetch


@cases
def test_a_page_is_read_oldest_first_with_every_digit(
    cls: type[Adapter], channel: str, native: str, body: str
) -> None:
    reader = reader_of(cls, channel, native)
    (page,) = only(Page, reader.fetched(asked(reader, native).key, body.encode(), 99))
    assert page.native == native
    assert [number for number, _ in page.trades] == [7, 8]
    first = page.trades[0][1]
    assert isinstance(first, Trade)
    sent = body.replace(" ", "")
    assert f'"{first.price}"' in sent and f'"{first.size}"' in sent
    assert (first.id, first.recv, first.backfill) == ("7", 99, True)


@pytest.mark.parametrize(
    ("cls", "channel", "native", "body", "side", "ts"),
    [
        (Binance, "trade", "BTCUSDT", json.dumps(SPOT), "sell", 1722988800123000),
        (BinanceUsdm, "aggTrade", "BTCUSDT", json.dumps(AGGREGATED), "sell", 1722988800123000),
        (Coinbase, "matches", "BTC-USD", json.dumps(COINBASE), "sell", 1618677817078325),
        (Kraken, "trade", "BTC/USD", KRAKEN, "buy", 1688669597827736),
    ],
)
def test_the_side_is_the_taker_s_and_the_time_exact(
    cls: type[Adapter], channel: str, native: str, body: str, side: str, ts: int
) -> None:
    reader = reader_of(cls, channel, native)
    (page,) = only(Page, reader.fetched(asked(reader, native).key, body.encode(), 99))
    trade = page.trades[0][1]
    assert trade is not None
    assert (trade.side, trade.ts) == (side, ts)


def test_a_number_without_a_trade_is_kept_as_a_number() -> None:
    reader = reader_of(BinanceUsdm, "aggTrade", "BTCUSDT")
    body = json.dumps(AGGREGATED).encode()
    (page,) = only(Page, reader.fetched(asked(reader, "BTCUSDT").key, body, 0))
    assert page.trades[1] == (8, None)


@pytest.mark.parametrize(
    ("cls", "channel", "native", "path", "query"),
    [
        (Binance, "trade", "BTCUSDT", "/api/v3/historicalTrades", {"fromId": "7"}),
        (Binance, "aggTrade", "BTCUSDT", "/api/v3/aggTrades", {"fromId": "7"}),
        (BinanceUsdm, "aggTrade", "BTCUSDT", "/fapi/v1/aggTrades", {"fromId": "7"}),
        (BinanceCoinm, "aggTrade", "BTCUSD_PERP", "/dapi/v1/aggTrades", {"fromId": "7"}),
        (BinanceUs, "aggTrade", "BTCUSDT", "/api/v3/aggTrades", {"fromId": "7"}),
        # Pages end before ``after``: this one is 7 to 1006.
        (Coinbase, "matches", "BTC-USD", "/products/BTC-USD/trades", {"after": "1007"}),
        (
            Kraken,
            "trade",
            "BTC/USD",
            "/0/public/Trades",
            {"pair": "XBTUSD", "since": "1688669597000000999"},
        ),
    ],
)
def test_what_follows_the_last_trade_is_asked_for(
    cls: type[Adapter], channel: str, native: str, path: str, query: dict[str, str]
) -> None:
    parts = urlsplit(asked(reader_of(cls, channel, native), native).path)
    assert parts.path == path
    said = {key: value for key, (value,) in parse_qs(parts.query).items()}
    assert said.items() >= query.items()
    assert "1000" in (said.get("limit"), said.get("count"))


@pytest.mark.parametrize(
    ("cls", "channel"),
    [(BinanceUsdm, "trade"), (BinanceUs, "trade"), (Bybit, "publicTrade")],
    ids=["usdm", "us", "bybit"],
)
def test_where_the_exchange_asks_for_a_key_or_has_no_pages_nothing_is_fetched(
    cls: type[Adapter], channel: str
) -> None:
    assert reader_of(cls, channel, "BTCUSDT").backfill("BTCUSDT", Mark(6)) is None


@cases
@pytest.mark.parametrize(
    "bad", ["", "{", "[1]", '{"error":["x"],"result":{}}', '{"code":-2015,"msg":"key"}', "[" * 9999]
)
def test_an_answer_that_is_no_page_is_refused(
    cls: type[Adapter], channel: str, native: str, body: str, bad: str
) -> None:
    reader = reader_of(cls, channel, native)
    with pytest.raises(BadPayload):
        list(reader.fetched(asked(reader, native).key, bad.encode(), 0))
