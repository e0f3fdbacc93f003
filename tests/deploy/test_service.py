"""An application as processes of this machine: started, asked and stopped, each by its own number."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("stamina", reason="needs the gateway extra")

from fastserve.__main__ import main
from tests.deploy.apps import ALL


def run(what: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastserve.deploy.service", what, str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def service(what: str, out: Path) -> int:
    return run(what, out).returncode


def ports(count: int) -> list[int]:
    """That are free now."""
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    found = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return found


def application(tmp_path: Path, more: str = "") -> Path:
    """Two replicas that model nothing, and a gateway. Where it was written to."""
    gateway, manager, page, first = ports(4)
    (tmp_path / "app.yaml").write_text(f"""\
name: here
apis:
  - path: /v1/chat/completions
    outputs: [{{choices: "list[dict]"}}]
  - path: /generate
    outputs: [{{text: str}}]
  - path: /health/ready
  - path: /jobs/{{job_id}}
servers:
  - model: {{uri: embedded}}
    backend: scripted
    replicas: 2
    rpc_port: {first}
gateway: {{port: {gateway}, manager_port: {manager}, page_port: {page}}}
{more}""")
    out = tmp_path / "out"
    assert main(["deploy", str(tmp_path / "app.yaml"), "--to", "local", "--out", str(out)]) == 0
    return out


def test_it_starts_answers_and_stops(tmp_path: Path) -> None:
    out = application(tmp_path)
    try:
        assert service("start", out) == 0
        kept = {path.stem: json.loads(path.read_text())["pid"] for path in (out / "run").iterdir()}
        assert set(kept) == {"embedded-1", "embedded-2", "gateway"}
        assert service("start", out) == 0
        again = {path.stem: json.loads(path.read_text())["pid"] for path in (out / "run").iterdir()}
        assert again == kept, "what runs is left alone"
        assert service("status", out) == 0
        asked = run("test", out)
        assert asked.returncode == 0, asked.stdout
        said = asked.stdout
        assert said.count("answers") == 3 and "/jobs/" not in said, "there is no job to ask for"
    finally:
        assert service("stop", out) == 0
    assert not any(psutil.pid_exists(pid) and is_ours(pid) for pid in kept.values())
    assert service("status", out) == 1
    assert service("test", out) == 1


def is_ours(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and "fastserve" in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def test_one_that_does_not_start_takes_the_others_with_it(tmp_path: Path) -> None:
    out = application(tmp_path)
    tree = json.loads((out / "processes.json").read_text())
    tree["processes"][1]["command"] += ["--max-batch", "0"]
    (out / "processes.json").write_text(json.dumps(tree))
    done = run("start", out)
    assert done.returncode == 1
    said = done.stderr
    assert "embedded-2 has ended" in said and "max_batch=0" in said, "with its own last words"
    assert list((out / "run").iterdir()) == []


def test_a_number_that_has_become_another_processes_is_left_alone(tmp_path: Path) -> None:
    out = application(tmp_path)
    (out / "run").mkdir()
    (out / "run" / "gateway.json").write_text(json.dumps({"pid": os.getpid(), "began": 1.0}))
    assert service("stop", out) == 0
    assert psutil.pid_exists(os.getpid()), "it was this one's"


def test_each_replica_has_a_port_and_a_gpu_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(ALL)
    assert main(["deploy", str(tmp_path / "app.yaml"), "--to", "local", "--out", str(tmp_path)]) == 0
    found = {each["name"]: each for each in json.loads((tmp_path / "processes.json").read_text())["processes"]}
    assert list(found) == ["redis", "mistral-7b-v0-1-1", "mistral-7b-v0-1-2", "little", "quantised", "large", "gateway",
                           "worker-1", "worker-2"]  # fmt: skip
    at = {name: each["command"][each["command"].index("--port") + 1] for name, each in found.items()
          if "worker" not in name}  # fmt: skip
    assert len(set(at.values())) == len(at)
    gpus = {name: each["environment"]["CUDA_VISIBLE_DEVICES"] for name, each in found.items() if "environment" in each}
    assert gpus == {"mistral-7b-v0-1-1": "0", "mistral-7b-v0-1-2": "1", "large": "2,3,4,5"}
    assert "folder" not in found["gateway"]
    assert f"redis://127.0.0.1:{at['redis']}/0" in found["worker-1"]["command"]
