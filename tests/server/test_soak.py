"""A short soak on a scripted engine; `make soak-server` is the long one on a model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fastserve.engine import Engine

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.skipif(sys.platform == "win32", reason="counts file descriptors")
def test_nothing_is_left_of_many_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import soak_server

    with soak_server.engine_of("scripted") as engine:
        assert isinstance(engine, Engine)
        figures, wrong = soak_server.soak(engine, seconds=15, clients=60, slack=24)
    assert wrong == []
    assert min(figures[kind] for kind in ("completed", "left", "refused")) > 0 and figures["preemptions"] > 0
