"""Every exchange of the registry over real sockets: its session, its ends, its limits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from adapters.base import Send
from adapters.book import DEPTH_LEVELS
from adapters.faults import is_book
from adapters.registry import REGISTRY
from feed.models import Gap, SymbolStatus
from tests.adapters.broken import check_uncrossed, play, recording, selection_of, tape_of
from tests.adapters.sessions import Session, best_first, clients_books, published
from tests.adapters.tapes import run

everywhere = pytest.mark.parametrize("name", sorted(REGISTRY))
#: Exchanges whose protocol lets a book be proven: what is lost there is asked for again.
PROVEN = sorted(name for name, entry in REGISTRY.items() if "book" in entry.load_adapter().proofs)


def last_of(events: list[Any], kind: type[Any]) -> dict[str, Any]:
    return {event.topic: event for event in events if type(event) is kind}


def best_levels(events: list[Any]) -> dict[str, Any]:
    """Return what the books come to; a later snapshot may reach less deep."""
    books = clients_books(events)
    return {
        topic: [side[:DEPTH_LEVELS] for side in best_first(sides)] for topic, sides in books.items()
    }


def alone(name: str) -> set[str]:
    """Return the topics that the adapter fills from the same frames without anything between."""
    entry = REGISTRY[name]
    session = Session(entry.load_adapter(), entry.load_venue()(), tape_of(name))
    frames = [frame.body for frame in recording(name).frames]
    outputs = run(session.adapter(), frames, session.rest()).outputs
    return {topic for topic in published(outputs) if " " not in topic}


@everywhere
async def test_a_session_is_subscribed_acknowledged_and_taken_to_its_end(name: str) -> None:
    outcome = await play(name)
    assert outcome.counters.bad_frames == 0
    assert outcome.of(Gap) == []
    assert {event.topic for event in outcome.events} >= alone(name)
    statuses = last_of(outcome.events, SymbolStatus).values()
    assert {health for one in statuses for health in one.kinds.values()} == {"live"}
    check_uncrossed(outcome)


@everywhere
async def test_who_is_cut_off_comes_back_says_what_was_missed_and_ends_alike(name: str) -> None:
    whole = await play(name)
    streams = [frame.stream for frame in recording(name).frames]
    # An exchange may serve what it has on several connections: each of them is cut off once.
    counts = [sum(map(streams.count, plan.streams)) for plan in selection_of(name).plans]
    outcome = await play(name, f"close:after={min(counts) // 2}:times={len(counts)}")
    assert outcome.counters.reconnects >= 1
    assert outcome.counters.bad_frames == 0
    assert "upstream_disconnect" in {gap.cause for gap in outcome.of(Gap)}
    check_uncrossed(outcome)
    assert best_levels(outcome.events) == best_levels(whole.events)
    statuses = last_of(outcome.events, SymbolStatus).values()
    # What has nothing more to say after the cut stays down.
    assert {one.kinds.get("book", "live") for one in statuses} == {"live"}


@pytest.mark.parametrize("name", PROVEN)
async def test_a_lost_frame_of_a_book_is_noticed_and_the_book_asked_for_again(name: str) -> None:
    books = Counter(
        one.stream for one in recording(name).frames if one.stream and is_book(one.stream)
    )
    ((stream, count),) = books.most_common(1)
    where = f"symbol={stream.native}:channel={stream.channel}"
    # Several: a checksum is only of the best levels.
    outcome = await play(name, f"drop:1:{where}:after={count * 2 // 3}:times=3")
    causes = {gap.cause for gap in outcome.of(Gap)}
    assert "upstream_sequence" in causes
    check_uncrossed(outcome)


@everywhere
def test_its_heartbeats_and_the_answers_to_our_pings_are_understood(name: str) -> None:
    entry, played = REGISTRY[name], recording(name)
    (plan, *_) = selection_of(name).plans
    reader = entry.load_adapter()(plan, entry.load_adapter().kinds)
    frames: list[str | bytes] = [*played.venue.beats(plan.streams)]
    ping = reader.ping()
    assert (ping is None) == (reader.limits.ping_every_s is None)
    if ping is not None:
        answer = played.venue.request(plan.path, ping)
        frames += [*answer.frames, *answer.binary]
        assert frames, "a ping without an answer"
    for frame in frames:
        body = frame.encode() if isinstance(frame, str) else frame
        sent = [one for one in reader.parse(body, 0) if not isinstance(one, Send)]
        assert all(type(one).__name__ == "Beat" for one in sent)
