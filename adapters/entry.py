"""What the registry knows of an exchange before its code is loaded. Pure."""

from __future__ import annotations

import re
from importlib import import_module
from typing import cast

import msgspec

from adapters.base import Adapter, Venue


class Entry(msgspec.Struct, frozen=True):
    """One exchange.

    Attributes:
        package: Below ``adapters.exchanges``; its modules are ``adapter`` and ``venue``.
        adapter, venue: The classes' names there.
        url: Finds in a recorded or requested URL (or its path) that it is this exchange's.
        frame: Finds the same in a received frame of a tape that has no URL; None where another
            exchange's frames look alike, which then is the one to assume. Of one package, more
            telling patterns come first.
        by_default: Runs where ``FEED_EXCHANGES`` says nothing.
    """

    package: str
    adapter: str
    venue: str
    url: re.Pattern[str]
    frame: re.Pattern[str] | None
    by_default: bool = False

    def load_adapter(self) -> type[Adapter]:
        return cast(type[Adapter], self._load("adapter", self.adapter))

    def load_venue(self) -> type[Venue]:
        return cast(type[Venue], self._load("venue", self.venue))

    def _load(self, module: str, name: str) -> object:
        return getattr(import_module(f"adapters.exchanges.{self.package}.{module}"), name)
