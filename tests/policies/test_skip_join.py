"""Skip-join: the first level by the prefill's time, and the two presets."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.hardware import load_hardware
from fastserve.hardware.machine_times import MachineTimes
from fastserve.policies import make
from fastserve.policies.mlfq import Mlfq
from fastserve.policies.skip_join import PRESETS, SkipJoinMlfq
from fastserve.sched.job import Job
from tests.policies.desk import Desk
from tests.sched.worlds import scheduler_of


@pytest.mark.parametrize(
    ("prompt", "level"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (40, 3), (41, 4), (640, 7), (641, 8), (1000, 8)]
)
def test_joins_the_first_level_whose_quantum_covers_the_prefill(prompt: int, level: int) -> None:
    """A token takes 1 ms; quanta are 10, 20, 40, ... ms."""
    desk = Desk("sj-mlfq")
    assert desk.policy.explain(desk.come(prompt)).startswith(f"Q{level},")


def test_with_too_few_levels_the_last_takes_what_no_quantum_covers() -> None:
    desk = Desk("sj-mlfq", levels=3)
    assert desk.policy.explain(desk.come(900)).startswith("Q3,")


def test_a_long_prefill_lets_short_ones_pass_and_is_not_cut() -> None:
    desk = Desk("sj-mlfq", alpha=0.0)
    long = desk.come(100)
    short = desk.come(5)
    assert desk.run(5) == [short]
    desk.run(5, short)
    assert desk.run(100) == [long]
    assert desk.policy.explain(long) == "Q5, 60 ms left", "its quantum of 160 ms covered the prefill"


@pytest.mark.parametrize(
    ("tokens", "level"), [(1, 2), (18, 2), (19, 3), (211, 3), (212, 4), (583, 4), (584, 5), (1024, 5)]
)
def test_the_artifacts_levels_on_an_a100(tokens: int, level: int) -> None:
    """OPT-13B: prefill ms = 18.10 + 0.10191 n + 7.12e-6 n^2; 10, 20, 40, 80 and 160 ms. Worked by hand at the edges."""
    policy = make("sj-mlfq", {"preset": "artifact"})
    scheduler = scheduler_of(policy, MachineTimes(load_hardware("opt-13b-a100"), 16, 2048))
    job = Job(0, 0, tokens)
    scheduler.submit(job, 0)
    assert policy.explain(job).startswith(f"Q{level},")


def test_papers_q1_is_one_decode_iteration() -> None:
    policy = SkipJoinMlfq()
    times = MachineTimes(load_hardware("opt-13b-a100"), 16, 2048)
    scheduler_of(policy, times).submit(Job(0, 0, 1), 0)
    assert policy.quanta[0] == times.decode_ns == pytest.approx(19.93e6 + 0.0385e6 + 627, rel=1e-3)
    assert policy.quanta[-2] < times.prefill_ns(2048) <= policy.quanta[-1], "the context is not known: the prefill"


def test_levels_until_a_quantum_covers_the_longest_output() -> None:
    """OPT-13B, alone: a prefill of 1 token, 18.20 ms, then 2046 decodes of 19.97 ms and 0.627 us a token: 42.2 s.

    q1 is 19.97 ms, and 19.97 ms * 2^12 = 81.8 s is the first quantum that covers it: 13 levels.
    """
    policy = SkipJoinMlfq()
    times = MachineTimes(load_hardware("opt-13b-a100"), 16, 2048, 2048)
    scheduler_of(policy, times)
    derived = policy.derived_settings()
    assert times.output_ns == pytest.approx(42.17e9, rel=1e-3)
    assert derived["levels"] == len(derived["quanta"]) == 13
    assert derived["quanta"][-1] == pytest.approx(81.8, rel=1e-3)
    old = SkipJoinMlfq(levels="prefill")
    scheduler_of(old, times)
    assert old.derived_settings()["levels"] == 5


def settings(policy: Mlfq) -> dict[str, Any]:
    names = (
        "q1",
        "ratio",
        "levels",
        "eta",
        "fit",
        "strict",
        "carry",
        "back",
        "alpha",
        "check",
        "promote_back",
        "reset",
        "enst",
    )
    return {name: getattr(policy, name) for name in names}


def test_paper_preset_is_the_default_and_mlfq_its_twin() -> None:
    expected = {
        "q1": 0, "ratio": 2.0, "levels": 0, "eta": 1, "fit": False, "strict": 0, "carry": False, "back": True,
        "alpha": 300_000_000, "check": 0, "promote_back": True, "reset": True, "enst": True,
    }  # fmt: skip
    assert settings(SkipJoinMlfq()) == settings(SkipJoinMlfq("paper")) == settings(Mlfq()) == expected


def test_artifact_preset() -> None:
    expected = {
        "q1": 10_000_000, "ratio": 2.0, "levels": "unbounded", "eta": 1, "fit": False, "strict": 1, "carry": False,
        "back": False, "alpha": 3_000_000_000, "check": 1000, "promote_back": False, "reset": False, "enst": False,
    }  # fmt: skip
    assert settings(SkipJoinMlfq("artifact")) == expected


def test_a_knob_overrides_the_preset() -> None:
    policy = SkipJoinMlfq("artifact", alpha=1.0)
    assert policy.alpha == 1_000_000_000 and policy.check == 1000


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match="policy sj-mlfq: preset='nsdi' is none of paper, artifact"):
        make("sj-mlfq", {"preset": "nsdi"})
    assert set(PRESETS) == {"paper", "artifact"}
