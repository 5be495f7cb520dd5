from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feed import session as s
from feed.encoding import JSON, MSGPACK, Encoding
from feed.errors import CloseCode
from feed.index import Index
from feed.session import Delivery, Session
from feed.topic_state import Start
from feed.topics import parse_topic
from tests.web import catalogue

BTC, ETH = "BTC-USDT", "ETH-USDT"
QUOTE, TRADE = f"quote.binance.{BTC}", f"trade.binance.{BTC}"
LATEST, ALL = Delivery(latest=True), Delivery(latest=False)


def an_index() -> Index:
    index = Index()
    for exchange in ("binance", "kraken"):
        index.update(catalogue(exchange, (BTC, ETH)))
    return index


class Talk:
    """A session and what it would have delivered by its own moves."""

    def __init__(
        self, index: Index | None = None, encoding: Encoding = JSON, max_topics: int = 100
    ) -> None:
        self.index = index or an_index()
        self.session = Session(self.index, encoding, max_topics, 20, 0.0)
        self.encoding = encoding
        self.deliveries: dict[str, Delivery] = {}
        self.starts: dict[str, Start] = {}
        self.clock = 0.0

    def raw(self, data: bytes, is_right_type: bool = True) -> list[s.Action]:
        self.clock += 1.0
        return self.session.receive(data, is_right_type, 77, self.clock)

    def say(self, **command: Any) -> list[s.Action]:
        actions = self.raw(self.encoding.body(json.dumps(command).encode()))
        for action in actions:
            if isinstance(action, s.Subscribed | s.Unsubscribed):
                self.move(action.moves)
        return actions

    def move(self, moves: list[s.Move]) -> None:
        """Carry moves out; each must fit what is delivered so far."""
        for move in moves:
            match move:
                case s.Join(topic, delivery, start):
                    assert topic not in self.deliveries
                    self.deliveries[topic] = delivery
                    self.starts[topic] = start
                case s.Change(topic, delivery):
                    assert self.deliveries[topic] != delivery
                    self.deliveries[topic] = delivery
                case s.Leave(topic):
                    del self.deliveries[topic]

    def answers(self, **command: Any) -> list[dict[str, Any]]:
        """Return what would be said in answer."""
        said: list[dict[str, Any]] = []
        for action in self.say(**command):
            match action:
                case s.Answer(text) | s.Unsubscribed(_, s.Answer(text)):
                    said.append(json.loads(text))
                case s.Subscribed():
                    for answer in s.answer(action, lambda name: s.Known(5, None, "live")):
                        said.append(json.loads(answer.json))
                    said.extend(json.loads(error.json) for error in action.errors)
                case s.Snapshots(_, _, errors):
                    said.extend(json.loads(error.json) for error in errors)
        return said

    def subscribe(self, *topics: str, **options: Any) -> list[dict[str, Any]]:
        options = {"status": False, **options}
        said = self.answers(op="subscribe", topics=list(topics), **options)
        return [result for one in said for result in one.get("results", [one])]

    def unsubscribe(self, *topics: str) -> list[dict[str, Any]]:
        said = self.answers(op="unsubscribe", topics=list(topics))
        results: list[dict[str, Any]] = said[0]["results"]
        return results


@pytest.mark.parametrize(
    ("topic", "options", "expected"),
    [
        pytest.param(TRADE, {}, ALL, id="an event is never conflated"),
        pytest.param(QUOTE, {}, LATEST, id="a state is the latest by default"),
        pytest.param(QUOTE, {"mode": "all"}, ALL, id="a state in all"),
        pytest.param(QUOTE, {"max_hz": 4}, Delivery(True, 4.0), id="throttled"),
        pytest.param(QUOTE, {"max_hz": 4.9}, Delivery(True, 4.0), id="lowered to the next rate"),
        pytest.param(QUOTE, {"mode": "all", "max_hz": 4}, ALL, id="max_hz means latest only"),
        pytest.param(TRADE, {"max_hz": 4}, ALL, id="max_hz leaves events alone"),
        pytest.param("status.binance.ALL", {"max_hz": 1}, LATEST, id="a status never waits"),
        pytest.param(f"book.kraken.{BTC}", {}, ALL, id="a book"),
    ],
)
def test_options_say_how_a_topic_is_delivered(
    topic: str, options: dict[str, Any], expected: Delivery
) -> None:
    talk = Talk()
    (result,) = talk.subscribe(topic, **options)
    assert talk.deliveries == {topic: expected}
    assert result["ok"] and result["mode"] == ("latest" if expected.latest else "all")
    assert result.get("max_hz") == expected.hz


