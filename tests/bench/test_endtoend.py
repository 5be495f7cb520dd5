"""The end-to-end bench once, tiny: that every frame is followed to every client, never how fast."""

from pathlib import Path

import msgspec
import pytest

from adapters import registry, tape
from adapters.base import TapeLine
from adapters.recording import Recording
from bench import endtoend
from bench.journey import Arrival, Given, Journey, Origins, unaccounted
from bench.track import Pace, Track, load, pace_of, renaming
from feed.encoding import JSON
from feed.errors import ConfigError

_TRADE = (
    '{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161253000,"s":"BTCUSDT","t":%d,'
    '"p":"61684.01000000","q":"0.00100000","T":1723161253000,"m":true,"M":true}}'
)
_QUOTE = (
    '{"stream":"btcusdt@bookTicker","data":{"u":%d,"s":"BTCUSDT","b":"61684.00000000",'
    '"B":"1.00000000","a":"61684.01000000","A":"2.00000000"}}'
)


def lines(count: int) -> list[TapeLine]:
    return [
        TapeLine(dir="in", t=1723161253.0 + i / 100, conn="ws1", raw=text % (100 + i))
        for i in range(count)
        for text in (_TRADE, _QUOTE)
    ]


@pytest.fixture
def small_tape(tmp_path: Path) -> Path:
    path = tmp_path / "small.jsonl.gz"
    writer = tape.TapeWriter(path)
    for line in lines(100):
        writer.write(line)
    writer.close()
    return path


def track(count: int = 3) -> Track:
    return Track("binance", Recording(lines(count), registry.entry("binance").load_venue()()))


@pytest.mark.redis
def test_every_entry_of_both_copies_is_followed_to_every_client(
    small_tape: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--paces=500", "--copies=2", "--clients=4", "--keep=2", "--warm-up=0"]
    assert endtoend.main([str(small_tape), *options]) == 0
    (row,) = msgspec.json.decode(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert (row["frames"], row["events"], row["topics"]) == (400, 400, 4)
    assert (row["lost"], row["odd"], row["untraced"]) == (0, 0, 0)
    whole = row["stages"][-1]
    assert whole["name"] == "exchange to client" and 0 < whole["p50_ms"] <= whole["max_ms"]
    assert (
        set(row["cpu"]) == set(row["waited"]) == {"exchange", "ingest", "valkey", "web", "clients"}
    )


@pytest.mark.parametrize(
    ("pace", "due"),
    [
        pytest.param(Pace(speed=10), [0.0, 0.0, 0.001, 0.001, 0.002, 0.002], id="ten times"),
        pytest.param(Pace(), [0.0] * 6, id="as fast as taken"),
        pytest.param(Pace(rate=200), [0.0, 0.01, 0.02, 0.03, 0.04, 0.05], id="by rate"),
    ],
)
def test_frames_are_due_by_their_pace(pace: Pace, due: list[float]) -> None:
    assert track().at(pace, 0.5, None) == pytest.approx(due, abs=1e-6)
    limited = track().at(pace, 0.5, 0.0)
    assert [at is not None for at in limited] == [at == 0 for at in due]


def test_an_entry_is_traced_to_its_own_frame_once() -> None:
    one = track()
    origins = Origins([one], {"binance": [1, 2, 3, 4, 0, 6]})
    first = one.made[0][0]
    assert origins.take(first) == 1 and origins.take(first) is None
    # Quotes that say the same are told apart by their order alone.
    assert [origins.take(one.made[1][0]) for _ in range(4)] == [2, 4, 6, None]
    assert origins.take(one.made[4][0]) is None


def test_what_a_client_was_given_is_read_however_it_was_cut() -> None:
    body = b'{"seq":7,"pub":20,"type":"trade","recv":10,"topic":"t","price":"1"}'
    gap = b'{"type":"gap","topic":"t","seq":null,"cause":"slow_consumer","from":3,"to":6}'
    data = b"".join(map(JSON.frame, (b'{"type":"heartbeat","time":1}', gap, body)))
    kept = [(100 + i, data[i : i + 1]) for i in range(len(data))]
    given = Given().take_all(kept)
    (came,) = given.entries
    assert given.declared == 4
    assert (came.at, came.topic, came.seq, came.recv, came.pub) == (99 + len(data), "t", 7, 10, 20)
    assert came.identity == b'{"price":"1","topic":"t","type":"trade"}'


def test_stages_add_up_and_what_no_frame_made_is_in_none() -> None:
    one = track()
    trade, quote = one.made[0][0], one.made[1][0]
    journey = Journey(since=2)
    came = [
        Arrival(40, "trade.x.Y", 1, 20, 30, trade),  # sent before what is measured
        Arrival(40, "quote.x.Y", 1, 20, 30, quote),
        Arrival(40, "depth.x.Y", 1, 20, 30, quote),  # held back on purpose
        Arrival(40, "quote.x.Y", 2, 20, 30, b"?"),
        Arrival(40, "quote.x.Y", 3, 5, 30, quote),  # received before it was sent
    ]
    journey.follow(came, Origins([one], {"binance": [1, 2, 3, 4, 5, 6]}))
    assert (journey.entries, journey.untraced) == (5, 2)
    assert [stage.count for stage in journey.stages] == [1] * 4
    assert [stage.max for stage in journey.stages] == [18, 10, 10, 38]


def test_lost_and_repeated_entries_are_told_by_topic_and_seq() -> None:
    came = [Arrival(0, topic, seq, 0, 0, b"") for topic, seq in (("a", 1), ("a", 1), ("b", 5))]
    assert unaccounted(came, {"a": 1, "b": 3, "c": 1}) == (3, 1)


def test_a_copy_has_a_name_that_its_adapter_can_read() -> None:
    adapter = registry.entry("binance").load_adapter()
    assert renaming(adapter, ["BTCUSDT"], 2) == {"BTCUSDT": "BTC2USDT", "btcusdt": "btc2usdt"}
    with pytest.raises(ConfigError, match="cannot be copied"):
        renaming(adapter, ["?"], 1)


def test_copies_say_the_same_each_under_its_own_name(small_tape: Path) -> None:
    recording = load([small_tape], copies=2)["binance"]
    natives = sorted({stream.native for stream in recording.streams})
    assert natives == ["BTC1USDT", "BTCUSDT"]
    mine = [frame.body for frame in recording.frames if frame.stream.native == "BTC1USDT"]  # type: ignore[union-attr]
    others = [frame.body for frame in recording.frames if frame.stream.native == "BTCUSDT"]  # type: ignore[union-attr]
    renamed = [body.replace(b"BTC1", b"BTC").replace(b"btc1", b"btc") for body in mine]
    assert renamed == others and len(mine) == 200


def test_a_pace_is_a_factor_or_a_rate_or_max() -> None:
    assert pace_of("10x") == Pace(speed=10) and pace_of("max") == Pace()
    assert pace_of("20000") == Pace(rate=20_000)
    for text in ("fast", "0x", "-1", ""):
        with pytest.raises(ConfigError):
            pace_of(text)


def test_a_tape_that_is_not_there_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert endtoend.main(["no/such.jsonl.gz"]) == 2
    assert capsys.readouterr().err.startswith("bench.endtoend: no/such.jsonl.gz: ")
