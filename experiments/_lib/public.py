"""The public traces, where they are here."""

from __future__ import annotations

import os
from pathlib import Path

from experiments._lib.sweep import ROOT


def folder() -> Path:
    """FASTSERVE_TRACES, else shared/traces beside the checkout."""
    return Path(os.environ.get("FASTSERVE_TRACES") or ROOT.parent / "shared" / "traces")
