"""One client's conversation: messages in, actions out. Pure.

Subscriptions are the strings asked for. What is delivered of a topic is what its most specific
string says; the session keeps both and tells the socket only the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple, TypeAlias

import msgspec

from feed import commands
from feed.commands import Command, CommandId, Refused, decode_command
from feed.encoding import Encoding
from feed.errors import CloseCode
from feed.index import Index
from feed.throttle import lowered
from feed.topic_state import Start
from feed.topics import Topic, covering_texts, parse_topic, suggestions

_encode = msgspec.json.Encoder().encode
_RESULT_BYTES = 60_000
_BAD_MESSAGES = 3
_WARNINGS = 20
#: Unknown topics of a connection that are answered with ``did_you_mean``. Looking for near names
#: costs milliseconds: help for a person who types, not for a program that guesses.
_SUGGESTIONS = 20


class Delivery(NamedTuple):
    """How a topic is delivered: every entry, the newest value, or that at most ``hz`` a second."""

    latest: bool
    hz: float | None = None


class Wish(NamedTuple):
    """One subscribed string and its options; None where not given."""

    mode: str | None = None
    max_hz: float | None = None
    status: bool = True

    def delivery(self, topic: Topic) -> Delivery:
        if not topic.is_state or self.mode == "all":
            return Delivery(latest=False)
        # A status that waits for its beat would leave a dead price alive for so long.
        return Delivery(latest=True, hz=self.max_hz if topic.kind != "status" else None)


class Answer(NamedTuple):
    """Send this JSON object."""

    json: bytes


class Join(NamedTuple):
    """Deliver a topic that is new to this connection."""

    topic: str
    delivery: Delivery
    start: Start


class Change(NamedTuple):
    """Deliver a topic otherwise, in place."""

    topic: str
    delivery: Delivery


class Leave(NamedTuple):
    """Deliver nothing more of a topic."""

    topic: str


Move: TypeAlias = Join | Change | Leave


class Subscribed(NamedTuple):
    """Wait until the joined topics are filled, answer, then carry the moves out.

    Attributes:
        results: What to answer, without what only the topics know (``answer`` adds it).
        errors: To be said after the answer.
    """

    id: CommandId
    results: list[Result]
    moves: list[Move]
    errors: list[Answer]


class Unsubscribed(NamedTuple):
    """Carry the moves out, then answer: nothing of those topics may come after it."""

    moves: list[Move]
    answer: Answer


class Snapshots(NamedTuple):
    """Send the current values of these topics, then ``synced``."""

    id: CommandId
    topics: list[str]
    errors: list[Answer]


class Batch(NamedTuple):
    """Set the connection's ``batch``."""

    batch: bool


class Close(NamedTuple):
    """End the connection."""

    code: CloseCode
    reason: str


class _Opening(NamedTuple):
    """How a command's new topics begin.

    Attributes:
        since: Topic -> position; what a join takes is taken out.
    """

    snapshot: bool
    since: dict[str, int]
    last: int

    def start(self, name: str) -> Start:
        replays = name.partition(".")[0] in ("trade", "liquidation")
        return Start(self.snapshot, self.since.pop(name, None), self.last if replays else 0)


#: Of a command that joins nothing.
_CLOSED = _Opening(False, {}, 0)


class Result(msgspec.Struct, omit_defaults=True):
    """One line of ``subscribed``."""

    topic: str
    ok: bool
    mode: str | None = None
    max_hz: int | float | None = None
    seq: int | None = None
    recovered: bool | None = None
    health: str | None | msgspec.UnsetType = msgspec.UNSET
    matches: int | None = None
    topics: list[tuple[str, int, bool | None]] | None = None
    code: str | None = None
    message: str | None = None
    did_you_mean: list[str] | None = None


class _Cover(NamedTuple):
    """How a topic is delivered by the wishes, and whether it brings its status along."""

    delivery: Delivery
    implies: bool


Action: TypeAlias = Answer | Subscribed | Unsubscribed | Snapshots | Batch | Close


class Known(NamedTuple):
    """What is known of a topic when the answer is given.

    Attributes:
        seq: Its last position; 0 where nothing was ever published.
        recovered: Whether all that was missed can be given; None where nobody asked.
    """

    seq: int
    recovered: bool | None
    health: str | None


Lookup: TypeAlias = Callable[[str], Known]


