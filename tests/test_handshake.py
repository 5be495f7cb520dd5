"""The opening handshake: what is one, and what is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from feed import handshake
from feed.admission import Caller, Refusal
from feed.handshake import Handshake

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
USUAL = {
    b"host": b"feed.example",
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-version": b"13",
    b"sec-websocket-key": KEY,
}


def read(
    *more: tuple[bytes, bytes],
    target: bytes = b"/v1/ws",
    method: bytes = b"GET",
    version: str = "1.1",
    **other: bytes | None,
) -> Handshake | Refusal:
    """Read the usual handshake with ``more`` headers, and ``other`` ones in place of its own."""
    named = {name.replace("_", "-").encode(): value for name, value in other.items()}
    headers = [(n, v) for n, v in (USUAL | named).items() if v is not None]
    return handshake.read(method, target, version, [*headers, *more])


def test_the_usual_one_is_taken_apart() -> None:
    asked = read(
        (b"origin", b"https://feed.example"),
        (b"sec-websocket-protocol", b"feed.v1.msgpack, chat"),
        (b"sec-websocket-protocol", b"feed.v1.json,,"),
        target=b"/v1/%77s?topics=a%2Cb&batch=1",
    )
    offered = ["feed.v1.msgpack", "chat", "feed.v1.json"]
    caller = Caller("https://feed.example", "feed.example", offered, "topics=a%2Cb&batch=1")
    assert asked == Handshake("/v1/ws", KEY, caller)


def test_the_key_of_the_standard_is_answered_as_there() -> None:
    head = handshake.accepted(KEY, None)
    assert b"\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert b"sec-websocket-protocol: chat\r\n\r\n" in handshake.accepted(KEY, "chat")


FINE = [
    pytest.param({"connection": b"keep-alive, Upgrade"}, id="among other tokens"),
    pytest.param({"upgrade": b"WebSocket"}, id="another case"),
    pytest.param({"content_length": b"0"}, id="a body of no length"),
    pytest.param({"sec_websocket_extensions": b"permessage-deflate"}, id="extensions"),
]


@pytest.mark.parametrize("headers", FINE)
def test_what_is_meant_as_one_is_one(headers: dict[str, Any]) -> None:
    assert isinstance(read(**headers), Handshake)


BROKEN = [
    pytest.param({"connection": b"keep-alive"}, 400, id="no Upgrade"),
    pytest.param({"connection": None}, 400, id="no Connection"),
    pytest.param({"upgrade": b"h2c"}, 400, id="something else"),
    pytest.param({"upgrade": b"websocket, h2c"}, 400, id="two things"),
    pytest.param({"sec_websocket_version": b"8"}, 426, id="an old version"),
    pytest.param({"sec_websocket_version": None}, 426, id="no version"),
    pytest.param({"sec_websocket_key": None}, 400, id="no key"),
    pytest.param({"sec_websocket_key": b"AAAA"}, 400, id="a short key"),
    pytest.param({"sec_websocket_key": KEY[:-1]}, 400, id="a key without its padding"),
    pytest.param({"sec_websocket_key": KEY + b"AAAA"}, 400, id="a key with more behind"),
    pytest.param({"sec_websocket_key": b"\xff" * 24}, 400, id="a key of other bytes"),
    pytest.param({"sec_websocket_protocol": b"a b"}, 400, id="a space in a subprotocol"),
    pytest.param({"sec_websocket_protocol": "é".encode()}, 400, id="another alphabet"),
    pytest.param({"content_length": b"5"}, 400, id="a body"),
    pytest.param({"transfer_encoding": b"chunked"}, 400, id="a body in chunks"),
    pytest.param({"host": None}, 400, id="no host"),
]


@pytest.mark.parametrize(("headers", "status"), BROKEN)
def test_what_is_none_is_refused(headers: dict[str, Any], status: int) -> None:
    asked = read(**headers)
    assert isinstance(asked, Refusal) and asked.status == status


@pytest.mark.parametrize("name", [b"host", b"origin", b"sec-websocket-key", b"content-length"])
def test_two_of_what_there_is_one_of_are_refused(name: bytes) -> None:
    asked = read((name, b"x"), (name, b"x"))
    assert isinstance(asked, Refusal) and asked.status == 400


def test_other_methods_versions_and_sizes_have_their_own_status() -> None:
    assert read(method=b"POST") == Refusal("bad_request", "a WebSocket is opened by GET", 0, 405)
    cases = [
        (read(version="1.0"), 400),
        (read(target=b"/" + b"x" * 8_192), 414),
        (read(*[(b"x", b"y")] * 140), 431),
        (read((b"x", b"y" * 65_536)), 431),
    ]
    for asked, status in cases:
        assert isinstance(asked, Refusal) and asked.status == status


def test_a_refusal_says_why_and_what_would_be_right() -> None:
    head, _, body = handshake.refused(Refusal("shed", "too many", 7)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 7\r\n" in head and b"\r\nconnection: close" in head
    assert json.loads(body) == {"error": {"code": "shed", "message": "too many"}}
    for status, header in ((405, b"allow: GET\r\n"), (426, b"sec-websocket-version: 13\r\n")):
        assert header in handshake.refused(Refusal("bad_request", "no", status=status))
