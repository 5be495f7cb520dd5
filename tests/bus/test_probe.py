"""When a link is condemned, and above all when not."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.bus.probe import Proof, Taken, is_master, number_of

ROUNDS = 3
HERE = Taken(1, True)
NOBODY = Taken(0, True)


class Server:
    """Writes to the link in order, as slowly as it is read."""

    def __init__(self) -> None:
        self.proof = Proof(ROUNDS)
        self.delivers = True
        self.on_the_way: deque[tuple[str, int]] = deque()
        self.heard = False

    def probe(self, receivers: int | None = None) -> None:
        """Publish a probe, and PING once it is taken."""
        number = self.proof.begin()
        if self.delivers:
            self.on_the_way.append(("probe", number))
        self.proof.taken(Taken(int(self.delivers) if receivers is None else receivers, True))
        self.on_the_way.append(("pong", number))

    def fail(self) -> None:
        self.proof.begin()
        self.proof.failed("no connection")

    def read(self, count: int = 1) -> None:
        """Take the next ``count`` of what is on the way, or else a message of somebody."""
        self.heard = True
        for _ in range(min(count, len(self.on_the_way))):
            kind, number = self.on_the_way.popleft()
            if kind == "probe":
                self.proof.came_back(number)
            else:
                self.proof.ponged(number)

    def end_round(self) -> None:
        self.proof.end_round(self.heard)
        self.heard = False


steps = st.lists(st.sampled_from(["probe", "fail", "read", "read all", "round"]), max_size=60)


def walk(server: Server, steps: list[str]) -> None:
    """Do ``steps``, with never as many silent rounds as condemn a link."""
    silent = 0
    for step in steps:
        match step:
            case "probe":
                server.probe()
            case "fail":
                server.fail()
            case "read":
                server.read()
            case "read all":
                server.read(len(server.on_the_way))
            case "round":
                silent = 0 if server.heard else silent + 1
                if silent == ROUNDS:
                    server.read()
                    silent = 0
                server.end_round()
    server.heard = True
    server.end_round()


@given(steps)
def test_a_link_that_delivers_is_never_condemned_however_slow_it_is(steps: list[str]) -> None:
    server = Server()
    walk(server, steps)
    assert server.proof.verdict is None


@given(steps, st.booleans())
def test_a_link_that_no_longer_delivers_is_condemned_by_its_own_pongs(
    steps: list[str], counts_others: bool
) -> None:
    server = Server()
    walk(server, steps)
    server.read(len(server.on_the_way))
    server.delivers = False
    for _ in range(ROUNDS):
        assert server.proof.verdict is None or not counts_others
        server.probe(receivers=int(counts_others))
        server.read()
        server.end_round()
    assert server.proof.verdict is not None


@given(steps)
def test_a_silent_link_is_condemned_whatever_was_before(steps: list[str]) -> None:
    server = Server()
    walk(server, steps)
    for _ in range(ROUNDS):
        assert server.proof.verdict is None
        server.end_round()
    assert server.proof.verdict == "no sign of life for 3 PINGs"


@given(steps)
def test_a_server_that_counted_the_link_and_does_no_more_condemns_it_at_once(
    steps: list[str],
) -> None:
    server = Server()
    walk(server, steps)
    server.probe()
    assert server.proof.verdict is None
    server.probe(receivers=0)
    assert server.proof.verdict == "another server takes what is published now"


def test_a_server_that_never_counts_is_believed_what_comes_back() -> None:
    proof = Proof(ROUNDS)
    for _ in range(10):
        number = proof.begin()
        proof.taken(NOBODY)
        proof.came_back(number)
        proof.ponged(number)
    assert proof.verdict is None and proof.proven == 10


def test_one_probe_that_comes_back_forgives_those_that_were_overtaken() -> None:
    proof = Proof(ROUNDS)
    for number in range(1, 20):
        assert proof.begin() == number
        proof.taken(HERE)
        proof.ponged(number)  # on another way
        if number % (ROUNDS - 1) == 0:
            proof.came_back(number)
    assert proof.verdict is None


def test_a_demoted_server_condemns_its_links_at_once() -> None:
    proof = Proof(ROUNDS)
    proof.begin()
    proof.taken(Taken(1, None))
    assert proof.verdict is None  # it does not say what it is
    proof.begin()
    proof.taken(Taken(1, False))
    assert proof.verdict == "the server is a replica"


def test_trouble_with_the_probe_condemns_nothing_and_is_told_until_it_ends() -> None:
    proof = Proof(ROUNDS)
    for _ in range(10):
        proof.begin()
        proof.failed("NOPERM")
        proof.end_round(True)
        assert proof.verdict is None and proof.trouble == "NOPERM"
    proof.begin()
    proof.taken(HERE)
    assert proof.trouble is None


def test_a_verdict_stays() -> None:
    proof = Proof(ROUNDS)
    for _ in range(ROUNDS):
        proof.end_round(False)
    first = proof.verdict
    proof.taken(Taken(1, False))
    proof.end_round(True)
    assert proof.verdict == first is not None


def test_what_somebody_else_publishes_to_the_channel_proves_nothing() -> None:
    proof = Proof(ROUNDS)
    for payload in (b"", b"x", b"-1", b"7", b"9" * 400, "²".encode(), b"1.0"):
        proof.came_back(number_of(payload))
    assert proof.proven == 0
    proof.came_back(number_of(b"%d" % proof.begin()))
    assert proof.proven == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param([b"server", b"valkey", b"role", b"master", b"modules", []], True, id="master"),
        pytest.param([b"server", b"redis", b"role", b"replica"], False, id="replica"),
        pytest.param([b"server", b"redis"], None, id="no role"),
        pytest.param([], None, id="nothing"),
        pytest.param(RuntimeError("NOPERM"), None, id="refused"),
    ],
)
def test_the_role_is_found_in_a_hello(reply: object, expected: bool | None) -> None:
    assert is_master(reply) is expected
