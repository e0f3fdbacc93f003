"""Who truncates other requests than the baseline has done other work: no ratio then, and a word why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fastserve.cli.ab import text
from fastserve.compare.compare import Comparison, Replay, Watch, compare
from fastserve.compare.contender import Contender
from fastserve.metrics.summary import summarise
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace
from tests.metrics.made import make_records


class Bodies:
    """The contender's knob says which requests its pool truncates."""

    about: Mapping[str, Any] = {"max_batch": 2}

    def check(self, contender: Contender) -> None:
        pass

    def replay(self, contender: Contender, trace: Trace, seed: int, watch: Watch | None) -> Replay:
        assert isinstance(contender, PolicySpec)
        cut = {"small": {1, 3}, "smaller": set(range(6))}.get(contender.title, set())
        finish = ["truncated" if row in cut else "stop" for row in range(6)]
        records = make_records(np.arange(6), np.full(6, 2.0 if not cut else 1.0), finish=finish)
        records["jct_from_arrival"][records["finish"] == "truncated"] = np.nan
        return Replay(records, summarise(records, horizon_s=20), {})

    def machine(self) -> dict[str, Any]:
        return {}


def comparison(*labels: str) -> Comparison:
    trace = Trace("t", "", np.arange(6) * 10**9, np.full(6, 4), np.full(6, 4))
    return compare(Bodies(), trace, [PolicySpec("fcfs", label=label) for label in labels], rounds=2)


def test_other_truncations_have_no_ratio_and_are_told() -> None:
    found = comparison("large", "small")
    assert set(found.document()["ratios"]["small"].values()) == {None}
    warned = "\n".join(found.warnings())
    assert "small: 4 of 12 requests were truncated" in warned
    assert "no ratios of small: it and the baseline truncated different requests" in warned
    assert next(line for line in text(found).splitlines() if line.startswith("small")).split()[-3:] == ["-"] * 3


def test_equal_truncations_are_compared_and_told() -> None:
    found = comparison("small", "smaller")
    assert "no ratios" in "\n".join(found.warnings())
    text(found)  # one without any time
    same = compare(Bodies(), Trace("t", "", np.arange(6) * 10**9, np.full(6, 4), np.full(6, 4)),
                   [PolicySpec("fcfs", label="large"), PolicySpec("srpt", label="other")], rounds=2)  # fmt: skip
    assert same.document()["ratios"]["other"]["mean_jct_s"]["mean"] == pytest.approx(1)
    assert not same.warnings()
