"""What an exchange adapter is: pure. Bytes and a time go in, events and wishes come out.

An adapter never does I/O and never sleeps. One instance serves one connection and holds what that
connection's books and sequences need; a new connection gets a new instance. What it cannot do
itself it asks for (``Fetch``, ``Send``, ``Resync``) and the runner does it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import msgspec

from feed.models import Book, Cause, Event, Gap, Instrument, Trade


class Stream(msgspec.Struct, frozen=True):
    """One thing to subscribe to: the exchange's own channel of one instrument.

    Attributes:
        channel: The exchange's name of it, e.g. ``depth@100ms`` or ``orderbook.200``.
        native: The exchange's symbol, e.g. ``BTCUSDT``.
    """

    channel: str
    native: str


class Plan(msgspec.Struct, frozen=True):
    """One connection: where it goes and what it carries.

    Attributes:
        path: Path and query below the adapter's ``ws_url``.
        streams: What it carries; each stream is on exactly one connection.
        instruments: Of those streams, by native name.
    """

    path: str
    streams: tuple[Stream, ...]
    instruments: Mapping[str, Instrument]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the exchange allows, and when its silence means that it is gone.

    Attributes:
        frames_per_s: Frames we may send on one connection.
        streams_per_connection: The runner never plans more.
        connects: Connection attempts allowed in ``connects_window_s``.
        silent_after_s: Without any data for so long a connection is stale and is replaced.
        symbol_silent_after_s: One stream of a living connection is never stale sooner; see
            ``adapters.silence``.
        beat_every_s: How often each instrument has a ``Beat``, where the exchange sends one.
        max_age_s: The exchange ends older connections.
        ping_every_s: How often ``Adapter.ping`` is sent; None where the exchange pings us.
        max_frame_bytes: Larger frames end the connection.
        settle_s: How long a new connection is left alone before its first frame is sent.
    """

    frames_per_s: float
    streams_per_connection: int
    connects: int
    connects_window_s: float
    silent_after_s: float = 10.0
    symbol_silent_after_s: float = 60.0
    beat_every_s: float | None = None
    max_age_s: float | None = None
    ping_every_s: float | None = None
    max_frame_bytes: int = 16 << 20
    settle_s: float = 0.0


class Fetch(msgspec.Struct, frozen=True):
    """Please ask for this (path below ``rest_url``) and hand the body to ``fetched`` with ``key``.

    If it fails, the runner calls ``fetch_failed`` and the adapter may ask again; the runner spaces
    repeats of one key by its backoff.
    """

    path: str
    key: str


class Send(msgspec.Struct, frozen=True):
    """Please send this text frame on this adapter's connection (paced)."""

    frame: str


class Checkpoint(msgspec.Struct, frozen=True):
    """The whole window of a book as of its last event; the publisher stores it."""

    book: Book


class Health(msgspec.Struct, frozen=True):
    """A topic's health changed: ``invalid`` for a book that failed its proof, ``live`` again.

    Attributes:
        native: The instrument.
        kinds: Which kinds of it.
        state: ``live`` or ``invalid``.
        reason: snake_case, e.g. ``checksum``, ``sequence``, ``snapshot``.
    """

    native: str
    kinds: tuple[str, ...]
    state: str
    reason: str | None


class Refused(msgspec.Struct, frozen=True):
    """The exchange will not serve these streams (unknown symbol, …): logged, symbol ``down``."""

    streams: tuple[Stream, ...]
    reason: str


class Leave(msgspec.Struct, frozen=True):
    """This connection must be replaced.

    Attributes:
        serves_on: The exchange has only announced its end: until then it is as good as any, and
            is kept until another one has taken its place.
    """

    reason: str
    serves_on: bool = False


class Beat(msgspec.Struct, frozen=True):
    """The exchange's sign of life for one instrument came (``Limits.beat_every_s``)."""

    native: str


