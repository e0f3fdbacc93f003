"""`fastserve serve` as a child: its command, its environment, the line that says that it serves."""

from __future__ import annotations

import os
import re
import sys

from fastserve.backends.options import SECRETS

OURS = "FASTSERVE_"
PLAIN = ("HF_MODEL", "MAX_BATCH", "MAX_NEW_TOKENS", "SEED", "TEMPERATURE", "TOP_K", "TOP_P")
"""Environment variables that set the server's settings: removed for the child, which has only its flags."""
KEPT = (OURS + "CACHE", OURS + "NATIVE", *(OURS + name.upper() for name in SECRETS))
"""Passed on: the cache folder of kernels and profiles, whether kernels are used, and what stands in no flag."""

COMMAND = [sys.executable, "-m", "fastserve.processes.served"]
"""`fastserve serve`, but for .env; it ends when its stdin does, which the system closes when the parent dies."""

READY = re.compile(r"serving at (http://\S+)")
LAST_LINES = 15
"""Lines of a log that are shown of a server that failed."""
GRACE_S = 10.0
"""s that a server may take to exit before it is killed."""


def environment() -> dict[str, str]:
    """The environment of this process without the server's settings."""

    def passes(name: str) -> bool:
        return name in KEPT or not (name.startswith(OURS) or name in PLAIN)

    return {name: value for name, value in os.environ.items() if passes(name)}


def last_lines(lines: list[str]) -> str:
    """The end of a log, as it stands below a message."""
    return "".join([f"\n  {line}" for line in lines[-LAST_LINES:]]) or " (none)"
