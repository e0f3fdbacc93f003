"""experiments.routers_live: servers, a gateway and a simulation of the same requests."""

from __future__ import annotations

import pytest

from experiments import routers_live
from experiments._lib.case import Row
from experiments.routers_live import MEASURES, Scale


def test_live_and_simulated_requests_are_the_same_and_take_about_as_long() -> None:
    pytest.importorskip("fastapi", reason="needs the web extra")
    pytest.importorskip("stamina", reason="needs the gateway extra")
    scale = Scale(
        requests=6, replicas=2, pairs=1, routers=("round-robin",), max_batch=2, lengths="lognormal:3,0.3,8,40"
    )
    [case] = routers_live.cases(scale)
    numbers = routers_live.run(case)
    for measure in MEASURES:
        assert numbers[f"live_{measure}"] > 0.9 * numbers[f"sim_{measure}"] > 0, "modelled times pass for real"


def test_claims_compare_runs_of_the_same_seed() -> None:
    rows = [
        Row(
            {"router": name},
            seed,
            {"lag_p99_ms": 1.0, "late": False, "rate": 1.0}
            | {f"{of}_{measure}": times * (1 + seed) for of in ("live", "sim") for measure in MEASURES},
        )
        for name, times in (("round-robin", 3.0), ("least-tokens", 2.0))
        for seed in range(4)
    ]
    found = {claim.text: claim for claim in routers_live.claims(rows)}
    same = found["least-tokens: mean JCT simulated over live"].ours
    gain = found["P99 TTFT, round-robin over least-tokens, live"]
    assert same is not None and same.mean == pytest.approx(1)
    assert gain.ours is not None and gain.ours.mean == pytest.approx(1.5) and gain.note == "predicted 1.5 [1.5, 1.5]"
