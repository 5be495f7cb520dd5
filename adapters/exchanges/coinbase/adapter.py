"""Coinbase Exchange, the public feed ``ws-feed``. Pure.

Source: docs.cdp.coinbase.com, exchange/websocket-feed. The level-2 channel has neither sequence nor
checksum: what proves a book is its snapshot and that it never crosses. Trade ids are consecutive
per product, and a product's heartbeat names the last one. ``side`` is the maker's. Snapshots hold
every level and run to megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from urllib.parse import quote

import msgspec

from adapters.base import (
    Beat,
    Fetch,
    Leave,
    Limits,
    Mark,
    Output,
    Page,
    Plan,
    Refused,
    Send,
    Stream,
)
from adapters.channels import BookStream, NumberedTrades, find, is_json
from adapters.exchanges.coinbase.frames import (
    Error,
    Heartbeat,
    LastMatch,
    Match,
    Snapshot,
    TickerFields,
    Update,
    decode,
    decode_past,
    decode_type,
)
from adapters.exchanges.coinbase.listing import LISTING
from adapters.text import decimal, levels, micros
from feed.errors import BadPayload
from feed.models import Instrument, Side, Ticker, Trade

#: Snapshots are whole; clients see the best 1,000 a side.
BOOK_LEVELS = 1_000
#: Trades a page of the past, the most that is given.
PAGE = 1_000
#: Channel -> the kinds it feeds. ``level2`` asks for a key today; tapes of 2021 have it.
FEEDS = {
    "level2_batch": ("book", "depth", "quote"),
    "level2": ("book", "depth", "quote"),
    "matches": ("trade",),
    "ticker": ("ticker",),
    "heartbeat": (),
}
#: Coinbase reports the side of the resting (maker) order; ours is the taker's.
TAKER_SIDE: Mapping[Side, Side] = {"buy": "sell", "sell": "buy"}

_encode = msgspec.json.Encoder().encode
_LEVEL2 = re.compile(rb'"type"\s*:\s*"(?:l2update|snapshot)"')
_PRODUCT = re.compile(rb'"product_id"\s*:\s*"([^"]{1,64})"')


def _request(type_: str, streams: Iterable[Stream]) -> Send:
    products: dict[str, list[str]] = {}
    for stream in streams:
        products.setdefault(stream.channel, []).append(stream.native)
    channels = [{"name": name, "product_ids": ids} for name, ids in products.items()]
    return Send(_encode({"type": type_, "channels": channels}).decode())


def _optional(text: str | None) -> str | None:
    return decimal(text) if text else None


class Coinbase(NumberedTrades):
    """Coinbase Exchange, the public feed."""

    name = "coinbase"
    ws_url = "wss://ws-feed.exchange.coinbase.com"
    rest_url = "https://api.exchange.coinbase.com"
    path = "/"
    listing = LISTING
    listing_paths = ("/products",)
    kinds = frozenset(chain.from_iterable(FEEDS.values()))
    feeds = FEEDS
    window = BOOK_LEVELS
    proofs = {"trade": "trade ids are consecutive, and a heartbeat tells the last"}
    # An address may make 8 requests a second. 100 streams are 25 products: their snapshots are big.
    limits = Limits(
        frames_per_s=4,
        streams_per_connection=100,
        connects=4,
        connects_window_s=1,
        beat_every_s=1,
        max_frame_bytes=64 << 20,
    )
    ignored = {
        "status": "the listing is taken over REST",
        "auctioninfo": "auctions are no trades",
    }

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        return {channel: fed for channel, fed in FEEDS.items() if channel != "level2"}

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._asked = plan.streams
        self._books: dict[str, BookStream] = {
            one.native: self._book(one)
            for one in plan.streams
            if one.channel in ("level2_batch", "level2")
        }
        #: The last trade that a product's last heartbeat named.
        self._beats: dict[str, int] = {}

    def opened(self) -> Sequence[Send]:
        return [_request("subscribe", self._asked)]

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            match decode(frame):
                case Update() as update:
                    return self._update(update, recv)
                case Match() as match:
                    return self._match(match, recv)
                case TickerFields() as ticker:
                    return self._ticker(ticker, recv)
                case Heartbeat() as heartbeat:
                    return self._heartbeat(heartbeat, recv)
                case Snapshot() as snapshot:
                    return self._snapshot(snapshot, recv)
                case LastMatch() as match:
                    # A trade of before we came: not emitted, but what follows it counts from it.
                    ids = self._ids.get(match.product_id)
                    return () if ids is None else ids.known(match.trade_id, recv)
                case Error() as error:
                    return self._error(error)
        except (ValueError, RecursionError) as e:
            if self._is_ignored(frame):
                return ()
            raise BadPayload(self.name, frame, str(e)) from e
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt the books a frame may have been for: level 2 has no number that shows a loss."""
        if is_json(frame) and _LEVEL2.search(frame) is None:
            return ()
        product = _PRODUCT.search(frame)
        native = product[1].decode(errors="replace") if product else None
        out: list[Output] = []
        for one, book in self._books.items():
            if native in (None, one):
                out += book.lost("unreadable", recv)
        return out

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        return [_request(type_, streams) for type_ in ("unsubscribe", "subscribe")]

    def backfill(self, native: str, after: Mark) -> Fetch | None:
        # Pages go back from ``after``, newest first; ids are dense, so the page that ends with
        # ours can be named (source: docs.cdp.coinbase.com, exchange/rest-api/pagination).
        past = after.id + 1 + PAGE
        path = f"/products/{quote(native)}/trades?limit={PAGE}&after={past}"
        return Fetch(path, f"trades:{native}@{after.id}")

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        native = key.removeprefix("trades:").rpartition("@")[0]
        topic = self._ids[native].topic
        try:
            trades = tuple(
                (
                    one.trade_id,
                    Trade(
                        topic,
                        0,
                        micros(one.time),
                        recv,
                        0,
                        str(one.trade_id),
                        decimal(one.price),
                        decimal(one.size),
                        TAKER_SIDE[one.side],
                        backfill=True,
                    ),
                )
                for one in reversed(decode_past(body))
            )
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, body, str(e)[:200]) from e
        return (Page(native, trades),)

    def _is_ignored(self, frame: bytes) -> bool:
        try:
            return decode_type(frame).type in self.ignored
        except (ValueError, RecursionError):
            return False

    def _snapshot(self, snapshot: Snapshot, recv: int) -> Sequence[Output]:
        native = snapshot.product_id
        book = find(self._books, native)
        bids, asks = levels(snapshot.bids), levels(snapshot.asks)
        ts = micros(snapshot.time) if snapshot.time else None
        out = [*self._pacer.advance(ts)] if ts is not None else []
        return out + book.snapshot(bids, asks, ts, recv)

    def _update(self, update: Update, recv: int) -> Sequence[Output]:
        native, ts = update.product_id, micros(update.time)
        book = find(self._books, native)
        bids = levels((price, size) for side, price, size in update.changes if side == "buy")
        asks = levels((price, size) for side, price, size in update.changes if side == "sell")
        return [*self._pacer.advance(ts), *book.delta(bids, asks, ts, recv)]

    def _match(self, match: Match, recv: int) -> Sequence[Output]:
        find(self._topics, match.product_id)
        price, size, ts = decimal(match.price), decimal(match.size), micros(match.time)
        out = [*self._pacer.advance(ts)]
        ids = self._ids.get(match.product_id)
        said = ids.reach(match.trade_id, recv) if ids is not None else None
        if ids is None or said is None:
            return out
        out += said
        side = TAKER_SIDE[match.side]
        out.append(Trade(ids.topic, 0, ts, recv, 0, str(match.trade_id), price, size, side))
        return out

    def _heartbeat(self, beat: Heartbeat, recv: int) -> Sequence[Output]:
        """Declare lost what the heartbeat before knew of and what still has not come."""
        find(self._topics, beat.product_id)
        out = [*self._pacer.advance(micros(beat.time)), Beat(beat.product_id)]
        known = self._beats.get(beat.product_id)
        self._beats[beat.product_id] = beat.last_trade_id
        ids = self._ids.get(beat.product_id)
        if ids is not None and ids.last is not None and known is not None:
            out += ids.known(known, recv)
        return out

    def _ticker(self, ticker: TickerFields, recv: int) -> list[Output]:
        topic = find(self._topics, ticker.product_id).get("ticker")
        ts = micros(ticker.time) if ticker.time else None
        last, volume = decimal(ticker.price), _optional(ticker.volume_24h)
        day = (_optional(ticker.open_24h), _optional(ticker.high_24h), _optional(ticker.low_24h))
        best = (_optional(ticker.best_bid), _optional(ticker.best_ask))
        out = [*self._pacer.advance(ts)] if ts is not None else []
        if topic is not None:
            out.append(Ticker(topic, 0, ts, recv, 0, last, *day, volume, None, *best))
        return out

    def _error(self, error: Error) -> list[Output]:
        """Find out what was refused and ask for the rest: one bad product fails them all."""
        reason = f"{error.message}: {error.reason}"
        words = set(re.findall(r"[\w-]+", error.reason))
        guilty = tuple(one for one in self._asked if words & {one.native, one.channel})
        if not guilty:
            return [Leave("error")]
        self._asked = tuple(one for one in self._asked if one not in guilty)
        out: list[Output] = [Refused(guilty, reason)]
        return [*out, _request("subscribe", self._asked)] if self._asked else out
