"""For servers that cannot be told to take any port and say which."""

from __future__ import annotations

import socket
import time


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Tell whether somebody listens there."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait_until_listening(port: int, timeout_s: float = 10.0) -> None:
    """Return when somebody listens there.

    Raises:
        TimeoutError: Nobody does.
    """
    deadline = time.monotonic() + timeout_s
    while not is_listening(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens on port {port}")
        time.sleep(0.01)
