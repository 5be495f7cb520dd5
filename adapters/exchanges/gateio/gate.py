"""What Gate's markets have in common: requests, books, best prices, refusals. Pure.

Source: Gate's WebSocket v4 documentation. Live, books come from ``obu`` (400 levels, 100 ms), not
from ``order_book_update`` (100 levels): both number their changes without holes, but ``obu`` always
begins with the book itself, on the same connection, so that no REST snapshot (cached for seconds)
has to be joined, and a lost frame costs one subscription. Tapes may have either. ``quote`` is
``book_ticker`` (10 ms). Requests carry no ``time``, which public channels do not ask for.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from adapters.base import (
    Fetch,
    Leave,
    Limits,
    Output,
    Plan,
    Refused,
    Send,
    Stream,
    upstream_gap,
)
from adapters.book import Book
from adapters.channels import BookStream, ChannelAdapter, find, is_json
from adapters.exchanges.gateio.book import Answer, Change, GateBook
from adapters.exchanges.gateio.frames import (
    UPDATES,
    Frame,
    Snapshot,
    Update,
    decode,
    decode_book_ticker,
    decode_notice,
    price_levels,
    text,
)
from adapters.text import decimal
from feed.errors import BadPayload
from feed.models import Instrument, Quote

#: 400 levels every 100 ms; the other one is of 50 every 20 ms.
BOOK_CHANNEL = "obu.400"
#: Joined to a REST snapshot; 100 levels every 100 ms.
UPDATE_CHANNEL = "order_book_update"
UPDATE_LEVELS = 100
#: One unknown symbol fails its whole request.
SYMBOLS_PER_REQUEST = 100

_encode = msgspec.json.Encoder().encode
_CHANNEL = re.compile(rb'"channel"\s*:\s*"[a-z]+\.([a-z_]+)"')
_TRADED = re.compile(rb'"(?:currency_pair|contract)"\s*:\s*"([^"]{1,64})"')


class Gate(ChannelAdapter):
    """What both markets have in common.

    Attributes:
        market: What their channels' names begin with.
    """

    rest_url = "https://api.gateio.ws"
    #: Nothing is published but 300 connections an address: prudent ones.
    limits = Limits(
        frames_per_s=10,
        streams_per_connection=400,
        connects=60,
        connects_window_s=60,
        ping_every_s=15,
    )
    ignored = {
        "candlesticks": "candles are made from the trades, so that they mean the same everywhere",
        "order_book": "the best levels alone; depth is made from the book, which is proven",
        "contract_stats": "not a kind we carry",
        "public_liquidates": "liquidations are not carried of this exchange",
    }
    proofs = {"book": "each update names its first and last change"}
    #: Beside the books, where the market has it.
    feeds = {"book_ticker": ("quote",), "trades": ("trade",), "tickers": ("ticker", "derivative")}
    market: ClassVar[str]
    #: Path of the REST book, completed by the symbol.
    _book_path: ClassVar[str]
    _updates: ClassVar[msgspec.json.Decoder[Update[Any]]]
    _snapshots: ClassVar[msgspec.json.Decoder[Snapshot[Any]]]
    #: What ``order_book_update`` is asked for with.
    _update_payload: ClassVar[tuple[str, ...]]

    @classmethod
    def offered(cls, instrument: Instrument) -> Mapping[str, Collection[str]]:
        return {BOOK_CHANNEL: ("book", "depth"), **cls.feeds}

    @classmethod
    def feeding(cls, channels: Iterable[str]) -> dict[str, str]:
        given = list(channels)
        fed: dict[str, str] = {}
        books = [one for one in given if one == UPDATE_CHANNEL or one.startswith("obu.")]
        if books:
            fed |= dict.fromkeys(("book", "depth", "quote"), max(books, key=cls.book_levels))
        return fed | super().feeding(given)

    @classmethod
    def book_levels(cls, channel: str) -> int:
        return UPDATE_LEVELS if channel == UPDATE_CHANNEL else int(channel.partition(".")[2])

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        #: By the stream's name in its messages.
        self._books: dict[str, GateBook] = {}
        for stream in plan.streams:
            if stream.channel == UPDATE_CHANNEL or stream.channel.startswith("obu."):
                self._books[_payload(stream)] = self._gate_book(stream)
        self._requests: dict[int, tuple[Stream, ...]] = {}
        self._request_count = 0

    def _gate_book(self, stream: Stream) -> GateBook:
        def afresh(recv: int) -> Sequence[Output]:
            return self._afresh(stream)

        topics, levels = self._fed(stream), self.book_levels(stream.channel)
        book = BookStream(stream, topics, levels, self._pacer, afresh, truncate=True)
        fetch = None
        if stream.channel == UPDATE_CHANNEL:
            path = self._book_path.format(quote(stream.native))
            fetch = Fetch(path, f"depth:{stream.native}")
        return GateBook(book, self._pacer, fetch)

    def opened(self) -> Sequence[Send]:
        by_channel: dict[str, list[Stream]] = {}
        for stream in self.plan_.streams:
            by_channel.setdefault(stream.channel, []).append(stream)
        return [
            self._subscribe(part) for streams in by_channel.values() for part in _requests(streams)
        ]

    def ping(self) -> str | None:
        return f'{{"channel":"{self.market}.ping"}}'

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            message = decode(frame)
            market, _, channel = message.channel.partition(".")
            if message.error is not None or message.event in ("subscribe", "unsubscribe"):
                return self._replied(message)
            if market != self.market or message.event not in ("update", "all", ""):
                raise ValueError(f"{message.event[:40]!r} of {message.channel[:80]!r}")
            match channel:
                case "trades":
                    return self._trades(message, recv)
                case "book_ticker":
                    return self._book_ticker(message, recv)
                case "obu":
                    return self._updated(UPDATES.decode(message.result), recv)
                case "order_book_update":
                    return self._updated(self._updates.decode(message.result), recv)
                case "tickers":
                    return self._ticker(message, recv)
                case "system":
                    notice = decode_notice(message.result).type
                    return (Leave(notice, serves_on=True),) if notice == "upgrade" else ()
                case "pong":
                    return ()
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame, str(e)) from e
        if channel not in self.ignored:
            raise BadPayload(self.name, frame, f"unknown channel {message.channel[:80]!r}")
        return ()

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Doubt trades. Books prove themselves, all others are whole."""
        channel = _CHANNEL.search(frame)
        if channel is None and is_json(frame):
            return ()  # a type that carries nothing of ours
        if channel is not None and channel[1] != b"trades":
            return ()
        traded = _TRADED.search(frame)
        native = traded[1].decode(errors="replace") if traded else None
        out: list[Output] = []
        for stream in self.plan_.streams:
            if native in (None, stream.native):
                out += self._doubt(self._trade_topic(stream), recv)
        return out

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        book = self._books[key.removeprefix("depth:")]
        try:
            snapshot = self._snapshots.decode(body)
            found = Book(UPDATE_LEVELS, truncate=True)
            found.replace(price_levels(snapshot.bids), price_levels(snapshot.asks))
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, body, str(e)[:200]) from e
        return book.fetched(Answer(snapshot.id, found, recv))

    def fetch_failed(self, key: str, recv: int) -> Iterable[Output]:
        return self._books[key.removeprefix("depth:")].fetch_failed()

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        out: list[Output] = []
        for stream in streams:
            topic = self._trade_topic(stream)
            if topic is not None:
                # No number proves them: what comes meanwhile is lost unseen.
                out.append(upstream_gap(topic, recv, "upstream_sequence", None))
            out += self._afresh(stream)
            book = self._books.get(_payload(stream))
            if book is not None and book.stream == stream:
                out += book.restart(recv)
        return out

    def _trade_topic(self, stream: Stream) -> str | None:
        """Return the topic of trades that the stream feeds, if it is wanted."""
        return self._topics[stream.native].get("trade") if stream.channel == "trades" else None

    def _request(self, event: str, streams: Sequence[Stream], number: int) -> Send:
        channel = streams[0].channel.partition(".")[0]
        payload = [_payload(one) for one in streams]
        if channel == UPDATE_CHANNEL:
            payload += self._update_payload
        request = {
            "id": number,
            "channel": f"{self.market}.{channel}",
            "event": event,
            "payload": payload,
        }
        return Send(_encode(request).decode())

    def _subscribe(self, streams: Sequence[Stream]) -> Send:
        self._request_count += 1
        self._requests[self._request_count] = tuple(streams)
        return self._request("subscribe", streams, self._request_count)

    def _afresh(self, stream: Stream) -> Sequence[Output]:
        return (self._request("unsubscribe", (stream,), 0), self._subscribe((stream,)))

    def _updated(self, update: Update[Any], recv: int) -> list[Output]:
        book = find(self._books, update.s)
        bids, asks = price_levels(update.b), price_levels(update.a)
        first = update.u if update.full else update.U
        if first is None or first > update.u:
            raise ValueError("update ids that cannot be")
        ts = update.t * 1_000
        out = [*self._pacer.advance(ts)]
        return out + book.take(
            Change(first, update.u, update.full, bids, asks, ts, recv, self._pacer.now)
        )

    @abstractmethod
    def _trades(self, message: Frame, recv: int) -> list[Output]:
        """Take trades."""

    @abstractmethod
    def _ticker(self, message: Frame, recv: int) -> list[Output]:
        """Take figures of the day."""

    def _book_ticker(self, message: Frame, recv: int) -> Sequence[Output]:
        best = decode_book_ticker(message.result)
        topic = find(self._topics, best.s).get("quote")
        bid, ask = _side(best.b, best.B), _side(best.a, best.A)
        ts = best.t * 1_000 or None
        out = self._pacer.advance(ts) if ts else ()
        if not self._is_news(topic, (*bid, *ask)):
            return out
        return (*out, Quote(topic, 0, ts, recv, 0, *bid, *ask))

    def _replied(self, reply: Frame) -> Sequence[Output]:
        """Take an answer. One bad symbol fails its whole request: the others are asked again."""
        number = reply.id if type(reply.id) is int else 0
        asked = self._requests.pop(number, ()) if reply.event != "unsubscribe" else ()
        if reply.error is None or reply.event == "unsubscribe":
            return ()
        reason = reply.error.message or f"code {reply.error.code}"
        if not asked:
            raise ValueError(f"refuses what was not asked for: {reason[:80]}")
        words = set(re.findall(r"\w+", reason))
        named = tuple(one for one in asked if one.native in words)
        if named or len(asked) == 1:
            rest = tuple(one for one in asked if one not in named) if named else ()
            out: list[Output] = [Refused(named or asked, reason)]
            return [*out, self._subscribe(rest)] if rest else out
        return [self._subscribe((one,)) for one in asked]


def _payload(stream: Stream) -> str:
    """Return what names the stream in a request, and a book in its messages."""
    name, _, levels = stream.channel.partition(".")
    return f"ob.{stream.native}.{levels}" if name == "obu" else stream.native


def _requests(streams: Sequence[Stream]) -> Iterable[Sequence[Stream]]:
    """Return a channel's streams as far as one request can hold them."""
    most = 1 if streams[0].channel == UPDATE_CHANNEL else SYMBOLS_PER_REQUEST
    return [streams[at : at + most] for at in range(0, len(streams), most)]


def _side(price: Any, size: Any) -> tuple[str, str] | tuple[None, None]:
    """Return the best price and size of a side; twice None where it is empty."""
    digits = text(price)
    if digits == "" or (digits[0] == "0" and not float(digits)):
        return None, None
    return decimal(digits), decimal(text(size))
