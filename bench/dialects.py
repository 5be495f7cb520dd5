"""What clients say to each kind of server, and where the entries are in what comes back. Pure.

Clients are told what they shall read as a ``subscribe`` of our own protocol; a dialect translates
it. Every entry of a topic costs the same bytes for everybody, so that bytes can be proof.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from feed.encoding import Opcode, frame


class Dialect(Protocol):
    """How one kind of server is spoken to.

    Attributes:
        subprotocol: Of the WebSocket, where it needs one.
        is_cut: Its frames are cut anywhere. Then what is inside of them, one after another, is
            counted and looked at; else the frames themselves.
        quiet_s: After so long a client that has joined is told nothing but entries.
    """

    subprotocol: str | None
    is_cut: bool
    quiet_s: float = 0.5

    def join(self, command: str) -> bytes:
        """Return what asks for the topics of a ``subscribe``, as frames."""

    def is_joined(self, payload: bytes, asked: bool) -> bool:
        """Tell whether with this frame the client has all it asked for (if it did).

        Raises:
            ConnectionError: It was refused.
        """

    def size(self, topic: str, n: int) -> int:
        """Return what an entry of ``n`` bytes of JSON costs where bytes are counted."""

    def entries(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Yield the JSON of each whole entry, and the offset after it."""


def masked(text: str | bytes) -> bytes:
    """Return a client's text or binary frame, with the one mask that changes nothing."""
    if isinstance(text, str):
        plain = frame(Opcode.TEXT, text.encode())
    else:
        plain = frame(Opcode.BINARY, text)
    head = 2 if plain[1] < 126 else 4 if plain[1] == 126 else 10
    return bytes((plain[0], plain[1] | 0x80)) + plain[2:head] + bytes(4) + plain[head:]


def frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield each whole frame's payload and the offset after it."""
    at, end = 0, len(data)
    while end - at >= 2:
        n, head = data[at + 1], 2
        if n >= 126:
            head = 4 if n == 126 else 10
            if end - at < head:
                return
            n = int.from_bytes(data[at + 2 : at + head], "big")
        if end - at < head + n:
            return
        at += head + n
        yield data[at - n : at], at


class Unframed:
    """Takes frames off a stream, wherever that is cut."""

    def __init__(self) -> None:
        self._left = 0
        self._head = b""

    def take(self, data: bytes) -> bytes:
        """Return what of ``data`` is inside of frames."""
        data, at = self._head + data, 0
        self._head = b""
        inside: list[bytes] = []
        while True:
            piece = data[at : at + self._left]
            inside.append(piece)
            self._left -= len(piece)
            at += len(piece)
            head = _head_size(data, at)
            if self._left or len(data) - at < head:
                self._head = data[at:]
                return b"".join(inside)
            n = data[at + 1]
            self._left = n if n < 126 else int.from_bytes(data[at + 2 : at + head], "big")
            at += head


def _head_size(data: bytes, at: int) -> int:
    """Return how long a frame's header is, as far as can be seen."""
    if len(data) - at < 2 or (n := data[at + 1]) < 126:
        return 2
    return 4 if n == 126 else 10


class _Said(msgspec.Struct):
    type: str


_decode_type = msgspec.json.Decoder(_Said | list[_Said]).decode


class Json(Dialect):
    """Ours, and of every server that takes our ``subscribe``: an entry is a text frame."""

    subprotocol = None
    is_cut = False

    def join(self, command: str) -> bytes:
        return masked(command)

    def is_joined(self, payload: bytes, asked: bool) -> bool:
        said: _Said | list[_Said] = _decode_type(payload)
        if isinstance(said, list):
            return False
        if said.type == "error":
            raise ConnectionError(payload.decode())
        return said.type == ("synced" if asked else "welcome")

    def size(self, topic: str, n: int) -> int:
        return n + (2 if n < 126 else 4 if n < 65_536 else 10)

    def entries(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        return frames(data)


class Nats(Dialect):
    """NATS client protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol."""

    subprotocol = None
    is_cut = True
    quiet_s = 3.0  # its first ping comes after two seconds, whatever it is told

    def join(self, command: str) -> bytes:
        said = ['CONNECT {"verbose":false,"pedantic":false}\r\n']
        said += [f"SUB {topic} {i:04d}\r\n" for i, topic in enumerate(_topics(command))]
        return masked("".join((*said, "PING\r\n")).encode())

    def is_joined(self, payload: bytes, asked: bool) -> bool:
        if payload.startswith(b"-ERR"):
            raise ConnectionError(payload.decode())
        return b"PONG\r\n" in payload

    def size(self, topic: str, n: int) -> int:
        return len(f"MSG {topic} 0000 {n}\r\n\r\n") + n

    def entries(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            line = data[at:end]
            at = end + 2
            if line.startswith(b"MSG "):
                n = int(line[line.rindex(b" ") :])
                if len(data) < at + n + 2:
                    return
                yield data[at : at + n], at + n + 2
                at += n + 2


class Mqtt(Dialect):
    """MQTT 3.1.1, quality of service 0."""

    subprotocol = "mqtt"
    is_cut = True

    def join(self, command: str) -> bytes:
        asked = b"".join(_mqtt_text(topic) + b"\0" for topic in _topics(command))
        return masked(mqtt_hello() + mqtt_packet(0x82, b"\0\x01" + asked))

    def is_joined(self, payload: bytes, asked: bool) -> bool:
        return any(kind == 0x90 for kind, _, _ in mqtt_packets(payload))

    def size(self, topic: str, n: int) -> int:
        return len(mqtt_publish(topic, bytes(n)))

    def entries(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        for kind, body, end in mqtt_packets(data):
            if kind == 0x30:
                yield body[2 + int.from_bytes(body[:2], "big") :], end


def mqtt_packet(kind: int, body: bytes) -> bytes:
    """Return a control packet (MQTT 3.1.1, section 2.2)."""
    n, size = len(body), bytearray()
    while n >= 0x80:
        size.append(n & 0x7F | 0x80)
        n >>= 7
    size.append(n)
    return bytes((kind, *size)) + body


def mqtt_hello() -> bytes:
    """Return a CONNECT: a clean session, no keep-alive, a name of the server's choice."""
    return mqtt_packet(0x10, _mqtt_text("MQTT") + b"\x04\x02\0\0" + _mqtt_text(""))


def mqtt_publish(topic: str, body: bytes) -> bytes:
    return mqtt_packet(0x30, _mqtt_text(topic) + body)


def mqtt_packets(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield each whole packet's first byte, what follows its length, and the offset after it."""
    at = 0
    while at < len(data):
        kind, n, shift = data[at], 0, 0
        at += 1
        while at < len(data):
            n |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if data[at - 1] < 0x80:
                break
        else:
            return
        if len(data) < at + n:
            return
        at += n
        yield kind, data[at - n : at], at


def _mqtt_text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _topics(command: str) -> Sequence[str]:
    topics: list[str] = json.loads(command)["topics"]
    return topics


DIALECTS: dict[str, Dialect] = {"json": Json(), "nats": Nats(), "mqtt": Mqtt()}
