"""How the bench's clients find entries in what each kind of server sends."""

import json

import pytest

from bench.dialects import DIALECTS, Unframed, frames, mqtt_packets, mqtt_publish
from feed.encoding import JSON, Opcode, frame

TOPIC = "trade.sim.SIM001-USD"
BODIES = [b"{}" * n for n in (1, 60, 64, 200)]
COMMAND = json.dumps({"op": "subscribe", "topics": [TOPIC, "quote.sim.SIM002-USD"]})


def sent(name: str) -> list[bytes]:
    """Return each entry as the server of a dialect sends it."""
    return {
        "json": [JSON.frame(body) for body in BODIES],
        "nats": [b"MSG %s 0001 %d\r\n%s\r\n" % (TOPIC.encode(), len(b), b) for b in BODIES],
        "mqtt": [mqtt_publish(TOPIC, body) for body in BODIES],
    }[name]


@pytest.mark.parametrize("name", DIALECTS)
def test_entries_are_found_and_their_size_is_known(name: str) -> None:
    dialect, whole = DIALECTS[name], sent(name)
    assert [dialect.size(TOPIC, len(body)) for body in BODIES] == [len(one) for one in whole]
    ends = [sum(map(len, whole[: i + 1])) for i in range(len(whole))]
    assert list(dialect.entries(b"".join(whole))) == list(zip(BODIES, ends, strict=True))


@pytest.mark.parametrize("name", DIALECTS)
def test_an_entry_that_is_not_all_there_waits(name: str) -> None:
    dialect, (one, other, *_) = DIALECTS[name], sent(name)
    for cut in range(len(other)):
        assert [end for _, end in dialect.entries(one + other[:cut])] == [len(one)]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1_000])
def test_frames_are_taken_off_a_stream_cut_anywhere(step: int) -> None:
    inside = b"".join(sent("nats")) * 400
    sizes = [5, 125, 126, 65_535, 65_536]
    at, stream = 0, b""
    for size in sizes:
        stream += frame(Opcode.BINARY, inside[at : at + size])
        at += size
    unframed = Unframed()
    taken = b"".join(unframed.take(stream[i : i + step]) for i in range(0, len(stream), step))
    assert taken == inside[: sum(sizes)]


def unmasked(data: bytes) -> list[bytes]:
    head = 2 if data[1] & 0x7F < 126 else 4
    plain = bytes((data[0], data[1] & 0x7F)) + data[2:head] + data[head + 4 :]
    return [payload for payload, _ in frames(plain)]


def test_each_dialect_asks_for_the_topics_of_the_command() -> None:
    assert unmasked(DIALECTS["json"].join(COMMAND)) == [COMMAND.encode()]
    (nats,) = unmasked(DIALECTS["nats"].join(COMMAND))
    assert nats.splitlines()[1:] == [
        b"SUB trade.sim.SIM001-USD 0000", b"SUB quote.sim.SIM002-USD 0001", b"PING",
    ]  # fmt: skip
    (mqtt,) = unmasked(DIALECTS["mqtt"].join(COMMAND))
    hello, asked = list(mqtt_packets(mqtt))
    assert (hello[0], hello[1][:7]) == (0x10, b"\0\x04MQTT\x04")
    assert asked[0] == 0x82 and TOPIC.encode() + b"\0" in asked[1]


def test_a_client_has_joined_when_the_server_says_so() -> None:
    ours, nats, mqtt = (DIALECTS[name] for name in ("json", "nats", "mqtt"))
    assert ours.is_joined(b'{"type":"welcome"}', asked=False)
    assert not ours.is_joined(b'{"type":"welcome"}', asked=True)
    assert ours.is_joined(b'{"type":"synced","id":1}', asked=True)
    assert not ours.is_joined(b'[{"type":"quote"}]', asked=True)
    with pytest.raises(ConnectionError, match="too_many"):
        ours.is_joined(b'{"type":"error","code":"too_many"}', asked=True)
    assert nats.is_joined(b"PONG\r\n", asked=True) and not nats.is_joined(
        b"INFO {}\r\n", asked=True
    )
    with pytest.raises(ConnectionError, match="Violation"):
        nats.is_joined(b"-ERR 'Violation'\r\n", asked=True)
    assert not mqtt.is_joined(b"\x20\x02\0\0", asked=True)
    assert mqtt.is_joined(b"\x90\x03\0\x01\0", asked=True)