def test_event_topics_of_a_command_in_latest_stay_in_all() -> None:
    talk = Talk()
    results = talk.subscribe(TRADE, QUOTE, mode="latest")
    assert [result["mode"] for result in results] == ["all", "latest"]


def test_latest_without_a_state_topic_is_not_allowed() -> None:
    talk = Talk()
    (error,) = talk.subscribe(TRADE, f"book.binance.{BTC}", mode="latest")
    assert error["code"] == "mode_not_allowed" and talk.deliveries == {}


def test_the_most_specific_string_decides_and_taking_it_away_falls_back() -> None:
    talk = Talk()
    strings = ["quote.*.*", f"quote.*.{BTC}", "quote.binance.*", QUOTE]
    for hz, text in zip((1, 2, 5, 10), strings, strict=True):
        talk.subscribe(text, max_hz=hz)
        assert talk.deliveries[QUOTE] == Delivery(True, float(hz))
    for hz, text in zip((5, 2, 1), reversed(strings), strict=False):
        assert talk.unsubscribe(text) == [{"topic": text, "ok": True}]
        assert talk.deliveries[QUOTE] == Delivery(True, float(hz))
    assert talk.deliveries[f"quote.kraken.{ETH}"] == Delivery(True, 1.0)
    talk.unsubscribe("quote.*.*")
    assert talk.deliveries == {}


def test_asking_again_changes_only_the_options_given() -> None:
    talk = Talk()
    talk.subscribe(QUOTE, max_hz=4, status=True)
    assert f"status.binance.{BTC}" in talk.deliveries
    talk.answers(op="subscribe", topics=[QUOTE], mode="all")
    assert talk.deliveries[QUOTE] == ALL
    talk.answers(op="subscribe", topics=[QUOTE], mode="latest")
    assert talk.deliveries[QUOTE] == Delivery(True, 4.0)
    assert f"status.binance.{BTC}" in talk.deliveries
    talk.answers(op="subscribe", topics=[QUOTE], status=False)
    assert talk.deliveries == {QUOTE: Delivery(True, 4.0)}
    assert talk.say(op="subscribe", topics=[QUOTE])[0].moves == []  # type: ignore[union-attr]


def test_a_pattern_matches_what_is_carried_and_what_is_listed_later() -> None:
    talk = Talk()
    (result,) = talk.subscribe(f"quote.*.{BTC}", f"quote.*.{BTC}")[:1]
    assert result["matches"] == 2
    assert result["topics"] == [[QUOTE, 5, None], [f"quote.kraken.{BTC}", 5, None]]
    (later,) = talk.subscribe("quote.bybit.*")
    assert later["ok"] and later["matches"] == 0
    added = talk.index.update(catalogue("bybit", (BTC, "SOL-USD")))
    moves, errors = talk.session.listed(added)
    talk.move(moves)
    assert not errors
    assert {f"quote.bybit.{BTC}", "quote.bybit.SOL-USD"} < set(talk.deliveries)
    assert not any(name.startswith("trade") for name in talk.deliveries)


def test_stars_do_not_cover_composite() -> None:
    talk = Talk()
    talk.index.update(catalogue("composite", (BTC,)))
    talk.subscribe("quote.*.*")
    assert f"quote.composite.{BTC}" not in talk.deliveries
    talk.subscribe("quote.composite.*")
    assert f"quote.composite.{BTC}" in talk.deliveries


def test_the_good_strings_stand_even_if_others_fail() -> None:
    talk = Talk()
    results = talk.subscribe("trade.binance.BTC-USTD", QUOTE, "nonsense", "trade.okx.BTC-USDT")
    assert [result["ok"] for result in results] == [False, True, False, False]
    assert results[0]["code"] == "unknown_topic" and results[0]["did_you_mean"][0] == TRADE
    assert "kraken" in results[3]["message"]
    assert set(talk.deliveries) == {QUOTE}


