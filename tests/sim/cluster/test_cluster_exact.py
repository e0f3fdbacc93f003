"""A cluster that runs ahead does what one does that makes one iteration at a time, and its router sees the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace
from sim.cluster.run import build
from sim.prefix_cache import content_of, decided
from sim.settings import Settings
from tests.sim.cluster.cases import Looks, case
from tests.sim.cluster.spec import Spec


def records(replicas: list[Any]) -> dict[str, Any]:
    parts = [replica.recorder.columns() for replica in replicas]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["id"], kind="stable")
    return {name: column[order] for name, column in columns.items()}


def both(trace: Trace, spec: PolicySpec, settings: Settings, seed: int) -> list[Any]:
    found: list[Any] = []
    for simple in (False, True):
        shared = content_of(decided(settings, trace), trace, 16)
        cluster = build(trace, spec, settings, seed, shared=shared)
        router = cluster.router
        assert isinstance(router, Looks)
        if simple:
            one = Spec(cluster)
            one.run()
            lives = [*cluster.past, *one.replicas]
            found.append((records(lives), router.told, one.now, one.resent, cluster.refused.columns()["id"].tolist()))
        else:
            cluster.run()
            lives = [*cluster.past, *cluster.replicas]
            refused = cluster.refused.columns()["id"].tolist()
            found.append((records(lives), router.told, cluster.now, cluster.resent, refused))
    return found


@pytest.mark.parametrize("block", range(5))
def test_running_ahead_changes_nothing(block: int, tmp_path: Path) -> None:
    for seed in range(30 * block, 30 * block + 30):
        trace, spec, settings = case(random.Random(seed), tmp_path)
        fast, simple = both(trace, spec, settings, seed)
        for mine, theirs in zip(fast[1], simple[1], strict=False):
            assert mine == theirs, (seed, spec, settings)
        assert fast[1:] == simple[1:], (seed, spec, settings)
        for name, values in fast[0].items():
            same = np.array_equal(values, simple[0][name], equal_nan=values.dtype.kind == "f")
            assert same, (seed, name, spec, settings)
