"""`fastserve ab` over HTTP: servers of its own, one a run, and servers that are there."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")

from fastserve.__main__ import main
from fastserve.bench.target import Target, TargetClient
from fastserve.compare import http, subprocess_server
from fastserve.compare.compare import CompareError
from fastserve.compare.contender import Server
from fastserve.compare.http import HttpBody, api_for, calls_for
from fastserve.compare.subprocess_server import ServerError, ServerProcess
from fastserve.policies.spec import PolicySpec
from fastserve.sched.keywords import literal
from fastserve.workload import Trace, synthesise, write_trace

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _logs_are_kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers have a scripted engine, five times as fast as an A100 with OPT-13B."""
    monkeypatch.setattr(
        subprocess_server, "COMMAND", [sys.executable, str(Path(__file__).with_name("scripted_child.py"))]
    )


def tiny(n: int = 5) -> Trace:
    return synthesise(n, rate=20, lengths="", prompt="lognormal:2.5,0.6,4,30", output="lognormal:1.5,0.8,1,12")


@pytest.mark.usefixtures("scripted")
def test_the_command_compares_in_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = tmp_path / "t.jsonl", tmp_path / "ab.json"
    write_trace(tiny(), trace)
    policies = ["--policy", "srpt", "--policy", "sj-mlfq", "--set", "alpha=0", "--label", "patient"]
    assert main(["ab", "--json", "--trace", str(trace), *policies, "--rounds", "1", "--max-batch", "2",
                 "--out", str(out)]) == 0  # fmt: skip
    document = json.loads(capsys.readouterr().out)
    assert [(run["label"], run["round"]) for run in document["rounds"]] == [("srpt", 0), ("patient", 0)]
    assert document["settings"]["body"] == "http" and document["settings"]["predictor"] == "oracle"
    assert set(document["ratios"]) == {"patient"}
    for run in document["rounds"]:
        assert run["summary"]["completed"] == 5 and run["notes"]["lengths"] == "hidden"
        assert run["notes"]["wrong_outputs"] == 0
        assert run["summary"]["preemptions_per_job"] is not None
    kept = json.loads(out.read_text())["rounds"]
    assert all(run["records"]["output_tokens"] == tiny().output.tolist() for run in kept)
    draw = [
        sys.executable,
        str(Path(__file__).parents[2] / "scripts" / "draw_ab.py"),
        str(out),
        str(tmp_path / "drawn"),
    ]
    subprocess.run(draw, check=True, capture_output=True, timeout=PATIENCE)
    assert list((tmp_path / "drawn").glob("*cdf*.pdf"))


def test_a_servers_settings_are_the_contenders() -> None:
    """Text that looks like something else stays text."""
    knobs = {"preset": "no", "alpha": 0.5, "q1": 1, "none": None, "yes": True, "number": "1"}
    flags = HttpBody([], {})._flags(PolicySpec("sj-mlfq", knobs), 3)
    said = [value.partition("=") for flag, value in pairwise(flags) if flag == "--set"]
    assert {key: literal(value) for key, _, value in said} == knobs


def test_the_truth_does_not_leak_into_what_our_server_is_sent() -> None:
    trace, target = tiny(20), Target(models=("m",), own=True, max_model_len=4096, vocab_size=264)
    for guesses in (False, True):
        api = api_for("http://127.0.0.1:1", target)
        bodies = [api.format.body(call) for call in calls_for(trace, target, 0, guesses=guesses)]
        assert {body["max_new_tokens"] for body in bodies} == {int(trace.output.max())}
        assert [body["stop_after"] for body in bodies] == trace.output.tolist()
        assert [body.get("guess") for body in bodies] == (trace.output.tolist() if guesses else [None] * 20)
        assert [len(body["prompt"]) for body in bodies] == trace.prompt.tolist()
    again = [call.prompt.tolist() for call in calls_for(trace, target, 0)]  # type: ignore[union-attr]
    assert again == [body["prompt"] for body in bodies]  # every contender has the same prompts


def test_a_policy_that_reads_guesses_gets_a_server_that_demands_them() -> None:
    body = HttpBody(["--max-batch", "2"], {"max_batch": 2})
    assert "--predictor" not in body._flags(PolicySpec("sj-mlfq"), 3)
    flags = body._flags(PolicySpec("srpt"), 3)
    assert flags[flags.index("--predictor") + 1] == "client"
    assert flags[flags.index("--queue-capacity") + 1] == "3"


@pytest.mark.usefixtures("scripted")
def test_a_server_without_a_predictor_does_not_start_and_one_with_client_wants_a_guess() -> None:
    with pytest.raises(ServerError, match=r"before it was ready(.|\n)*policy srpt needs a guess"):
        ServerProcess(["--policy", "srpt"], start_s=PATIENCE)
    with ServerProcess(["--policy", "srpt", "--predictor", "client"], start_s=PATIENCE) as server:
        target = TargetClient(server.url).probe()
        with_guess, without = (calls_for(tiny(1), target, 0, guesses=guesses) for guesses in (True, False))
        done = [http.on_best_loop(http._watched(calls, api_for(server.url, target), None))[0]
                for calls in (with_guess, without)]  # fmt: skip
    assert done[0].samples[0].reply.completed
    assert done[1].samples[0].reply.status == 400 and "guess" in done[1].samples[0].reply.error
    assert server.process.poll() == 0 and not server.folder.exists()


