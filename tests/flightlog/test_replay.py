"""A live flight log, fed to a fresh Scheduler: every plan again, and the first difference explained."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.backend import Token
from fastserve.flightlog.lines import LogError
from fastserve.flightlog.replay import main, replay_log
from fastserve.policies import POLICIES
from fastserve.policies.spec import PolicySpec
from tests.engine.test_backend import Parrot

SHORT: dict[str, dict[str, Any]] = {"thunder": {"tick": 0.05}, "concur": {"period": 0.05}}
"""Times of policies that would hold these short requests back for whole seconds."""


def fly(path: Path, policy: str = "sj-mlfq", **settings: Any) -> Path:
    """Sixty requests through a scripted engine with little memory, some of them cancelled."""
    rng = random.Random(policy)
    settings = {"max_batch": 4, "kv_tokens": 1600, "host_tokens": 3000, "visit": 0, "predictor": "client", **settings}
    spec = PolicySpec(policy, SHORT.get(policy, {}))
    with Engine.scripted(policy=spec, flight_log=path, **settings) as engine:
        handles = []
        for _ in range(60):
            tokens = rng.randint(1, 60)
            handles.append(
                engine.submit(
                    [65] * rng.randint(1, 300), SamplingParams(max_tokens=tokens, guess=tokens),
                    arrival=engine.now() + rng.random(), timeout_s=rng.choice([None, 3.0]), priority=rng.randrange(3),
                )
            )  # fmt: skip
        for handle in handles[::9]:
            handle.cancel()
        for handle in handles:
            handle.result()
    return path


@pytest.mark.parametrize("residency", ["recompute", "reactive", "proactive"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_plan_is_reproduced(policy: str, residency: str, tmp_path: Path) -> None:
    report = replay_log(fly(tmp_path / "log", policy, residency=residency))
    assert report.difference is None
    assert report.plans > 100
    assert not report.cut


def test_a_log_of_a_policy_in_a_file_is_reproduced_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    source = (
        "from fastserve import Policy\n\nclass Last(Policy):\n    def rank(self, job):\n        return -job.arrival\n"
    )
    (tmp_path / "last.py").write_text(source, encoding="utf-8")
    path = fly(tmp_path / "log", "./last.py:Last")
    monkeypatch.chdir(tmp_path.parent)
    assert replay_log(path).difference is None
    assert main([str(path), "--policy", f"{tmp_path}/last.py:Last"]) == 0
    assert main([str(path), "--policy", "fcfs"]) == 1


@pytest.mark.parametrize("policy", ["las", "mlfq", "sj-mlfq", "srpt"])
def test_uneven_iterations_are_reproduced(policy: str, tmp_path: Path) -> None:
    rng, whims = random.Random(policy), random.Random(policy)
    path = tmp_path / "log"
    body = Parrot(lambda job, index: [Token(65)] * whims.choice([0, 0, 1, 3, 5]), uneven=True)
    params = [SamplingParams(max_tokens=tokens, guess=tokens) for tokens in (rng.randint(1, 60) for _ in range(40))]
    with Engine.on(
        body, policy=policy, flight_log=path, max_batch=4, lookahead=4, kv_tokens=400, host_tokens=800, visit=0,
        predictor="client",
    ) as engine:  # fmt: skip
        handles = [engine.submit([65] * rng.randint(1, 130), each) for each in params]
        tokens = [len(handle.result().token_ids) for handle in handles]
    assert tokens == [each.max_tokens for each in params]
    report = replay_log(path)
    assert report.difference is None
    extras = [
        job for line in path.read_text(encoding="utf-8").splitlines() for job in json.loads(line).get("extra", ())
    ]
    assert {delta for _, delta in extras} >= {-1, 2, 4}
    tamper(path, lambda data: data["extra"].pop(), len(extras) // 20, '"extra"')
    assert replay_log(path).difference is not None, "an extra that is lost shows in a later plan"


def tamper(path: Path, change: Callable[[dict[str, Any]], None], number: int, *parts: str) -> int:
    """Changes the number-th line that has all these parts. Returns its number, from 1."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [i for i, line in enumerate(lines) if all(part in line for part in parts)]
    data = json.loads(lines[found[number]])
    change(data)
    lines[found[number]] = json.dumps(data)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found[number] + 1


def test_a_plan_that_was_changed_is_found_with_both_values(tmp_path: Path) -> None:
    path = fly(tmp_path / "log")
    line = tamper(path, lambda data: data["plan"].update(batch=99), 70, '"plan":{')
    difference = replay_log(path).difference
    assert difference is not None
    assert f"line {line}, plan " in difference
    assert "batch is " in difference
    assert "the log says 99" in difference


def test_an_outcome_that_was_changed_shows_in_a_later_plan(tmp_path: Path) -> None:
    path = fly(tmp_path / "log")
    ends = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if '"commit"' in line and '"ended":[]' not in line
    ]
    line = tamper(path, lambda data: data.update(ended=[]), 0, ends[0])
    difference = replay_log(path).difference
    assert difference is not None
    assert int(difference.split()[1].rstrip(",")) > line


def test_another_policy_plans_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fly(tmp_path / "log", "mlfq")
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("reproduced: ")
    assert main([str(path), "--policy", "fcfs"]) == 1
    assert "the log says" in capsys.readouterr().out


def test_a_log_whose_writer_was_killed_is_good_up_to_there(tmp_path: Path) -> None:
    path = fly(tmp_path / "log")
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: len(text) * 2 // 3].rstrip("\n")[:-1], encoding="utf-8")  # never between two lines
    report = replay_log(path)
    assert report.difference is None
    assert report.cut


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no flight log"),
        ("{}\n", "no flight log"),
        ('{"flight_log": 1, "policy": "fcfs", "knobs": {}}\n', "header lacks"),
        ("nonsense\n", "line 1 is not JSON"),
        ("[]\n", "line 1 is not a JSON object"),
    ],
)
def test_what_is_no_log(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LogError, match=message):
        replay_log(path)
    assert main([str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_event_is_named_by_its_line(tmp_path: Path) -> None:
    path = fly(tmp_path / "log")
    line = tamper(path, lambda data: data.update(ended=[777]), 12, '"commit"')
    with pytest.raises(LogError, match=rf"line {line}: KeyError 777"):
        replay_log(path)


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/at/all"]) == 2
    assert "error" in capsys.readouterr().err