class Mark(msgspec.Struct, frozen=True):
    """The last trade of an instrument that came.

    Attributes:
        id: The exchange's, consecutive per instrument.
        ts: When it was matched, µs, where backfill needs it.
    """

    id: int
    ts: int | None = None


class Resumed(msgspec.Struct, frozen=True):
    """Where live trades go on after ``Adapter.resume``; it comes before the first of them.

    Attributes:
        after: The last trade that came before; None where the exchange has begun to
            count anew.
        before: The first id that comes live: what lies between is missing.
    """

    native: str
    after: Mark | None
    before: int


class Page(msgspec.Struct, frozen=True):
    """What a ``Fetch`` made by ``Adapter.backfill`` brought.

    Attributes:
        trades: Rising ids, with the trade each is of, marked ``backfill``; None for a number that
            the exchange gives to no trade.
    """

    native: str
    trades: tuple[tuple[int, Trade | None], ...]


#: Events are published in the order given; ``Gap`` is one of them.
Output: TypeAlias = (
    Event | Checkpoint | Fetch | Send | Health | Refused | Leave | Beat | Resumed | Page
)


class Listing(NamedTuple):
    """How a market's instruments are read and named; the functions' first argument is its name.

    Attributes:
        read: Does ``Adapter.instruments``.
        name: Does ``Adapter.instrument``.
    """

    read: Callable[[str, Sequence[bytes]], list[Instrument]]
    name: Callable[[str, str], Instrument | None]


