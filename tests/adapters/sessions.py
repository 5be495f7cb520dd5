"""What tests of adapters on recorded sessions share, whatever the exchange."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from adapters import tape
from adapters.base import Adapter, Checkpoint, Fetch, Output, Plan, Stream, Venue
from adapters.book import DEPTH_LEVELS
from adapters.recording import listing_of, once
from adapters.registry import REGISTRY
from feed.errors import BadPayload
from feed.models import (
    Book,
    Depth,
    Derivative,
    Gap,
    Instrument,
    Level,
    Liquidation,
    Quote,
    Ticker,
    Trade,
)
from tests.adapters.tapes import Run, run

T = TypeVar("T")
#: Both sides of a book, price -> size.
Sides = tuple[dict[str, str], dict[str, str]]
EVENTS = (Trade, Quote, Book, Depth, Ticker, Derivative, Liquidation, Gap)
PAYLOADS = Path(__file__).parents[1] / "payloads"


def payload(name: str) -> Path:
    """Return the session that comes with the tests; siblings may share one."""
    own = PAYLOADS / name / "session.jsonl"
    return own if own.exists() else PAYLOADS / REGISTRY[name].package / "session.jsonl"


def only(kind: type[T], outputs: Iterable[object]) -> list[T]:
    return [output for output in outputs if isinstance(output, kind)]


def adapter(
    cls: type[Adapter], streams: Collection[Stream], kinds: Collection[str] = ()
) -> Adapter:
    """Return an adapter for one connection that carries all these streams."""
    instruments = {}
    for native in {stream.native for stream in streams}:
        named = cls.instrument(native)
        assert named is not None, native
        instruments[native] = named
    plans = cls.plan(list(streams), instruments)
    # An exchange may serve them on several paths; here one reader takes it all.
    planned = tuple(stream for plan in plans for stream in plan.streams)
    path = "".join(plan.path for plan in plans)
    return cls(Plan(path, planned, instruments), kinds or cls.kinds)


class Session:
    """A recording of one exchange, read as the fake exchange reads it.

    Attributes:
        frames: All frames received on its connections, acks too.
        streams: Those with data.
        listed: What its recorded listing lists; empty where it has none.
        bodies: REST key -> recorded bodies.
        control: Those of the frames that belong to no stream: acknowledgements, pings.
        unfed: Those of the frames whose streams feed nothing: they need not be looked into.
    """

    def __init__(self, cls: type[Adapter], venue: Venue, path: Path) -> None:
        lines = list(tape.read(path))
        for line in lines:
            venue.scan(line)
        paths = {
            line.conn: urlsplit(line.url).path
            for line in lines
            if line.dir == "connect" and line.url
        }
        mine = getattr(cls, "path", "")
        # Two markets of one exchange on one tape are told apart by their path.
        shared = len(set(paths.values())) > 1 and mine in paths.values()
        of_stream = [
            (line, stream)
            for line, stream in once(lines, venue)
            if line.dir == "in" and not (shared and paths.get(line.conn) != mine)
        ]
        received = [line for line, _ in of_stream]
        self.cls = cls
        self.venue = venue
        self.frames = [tape.body(line) for line in received]
        self.streams = sorted(
            {stream for _, stream in of_stream if stream},
            key=lambda stream: (stream.native, stream.channel),
        )
        self.control = {tape.body(line) for line, stream in of_stream if stream is None}
        self.unfed = {
            tape.body(line)
            for line, stream in of_stream
            if stream
            and (instrument := cls.instrument(stream.native))
            and not cls.carried([stream], instrument, cls.kinds)[0]
        }
        self.bodies: dict[str, list[bytes]] = defaultdict(list)
        for line in lines:
            key = venue.rest_key_of(line) if line.dir == "rest" else None
            if key is not None:
                self.bodies[key].append(tape.body(line))
        listing = listing_of(cls.listing_paths, venue, self.bodies)
        self.listed: list[Instrument] = cls.instruments(listing) if listing else []

    def adapter(self, kinds: Collection[str] = ()) -> Adapter:
        return adapter(self.cls, self.streams, kinds)

    def run(
        self,
        each: Callable[[bytes, list[Output]], None] = lambda f, o: None,
        *,
        kinds: Collection[str] = (),
        pace: int = 1,
    ) -> Run:
        """Feed all frames, ``pace`` µs apart, and to what is fetched each recorded body once."""
        return run(self.adapter(kinds), self.frames, self.rest(), each=each, pace=pace)

    def rest(self) -> Callable[[Fetch], bytes | None]:
        """Return what answers fetches: every body once, as the fake exchange does."""
        left = {key: iter(bodies) for key, bodies in self.bodies.items()}

        def answer(fetch: Fetch) -> bytes | None:
            key = self.venue.rest_key(fetch.path)
            return None if key is None else next(left.get(key, iter(())), None)

        return answer

    def payloads(self) -> list[dict[str, Any]]:
        """Return the frames as plain JSON, numbers as their own text."""
        return [json.loads(one, parse_float=str, parse_int=str) for one in self.frames]


def published(outputs: Iterable[Output]) -> dict[str, list[bytes]]:
    """Return what would be published, topic by topic, without the receive times."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for output in outputs:
        event = output.book if isinstance(output, Checkpoint) else output
        if isinstance(event, EVENTS):
            name = "checkpoint " if isinstance(output, Checkpoint) else ""
            found[name + event.topic].append(msgspec.json.encode(replace(event, recv=0)))
    return found