def test_only_so_many_guesses_are_helped() -> None:
    talk = Talk()
    results = [talk.subscribe(f"trade.binance.BTC-USD{n}")[0] for n in range(30)]
    helped = [bool(result.get("did_you_mean")) for result in results]
    assert helped == [True] * 20 + [False] * 10


def test_a_listed_instrument_that_is_not_carried_says_how_to_carry_it() -> None:
    talk = Talk()
    (result,) = talk.subscribe(f"ticker.binance.{BTC}")
    assert result["code"] == "unknown_topic" and "FEED_KINDS" in result["message"]


@pytest.mark.parametrize("text", [QUOTE, "quote.*.*", "nonsense", "x" * 500])
def test_unsubscribing_what_was_not_subscribed_is_told(text: str) -> None:
    talk = Talk()
    talk.subscribe(f"quote.*.{BTC}")
    before = dict(talk.deliveries)
    (result,) = talk.unsubscribe(text)
    assert not result["ok"] and result["code"] == "not_subscribed"
    assert talk.deliveries == before


def test_a_pattern_past_the_limit_joins_what_fits_and_says_so() -> None:
    talk = Talk(max_topics=3)
    said = talk.answers(op="subscribe", id=8, topics=["quote.*.*"], status=False)
    assert said[0]["results"][0]["matches"] == 4 and len(talk.deliveries) == 3
    assert said[1]["code"] == "limit" and "quote.*.*" in said[1]["message"] and said[1]["id"] == 8
    (result,) = talk.subscribe(TRADE)
    assert result["code"] == "limit" and TRADE not in talk.deliveries
    moves, errors = talk.session.listed(talk.index.update(catalogue("okx", (BTC,))))
    assert moves == [] and json.loads(errors[0].json)["code"] == "limit"
    talk.unsubscribe("quote.*.*")
    assert talk.deliveries == {} and talk.subscribe(TRADE)[0]["ok"]


def test_too_many_strings_are_refused_whole() -> None:
    talk = Talk(max_topics=10)
    (error,) = talk.subscribe(*[f"quote.x.S{n}" for n in range(11)])
    assert error["code"] == "limit"


def test_status_does_not_count_against_the_limit() -> None:
    talk = Talk(max_topics=2)
    talk.subscribe(QUOTE, f"quote.kraken.{BTC}", status=True)
    assert len(talk.deliveries) == 2 + 4
    assert talk.deliveries["status.kraken.ALL"] == LATEST


def test_status_goes_with_the_last_topic_it_belongs_to() -> None:
    talk = Talk()
    talk.subscribe(QUOTE, TRADE, f"quote.binance.{ETH}", status=True)
    talk.unsubscribe(QUOTE)
    assert f"status.binance.{BTC}" in talk.deliveries
    talk.unsubscribe(TRADE)
    assert f"status.binance.{BTC}" not in talk.deliveries
    assert "status.binance.ALL" in talk.deliveries
    talk.unsubscribe(f"quote.binance.{ETH}")
    assert talk.deliveries == {}


def test_a_status_asked_for_by_name_outlives_the_implied_one() -> None:
    talk = Talk()
    status = f"status.binance.{BTC}"
    talk.subscribe(QUOTE, status=True)
    talk.subscribe(status, mode="all")
    assert talk.deliveries[status] == ALL
    talk.unsubscribe(QUOTE)
    assert talk.deliveries == {status: ALL}
    talk.subscribe(QUOTE, status=True)
    talk.unsubscribe(status)
    assert talk.deliveries[status] == LATEST


def test_each_new_topic_starts_where_the_client_left_off() -> None:
    talk = Talk()
    talk.subscribe(TRADE, "quote.*.*", since={TRADE: 7, QUOTE: 0}, last=3, snapshot=False)
    assert talk.starts[TRADE] == Start(False, 7, 3)
    assert talk.starts[QUOTE] == Start(False, 0)
    assert talk.starts[f"quote.kraken.{BTC}"] == Start(False)


def test_last_is_of_trades_and_liquidations_alone() -> None:
    talk = Talk()
    talk.subscribe(TRADE, QUOTE, f"book.kraken.{BTC}", last=1_000)
    assert [talk.starts[name].last for name in (TRADE, QUOTE)] == [1_000, 0]
    assert talk.starts[f"book.kraken.{BTC}"].last == 0


