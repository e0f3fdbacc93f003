"""What is refused before anything heavy is imported, what is said at the start, and how an idle server ends."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastserve.__main__ import main
from fastserve.backends.loading import loading
from fastserve.engine import Engine, SamplingParams
from fastserve.server import run
from fastserve.server.config import files
from fastserve.server.config.settings import FastServeConfig, explain
from fastserve.server.http import logs
from tests.server import test_process
from tests.server.conftest import Serve
from tests.server.test_process import PATIENCE, ROOT, server

HEAVY = ("torch", "transformers", "fastapi", "uvicorn")

REFUSED = """
import contextlib, io, json, sys
from fastserve.__main__ import main

for flags in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = main(["serve", *flags])
    heavy = [name for name in sys.argv[2].split() if name in sys.modules]
    print(json.dumps([status, heavy, said.getvalue()]))
"""


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    monkeypatch.setattr(test_process, "ENVIRONMENT", {**os.environ, "PYTHONPATH": str(ROOT), **home})


def test_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    empty, held = tmp_path / "empty", tmp_path / "held"
    empty.mkdir()
    held.mkdir()
    (tmp_path / "file").write_text("")
    none = str(tmp_path / "none")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = sqlite3.connect(held / "jobs.sqlite", isolation_level=None)
        for statement in ("pragma locking_mode = exclusive", "create table x (a)", "begin exclusive"):
            other.execute(statement)
        cases: list[tuple[list[str], str]] = [
            (["--port", str(taken.getsockname()[1])], "; another --port, or 0 for a free one"),
            (["--host", "bad..host"], "; another --host: 127.0.0.1 for programs of this machine"),
            (["--host", "256.1.1.1"], "; another --host: 127.0.0.1 for programs of this machine"),
            (["--model", ""], "model=: string should have at least 1 character"),
            (["--model", none], f"There is no folder {none}"),
            (["--model", str(empty)], "it has no config.json"),
            (["--model", str(tmp_path / "file")], "is a file"),
            (["--backend", f"{none}.py:Body"], "there is no file"),
            (["--policy", f"{none}.py:Mine"], "there is no file"),
            (["--chat-template", none], "chat template"),
            (["--api-key-file", none], "token file"),
            (["--latency", none], "no latency preset and no file"),
            (["--flight-log", "/proc/none/log"], "Cannot write /proc/none/log"),
            (["--timeline", "/proc/none/log"], "Cannot write /proc/none/log"),
            (["--observer", "no_such:Thing"], "no_such"),
            (["--state-dir", "/proc/none"], "state folder /proc/none cannot be used"),
            (["--config", none], "config file"),
            (["--port", "70000"], "port=70000"),
            (["--state-dir", str(held)], "is in use by another server"),
        ]
        commands = [flags if {"--port", "--state-dir"} & set(flags) else ["--port", "0", *flags] for flags, _ in cases]
        commands = [[*flags, "--state-dir", f"{none}-state"] if "--state-dir" not in flags else flags
                    for flags in commands]  # fmt: skip
        commands = [["--port", "0", *flags] if "--port" not in flags else flags for flags in commands]
        done = subprocess.run(
            [sys.executable, "-c", REFUSED, json.dumps(commands), " ".join(HEAVY)], capture_output=True, text=True,
            env=test_process.ENVIRONMENT, cwd=tmp_path, timeout=6 * PATIENCE, check=False,
        )  # fmt: skip
        other.close()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases), done.stderr
    for (flags, words), (status, heavy, said) in zip(cases, answers, strict=True):
        assert status in (1, 2) and words in said, (flags, said)
        assert said.count("\n") == 1 and said.startswith("fastserve serve: error: "), (flags, said)
        assert not heavy, (flags, heavy)


def test_what_is_being_loaded_is_said(tmp_path: Path) -> None:
    assert loading("Qwen/x", "torch", "fcfs", "cuda").startswith("loading model Qwen/x on cuda for policy fcfs")
    assert "measuring" in loading("embedded", "torch", "fcfs", measures=True)
    own = loading("embedded", "./parrot.py:Parrot", "las")
    assert own == "starting backend ./parrot.py:Parrot with policy las", "it need not load any model"
    assert loading("m", "./parrot.py:Parrot", "las").endswith("with policy las, model m")
    with server("--policy", "las") as found:
        said = "".join(found.said)
        first, last = said.index("loading model embedded"), said.index("serving at")
        assert first < said.index("policy las, batch cap") < last


def test_secrets_on_the_command_line_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(run.FastServeServer, "run", lambda self: None)
    assert main(["serve", "--api-key", "s3same alice", "--hf-token", "hf_s3same"]) == 0
    said = capsys.readouterr().err
    assert "ps" in said and "--api-key-file FILE" in said and "HF_TOKEN" in said and "s3same" not in said
    monkeypatch.setenv("FASTSERVE_API_KEY", "s3same")
    assert main(["serve"]) == 0
    assert capsys.readouterr().err == ""
    file = tmp_path / "tokens"
    file.write_text("s3same alice\n")
    file.chmod(0o600)
    assert not list(files.wide(file))
    file.chmod(0o644)
    (warning,) = files.wide(file)
    assert "mode 0644" in warning and f"chmod 600 {file}" in warning and "s3same" not in warning


# -- the end -----------------------------------------------------------------------------------------------------------


def connect(base: str, sent: bytes = b"") -> socket.socket:
    host, _, port = base.removeprefix("http://").partition(":")
    found = socket.create_connection((host, int(port)))
    found.settimeout(PATIENCE)
    found.sendall(sent)
    return found


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_server_waits_for_nobody(sig: signal.Signals) -> None:
    """Neither for idle connections and an open feed, nor for requests that have not come whole.

    The time of its end is printed by results/LOG.md; here it only must not be what a drain may take.
    """
    with server("--drain-seconds", "600") as found, httpx.Client(base_url=found.base) as client:
        assert client.get("/health").status_code == 200  # the connection is kept
        head = b" HTTP/1.1\r\nHost: localhost\r\n"
        live = connect(found.base, b"GET /live" + head + b"\r\n")
        assert b"200 OK" in live.recv(100)
        json_type = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        others = [connect(found.base), connect(found.base, b"GET /hea"),
                  connect(found.base, b"POST /generate" + head + json_type + b'{"prom')]  # fmt: skip
        found.process.send_signal(sig)
        assert found.process.wait(PATIENCE) == 0
        found.reader.join(PATIENCE)
        said = "".join(found.said)
        assert "no request is running" in said and "Traceback" not in said
        for each in (live, *others):
            each.close()


def test_it_says_what_it_waits_for() -> None:
    with server("--drain-seconds", "600") as found:
        fields = {"prompt": "a", "max_new_tokens": 1500, "ignore_eos": True}
        job = httpx.post(f"{found.base}/jobs", json=fields).json()["job_id"]
        with httpx.stream("POST", f"{found.base}/generate/stream", json=fields, timeout=PATIENCE) as stream:
            assert next(stream.iter_lines()).startswith("data:")
            found.process.send_signal(signal.SIGINT)
            found.wait_for(r"waiting for 1 running request, at most 600 s; Ctrl-C or SIGTERM again ends now")
            found.wait_for(r"1 durable jobs stay queued")
            found.process.send_signal(signal.SIGINT)
            assert found.process.wait(PATIENCE) == 0
    assert job


def test_killed_in_mid_stream_and_started_again(tmp_path: Path) -> None:
    flags = ("--state-dir", str(tmp_path / "state"))
    fields = {"prompt": "a", "max_new_tokens": 400, "ignore_eos": True, "seed": 3}
    with server(*flags) as first:
        jobs = [httpx.post(f"{first.base}/jobs", json=fields | {"seed": seed}).json()["job_id"] for seed in range(3)]
        with httpx.stream("POST", f"{first.base}/generate/stream", json=fields, timeout=PATIENCE) as stream:
            assert next(stream.iter_lines()).startswith("data:")
            assert first.end(signal.SIGKILL) == -signal.SIGKILL
    with server(*flags, speed=1000) as second:
        for job in jobs:
            until = time.monotonic() + PATIENCE
            while (found := httpx.get(f"{second.base}/jobs/{job}").json())["ended"] is None:
                assert time.monotonic() < until
                time.sleep(0.02)
            assert found["state"] == "finished" and found["result"]["tokens_generated"] == 400


def test_a_store_is_let_go_when_the_model_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: FastServeConfig) -> Engine:
        raise ValueError("no such model")

    monkeypatch.setattr(run, "make_engine", fail)
    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    for _ in range(2):
        with pytest.raises(run.StartError, match="no such model"):
            run.FastServeServer(FastServeConfig(port=0, state_dir=tmp_path / "state")).run()


# -- odd values --------------------------------------------------------------------------------------------------------

ODD: list[tuple[str, list[Any]]] = [
    ("request_timeout", [1e300, "nan", "inf", "-1", 1e-300, "1e300", "-inf"]),
    ("drain_seconds", [1e300, "nan", "inf", -1, 1e-300]),
    ("static_timeout", [1e300, "nan", "inf", -1, 1e-300]),
    ("keep_hours", [1e300, "nan", "inf", 0, -1, 1e-300]),
    ("keep_mib", [1e300, "nan", "inf", 0, -1, 1e-300]),
    ("max_body_mib", [1e300, "nan", "inf", 0, -1, 1e-300]),
    ("kv_cache_gib", [1e300, "nan", "inf", 0, -1, 1e-300]),
    ("host_cache_gib", [1e300, "nan", "inf", -1]),
    ("gpu_memory_utilization", [1e300, "nan", "inf", 0, -1, 1.5]),
    ("prefill_guard", [1e300, "nan", "inf", -1, 1]),
    ("header_timeout", [1e300, "nan", 0, 1e-300]),
    ("body_timeout", [1e300, "nan", 0, 1e-300]),
    ("stall_timeout", [1e300, "nan", 0, 1e-300]),
    ("max_batch", [10**12, 10**30, 0, -1, "1e30", 1.5]),
    ("kv_tokens", [10**30, 0, -1, 1.5]),
    ("host_tokens", [10**30, -1]),
    ("token_budget", [10**30, 0]),
    ("visit", [10**30, -1]),
    ("kv_reserve", [10**30, -1]),
    ("prefetch_quota", [10**30, -1]),
    ("block_tokens", [10**12, 0]),
    ("lookahead", [10**12, -1]),
    ("queue_capacity", [10**30, -1]),
    ("threads", [10**6, 0]),
    ("max_model_len", [10**12, 0]),
    ("max_new_tokens", [10**12, 0]),
    ("max_tokens", [10**12, 0]),
    ("max_prompt_length", [10**12, 0]),
    ("top_k", [10**12, -1]),
    ("keep_jobs", [10**30, 0]),
    ("requests_per_minute", [10**30, 0]),
    ("tokens_per_minute", [10**30, 0]),
    ("burst_allowance", [10**30, 0]),
    ("num_queues", [10**30, 0, -1]),
    ("port", [70000, -1, 10**30]),
    ("workers", [10**30, 0]),
]


@pytest.mark.parametrize(("name", "values"), ODD)
def test_odd_values_of_settings(name: str, values: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python, the environment and a file alike: one line that names the setting."""
    file = tmp_path / "odd.yaml"
    for value in values:
        for given in ({name: value}, {"config": file}, {}):
            if "config" in given:
                file.write_text(f"{name}: {'.' + value if value in ('nan', 'inf') else value}\n")
            elif not given:
                monkeypatch.setenv(f"FASTSERVE_{name.upper()}", str(value))
            with pytest.raises(ValueError, match=r".") as caught:
                FastServeConfig(**given)
            monkeypatch.delenv(f"FASTSERVE_{name.upper()}", raising=False)
            line = explain(caught.value, given)
            assert name in line and "\n" not in line and len(line) < 400, (value, line)


