"""python -m fastserve.compare.leash COMMAND ...: runs a command that knows nothing of its parent, and ends it when the
parent is gone (its stdin ends) or terminates it. Its exit status is the command's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from fastserve.processes.child import GRACE_S


def main() -> int:
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    threading.Thread(target=_end_with_parent, args=(command,), daemon=True).start()
    code = command.wait()
    return 128 - code if code < 0 else code  # as a shell tells a signal


def _end_with_parent(command: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):
        pass
    command.terminate()
    time.sleep(GRACE_S)
    command.kill()


if __name__ == "__main__":
    sys.exit(main())
