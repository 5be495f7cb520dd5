"""What a client may send, decoded and checked. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from feed.encoding import MSGPACK, Encoding
from feed.errors import BadCommand
from feed.topics import covering_texts

CommandId: TypeAlias = int | Annotated[str, Meta(max_length=64)] | None


class Subscribe(msgspec.Struct, forbid_unknown_fields=True, tag_field="op", tag="subscribe"):
    """Options not given are None, so that asking again changes only what was given."""

    topics: list[str]
    id: CommandId = None
    mode: str | None = None
    max_hz: Annotated[float, Meta(gt=0)] | None = None
    snapshot: bool = True
    status: bool | None = None
    last: Annotated[int, Meta(ge=0, le=1_000)] = 0
    since: dict[str, Annotated[int, Meta(ge=0)]] = {}


class Unsubscribe(msgspec.Struct, forbid_unknown_fields=True, tag_field="op", tag="unsubscribe"):
    topics: list[str]
    id: CommandId = None


class Snapshot(msgspec.Struct, forbid_unknown_fields=True, tag_field="op", tag="snapshot"):
    topics: list[str]
    id: CommandId = None


class Options(msgspec.Struct, forbid_unknown_fields=True, tag_field="op", tag="options"):
    id: CommandId = None
    batch: bool | None = None


class List(msgspec.Struct, forbid_unknown_fields=True, tag_field="op", tag="list"):
    id: CommandId = None


class Ping(msgspec.Struct, forbid_unknown_fields=True, tag_field="op", tag="ping"):
    id: CommandId = None


Command: TypeAlias = Subscribe | Unsubscribe | Snapshot | Options | List | Ping
_OPS = ("subscribe", "unsubscribe", "snapshot", "options", "list", "ping")


class _Head(msgspec.Struct):
    op: Any = None
    id: Any = None


_json_head = msgspec.json.Decoder(_Head).decode
_json_command: Callable[[bytes], Command] = msgspec.json.Decoder(Command).decode
_msgpack_head = msgspec.msgpack.Decoder(_Head).decode
_msgpack_command: Callable[[bytes], Command] = msgspec.msgpack.Decoder(Command).decode


class Refused(BadCommand):
    """A command that is refused, with the ``id`` to answer under."""

    def __init__(self, name: str, message: str, id: CommandId = None) -> None:
        super().__init__(name, message)
        self.id = id


def decode_command(data: bytes, encoding: Encoding) -> Command:
    """Read one message of a client.

    Raises:
        Refused: ``bad_message`` (not an object), ``unknown_op`` or ``bad_option``.
    """
    is_msgpack = encoding is MSGPACK
    try:
        command = _msgpack_command(data) if is_msgpack else _json_command(data)
    except (ValueError, RecursionError) as e:  # msgspec's errors and bad UTF-8; absurd nesting
        raise _refused(data, is_msgpack, e) from e
    if isinstance(command, Subscribe):
        _check(command)
    return command


def _refused(data: bytes, is_msgpack: bool, error: Exception) -> Refused:
    """Return what is wrong with a message that could not be decoded as a command."""
    try:
        head = _msgpack_head(data) if is_msgpack else _json_head(data)
    except (ValueError, RecursionError) as e:
        what = "msgpack map" if is_msgpack else "JSON object"
        return Refused("bad_message", f"a command is one {what}: {_short(e)}")
    id = head.id
    if not (id is None or (isinstance(id, int | str) and not isinstance(id, bool))):
        return Refused("bad_option", "id must be an integer or a text of at most 64 characters")
    if isinstance(id, str) and len(id) > 64:
        return Refused("bad_option", "id must have at most 64 characters")
    if head.op == "auth":
        return Refused("unknown_op", "this server asks for no token (welcome.auth is none)", id)
    if head.op not in _OPS:
        return Refused("unknown_op", f"op must be one of {', '.join(_OPS)}", id)
    return Refused("bad_option", f"{head.op}: {_short(error)}", id)


def _check(command: Subscribe) -> None:
    """Refuse what the types cannot.

    Raises:
        Refused: ``bad_option``.
    """
    if command.mode not in (None, "all", "latest"):
        raise Refused("bad_option", "mode must be all or latest", command.id)
    asked = frozenset(command.topics)
    for name in command.since:
        try:
            texts = covering_texts(name)
        except ValueError as e:
            raise Refused("bad_option", f"since: {e}", command.id) from e
        # A slip of the pen here would cost its topic the resume, unnoticed.
        if "*" in name or not asked.intersection(texts):
            message = f"since names {name[:120]}, which is no topic of this command"
            raise Refused("bad_option", message, command.id)


_QUERY = ("topics", "mode", "max_hz", "snapshot", "status", "last", "batch")


def from_query(query: Mapping[str, str], event_id: str = "") -> tuple[Subscribe | None, bool]:
    """Read ``?topics=a,b&max_hz=4&batch=1``: what to subscribe to, and whether to batch.

    Args:
        event_id: The ``Last-Event-ID`` of an event stream that comes back: ``topic@seq,…``.

    Raises:
        Refused: ``bad_option``.
    """
    given = {name: value for name, value in query.items() if name in _QUERY}
    batch = given.pop("batch", "0")
    if unknown := [name for name in query if name not in _QUERY]:
        raise Refused("bad_option", f"unknown parameter {unknown[0][:40]!r}: {', '.join(_QUERY)}")
    if batch not in ("0", "1"):
        raise Refused("bad_option", "batch must be 0 or 1")
    if not given:
        return None, batch == "1"
    topics = [text for text in given.pop("topics", "").split(",") if text]
    try:
        command = msgspec.convert(
            {"op": "subscribe", "topics": topics, "since": _since(event_id), **given},
            Subscribe,
            strict=False,
        )
    except msgspec.ValidationError as e:
        raise Refused("bad_option", _short(e)) from e
    _check(command)
    return command, batch == "1"


def _since(event_id: str) -> dict[str, str]:
    """Take a ``Last-Event-ID`` apart; what is wrong with the numbers is found by their type."""
    pairs = [pair.rpartition("@") for pair in event_id.split(",") if pair]
    return {topic: seq for topic, _, seq in pairs}


def _short(error: Exception) -> str:
    return str(error)[:200]
