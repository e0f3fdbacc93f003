"""Applications that tests deploy."""

from __future__ import annotations

from pathlib import Path

from fastserve.deploy import application, checks, forms
from fastserve.deploy.schema import Application

ROOT = Path(__file__).resolve().parents[2]

KNOWN = """\
apis:
  - path: /v1/chat/completions
    inputs: [{messages: "list[dict] | str"}, {model: str, optional: true}]
    outputs: [{choices: "list[dict]"}]
servers:
  - model: {type: text_generation, uri: mistralai/Mistral-7B-v0.1, device: "cuda:0", generation_params: {top_p: 0.9}}
    resources: {cpus: 2, memory: 16GB, gpus: 1, gpu_memory: 24GB, gpu_cuda_capability: 9.0}
    rpc_port: 6500
"""
"""As people who know such deployments write it."""

SMALL = """\
name: small
servers:
  - model: {uri: embedded}
    backend: scripted
"""

ALL = """\
name: shop
image: registry.example/team/shop:1.2
apis:
  - path: /v1/chat/completions
    inputs: [{messages: "list[dict] | str"}]
  - path: /jobs
servers:
  - model: {uri: mistralai/Mistral-7B-v0.1@main, device: "cuda:0", generation_params: {top_p: 0.9, max_tokens: 64}}
    resources: {cpus: 500m, memory: 16GB, gpus: 1, gpu_memory: 24GB, gpu_cuda_capability: 8.6}
    replicas: 2
  - name: little
    model: {uri: smollm2, dtype: float32}
    policy: sj-mlfq
    set: {levels: 4}
    settings: {max_batch: 8, prefix_cache: "off", metrics: false, required_scopes: [a, b]}
    resources: {cpus: 2, memory: 4Gi}
  - name: quantised
    model: {uri: "bartowski/Some-GGUF:model-Q4_K_M.gguf"}
    backend: llamacpp
  - name: large
    model: {uri: meta-llama/Llama-3.3-70B-Instruct, dtype: bfloat16, generation_params: {temperature: 0.5}}
    backend: vllm
    policy: las
    resources: {gpus: 4, cpus: 8, gpu_memory: 80GB}
router: {name: round_robin}
gateway: {resources: {cpus: 1, memory: 1GiB}, settings: {max_retries: 5, log_format: json}}
cache: {type: redis, size: 1GB, ttl_seconds: 60}
queue: redis
workers: 2
storage: {size: 200GB, class: fast, access: ReadWriteMany}
api_keys: shop-keys
hf_token: hub
"""

SCALED = """\
name: scaled
servers:
  - model: {uri: Qwen/Qwen2.5-0.5B-Instruct}
    resources: {cpus: 4, memory: 8GB}
    replicas: {min: 1, max: 8}
  - name: own
    model: {uri: /artifacts/own}
gateway: {replicas: {min: 2, max: 4}, resources: {cpus: 1}}
queue: {secret: cluster-redis}
"""

MODELS = """\
name: shelf
models: {max: 2, idle_seconds: 600, options: {max_batch: 8}}
cache: disk
gateway: {resources: {cpus: 2, memory: 4GB}}
"""

APPS = {"known": KNOWN, "small": SMALL, "all": ALL, "scaled": SCALED, "models": MODELS}
COMPOSED = ("known", "small", "all", "models")
"""Those that Docker can have: it has no autoscaler."""


def read(tmp_path: Path, text: str) -> Application:
    """Read and checked. Raises ValueError."""
    path = tmp_path / "app.yaml"
    path.write_text(text, encoding="utf-8")
    app, document = application.read(path)
    checks.check(app, document)
    return app


def generated(tmp_path: Path, text: str, form: str) -> dict[str, str]:
    """File name -> content."""
    path = tmp_path / "app.yaml"
    path.write_text(text, encoding="utf-8")
    app, document = application.read(path)
    checks.check(app, document)
    return forms.files(app, document, form, tmp_path / "out", ROOT)
