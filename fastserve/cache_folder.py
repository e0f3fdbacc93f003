"""The cache folder: compiled kernels, measured profiles, the embedded model."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """FASTSERVE_CACHE, else $XDG_CACHE_HOME/fastserve, else ~/.cache/fastserve; not created here."""
    if own := os.environ.get("FASTSERVE_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "fastserve"
    return Path.home() / ".cache" / "fastserve"
