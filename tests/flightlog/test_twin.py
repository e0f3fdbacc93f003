"""The twin of a run: all plans alike where the body did as planned, and where they part, what came before."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.backend import Token
from fastserve.flightlog.twin import Deviation, TwinReport, main, twin_of
from tests.engine.test_backend import Parrot
from tests.flightlog.test_replay import fly, tamper


@pytest.mark.parametrize("residency", ["recompute", "proactive"])
@pytest.mark.parametrize("policy", ["fcfs", "srpt", "las", "mlfq", "sj-mlfq"])
def test_a_twin_of_our_engine_makes_every_plan(policy: str, residency: str, tmp_path: Path) -> None:
    """Cancels and time-outs come from outside, and it is told of them."""
    report = twin_of(fly(tmp_path / "log", policy, residency=residency))
    assert report.difference is None and report.deviations == ()
    assert report.alike == report.plans > 100
    assert report.explained


def test_prefixes_are_found_by_a_twin_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Engine.scripted(policy="srpt", flight_log=path, max_batch=4, prefix_cache="on", predictor="client") as engine:
        rng = random.Random(1)
        handles = [
            engine.submit([65] * 100 + [66] * rng.randint(1, 90), SamplingParams(max_tokens=9, guess=9))
            for _ in range(30)
        ]
        for handle in handles:
            handle.result()
    assert '"found":[[' in path.read_text(encoding="utf-8")
    report = twin_of(path)
    assert report.difference is None and report.alike > 30


def test_uneven_steps_part_the_twin_and_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, whims = tmp_path / "log", random.Random(2)
    body = Parrot(lambda job, index: [Token(65)] * whims.choice([0, 1, 1, 3]), uneven=True)
    with Engine.on(body, policy="srpt", flight_log=path, max_batch=4, lookahead=4, predictor="client") as engine:
        handles = [engine.submit([65] * 40, SamplingParams(max_tokens=n, guess=n)) for n in range(5, 35)]
        for handle in handles:
            handle.result()
    report = twin_of(path)
    assert report.difference is not None and report.alike < report.plans
    assert report.before > 0 and report.explained
    assert report.deviations[0].what == "uneven steps"
    assert main([str(path)]) == 0
    said = capsys.readouterr().out
    assert f"twin: the first {report.alike} of {report.plans} plans alike, then line " in said
    assert "before that the body did otherwise" in said


def test_what_is_not_explained_fails() -> None:
    one = Deviation("prefill", "a prefill of job 3 had 16 tokens where 48 were planned", 7)
    assert not TwinReport(9, 5, "line 12: batch is 1, the log says 2", (one,), 0).explained
    assert TwinReport(9, 9, None, (), 0).explained
    explained = TwinReport(9, 7, "line 12: batch is 1, the log says 2", (one,), 1)
    assert explained.explained
    assert str(explained).splitlines() == [
        "done otherwise than planned: prefill 1",
        "twin: the first 7 of 9 plans alike, then line 12: batch is 1, the log says 2",
        "before that the body did otherwise once, after plan 7: a prefill of job 3 had 16 tokens where 48 were planned",
    ]
    assert "the Scheduler is not the log's" in str(TwinReport(9, 5, "line 12: x", (one,), 0))


def test_a_log_whose_replay_differs_has_no_twin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fly(tmp_path / "log")
    tamper(path, lambda data: data["plan"].update(batch=99), 70, '"plan":{')
    assert main([str(path)]) == 2
    assert "the replay differs" in capsys.readouterr().err


def plan(**more: Any) -> dict[str, Any]:
    return {"joined": [], "left": [], "prefill": [], "drop": [], "batch": 0, "context": 0, **more}


@pytest.mark.parametrize(
    ("planned", "done", "kinds"),
    [
        (plan(), plan(), []),
        (plan(prefill=[[1, 48]]), plan(prefill=[[1, 16]]), ["prefill"]),
        (plan(joined=[1], prefill=[[1, 48]]), plan(), ["absent"]),
        (plan(joined=[1], prefill=[[1, 48]]), plan(drop=[1]), ["lost"]),
        (plan(joined=[1], batch=2), plan(left=[2], drop=[2], joined=[1], batch=1), ["lost"]),
        (plan(joined=[1], prefill=[[1, 48]], found=[[1, 16]]), plan(joined=[1], prefill=[[1, 32]], found=[[1, 32]]),
         ["found"]),
        (plan(joined=[1], prefill=[[1, 8]], found=[[1, 16]]), plan(joined=[1], prefill=[[1, 8]], found=[[1, 16]]), []),
        (plan(iterations=9, service=5), plan(iterations=1), []),
        (plan(batch=3), plan(batch=2), ["decodes"]),
    ],
)  # fmt: skip
def test_ways_in_which_a_plan_is_amended(
    planned: dict[str, Any], done: dict[str, Any], kinds: list[str], tmp_path: Path
) -> None:
    from fastserve.flightlog.twin import _amended

    assert [what for what, _ in _amended(json.loads(json.dumps(planned)), done)] == kinds
