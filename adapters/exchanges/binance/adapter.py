"""Binance spot, USD-M and COIN-M futures, and Binance.US: combined market streams. Pure.

Source: binance/binance-spot-api-docs; developers.binance.com for the futures and the routed URLs
of USD-M (COIN-M has one path); docs.binance.us.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from adapters.base import Adapter, Fetch, Leave, Limits, Mark, Output, Plan, Refused, Send, Stream
from adapters.book import BookFeed, DepthPacer
from adapters.diff_book import WINDOW
from adapters.exchanges.binance import backfill
from adapters.exchanges.binance.book import BinanceBook, FuturesBook
from adapters.exchanges.binance.listing import FUTURES, INVERSE, SPOT
from adapters.exchanges.binance.streams import INVERSE_TAKERS, TAKERS, Take, Taker, fills, owner_of
from adapters.trade_ids import TradeIds, marks
from feed.errors import BadPayload
from feed.models import Instrument

#: Our kinds that a channel feeds.
FEEDS = {
    "trade": ("trade",),
    "aggTrade": ("trade",),
    "bookTicker": ("quote",),
    "depth": ("book", "depth"),
    "ticker": ("ticker",),
    "markPrice": ("derivative",),
    "forceOrder": ("liquidation",),
}
#: Of payloads without the combined wrapper: ``e`` -> channel.
CHANNELS = {
    "depthUpdate": "depth",
    "24hrTicker": "ticker",
    "markPriceUpdate": "markPrice",
    "kline": "kline_*",
    "24hrMiniTicker": "miniTicker",
    "1hTicker": "ticker_*",
    "4hTicker": "ticker_*",
    "1dTicker": "ticker_*",
    "assetIndexUpdate": "assetIndex",
}


class _Any(msgspec.Struct):
    """Whatever comes: wrapped, a bare payload, or an answer."""

    stream: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    e: str = ""
    s: str = ""
    B: Any = None
    o: Any = None
    result: Any = msgspec.UNSET
    id: Any = msgspec.UNSET
    error: Any = None
    code: Any = None
    msg: Any = None


_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder(_Any).decode


#: A channel's name up to what only varies it: ``kline_1m``, ``ticker_1h``, ``depth20``.
_VARIANT = re.compile(r"^(kline_|ticker_|depth(?=\d))\w+$")


def _base(channel: str) -> str:
    """Return a channel without its speed: ``depth@100ms`` is ``depth``."""
    return channel.partition("@")[0]


def _one_a_topic(streams: Sequence[Stream]) -> list[Stream]:
    """Leave out what another stream feeds already: ``aggTrade`` beside ``trade``, other speeds."""
    best: dict[tuple[str, tuple[str, ...]], Stream] = {}
    for stream in streams:
        key = stream.native, FEEDS.get(_base(stream.channel), (stream.channel,))
        if key not in best or stream.channel == "trade":
            best[key] = stream
    chosen = frozenset(best.values())
    return [stream for stream in streams if stream in chosen]


def _nothing(frame: bytes, recv: int) -> Sequence[Output]:
    return ()


class _Binance(Adapter):
    """What spot and futures share."""

    limits: ClassVar[Limits]
    ignored = {
        "kline_*": "candles are made here from trades, so that they mean the same everywhere",
        "miniTicker": "the ticker has it all",
        "ticker_*": "a window of its own; tickers here are of 24 hours",
        "depth*": "the best levels alone; depth is made from the book, which is proven",
        "avgPrice": "not a kind we carry",
        "referencePrice": "not a kind we carry",
        "blockTrade": "not a trade on the book",
        "contractInfo": "the listing is read by REST",
        "assetIndex": "not a kind we carry",
        "compositeIndex": "not a kind we carry",
        "bookTicker": "of all symbols at once, while ours come on their own streams",
        "!forceOrder": "of all symbols at once, while ours come on their own streams",
    }
    proofs = {
        "trade": "trade ids are consecutive",
        "book": "each update names the id that the one before ended with",
    }
    #: Path of the REST book, completed by symbol and limit.
    _depth_path: ClassVar[str]
    _channels: ClassVar[Mapping[str, str]]
    #: Channel -> what takes its frames.
    _takers: ClassVar[Mapping[str, Taker]] = TAKERS
    _book: ClassVar[type[BinanceBook]]
    #: Channel -> path of its past trades, completed by symbol and first id.
    _backfill_paths: ClassVar[Mapping[str, str]]

    @classmethod
    def streams(cls, instrument: Instrument, kinds: Collection[str]) -> list[Stream]:
        channels = (cls._channels[kind] for kind in sorted(cls.kinds & frozenset(kinds)))
        return [Stream(channel, instrument.native) for channel in dict.fromkeys(channels)]

    @classmethod
    def _route(cls, channel: str) -> str:
        """Return the path of the connection that serves the channel."""
        return "/stream"

    @classmethod
    def plan(cls, streams: Sequence[Stream], instruments: Mapping[str, Instrument]) -> list[Plan]:
        routes: dict[str, list[Stream]] = {}
        for stream in _one_a_topic(streams):
            routes.setdefault(cls._route(stream.channel), []).append(stream)
        size = cls.limits.streams_per_connection
        plans = []
        for path, all_of_it in routes.items():
            for start in range(0, len(all_of_it), size):
                part = all_of_it[start : start + size]
                names = "/".join(f"{s.native.lower()}@{s.channel}" for s in part)
                mine = {s.native: instruments[s.native] for s in part}
                plans.append(Plan(f"{path}?streams={quote(names, '@/!')}", tuple(part), mine))
        return plans

    @classmethod
    def carried(
        cls, streams: Collection[Stream], instrument: Instrument, kinds: Collection[str]
    ) -> tuple[tuple[str, ...], int | None]:
        fed = {kind for stream in streams for kind in FEEDS.get(_base(stream.channel), ())}
        found = sorted(fed & cls.kinds & frozenset(kinds))
        topics = tuple(f"{kind}.{cls.name}.{instrument.symbol}" for kind in found)
        return topics, WINDOW if "book" in found else None

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._pacer = DepthPacer()
        self._books: dict[str, BinanceBook] = {}
        #: Native symbol -> the channel its trades come on, and their ids.
        self._trades: dict[str, tuple[str, TradeIds]] = {}
        #: Stream name -> what takes its frames, under the planned name and without the speed.
        self._routes: dict[bytes, Take] = {}
        chosen = frozenset(_one_a_topic(plan.streams))
        for stream in plan.streams:
            base, native = _base(stream.channel), stream.native
            name = native.lower()
            take: Take = _nothing
            if base in FEEDS and stream in chosen:
                take = self._taker(base, native, plan.instruments[native].symbol)
                self._routes[f"{name}@{base}".encode()] = take
            self._routes[f"{name}@{stream.channel}".encode()] = take
        #: By all that comes before a frame's first comma: the quickest way to its stream's name.
        self._heads = {b'{"stream":"%b"' % name: take for name, take in self._routes.items()}

    def _taker(self, channel: str, native: str, symbol: str) -> Take:
        wanted = self.wanted & self.kinds
        topics = {kind: f"{kind}.{self.name}.{symbol}" for kind in FEEDS[channel] if kind in wanted}
        if not topics:
            return _nothing
        if channel == "depth":
            feed = BookFeed(native, topics, WINDOW, self._pacer)
            path = self._depth_path.format(quote(native))
            book = self._book(native, feed, self._pacer, path)
            self._books[native] = book
            return book.take
        (topic,) = topics.values()
        if channel in ("trade", "aggTrade"):
            ids = TradeIds(topic, native)
            self._trades[native] = channel, ids
            return fills(channel, native, topic, self._pacer, ids)
        return self._takers[channel](native, topic, self._pacer)

    def opened(self) -> Sequence[Send]:
        return ()

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            take = self._heads.get(frame.split(b",", 1)[0])
            return self._any(frame, recv) if take is None else take(frame, recv)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)[:200]) from e

    def _any(self, frame: bytes, recv: int) -> Sequence[Output]:
        """Take a frame that does not begin with a stream we know."""
        found = _decode_any(frame)
        if found.stream:
            name, _, channel = found.stream.partition("@")
            channel = _base(channel) if channel != "arr" else ""
            take = self._routes.get(f"{name.lower()}@{channel}".encode())
            if take is not None:
                return take(frame, recv)
            return self._leave_out(channel or name)
        if found.e or found.B is not None:  # spot's bookTicker is the one without a name
            channel = CHANNELS.get(found.e, found.e or "bookTicker")
            native = found.s or owner_of(found.o)
            take = self._routes.get(f"{native.lower()}@{channel}".encode())
            return (
                take(b'{"data":%b}' % frame, recv) if take is not None else self._leave_out(channel)
            )
        if found.error is not None or found.code is not None:
            return (Refused((), str(found.error or f"{found.code} {found.msg}")[:200]),)
        if found.result is msgspec.UNSET and found.id is msgspec.UNSET:
            raise ValueError("neither data nor an answer")
        return ()

    def _leave_out(self, kind: str) -> Sequence[Output]:
        """Pass over what is left out on purpose; ValueError for the rest.

        Args:
            kind: A channel, or with a ``!`` the stream of all symbols.
        """
        plain = kind.lstrip("!")
        if plain == "serverShutdown":
            return (Leave("serverShutdown", serves_on=True),)
        if kind not in self.ignored and _VARIANT.sub(r"\1*", plain) not in self.ignored:
            raise ValueError(f"{kind[:40]!r} is not a stream of this connection")
        return ()

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        what, _, name = key.partition(":")
        try:
            if what == "trades":
                native = name.partition("@")[0]
                channel, ids = self._trades[native]
                return (backfill.page(channel, native, ids.topic, body, recv),)
            return self._books[name].fetched(body, recv)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, body, str(e)[:200]) from e

    def fetch_failed(self, key: str, recv: int) -> Iterable[Output]:
        return self._books[key.removeprefix("depth:")].fetch_failed()

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        names = [f"{one.native.lower()}@{one.channel}" for one in streams]
        out: list[Output] = [
            Send(_encode({"method": method, "params": names, "id": number}).decode())
            for number, method in enumerate(("UNSUBSCRIBE", "SUBSCRIBE"), 1)
        ]
        for native in {one.native for one in streams if _base(one.channel) == "depth"}:
            if native in self._books:
                out += self._books[native].restart("resync")
        return out

    def whole(self, native: str, ts: int | None, recv: int) -> Sequence[Output]:
        book = self._books.get(native)
        return () if book is None else book.feed.whole(ts, recv)

    def marks(self) -> dict[str, Mark]:
        return marks({native: ids for native, (_, ids) in self._trades.items()})

    def resume(self, native: str, mark: Mark) -> None:
        if native in self._trades:
            self._trades[native][1].resume(mark)

    def backfill(self, native: str, after: Mark) -> Fetch | None:
        channel, _ = self._trades[native]
        path = self._backfill_paths.get(channel)
        if path is None:
            return None
        first = after.id + 1
        return Fetch(path.format(quote(native), first), f"trades:{native}@{first}")


class _Spot(_Binance):
    """What both spot markets share. Quotes are ``@bookTicker``, at every change."""

    listing = SPOT
    listing_paths = ("/api/v3/exchangeInfo",)
    kinds = frozenset({"trade", "quote", "book", "depth", "ticker"})
    # 5 messages a second with our pongs; 1,024 streams, but the URL has to hold them.
    limits = Limits(
        frames_per_s=4,
        streams_per_connection=200,
        connects=300,
        connects_window_s=300,
        max_age_s=86_400,
    )
    _depth_path = "/api/v3/depth?symbol={}&limit=5000"
    _channels = {
        "trade": "trade",
        "quote": "bookTicker",
        "book": "depth@100ms",
        "depth": "depth@100ms",
        "ticker": "ticker",
    }
    _book = BinanceBook


class Binance(_Spot):
    """Spot. Trades are ``@trade``."""

    name = "binance"
    ws_url = "wss://stream.binance.com:9443"
    rest_url = "https://api.binance.com"
    _backfill_paths = {
        "trade": "/api/v3/historicalTrades?symbol={}&fromId={}&limit=1000",
        "aggTrade": "/api/v3/aggTrades?symbol={}&fromId={}&limit=1000",
    }


class BinanceUs(_Spot):
    """Binance.US. Trades are ``@aggTrade``: past ones are given without a key only of these."""

    name = "binance-us"
    ws_url = "wss://stream.binance.us:9443"
    rest_url = "https://api.binance.us"
    _channels = {**_Spot._channels, "trade": "aggTrade"}
    _backfill_paths = {"aggTrade": "/api/v3/aggTrades?symbol={}&fromId={}&limit=1000"}


class _Futures(_Binance):
    """What both futures markets share. Trades are ``@aggTrade``: ``@trade`` is not documented."""

    kinds = frozenset({"trade", "quote", "book", "depth", "ticker", "derivative", "liquidation"})
    proofs = {
        **_Binance.proofs,
        "liquidation": "nothing: a sample, at most the latest one a second and symbol",
    }
    limits = Limits(
        frames_per_s=8,
        streams_per_connection=200,
        connects=300,
        connects_window_s=300,
        max_age_s=86_400,
    )
    _channels = {
        "trade": "aggTrade",
        "quote": "bookTicker",
        "book": "depth@100ms",
        "depth": "depth@100ms",
        "ticker": "ticker",
        "derivative": "markPrice@1s",
        "liquidation": "forceOrder",
    }
    _book = FuturesBook


class BinanceUsdm(_Futures):
    """USD-M futures."""

    name = "binance-usdm"
    ws_url = "wss://fstream.binance.com"
    rest_url = "https://fapi.binance.com"
    listing = FUTURES
    listing_paths = ("/fapi/v1/exchangeInfo",)
    _depth_path = "/fapi/v1/depth?symbol={}&limit=1000"
    _backfill_paths = {"aggTrade": "/fapi/v1/aggTrades?symbol={}&fromId={}&limit=1000"}

    @classmethod
    def _route(cls, channel: str) -> str:
        # An unrouted connection, or the wrong route, is silent without an error.
        is_public = channel in ("trade", "bookTicker") or channel.startswith("depth")
        return "/public/stream" if is_public else "/market/stream"


class BinanceCoinm(_Futures):
    """COIN-M futures: inverse, sizes are contracts of 10 or 100 USD, settled in the base."""

    name = "binance-coinm"
    ws_url = "wss://dstream.binance.com"
    rest_url = "https://dapi.binance.com"
    listing = INVERSE
    listing_paths = ("/dapi/v1/exchangeInfo",)
    _depth_path = "/dapi/v1/depth?symbol={}&limit=1000"
    _backfill_paths = {"aggTrade": "/dapi/v1/aggTrades?symbol={}&fromId={}&limit=1000"}
    _takers = INVERSE_TAKERS
