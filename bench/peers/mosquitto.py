"""Child process: the bridge to mosquitto, whose clients speak MQTT over WebSocket."""

from __future__ import annotations

from pathlib import Path

from bench.dialects import mqtt_hello, mqtt_publish
from bench.peers.broker import Broker, Ports, run
from bench.peers.free_port import free_port, is_listening

_PORTS = Ports(free_port(), free_port())


def _configure(folder: Path) -> str:
    return f"""
listener {_PORTS.bridge} 127.0.0.1
listener {_PORTS.clients} 127.0.0.1
protocol websockets
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
sys_interval 0
user root
log_type error
"""


def _ports(folder: Path) -> Ports | None:
    return _PORTS if all(map(is_listening, _PORTS)) else None


if __name__ == "__main__":
    run(Broker(("mosquitto", "-c"), _configure, _ports, mqtt_hello(), mqtt_publish))
