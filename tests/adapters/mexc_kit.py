"""MEXC's frames, written: what the tests of its adapter are made of."""

from __future__ import annotations

from collections.abc import Iterable

Pair = tuple[str, str]


def number(value: int) -> bytes:
    """Return a number in protobuf's wire format."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def field(at: int, value: str | bytes | int) -> bytes:
    """Return a field; those of proto3 that are empty or 0 are left out."""
    if not value:
        return b""
    if isinstance(value, int):
        return number(at << 3) + number(value)
    data = value.encode() if isinstance(value, str) else value
    return number(at << 3 | 2) + number(len(data)) + data


def message(*values: str | bytes | int) -> bytes:
    """Return a message of these fields, numbered from 1."""
    return b"".join(field(at, value) for at, value in enumerate(values, 1))


def wrapped(name: str, kind: int, body: bytes, sent: int = 1_790_000_000_000) -> bytes:
    """Return a wrapper around field ``kind``, in the order in which MEXC writes it."""
    native = next(part for part in name.split("@")[2:] if part not in ("10ms", "100ms"))
    return field(1, name) + field(3, native) + field(6, sent) + field(kind, body)


def deal(price: str, size: str, type_: int, time: int, id: str = "") -> bytes:
    return field(1, message(price, size, type_, time, id))


def deals(*all_of_them: bytes, native: str = "BTCUSDT", sent: int = 1_790_000_000_000) -> bytes:
    name = f"spot@public.aggre.deals.v3.api.pb@10ms@{native}"
    event = field(2, "spot@public.aggre.deals.v3.api.pb@10ms")
    return wrapped(name, 314, b"".join(all_of_them) + event, sent)


def depth(
    first: int,
    last: int,
    bids: Iterable[Pair] = (),
    asks: Iterable[Pair] = (),
    *,
    native: str = "BTCUSDT",
    sent: int = 1_790_000_000_000,
) -> bytes:
    body = b"".join(
        [
            *(field(1, message(*level)) for level in asks),
            *(field(2, message(*level)) for level in bids),
            field(3, "spot@public.aggre.depth.v3.api.pb@100ms"),
            field(4, str(first)),
            field(5, str(last)),
            field(6, sent - 3),
        ]
    )
    return wrapped(f"spot@public.aggre.depth.v3.api.pb@100ms@{native}", 313, body, sent)


def best(bid: Pair, ask: Pair, *, native: str = "BTCUSDT", sent: int = 1_790_000_000_000) -> bytes:
    name = f"spot@public.aggre.bookTicker.v3.api.pb@10ms@{native}"
    return wrapped(name, 315, message(*bid, *ask, "82164153436", sent - 5), sent)


def day(*values: str, native: str = "BTCUSDT", sent: int = 1_790_000_000_000) -> bytes:
    """Return a ticker of: last, rate, rate in its zone, high, low, turnover, volume."""
    name = f"spot@public.miniTicker.v3.api.pb@{native}@24H"
    return wrapped(name, 309, message(native, *values), sent)
