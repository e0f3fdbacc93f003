"""A child finds out that its parent is gone: its stdin, a pipe that only the parent holds, comes to an end."""

from __future__ import annotations

import os
import signal
import threading
import time

from fastserve.processes.child import GRACE_S


def end_with_parent() -> None:
    """From now on this process is terminated when its stdin ends, and ended for good GRACE_S later."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while os.read(0, 1):  # not through sys.stdin, whose lock a thread must not hold when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
