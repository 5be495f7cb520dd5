"""A client that resumes by the protocol, wanders between web processes, and writes down what came.

What it learns of a topic becomes a list of facts (``check.py``), from which its position follows.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from tests.torture.check import Begun, Fact, Got, Missed, Shown, position
from tests.torture.ledger import canonical_digest, digest
from tests.torture.plan import Move

#: Heartbeats come each second; who hears nothing for so long goes elsewhere.
_PATIENCE_S = 5.0
_CONNECT_S = 4.0
#: Small, so that a client that stops reading is felt by the server within seconds.
_RECEIVE_BUFFER = 16_384
_OFFER = {"json": websockets.Subprotocol("feed.v1.json")}
_OFFER["msgpack"] = websockets.Subprotocol("feed.v1.msgpack")

_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode
_from_json = msgspec.json.Decoder().decode
_from_msgpack = msgspec.msgpack.Decoder().decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Client:
    """One client.

    Args:
        ports: Of the web processes; it takes the next one at each connect.
        all, latest: Topics and patterns it wants in these modes.

    Attributes:
        facts: Topic in ``all`` -> what came of it.
        shown: Topic in ``latest`` -> the same.
        counts: Deliveries, reconnects and the like.
        wrong: What it was told that is against the protocol and no fact of a topic.
    """

    def __init__(
        self,
        number: int,
        ports: Sequence[int],
        all: Sequence[str],
        latest: Sequence[str],
        rng: Random,
    ) -> None:
        self.number = number
        self.facts: dict[str, list[Fact]] = {}
        self.shown: dict[str, list[Fact]] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._ports = ports
        self._all = tuple(all)
        self._latest = tuple(latest)
        self._rng = rng
        self._is_msgpack = number % 2 == 1
        self._is_batching = number % 4 < 2
        self._visits = number // 2
        self._move: Move | None = None
        self._unknown: set[str] = set()
        self._told: dict[str, bool] = {}

    def __str__(self) -> str:
        return f"client {self.number} ({'msgpack' if self._is_msgpack else 'JSON'})"

    def act(self, move: Move) -> None:
        """Do this as soon as something is read; a client that is not connected forgets it."""
        self._move = move

    def at(self, topic: str) -> int:
        """Return where it stands; 0 where it has nothing."""
        return position(self.facts.get(topic, self.shown.get(topic, ()))) or 0

    @property
    def wishes(self) -> tuple[str, ...]:
        return (*self._all, *self._latest)

    def has(self, text: str) -> bool:
        """Whether anything came of what it asked for under this string."""
        prefix = text.removesuffix("*")
        topics = (*self.facts, *self.shown)
        return any(t == text or ("*" in text and t.startswith(prefix)) for t in topics)

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        while True:
            try:
                await self._visit(self._ports[self._visits % len(self._ports)])
            except (OSError, TimeoutError, WebSocketException) as e:
                self.counts[f"ended: {_name(e)}"] += 1
            self._visits += 1
            await asyncio.sleep(self._rng.uniform(0.05, 1.0))

    async def _visit(self, port: int) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        connection = await websockets.connect(
            f"ws://127.0.0.1:{port}/v1/ws",
            sock=sock,
            subprotocols=[_OFFER["msgpack" if self._is_msgpack else "json"]],
            compression=None,
            max_size=None,
            ping_interval=None,
            open_timeout=_CONNECT_S,
            close_timeout=1.0,
        )
        self.counts["connects"] += 1
        self._move = None
        self._unknown.clear()
        self._told.clear()
        for facts in self.shown.values():
            facts.append(Begun(None))
        try:
            await self._subscribe(connection)
            await self._read(connection)
        finally:
            connection.transport.abort()
            await connection.wait_closed()

    async def _subscribe(self, connection: ClientConnection) -> None:
        if self._is_batching:
            await self._say(connection, op="options", batch=True)
        since = {topic: at for topic in self.facts if (at := self.at(topic))}
        self.counts["resumes asked"] += len(since)
        await self._say(
            connection, op="subscribe", topics=self._all, mode="all", status=False, since=since
        )
        if self._latest:
            await self._say(
                connection, op="subscribe", topics=self._latest, mode="latest", status=False
            )

    async def _say(self, connection: ClientConnection, **command: Any) -> None:
        if self._is_msgpack:
            await connection.send(_to_msgpack(command))
        else:
            await connection.send(_to_json(command).decode())

    async def _read(self, connection: ClientConnection) -> None:
        while True:
            async with asyncio.timeout(_PATIENCE_S):
                data = await connection.recv()
            for said, mark in self._said(data):
                self._take(said, mark)
                if said["type"] == "heartbeat" and self._unknown:
                    await self._ask_again(connection)
            move, self._move = self._move, None
            if move is None:
                continue
            self.counts[move.whim] += 1
            match move.whim:
                case "close":
                    await connection.close()
                    return
                case "abort":
                    return
                case "stall":
                    await asyncio.sleep(move.for_s)

    async def _ask_again(self, connection: ClientConnection) -> None:
        """Subscribe to what was unknown: a bus that was emptied may have its catalogue again."""
        topics = sorted(self._unknown)
        self._unknown.clear()
        for mode, chosen in (("all", self._all), ("latest", self._latest)):
            if wanted := [topic for topic in topics if topic in chosen]:
                since = {t: self.at(t) for t in wanted if mode == "all" and self.at(t)}
                await self._say(
                    connection, op="subscribe", topics=wanted, mode=mode, status=False, since=since
                )

    def _said(self, data: str | bytes) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each object of a frame, and the digest of its bytes, or of itself in msgpack."""
        if isinstance(data, bytes):
            said = _from_msgpack(data)
            for one in said if isinstance(said, list) else [said]:
                yield one, canonical_digest(one)
            return
        text = data.encode()
        for raw in _items(text) if text.startswith(b"[") else (text,):
            yield _from_json(raw), digest(bytes(raw))

    def _take(self, said: dict[str, Any], mark: int) -> None:
        self.counts["objects"] += 1
        topic = said.get("topic")
        match said["type"]:
            case "subscribed":
                for result in said["results"]:
                    self._answered(result)
            case "error":
                self.wrong.append(f"was told {said}")
            case "closing":
                self.counts[f"told {said['code']}"] += 1
            case "snapshot":
                self.counts["snapshots"] += 1
                self._note(said["topic"], _shown(said))
            case "gap" if said["seq"] is None:
                self._gap(said["topic"], Missed(said["from"], said["to"], said["cause"]))
            case kind if topic is not None and said["seq"] is not None:
                self.counts["entries"] += 1
                is_restart = kind == "gap" and said["cause"] == "publisher_restart"
                explains = said["from"] if is_restart else None
                if is_restart and said["to"] != said["seq"] - 1:
                    self.wrong.append(f"a restart that explains something else: {said}")
                self._note(topic, Got(said["seq"], mark, explains))

    def _answered(self, result: dict[str, Any]) -> None:
        if not result["ok"]:
            self.counts[f"refused: {result['code']}"] += 1
            self._unknown.add(result["topic"])
            return
        mode = self.facts if result["mode"] == "all" else self.shown
        for name, seq, recovered in result.get("topics") or [
            (result["topic"], result.get("seq"), result.get("recovered"))
        ]:
            if name is None or "*" in name:
                continue  # a pattern that matches nothing yet
            facts = mode.setdefault(name, [])
            if mode is self.shown:
                continue
            if recovered is not None:
                self._told[name] = recovered
                self.counts["resumed" if recovered else "not resumed"] += 1
            elif self.at(name):
                self.wrong.append(f"{name}: since was given and not answered: {result}")
            else:
                # No snapshot of trades comes: the next entry must be the next position.
                facts.append(Begun(seq if seq and name.startswith("trade.") else None))

    def _gap(self, topic: str, gap: Missed) -> None:
        facts = self.facts.get(topic, [])
        at = position(facts)
        self.counts[f"gap {gap.cause}"] += 1
        if gap.cause == "resume_too_old" and self._told.get(topic):
            self.wrong.append(f"{topic}: {gap}, after recovered:true")
        if gap.cause == "resume_too_old" and at is not None and gap.last <= at:
            # The server knows less than the client: nothing is sure after ``at``.
            facts.append(Begun(gap.last or None, lost=at))
            return
        self._note(topic, gap)

    def _note(self, topic: str, fact: Fact) -> None:
        facts = self.facts.get(topic)
        if facts is None:
            facts = self.shown.get(topic)
        if facts is None:  # listed since: a pattern of ours covers it now
            pattern = f"{topic[: topic.rindex('.')]}.*"
            mode = self.shown if pattern in self._latest else self.facts
            if mode is self.facts and pattern not in self._all:
                self.wrong.append(f"nobody asked for {topic}: {fact}")
            facts = mode.setdefault(topic, [])
        facts.append(fact)


def _shown(said: dict[str, Any]) -> Shown:
    event = said["event"]
    if event is None or event["seq"] is None or event["type"] == "book":
        return Shown(said["seq"])
    return Shown(said["seq"], Got(event["seq"], canonical_digest(event)))


def _name(error: Exception) -> str:
    received = getattr(error, "rcvd", None)
    return f"code {received.code}" if received is not None else type(error).__name__