class Session:
    """One connection's subscriptions and manners.

    Args:
        max_topics: Topics it may be subscribed to; ``status`` that comes along is not counted.
        commands_per_s: More (beyond a burst of twice that) is refused.
    """

    def __init__(
        self, index: Index, encoding: Encoding, max_topics: int, commands_per_s: int, now_s: float
    ) -> None:
        self._index = index
        self._encoding = encoding
        self._max_topics = max_topics
        self._rate = commands_per_s
        self._tokens = 2.0 * commands_per_s
        self._tokens_at = now_s
        self._warnings = 0
        self._bad = 0
        self._suggestions = _SUGGESTIONS
        self._wishes: dict[str, Wish] = {}
        self._covered: dict[str, _Cover] = {}
        self._implied: dict[str, int] = {}
        #: Positions a client gave of topics that its patterns cover and nobody lists yet.
        self._since: dict[str, int] = {}

    def receive(self, data: bytes, is_right_type: bool, now: int, now_s: float) -> list[Action]:
        """Return what to do about one message.

        Args:
            is_right_type: It came as text on a JSON connection, as binary on a msgpack one.
            now: Wall clock, µs.
            now_s: Monotonic clock.
        """
        if not self._may_speak(now_s):
            self._warnings += 1
            if self._warnings > _WARNINGS:
                return [Close(CloseCode.RATE_LIMITED, "too many commands")]
            message = f"at most {self._rate} commands a second; this one was not carried out"
            return [_error(None, "rate_limited", message)]
        try:
            if not is_right_type:
                raise Refused("bad_message", "wrong frame type: text for JSON, binary for msgpack")
            return self._carry_out(decode_command(data, self._encoding), now)
        except Refused as e:
            actions: list[Action] = [_error(e.id, e.name, str(e))]
            if e.name == "bad_message":
                self._bad += 1
                if self._bad >= _BAD_MESSAGES:
                    actions.append(Close(CloseCode.BAD_MESSAGE, "three messages without sense"))
            return actions

    def open(self, query: Mapping[str, str], event_id: str = "") -> list[Action]:
        """Return what to do about a connection's query string and ``Last-Event-ID``."""
        try:
            command, batch = commands.from_query(query, event_id)
            actions: list[Action] = [Batch(True)] if batch else []
            if command is not None:
                actions.append(self._subscribe(command))
            return actions
        except Refused as e:
            return [_error(e.id, e.name, str(e))]

    def _may_speak(self, now_s: float) -> bool:
        gained = (now_s - self._tokens_at) * self._rate
        self._tokens = min(2.0 * self._rate, self._tokens + gained)
        self._tokens_at = now_s
        if self._tokens == 2.0 * self._rate:
            self._warnings = 0  # it has calmed down
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _carry_out(self, command: Command, now: int) -> list[Action]:
        match command:
            case commands.Subscribe():
                return [self._subscribe(command)]
            case commands.Unsubscribe(topics, id):
                return [self._unsubscribe(topics, id)]
            case commands.Snapshot(topics, id):
                return [self.snapshots(topics, id)]
            case commands.Options(id, batch):
                if batch is None:
                    raise Refused("bad_option", "options: give batch", id)
                answer = Answer(_encode({"type": "options", "id": id, "batch": batch}))
                return [answer, Batch(batch)]
            case commands.List(id):
                return list(self._list(id))
            case commands.Ping(id):
                return [Answer(_encode({"type": "pong", "id": id, "time": now}))]

    # Subscribing.

    def _subscribe(self, command: commands.Subscribe) -> Subscribed:
        """Take the strings of a command; the good ones stand even if others fail.

        Raises:
            Refused: Nothing of it can stand.
        """
        if not command.topics:
            raise Refused("bad_option", "topics is empty", command.id)
        if len(command.topics) > self._max_topics:
            message = f"{len(command.topics)} strings; at most {self._max_topics} topics"
            raise Refused("limit", message, command.id)
        if len(command.since) > self._max_topics:
            message = f"since has {len(command.since)} topics; at most {self._max_topics}"
            raise Refused("limit", message, command.id)
        parsed = [(text, self._check(text)) for text in command.topics]
        good = [topic for _, topic in parsed if isinstance(topic, Topic)]
        if command.mode == "latest" and good and not any(topic.is_state for topic in good):
            message = "only state topics can be conflated; none of these is one"
            raise Refused("mode_not_allowed", message, command.id)
        done = Subscribed(command.id, [], [], [])
        opening = _Opening(command.snapshot, dict(command.since), command.last)
        for text, topic in parsed:
            if isinstance(topic, Result):
                done.results.append(topic)
            else:
                done.results.append(self._subscribe_one(text, topic, command, opening, done))
        unlisted = {n: seq for n, seq in opening.since.items() if n not in self._covered}
        self._since = dict(islice((self._since | unlisted).items(), self._max_topics))
        return done

    def _check(self, text: str) -> Topic | Result:
        try:
            topic = parse_topic(text)
        except ValueError as e:
            message = str(e)
            return Result(text[:120], False, code="unknown_topic", message=message)
        known = topic.is_pattern or text in self._wishes or self._index.is_carried(text)
        if known:
            return topic
        return Result(
            text,
            False,
            code="unknown_topic",
            message=self._index.why_unknown(topic),
            did_you_mean=self._suggest(text, topic),
        )

    def _suggest(self, text: str, topic: Topic) -> list[str] | None:
        if self._suggestions == 0:
            return None
        self._suggestions -= 1
        return suggestions(text, self._index.near(topic)) or None

    def _subscribe_one(
        self,
        text: str,
        topic: Topic,
        command: commands.Subscribe,
        opening: _Opening,
        done: Subscribed,
    ) -> Result:
        former = self._wishes.get(text)
        if former is None and len(self._wishes) >= self._max_topics:
            return Result(text, False, code="limit", message=self._limit_message())
        was = former or Wish()
        wish = Wish(
            command.mode if command.mode is not None else was.mode,
            lowered(command.max_hz) if command.max_hz is not None else was.max_hz,
            command.status if command.status is not None else was.status,
        )
        self._wishes[text] = wish
        matches = self._index.match(text) if topic.is_pattern else (text,)
        joined, left_out = self._cover(matches, opening, done.moves)
        if left_out and not topic.is_pattern:
            del self._wishes[text]
            return Result(text, False, code="limit", message=self._limit_message())
        if left_out:
            message = f"{text}: {left_out} topics are not joined; {self._limit_message()}"
            done.errors.append(_error(command.id, "limit", message))
        delivery = wish.delivery(topic)
        result = Result(text, True, mode="latest" if delivery.latest else "all")
        result.max_hz = plain(delivery.hz)
        if topic.is_pattern:
            result.matches = len(matches)
            result.topics = [(name, 0, None) for name in joined]
        return result

    def listed(self, topics: Iterable[str]) -> tuple[list[Move], list[Answer]]:
        """Take newly listed topics; return what follows where a pattern covers them."""
        moves: list[Move] = []
        errors: list[Answer] = []
        if any("*" in text for text in self._wishes):
            _, left_out = self._cover(topics, _Opening(True, self._since, 0), moves)
            if left_out:
                message = f"{left_out} newly listed topics not joined; {self._limit_message()}"
                errors.append(_error(None, "limit", message))
        return moves, errors

    def delivery(self, name: str) -> Delivery | None:
        """Return how a topic is delivered, if it is."""
        cover = self._covered.get(name)
        if cover is not None:
            return cover.delivery
        return Delivery(latest=True) if name in self._implied else None

    def _limit_message(self) -> str:
        return f"at most {self._max_topics} topics a connection"

    def _cover(
        self, names: Iterable[str], opening: _Opening, moves: list[Move]
    ) -> tuple[list[str], int]:
        """Bring topics in line with the wishes; return those covered and how many don't fit."""
        covered, left_out = [], 0
        for name in names:
            wish = self._wish(name)
            if wish is None:
                continue
            if name not in self._covered and len(self._covered) >= self._max_topics:
                left_out += 1
                continue
            self._set(name, wish, opening, moves)
            covered.append(name)
        return covered, left_out

    def _wish(self, name: str) -> Wish | None:
        for text in covering_texts(name):
            wish = self._wishes.get(text)
            if wish is not None:
                return wish
        return None

    def _set(self, name: str, wish: Wish | None, opening: _Opening, moves: list[Move]) -> None:
        """Cover a topic by ``wish`` (None: by nothing any more), and its status along with it."""
        topic = parse_topic(name)
        before = self.delivery(name)
        former = self._covered.pop(name, None)
        implied = former is not None and former.implies
        implies = False
        if wish is not None:
            implies = wish.status and topic.kind != "status"
            self._covered[name] = _Cover(wish.delivery(topic), implies)
        self._move(name, before, opening, moves)
        if implied == implies:
            return
        for symbol in (topic.symbol, "ALL"):
            status = f"status.{topic.exchange}.{symbol}"
            before = self.delivery(status)
            wanted = self._implied.pop(status, 0) + (1 if implies else -1)
            if wanted:
                self._implied[status] = wanted
            self._move(status, before, opening, moves)

    def _move(
        self, name: str, before: Delivery | None, opening: _Opening, moves: list[Move]
    ) -> None:
        after = self.delivery(name)
        if after is None:
            if before is not None:
                moves.append(Leave(name))
        elif before is None:
            moves.append(Join(name, after, opening.start(name)))
        elif before != after:
            moves.append(Change(name, after))

    # The other commands.

    def _unsubscribe(self, texts: list[str], id: CommandId) -> Unsubscribed:
        moves: list[Move] = []
        results = []
        for text in texts:
            if self._wishes.pop(text, None) is None:
                message = 'not subscribed under this string; see {"op":"list"}'
                results.append(Result(text[:120], False, code="not_subscribed", message=message))
                continue
            affected = self._index.match(text) if parse_topic(text).is_pattern else (text,)
            for name in affected:
                if name in self._covered:
                    self._set(name, self._wish(name), _CLOSED, moves)
            results.append(Result(text, True))
        json = _encode({"type": "unsubscribed", "id": id, "results": results})
        return Unsubscribed(moves, Answer(json))

    def snapshots(self, texts: list[str], id: CommandId) -> Snapshots:
        """Return which current values these strings ask for.

        Raises:
            Refused: Too many.
        """
        if len(texts) > self._max_topics:
            raise Refused("limit", self._limit_message(), id)
        wanted: dict[str, None] = {}
        errors = []
        for text in texts:
            topic = self._check(text)
            if isinstance(topic, Result):
                errors.append(_error(id, "unknown_topic", f"{topic.topic}: {topic.message}"))
            elif not (topic.is_state or topic.kind == "book"):
                message = f"{text}: {topic.kind} has no current value; subscribe to it"
                errors.append(_error(id, "bad_option", message))
            else:
                wanted.update(dict.fromkeys(self._index.match(text) if "*" in text else [text]))
        if len(wanted) > self._max_topics:
            raise Refused("limit", self._limit_message(), id)
        return Snapshots(id, list(wanted), errors)

    def _list(self, id: CommandId) -> Iterator[Answer]:
        results = []
        for text, wish in self._wishes.items():
            topic = parse_topic(text)
            delivery = wish.delivery(topic)
            mode = "latest" if delivery.latest else "all"
            result = Result(text, True, mode=mode, max_hz=plain(delivery.hz))
            if topic.is_pattern:
                result.matches = len(self._index.match(text))
            results.append(result)
        return _in_parts("subscriptions", id, results)


