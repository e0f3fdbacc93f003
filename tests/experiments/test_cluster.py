"""The same sweep on a Ray cluster of one node, when the extra `cluster` is installed."""

from __future__ import annotations

from types import ModuleType

import pytest

from experiments import batch_cap
from experiments._lib import sweep as sweeping
from experiments._lib.case import Workload
from experiments._lib.sweep import sweep

pytest.importorskip("joblib", reason="the extra `cluster` is not installed")
ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")


@pytest.mark.filterwarnings("ignore")
def test_a_sweep_on_ray_equals_the_local_one(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shipped experiment: the workers import it by name, from their own checkout."""
    few = [case for case in batch_cap.cases(batch_cap.SCALES["smoke"]) if "search" not in case.at][:3]
    assert few[0].workload == Workload(requests=150)
    monkeypatch.setattr(batch_cap, "cases", lambda scale: few)
    monkeypatch.setattr(batch_cap, "plot", lambda rows, folder: None)
    here = sweep("batch_cap", "smoke", jobs=1)
    monkeypatch.setattr(sweeping, "RESULTS", sweeping.RESULTS.parent / "cluster")
    try:
        there = sweep("batch_cap", "smoke", jobs=2, pool="ray")
    finally:
        ray.shutdown()
    assert there.rows == here.rows
