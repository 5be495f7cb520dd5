"""What holds for all exchanges alike, on recorded sessions and on spoiled ones.

Whatever the registry knows is tested here: nothing has to be added for a new exchange but
``payloads/<exchange>/session.jsonl`` and, below, what is special about its recordings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.base import Checkpoint, Health, Output, Refused, Send, Stream
from adapters.registry import REGISTRY
from feed.errors import BadPayload
from feed.models import Gap
from tests.adapters.recordings import folder, retired
from tests.adapters.sessions import (
    GARBAGE,
    Session,
    clients_books,
    only,
    payload,
    published,
    spoiled,
    survives,
)
from tests.adapters.tapes import captures, run

#: What reads like garbage and is none: answers to pings.
PONGS = {"bitget": b"pong", "bitget-futures": b"pong", "okx": b"pong"}


def _recorded() -> Iterator[Any]:
    for name in REGISTRY:
        yield pytest.param((name, payload(name)), id=name)
        for one in captures(folder(name).name):
            (path,) = one.values
            if retired(path) is None:
                yield pytest.param((name, path), id=f"{name}-{path.name}", marks=one.marks)


bundled = pytest.mark.parametrize(
    "session", [pytest.param((name, payload(name)), id=name) for name in REGISTRY], indirect=True
)
recorded = pytest.mark.parametrize("session", list(_recorded()), indirect=True)


@cache
def load(name: str, path: Path) -> Session:
    entry = REGISTRY[name]
    return Session(entry.load_adapter(), entry.load_venue()(), path)


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    found = load(*request.param)
    if not found.streams:
        pytest.skip(f"{request.param[1].name} has nothing of {found.cls.name}")
    return found


def session_topics(session: Session) -> set[str]:
    """Return all that the streams of a recording feed."""
    plan, cls = session.adapter().plan_, session.cls
    return {
        topic
        for instrument in plan.instruments.values()
        for topic in cls.carried(
            [one for one in plan.streams if one.native == instrument.native], instrument, cls.kinds
        )[0]
    }


@recorded
def test_every_frame_is_read_and_every_book_keeps_its_proof(session: Session) -> None:
    asked: list[Send] = []

    def note(frame: bytes, outputs: list[Output]) -> None:
        if frame not in session.control:  # there answers to pings are in order
            asked.extend(only(Send, outputs))

    done = session.run(note)
    assert done.bad == []
    assert only(Health, done.outputs) == []
    assert only(Gap, done.outputs) == []
    assert only(Refused, done.outputs) == []
    assert asked == [], "nothing had to be asked for again"


@recorded
def test_no_book_depth_or_quote_is_ever_crossed(session: Session) -> None:
    books = clients_books(session.run().outputs)
    assert any(bids and asks for bids, asks in books.values()) or not books
    has_books = any("book." in topic for topic in session_topics(session))
    assert bool(books) == has_books


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
    slow, fast = session.run(pace=1_000_000), session.run()
    assert published(slow.outputs) == published(fast.outputs)


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
        outputs = session.run(kinds=[kind]).outputs
        found = {topic.removeprefix("checkpoint ") for topic in published(outputs)}
        assert found <= topics
        assert found == {topic for topic in everything if topic.startswith(f"{kind}.")}


@bundled
def test_every_planned_stream_is_asked_for_once_and_planned_alike_when_live(
    session: Session,
) -> None:
    reader = session.adapter()
    sent = [*reader.opened(), *only(Send, session.run().outputs)]
    asked = "".join([reader.plan_.path, *(send.frame for send in sent)]).lower()
    everything: set[str] = set()
    for native in {stream.native for stream in session.streams}:
        assert native.lower() in asked
        instrument = session.cls.instrument(native)
        assert instrument is not None
        live = session.cls.streams(instrument, session.cls.kinds)
        topics, levels = session.cls.carried(live, instrument, session.cls.kinds)
        kinds = {topic.partition(".")[0] for topic in topics}
        assert {"trade", "quote", "book", "depth"} <= kinds <= session.cls.kinds
        everything |= kinds
        assert len(topics) == len(set(topics))
        assert levels is not None and levels <= 1_000
    assert everything == session.cls.kinds


@bundled
def test_connections_stay_within_the_limits_and_keep_an_instrument_together(
    session: Session,
) -> None:
    cls = session.cls
    native = session.streams[0].native
    named = cls.instrument(native)
    assert named is not None
    many = {
        f"{native}{number}": replace(
            named, native=f"{native}{number}", symbol=f"{named.symbol}{number}"
        )
        for number in range(500)
    }
    streams = [
        Stream(stream.channel, native)
        for native in many
        for stream in cls.streams(named, cls.kinds)
    ]
    plans = cls.plan(streams, many)
    planned = [one for plan in plans for one in plan.streams]
    assert len(planned) == len(streams)
    assert set(planned) == set(streams)
    topics = [
        (native, topic)
        for plan in plans
        for native, instrument in plan.instruments.items()
        for topic in cls.carried(
            [one for one in plan.streams if one.native == native], instrument, cls.kinds
        )[0]
    ]
    assert len(topics) == len(set(topics))
    assert {native for native, _ in topics} == set(many)
    assert all(len(plan.streams) <= cls.limits.streams_per_connection for plan in plans)


@bundled
def test_a_frame_that_makes_no_sense_is_refused_and_changes_nothing(session: Session) -> None:
    expected = published(session.run().outputs)
    reader = session.adapter()
    garbage = [one for one in GARBAGE if one != PONGS.get(session.cls.name)]
    refused = 0

    def spoil(frame: bytes) -> None:
        nonlocal refused
        for bad in [*garbage, *(() if frame in session.unfed else spoiled(frame))]:
            with pytest.raises(BadPayload):
                list(reader.parse(bad, 0))
            refused += 1

    outputs = run(reader, session.frames, session.rest(), before=spoil).outputs
    assert published(outputs) == expected
    assert refused > 100


@bundled
def test_a_spoiled_frame_never_does_worse_than_being_refused(session: Session) -> None:
    frames = session.frames

    @settings(max_examples=2_000, deadline=None)
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
