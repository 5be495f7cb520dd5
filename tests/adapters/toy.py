"""A tiny exchange for tests of the shells: numbered trades, which can be fetched by number, and a
book that needs a REST snapshot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import parse_qs, urlsplit

import msgspec

from adapters.base import (
    Ack,
    Adapter,
    Beat,
    Checkpoint,
    Fetch,
    Health,
    Leave,
    Limits,
    Mark,
    Output,
    Page,
    Plan,
    Refused,
    Rules,
    Send,
    Stream,
    TapeLine,
    Venue,
)
from adapters.selection import Selection, by_symbol
from adapters.trade_ids import TradeIds, marks
from feed.errors import BadPayload
from feed.models import Book, Instrument, Level, Trade

SYMBOLS = ("BTC-USD", "ETH-USD")


class _Frame(msgspec.Struct):
    c: str
    s: str = ""
    n: int = 0
    p: str = ""
    b: list[Level] = []
    k: str = ""


class _Past(msgspec.Struct):
    n: int
    p: str


class _Listing(msgspec.Struct):
    symbols: list[str]


def trade(symbol: str, n: int, price: str = "1.50") -> str:
    return f'{{"c":"trade","s":"{symbol}","n":{n},"p":"{price}"}}'


def delta(symbol: str, n: int, price: str = "1.50", size: str = "2") -> str:
    return f'{{"c":"book","s":"{symbol}","n":{n},"b":[["{price}","{size}"]]}}'


def snapshot(symbol: str, n: int) -> str:
    return f'{{"c":"book","s":"{symbol}","n":{n},"b":[["1.00","1"]]}}'


class Toy(Adapter):
    name = "toy"
    ws_url = "ws://toy.invalid"
    rest_url = "http://toy.invalid"
    listing_paths = ("/symbols",)
    kinds = frozenset({"trade", "book"})
    limits = Limits(
        frames_per_s=1_000,
        streams_per_connection=100,
        connects=100,
        connects_window_s=1.0,
        silent_after_s=5.0,
        max_frame_bytes=100_000,
    )
    ignored = MappingProxyType({})

    @classmethod
    def instruments(cls, bodies: Sequence[bytes]) -> list[Instrument]:
        try:
            names = msgspec.json.decode(bodies[0], type=_Listing).symbols
        except msgspec.DecodeError as e:
            raise BadPayload(cls.name, bodies[0]) from e
        return [named for name in names if (named := cls.instrument(name)) is not None]

    @classmethod
    def instrument(cls, native: str) -> Instrument | None:
        base, _, quote = native.partition("-")
        if not quote:
            return None
        return Instrument(
            exchange="toy", symbol=native, native=native, type="spot", base=base, quote=quote
        )

    @classmethod
    def streams(cls, instrument: Instrument, kinds: Collection[str]) -> list[Stream]:
        return [Stream(kind, instrument.native) for kind in sorted(cls.kinds & set(kinds))]

    @classmethod
    def plan(cls, streams: Sequence[Stream], instruments: Mapping[str, Instrument]) -> list[Plan]:
        if not streams:
            return []
        natives = {stream.native for stream in streams}
        return [Plan("/ws", tuple(streams), {n: instruments[n] for n in sorted(natives)})]

    @classmethod
    def carried(
        cls, streams: Collection[Stream], instrument: Instrument, kinds: Collection[str]
    ) -> tuple[tuple[str, ...], int | None]:
        channels = {stream.channel for stream in streams} & set(kinds)
        topics = tuple(f"{channel}.toy.{instrument.symbol}" for channel in sorted(channels))
        return topics, 10 if "book" in channels else None

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        super().__init__(plan, kinds)
        self._held: dict[str, list[_Frame]] = {}
        self._at: dict[str, int] = {}
        self._levels: dict[str, dict[str, str]] = {}
        self._ids = {
            stream.native: TradeIds(f"trade.toy.{stream.native}", stream.native)
            for stream in plan.streams
            if stream.channel == "trade"
        }

    def opened(self) -> Sequence[Send]:
        return [
            Send(f'{{"op":"sub","channel":"{s.channel}","symbol":"{s.native}"}}')
            for s in self.plan_.streams
        ]

    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        try:
            read = msgspec.json.decode(frame, type=_Frame)
        except (ValueError, RecursionError) as e:
            raise BadPayload(self.name, frame) from e
        match read.c:
            case "trade":
                said = self._ids[read.s].reach(read.n, recv)
                return [] if said is None else [*said, self._trade(read, recv)]
            case "book":
                return self._book(read, recv)
            case "broken":
                return [Health(read.s, ("book",), "invalid", "checksum")]
            case "proven":
                return [Health(read.s, ("book",), "live", None)]
            case "refused":
                return [Refused((Stream(read.k, read.s),), "no such symbol")]
            case "bye":
                return [Leave("maintenance", serves_on=True)]
            case "leave":
                return [Leave("overloaded")]
            case "beat":
                return [Beat(read.s)]
            case "bug":
                raise ZeroDivisionError("a bug of the adapter")
            case "hb" | "ok":
                return []
        raise BadPayload(self.name, frame, "unknown type")

    def _trade(self, read: _Frame, recv: int) -> Trade:
        topic = f"trade.toy.{read.s}"
        return Trade(topic, 0, None, recv, 0, str(read.n), read.p, "1", "buy")

    def marks(self) -> dict[str, Mark]:
        return marks(self._ids)

    def resume(self, native: str, mark: Mark) -> None:
        self._ids[native].resume(mark)

    def backfill(self, native: str, after: Mark) -> Fetch | None:
        first = after.id + 1
        return Fetch(f"/trades?s={native}&first={first}", f"trades:{native}@{first}")

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        for stream in streams:
            self._at.pop(stream.native, None)
        return [
            Send(f'{{"op":"{op}","channel":"{one.channel}","symbol":"{one.native}"}}')
            for one in streams
            for op in ("unsub", "sub")
        ]

    def whole(self, native: str, ts: int | None, recv: int) -> Sequence[Output]:
        if native not in self._at:
            return ()
        levels = list(self._levels[native].items())
        book = Book(f"book.toy.{native}", 0, ts, recv, 0, levels, [], True)
        return [book, Checkpoint(msgspec.structs.replace(book))]

    def _book(self, read: _Frame, recv: int) -> list[Output]:
        at = self._at.get(read.s)
        if at is None:
            held = self._held.setdefault(read.s, [])
            held.append(read)
            return [Fetch(f"/book?s={read.s}", read.s)] if len(held) == 1 else []
        if read.n <= at:
            return []
        self._at[read.s] = read.n
        self._levels[read.s].update(read.b)
        return [Book(f"book.toy.{read.s}", 0, None, recv, 0, read.b, [])]

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        if key.startswith("trades:"):
            return [self._page(key.removeprefix("trades:").partition("@")[0], body, recv)]
        try:
            read = msgspec.json.decode(body, type=_Frame)
        except ValueError as e:
            raise BadPayload(self.name, body) from e
        self._at[key] = read.n
        self._levels[key] = dict(read.b)
        whole = Book(f"book.toy.{key}", 0, None, recv, 0, read.b, [], True)
        out: list[Output] = [whole, Checkpoint(msgspec.structs.replace(whole))]
        for held in self._held.pop(key, []):
            out.extend(self._book(held, recv))
        return out

    def _page(self, native: str, body: bytes, recv: int) -> Page:
        topic = f"trade.toy.{native}"
        try:
            rows = msgspec.json.decode(body, type=list[_Past])
        except ValueError as e:
            raise BadPayload(self.name, body) from e
        trades = tuple(
            (
                row.n,
                Trade(topic, 0, None, recv, 0, str(row.n), row.p, "1", "buy", backfill=True),
            )
            for row in rows
        )
        return Page(native, trades)

    def fetch_failed(self, key: str, recv: int) -> Iterable[Output]:
        return [Fetch(f"/book?s={key}", key)]


class ToyVenue(Venue):
    rules = Rules(frames=1_000, per_s=1.0)

    def scan(self, line: TapeLine) -> None:
        pass

    def stream_of(self, line: TapeLine) -> Stream | None:
        read = msgspec.json.decode(line.raw or "", type=_Frame)
        return Stream(read.c, read.s) if read.c in ("trade", "book") else None

    def is_broadcast(self, line: TapeLine) -> bool:
        return '"hb"' in (line.raw or "")

    def connected(self, path: str) -> Ack:
        return Ack((), ('{"c":"hb"}',))

    def request(self, path: str, frame: str) -> Ack:
        asked = msgspec.json.decode(frame, type=dict[str, str])
        stream = Stream(asked["channel"], asked["symbol"])
        return Ack((stream,), ('{"c":"ok"}',), asked["op"] == "unsub")

    def rest_key(self, url: str) -> str | None:
        parts = urlsplit(url)
        if parts.path == "/symbols":
            return "symbols"
        return f"book:{parse_qs(parts.query)['s'][0]}" if parts.path == "/book" else None

    def rest_key_of(self, line: TapeLine) -> str | None:
        return self.rest_key(line.url or "")


def received(frame: str, t: float | None = None) -> TapeLine:
    return TapeLine(dir="in", conn="ws1", t=t, raw=frame)


def answered(path: str, body: str, t: float | None = None) -> TapeLine:
    return TapeLine(dir="rest", conn="http", t=t, url=f"http://toy.invalid{path}", raw=body)


def selection(*symbols: str) -> Selection:
    names = symbols or SYMBOLS
    instruments = [one for name in names if (one := Toy.instrument(name)) is not None]
    return by_symbol(Toy, instruments, names, Toy.kinds)