def answer(action: Subscribed, lookup: Lookup) -> Iterator[Answer]:
    """Return the ``subscribed`` frames of a command, with what the topics know by now."""
    for result in action.results:
        if result.topics is not None:
            found = [(name, lookup(name)) for name, _, _ in result.topics]
            result.topics = [(name, known.seq, known.recovered) for name, known in found]
        elif result.ok:
            result.seq, result.recovered, result.health = lookup(result.topic)
    return _in_parts("subscribed", action.id, action.results)


def synced(id: CommandId) -> Answer:
    """Return the frame that follows the last snapshot of a command."""
    return Answer(_encode({"type": "synced", "id": id}))


def plain(number: float | None) -> int | float | None:
    """Return a whole number as such: ``4``, not ``4.0``."""
    return int(number) if number is not None and number.is_integer() else number


def _in_parts(type: str, id: CommandId, results: list[Result]) -> Iterator[Answer]:
    """Spread long lists over frames; all but the last say ``more``."""
    parts: list[list[Result]] = [[]]
    size = 0
    for result in results:
        for part in _split(result):
            n = 200 + 2 * len(part.topic) + sum(len(row[0]) + 40 for row in part.topics or ())
            if size + n > _RESULT_BYTES and parts[-1]:
                parts.append([])
                size = 0
            parts[-1].append(part)
            size += n
    for i, part_results in enumerate(parts):
        body: dict[str, object] = {"type": type, "id": id, "results": part_results}
        if i < len(parts) - 1:
            body["more"] = True
        yield Answer(_encode(body))


def _split(result: Result) -> Iterator[Result]:
    """Cut the topic list of a pattern's result into lines that fit a frame."""
    topics = result.topics or []
    if len(topics) <= 400:
        yield result
        return
    for at in range(0, len(topics), 400):
        yield msgspec.structs.replace(result, topics=topics[at : at + 400])


def _error(id: CommandId, code: str, message: str) -> Answer:
    return Answer(_encode({"type": "error", "id": id, "code": code, "message": message}))