@pytest.mark.parametrize("value", [1e300, float("nan"), float("inf"), -1.0, -1e-300, 1e-300, True])
@pytest.mark.parametrize("name", ["timeout_s", "deadline_s", "ttft_slo_s", "tpot_slo_s"])
def test_odd_times_of_a_request(name: str, value: Any) -> None:
    with Engine.scripted() as engine:
        with pytest.raises(ValueError, match=rf"^{name}=.* must be "):
            engine.submit("a", SamplingParams(max_tokens=2), **{name: value})
        for arrival in (1e300, float("nan"), float("-inf")):
            with pytest.raises(ValueError, match="arrival="):
                engine.submit("a", arrival=arrival)
        assert len(engine.generate("a", SamplingParams(max_tokens=2))[0].token_ids) == 2


@pytest.mark.anyio
async def test_odd_times_over_http(serve: Serve) -> None:
    async with serve() as client:
        for path in ("/generate", "/jobs", "/v1/completions"):
            for name in ("deadline_s", "ttft_slo_s", "tpot_slo_s"):
                for value in ("1e300", "NaN", "Infinity", "-1", "1e-300", "1e999"):
                    body = f'{{"prompt": "a", "max_tokens": 2, "{name}": {value}}}'
                    kind = {"content-type": "application/json"}
                    refused = await client.post(path, content=body, headers=kind)
                    assert refused.status_code in (400, 422), (path, body, refused.text)
                    assert name in refused.text or "JSON" in refused.text, refused.text
        assert (await client.post("/generate", json={"prompt": "a", "deadline_s": 5})).status_code == 200


def test_ctrl_c_while_a_command_is_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["serve"]) == 130
    assert capsys.readouterr().err == "fastserve: interrupted\n"
