"""A tiny experiment in a folder of its own, with results in another."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from experiments._lib import sweep as sweeping

TINY = '''"""python -m experiments.tiny --scale smoke

Claim: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments._lib.case import Case, Workload, point, ratio, simulate
from experiments._lib.claim import Claim
from sim.run import Contender
from sim.settings import Settings

calls = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    seeds: int = 2


SCALES = {"smoke": Scale(), "small": Scale(seeds=3)}


def cases(scale):
    workload = Workload(requests=40)
    settings = Settings(max_batch=4, load=0.9)
    return [
        Case(at={"policy": name}, workload=workload, settings=settings, policy=Contender(name), seed=seed)
        for seed in range(scale.seeds)
        for name in ("fcfs", "srpt")
    ]


def run(case):
    calls.append((case.policy.name, case.seed))
    return simulate(case)


def claims(rows):
    pair = [point(rows, policy=name) for name in ("fcfs", "srpt")]
    return [Claim("none", "mean JCT, fcfs over srpt", ratio(pair[0], pair[1], "mean_jct_s"))]


def plot(rows, folder):
    Path(folder, "tiny.pdf").write_bytes(b"drawn")
'''


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The experiment `tiny`: two policies, two or three seeds. Its list `calls` tells what was computed."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    spec = importlib.util.spec_from_file_location("experiments.tiny", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "experiments.tiny", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sweeping, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module
