"""What exchanges write as text: decimal numbers and times. Pure.

Digits are never touched; only an exponent is written out, as ``docs/protocol.md`` asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, TypeAlias

import msgspec

from feed.models import Level

#: The last time and number that every JSON reader takes exactly.
MAX_MICROS = 1 << 53
Millis: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_MICROS // 1_000)]
#: A trade's number where ids are counted.
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]

_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]+)?").fullmatch
#: Three digits of exponent would write a kilobyte of zeros; no price needs them.
_EXPONENT = re.compile(r"([0-9]+)(?:\.([0-9]+))?[eE]([+-]?[0-9]{1,2})").fullmatch
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}):([0-5][0-9])(?:\.([0-9]{1,9}))?Z"
).fullmatch


@lru_cache(maxsize=1 << 16)
def decimal(text: str) -> str:
    """Return the number without sign that ``text`` is, its own digits, an exponent written out.

    Raises:
        ValueError: Anything else: empty, signed, ``NaN``, blanks.
    """
    if _PLAIN(text):
        return text
    match = _EXPONENT(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a decimal number")
    whole, fraction, exponent = match[1], match[2] or "", int(match[3])
    digits, point = whole + fraction, len(whole) + exponent
    if point <= 0:
        return "0." + "0" * -point + digits
    if point >= len(digits):
        return (digits + "0" * (point - len(digits))).lstrip("0") or "0"
    return (digits[:point].lstrip("0") or "0") + "." + digits[point:]


def signed(text: str) -> str:
    """Return the number that ``text`` is, which may be negative (rates).

    Raises:
        ValueError: Not a number.
    """
    return "-" + decimal(text[1:]) if text.startswith("-") else decimal(text)


def levels(pairs: Iterable[tuple[str, str]]) -> list[Level]:
    """Return (price, size) pairs with both checked.

    Raises:
        ValueError: One of them is not a number.
    """
    return [(decimal(price), decimal(size)) for price, size in pairs]


def step(decimals: int | None) -> str | None:
    """Return the least step of a number with so many decimal places, negative ones before the
    point; None where it is not told, or no number of an exchange's.
    """
    if decimals is None or abs(decimals) > 40:
        return None
    return f"0.{'0' * (decimals - 1)}1" if decimals > 0 else "1" + "0" * -decimals


@lru_cache(maxsize=256)
def _minute(text: str) -> int:
    return int(datetime.fromisoformat(text + "+00:00").timestamp()) * 1_000_000


def micros(text: str) -> int:
    """Return an RFC 3339 time in UTC (``2026-08-02T03:35:51.660084Z``) as µs since the epoch.

    Raises:
        ValueError: Not such a time.
    """
    match = _RFC3339(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a time in UTC")
    # Frames come many a minute: the calendar is worked out once for each.
    minute, second, fraction = match.groups("0")
    return _minute(minute) + int(second) * 1_000_000 + int(fraction[:6].ljust(6, "0"))
