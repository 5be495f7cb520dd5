"""I/O shell: glues one socket to its session and outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import msgspec

from feed import session as s
from feed.encoding import Encoding
from feed.errors import CloseCode
from feed.gateway import Gateway
from feed.outbox import Outbox
from feed.owed import Replay, Snapshot, Sync
from feed.readiness import Wait
from feed.relay import now_us
from feed.session import Action, Delivery, Session
from feed.topic_state import Start, TopicState

_encode = msgspec.json.Encoder().encode
_FILL_S = 2.0
_PING_AFTER_S = 20.0
_PONG_WITHIN_S = 20.0
#: Bounds on what a client may ask for without reading the answers; past them it is ended.
_MAX_COMMANDS_WAITING = 256
_MAX_ANSWER_BYTES = 1 << 20
_MAX_ASKED = 1_000


class Socket(Protocol):
    """What a connection writes to.

    Attributes:
        written: Bytes handed to it so far.
    """

    written: int

    def write(self, data: bytes) -> None: ...

    def ping(self) -> None: ...

    def close(self, code: CloseCode, reason: str) -> None: ...

    def abort(self) -> None: ...

    def unsent(self) -> int: ...

    def acknowledged(self) -> int: ...


class Connection:
    """One client: what it said, what it gets, and its socket.

    Attributes:
        outbox: What waits for it.
        written: Bytes handed to its socket so far.
        transport: How it is connected.
    """

    transport = "websocket"

    __slots__ = (
        "__weakref__",
        "_acknowledged",
        "_gateway",
        "_heard_at",
        "_joining",
        "_moved_at",
        "_pending",
        "_pinged_at",
        "_socket",
        "_states",
        "_syncs",
        "_wait",
        "_waiting",
        "is_open",
        "outbox",
        "session",
    )

    def __init__(self, gateway: Gateway, socket: Socket, encoding: Encoding, now_s: float) -> None:
        settings = gateway.settings
        self._gateway = gateway
        self._socket = socket
        self.is_open = True
        self.outbox = Outbox(
            encoding,
            settings.outbox_max_bytes,
            gateway.hub.report,
            socket.write,
            self.fail,
            gateway.hub.tally,
        )
        self.session = Session(
            gateway.relay.index, encoding, settings.max_topics, settings.commands_per_s, now_s
        )
        self._states: dict[str, TopicState] = {}
        self._pending: set[TopicState] = set()
        # Of topics that wait for the bus: the command whose `synced` waits for them.
        self._syncs: dict[TopicState, Sync] = {}
        # While a command waits for the bus: what it joins, and what came meanwhile.
        self._wait: Wait | None = None
        self._joining: dict[str, TopicState] = {}
        self._waiting: list[Callable[[], None]] = []
        self._heard_at = now_s
        self._pinged_at: float | None = None
        self._moved_at = now_s
        self._acknowledged = -1
        gateway.enter(self)

    @property
    def written(self) -> int:
        return self._socket.written

    # What the socket says.

    def received(self, data: bytes, is_text: bool) -> None:
        """Take one message; messages are answered in order."""
        if not self.is_open:
            return
        self._heard_at = asyncio.get_running_loop().time()
        if self._wait is None:
            self._carry_out(self._hear(data, is_text))
            return
        self._waiting.append(partial(self.received, data, is_text))
        if len(self._waiting) > _MAX_COMMANDS_WAITING:
            self.close(CloseCode.RATE_LIMITED, "too many commands")

    def paused(self) -> None:
        self.outbox.block()

    def resumed(self) -> None:
        self._acknowledged = -1
        self.outbox.unblock()

    def ponged(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._pinged_at = None

    def lost(self) -> None:
        """Give everything back."""
        if not self.is_open:
            return
        self.is_open = False
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None
        gateway = self._gateway
        gateway.leave(self)
        gateway.hub.leave(self.outbox)
        self.outbox.clear()
        # It holds us: so as to be freed now, and not when the collector looks at the old ones.
        self.outbox.write = self.outbox.fail = _nothing
        for state in self._states.values():
            self._give_back(state)
        self._states.clear()
        self._release(self._joining)
        self._waiting.clear()
        self._syncs.clear()

    def fail(self) -> None:
        """End the connection at once; there is no more to be said."""
        self._socket.abort()
        self.lost()

    # What the gateway says.

    def heartbeat(self, now: int, now_s: float) -> None:
        """Owe a heartbeat; ask an idle client whether it is still there."""
        self.outbox.heartbeat(now)
        if self.outbox.blocked:
            return  # the sweep judges it by progress, not by pongs that wait behind the data
        if self._socket.unsent():
            self.check_progress(now_s)
            return
        self._acknowledged = -1
        if self._pinged_at is not None:
            if now_s - self._pinged_at >= _PONG_WITHIN_S:
                self.fail()
        elif now_s - self._heard_at >= _PING_AFTER_S:
            self._pinged_at = now_s
            self._socket.ping()

    def check_progress(self, now_s: float) -> None:
        """End a client on which nothing has moved for too long."""
        acknowledged = self._socket.acknowledged()
        if acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            self._moved_at = now_s
        elif now_s - self._moved_at >= self._gateway.settings.stuck_after_s:
            self._gateway.evicted += 1
            self.close(CloseCode.SLOW_CONSUMER, "nothing was read for too long")
            self._socket.abort()

    def listed(self, topics: list[str]) -> None:
        """Take newly listed topics into the patterns that cover them."""
        if not self.is_open:
            return
        if self._wait is not None:
            self._waiting.append(partial(self.listed, topics))  # its result comes first
            return
        moves, errors = self.session.listed(topics)
        for error in errors:
            self.say(error.json)
        self._move(moves)

    def health(self, is_live: bool, since: int) -> None:
        """Tell the client about this server's own link to the bus."""
        bus = b"live" if is_live else b"stale"
        self.say(b'{"type":"health","bus":"%s","since":%d}' % (bus, since))

    def positions(self) -> dict[TopicState, int]:
        """Return what has been given of each topic that is delivered, while nothing waits."""
        given = {state: state.seq for state in self._states.values() if state not in self._pending}
        return given | self._gateway.hub.throttled_positions(self.outbox)

    # What we say.

    def say(self, json: bytes) -> None:
        """Send one object ahead of waiting events."""
        encoding = self.outbox.encoding
        self.outbox.say(encoding.frame(encoding.body(json)))
        if self.outbox.control_bytes > _MAX_ANSWER_BYTES:
            self._not_read()

    def _not_read(self) -> None:
        """End a client that asks and does not read the answers."""
        self._gateway.evicted += 1
        self.close(CloseCode.SLOW_CONSUMER, "answers are not read")
        self._socket.abort()

    def welcome(self, head: bytes = b"") -> None:
        """Say the first word, at once, and in one write with the ``head`` that comes before it."""
        settings, relay = self._gateway.settings, self._gateway.relay
        retention = settings.retention
        json = _encode(
            {
                "type": "welcome",
                "version": "1",
                "session": f"{id(self) & 0xFFFFFFFF:08x}",
                "time": now_us(),
                "heartbeat_s": s.plain(settings.heartbeat_s),
                "auth": "none",
                "bus": "live" if relay.liveness.is_linked else "stale",
                "limits": {
                    "topics": settings.max_topics,
                    "commands_per_s": settings.commands_per_s,
                    "message_bytes": settings.message_max_bytes,
                },
                "retention": {
                    "trade": retention.trade,
                    "liquidation": retention.liquidation,
                    "book": retention.book,
                    "state": retention.state,
                },
            }
        )
        self._socket.write(head + self._frame(json))

    def close(self, code: CloseCode, reason: str, retry_after_ms: int | None = None) -> None:
        """Say ``closing`` where the client still listens, then close."""
        if not self.is_open:
            return
        if not self.outbox.blocked:
            json = b'{"type":"closing","code":%d,"reason":%s,"retry_after_ms":%s}' % (
                code,
                _encode(reason),
                _encode(retry_after_ms),
            )
            self._socket.write(self.outbox.last_words() + self._frame(json))
        self._socket.close(code, reason)
        self.lost()

    def leave(self, retry_after_ms: int) -> bool:
        """Close as restarting once all that waits has left; return whether it has.

        Nothing new is added from the first call on, so that a client which reads comes to an end.
        """
        if not self.is_open:
            return True
        self._gateway.hub.retire(self.outbox, self._states.values())
        self._pending.clear()
        while data := self.outbox.take(now_us()):
            self._socket.write(data)
        if self.outbox.is_waiting or self.outbox.blocked or self._socket.unsent():
            return False
        self.close(CloseCode.RESTARTING, "the server restarts", retry_after_ms)
        return True

    # Commands.

    def _hear(self, data: bytes, is_text: bool) -> list[Action]:
        is_right_type = is_text == (self.outbox.encoding.opcode == 1)
        now_s = asyncio.get_running_loop().time()
        return self.session.receive(data, is_right_type, now_us(), now_s)

    def open(self, query: Mapping[str, str], event_id: str = "") -> None:
        """Carry out what the URL asks for, from the event on that the client had last."""
        self._carry_out(self.session.open(query, event_id))

    def _carry_out(self, actions: list[Action]) -> None:
        """Act at once where nothing has to be waited for."""
        for i, action in enumerate(actions):
            if not self.is_open:
                return
            starts = _starts(action)
            joined = {name: self._gateway.relay.state(name) for name in starts}
            unready = {
                joined[name]: start
                for name, start in starts.items()
                if not self._gateway.relay.readiness.is_ready(joined[name], start)
            }
            if not unready:
                self._finish(action, joined)
            else:
                self._joining = joined
                then = partial(self._go_on, action, actions[i + 1 :])
                self._wait = Wait(self._gateway.relay.readiness, unready, _FILL_S, then)
                return

    def _go_on(self, action: Action, rest: list[Action]) -> None:
        """Finish a command that waited for the bus; what came meanwhile is answered after it."""
        joined, self._joining = self._joining, {}
        self._wait = None
        waiting, self._waiting = self._waiting, []
        self._finish(action, joined)
        self._carry_out(rest)
        for command in waiting:
            command()

    def _release(self, joined: dict[str, TopicState]) -> None:
        for state in joined.values():
            self._gateway.relay.release(state)
        joined.clear()

    def _finish(self, action: Action, joined: dict[str, TopicState]) -> None:
        match action:
            case s.Answer(json):
                self.say(json)
            case s.Batch(batch):
                self._gateway.hub.rebatch(self.outbox, batch)
            case s.Close(code, reason):
                self.close(code, reason)
            case s.Unsubscribed(moves, answer):
                self._move(moves)
                self.say(answer.json)
            case s.Subscribed():
                self._subscribed(action, joined)
            case s.Snapshots(id, _, errors):
                for error in errors:
                    self.say(error.json)
                for state in joined.values():
                    self.outbox.ask(Snapshot(state, None))
                self._release(joined)
                self.outbox.ask(self._frame(s.synced(id).json))
                if self.outbox.asked > self._gateway.settings.max_topics + _MAX_ASKED:
                    self._not_read()

    def _subscribed(self, action: s.Subscribed, joined: dict[str, TopicState]) -> None:
        states = self._states | joined
        resumes = self._resumes(action.moves, joined)

        def lookup(name: str) -> s.Known:
            state = states[name]
            return s.Known(state.seq, resumes.get(name), state.health)

        for answer in s.answer(action, lookup):
            self.say(answer.json)
        for error in action.errors:
            self.say(error.json)
        if not self.is_open:  # it does not read its answers
            self._release(joined)
            return
        sync = Sync(self._frame(s.synced(action.id).json), len(joined) + 1)
        self._move(action.moves, joined, resumes, sync)
        self._through(sync)

    def _resumes(self, moves: list[s.Move], joined: dict[str, TopicState]) -> dict[str, bool]:
        """Return whether each topic that a client comes back to can be resumed."""
        relay, tally = self._gateway.relay, self._gateway.hub.tally
        resumes = {}
        for move in moves:
            if isinstance(move, s.Join) and move.start.since is not None:
                if not move.delivery.latest:
                    state = joined[move.topic]
                    recovered = relay.is_live(state) and state.resumes(move.start.since)
                    resumes[move.topic] = recovered
                    tally.resumed += recovered
                    tally.not_resumed += not recovered
        return resumes

    def _through(self, sync: Sync | None) -> None:
        """Count a topic that is owed nothing, and say ``synced`` where it was the last."""
        if sync is not None and (synced := sync.done()):
            self.outbox.say(synced)

    def _frame(self, json: bytes) -> bytes:
        encoding = self.outbox.encoding
        return encoding.frame(encoding.body(json))

    # Topics.

    def _move(
        self,
        moves: list[s.Move],
        joined: dict[str, TopicState] | None = None,
        resumes: Mapping[str, bool] | None = None,
        sync: Sync | None = None,
    ) -> None:
        """Carry out what a command changes.

        Args:
            joined: States of the topics to join, counted as wanted already.
            resumes: What the client was told of topics it comes back to.
            sync: Counts the joins.
        """
        relay = self._gateway.relay
        for move in moves:
            match move:
                case s.Join(topic, delivery, start):
                    state = relay.state(topic) if joined is None else joined.pop(topic)
                    is_told = (resumes or {}).get(topic)
                    self._join(state, delivery, start, is_told, sync)
                case s.Change(topic, delivery):
                    self._change(self._states[topic], delivery)
                case s.Leave(topic):
                    state = self._states.pop(topic)
                    self._give_back(state)
                    self._through(self._syncs.pop(state, None))

    def _join(
        self,
        state: TopicState,
        delivery: Delivery,
        start: Start,
        resumes: bool | None,
        sync: Sync | None,
    ) -> None:
        """Deliver a topic from when it is filled; what comes before its live entries first."""
        self._states[state.name] = state
        self._pending.add(state)
        if sync is not None:
            self._syncs[state] = sync
        then = partial(self._start, state, delivery.latest, start, resumes)
        self._gateway.relay.readiness.when_ready(state, start, self, then)

    def _start(self, state: TopicState, latest: bool, start: Start, resumes: bool | None) -> None:
        """The topic is filled, and its ring reaches as far back as it can."""
        sync = self._syncs.pop(state, None)
        attach = partial(self._attach, state)
        has_snapshot = state.is_state or state.kind == "book"
        if state.kind == "status" and state.newest is None and state.made_here is None:
            has_snapshot = False  # nothing was ever said of it: no news is no snapshot
        since = start.since
        if since is not None and not latest:
            if resumes is None:
                resumes = state.resumes(since)
            if resumes:
                self.outbox.owe(Replay(state, since or state.ring.floor, attach, sync))
                return
            if since == state.seq:  # told that it cannot be proven, and yet nothing is missing
                since = None
        is_had = since is not None and state.newest_seq <= since <= state.seq
        if latest and is_had:
            self._attach(state)
            self._through(sync)
        elif has_snapshot and (start.snapshot or since is not None):
            lost_from = since + 1 if since is not None and not latest else None
            self.outbox.owe(Snapshot(state, attach, lost_from, "resume_too_old", sync))
        elif since is not None:
            self.outbox.owe(Replay(state, since, attach, sync, is_too_old=True))
        elif start.last:
            self.outbox.owe(Replay(state, state.ring.before_newest(start.last), attach, sync))
        else:
            self._attach(state)
            self._through(sync)

    def _attach(self, state: TopicState) -> None:
        delivery = self.session.delivery(state.name)
        if delivery is None or state not in self._pending:
            return
        self._pending.discard(state)
        hub = self._gateway.hub
        if delivery.hz is not None:
            hub.throttle(self.outbox, state, delivery.hz, state.newest_seq)
        else:
            hub.attach(self.outbox, state, delivery.latest)

    def _change(self, state: TopicState, delivery: Delivery) -> None:
        if state not in self._pending:  # else it is attached as wanted by then
            hub = self._gateway.hub
            hub.change(self.outbox, state, delivery.latest, delivery.hz, now_us())

    def _give_back(self, state: TopicState) -> None:
        self._pending.discard(state)
        self._gateway.hub.detach(self.outbox, state)
        self._gateway.relay.readiness.never_mind(state, self)
        self._gateway.relay.release(state)


def _nothing(*_: object) -> None: ...


def _starts(action: Action) -> dict[str, Start]:
    """Return the topics that an action needs, and how far back."""
    match action:
        case s.Subscribed():
            return {move.topic: move.start for move in action.moves if isinstance(move, s.Join)}
        case s.Snapshots():
            return dict.fromkeys(action.topics, Start())
    return {}
