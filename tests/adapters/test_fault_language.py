from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Stream
from adapters.fault_language import VALID, parse
from adapters.faults import Door, Fault, Faults, Late, Trouble, corrupted
from adapters.recording import Frame
from feed.errors import ConfigError

BOOK, TRADE, ETH = (
    Stream("depth@100ms", "BTCUSDT"),
    Stream("trade", "BTCUSDT"),
    Stream("trade", "ETHUSDT"),
)


def frames(count: int, *streams: Stream | None) -> list[Frame]:
    """Return numbered frames, the streams taking turns."""
    of = streams or (BOOK, TRADE, ETH, None)
    return [
        Frame(float(n), of[n % len(of)], f'{{"n":{n},"b":[["1{n}.5","2"]]}}'.encode(), True)
        for n in range(count)
    ]


def through(texts: Sequence[str], given: Sequence[Frame], seed: int = 1) -> list[Late]:
    trouble = Trouble(parse(texts, seed), 0)
    return [late for frame in given for late in trouble.take(frame)] + trouble.end()


def sent(texts: Sequence[str], given: Sequence[Frame], seed: int = 1) -> list[Frame]:
    return [late.frame for late in through(texts, given, seed)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop:0.01", dict(share=0.01)),
        ("drop:0.01:channel=depth:symbol=X:after=5:times=2", dict(share=0.01, channel="depth")),
        ("duplicate:1", dict(share=1.0)),
        ("reorder:0.02", dict(share=0.02)),
        ("delay:200ms@0.05", dict(delay_s=0.2, share=0.05)),
        ("delay:1.5s", dict(delay_s=1.5, share=1.0)),
        ("corrupt:0.001", dict(share=0.001)),
        ("skip-symbol:BTCUSDT", dict(symbol="BTCUSDT")),
        ("skip-symbol:BTC/USD:after=9", dict(symbol="BTC/USD", after=9)),
        ("close:accept", dict(at_accept=True)),
        ("close:after=500", dict(after=500, at_accept=False)),
        ("close:accept:code=1013:times=2", dict(at_accept=True, code=1013, times=2)),
        ("heartbeats", dict(after=0)),
        ("half-open:after=1000", dict(after=1000)),
        ("shutdown:after=2000", dict(after=2000)),
        ("replay-old:50", dict(count=50)),
        ("strict", dict(after=0)),
        ("refuse", dict(status=503, times=None)),
        ("rate-limit:429:retry-after=2", dict(status=429, retry_after=2)),
        ("rate-limit:418:on=rest", dict(status=418, on="rest", retry_after=None)),
    ],
)
def test_faults_are_read_as_written(text: str, fault: dict[str, object]) -> None:
    (read,) = parse([text]).faults
    assert (read.text, read.name) == (text, text.partition(":")[0])
    assert {key: getattr(read, key) for key in fault} == fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dorp:0.1", VALID),
        ("", VALID),
        ("drop", "drop:SHARE"),
        ("drop:2", "drop:SHARE"),
        ("drop:0", "drop:SHARE"),
        ("drop:nan", "drop:SHARE"),
        ("drop:0.1:chanel=depth", "channel="),
        ("drop:0.1:channel=", "does not fit"),
        ("delay:200@0.5", "delay:TIME@SHARE"),
        ("delay:5ms@2", "delay:TIME@SHARE"),
        ("close", "close:accept or close:after=N"),
        ("close:soon", "close:accept"),
        ("close:accept:code=70000", "does not fit"),
        ("half-open:after=-1", "does not fit"),
        ("half-open:1000", "after="),
        ("rate-limit:200", "rate-limit:STATUS"),
        ("rate-limit:429:on=tv", "does not fit"),
        ("replay-old:0", "replay-old:N"),
        ("skip-symbol", "skip-symbol:SYMBOL"),
        ("refuse:times=0", "does not fit"),
    ],
)
def test_what_is_no_fault_is_refused_in_one_line_that_says_what_is(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse(["drop:0.5", text])
    assert "\n" not in str(caught.value)


def test_a_fault_that_concerns_nothing_on_the_tape_is_refused() -> None:
    parse(["drop:1:channel=depth", "drop:1:channel=depth@100ms"]).check([BOOK, TRADE])
    for text in ("drop:1:channel=dept", "skip-symbol:BTC-USDT", "drop:1:channel=depth:symbol=X"):
        with pytest.raises(ConfigError, match="depth BTCUSDT, trade BTCUSDT"):
            parse([text]).check([BOOK, TRADE])


FRAME_FAULTS = st.lists(
    st.builds(
        "{}:{}{}".format,
        st.sampled_from(["drop", "duplicate", "reorder", "delay", "corrupt"]),
        st.sampled_from(["0.1", "0.5", "1"]),
        st.sampled_from(["", ":channel=trade", ":symbol=ETHUSDT", ":after=3", ":times=2"]),
    ).map(lambda text: text.replace("delay:", "delay:5ms@")),
    max_size=4,
)


@given(FRAME_FAULTS, st.integers(0, 1 << 32), st.integers(0, 60))
def test_the_same_seed_does_the_same(texts: list[str], seed: int, count: int) -> None:
    assert through(texts, frames(count), seed) == through(texts, frames(count), seed)


@given(st.sampled_from(["0.1", "0.5", "1"]), st.integers(0, 1 << 32), st.integers(0, 60))
def test_each_fault_keeps_what_it_says_it_keeps(share: str, seed: int, count: int) -> None:
    given = frames(count)
    dropped = sent([f"drop:{share}"], given, seed)
    kept = iter(given)
    assert all(frame in kept for frame in dropped), "what is left is in order"

    doubled = sent([f"duplicate:{share}"], given, seed)
    assert list(dict.fromkeys(doubled)) == given
    assert max(Counter(doubled).values(), default=1) <= 2
    assert all(doubled[doubled.index(f) + n - 1] == f for f, n in Counter(doubled).items())

    swapped = sent([f"reorder:{share}"], given, seed)
    assert Counter(swapped) == Counter(given)
    for stream in (BOOK, TRADE, ETH):
        before = [frame for frame in given if frame.stream == stream]
        after = [frame for frame in swapped if frame.stream == stream]
        assert all(abs(after.index(frame) - at) <= 1 for at, frame in enumerate(before))

    late = through([f"delay:7ms@{share}"], given, seed)
    assert [one.frame for one in late] == given
    assert {one.delay_s for one in late} <= {0.0, 0.007}

    spoiled = sent([f"corrupt:{share}"], given, seed)
    assert len(spoiled) == count
    for was, frame in zip(given, spoiled, strict=True):
        differing = [a for a, b in zip(was.body, frame.body, strict=True) if a != b]
        assert len(differing) <= (was.stream == BOOK)
        assert frame._replace(body=b"") == was._replace(body=b"")


@given(FRAME_FAULTS, st.integers(0, 1 << 32), st.integers(0, 60))
def test_heartbeats_and_acks_are_never_touched(texts: list[str], seed: int, count: int) -> None:
    given = frames(count)
    after = through(texts, given, seed)
    assert [late for late in after if late.frame.stream is None] == [
        Late(0.0, frame) for frame in given if frame.stream is None
    ]


def test_faults_strike_only_what_they_name_not_before_and_not_more_often() -> None:
    given = frames(40)
    lost = [f for f in given if f not in sent(["drop:1:channel=depth:after=2:times=3"], given)]
    assert lost == [f for f in given if f.stream == BOOK][2:5]
    left = sent(["skip-symbol:BTCUSDT"], given)
    assert {frame.stream for frame in left} == {ETH, None}


def test_shares_are_about_kept() -> None:
    given = frames(20_000, TRADE)
    assert 180 < 20_000 - len(sent(["drop:0.01"], given)) < 220
    assert 20_180 < len(sent(["duplicate:0.01"], given)) < 20_220


def test_one_fault_more_does_not_change_what_the_others_strike() -> None:
    given = frames(1_000)
    alone = {late.frame for late in through(["drop:0.1"], given)}
    both = {late.frame for late in through(["drop:0.1", "delay:1ms@0.5"], given)}
    assert alone == both


LEVELS = [
    b'{"stream":"x@depth","data":{"U":1,"u":2,"b":[["61737.63","0.00"]],"a":[]}}',
    b'{"type":"l2update","changes":[["sell","0.7937","5.0"]],"time":"2021-04-17T16:43:37Z"}',
    b'{"channel":"book","data":[{"bids":[{"price":1.08118,"qty":205.41}],"checksum":2388250167}]}',
    b'{"topic":"orderbook.200.X","data":{"b":[["0.5","7"]],"a":[["10","1"]],"u":5,"seq":9}}',
]


@pytest.mark.parametrize("body", LEVELS)
def test_one_digit_of_one_level_changes_and_the_frame_stays_json(body: bytes) -> None:
    found = set()
    for seed in range(200):
        spoiled = corrupted(Frame(0.0, BOOK, body, True), Random(seed)).body
        json.loads(spoiled)
        (at,) = [i for i, (a, b) in enumerate(zip(body, spoiled, strict=True)) if a != b]
        assert body[at : at + 1].isdigit() and spoiled[at : at + 1].isdigit()
        found.add(at)
    digits = sum(c in b"0123456789" for level in re.findall(rb"[\d.]+", body) for c in level)
    assert 1 < len(found) < digits, "all digits of the levels, and no other"


@pytest.mark.parametrize("channel", ["trade", "bookTicker", "ticker"])
def test_what_is_no_book_is_not_corrupted(channel: str) -> None:
    frame = Frame(0.0, Stream(channel, "X"), b'{"data":[{"price":1.5,"qty":2.5}]}', True)
    assert sent(["corrupt:1"], [frame]) == [frame]


def test_a_connection_meets_its_fate_after_so_many_frames_of_data() -> None:
    trouble = Trouble(parse(["close:after=3"]), 0)
    met = []
    for frame in frames(8):
        trouble.take(frame)
        met.append(trouble.fate is not None)
        trouble.fate = None
    assert met == [False, False, True, False, False, False, False, False]
    fate = Trouble(parse(["heartbeats"]), 0).fate
    assert fate is not None and fate.name == "heartbeats"


def test_only_the_first_connections_have_what_is_limited_in_times() -> None:
    faults = parse(["close:accept:times=2", "replay-old:5:times=1"])
    found = [(Trouble(faults, n).fate is not None, Trouble(faults, n).repeats) for n in range(3)]
    assert found == [(True, 5), (True, 0), (False, 0)]


def test_the_door_turns_away_whom_it_says_as_often_as_it_says() -> None:
    door = Door(parse(["refuse:times=1", "rate-limit:429:on=rest:times=2"]))

    def statuses(*asked: str) -> list[int | None]:
        found: list[Fault | None] = [door.ask(on) for on in asked]
        return [fault.status if fault else None for fault in found]

    assert statuses("ws", "ws", "rest", "rest", "rest") == [503, None, 429, 429, None]
    assert Door(Faults()).ask("ws") is None
