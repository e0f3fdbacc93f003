"""The CPU model name, for the provenance of measurements."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str | None:
    """The CPU model name; None where the system does not report it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None
