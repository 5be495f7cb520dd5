"""What one client was given, checked against the promises of the protocol as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from feed.encoding import unframe

_from_msgpack = msgspec.msgpack.Decoder().decode
_from_json = msgspec.json.Decoder().decode


def objects(data: bytes) -> Iterator[Any]:
    """Yield what the frames in ``data`` say: an object, or a list of them."""
    for opcode, body in unframe(data):
        yield _from_json(body) if opcode == 1 else _from_msgpack(body)


class Ledger:
    """Accounts for every position of ``all`` topics; of ``latest`` ones, for the order.

    Attributes:
        at: Topic in ``all`` -> the last position delivered or explained; None before the first.
        latest: Topic in ``latest`` -> the last position delivered as an event.
        snapshots: Topic in ``latest`` -> position of the last snapshot.
        seen: Everything, in order.
        lost: Positions that a gap of the connection explained, by topic.
    """

    def __init__(self) -> None:
        self.at: dict[str, int | None] = {}
        self.latest: dict[str, int] = {}
        self.seen: list[dict[str, Any]] = []
        self.lost: dict[str, int] = {}
        self.snapshots: dict[str, int] = {}
        self._owed_snapshot: dict[str, int] = {}

    def take(self, said: Any) -> None:
        """Check one frame's content, an object or a batch."""
        for one in said if isinstance(said, list) else [said]:
            self.seen.append(one)
            topic = one.get("topic")
            if topic is None:
                continue
            if one["type"] == "snapshot":
                self._snapshot(topic, one["seq"])
            elif topic in self.latest:
                assert one["type"] != "gap", one
                if one["seq"] is not None:
                    assert one["seq"] > self.latest[topic], (one, self.latest[topic])
                    self.latest[topic] = one["seq"]
            else:
                assert topic in self.at, f"nobody asked for this: {one}"
                self._entry(topic, one)

    def of(self, topic: str) -> list[dict[str, Any]]:
        """Return what came of one topic."""
        return [one for one in self.seen if one.get("topic") == topic]

    def types(self) -> list[str]:
        return [one["type"] for one in self.seen]

    def _entry(self, topic: str, one: dict[str, Any]) -> None:
        assert topic not in self._owed_snapshot, f"a snapshot was to come before {one}"
        at = self.at[topic]
        if one["type"] == "gap" and one["seq"] is None:
            first, last = one["from"], one["to"]
            assert first <= last, one
            assert not at or first == at + 1, (one, at)
            self.at[topic] = last
            self.lost[topic] = self.lost.get(topic, 0) + last - first + 1
            if topic.startswith("book.") and one["cause"] in ("slow_consumer", "resume_too_old"):
                self._owed_snapshot[topic] = last
            return
        if one["seq"] is None:
            return  # made by the server, explains nothing
        if at and one["seq"] != at + 1:  # 0: nothing was ever published, so it starts anywhere
            assert one["type"] == "gap" and one["cause"] == "publisher_restart", (one, at)
            assert (one["from"], one["to"]) == (at + 1, one["seq"] - 1), (one, at)
        self.at[topic] = one["seq"]

    def _snapshot(self, topic: str, seq: int) -> None:
        owed = self._owed_snapshot.pop(topic, None)
        assert owed is None or owed == seq, f"the gap ends at {owed}, the snapshot is of {seq}"
        if topic in self.at:
            at = self.at[topic]
            assert not at or at == seq, f"{topic}: a snapshot of {seq} after {at}"
            self.at[topic] = seq
        elif topic in self.latest:
            assert seq >= self.latest[topic]  # a gap may stand behind the newest value
            self.snapshots[topic] = seq
