from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from feed.errors import CloseCode
from feed.sse import EventStream, PulledSocket
from tests.ledger import Ledger
from tests.web import Web, descriptors, running, until

TRADE, QUOTE = "trade.kraken.BTC-USD", "quote.kraken.BTC-USD"


class Stream:
    """One event stream over a real socket, chunked as uvicorn sends it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.ledger = Ledger()
        self.ids: list[str | None] = []
        self._text = b""

    @classmethod
    async def open(
        cls, web: Web, query: str, event_id: str | None = None
    ) -> tuple[int, dict[str, str], Stream]:
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port, limit=1 << 16)
        again = f"last-event-id: {event_id}\r\n" if event_id is not None else ""
        writer.write(f"GET /v1/stream?{query} HTTP/1.1\r\nhost: x\r\n{again}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, cls(reader, writer)

    async def _chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        await self.reader.readline()
        return data

    async def next(self) -> dict[str, Any]:
        """Return the next event's object."""
        while b"\n\n" not in self._text:
            async with asyncio.timeout(15):
                chunk = await self._chunk()
            if not chunk:
                raise EOFError
            self._text += chunk
        text, _, self._text = self._text.partition(b"\n\n")
        fields = dict(line.split(b": ", 1) for line in text.split(b"\n"))
        self.ids.append(fields[b"id"].decode() if b"id" in fields else None)
        one: dict[str, Any] = json.loads(fields[b"data"])
        self.ledger.take(one)
        return one

    async def type(self, type: str) -> dict[str, Any]:
        while (one := await self.next())["type"] != type:
            pass
        return one

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running(heartbeat_s=0.2) as web:
        yield web


async def test_one_topic_is_numbered_event_by_event(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.trade())
    status, headers, stream = await Stream.open(web, f"topics={TRADE}&status=0")
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-store"
    stream.ledger.at[TRADE] = None
    await stream.type("synced")
    await publisher.publish(*[publisher.trade() for _ in range(5)])
    for _ in range(5):
        trade = await stream.type("trade")
        assert stream.ids[-1] == f"{TRADE}@{trade['seq']}"
    assert stream.ledger.of(TRADE) == publisher.sent[TRADE][1:]
    await stream.close()
    await until(lambda: not web.gateway.clients)


async def test_events_are_never_joined_in_a_stream_also_where_batch_is_asked_for(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.trade())
    _, _, stream = await Stream.open(web, f"topics={TRADE}&status=0&batch=1")
    stream.ledger.at[TRADE] = None
    await stream.type("synced")
    await publisher.publish(*[publisher.trade() for _ in range(5)])  # one flush
    for _ in range(5):
        trade = await stream.type("trade")
        assert stream.ids[-1] == f"{TRADE}@{trade['seq']}"
    await stream.close()


async def test_several_topics_are_numbered_by_their_heartbeats(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.quote(), publisher.trade())
    _, _, stream = await Stream.open(web, f"topics={TRADE},{QUOTE}&status=0")
    stream.ledger.at[TRADE], stream.ledger.latest[QUOTE] = None, 0
    assert (await stream.next())["type"] == "welcome"
    assert (await stream.type("snapshot"))["topic"] == QUOTE
    await publisher.publish(publisher.trade())
    await stream.type("trade")
    await stream.type("heartbeat")
    where = {TRADE: publisher.sent[TRADE][-1]["seq"], QUOTE: publisher.sent[QUOTE][-1]["seq"]}
    assert stream.ids[-1] == ",".join(f"{topic}@{seq}" for topic, seq in where.items())
    assert [one for one in stream.ids[:-1] if one] == []
    await stream.close()
    await until(lambda: not web.gateway.clients)


async def test_a_stream_that_comes_back_goes_on_after_its_last_event(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(*[publisher.trade() for _ in range(4)])
    _, _, first = await Stream.open(web, f"topics={TRADE}&status=0&last=2")
    first.ledger.at[TRADE] = None
    await first.type("synced")
    last = first.ids[-2]
    assert last == f"{TRADE}@{publisher.sent[TRADE][-1]['seq']}"
    await first.close()
    await publisher.publish(*[publisher.trade() for _ in range(3)])
    _, _, stream = await Stream.open(web, f"topics={TRADE}&status=0", last)
    stream.ledger.at[TRADE] = publisher.sent[TRADE][3]["seq"]
    answer = await stream.type("subscribed")
    assert answer["results"][0]["recovered"] is True
    await stream.type("synced")
    assert stream.ledger.of(TRADE) == publisher.sent[TRADE][4:]
    await stream.close()


async def test_several_topics_go_on_after_their_last_heartbeat(web: Web) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.quote(), publisher.trade())
    _, _, first = await Stream.open(web, f"topics={TRADE},{QUOTE}&status=0")
    first.ledger.at[TRADE], first.ledger.latest[QUOTE] = None, 0
    await first.type("heartbeat")
    where = first.ids[-1]
    assert where is not None
    await first.close()
    await publisher.publish(*[publisher.trade() for _ in range(3)])
    _, _, stream = await Stream.open(web, f"topics={TRADE},{QUOTE}&status=0", where)
    stream.ledger.at[TRADE], stream.ledger.latest[QUOTE] = publisher.sent[TRADE][0]["seq"], 0
    await stream.type("synced")
    assert stream.ledger.of(TRADE) == publisher.sent[TRADE][1:]
    assert stream.ledger.of(QUOTE) == [], "it has the newest quote already"
    await stream.close()


