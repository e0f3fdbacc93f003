"""experiments.vllm_live: its cases, its claims, and a run against a stand-in for the Python that has vLLM."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")
pytest.importorskip("torch")

from experiments import vllm_live
from experiments._lib import sweep as sweeping
from experiments._lib import vllm_served
from experiments._lib.case import Row, Workload
from fastserve.hardware import DEFAULT
from tests.compare.vllm_stand_in import stand_in


def test_contenders_take_turns_on_the_same_draws() -> None:
    scale = vllm_live.SCALES["small"]
    cases = vllm_live.cases(scale)
    servers = list(dict.fromkeys((case.at["policy"], case.options["slots"], case.options["life"]) for case in cases))
    order = [case[0] for case in servers]
    forth = list(scale.policies)
    assert order == [*forth, *forth[::-1]] * 2, "a server each time, and its runs follow each other"
    draws = {
        label: {(case.options["slots"], case.seed) for case in cases if case.at["policy"] == label} for label in forth
    }
    assert draws[forth[0]] == draws[forth[1]] == draws[forth[2]]
    assert len(draws[forth[0]]) == sum(place.draws for place in scale.places) == len(cases) // 3
    lives = Counter(case.options["life"] for case in cases)
    assert lives[0] >= lives[1] > 0
    prompts = [case.seed for case in cases if case.at["policy"] == forth[0] and case.options["slots"] == 16]
    assert len(set(prompts)) == len(prompts) and not {seed + 1 for seed in prompts} & set(prompts)
    assert {case.at["policy"]: case.at["guess"] for case in cases}["srpt"] == "oracle"
    assert "vllm_live" in sweeping.LIVE


def test_the_claims_are_of_vllm_over_the_policy(tmp_path: Path) -> None:
    times = {"vllm": 4.0, "srpt": 2.0, "las": 3.0}
    rows = [
        Row(
            {"slots": slots, "arrivals": "poisson", "load": 0.8, "policy": label, "guess": "none"}, seed,
            {f"{of}_{measure}": time * (seed + 1) * (1.1 if of == "sim" else 1)
             for of in ("live", "sim") for measure in ("mean_jct_s", "p95_jct_s", "output_tokens_per_s")}
            | {"live_preemptions_per_job": 0.5, "live_jct": [time, 2 * time, 9 * time]},
        )
        for slots in (4, 16) for seed in range(4) for label, time in times.items()
    ]  # fmt: skip
    claims = {claim.text: claim for claim in vllm_live.claims(rows)}
    gain = claims["4 slots, load 0.8: mean JCT, vLLM's fcfs over srpt, live"]
    assert gain.ours is not None and gain.ours.mean == pytest.approx(2.0) and gain.ours.low is not None
    assert "4 pairs; predicted 2" in gain.note and "0.50 preemptions a request, guess none" in gain.note
    rate = claims["16 slots, load 0.8: tokens/s, las over vLLM's fcfs, live"]
    assert rate.ours is not None and rate.ours.mean == pytest.approx(0.75)
    vllm_live.plot(rows, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"gains.pdf", "gains.png", "times.pdf", "times.png"}


def test_a_run_is_over_http_and_a_server_serves_those_of_its_contender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    log = stand_in(tmp_path, monkeypatch)
    monkeypatch.setattr(vllm_served.live, "ROOT", tmp_path)
    (tmp_path / "results" / "live").mkdir(parents=True)
    asked: list[int] = []

    def burst(workload: Workload, rig: vllm_served.ServedRig) -> dict[str, Any]:
        asked.append(rig.slots)
        return {"profile": DEFAULT}

    monkeypatch.setattr(vllm_served, "_burst", burst)
    monkeypatch.setattr(vllm_live, "here", lambda: "")
    place = vllm_live.Place(slots=2, load=20.0, requests=6, draws=2)
    scale = vllm_live.Scale(
        places=(place, replace(place, slots=3)), policies=("vllm", "srpt"), turns=1, output="fixed:4", prompt="fixed:5"
    )
    try:
        found = {
            (case.at["slots"], case.at["policy"], case.seed): vllm_live.run(case) for case in vllm_live.cases(scale)
        }
    finally:
        vllm_served._close()
    assert len(found) == 8 and len(asked) == 1, "one calibration for all"
    started = [line["arguments"] for line in log() if "arguments" in line]
    assert ["vllm" in words[:1] for words in started] == [False, True, False, True]
    assert [words[words.index("--max-num-seqs") + 1] for words in started[::2]] == ["8", "12"]
    assert all("--profile" in words for words in started[1::2])
    for (_, label, _), numbers in found.items():
        assert numbers["live_mean_jct_s"] > 0 and numbers["sim_mean_jct_s"] > 0 and numbers["wrong_outputs"] == 0
        assert numbers["live_preemptions_per_job"] == {"vllm": 1, "srpt": 2}[label] and numbers["vllm"] == "0.32.0"
