"""A paired run of the fidelity experiment on the real engine, as small as it gets."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.vllm import serving


@pytest.mark.vllm
@pytest.mark.skipif(not serving.runs(), reason=serving.NO_ENGINE)
def test_a_pair_runs_on_vllm_and_in_the_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import fidelity_vllm
    from experiments._lib import live, vllm_pair
    from experiments._lib.case import Workload

    monkeypatch.setattr(live, "ROOT", tmp_path)
    monkeypatch.setenv("FASTSERVE_VLLM_PYTHON", sys.executable)
    monkeypatch.setattr(fidelity_vllm, "here", lambda: "")
    workload = Workload(requests=12, lengths="", prompt="lognormal:3,0.6,8,64", output="lognormal:2,1,1,30")
    rig = replace(fidelity_vllm.SCALES["smoke"].rig, calibrate_s=0.5, load=1.2, slots=2, rows=4)
    cases = {str(one.at["policy"]): one for one in fidelity_vllm.cases(fidelity_vllm.SCALES["smoke"])}
    try:
        for policy in ("vllm", "srpt"):
            numbers = fidelity_vllm.run(replace(cases[policy], workload=workload, options=asdict(rig)))
            assert numbers["live_mean_jct_s"] > 0 and numbers["tempo_mean_jct_s"] > 0
            assert len(numbers["live_jct"]) == 12
            if policy != "vllm":
                assert numbers["live_replayed"] == 1.0, numbers["replay"]
                assert numbers["twin_alike"] == numbers["twin_plans"], numbers["twin"]
                assert 0 < numbers["scheduler_share"] < 1
    finally:
        vllm_pair.worker(rig).close()
