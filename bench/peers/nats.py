"""Child process: the bridge to nats-server, whose clients speak NATS over WebSocket."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from bench.peers.broker import Broker, Ports, run


def _configure(folder: Path) -> str:
    return f"""
        host: 127.0.0.1, port: -1, ports_file_dir: "{folder}"
        ping_interval: "24h"
        websocket {{ host: 127.0.0.1, port: -1, no_tls: true }}
    """


def _ports(folder: Path) -> Ports | None:
    for file in folder.glob("*.ports"):
        if text := file.read_text():
            urls = json.loads(text)
            found = [urlsplit(urls[name][0]).port for name in ("websocket", "nats")]
            assert found[0] and found[1]
            return Ports(found[0], found[1])
    return None


def _publish(topic: str, body: bytes) -> bytes:
    return b"PUB %s %d\r\n%s\r\n" % (topic.encode(), len(body), body)


if __name__ == "__main__":
    hello = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
    run(Broker(("nats-server", "-c"), _configure, _ports, hello, _publish))