class Adapter(ABC):
    """One exchange. Class-level facts and planning; an instance is one connection's state.

    Attributes:
        name: Ours, as in topics.
        ws_url, rest_url: Scheme and host, where ``Plan.path`` and ``Fetch.path`` go; an operator
            may point both elsewhere (``FEED_ENDPOINTS``).
        headers: Sent with each handshake and each REST question, where they choose the data's form.
        listing: What reads the instruments, and names them.
        listing_paths: REST paths whose bodies list the instruments.
        door_path: REST path that tells where to connect (``address``); None: ``ws_url`` is it.
        kinds: Every kind it can carry.
        proofs: Kind -> what shows that an event is missing, in a few words; kinds that have none
            are not in it. For the reader: ``docs/exchanges.md`` is made from it.
        checksum: What the exchange lets us check a book's content by; None where nothing.
        ignored: Message types left out on purpose -> the reason.

    REST paths are asked for by GET; ``path#body`` is asked for by POST with this JSON body, which
    may be empty.
    """

    name: ClassVar[str]
    ws_url: ClassVar[str]
    rest_url: ClassVar[str]
    headers: ClassVar[Mapping[str, str]] = {}
    listing: ClassVar[Listing]
    listing_paths: ClassVar[tuple[str, ...]]
    door_path: ClassVar[str | None] = None
    kinds: ClassVar[frozenset[str]]
    proofs: ClassVar[Mapping[str, str]] = {}
    checksum: ClassVar[str | None] = None
    limits: ClassVar[Limits]
    ignored: ClassVar[Mapping[str, str]]

    @classmethod
    def instruments(cls, bodies: Sequence[bytes]) -> list[Instrument]:
        """Read the listing (one body a path). ``topics`` is still empty.

        Raises:
            BadPayload: Not the listing we know.
        """
        return cls.listing.read(cls.name, bodies)

    @classmethod
    def instrument(cls, native: str) -> Instrument | None:
        """Name an instrument without a listing, by known quote assets; None if that fails."""
        return cls.listing.name(cls.name, native)

    @classmethod
    @abstractmethod
    def streams(cls, instrument: Instrument, kinds: Collection[str]) -> list[Stream]:
        """Return what to subscribe to so that these kinds of it are fed (live choice)."""

    @classmethod
    @abstractmethod
    def plan(cls, streams: Sequence[Stream], instruments: Mapping[str, Instrument]) -> list[Plan]:
        """Spread streams over connections within the limits.

        Streams of one instrument that feed one topic stay on one connection.
        """

    @classmethod
    @abstractmethod
    def carried(
        cls, streams: Collection[Stream], instrument: Instrument, kinds: Collection[str]
    ) -> tuple[tuple[str, ...], int | None]:
        """Return the topics these streams of the instrument feed, and the book's levels."""

    @classmethod
    def address(cls, body: bytes) -> str:
        """Return the URL to connect to, as the answer at ``door_path`` tells; ``Plan.path`` is
        appended.

        Raises:
            BadPayload: It tells none.
        """
        raise NotImplementedError

    def __init__(self, plan: Plan, kinds: Collection[str]) -> None:
        """Serve one connection.

        Args:
            plan: What the connection carries.
            kinds: The kinds wanted; nothing else is emitted.
        """
        self.plan_ = plan
        self.wanted = frozenset(kinds)

    @abstractmethod
    def opened(self) -> Sequence[Send]:
        """Return the subscribe frames to send once connected; empty where the URL says it all."""

    @abstractmethod
    def parse(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Map one frame to what follows from it; nothing for acks and heartbeats.

        Raises:
            BadPayload: Cannot be understood; no state has changed.
        """

    def unread(self, frame: bytes, recv: int) -> Iterable[Output]:
        """Return what follows from a frame that ``parse`` refused.

        Where the stream's own numbers or checksum will show the loss, nothing. Where nothing
        would, the loss is declared here: a gap, or a book asked for afresh.
        """
        return ()

    def fetched(self, key: str, body: bytes, recv: int) -> Iterable[Output]:
        """Take the answer to a ``Fetch``.

        Raises:
            BadPayload: Cannot be understood; treated like a failed fetch.
        """
        return ()

    def fetch_failed(self, key: str, recv: int) -> Iterable[Output]:
        """Take note that a ``Fetch`` failed; usually asks again."""
        return ()

    def resync(self, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        """Subscribe to these streams of one instrument afresh, without touching its neighbours."""
        return ()

    def whole(self, native: str, ts: int | None, recv: int) -> Sequence[Output]:
        """Return the instrument's book as one snapshot and its checkpoint; () where none is live.

        Args:
            ts: Exchange time of its last change.
        """
        return ()

    def marks(self) -> dict[str, Mark]:
        """Return the last trade of each instrument whose trades are numbered consecutively."""
        return {}

    def resume(self, native: str, mark: Mark) -> None:
        """Go on from a trade that came over another connection, or was fetched.

        What is not newer is dropped; the first newer one is preceded by ``Resumed``.
        """
        return None

    def backfill(self, native: str, after: Mark) -> Fetch | None:
        """Return how to fetch the trades that follow ``after``, oldest first, as many as a page
        holds; ``fetched`` then returns the ``Page``. None where the exchange cannot be asked so.

        Its key is of no other fetch.
        """
        return None

    def ping(self) -> str | None:
        """Return the frame that keeps the connection alive, where we must send one."""
        return None


def upstream_gap(topic: str, recv: int, cause: Cause, lost: int | None) -> Gap:
    """Declare that the exchange's events are missing here."""
    return Gap(topic, 0, None, recv, 0, cause, lost)


class TapeLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a tape (``docs/tapes.md``).

    Attributes:
        t: Receive time at the recorder, Unix seconds; None in samples.
        dir: ``in`` received, ``out`` sent, ``connect`` opened, ``rest`` answered (both ``url``).
        conn: Which connection of the session.
        raw: The exact text; ``raw_b64`` with ``enc`` instead for compressed or binary frames.
        frame: ``binary`` if the text came as a binary frame.
    """

    dir: str
    t: float | None = None
    conn: str | None = None
    url: str | None = None
    raw: str | None = None
    raw_b64: str | None = None
    enc: str | None = None
    frame: str | None = None


class Ack(msgspec.Struct, frozen=True):
    """What the exchange answers to a subscribe frame.

    Attributes:
        streams: What the frame asked for.
        frames: The answer, ready to send, made from the recorded acks where there are any.
        unsubscribe: The frame takes the streams back instead.
        binary: Further frames of the answer, which go out as binary ones.
        counts: As how many the exchange counts these streams; None: each as one.
    """

    streams: tuple[Stream, ...]
    frames: tuple[str, ...]
    unsubscribe: bool = False
    binary: tuple[bytes, ...] = ()
    counts: int | None = None


class Standing(ABC):
    """What a stream has come to, as the exchange tells it to who asks for the stream late.

    Attributes:
        key: REST key of the answer that tells it; None: it is sent to who subscribes.
        is_text: Whether it is sent as a text frame.
    """

    key: str | None = None
    is_text: bool = True

    @abstractmethod
    def take(self, frame: bytes) -> None:
        """Take the stream's next frame into account."""

    @abstractmethod
    def told(self) -> bytes | None:
        """Return the frame or the body; None while there is nothing to tell."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the exchange does not stand, for a fake that is told to be strict.

    Attributes:
        frames, per_s: More than so many frames within so many seconds end a connection.
        streams: So do more streams than this; None: no such limit is known.
        connects, connects_per_s: Further handshakes in this time are answered with 429.
        code, reason: The exchange's close.
    """

    frames: int
    per_s: float
    streams: int | None = None
    connects: int = 1_000
    connects_per_s: float = 1.0
    code: int = 1008
    reason: str = "too many requests"


class Venue(ABC):
    """The exchange's side of the protocol, for the fake exchange that serves a tape. Pure.

    One instance per tape. ``scan`` sees every line first, so acks and REST bodies are known.

    Attributes:
        rules: The exchange's published limits.
    """

    rules: ClassVar[Rules]

    @abstractmethod
    def scan(self, line: TapeLine) -> None:
        """Learn from one line of the tape (acks, symbols, the connection's URL)."""

    @abstractmethod
    def stream_of(self, line: TapeLine) -> Stream | None:
        """Return the stream a received data frame belongs to.

        None for control frames (acks, pongs, connection status) which the fake makes itself, or
        sends to everybody when ``is_broadcast`` says so.
        """

    @abstractmethod
    def is_broadcast(self, line: TapeLine) -> bool:
        """Whether every connection gets this frame (Kraken's heartbeat and status)."""

    @abstractmethod
    def connected(self, path: str) -> Ack:
        """Return what a new connection's URL asks for, and the frames it is greeted with."""

    @abstractmethod
    def request(self, path: str, frame: str) -> Ack:
        """Return what a client's frame on a connection opened at ``path`` asks for."""

    @abstractmethod
    def rest_key(self, url: str) -> str | None:
        """Return what a REST URL or path means, whatever its version: ``depth:BTCUSDT``.

        None for one we do not serve. Recorded and requested URLs meet under this key; that of a
        POST ends in ``#`` and its body.
        """

    @abstractmethod
    def rest_key_of(self, line: TapeLine) -> str | None:
        """Return the key of a recorded body, also where its URL is missing (the only symbol)."""

    def standing(self, stream: Stream, bodies: Mapping[str, Sequence[bytes]]) -> Standing | None:
        """Return where the stream starts; None for one that needs no such start.

        Args:
            bodies: REST key -> recorded bodies.
        """
        return None

    def numbering(self) -> Callable[[bytes], bytes] | None:
        """Return what numbers the frames of one more connection: called with each, in order.

        None where the exchange does not count a connection's frames.
        """
        return None

    def made(self, key: str) -> bytes | None:
        """Return the answer of a REST key that no tape has to hold (a token); None for others."""
        return None

    def beats(self, streams: Collection[Stream]) -> tuple[str | bytes, ...]:
        """Return a connection's heartbeats; empty where they are pings of the protocol."""
        return ()

    def farewell(self, now_ms: int) -> str | None:
        """Return the notice that a connection will be ended; None where it comes without."""
        return None
