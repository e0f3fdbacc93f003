"""The YAML of an application: what is read, and what is said of what is wrong."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.__main__ import main
from tests.deploy.apps import ALL, APPS, KNOWN, read

SERVER = "servers:\n  - model: {uri: a/b}\n"


def test_what_people_write_is_read(tmp_path: Path) -> None:
    app = read(tmp_path, KNOWN)
    (server,) = app.servers
    assert (app.name, server.name, server.rpc_port) == ("app", "mistral-7b-v0-1", 6500)
    resources = server.resources
    assert (resources.cpus, resources.memory, resources.gpus) == (2, 16 * 10**9, 1)
    assert (resources.gpu_memory, resources.gpu_cuda_capability) == (24 * 10**9, (9, 0))
    assert read(tmp_path, ALL).servers[1].resources.memory == 4 << 30


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (SERVER + "servrs: 1\n", 3, "there is no key 'servrs'; did you mean servers?"),
        ("servers:\n  - modle: {uri: a/b}\n", 2, "there is no key 'modle' in servers[0]; did you mean model?"),
        (SERVER + "    resources:\n      gpu: 1\n", 4, "no key 'gpu' in servers[0].resources; did you mean gpus?"),
        (SERVER + "    resources: {memory: 16}\n", 3, "servers[0].resources.memory: 16 has no unit: give 16GB, say"),
        (SERVER + "    resources: {memory: 16XB}\n", 3, "'16XB' is no size"),
        (SERVER + "    resources: {memory: 1KB}\n", 3, "less than 1 MB"),
        (SERVER + "    resources: {cpus: some}\n", 3, "'some' is no number of CPU cores"),
        (SERVER + "    replicas: 0\n", 3, "servers[0].replicas=0: give at least 1"),
        (SERVER + "    replicas: {min: 3, max: 2}\n", 3, "min 3 is more than max 2"),
        (SERVER + "    rpc_port: 70000\n", 3, "servers[0].rpc_port=70000"),
        (SERVER + "    name: Big\n", 3, "'Big' is no name"),
        (SERVER + "    name: redis\n", 3, "redis is the name of another part of the deployment"),
        (SERVER + "  - model: {uri: c/b}\n", 3, "b is the name of servers[0]"),
        (SERVER + "    policy: srptt\n", 3, "srptt"),
        (SERVER + "    backend: ollama\n", 3, "no backend is called 'ollama'"),
        (SERVER + "    policy: ./mine.py:Mine\n", 3, "a file of this machine is not in the image"),
        (SERVER + "    settings: {max_bach: 8}\n", 3, "there is no setting 'max_bach'; did you mean max_batch?"),
        (SERVER + "    settings: {max_batch: 0}\n", 3, "max_batch=0"),
        (SERVER + "    settings: {port: 3}\n", 3, "it is rpc_port"),
        (SERVER + "    settings: {api_key: sk-1234}\n", 3, "a token does not stand in a file of a deployment"),
        ("servers:\n  - model: {uri: a/b, generation_params: {top_q: 1}}\n", 2, "did you mean top_p?"),
        ("servers:\n  - model: {uri: a/b, generation_params: {top_p: 3}}\n", 2, "generation_params.top_p=3"),
        ("servers:\n  - model: {uri: a/b, type: embedding}\n", 2, "text generation only"),
        ("servers:\n  - model: {uri: 's3://a/b'}\n", 2, "models come from a Hugging Face hub"),
        ("servers:\n  - model: {uri: a/b, device: mps}\n", 2, "mps is Apple's GPU"),
        ("servers:\n  - model: {uri: a/b, device: cuda}\n    resources: {gpus: 0}\n", 3, "or device: cpu"),
        ("servers:\n  - model: {uri: a/b, device: cpu}\n    resources: {gpus: 1}\n", 3, "leave gpus out"),
        ("servers:\n  - model: {uri: a/b, device: 'cuda:1'}\n    resources: {gpus: 1}\n", 2, "sees cuda:0 only"),
        (SERVER + "    resources: {gpus: 2}\n", 3, "give replicas: 2 with gpus: 1, or backend: vllm"),
        (SERVER + "    resources: {gpu_memory: 24GB}\n", 3, "gpu_memory is of a GPU: give gpus: 1"),
        (SERVER + "    resources: {gpus: 1}\n    backend: onnx\n", 3, "backend onnx computes on the CPU"),
        (SERVER + "    backend: vllm\n", 3, "deployed on GPUs"),
        ("apis: [{path: /v1/chat/completion}]\n" + SERVER, 1, "did you mean /v1/chat/completions; there are /v1/chat/"),
        ("apis: [{path: /chat, inputs: [{message: str}]}]\n" + SERVER, 1, "no input 'message'; did you mean messages?"),
        ("apis: [{path: /chat, inputs: [{model: str}]}]\n" + SERVER, 1, "does not answer without messages"),
        ("apis: [{path: /v1/completions, outputs: [{choice: str}]}]\n" + SERVER, 1, "did you mean choices?"),
        (SERVER + "router: fastest\n", 3, "no router 'fastest'"),
        (SERVER + "router: {name: random, set: {seedd: 1}}\n", 3, "random"),
        (SERVER + "gateway:\n  settings: {max_retrys: 8}\n", 4, "did you mean max_retries?"),
        (SERVER + "gateway: {page_port: 8000}\n", 3, "gateway.page_port=8000 is gateway.port too"),
        (SERVER + "workers: 2\n", 3, "there is no queue: add queue: redis"),
        (SERVER + "queue: redis\nworkers: 0\n", 4, "nobody would run the queued jobs"),
        (SERVER + "queue: rabbit\n", 3, "'rabbit' is no Redis"),
        (SERVER + "queue: redis://:secret@host\n", 3, "a password does not stand in a file"),
        (SERVER + "cache: postgres\n", 3, "cache.type=postgres"),
        (SERVER + "servers: []\n", 3, "servers is given twice, first in line 1"),
        ("servers: []\n", 1, "give at least one, or models: true"),
        ("models: {maxx: 2}\n", 1, "did you mean max?"),
        ("models: true\ngateway: {manager_port: null}\n", 1, "at the manager's port"),
        ("name: x\n", 1, "servers is missing"),
        ("servers: [\n", 2, "is not YAML"),
        ("- 1\n", 1, "an application has keys"),
        ("", 1, "an application has keys"),
        (SERVER + "  ? [a, b]\n  : c\n", 3, ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_place(
    tmp_path: Path, text: str, line: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(text)
    assert main(["deploy", str(path), "--check"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert any(f"{path}, line {line}" in each and words in each for each in said), said
    assert ":secret" not in said[0] and "sk-1234" not in said[0]


def test_all_that_is_wrong_is_said_in_the_order_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("cache: x\nservers:\n  - model: {uri: a/b, typ: 1}\n    replicas: 0\nworkers: many\n")
    assert main(["deploy", str(path), "--check"]) == 2
    lines = [int(line) for line in re.findall(r", line (\d+)", capsys.readouterr().err)]
    assert lines == [1, 3, 4, 5]


@pytest.mark.parametrize("name", APPS)
def test_a_check_writes_nothing(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(APPS[name])
    assert main(["deploy", str(path), "--check", "--to", "kubernetes"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["app.yaml"]


def test_what_only_a_cluster_or_only_docker_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "app.yaml"
    for text, form, words in [
        (APPS["scaled"], "compose", "only Kubernetes has: give one number"),
        ("servers:\n  - model: {uri: ./mine}\n", "kubernetes", "a folder of this machine is not in a cluster"),
        (SERVER + "    replicas: {min: 1, max: 3}\n", "kubernetes", "it goes by CPU use, of resources"),
    ]:
        path.write_text(text)
        assert main(["deploy", str(path), "--check", "--to", form]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "servers: " + "[" * 5000,
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(12)),
        "x: " + "1" * 200_000,
        "servers: [" + "{}, " * 50_000 + "]",
    ],
    ids=["deep", "doubling", "long", "many"],
)
def test_a_hostile_file_is_refused_soon(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(text)
    began = time.process_time()
    assert main(["deploy", str(path), "--check"]) == 2
    assert time.process_time() - began < 20
    assert all(len(line) < 1000 for line in capsys.readouterr().err.splitlines()[:50])
