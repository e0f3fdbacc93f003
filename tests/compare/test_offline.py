"""A comparison in this process says what its engines did, which need not be what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastserve.__main__ import main
from fastserve.compare.offline import EngineBody
from fastserve.launch import Body

SOURCE = """
from types import SimpleNamespace

from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine.backend import Traits


class NoSwap(ScriptedBackend):
    traits = Traits(swaps=False, exact="always")


class Asking:
    # It knows what it can only once it is made.

    def __init__(self, *args):
        self.backend = ScriptedBackend(*args)
        self.traits = self.backend.traits

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def hardware(self): return self.backend.hardware()
    def admit(self, *args): self.backend.admit(*args)
    def run(self, plan): return self.backend.run(plan)
    def forget(self, job): self.backend.forget(job)
    def reset(self): self.backend.reset()
    def close(self): self.backend.close()


class Short(ScriptedBackend):
    @classmethod
    def load(cls, model):
        return SimpleNamespace(max_model_len=16)
"""


@pytest.mark.parametrize(("name", "residency"), [("NoSwap", "recompute"), ("ScriptedBackend", "proactive")])
def test_the_residency_is_that_of_the_engine(tmp_path: Path, name: str, residency: str) -> None:
    file = tmp_path / "no_swap.py"
    file.write_text(SOURCE)
    body = EngineBody(Body("scripted", f"{file}:{name}"), {"max_batch": 2, "residency": "proactive"})
    assert body.about["residency"] == residency


def test_traits_are_those_of_the_backend_that_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "asking.py"
    file.write_text(SOURCE)
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,in,out\n" + "".join(f"{i / 100},5,2\n" for i in range(6)))
    flags = ["ab", "--trace", str(trace), "--offline", "--backend", f"{file}:Asking", "--latency", "opt-13b-a100"]
    assert main([*flags, "--policy", "fcfs", "--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["means"]["fcfs"]["mean_jct_s"] > 0


def test_rows_that_were_dropped_stand_in_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,in,out\n" + "".join(f"{i / 100},5,{-1 if i == 3 else 2}\n" for i in range(30)))
    flags = ["ab", "--trace", str(file), "--offline", "--backend", "scripted", "--latency", "opt-13b-a100"]
    assert main([*flags, "--policy", "fcfs", "--rounds", "1", "--lenient", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["dropped_rows"] == {"negative": 1}


def test_what_does_not_fit_the_context_is_said_of_every_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a backend loads need not have a name: the model is called what it was asked for as."""
    file = tmp_path / "short.py"
    file.write_text(SOURCE)
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,in,out\n" + "".join(f"{i / 100},50,2\n" for i in range(6)))
    flags = ["ab", "--trace", str(trace), "--offline", "--backend", f"{file}:Short", "--latency", "opt-13b-a100"]
    assert main([*flags, "--policy", "fcfs", "--rounds", "1", "--json"]) == 2
    assert "do not fit the context of embedded, 16 tokens" in capsys.readouterr().err