@pytest.mark.usefixtures("scripted")
def test_a_server_that_fails_to_start_is_told_with_its_last_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.jsonl"
    write_trace(tiny(), trace)
    assert main(["ab", "--trace", str(trace), "--policy", "fcfs", "--rounds", "1", "--dtype", "float5"]) == 1
    said = capsys.readouterr().err
    assert "fcfs, round 1: the server ended with status 2 before it was ready" in said
    assert "float5" in said
    log = re.search(r"Its log is (\S+);", said)
    assert log is not None and "float5" in Path(log[1]).read_text()


def test_a_server_that_is_never_ready_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        subprocess_server, "COMMAND", [sys.executable, "-c", "import time; print('loading'); time.sleep(600)"]
    )
    made: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess_server.subprocess, "Popen", lambda *args, **more: made.append(popen(*args, **more)) or made[0]
    )
    with pytest.raises(ServerError, match=r"not ready within 0\.5 s"):
        ServerProcess([], start_s=0.5)
    assert made[0].poll() == -signal.SIGTERM


def test_a_server_has_the_machines_variables_and_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "FASTSERVE_TOKEN_BUDGET",
        "FASTSERVE_API_KEY",
        "MAX_BATCH",
        "FASTSERVE_CACHE",
        "FASTSERVE_NATIVE",
        "HOME",
    ):
        monkeypatch.setenv(name, "given")
    passed = {name for name, value in subprocess_server.environment().items() if value == "given"}
    assert passed == {"FASTSERVE_CACHE", "FASTSERVE_NATIVE", "HOME"}


@pytest.mark.parametrize(
    ("module", "budget"), [("fastserve.compare.subprocess_server", "none"), ("fastserve serve", "170")]
)
def test_a_server_that_is_measured_reads_no_dotenv(module: str, budget: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FASTSERVE_TOKEN_BUDGET=170\n")
    with subprocess.Popen(
        [sys.executable, "-m", *module.split(), "--show-config"],
        cwd=tmp_path, env=subprocess_server.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        shown = process.stdout.read()  # its stdin stays open until it has ended
        assert process.wait(PATIENCE) == 0
    found = re.search(r"^token_budget +(\S+)", shown, re.MULTILINE)
    assert found is not None and found[1] == budget


@pytest.mark.usefixtures("scripted")
def test_a_token_in_dotenv_locks_no_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("FASTSERVE_API_KEY=s3cret\n")
    monkeypatch.chdir(tmp_path)
    _, summary, notes = HttpBody([], {"max_batch": 2}).replay(PolicySpec("fcfs"), tiny(), 0, None)
    assert summary["completed"] == 5 and notes["wrong_outputs"] == 0


@pytest.mark.usefixtures("scripted")
def test_a_server_that_dies_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    servers: list[ServerProcess] = []

    class Noted(ServerProcess):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            servers.append(self)

    monkeypatch.setattr(http, "ServerProcess", Noted)
    long = synthesise(3, rate=100, lengths="", prompt="fixed:8", output="fixed:1500")

    def kill(ended: int) -> None:
        servers[0].process.kill()
        servers[0].process.wait(PATIENCE)

    with pytest.raises(CompareError, match="the server ended with status -9"):
        HttpBody([], {"max_batch": 2}).replay(PolicySpec("fcfs"), long, 0, kill)


def test_a_server_ends_when_its_parent_is_gone() -> None:
    waits = "import time, fastserve.__main__ as m; m.main = lambda _: time.sleep(600)"
    orphan = subprocess.Popen(
        [sys.executable, "-c", f"{waits}; from fastserve.compare import subprocess_server; subprocess_server.main()"],
        stdin=subprocess.PIPE,
    )
    assert orphan.stdin is not None
    orphan.stdin.close()  # what the system does when the parent dies
    assert orphan.wait(PATIENCE) == -signal.SIGTERM


@pytest.fixture
def stub() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "fastserve.bench.stub", "--ttft-ms", "2", "--tpot-ms", "1"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


def test_a_server_that_is_not_ours_is_told_the_lengths_and_the_result_says_so(stub: str) -> None:
    records, summary, notes = HttpBody([], {"max_batch": 2}).replay(Server(stub), tiny(), 0, None)
    assert notes["lengths"] == "told" and any("not ours" in warning for warning in notes["warnings"])
    assert records["output_tokens"].tolist() == tiny().output.tolist()
    assert summary["preemptions_per_job"] is None


def test_nobody_there() -> None:
    with pytest.raises(CompareError, match="no connection to"):
        HttpBody([], {"max_batch": 2}).replay(Server("http://127.0.0.1:9"), tiny(), 0, None)