def test_a_topic_that_is_delivered_already_does_not_start_again() -> None:
    talk = Talk()
    talk.subscribe(TRADE)
    talk.starts.clear()
    (result,) = talk.subscribe(TRADE, since={TRADE: 7})
    assert talk.starts == {} and "recovered" not in result


def test_a_topic_that_nobody_lists_yet_starts_where_the_client_left_off_once_it_is() -> None:
    talk = Talk()
    new, other = f"trade.bybit.{BTC}", f"trade.bybit.{ETH}"
    (result,) = talk.subscribe("trade.*.*", since={new: 7})
    assert result["matches"] == 4
    talk.index.update(catalogue("bybit", (BTC, ETH)))
    moves, _ = talk.session.listed([new, other])
    talk.move(moves)
    assert talk.starts[new].since == 7 and talk.starts[other].since is None


def test_whether_a_topic_was_recovered_is_told_where_it_was_asked() -> None:
    (subscribed,) = Talk().say(op="subscribe", topics=[TRADE, "quote.*.*"], status=False)
    assert isinstance(subscribed, s.Subscribed)
    known = {TRADE: s.Known(9, True, "live"), QUOTE: s.Known(5, False, None)}
    (answer,) = s.answer(subscribed, lambda name: known.get(name, s.Known(5, None, None)))
    exact, pattern = json.loads(answer.json)["results"]
    assert exact["recovered"] is True and exact["seq"] == 9
    assert [QUOTE, 5, False] in pattern["topics"]
    assert [f"quote.kraken.{BTC}", 5, None] in pattern["topics"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"since": {TRADE: -1}}, "0"),
        ({"since": {TRADE: "7"}}, "int"),
        ({"since": {TRADE: 1.5}}, "int"),
        ({"since": {QUOTE: 7}}, QUOTE),
        ({"since": {"trade.*.*": 7}}, "trade.*.*"),
        ({"since": {"nonsense": 7}}, "nonsense"),
        ({"since": [TRADE]}, "object"),
        ({"last": -1}, "0"),
        ({"last": 1_001}, "1000"),
    ],
    ids=str,
)
def test_a_bad_since_or_last_is_refused_and_nothing_changes(
    options: dict[str, Any], word: str
) -> None:
    talk = Talk()
    (error,) = talk.subscribe(TRADE, **options)
    assert error["code"] == "bad_option" and word in error["message"], error
    assert talk.deliveries == {}


def test_more_positions_than_topics_allowed_are_refused() -> None:
    talk = Talk(max_topics=2)
    since = {f"trade.x.S{n}": 1 for n in range(3)}
    (error,) = talk.subscribe("trade.*.*", since=since)
    assert error["code"] == "limit"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"op": "auth", "token": "x"}, "unknown_op"),
        ({"op": "fly"}, "unknown_op"),
        ({}, "unknown_op"),
        ({"op": 5}, "unknown_op"),
        ({"op": "subscribe"}, "bad_option"),
        ({"op": "subscribe", "topics": []}, "bad_option"),
        ({"op": "subscribe", "topics": "x"}, "bad_option"),
        ({"op": "subscribe", "topics": [1]}, "bad_option"),
        ({"op": "subscribe", "topics": [QUOTE], "max_hz": 0}, "bad_option"),
        ({"op": "subscribe", "topics": [QUOTE], "max_hz": "4"}, "bad_option"),
        ({"op": "subscribe", "topics": [QUOTE], "mode": "most"}, "bad_option"),
        ({"op": "subscribe", "topics": [QUOTE], "modes": "all"}, "bad_option"),
        ({"op": "subscribe", "topics": [QUOTE], "snapshot": 1}, "bad_option"),
        ({"op": "unsubscribe"}, "bad_option"),
        ({"op": "options"}, "bad_option"),
        ({"op": "options", "batch": "yes"}, "bad_option"),
        ({"op": "ping", "id": True}, "bad_option"),
        ({"op": "ping", "id": 1.5}, "bad_option"),
        ({"op": "ping", "id": "x" * 65}, "bad_option"),
        ({"op": "ping", "id": [1]}, "bad_option"),
    ],
    ids=str,
)
@pytest.mark.parametrize("encoding", [JSON, MSGPACK], ids=lambda encoding: encoding.name)
def test_a_bad_command_is_refused_and_changes_nothing(
    encoding: Encoding, command: dict[str, Any], code: str
) -> None:
    talk = Talk(encoding=encoding)
    (error,) = talk.answers(**command)
    assert error["type"] == "error" and error["code"] == code and error["message"]
    assert talk.deliveries == {}


