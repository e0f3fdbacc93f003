"""`fastserve ab --backend vllm`, against a stand-in for the Python that has vLLM."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")
pytest.importorskip("torch")

from fastserve.__main__ import main
from fastserve.bench import Completions, RequestOptions
from fastserve.compare.compare import BURST, CompareError
from fastserve.compare.contender import VllmItself, its_own
from fastserve.compare.trace import WARM
from fastserve.compare.vllm import VllmBody, VllmSetup, total, vocab_size_of
from fastserve.compare.vllm_server import VllmProcess
from fastserve.policies.spec import PolicySpec
from fastserve.sched.slo import SloTargets
from fastserve.workload import synthesise, write_trace
from tests.bench.calls import call
from tests.compare.vllm_stand_in import stand_in

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return stand_in(tmp_path, monkeypatch)


@pytest.fixture
def python(log: object, tmp_path: Path) -> Path:
    return tmp_path / "python"


def a_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"vocab_size": 64}))
    return folder


def test_the_command_compares_policies_of_ours_with_vllm_as_it_is(
    log: Callable[[], list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, model = tmp_path / "t.jsonl", a_model(tmp_path / "model")
    write_trace(synthesise(5, rate=50, lengths="", prompt="fixed:6", output="lognormal:1.5,0.8,1,12"), trace)
    rows = ["--policy", "vllm", "--policy", "mlfq", "--set", "levels=3", "--policy", "srpt", "--rounds", "2"]
    where = ["--backend", "vllm", "--model", str(model), "--slots", "4", "--leave", "recompute", "--latency", "p.json"]
    assert main(["ab", "--json", "--trace", str(trace), *rows, *where, "--dtype", "float32", "--prefix-cache", "off",
                 "--", "--block-size", "32"]) == 0  # fmt: skip
    document = json.loads(capsys.readouterr().out)
    runs = document["rounds"]
    assert [run["label"] for run in runs] == ["vllm", "mlfq", "srpt", "srpt", "mlfq", "vllm"]
    assert [run["summary"]["completed"] for run in runs] == [5] * 6
    assert {run["label"]: run["summary"]["preemptions_per_job"] for run in runs} == {"vllm": 1, "mlfq": 2, "srpt": 2}
    assert set(document["ratios"]) == {"mlfq", "srpt"}
    settings = document["settings"]
    assert (settings["backend"], settings["slots"], settings["rows"], settings["lengths"]) == ("vllm", 4, 4, "told")
    assert document["machine"]["vllm"] == "0.32.0"
    assert document["policies"]["mlfq"]["levels"] == 3, "all settings of ours, defaults too"
    assert document["policies"]["vllm"] == {}
    assert not any("not ours" in warning for warning in document["warnings"])

    started = [line for line in log() if "module" in line]
    itself, mlfq = started[:2]
    flags = ["--host", "127.0.0.1", "--port", "PORT", "--enable-prompt-tokens-details", "--dtype", "float32",
             "--no-enable-prefix-caching", "--block-size", "32"]  # fmt: skip
    assert (itself["module"], without_port(itself)) == (
        "vllm.entrypoints.launchers.api_server.entry",
        ["--model", str(model), "--max-num-seqs", "4", "--max-num-active-seqs", "4", "--enable-prefix-caching", *flags],
    )
    assert (mlfq["module"], without_port(mlfq)) == (
        "fastserve",
        ["vllm", str(model), "--policy", "mlfq", "--slots", "4", "--rows", "4", "--leave", "recompute", "--profile",
         "p.json", "--set", "levels=3", "--", *flags],
    )  # fmt: skip
    assert str(ROOT) in mlfq["path"].split(os.pathsep), "the other Python finds this package"
    bodies = [line["body"] for line in log() if "body" in line]
    assert all(body["ignore_eos"] and max(body["prompt"]) < 64 and "stop_after" not in body for body in bodies)
    lengths = [body["max_tokens"] for body in bodies]
    assert [(body.get("vllm_xargs") or {}).get("guess") for body in bodies[18:27]] == lengths[18:27], "srpt is told"
    assert not any("vllm_xargs" in body for body in bodies[:18]), "who needs no guess gets none"
    assert sorted(lengths[4:9]) == sorted(lengths[13:18]) == sorted(lengths[22:27]), "the same requests for each"


def test_a_load_is_in_units_of_what_our_fcfs_sustains_there(
    log: Callable[[], list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["--policy", "vllm", "--policy", "las", "--rounds", "1", "--load", "0.5", "--slots", "2"]
    synth = ["--synth", "n=6,rate=1,prompt=fixed:6,output=fixed:4", "--model", str(a_model(tmp_path / "model"))]
    assert main(["ab", "--json", "--backend", "vllm", *synth, *rows]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["rate"] == pytest.approx(0.5 * settings["sustained_rps"], rel=1e-6)
    first, second, *_ = [number for number, line in enumerate(log()) if "module" in line]
    assert log()[0]["arguments"][2:4] == ["--policy", "fcfs"] and second - first == 1 + WARM + BURST


def without_port(started: dict[str, Any]) -> list[str]:
    found: list[str] = started["arguments"]
    found[found.index("--port") + 1] = "PORT"
    return found


def test_a_server_that_fails_is_told_with_its_last_lines(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "dies")
    body = VllmBody(VllmSetup(python=python, model="m"))
    with pytest.raises(CompareError, match=r"ended with status 1 before it was ready(.|\n)*4711 does not fit"):
        body.replay(VllmItself(), synthesise(1, rate=1, lengths="fixed:3"), 0, None)


def test_a_server_that_is_never_ready_is_ended(
    python: Path, log: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "unready")
    began = time.monotonic()
    with pytest.raises(CompareError, match=r"not ready within 1 s"):
        VllmBody(VllmSetup(python=python, model="m"), start_s=1).replay(
            PolicySpec("las"), synthesise(1, rate=1, lengths="fixed:3"), 0, None
        )
    assert time.monotonic() - began < 60
    assert log()[0]["arguments"][:4] == ["vllm", "m", "--policy", "las"]


def test_it_ends_when_its_parent_is_gone(python: Path) -> None:
    server = VllmProcess(python, ["fastserve", "vllm", "m", "--"], start_s=60)
    assert server.process.stdin is not None
    server.process.stdin.close()  # what the system does when the parent dies
    assert server.process.wait(60) == 128 + 15
    server.close()
    assert not server.folder.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "vllm"], "vllm is vLLM's own scheduler: give --backend vllm"),
        (["--backend", "vllm", "--policy", "vllm", "--set", "a=1"], "--set a: vllm is vLLM's own scheduler"),
        (["--backend", "vllm", "--offline"], "leave --offline and --url out"),
        (["--backend", "vllm", "--kv-tokens", "9"], "--kv-tokens is of our own engine: with --backend vllm give"),
        (["--backend", "vllm", "--threads", "2"], "--threads is of our own engine"),
        (["--backend", "vllm", "--slots", "8", "--rows", "4"], "as many rows as slots"),
        (["--slots", "4"], "--slots is of vLLM: give --backend vllm"),
        (["--", "--block-size", "32"], "behind -- stands --block-size 32, which is for vLLM"),
    ],
)
@pytest.mark.usefixtures("log")
def test_what_does_not_go_together(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ab", "--synth", "n=2,rate=1,prompt=fixed:3,output=fixed:2", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_trace_that_is_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ab", "t.csv"])
    assert "unrecognized arguments: t.csv (the trace is --trace FILE" in capsys.readouterr().err


def test_rows_for_parked_requests() -> None:
    rows = {leave: VllmSetup(python=Path("p"), model="m", slots=4, leave=leave).all_rows for leave in (None, "park")}
    assert rows == {None: 256, "park": 256}
    assert VllmSetup(python=Path("p"), model="m", slots=4, rows=9).all_rows == 9


def test_no_vllm_anywhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSERVE_VLLM_PYTHON", "/nowhere/python")
    assert main(["ab", "--backend", "vllm", "--synth", "n=2,rate=1,prompt=fixed:3,output=fixed:2"]) == 2
    assert "FASTSERVE_VLLM_PYTHON=/nowhere/python is no program" in capsys.readouterr().err


def test_vllm_itself_has_its_label() -> None:
    found = its_own([PolicySpec("vllm", label="as it is"), PolicySpec("las")])
    assert [one.title for one in found] == ["as it is", "las"] and isinstance(found[0], VllmItself)


def test_what_our_scheduler_inside_vllm_is_told() -> None:
    form = Completions(RequestOptions(model="m", ignore_eos=True, xargs=True))
    slo = SloTargets(ttft=1_500_000_000, e2e=9_000_000_001)
    body = form.body(call(due_ms=7, client="ann", program="p", priority=2, guess=9, slo=slo))
    assert body["vllm_xargs"] == {"guess": 9, "client": "ann", "program": "p", "priority": 2, "slo": 9.000000001}
    assert not {"guess", "program", "priority", "deadline_s", "ttft_slo_s"} & set(body)
    assert "vllm_xargs" not in form.body(call())


def test_counters_are_summed_over_their_labels() -> None:
    page = 'a_total{e="0"} 2.0\na_total{e="1"} 3.0\na_total_created{e="1"} 9.0\nb_total 4\n'
    assert (total(page, "a_total"), total(page, "b_total"), total(page, "c_total")) == (5, 4, None)


def test_the_vocabulary_of_a_folder(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "m")
    assert (vocab_size_of(str(folder)), vocab_size_of("org/model")) == (64, None)
    (folder / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 9}}))
    assert vocab_size_of(str(folder)) == 9
