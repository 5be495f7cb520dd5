"""What the tests of the Binance adapters share."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from adapters import tape
from adapters.base import Fetch, Output, Plan, Stream, TapeLine
from adapters.exchanges.binance.adapter import Binance, BinanceCoinm, BinanceUs, BinanceUsdm
from adapters.exchanges.binance.venue import BinanceVenue

PAYLOADS = Path(__file__).parents[1] / "payloads"
SPOT = PAYLOADS / "binance"
USDM = PAYLOADS / "binance-usdm"
COINM = PAYLOADS / "binance-coinm"
US = PAYLOADS / "binance-us"

T = TypeVar("T")
Reader = Binance | BinanceUs | BinanceUsdm | BinanceCoinm
AnyBinance = type[Reader]


def adapter(cls: AnyBinance, streams: Collection[Stream], kinds: Collection[str] = ()) -> Reader:
    """Return an adapter for one connection that carries all these streams."""
    instruments = {}
    for native in {stream.native for stream in streams}:
        instrument = cls.instrument(native)
        assert instrument is not None, native
        instruments[native] = instrument
    return cls(Plan("/stream", tuple(streams), instruments), kinds or cls.kinds)


def one(cls: AnyBinance, *channels: str, native: str = "BTCUSDT") -> Reader:
    return adapter(cls, [Stream(channel, native) for channel in channels])


class Tape:
    """A recording, read as the fake exchange reads it."""

    def __init__(self, cls: AnyBinance, path: Path) -> None:
        lines = list(tape.read(path))
        venue = BinanceVenue()  # the markets differ in their limits and farewells alone
        for line in lines:
            venue.scan(line)
        received = [line for line in lines if line.dir == "in"]
        self.cls = cls
        self.frames = [tape.body(line) for line in received]
        self.streams = sorted(
            {stream for line in received if (stream := venue.stream_of(line))},
            key=lambda stream: (stream.native, stream.channel),
        )
        self.bodies = {
            venue.rest_key_of(line) or "": tape.body(line) for line in lines if line.dir == "rest"
        }

    def adapter(self) -> Reader:
        return adapter(self.cls, self.streams)

    def rest(self) -> Callable[[Fetch], bytes | None]:
        """Return what answers fetches: every body once, as the fake exchange does."""
        left = dict(self.bodies)
        return lambda fetch: left.pop(fetch.key, None)

    def payloads(self, *channels: str) -> list[dict[str, Any]]:
        """Return the payloads of these channels, as plain JSON."""
        found = (json.loads(frame) for frame in self.frames)
        return [
            frame["data"]
            for frame in found
            if "stream" in frame and frame["stream"].split("@")[1] in channels
        ]


def wrapped(stream: str, **data: object) -> bytes:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()


def answer(update_id: int, bids: list[list[str]], asks: list[list[str]]) -> bytes:
    body = {"lastUpdateId": update_id, "bids": bids, "asks": asks}
    return json.dumps(body, separators=(",", ":")).encode()


def only(kind: type[T], outputs: Collection[Output]) -> list[T]:
    return [output for output in outputs if isinstance(output, kind)]


def line(raw: str, direction: str = "in") -> TapeLine:
    return TapeLine(dir=direction, raw=raw)
