"""Child processes of ours: they get our settings, and end when we do. I/O shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from feed.config import Settings
from feed.tie import die_with


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
        preexec_fn=die_with(os.getpid(), signal.SIGTERM),
    )
