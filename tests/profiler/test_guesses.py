"""From a flight log: how often guesses were right, and what it cost to verify them; what went in comes out."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from fastserve.__main__ import main
from fastserve.engine.backend import VerifyTime
from fastserve.flightlog.replay import replay_log
from fastserve.flightlog.write import FlightLog
from fastserve.hardware import DecodePiece, Hardware, LinearLatency, Link, Memory, PrefillFit, load_hardware
from fastserve.hardware.lines import UNMEASURED, Verify
from fastserve.policies.spec import PolicySpec
from fastserve.profiler.acceptance import guessed_in
from fastserve.profiler.from_log import profile_of
from fastserve.profiler.verify import shares
from fastserve.speculation.acceptance import Acceptance, between, read_acceptance
from fastserve.workload import synthesise
from sim.run import run_one
from sim.settings import Settings

SETTINGS = {"max_batch": 8, "batching": "chunked", "token_budget": 64, "residency": "recompute", "block_tokens": 16}


def simulated(folder: Path, speculate: str | None, verify: Verify = UNMEASURED, requests: int = 200) -> Path:
    """The flight log of a run whose machine and acceptance are known."""
    truth = LinearLatency(PrefillFit(2.0, 0.1, 0.0), [DecodePiece(1, 5.0, 0.5, 0.004)], "known", "", verify)
    machine, path = folder / "machine.json", folder / "flight.jsonl"
    hardware = Hardware(truth, Memory(16, 4096, 10**9, 1000), Link(), "known", 2048)
    hardware.save(machine)
    settings = Settings(latency=str(machine), speculate=speculate, **SETTINGS)  # type: ignore[arg-type]
    guesses = settings.guesses
    header = {
        "backend": "here", "policy": "sj-mlfq", "knobs": {}, "hardware": hardware.to_json(), "longest": 200,
        "context": 2048, "settings": {**SETTINGS, "lookahead": guesses.most if guesses else 0, "device_blocks": 256,
                                      "host_blocks": 0, "macro": True},
    }  # fmt: skip
    trace = synthesise(requests, rate=6.0, prompt="lognormal:4,1,4,200", output="lognormal:3.5,0.9,1,200", seed=3)
    run_one(trace, PolicySpec("sj-mlfq"), settings, 3, observe=lambda world: world.attach(FlightLog(path, header)))
    return path


@pytest.mark.parametrize(
    ("speculate", "p", "spread"), [("4:0.7", 0.7, 0.0), ("fixed:3:0.4", 0.4, 0.0), ("fixed:4:0.6:0.2", 0.6, 0.2)]
)
def test_the_acceptance_comes_back(speculate: str, p: float, spread: float, tmp_path: Path) -> None:
    path = simulated(tmp_path, speculate)
    found = guessed_in(path)
    assert found is not None
    assert found.acceptance.p == pytest.approx(p, abs=0.02 + spread / 8)
    assert found.acceptance.spread == pytest.approx(spread, abs=0.04)
    assert found.acceptance.found > 0.9
    assert replay_log(path).difference is None, "the guesses change no plan"


def test_the_share_of_iterations_with_guesses_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(Acceptance(0.8, 0.3).to_json()))
    found = guessed_in(simulated(tmp_path, f"fixed:4:{file}"))
    assert found is not None
    assert found.acceptance.found == pytest.approx(0.3, abs=0.03)
    assert found.acceptance.p == pytest.approx(0.8, abs=0.02)


def test_what_was_fitted_gives_the_tokens_of_an_iteration_again(tmp_path: Path) -> None:
    """Fit a run, simulate from the fit, compare: within 5 %, for each draws its jobs anew."""
    first = guessed_in(simulated(tmp_path, "fixed:4:0.6:0.15"))
    assert first is not None
    file = tmp_path / "a.json"
    file.write_text(json.dumps(first.acceptance.to_json()))
    again = guessed_in(simulated(tmp_path, f"fixed:4:{file}"))
    assert again is not None
    assert again.tokens_per_decode == pytest.approx(first.tokens_per_decode, rel=0.05)


@pytest.mark.parametrize("verify", [Verify(0.6, 0.2), Verify(1.5, 0.0), Verify(1.0, 0.5)])
def test_what_guesses_cost_comes_back(verify: Verify, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(Acceptance(0.6, 0.5).to_json()))
    found = profile_of(simulated(tmp_path, f"fixed:4:{file}", verify))
    latency = found.hardware.latency
    assert isinstance(latency, LinearLatency)
    assert latency.verify.tokens == pytest.approx(verify.tokens, abs=0.05)
    assert latency.verify.context == pytest.approx(verify.context, abs=0.15)
    assert found.residuals["verify"].median < 0.02
    assert found.residuals["verify"].iterations > 100


def test_where_all_decodes_verify_guesses_these_count_as_more_jobs(tmp_path: Path) -> None:
    """Nothing tells the two apart then."""
    found = profile_of(simulated(tmp_path, "4:0.6"))
    latency = found.hardware.latency
    assert isinstance(latency, LinearLatency) and latency.verify == UNMEASURED
    assert latency.decode[0].ms == pytest.approx(5, abs=0.3)
    assert latency.decode[0].ms_per_sequence == pytest.approx(0.5, abs=0.05)
    assert found.residuals["verify"].median < 0.02


def test_without_guesses_there_is_nothing_of_it(tmp_path: Path) -> None:
    path = simulated(tmp_path, None)
    assert guessed_in(path) is None
    latency = profile_of(path).hardware.latency
    assert isinstance(latency, LinearLatency) and latency.verify == UNMEASURED
    assert "verify" not in profile_of(path).residuals


def test_the_command_line_tells_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = simulated(tmp_path, "4:0.7", requests=80)
    profile, share = tmp_path / "p.json", tmp_path / "share.json"
    command = ["profile", "--from-log", str(path), "--no-store", "--out", str(profile)]
    assert main([*command, "--acceptance", str(share)]) == 0
    text = capsys.readouterr().out
    assert (
        "verified" in text
        and re.search(r"one is right with probability 0\.(69|7)", text)
        and "tokens of a job in an iteration" in text
    )
    assert read_acceptance(share).p == pytest.approx(0.7, abs=0.03)
    latency = load_hardware(profile).latency
    assert latency.verify_ps(4, 400, 16) > latency.iteration_ps(4, 400, ())
    plain = simulated(tmp_path, None, requests=80)
    assert main(["profile", "--from-log", str(plain), "--no-store", "--acceptance", str(share)]) == 2
    assert "nothing was guessed in" in capsys.readouterr().err


def test_between() -> None:
    assert between([[(4, 4), (4, 0)]]) == (0.8, 0)
    assert between([[(1, 1)] * 50, [(1, 0)] * 50]) == pytest.approx((0.5, 0.475), abs=0.01)
    assert between([[(2, 1)] * 50, [(2, 1)] * 50]) == (0.5, 0)
    assert between([[(1, 1)] * 500, [(1, 0)] * 50])[0] == 0.5, "who says much is one job"
    with pytest.raises(ValueError, match="nothing was guessed"):
        between([[], [(0, 0)]])


@pytest.mark.parametrize("verify", [Verify(1.0, 1.0), Verify(0.7, 0.3), Verify(1.2, 0.0)])
def test_shares_of_steps_that_were_timed(verify: Verify) -> None:
    """A decode of n jobs of c tokens takes n + n c / 100 ms."""

    def seconds(batch: int, context: int, k: int) -> float:
        more = batch * k * (verify.tokens + verify.context * context / 100)
        return (batch + batch * context / 100 + more) / 1e3

    shapes = []
    for batch, k in ((1, 1), (1, 4), (4, 4)):
        shapes += [(batch, 32, 0), (batch, 512, 0), (batch * (k + 1), 32, 0), (batch, 32, k), (batch, 512, k)]
    found = shares([VerifyTime(*shape, seconds(*shape)) for shape in shapes])
    assert (found.tokens, found.context) == pytest.approx((verify.tokens, verify.context), abs=0.01)
    rng = random.Random(1)
    noisy = [VerifyTime(*shape, seconds(*shape) * rng.choice((1, 2, 6))) for shape in dict.fromkeys(shapes)]
    assert shares(noisy) == UNMEASURED
    assert shares([]) == UNMEASURED == shares([VerifyTime(1, 32, 0, 0.001)])
