"""experiments.batching_gain: its cases, its claims, and a run against a server on a scripted engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")

from experiments import batching_gain
from experiments._lib import sweep as sweeping
from experiments._lib.case import Row
from fastserve.compare import subprocess_server


def test_systems_take_turns_on_the_same_prompts() -> None:
    cases = batching_gain.cases(batching_gain.SCALES["small"])
    assert [case.at["system"] for case in cases[:4]] == list(batching_gain.SYSTEMS)
    assert {case.seed for case in cases[:16]} == {0} and len(cases) == 4 * 4 * 4
    assert {case.at["clients"] for case in cases} == {1, 4, 8, 16}
    assert all(case.workload.requests % int(case.at["clients"]) == 0 for case in cases)
    assert batching_gain.__name__.rpartition(".")[2] in sweeping.LIVE


def test_the_claims_are_pairs_of_one_number_of_clients(tmp_path: Path) -> None:
    rates = {"batched": 4.0, "static": 3.0, "one slot": 2.0, "no batching": 1.0}
    rows = [
        Row({"system": system, "clients": clients}, seed,
            {"tokens_per_s": rate * (seed + 1), "mean_ttft_s": 0.5, "mean_e2el_s": 1 / rate, "p95_e2el_s": 2.0})
        for seed in range(2) for clients in (1, 4) for system, rate in rates.items()
    ]  # fmt: skip
    claims = {claim.text: claim for claim in batching_gain.claims(rows)}
    gain = claims["4 clients: tokens/s, batched over one slot"]
    assert gain.ours is not None and gain.ours.mean == pytest.approx(2.0) and gain.verdict == "close"
    alone = claims["1 clients: tokens/s, batched over no batching"]
    assert alone.ours is not None and alone.ours.mean == pytest.approx(4.0) and alone.verdict == "ours"
    slower = claims["4 clients: mean completion time, static over batched"]
    assert slower.ours is not None and slower.ours.mean == pytest.approx(4 / 3)
    batching_gain.plot(rows, tmp_path)
    assert (tmp_path / "batching.pdf").exists()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    script = Path(__file__).parents[1] / "compare" / "scripted_child.py"
    monkeypatch.setattr(subprocess_server, "COMMAND", [sys.executable, str(script)])
    made = []

    class Noted(subprocess_server.ServerProcess):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(subprocess_server, "ServerProcess", Noted)
    batching_gain._server.cache_clear()
    yield
    batching_gain._server.cache_clear()
    for server in made:
        server.close()


@pytest.mark.usefixtures("scripted")
def test_a_run_gives_tokens_a_second_and_the_time_to_the_first_token() -> None:
    scale = batching_gain.Scale(model="embedded", clients=(2,), repeats=1, requests=4, prompt=8, output="fixed:40")
    found = {case.at["system"]: batching_gain.run(case) for case in batching_gain.cases(scale)}
    assert set(found) == set(batching_gain.SYSTEMS)
    for numbers in found.values():
        assert numbers["tokens_per_s"] == pytest.approx(160 / numbers["duration_s"])
        assert 0 < numbers["mean_ttft_s"] <= numbers["mean_e2el_s"] <= numbers["duration_s"]
    assert found["no batching"]["mean_ttft_s"] == found["no batching"]["mean_e2el_s"]  # all at once
