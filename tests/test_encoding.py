from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed import encoding as encoding_module
from feed.encoding import ENCODINGS, JSON, MSGPACK, PIECE_BYTES, Encoding, frame, unframe
from feed.entries import BAD, check_object

objects = st.dictionaries(
    st.text(max_size=8),
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=40))
    | st.lists(st.lists(st.text(max_size=5), max_size=2), max_size=4),
    max_size=6,
)


@pytest.mark.parametrize("n", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_a_frame_carries_its_length_as_the_rfc_says(n: int) -> None:
    body = b"x" * n
    framed = frame(2, body)
    assert len(framed) == n + (2 if n < 126 else 4 if n < 65_536 else 10)
    assert list(unframe(framed + framed)) == [(2, body), (2, body)]


@given(objects)
def test_msgpack_is_the_json_field_for_field(value: dict[str, object]) -> None:
    body = json.dumps(value).encode()
    assert msgspec.msgpack.decode(MSGPACK.body(body)) == json.loads(body)
    assert JSON.body(body) is body


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 2**63, -(2**63)])
def test_an_integer_that_msgpack_does_not_have_becomes_text(number: int) -> None:
    decoded = msgspec.msgpack.decode(MSGPACK.body(b'{"n":%d}' % number))
    assert str(decoded["n"]) == str(number)


NUMBERS = ("1e999", "-1e400", "1" * 400, "0.1e-9999", "9" * 30, "1E+5", "-0", "1.5")
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    JSON_VALUES,
    st.sampled_from(NUMBERS),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=3),
)
def test_whatever_the_relay_lets_through_can_be_written_as_msgpack(
    value: object, number: str, is_ascii: bool, changes: list[tuple[int, int]]
) -> None:
    text = json.dumps({"a": value, "n": 1}, ensure_ascii=is_ascii)
    body = bytearray(text.replace('"n": 1', f'"n": {number}').encode("utf-8", "surrogatepass"))
    for at, byte in changes:
        body[at % len(body)] = byte
    try:
        check_object(bytes(body))
    except BAD:
        return
    assert isinstance(msgspec.msgpack.decode(MSGPACK.body(bytes(body))), dict)


@given(
    st.lists(st.integers(2, 400), max_size=60),
    st.booleans(),
    st.sampled_from([JSON, MSGPACK]),
)
def test_pieces_hold_everything_in_order_and_are_no_larger_than_one(
    sizes: list[int], batch: bool, encoding: Encoding
) -> None:
    bodies = [encoding.body(json.dumps("x" * n).encode()) for n in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding_module, "PIECE_BYTES", 600)
        pieces = encoding.pieces(bodies, batch)
    found: list[object] = []
    for piece in pieces:
        frames = list(unframe(piece))
        assert len(piece) <= 600 or len(frames) == 1
        assert not batch or len(frames) == 1
        for opcode, body in frames:
            assert opcode == encoding.opcode
            decode = json.loads if encoding is JSON else msgspec.msgpack.decode
            said = decode(body)
            found += said if isinstance(said, list) else [said]
    assert found == ["x" * n for n in sizes]


def test_one_body_larger_than_a_piece_comes_alone_and_unwrapped() -> None:
    large = b'"' + b"x" * PIECE_BYTES + b'"'
    small, alone, after = JSON.pieces([b"1", large, b"2"], True)
    assert list(unframe(alone)) == [(1, large)]
    assert (small, after) == (JSON.frame(b"1"), JSON.frame(b"2"))


def test_many_bodies_share_one_array_also_in_msgpack() -> None:
    for n in (1, 2, 15, 16, 300):
        (piece,) = MSGPACK.pieces([MSGPACK.body(b'{"a":1}')] * n, True)
        ((_, body),) = unframe(piece)
        said = msgspec.msgpack.decode(body)
        assert said == ({"a": 1} if n == 1 else [{"a": 1}] * n)


def test_the_subprotocols_are_those_of_the_protocol() -> None:
    assert set(ENCODINGS) == {"feed.v1.json", "feed.v1.msgpack"}
