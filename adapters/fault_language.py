"""How faults of an exchange are written: ``name:argument:key=value`` (``docs/tapes.md``). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from adapters.faults import Fault, Faults
from feed.errors import ConfigError

_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s)").fullmatch


class _Form(NamedTuple):
    """How a fault is written: its argument, read by ``read`` (None: has none), and its keys."""

    usage: str
    read: Callable[[str], dict[str, Any]] | None
    keys: tuple[str, ...]


def _share(text: str) -> dict[str, Any]:
    share = float(text)
    if not 0.0 < share <= 1.0:
        raise ValueError
    return {"share": share}


def _delay(text: str) -> dict[str, Any]:
    time, _, share = text.partition("@")
    found = _TIME(time)
    if found is None:
        raise ValueError
    return {"delay_s": float(found[1]) / (1_000 if found[2] == "ms" else 1)} | _share(share or "1")


def _number(text: str, least: int = 0, most: int = 1 << 53) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ValueError
    return int(text)


def _accept(text: str) -> dict[str, Any]:
    if text != "accept":
        raise ValueError
    return {"at_accept": True}


def _named(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _on(text: str) -> str:
    if text not in ("ws", "rest"):
        raise ValueError
    return text


_ON_FRAMES = ("channel", "symbol", "after", "times")
_FORMS: Mapping[str, _Form] = {
    "drop": _Form("drop:SHARE", _share, _ON_FRAMES),
    "duplicate": _Form("duplicate:SHARE", _share, _ON_FRAMES),
    "reorder": _Form("reorder:SHARE", _share, _ON_FRAMES),
    "delay": _Form("delay:TIME@SHARE", _delay, _ON_FRAMES),
    "corrupt": _Form("corrupt:SHARE", _share, _ON_FRAMES),
    "skip-symbol": _Form(
        "skip-symbol:SYMBOL", lambda text: {"symbol": _named(text)}, ("after", "times")
    ),
    "close": _Form("close:accept|after=N", _accept, ("after", "times", "code")),
    "heartbeats": _Form("heartbeats", None, ("after", "times")),
    "half-open": _Form("half-open", None, ("after", "times")),
    "shutdown": _Form("shutdown", None, ("after", "times")),
    "replay-old": _Form("replay-old:N", lambda text: {"count": _number(text, 1)}, ("times",)),
    "strict": _Form("strict", None, ()),
    "refuse": _Form("refuse", None, ("times", "on")),
    "rate-limit": _Form(
        "rate-limit:STATUS",
        lambda text: {"status": _number(text, 400, 599)},
        ("retry-after", "times", "on"),
    ),
}
_KEYS: Mapping[str, Callable[[str], Any]] = {
    "channel": _named,
    "symbol": _named,
    "after": _number,
    "times": lambda text: _number(text, 1),
    "code": lambda text: _number(text, 1000, 4999),
    "retry-after": _number,
    "on": _on,
}
VALID = ", ".join(form.usage for form in _FORMS.values())


def parse(texts: Sequence[str], seed: int = 0) -> Faults:
    """Read faults as they are written on the command line.

    Raises:
        ConfigError: One of them is none; says which there are.
    """
    return Faults(tuple(_parse(text) for text in texts), seed)


def _parse(text: str) -> Fault:
    name, *parts = text.split(":")
    form = _FORMS.get(name)
    if form is None:
        raise ConfigError(f"--fault {text[:60]}: no such fault; there are: {VALID}")
    fields: dict[str, Any] = {}
    if form.read is not None and (parts and "=" not in parts[0] or name != "close"):
        fields |= _value(text, form, form.read, parts.pop(0) if parts else "")
    for part in parts:
        key, _, value = part.partition("=")
        if key not in form.keys:
            keys = ", ".join(f"{one}=" for one in form.keys)
            raise ConfigError(
                f"--fault {text[:60]}: {part[:20]!r} does not belong to {form.usage}; "
                f"there are: {keys}"
            )
        fields[key.replace("-", "_")] = _value(text, form, _KEYS[key], value)
    if name == "close" and not fields.keys() & {"at_accept", "after"}:
        raise ConfigError(f"--fault {text}: when? write close:accept or close:after=N")
    return Fault(text=text, name=name, **fields)


def _value(text: str, form: _Form, read: Callable[[str], Any], value: str) -> Any:
    try:
        return read(value)
    except ValueError:
        raise ConfigError(
            f"--fault {text[:60]}: {value[:20]!r} does not fit; write {form.usage}"
        ) from None
