"""The two encodings of protocol v1, as bodies and as ready WebSocket frames. Pure.

A *body* is one JSON object (or its msgpack twin); a *frame* is a body with the server's frame
header, made once and shared by every connection of the encoding.
"""

from __future__ import annotations

import json as stdlib_json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum

import msgspec

#: Largest array frame of a connection with ``batch`` on, and most bytes handed over in one flush.
PIECE_BYTES = 65_536

_pack_16 = struct.Struct("!BBH").pack
_pack_64 = struct.Struct("!BBQ").pack
_decode_json = msgspec.json.Decoder().decode
_encode_msgpack = msgspec.msgpack.Encoder().encode


class Opcode(IntEnum):
    """Of RFC 6455, section 5.2; those that a server sends."""

    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


def frame(opcode: int, body: bytes) -> bytes:
    """Return one unfragmented, unmasked frame (RFC 6455, section 5.2)."""
    n = len(body)
    if n < 126:
        return bytes((0x80 | opcode, n)) + body
    if n < 65_536:
        return _pack_16(0x80 | opcode, 126, n) + body
    return _pack_64(0x80 | opcode, 127, n) + body


def _body_of(frame: bytes) -> bytes:
    """Return what ``frame`` made a frame of."""
    n = frame[1]
    return frame[2 if n < 126 else 4 if n == 126 else 10 :]


def unframe(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Take our own frames apart again, for servers that frame by themselves."""
    at = 0
    while at < len(data):
        opcode, n = data[at] & 0x0F, data[at + 1] & 0x7F
        at += 2
        if n >= 126:
            width = 2 if n == 126 else 8
            n = int.from_bytes(data[at : at + width], "big")
            at += width
        yield opcode, data[at : at + n]
        at += n


class Encoding:
    """How bodies look on one kind of connection.

    Attributes:
        name: The WebSocket subprotocol.
        opcode: Of its frames, both ways.
        joins: Bodies may share a frame, for who wants that.
    """

    joins = True

    __slots__ = ("_array", "body", "frame", "name", "opcode")

    def __init__(
        self,
        name: str,
        opcode: Opcode,
        body: Callable[[bytes], bytes],
        array: Callable[[Sequence[bytes]], bytes],
    ) -> None:
        self.name = name
        self.opcode = opcode
        self.body = body
        self._array = array
        flag = int(opcode)

        def frame_of(body: bytes) -> bytes:
            return frame(flag, body)

        self.frame = frame_of

    def pieces(self, bodies: Sequence[bytes], batch: bool) -> list[bytes]:
        """Frame bodies, in order, as writes of at most ``PIECE_BYTES`` (or one larger frame).

        With ``batch``, the bodies of a piece share one array frame; a lone one is not wrapped.
        """
        cuts = [0]
        size = 8
        for i, body in enumerate(bodies):
            n = len(body) + (1 if batch else 10)  # a comma, or a frame header
            if size + n > PIECE_BYTES and i > cuts[-1]:
                cuts.append(i)
                size = 8
            size += n
        make = self._piece if batch else self._frames
        cuts.append(len(bodies))
        return [make(bodies[i:j]) for i, j in zip(cuts, cuts[1:], strict=False) if i < j]

    def joined(self, frames: Sequence[bytes]) -> list[bytes]:
        """Return what frames hold as array frames of at most ``PIECE_BYTES``."""
        # Entries wait as frames, since those are what nearly everybody wants: 0.1 µs each here.
        return self.pieces([_body_of(frame) for frame in frames], True)

    def _frames(self, bodies: Sequence[bytes]) -> bytes:
        return b"".join(map(self.frame, bodies))

    def _piece(self, bodies: Sequence[bytes]) -> bytes:
        return self.frame(bodies[0] if len(bodies) == 1 else self._array(bodies))


def _same(json: bytes) -> bytes:
    return json


def _msgpack(json: bytes) -> bytes:
    """Write a JSON object as msgpack, field for field."""
    try:
        return _encode_msgpack(_decode_json(json))
    except (OverflowError, msgspec.ValidationError):
        # A number beyond 64 bits, from somebody else's publisher: its digits are all there is.
        value = stdlib_json.loads(json, parse_int=_int_or_text, parse_float=_float_or_text)
        return _encode_msgpack(value)


def _int_or_text(digits: str) -> int | str:
    if len(digits) > 20:
        return digits
    value = int(digits)
    return value if -(1 << 63) <= value < 1 << 64 else digits


def _float_or_text(digits: str) -> float | str:
    value = float(digits)
    return value if math.isfinite(value) else digits


def _json_array(bodies: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(bodies) + b"]"


def _msgpack_array(bodies: Sequence[bytes]) -> bytes:
    n = len(bodies)
    head = bytes((0x90 | n,)) if n < 16 else struct.pack("!BH", 0xDC, n)
    return head + b"".join(bodies)


JSON = Encoding("feed.v1.json", Opcode.TEXT, _same, _json_array)
MSGPACK = Encoding("feed.v1.msgpack", Opcode.BINARY, _msgpack, _msgpack_array)
ENCODINGS = {encoding.name: encoding for encoding in (JSON, MSGPACK)}
