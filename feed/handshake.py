"""The server's side of a WebSocket's opening handshake (RFC 6455, section 4.2). Pure."""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha1
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from feed.admission import Caller, Refusal

_encode = msgspec.json.Encoder().encode
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_TARGET_BYTES = 8_192
_MAX_HEADERS = 128
_MAX_HEADER_BYTES = 65_536
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: To repeat one of these is to say two different things.
_ONCE = frozenset(
    (b"host", b"origin", b"sec-websocket-key", b"sec-websocket-version", b"content-length")
)
#: What some refusals must say besides (RFC 9110, 15.5.6; RFC 6455, 4.4).
_BESIDES = {
    405: b"allow: GET\r\n",
    426: b"upgrade: websocket\r\nsec-websocket-version: 13\r\n",
}


class Handshake(NamedTuple):
    """A client's opening handshake, and nothing wrong with it.

    Attributes:
        path: Decoded, without the query.
        key: To be answered.
    """

    path: str
    key: bytes
    caller: Caller


def read(
    method: bytes, target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]
) -> Handshake | Refusal:
    """Return what the client asks for, or why that is no handshake.

    Args:
        version: Of HTTP, e.g. ``1.1``.
        headers: Names in lower case.
    """
    if len(target) > _MAX_TARGET_BYTES:
        return Refusal("bad_request", "the URL is too long", status=414)
    fields: dict[bytes, bytes] = {}
    count = size = 0
    for name, value in headers:
        count += 1
        size += len(name) + len(value)
        if name not in fields:
            fields[name] = value
        elif name in _ONCE:
            return _bad(f"more than one {name.decode('latin-1')}")
        else:
            fields[name] += b"," + value
    if count > _MAX_HEADERS or size > _MAX_HEADER_BYTES:
        return Refusal("bad_request", "the headers are too many or too long", status=431)
    get = fields.get
    host = get(b"host")
    if version != "1.1" or host is None:
        return _bad("a WebSocket needs HTTP/1.1 and a Host header")
    if method != b"GET":
        return Refusal("bad_request", "a WebSocket is opened by GET", status=405)
    if get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields:
        return _bad("an opening handshake has no body")
    if b"upgrade" not in _tokens(get(b"connection", b"")):
        return _bad("Connection must say Upgrade")
    if _tokens(get(b"upgrade", b"")) != [b"websocket"]:
        return _bad("Upgrade must be websocket")
    if get(b"sec-websocket-version", b"") != b"13":
        return Refusal("bad_request", "Sec-WebSocket-Version must be 13", status=426)
    key = get(b"sec-websocket-key", b"")
    if not _is_key(key):
        return _bad("Sec-WebSocket-Key must be 16 bytes in base64")
    subprotocols = _list(get(b"sec-websocket-protocol"))
    if not all(map(_TOKEN.fullmatch, subprotocols)):
        return _bad("Sec-WebSocket-Protocol must be a list of tokens")
    path, _, query = target.decode("latin-1").partition("?")
    origin = get(b"origin")
    caller = Caller(
        None if origin is None else origin.decode("latin-1"),
        host.decode("latin-1"),
        subprotocols,
        query,
    )
    return Handshake(unquote(path) if "%" in path else path, key, caller)


def accepted(key: bytes, subprotocol: str | None) -> bytes:
    """Return the head that lets a client in."""
    proof = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    spoken = b""
    if subprotocol is not None:
        spoken = b"sec-websocket-protocol: %s\r\n" % subprotocol.encode()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-accept: %s\r\n%s\r\n"
    ) % (proof, spoken)


def refused(refusal: Refusal) -> bytes:
    """Return the whole response that sends a client away."""
    body = _encode({"error": {"code": refusal.code, "message": refusal.message}})
    besides = _BESIDES.get(refusal.status, b"")
    if refusal.retry_after_s:
        besides = b"retry-after: %d\r\n" % refusal.retry_after_s
    return (
        b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\n%s"
        b"content-length: %d\r\nconnection: close\r\n\r\n%s"
    ) % (refusal.status, HTTPStatus(refusal.status).phrase.encode(), besides, len(body), body)


def _bad(message: str) -> Refusal:
    return Refusal("bad_request", message, status=400)


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip().lower() for token in value.split(b",")]


def _list(value: bytes | None) -> list[str]:
    parts = [] if value is None else value.decode("latin-1").split(",")
    return [stripped for part in parts if (stripped := part.strip())]


def _is_key(key: bytes) -> bool:
    try:
        return len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except binascii.Error:
        return False
