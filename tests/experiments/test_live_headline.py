"""experiments.live_headline: what is made of its runs."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from experiments import live_headline
from experiments._lib.case import Case, Row


def test_steady_simulates_all_that_ran_live_on_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = live_headline.cases(live_headline.SCALES["small"])
    asked: list[tuple[Any, int, str]] = []

    def resimulated(case: Case, numbers: dict[str, Any], policy: Any, rig: Any, tempo: Any) -> dict[str, Any]:
        assert tempo.each == (1.0,)
        asked.append((case.at["load"], case.seed, numbers["profile"]))
        mean = {"fcfs": 6.0, "srpt": 2.0}.get(str(case.at["policy"]), 3.0) + 0.001 * case.seed
        return {"retold_mean_jct_s": mean, "retold_p95_jct_s": 1.0}

    monkeypatch.setattr(live_headline, "resimulated", resimulated)
    rows = [
        Row(case.at, case.seed, {"profile": f"{case.at['policy']} {case.at['load']} {case.seed}"}) for case in cases
    ]
    found = live_headline.steady(rows, cases, 5)
    assert len(asked) == 2 * len(live_headline.POLICIES) * 5, "those that ran once live too"
    assert {profile for load, _, profile in asked if load == 1.2} == {"fcfs 1.2 0"}
    assert len(found) == 2 * (len(live_headline.POLICIES) - 1)
    gains = {claim.text.rpartition(" over ")[2]: claim.ours.mean for claim in found if claim.ours is not None}
    assert gains["srpt"] == pytest.approx(3.0, rel=0.01) and gains["mlfq"] == pytest.approx(2.0, rel=0.01)
