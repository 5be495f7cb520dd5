"""Whether a reading link still delivers what is published, from what was seen. Pure.

About once a second (a *round*) the owner of the link does three things:

1. It PINGs on the link.
2. It publishes a numbered probe to a channel the link is subscribed to, over a connection made for
   it: the way a new connection goes now, by name service, sentinels and all.
3. When the server has answered that PUBLISH, it PINGs on the link once more, with the number.

What each observation is worth:

- *Anything heard* proves that the connection lives, and no more: a master that was replaced, and
  that nobody publishes to any longer, answers PINGs as well as ever. Silence for some rounds
  condemns the link. Rounds, not seconds: a process that was itself stopped ends one round late,
  however long it slept, and reads what lies in its socket before it has ended another.
- *The probe came back*: delivery is proven, as of its number.
- *The numbered PONG came and its probe did not.* A server writes to a link in order: had it put
  the probe there, it would have come first. So this link is not served by who takes what is
  published now. No clock is in it: behind megabytes of data PONG and probe wait together, thus a
  busy link or a busy loop raises no false alarm. Still it takes some rounds to condemn, because
  something between (a proxy, a cluster) may carry the two on different ways.
- *PUBLISH counted no receivers, where it counted this link before*: the same, certain at once. It
  also finds the link that is left on a former master and gets everything through replication.
  Where it never counted (behind some proxies) it says nothing.
- *The server is a replica*: it was a master when the link was made. Pub/sub of a replica loses
  what is published while its own link is down, and tells nobody.
- *The probe cannot be published* (refused, or no connection): nothing is known, so nothing
  changes. A link that answers is not given up for that: with ``maxclients`` reached, it could not
  be replaced. That publishers fall silent is noticed by their beats. ``trouble`` says why.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Taken(NamedTuple):
    """A server's answer to a probe.

    Attributes:
        receivers: As PUBLISH counted them.
        is_master: None where the server does not say.
    """

    receivers: int
    is_master: bool | None


class Proof:
    """What is known of one link.

    Args:
        rounds: So many bad ones in a row condemn the link.

    Attributes:
        proven: The newest probe that came back; 0: none yet.
        trouble: Why delivery cannot be proven at present, or None.
        verdict: Why the link must be replaced, or None. Once given it stays.
    """

    def __init__(self, rounds: int) -> None:
        self.proven = 0
        self.trouble: str | None = None
        self.verdict: str | None = None
        self._rounds = rounds
        self._last = 0
        self._silent = 0
        self._overtaken = 0
        self._was_counted = False

    def begin(self) -> int:
        """Return the number of a new probe."""
        self._last += 1
        return self._last

    def taken(self, answer: Taken) -> None:
        """A server has taken the probe that was begun last."""
        self.trouble = None
        if answer.is_master is False:
            self._condemn("the server is a replica")
        elif answer.receivers > 0:
            self._was_counted = True
        elif self._was_counted:
            self._condemn("another server takes what is published now")

    def failed(self, reason: str) -> None:
        """The probe that was begun last could not be published."""
        self.trouble = reason

    def came_back(self, number: int) -> None:
        """A probe arrived on the link."""
        if self.proven < number <= self._last:
            self.proven = number
            self._overtaken = 0

    def ponged(self, number: int) -> None:
        """The PONG arrived whose PING was sent after the probe ``number`` had been taken."""
        if number > self.proven:
            self._overtaken += 1
            if self._overtaken >= self._rounds:
                self._condemn("what is published does not come back")

    def end_round(self, heard: bool) -> None:
        """A round is over.

        Args:
            heard: Whether anything at all came over the link during it.
        """
        self._silent = 0 if heard else self._silent + 1
        if self._silent >= self._rounds:
            self._condemn(f"no sign of life for {self._silent} PINGs")

    def _condemn(self, verdict: str) -> None:
        if self.verdict is None:
            self.verdict = verdict


def number_of(payload: bytes) -> int:
    """Read the number in a probe or a PONG; 0 if there is none, as anybody may publish anything."""
    return int(payload) if payload.isdigit() and len(payload) < 16 else 0


def is_master(hello: Any) -> bool | None:
    """Find the role in a reply to HELLO; None if it is refused, or tells none."""
    if type(hello) is not list:
        return None
    role = dict(zip(hello[::2], hello[1::2], strict=False)).get(b"role")
    return None if role is None else role == b"master"