@pytest.mark.parametrize("id", [0, -5, 2**53, "x" * 64, "", None])
def test_the_id_comes_back(id: int | str | None) -> None:
    talk = Talk()
    for command in (
        {"op": "ping"},
        {"op": "list"},
        {"op": "options", "batch": True},
        {"op": "subscribe", "topics": [QUOTE]},
        {"op": "unsubscribe", "topics": [QUOTE]},
        {"op": "fly"},
    ):
        assert talk.answers(**command, id=id)[0]["id"] == id


def test_a_ping_is_answered_with_the_time() -> None:
    assert Talk().answers(op="ping") == [{"type": "pong", "id": None, "time": 77}]


def test_the_list_is_what_was_asked_for() -> None:
    talk = Talk()
    talk.subscribe("quote.*.*", max_hz=5)
    talk.subscribe(TRADE)
    (said,) = talk.answers(op="list")
    assert said["type"] == "subscriptions"
    assert said["results"] == [
        {"topic": "quote.*.*", "ok": True, "mode": "latest", "max_hz": 5, "matches": 4},
        {"topic": TRADE, "ok": True, "mode": "all"},
    ]


def test_whole_numbers_are_written_as_such() -> None:
    talk = Talk()
    (text,) = [a for a in talk.say(op="subscribe", topics=[QUOTE], max_hz=4)]
    assert isinstance(text, s.Subscribed)
    (answer,) = s.answer(text, lambda name: s.Known(5, None, None))
    assert b'"max_hz":4,' in answer.json


def test_options_are_answered_before_they_take_effect() -> None:
    answer, batch = Talk().say(op="options", batch=True)
    assert isinstance(answer, s.Answer) and batch == s.Batch(True)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"5", b'"x"', b"\xff", b'{"op":"ping"', b'{"op":' + b"[" * 100_000],
    ids=lambda data: repr(data[:12]),
)
def test_three_messages_without_sense_end_the_connection(data: bytes) -> None:
    talk = Talk()
    for _ in range(2):
        (error,) = talk.raw(data)
        assert isinstance(error, s.Answer) and json.loads(error.json)["code"] == "bad_message"
    error, close = talk.raw(data)
    assert isinstance(close, s.Close) and close.code is CloseCode.BAD_MESSAGE


def test_the_wrong_frame_type_is_a_bad_message() -> None:
    (error,) = Talk().raw(b'{"op":"ping"}', is_right_type=False)
    assert isinstance(error, s.Answer) and json.loads(error.json)["code"] == "bad_message"


def test_too_many_commands_are_warned_about_and_then_it_is_the_end() -> None:
    session = Session(an_index(), JSON, 10, 20, 0.0)
    said = [session.receive(b'{"op":"ping"}', True, 0, 0.0)[0] for _ in range(61)]
    codes = [json.loads(one.json).get("code") for one in said[:-1] if isinstance(one, s.Answer)]
    assert codes == [None] * 40 + ["rate_limited"] * 20
    assert isinstance(said[-1], s.Close) and said[-1].code is CloseCode.RATE_LIMITED


def test_warnings_are_forgotten_once_the_client_has_calmed_down() -> None:
    session = Session(an_index(), JSON, 10, 20, 0.0)
    for second in range(0, 100, 5):
        said = [session.receive(b'{"op":"ping"}', True, 0, float(second))[0] for _ in range(45)]
        assert not any(isinstance(one, s.Close) for one in said)


def test_what_a_url_asks_for_is_carried_out() -> None:
    session = Session(an_index(), JSON, 10, 20, 0.0)
    query = {"topics": f"{QUOTE},{TRADE}", "max_hz": "4", "batch": "1", "status": "0"}
    batch, subscribed = session.open({**query, "snapshot": "0"})
    assert batch == s.Batch(True) and isinstance(subscribed, s.Subscribed)
    assert subscribed.moves == [
        s.Join(QUOTE, Delivery(True, 4.0), Start(snapshot=False)),
        s.Join(TRADE, ALL, Start(snapshot=False)),
    ]
    assert Session(an_index(), JSON, 10, 20, 0.0).open({}) == []


