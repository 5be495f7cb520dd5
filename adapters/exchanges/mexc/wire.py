"""Protobuf's wire format, read: field numbers and what they hold, one message deep. Pure.

Source: protobuf.dev, "Encoding". Groups, which nobody writes any more, are refused. Of the names
and types of fields nothing is known here; see ``frames``.
"""

from __future__ import annotations

from typing import TypeAlias

#: A number, or bytes: text or a message.
Value: TypeAlias = int | bytes

#: Bytes of the longest number: 64 bits, seven in each.
_MOST_BYTES = 10


def fields(data: bytes) -> list[tuple[int, Value]]:
    """Return the fields of a message in the order sent; numbers of fixed width are passed over.

    Raises:
        ValueError: Not a message.
    """
    found: list[tuple[int, Value]] = []
    at, end = 0, len(data)
    try:
        while at < end:
            key = data[at]
            at += 1
            if key > 127:
                key, at = _varint(data, at - 1)
            if key < 8:
                raise ValueError("a field has the number 0")
            kind = key & 7
            if kind == 2:
                size = data[at]
                at += 1
                if size > 127:
                    size, at = _varint(data, at - 1)
                start, at = at, at + size
                if at > end:
                    raise ValueError("a field is longer than its message")
                found.append((key >> 3, data[start:at]))
            elif kind == 0:
                number, at = _varint(data, at)
                found.append((key >> 3, number))
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
                if at > end:
                    raise ValueError("a field is longer than its message")
            else:
                raise ValueError(f"a field is of the kind {kind}")
    except IndexError:
        raise ValueError("a message ends within a field") from None
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a position, and where it ends."""
    number = 0
    for place in range(_MOST_BYTES):
        byte = data[at + place]
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    raise ValueError("a number is too long")


def text(value: Value | None) -> str:
    """Return a field as text; empty where it was left out.

    Raises:
        ValueError: A number, or no UTF-8.
    """
    return message(value).decode()


def message(value: Value | None) -> bytes:
    """Return a field as a message; empty where it was left out.

    Raises:
        ValueError: A number.
    """
    if isinstance(value, int):
        raise ValueError(f"{value} where text or a message belongs")
    return value or b""


def number(value: Value | None) -> int:
    """Return a field as a number; 0 where it was left out.

    Raises:
        ValueError: No number.
    """
    if isinstance(value, bytes):
        raise ValueError(f"{value[:40]!r} where a number belongs")
    return value or 0