@pytest.mark.parametrize(
    "event_id", ["nonsense", f"{TRADE}@x", f"{TRADE}@-1", f"{TRADE}@", f"{QUOTE}@5", "@", "a@1"]
)
async def test_a_last_event_id_that_is_none_of_ours_is_an_http_error(
    web: Web, event_id: str
) -> None:
    status, _, stream = await Stream.open(web, f"topics={TRADE}", event_id)
    assert status == 400
    await stream.close()


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("topics=", 400), (f"topics={TRADE}&mode=some", 400), ("topics=x&y=1", 400)],
)
async def test_a_bad_query_is_an_http_error(web: Web, query: str, status: int) -> None:
    found, body = await web.get(f"/v1/stream?{query}")
    assert found == status and body["error"]["code"] == "bad_option"


async def test_an_unknown_topic_is_told_in_the_stream(web: Web) -> None:
    _, _, stream = await Stream.open(web, "topics=trade.kraken.NO-NO")
    answer = await stream.type("subscribed")
    assert answer["results"][0]["code"] == "unknown_topic"
    await stream.close()


async def test_past_max_clients_a_stream_is_refused() -> None:
    async with running(max_clients=1) as web, web.client():
        assert (await web.get(f"/v1/stream?topics={TRADE}"))[0] == 503


async def test_a_stream_that_leaves_leaves_nothing(web: Web) -> None:
    base = descriptors(), len(asyncio.all_tasks())
    for _ in range(5):
        _, _, stream = await Stream.open(web, f"topics={TRADE},{QUOTE}")
        stream.ledger.at[TRADE] = stream.ledger.latest[QUOTE] = 0
        await stream.next()
        await stream.close()
    await until(lambda: not web.gateway.clients)
    await until(lambda: web.gateway.relay.joined() == 0)
    await until(lambda: (descriptors(), len(asyncio.all_tasks())) <= base)


async def test_a_stream_that_is_not_read_is_bounded_and_ended() -> None:
    async with running(stuck_after_s=0.7, outbox_max_bytes=1 << 17) as web:
        base = descriptors()
        _, _, stream = await Stream.open(web, f"topics={TRADE}")
        connection: Any = next(iter(web.gateway.clients))
        stream.writer.transport.pause_reading()  # type: ignore[attr-defined]
        publisher = web.publisher
        while web.gateway.clients:
            await publisher.publish(*[publisher.trade(pad=1_000) for _ in range(50)])
            assert connection.outbox.size <= 1 << 17
            await asyncio.sleep(0.001)
        # The socket is given back although its last bytes cannot be delivered.
        await until(lambda: descriptors() <= base + 1)
        stream.writer.transport.abort()
        await until(lambda: len(asyncio.all_tasks()) < 12)


async def test_a_slow_reader_of_a_stream_gets_exact_gaps() -> None:
    async with running(outbox_max_bytes=1 << 17) as web:
        publisher = web.publisher
        _, _, stream = await Stream.open(web, f"topics={TRADE}&status=0")
        stream.ledger.at[TRADE] = None
        await stream.type("synced")
        for _ in range(150):
            await publisher.publish(*[publisher.trade(pad=1_000) for _ in range(50)])
            await asyncio.sleep(0)
        last = publisher.sent[TRADE][-1]["seq"]
        while stream.ledger.at[TRADE] != last:
            await stream.next()
        assert "gap" in stream.ledger.types()
        await stream.close()


async def test_we_can_end_a_stream(web: Web) -> None:
    _, _, stream = await Stream.open(web, f"topics={TRADE}&status=0")
    await stream.type("synced")
    connection: Any = next(iter(web.gateway.clients))
    connection.close(CloseCode.SHED, "too many", 100)
    one = await stream.next()
    assert one == {"type": "closing", "code": 4000, "reason": "too many", "retry_after_ms": 100}
    with pytest.raises(EOFError):
        await stream.next()
    await stream.close()


async def test_pieces_are_handed_over_one_round_at_a_time() -> None:
    socket = PulledSocket()
    socket.write(b"ab")
    socket.write(b"c")
    pieces = socket.pieces()
    assert await anext(pieces) == b"ab" and socket.unsent() == 3
    assert await anext(pieces) == b"c" and socket.unsent() == 1
    waiting = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)
    assert socket.acknowledged() == 3 and not waiting.done()
    socket.write(b"d")
    socket.close(CloseCode.SHED, "")
    assert await waiting == b"d"
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)


def test_a_line_break_in_somebody_elses_json_does_not_end_the_event() -> None:
    for stream in (EventStream(numbered=True), EventStream(numbered=False)):
        text = stream.frame(b'{"type":"trade","topic":"t","seq":5,\r\n\n"x":"\\n"}')
        assert text.count(b"\n\n") == 1 and text.endswith(b"\n\n") and b"\r" not in text


async def test_a_heartbeat_does_not_number_what_a_throttled_client_has_not_been_given(
    web: Web,
) -> None:
    publisher = web.publisher
    await publisher.publish(publisher.quote())
    _, _, stream = await Stream.open(web, f"topics={TRADE},{QUOTE}&status=0&max_hz=0.1")
    stream.ledger.latest[QUOTE] = 0
    shot = await stream.type("snapshot")
    await publisher.publish(publisher.quote())
    state = web.gateway.relay._states[QUOTE]
    await until(lambda: state.seq == publisher.sent[QUOTE][-1]["seq"])
    given = 0
    for _ in range(2):
        await stream.type("heartbeat")
        where = dict(pair.split("@") for pair in (stream.ids[-1] or "").split(","))
        delivered = max([shot["seq"], *(o["seq"] for o in stream.ledger.of(QUOTE))])
        given = int(where[QUOTE])
        assert given <= delivered
    assert given in (shot["seq"], state.seq)
    await stream.close()