def apply(sides: Sides, bids: Iterable[Sequence[str]], asks: Iterable[Sequence[str]]) -> None:
    """Apply a delta as a client would: by the price's text."""
    for side, changes in zip(sides, (bids, asks), strict=True):
        for price, size in changes:
            side.pop(price, None)
            if float(size):
                side[price] = size


def best_first(sides: Sides) -> tuple[list[Level], list[Level]]:
    bids, asks = (list(side.items()) for side in sides)
    bids.sort(key=lambda level: -float(level[0]))
    asks.sort(key=lambda level: float(level[0]))
    return bids, asks


def clients_books(outputs: Iterable[Output]) -> dict[str, Sides]:
    """Return the books a client has in the end; no top of book, depth or quote was crossed."""
    books: dict[str, Sides] = {}
    for output in outputs:
        match output:
            case Book(topic, snapshot=is_snapshot):
                if is_snapshot:
                    books[topic] = (dict(output.bids), dict(output.asks))
                else:
                    apply(books[topic], output.bids, output.asks)
                bids, asks = best_first(books[topic])
                assert not bids or not asks or float(bids[0][0]) < float(asks[0][0])
            case Depth():
                assert max(len(output.bids), len(output.asks)) <= DEPTH_LEVELS
                if output.bids and output.asks:
                    assert float(output.bids[0][0]) < float(output.asks[0][0])
            case Quote():
                if output.bid is not None and output.ask is not None:
                    assert float(output.bid) < float(output.ask)
            case _:
                pass
    return books


def survives(reader: Adapter, frame: bytes, recv: int) -> list[Output]:
    """Feed any bytes: outputs or ``BadPayload``, nothing else ever."""
    try:
        return list(reader.parse(frame, recv))
    except BadPayload:
        return []


#: Ways to spoil a frame, beside those that hypothesis finds.
GARBAGE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"pong",
    b"\xff\xfe{}",
    b'{"type":"no_such_type"}',
    b'{"channel":"no_such_channel","data":[]}',
    b'{"topic":"no.such.topic","data":{}}',
    b"[" * 100_000,
    b'{"data":' + b"[" * 100_000,
    b'{"x":' * 50_000 + b"1" + b"}" * 50_000,
]


#: What a price follows.
PRICE_KEYS = (
    '"price_str":',
    '"price":',
    '"p":',
    '"b":[[',
    '"bids":[[',
    '["buy",',
    '["sell",',
    '"lastPrice":',
)
NONSENSE = (
    *("NaN", "Infinity", "-1.5", "1e999", "null", "[[[[]]]]"),
    *('""', '"NaN"', '"-1.5"', '"1e999"', '" 1"', '"1,5"', '"\\u0661"'),
)


def _unpacked(frame: bytes) -> tuple[str | None, Callable[[bytes], bytes]]:
    """Return a frame's text, and what makes a frame of a text; None where it has none."""
    if frame.startswith(b"\x1f\x8b"):
        return gzip.decompress(frame).decode(), gzip.compress
    try:
        return frame.decode(), bytes
    except UnicodeDecodeError:
        return None, bytes


def spoiled(frame: bytes) -> list[bytes]:
    """Return halves of a frame, and the whole with nonsense for its first price."""
    bad = [frame[: len(frame) // 2], frame[:-1], frame + b"}"]
    text, packed = _unpacked(frame)
    if text is None or not text.startswith(("{", "[")):
        return bad
    for key in PRICE_KEYS:
        before, found, rest = text.partition(key)
        # Of the last trade before we came only the id is read, and not by how much a ticker's
        # price has changed; an empty last price says none.
        if not found or "last_match" in before or "24hrTicker" in before:
            continue
        price = rest[: min(rest.index(end) for end in ",]}" if end in rest)]
        is_optional = key == '"lastPrice":'
        bad += [
            packed(f"{before}{found}{value}{rest.removeprefix(price)}".encode())
            for value in NONSENSE
            if not (is_optional and value in ('""', "null"))
        ]
        break
    return bad


def is_same(text: str | None, value: float | None) -> bool:
    """Whether another project's number is our text."""
    return text is None if value is None else text is not None and float(text) == value
