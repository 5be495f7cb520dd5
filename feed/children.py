"""Child processes of ours: they get our settings, and end when we do. I/O shell."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from feed.config import Settings

_PR_SET_PDEATHSIG = 1


def spawn(settings: Settings, arguments: Sequence[str], *keep: int) -> subprocess.Popen[bytes]:
    """Start ``feed`` with these settings; it is asked to end when we are gone, however.

    Args:
        keep: Descriptors that it inherits.
    """
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FEED_")}
    return subprocess.Popen(
        [sys.executable, "-m", "feed", *arguments],
        env=environ | settings.to_env(),
        stdin=subprocess.DEVNULL,
        pass_fds=keep,
        process_group=0,  # Ctrl-C comes from us, in order
        preexec_fn=_die_with(os.getpid()),
    )


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return what a child runs first; None where the kernel cannot tell it of our end."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: little is safe between fork and exec

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we ended before it was tied to us
            os._exit(1)

    return tie
