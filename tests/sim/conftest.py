"""What tests of the simulator share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def unit(tmp_path: Path) -> str:
    """A machine on which every iteration takes 100 ms."""
    path = tmp_path / "unit.json"
    path.write_text('{"kind": "linear", "name": "unit100ms", "prefill_ms": 100, "decode_ms": 100}')
    return str(path)
