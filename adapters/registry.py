"""Which exchanges there are: name -> adapter and venue, loaded when asked for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import cast

from adapters import exchanges
from adapters.base import TapeLine
from adapters.entry import Entry
from feed.errors import ConfigError

#: What ``feed ingest`` runs when asked by name, though no adapter of an exchange: ``sim.py``.
SIM = "sim"
#: Every exchange of the registry, as a name.
ALL = "all"


def _found() -> dict[str, Entry]:
    """Return what every package below ``adapters.exchanges`` declares, by name."""
    found: dict[str, Entry] = {}
    for package in iter_modules(exchanges.__path__):
        module = import_module(f"{exchanges.__name__}.{package.name}")
        found |= cast(dict[str, Entry], module.ENTRIES)
    return found


REGISTRY: dict[str, Entry] = _found()


def entry(name: str) -> Entry:
    """Return the exchange's entry.

    Raises:
        ConfigError: No such exchange; names those there are.
    """
    try:
        return REGISTRY[name]
    except KeyError:
        near = get_close_matches(name, [*REGISTRY, SIM], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(sorted([*REGISTRY, SIM]))
        raise ConfigError(f"unknown exchange {name[:40]!r}{hint} (there are: {known})") from None


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the exchanges to run: those named, each once; ``all`` but ``sim``; or the default.

    Raises:
        ConfigError: A name we do not know.
    """
    wanted = [one for name in names for one in (sorted(REGISTRY) if name == ALL else [name])]
    for name in wanted:
        if name != SIM:
            entry(name)
    default = sorted(name for name, one in REGISTRY.items() if one.by_default)
    return tuple(dict.fromkeys(wanted or default))


def exchanges_of(lines: Iterable[TapeLine]) -> list[str]:
    """Return whose tape this is: by its URLs, or by its frames where it has none.

    One recorder may have been connected to several, so there may be more than one.
    """
    found: set[str] = set()
    by_frame: str | None = None
    has_urls = False
    for line in lines:
        if line.url is not None:
            has_urls = True
            found.update(name for name, one in REGISTRY.items() if one.url.search(line.url))
        elif line.dir == "in" and line.raw is not None and by_frame is None:
            by_frame = next(
                (
                    name
                    for name, one in REGISTRY.items()
                    if one.frame is not None and one.frame.search(line.raw)
                ),
                None,
            )
    if by_frame is not None and not has_urls:
        return [by_frame]
    return sorted(found)


def owner(path: str, names: Collection[str]) -> str | None:
    """Return which of the exchanges a requested path belongs to; the only one gets all."""
    if len(names) == 1:
        return next(iter(names))
    return next((name for name in names if REGISTRY[name].url.search(path)), None)
