"""The processor's name, for what a measurement is told to have run on."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str | None:
    """As well as it can be told; None where nothing says."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None
