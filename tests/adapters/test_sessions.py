"""What holds for Kraken, Coinbase and Bybit alike, on recorded sessions and on spoiled ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import Adapter, Checkpoint, Health, Refused, Send, Venue
from adapters.exchanges.bybit.adapter import Bybit, BybitLinear
from adapters.exchanges.bybit.venue import BybitLinearVenue, BybitVenue
from adapters.exchanges.coinbase.adapter import Coinbase
from adapters.exchanges.coinbase.venue import CoinbaseVenue
from adapters.exchanges.kraken.adapter import Kraken
from adapters.exchanges.kraken.venue import KrakenVenue
from feed.errors import BadPayload
from feed.models import Gap
from tests.adapters.sessions import (
    GARBAGE,
    PAYLOADS,
    Session,
    clients_books,
    only,
    published,
    spoiled,
    survives,
)
from tests.adapters.tapes import captures

EXCHANGES: list[tuple[type[Adapter], Callable[[], Venue], str, str]] = [
    (Kraken, KrakenVenue, "kraken", "kraken-v2"),
    (Coinbase, CoinbaseVenue, "coinbase", "coinbase-exchange"),
    (Bybit, BybitVenue, "bybit", "bybit"),
    (BybitLinear, BybitLinearVenue, "bybit", "bybit"),
]
bundled = pytest.mark.parametrize(
    "session",
    [
        pytest.param((cls, venue, PAYLOADS / folder / "session.jsonl"), id=cls.name)
        for cls, venue, folder, _ in EXCHANGES
    ],
    indirect=True,
)
recorded = pytest.mark.parametrize(
    "session",
    [
        pytest.param((cls, venue, path), id=f"{cls.name}-{path.name}", marks=marks)
        for cls, venue, folder, recordings in EXCHANGES
        for path, marks in (
            (PAYLOADS / folder / "session.jsonl", ()),
            *((one.values[0], one.marks) for one in captures(recordings)),
        )
    ],
    indirect=True,
)


@cache
def load(cls: type[Adapter], venue: Callable[[], Venue], path: Path) -> Session:
    return Session(cls, venue(), path)


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    return load(*request.param)


@recorded
def test_every_frame_is_read_and_every_book_keeps_its_proof(session: Session) -> None:
    done = session.run()
    assert done.bad == []
    assert only(Health, done.outputs) == []
    assert only(Gap, done.outputs) == []
    assert only(Send, done.outputs) == []
    assert only(Refused, done.outputs) == []


@recorded
def test_no_book_depth_or_quote_is_ever_crossed(session: Session) -> None:
    books = clients_books(session.run().outputs)
    assert books
    assert all(bids and asks for bids, asks in books.values())


@recorded
def test_a_client_s_book_is_the_checkpoint_and_the_deltas_after_it(session: Session) -> None:
    books: dict[str, Any] = {}
    outputs = session.run().outputs
    last = {one.book.topic: at for at, one in enumerate(outputs) if isinstance(one, Checkpoint)}
    for topic, at in last.items():
        checkpoint = outputs[at]
        assert isinstance(checkpoint, Checkpoint) and checkpoint.book.snapshot
        after = [one for one in outputs[at + 1 :] if getattr(one, "topic", "") == topic]
        books |= clients_books([checkpoint.book, *after])
    assert books == clients_books(outputs)


@recorded
def test_what_is_published_does_not_depend_on_when_it_was_received(session: Session) -> None:
    slow, fast = session.adapter(), session.adapter()
    by_pace = [
        published(
            one for at, frame in enumerate(session.frames) for one in reader.parse(frame, at * pace)
        )
        for reader, pace in ((slow, 1_000_000), (fast, 1))
    ]
    assert by_pace[0] == by_pace[1]


@bundled
def test_nothing_is_published_but_the_kinds_and_topics_planned(session: Session) -> None:
    cls = session.cls
    everything = set(published(session.run().outputs))
    for kind in cls.kinds:
        reader = session.adapter([kind])
        topics = {
            topic
            for native, instrument in reader.plan_.instruments.items()
            for topic in cls.carried(reader.plan_.streams, instrument, [kind])[0]
        }
        outputs = [one for frame in session.frames for one in reader.parse(frame, 0)]
        found = {topic.removeprefix("checkpoint ") for topic in published(outputs)}
        assert found <= topics
        assert found == {topic for topic in everything if topic.startswith(f"{kind}.")}


@bundled
def test_every_planned_stream_is_asked_for_once_and_planned_alike_when_live(
    session: Session,
) -> None:
    asked = "".join(send.frame for send in only(Send, session.adapter().opened()))
    for native in {stream.native for stream in session.streams}:
        assert native in asked
        instrument = session.cls.instrument(native)
        assert instrument is not None
        live = session.cls.streams(instrument, session.cls.kinds)
        topics, levels = session.cls.carried(live, instrument, session.cls.kinds)
        assert {topic.partition(".")[0] for topic in topics} == session.cls.kinds
        assert len(topics) == len(set(topics))
        assert levels is not None and levels <= 1_000


@bundled
def test_connections_stay_within_the_limits_and_keep_an_instrument_together(
    session: Session,
) -> None:
    cls = session.cls
    native = session.streams[0].native
    named = cls.instrument(native)
    assert named is not None
    many = {f"{native}{number}": named for number in range(500)}
    streams = [
        type(stream)(stream.channel, native)
        for native in many
        for stream in cls.streams(named, cls.kinds)
    ]
    plans = cls.plan(streams, many)
    planned = [one for plan in plans for one in plan.streams]
    assert len(planned) == len(streams)
    assert set(planned) == set(streams)
    natives = [native for plan in plans for native in plan.instruments]
    assert len(natives) == len(set(natives)) == 500
    assert all(len(plan.streams) <= cls.limits.streams_per_connection for plan in plans)


@bundled
def test_a_frame_that_makes_no_sense_is_refused_and_changes_nothing(session: Session) -> None:
    expected = published(session.run().outputs)
    reader = session.adapter()
    outputs = []
    refused = 0
    for at, frame in enumerate(session.frames):
        for bad in [*GARBAGE, *spoiled(frame)]:
            with pytest.raises(BadPayload):
                list(reader.parse(bad, at))
            refused += 1
        outputs += list(reader.parse(frame, at))
    assert published(outputs) == expected
    assert refused > 500


@bundled
def test_a_spoiled_frame_never_does_worse_than_being_refused(session: Session) -> None:
    frames = session.frames

    @settings(max_examples=300, deadline=None)
    @given(st.integers(0, len(frames) - 1), st.randoms(use_true_random=False), st.integers(1, 4))
    def check(index: int, chance: random.Random, edits: int) -> None:
        reader = session.adapter()
        frame = bytearray(frames[index])
        for _ in range(edits):
            at = chance.randrange(len(frame))
            part = frames[chance.randrange(len(frames))][: chance.randrange(1, 30)]
            match chance.randrange(4):
                case 0:
                    frame[at] = chance.randrange(256)
                case 1:
                    del frame[at : at + chance.randrange(1, 20)]
                    frame = frame or bytearray(b" ")
                case 2:
                    frame[at:at] = part
                case _:
                    frame[at:at] = chance.choice(
                        [b"-", b"e9", b"9" * 400, b'"', b"null", b"[[", b"NaN"]
                    )
        for one in (*frames[:index][-30:], bytes(frame), *frames[index : index + 3]):
            published(survives(reader, one, 0))

    check()
