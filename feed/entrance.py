"""How clients come in by WebSocket: the same steps, whichever server is below."""

from __future__ import annotations

from feed.admission import Caller, Guest, Refusal, admit
from feed.gateway import Gateway
from feed.websocket import Connection, Socket

#: Where they come in.
PATH = "/v1/ws"


class Entrance:
    """Asks the door, then looks at the request, then gives the client a connection."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def knock(self, now_s: float) -> Refusal | None:
        """Count one connect; return why it is refused, if so, whatever it asks for."""
        return self._gateway.door.knock(now_s)

    def admit(self, path: str, caller: Caller) -> Guest | Refusal:
        """Return how the client is served, or why not."""
        if path != PATH:
            return Refusal("not_found", "Not Found", status=404)
        return admit(caller, self._gateway.settings.allowed_origins)

    def enter(self, socket: Socket, guest: Guest, now_s: float, head: bytes = b"") -> Connection:
        """Welcome a client; do what its URL asks for.

        Args:
            head: To be written first, the answer to the handshake where that is ours to give.
        """
        connection = Connection(self._gateway, socket, guest.encoding, now_s)
        connection.welcome(head)
        connection.open(guest.query)
        return connection
