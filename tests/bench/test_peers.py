"""The other servers of the fan-out bench: each once, tiny, and how they are compared."""

import os
import shutil
import subprocess

import msgspec
import pytest
from msgspec.structs import replace

from bench import fanout
from bench.peers import OURS, PEERS, Peer, named
from bench.processes import Cores, pinned
from bench.report import REPO
from feed.errors import ConfigError

TINY = fanout.Load(
    rate=400, clients=12, topics=6, symbols=6, seconds=0.5, warm_up_s=0.1, decode_every=3
)


def row(server: str = OURS.name, **changed: object) -> fanout.Row:
    """Return a row of which only a few fields matter."""
    given = {"server": server, "name": "x", "notes": []} | changed
    numbers = {name: 0 for name in fanout.Row.__struct_fields__ if name not in given}
    return msgspec.convert(given | numbers, fanout.Row)


@pytest.mark.redis
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server needs a core of its own")
@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS.keys())
def test_every_entry_reaches_every_client_of_a_peer(peer: Peer) -> None:
    if missing := peer.missing():
        pytest.skip(missing)
    cores = Cores.split()
    with pinned(cores.others):
        found = fanout.run(TINY, cores, peer)
    assert found.lost == 0
    assert not [note for note in found.notes if "closed" in note or "order" in note]
    assert found.server == peer.name and found.max_ms > 0


_READ = """
    const { Bus } = require("./bench/peers/child.cjs");
    const [stream, step] = [Buffer.from(process.argv[3], "latin1"), Number(process.argv[4])];
    const found = [];
    const bus = { rest: Buffer.alloc(0), publish: (topic, json) => found.push([topic, `${json}`]) };
    for (let at = 0; at < stream.length; at += step)
      Bus.prototype.read.call(bus, stream.subarray(at, at + step));
    console.log(JSON.stringify(found));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("step", [1, 2, 7, 1_000])
def test_the_bus_is_read_in_javascript_however_it_is_cut(step: int) -> None:
    payloads = ["h" * 16 + '{"a":1}', "h" * 16 + "[]" * 60]
    name = "feed:c:{trade.sim.A-B}"
    stream = f"*3\r\n$9\r\nsubscribe\r\n${len(name)}\r\n{name}\r\n:1\r\n"
    for payload in payloads:
        pieces = ("message", name, payload)
        stream += "*3\r\n" + "".join(f"${len(one)}\r\n{one}\r\n" for one in pieces)
    done = subprocess.run(
        ["node", "-e", _READ, "-", "{}", stream, str(step)],
        cwd=REPO, check=True, capture_output=True,
    )  # fmt: skip
    assert msgspec.json.decode(done.stdout) == [["trade.sim.A-B", p[16:]] for p in payloads]


def test_a_peer_that_is_not_installed_is_left_out_by_name() -> None:
    peer = Peer(name="odd", module="odd", needs=("no-such-program",), install="apt install odd")
    assert peer.missing() == "odd is left out: no-such-program is not installed (apt install odd)"


def test_peers_are_chosen_by_name() -> None:
    assert [peer.name for peer in named(["uws", "plain"])] == ["uws", "plain"]
    assert named(["all"]) == list(PEERS.values())
    with pytest.raises(ConfigError, match="'nobody'; there are plain"):
        named(["nobody"])


def test_a_load_is_asked_for_as_it_is_named() -> None:
    same, other = fanout.SUITE["latest"]
    assert same.name == "5,000 x 50 of 200, 20,000/s, latest at 4 Hz, batch, same topics"
    assert same.path == "/v1/ws?batch=1" and TINY.path == "/v1/ws"
    topics = same.subscriptions()
    assert topics[0] == topics[1] != other.subscriptions()[1]
    assert all(topic.startswith("quote.") for topic in topics[0])
    command = msgspec.json.decode(same.command(["quote.sim.SIM000-USD"]))
    assert (command["mode"], command["max_hz"]) == ("latest", 4)
    assert "max_hz" not in TINY.command([])


@pytest.mark.redis
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server needs a core of its own")
def test_arrays_of_entries_are_looked_into() -> None:
    load = replace(TINY, mode="latest", max_hz=10, batch=True, is_same=True)
    cores = Cores.split()
    with pinned(cores.others):
        found = fanout.run(load, cores)
    assert found.deliveries_per_s > 0 and found.max_ms > 0


@pytest.mark.redis
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server needs a core of its own")
def test_a_peer_that_fails_is_left_out_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "odd", Peer(name="odd", module="bench.no_such_module"))
    assert fanout.main([
        "--peers=odd", "--rates=100", "--clients=2", "--topics=2", "--symbols=2",
        "--seconds=0.1", "--warm-up=0.1",
    ]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "2 x 2 of 4, 100/s: odd failed: bench.no_such_module has ended" in said
    assert [row["server"] for row in msgspec.json.decode(said.splitlines()[-1])["rows"]] == [
        "pricefeed"
    ]


def test_servers_are_compared_round_by_round() -> None:
    ours = [row(deliveries_per_cpu_s=n, p99_ms=30.0) for n in (400, 600, 900)]
    theirs = [row("odd", deliveries_per_cpu_s=n, p99_ms=n / 10) for n in (200, 200, 600)]
    assert (
        fanout.compared(ours, theirs)
        == "2.00 times the deliveries/CPU-s of odd, 1.50 times its p99"
    )
    assert fanout.median(ours) is ours[1] and fanout.median(theirs[1:]) is theirs[1]


def test_a_saturated_server_has_no_latency_to_compare_with() -> None:
    theirs = row("odd", deliveries_per_cpu_s=100, p99_ms=0.0, behind_s=4.0)
    said = fanout.compared([row(deliveries_per_cpu_s=700, behind_s=0.1)], [theirs])
    assert said == "7.00 times the deliveries/CPU-s of odd, which is 3.9 s further behind"
