"""The setting `speculate` of a replay: what it takes, what it changes, and what a result says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastserve.speculation.acceptance import Acceptance
from sim import replay
from sim.__main__ import main
from sim.guesses import Guesses, parse
from sim.settings import Settings

SYNTH = "n=300,rate=2,lengths=profile:sharegpt"


def test_what_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(Acceptance(0.5, 0.25, "a log").to_json()))
    assert parse(None) is parse("off") is None
    assert parse("4:0.7") == Guesses(4, Acceptance(0.7))
    assert parse("fixed:3:1") == Guesses(3, Acceptance(1.0), True)
    assert parse(f"2:{file}") == Guesses(2, Acceptance(0.5, 0.25, "a log"))
    assert parse("4:0.7:0.2") == Guesses(4, Acceptance(0.7, spread=0.2))
    for wrong in ("4", "4:", "0:0.5", "33:0.5", "x:0.5", ":0.5", "fixed:0.5", "-1:0.5"):
        with pytest.raises(ValueError, match=r"K:ACCEPTANCE or K:FILE, as 4:0\.7"):
            Settings(speculate=wrong)
    with pytest.raises(FileNotFoundError, match="'none' is neither a probability nor a file"):
        Settings(speculate="4:none")
    with pytest.raises(ValueError, match=r"the deviation is 0 or more and below 0\.458"):
        Settings(speculate="4:0.7:0.5")
    with pytest.raises(ValueError, match="must be a share"):
        Settings(speculate="4:1.5")


def summary(speculate: str | None, **changes: Any) -> dict[str, Any]:
    run = replay(synth=SYNTH, policy="sj-mlfq", speculate=speculate, processes=1, **changes).runs[0]
    return run.summary


def test_guesses_make_it_quicker_and_are_counted() -> None:
    plain, fast = summary(None), summary("4:0.8")
    assert plain["tokens_per_decode"] == 1 and plain["draft_tokens"] == 0 and plain["acceptance"] is None
    assert fast["mean_jct_s"] < 0.6 * plain["mean_jct_s"]
    assert 2.5 < fast["tokens_per_decode"] < Acceptance(0.8).expected(4)
    assert 0.4 < fast["acceptance"] < 0.8
    assert fast["accepted_tokens"] == pytest.approx(fast["acceptance"] * fast["draft_tokens"])


def test_it_turns_itself_down_where_nothing_is_to_be_won() -> None:
    """A long queue: each guess costs what it yields, or more."""
    plain, fixed, controlled = (summary(how, rate=50) for how in (None, "fixed:4:0.1", "4:0.1"))
    assert fixed["mean_jct_s"] > 1.3 * plain["mean_jct_s"]
    assert controlled["mean_jct_s"] < 1.01 * plain["mean_jct_s"]
    assert controlled["draft_tokens"] < 0.05 * fixed["draft_tokens"]


def test_blocks_are_reserved_for_as_many_and_a_larger_lookahead_stands() -> None:
    hardware = Settings().hardware()
    from fastserve.policies import make

    def lookahead(**changes: Any) -> int:
        return Settings(**changes).scheduler(make("fcfs"), hardware, 10).ledger.lookahead

    assert lookahead() == 0
    assert lookahead(speculate="5:0.5") == 5
    assert lookahead(speculate="5:0.5", lookahead=9) == 9


def test_a_result_says_what_was_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(Acceptance(0.6, 0.5, "a log").to_json()))
    out = tmp_path / "out"
    assert main(["--synth", SYNTH, "--policy", "fcfs", "--speculate", f"3:{file}", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "speculation: 3 guesses at most, fewer where that is quicker; one is right with probability 0.6" in text
    assert "tokens of a job in an iteration: fcfs 1." in text
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["lookahead"] == 3
    assert settings["guesses"] == {"k": 3, "fixed": False, "acceptance": 0.6, "found": 0.5, "provenance": "a log"}
    assert main(["--synth", SYNTH, "--policy", "fcfs"]) == 0
    assert "tokens of a job in an iteration" not in capsys.readouterr().out


def test_seeds_draw_apart_and_policies_alike() -> None:
    runs = replay(
        synth="n=40,rate=0.05,lengths=profile:sharegpt", policy=["fcfs", "sj-mlfq"], speculate="fixed:4:0.5", seeds=2,
        processes=1,
    ).runs  # fmt: skip
    accepted = {(run.policy, run.seed): run.records["accepted_tokens"].tolist() for run in runs}
    assert accepted["fcfs", 0] == accepted["sj-mlfq", 0], "hardly anybody waits, so all is alike"
    assert accepted["fcfs", 0] != accepted["fcfs", 1]
