"""A comparison in this process says what its engines did, which need not be what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve.compare.offline import EngineBody
from fastserve.launch import Body

SOURCE = """
from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine.backend import Traits


class NoSwap(ScriptedBackend):
    traits = Traits(swaps=False, exact="always")
"""


@pytest.mark.parametrize(("name", "residency"), [("NoSwap", "recompute"), ("ScriptedBackend", "proactive")])
def test_the_residency_is_that_of_the_engine(tmp_path: Path, name: str, residency: str) -> None:
    file = tmp_path / "no_swap.py"
    file.write_text(SOURCE)
    body = EngineBody(Body("scripted", f"{file}:{name}"), {"max_batch": 2, "residency": "proactive"})
    assert body.about["residency"] == residency