def test_snapshots_are_of_what_has_a_current_value() -> None:
    talk = Talk()
    (action,) = talk.say(op="snapshot", topics=["quote.*.*", QUOTE, TRADE, "quote.x.Y"])
    assert isinstance(action, s.Snapshots) and len(action.topics) == 4
    codes = [json.loads(error.json)["code"] for error in action.errors]
    assert codes == ["bad_option", "unknown_topic"]


def test_thousands_of_strings_do_not_search_thousands_of_topics() -> None:
    index = Index()
    index.update(catalogue("sim", [f"S{n}-USD" for n in range(3000)], kinds=("quote",)))
    talk = Talk(index, max_topics=5000)
    talk.subscribe(*[f"quote.*.J{n}-USD" for n in range(1900)], "quote.*.*")
    assert len(talk.deliveries) == 3000
    talk.unsubscribe(*[f"quote.*.J{n}-USD" for n in range(1900)])
    talk.unsubscribe("quote.*.*")
    assert talk.deliveries == {}


# Everything at once, against a resolver that starts from the strings alone.

KINDS = ("quote", "trade", "status")
EXCHANGES = ("binance", "kraken", "*")
SYMBOLS = (BTC, ETH, "*")
strings = st.builds(
    lambda kind, exchange, symbol: f"{kind}.{exchange}.{symbol}",
    st.sampled_from(KINDS),
    st.sampled_from(EXCHANGES),
    st.sampled_from(SYMBOLS),
)
options = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["all", "latest"]),
        "max_hz": st.sampled_from([1, 4.5, 50]),
        "status": st.booleans(),
    },
)


class Wanted:
    """The strings subscribed, with all that was ever given for each."""

    def __init__(self) -> None:
        self.strings: dict[str, dict[str, Any]] = {}

    def resolve(self, index: Index) -> dict[str, Delivery]:
        rates = {1: 1.0, 4.5: 4.0, 50: 50.0}
        found: dict[str, Delivery] = {}
        implied: set[str] = set()
        for name in index.topics():
            topic = parse_topic(name)
            covering = [
                parse_topic(text) for text in self.strings if parse_topic(text).covers(topic)
            ]
            if not covering:
                continue
            given = self.strings[str(max(covering, key=lambda one: one.specificity))]
            latest = topic.is_state and given.get("mode") != "all"
            hz = rates.get(given.get("max_hz", 0)) if latest and topic.kind != "status" else None
            found[name] = Delivery(latest, hz)
            if given.get("status", True) and topic.kind != "status":
                implied |= {f"status.{topic.exchange}.{symbol}" for symbol in (topic.symbol, "ALL")}
        return {**dict.fromkeys(implied, LATEST), **found}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("subscribe"), st.lists(strings, min_size=1, max_size=3), options),
            st.tuples(st.just("unsubscribe"), st.lists(strings, min_size=1, max_size=3), st.none()),
            st.tuples(st.just("list"), st.sampled_from(["bybit", "composite"]), st.none()),
        ),
        max_size=14,
    )
)
@settings(max_examples=200)
def test_any_commands_leave_exactly_what_the_strings_mean(steps: list[Any]) -> None:
    talk = Talk()
    wanted = Wanted()
    for op, what, given_options in steps:
        if op == "list":
            moves, _ = talk.session.listed(talk.index.update(catalogue(what, (BTC,))))
            talk.move(moves)
        elif op == "subscribe":
            said = talk.answers(op=op, topics=what, **given_options)
            if said[0]["type"] == "error":
                assert said[0]["code"] == "mode_not_allowed"
                continue
            for result in said[0]["results"]:
                if result["ok"]:
                    wanted.strings.setdefault(result["topic"], {}).update(given_options)
        else:
            for text, result in zip(what, talk.unsubscribe(*what), strict=True):
                assert result["ok"] == (wanted.strings.pop(text, None) is not None)
        assert talk.deliveries == wanted.resolve(talk.index)
        for name, delivery in talk.deliveries.items():
            assert talk.session.delivery(name) == delivery
