"""Coinbase Advanced Trade's messages. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from adapters.text import Number

_MOST_DIGITS = 16


class Numbered(msgspec.Struct, tag_field="channel"):
    """What every message has: ``sequence_num`` counts all of a connection, whatever channel."""

    sequence_num: Number
    timestamp: str


class LevelChange(msgspec.Struct, gc=False):
    side: Literal["bid", "offer"]
    price_level: str
    new_quantity: str
    event_time: str


class BookEvent(msgspec.Struct):
    type: Literal["snapshot", "update"]
    product_id: str
    updates: list[LevelChange]


class Level2(Numbered, tag="l2_data"):
    events: list[BookEvent]


class TradeFields(msgspec.Struct, gc=False):
    product_id: str
    trade_id: str
    price: str
    size: str
    time: str
    side: Literal["BUY", "SELL"]

    @property
    def number(self) -> int:
        """Its place among the product's trades; ValueError where it has none."""
        text = self.trade_id
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            raise ValueError(f"{text[:40]!r} does not count trades")
        return int(text)


class TradesEvent(msgspec.Struct):
    type: Literal["snapshot", "update"]
    trades: list[TradeFields]


class MarketTrades(Numbered, tag="market_trades"):
    events: list[TradesEvent]


class TickerFields(msgspec.Struct):
    product_id: str
    price: str
    high_24_h: str | None = None
    low_24_h: str | None = None
    volume_24_h: str | None = None
    best_bid: str | None = None
    best_ask: str | None = None


class TickersEvent(msgspec.Struct):
    tickers: list[TickerFields]


class Tickers(Numbered, tag="ticker"):
    events: list[TickersEvent]


class Heartbeats(Numbered, tag="heartbeats"):
    pass


class Subscriptions(Numbered, tag="subscriptions"):
    pass


class Other(msgspec.Struct):
    """Any message whatever: an error (``type``), or of a channel that is not read."""

    channel: str = ""
    sequence_num: Number | None = None
    timestamp: str = ""
    type: str = ""
    message: str = ""
    reason: str = ""


decode = msgspec.json.Decoder(Level2 | MarketTrades | Tickers | Heartbeats | Subscriptions).decode
decode_other = msgspec.json.Decoder(Other).decode
