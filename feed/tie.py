"""Children that end when we do, however we end. I/O shell; Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """Return what a child runs before it becomes its program (``preexec_fn``).

    None where the kernel cannot tell it of our end.

    Args:
        parent: Our process.
        number: What the child gets when we are gone.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: little is safe between fork and exec

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # we ended before it was tied to us
            os._exit(1)

    return tie
