"""The HTTP routes beside the WebSocket, and the WebSocket's front door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from feed.admission import Caller, Refusal
from feed.commands import Refused, from_query
from feed.encoding import JSON, unframe
from feed.entrance import PATH, Entrance
from feed.errors import BusError
from feed.gateway import Gateway
from feed.metrics import render
from feed.relay import now_us
from feed.session import Session, Snapshots
from feed.sse import PulledSocket, event_stream
from feed.topic_state import Start
from feed.topics import parse_topic

log = logging.getLogger("feed.api")

_encode = msgspec.json.Encoder().encode
_PAGE = 1_000
_FILL_S = 2.0


def _gateway(connection: HTTPConnection) -> Gateway:
    gateway: Gateway = connection.app.state.gateway
    return gateway


def _json(body: object, status: int = 200, **headers: str) -> Response:
    return Response(_encode(body), status, headers, "application/json")


def error(status: int, code: str, message: str) -> Response:
    """Return an HTTP error in the form of ``protocol.md``."""
    return _json({"error": {"code": code, "message": message}}, status)


# The WebSocket, for servers that are not ours.


def _refused(refusal: Refusal) -> Response:
    answer = error(refusal.status, refusal.code, refusal.message)
    if refusal.retry_after_s:
        answer.headers["retry-after"] = str(refusal.retry_after_s)
    return answer


async def ws(websocket: WebSocket) -> None:
    """Serve a client of an ASGI server that is not ours, through plain ``send``."""
    gateway = _gateway(websocket)
    if not gateway.said_plain:
        gateway.said_plain = True
        log.warning("this server lacks feed.http.FeedHttpProtocol: WebSockets go the slow way")
    entrance = Entrance(gateway)
    now_s = asyncio.get_running_loop().time()
    caller = Caller(
        websocket.headers.get("origin"),
        websocket.headers.get("host", ""),
        websocket.scope["subprotocols"],
        websocket.scope["query_string"].decode("latin-1"),
    )
    guest = entrance.knock(now_s) or entrance.admit(PATH, caller)
    if isinstance(guest, Refusal):
        await websocket.send_denial_response(_refused(guest))
        return
    await websocket.accept(subprotocol=guest.subprotocol)
    socket = PulledSocket()
    connection = socket.connection = entrance.enter(socket, guest, now_s)

    async def send() -> None:
        async for piece in socket.pieces():
            for opcode, body in unframe(piece):
                if opcode == 1:
                    await websocket.send_text(body.decode())
                else:
                    await websocket.send_bytes(body)
        code, reason = socket.ended or (1000, "")
        await websocket.close(int(code), reason)

    sender = asyncio.create_task(send())
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                break
            text = message.get("text")
            connection.received(
                text.encode() if text is not None else message["bytes"], text is not None
            )
    finally:
        connection.lost()
        sender.cancel()
        try:
            await sender
        except (asyncio.CancelledError, WebSocketDisconnect):
            pass


# Lists.


async def exchanges(request: Request) -> Response:
    gateway = _gateway(request)
    relay = gateway.relay
    rows = []
    banner = None
    for name, catalogue in sorted(relay.index.catalogues.items()):
        carried = [i for i in catalogue.instruments if i.topics]
        banner = banner or catalogue.banner
        rows.append(
            {
                "exchange": name,
                "state": relay.liveness.exchange(name),
                "source": catalogue.source,
                "updated": catalogue.updated,
                "listed": len(catalogue.instruments),
                "carried": len(carried),
                "topics": len(catalogue.carried()),
            }
        )
    return _json({"exchanges": rows, "banner": banner})


def _page(request: Request, names: Iterable[str]) -> tuple[list[str], str | None]:
    """Cut one page out of sorted names; the cursor is the last name of the page before.

    Raises:
        ValueError: ``limit`` is no number from 1 to 1,000.
    """
    limit = int(request.query_params.get("limit", str(_PAGE)))
    if not 1 <= limit <= _PAGE:
        raise ValueError(f"limit must be from 1 to {_PAGE}")
    cursor = request.query_params.get("cursor", "")
    rest = sorted(name for name in names if name > cursor)
    page = rest[:limit]
    return page, page[-1] if len(rest) > limit else None


async def topics(request: Request) -> Response:
    index = _gateway(request).relay.index
    pattern = request.query_params.get("pattern")
    try:
        names = index.match(pattern) if pattern else index.topics()
        page, cursor = _page(request, names)
    except ValueError as e:
        return error(400, "bad_option", str(e))
    rows = [{"topic": name, **parse_topic(name)._asdict()} for name in page]
    return _json({"topics": rows, "cursor": cursor})


async def instruments(request: Request) -> Response:
    wanted = request.query_params.get("exchange")
    text = request.query_params.get("q", "").upper()
    listed = {
        f"{i.exchange}:{i.symbol}": i
        for i in _gateway(request).relay.index.instruments()
        if wanted in (None, i.exchange) and (text in i.symbol or text in i.native.upper())
    }
    try:
        page, cursor = _page(request, listed)
    except ValueError as e:
        return error(400, "bad_option", str(e))
    return _json({"instruments": [listed[key] for key in page], "cursor": cursor})


async def snapshot(request: Request) -> Response:
    """Answer the current values of topics and patterns."""
    gateway = _gateway(request)
    relay = gateway.relay
    session = Session(relay.index, JSON, gateway.settings.max_topics, 1, 0.0)
    texts = [text for text in request.query_params.get("topics", "").split(",") if text]
    if not texts:
        return error(400, "bad_option", "give topics=quote.binance.BTC-USDT,…")
    try:
        action: Snapshots = session.snapshots(texts, None)
    except Refused as e:
        return error(400, e.name, str(e))
    states = [relay.state(name) for name in action.topics]
    try:
        await relay.readiness.ready(dict.fromkeys(states, Start()), _FILL_S)
        bodies = [msgspec.Raw(state.snapshot(JSON, now_us())) for state in states]
    finally:
        for state in states:
            relay.release(state)
    errors = [msgspec.Raw(answer.json) for answer in action.errors]
    status = 404 if errors and not bodies else 200
    return _json({"snapshots": bodies, "errors": errors}, status)


async def history(request: Request) -> Response:
    """Answer retained entries, oldest first: the first after a position, else the newest."""
    gateway = _gateway(request)
    name = request.path_params["topic"]
    query = request.query_params
    try:
        topic = parse_topic(name)
        if topic.is_pattern:
            raise ValueError("name one topic: a pattern has no history")
        bounds = {key: int(query[key]) for key in ("after", "before") if key in query}
        limit = int(query.get("limit", str(_PAGE)))
        if not 1 <= limit <= _PAGE:
            raise ValueError(f"limit must be from 1 to {_PAGE}")
    except ValueError as e:
        return error(400, "bad_option", str(e))
    index = gateway.relay.index
    if not index.is_carried(name):
        return error(404, "unknown_topic", index.why_unknown(topic))
    is_forward = "after" in bounds
    after, before = bounds.get("after", 0), bounds.get("before")
    try:
        # One more than asked for tells whether there is another page.
        found = await gateway.relay.page(name, after, before, limit + 1, not is_forward)
    except BusError as e:
        return error(503, "bus_lost", f"the bus does not answer: {e}")
    page = found[:limit] if is_forward else found[-limit:]
    following = None
    if len(found) > limit:
        following = {"after": page[-1].seq} if is_forward else {"before": page[0].seq}
    entries = [msgspec.Raw(entry.body) for entry in page]
    return _json({"topic": name, "entries": entries, "next": following})


async def stream(request: Request) -> Response:
    """Serve Server-Sent Events."""
    gateway = _gateway(request)
    query = dict(request.query_params)
    event_id = request.headers.get("last-event-id", "")
    try:
        command, _ = from_query(query, event_id)
    except Refused as e:
        return error(400, e.name, str(e))
    if command is None or not command.topics:
        return error(400, "bad_option", "give topics=trade.kraken.BTC-USD,…")
    refusal = gateway.door.knock(asyncio.get_running_loop().time())
    if refusal is not None:
        return _refused(refusal)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(
        event_stream(gateway, query, event_id), media_type="text/event-stream", headers=headers
    )


# Health.


async def livez(request: Request) -> Response:
    """The loop turns; the bus is not asked."""
    return _json({"ok": True})


def unready(gateway: Gateway) -> dict[str, str]:
    """Return why no more clients can be served; empty where they can."""
    reasons = {}
    if not gateway.relay.liveness.is_linked:
        reasons["bus"] = f"the link to the bus is lost: {gateway.relay.lost_because}"
    if gateway.door.shut_until is not None:
        reasons["draining"] = "this process is about to end"
    if gateway.door.is_full:
        reasons["clients"] = "FEED_MAX_CLIENTS is reached"
    return reasons


async def readyz(request: Request) -> Response:
    """Able to serve; the reasons if not.

    Of several workers the fittest is asked, so it says no where none can serve.
    """
    gateway = _gateway(request)
    reasons = unready(gateway)
    body = {
        "ok": not reasons,
        "reasons": reasons,
        "clients": len(gateway.clients),
        "topics": gateway.relay.joined(),
    }
    return _json(body, 503 if reasons else 200)


async def metrics(request: Request) -> Response:
    """Answer the figures of the whole server, for Prometheus."""
    try:
        values = await request.app.state.scrape()
    except TimeoutError:
        return error(503, "unavailable", "the server's own process does not answer")
    body, content_type = render(values, request.headers.get("accept", ""))
    headers = {"content-type": content_type, "cache-control": "no-store"}
    return Response(body, headers=headers)


ROUTES: list[BaseRoute] = [
    WebSocketRoute(PATH, ws),
    Route("/v1/stream", stream),
    Route("/v1/exchanges", exchanges),
    Route("/v1/instruments", instruments),
    Route("/v1/topics", topics),
    Route("/v1/snapshot", snapshot),
    Route("/v1/history/{topic}", history),
    Route("/livez", livez),
    Route("/readyz", readyz),
    Route("/metrics", metrics),
]
