"""Other servers that do the same work, to be measured beside ours: ``make bench-peers``.

All are fed from the same channels of the bus and forward the same JSON, a message an entry.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from bench.report import REPO
from feed.errors import ConfigError

_PYTHON = (sys.executable, "-m")
_INSTALLED = REPO / "build" / "peers"
_MODULES = _INSTALLED / "node_modules"
_PACKAGES = _INSTALLED / "python"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A server that can be measured.

    Attributes:
        name: As it is asked for and shown.
        program: What runs ``module``.
        needs: What must be there: a file, or a program on the PATH.
        install: What brings that.
        environment: Of its process.
        dialect: How its clients speak to it, see ``bench.dialects``.
        is_bridge: The module brings the entries to a broker, which is its child and is measured.
        conflates: It knows ``latest``.
    """

    name: str
    module: str
    program: Sequence[str] = _PYTHON
    needs: Sequence[str | Path] = ()
    install: str = "make bench-peers"
    environment: Mapping[str, str] = {}
    dialect: str = "json"
    is_bridge: bool = False
    conflates: bool = False

    def missing(self) -> str | None:
        """Say why it cannot be measured here, if so."""
        for one in self.needs:
            if not (one.exists() if isinstance(one, Path) else shutil.which(one)):
                what = one.name if isinstance(one, Path) else one
                return f"{self.name} is left out: {what} is not installed ({self.install})"
        return None


def _node(name: str, package: str) -> Peer:
    return Peer(
        name=name,
        module=f"bench/peers/{name}.cjs",
        program=("node",),
        needs=("node", _MODULES / package),
        environment={"NODE_PATH": str(_MODULES)},
    )


def _python(name: str, needs: Path, conflates: bool = False) -> Peer:
    return Peer(
        name=name,
        module=f"bench.peers.{name}",
        needs=(needs,),
        environment={"PYTHONPATH": str(_PACKAGES)},
        conflates=conflates,
    )


OURS = Peer(name="pricefeed", module="bench.server", conflates=True)
PEERS = {
    peer.name: peer
    for peer in (
        Peer(name="plain", module="bench.peers.plain"),
        _node("ws", "ws"),
        _node("uws", "uwebsockets"),
        _python("picows", _PACKAGES / "picows"),
        _python("granian", _PACKAGES / "granian", conflates=True),
        Peer(
            name="nats",
            module="bench.peers.nats",
            needs=(_PACKAGES / "bin" / "nats-server",),
            environment={"PATH": f"{_PACKAGES / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            dialect="nats",
            is_bridge=True,
        ),
        Peer(
            name="mosquitto",
            module="bench.peers.mosquitto",
            needs=("mosquitto",),
            install="apt-get install mosquitto",
            dialect="mqtt",
            is_bridge=True,
        ),
    )
}


def named(names: Iterable[str]) -> list[Peer]:
    """Return the peers of these names; all for ``all``.

    Raises:
        ConfigError: There is none of such a name.
    """
    wanted = list(names)
    if wanted == ["all"]:
        return list(PEERS.values())
    for name in wanted:
        if name not in PEERS:
            raise ConfigError(f"no peer is called {name!r}; there are {', '.join(PEERS)}")
    return [PEERS[name] for name in wanted]
