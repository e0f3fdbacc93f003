"""The settings: four ways in, one order of precedence, and refusals that a person can act upon."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastserve import named_models
from fastserve.__main__ import main
from fastserve.server.config import sources
from fastserve.server.config.aliases import SERVER
from fastserve.server.config.settings import FastServeConfig, explain

ANY = "."  # the message is looked at as a user sees it
EXAMPLE = """
serving:
  backend_type: pytorch
  host: 127.0.0.2
  port: 9001
  pytorch: {device: cpu, torch_dtype: torch.float16, compile_model: false}
  batching: {max_batch_size: 8, batch_timeout_ms: 5}
  auth:
    enabled: true
    auth_type: bearer_token
    tokens: [abc, def]
    token_validation_url: http://127.0.0.1:1/x
    required_scopes: [generate]
  rate_limiting: {enabled: true, requests_per_minute: 60, tokens_per_minute: 1000, burst_allowance: 10}
  validation: {max_prompt_length: 100, max_tokens: 50}
  monitoring:
    enabled: true
    metrics_endpoint: /m
    alert_thresholds: {error_rate: 0.1, latency_p99: 5, gpu_memory_usage: 0.9}
"""


def test_defaults() -> None:
    config = FastServeConfig()
    assert (config.host, config.port, config.max_batch, config.model) == ("127.0.0.1", 8000, 64, "embedded")
    assert (config.max_new_tokens, config.temperature, config.top_p, config.top_k) == (100, 0.7, 0.9, 50)
    assert config.cors_origins == () and config.requests_per_minute is None and config.model_name == "embedded"


def test_a_serving_tree(tmp_path: Path) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(EXAMPLE)
    config = FastServeConfig(config=file)
    assert (config.host, config.port, config.device, config.dtype) == ("127.0.0.2", 9001, "cpu", "float16")
    assert config.max_batch == 8 and [key.get_secret_value() for key in config.api_key] == ["abc", "def"]
    assert config.required_scopes == ("generate",) and config.burst_allowance == 10
    assert config.max_prompt_length == 100 and config.max_tokens == 50 and config.metrics_endpoint == "/m"
    assert config.alerts == {"error_rate": 0.1, "latency_p99": 5, "gpu_memory_usage": 0.9}


def test_what_is_switched_off_in_the_tree(tmp_path: Path) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(EXAMPLE.replace("enabled: true", "enabled: false"))
    config = FastServeConfig(config=file)
    assert config.api_key == () and config.requests_per_minute is None and not config.metrics and not config.alerts


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("port:", "prot:"), "'prot'; did you mean port?"),
        (("torch_dtype:", "torch_dtyp:"), "'pytorch.torch_dtyp'; did you mean pytorch.torch_dtype?"),
        (("compile_model: false", "compile_model: true"), "does not exist here yet"),
        (("backend_type: pytorch", "backend_type: vllm"), "no backend is called 'vllm': give torch, llamacpp"),
        (("auth_type: bearer_token", "auth_type: basic"), "bearer_token"),
        (("serving:", "serving"), "is not YAML"),
        (("serving:", "other: 1\nserving:"), "'other'"),
        (("port: 9001", "port: many"), "port=many"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(EXAMPLE.replace(*change))
    with pytest.raises(ValueError, match=ANY) as caught:
        FastServeConfig(config=file)
    line = explain(caught.value, {"config": file})
    assert words in line and "\n" not in line and str(file) in line


@pytest.mark.parametrize("group", ["auth", "rate_limiting"])
def test_what_is_switched_on_must_be_able_to_work(tmp_path: Path, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(f"serving: {{{group}: {{enabled: true}}}}\n")
    with pytest.raises(ValueError, match=rf"{group}.enabled is true, but none of"):
        FastServeConfig(config=file)
    monkeypatch.setenv("FASTSERVE_API_KEY", "s3cret")
    assert FastServeConfig(config=file, requests_per_minute=3).api_key, "from wherever it comes"


def test_what_a_file_says_in_vain_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text("batching: {batch_timeout_ms: 5}\n")
    assert FastServeConfig(config=file).max_batch == 64
    (warning,) = sources.strays(FastServeConfig.model_fields, SERVER, file)
    assert "batching.batch_timeout_ms changes nothing" in warning


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "serving.yaml"
    file.write_bytes(b"port: \xff\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        FastServeConfig(config=file)


def test_the_order_of_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text("serving: {port: 1, max_batch: 1, top_k: 1, temperature: 0.1}\n")
    (tmp_path / ".env").write_text("FASTSERVE_PORT=2\nFASTSERVE_MAX_BATCH=2\nTOP_K=2\n")
    monkeypatch.setenv("FASTSERVE_PORT", "3")
    monkeypatch.setenv("MAX_BATCH", "3")
    given = {"config": file, "port": 4}
    config = FastServeConfig(**given)
    assert (config.port, config.max_batch, config.top_k, config.temperature) == (4, 3, 2, 0.1)
    came = {name: origin for name, _, origin in config.shown(given)}
    assert came["port"] == "argument" and came["max_batch"] == "environment MAX_BATCH"
    assert came["top_k"] == ".env TOP_K" and came["temperature"] == f"{file} temperature"
    assert came["host"] == "default"


def test_plain_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("HF_MODEL", "some/model"), ("MAX_NEW_TOKENS", "7"), ("TEMPERATURE", "0.2"), ("TOP_K", "3"), ("TOP_P", "0.5"),
        ("SEED", "11"), ("MAX_BATCH", "5"), ("HF_TOKEN", "hf_x"), ("HOST", "wrong"), ("MODEL", "wrong"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    config = FastServeConfig()
    assert (config.model, config.max_new_tokens, config.temperature) == ("some/model", 7, 0.2)
    assert (config.top_k, config.top_p, config.seed, config.max_batch) == (3, 0.5, 11, 5)
    assert config.hf_token is not None and config.host == "127.0.0.1"
    monkeypatch.setenv("FASTSERVE_MODEL", "mine")
    assert FastServeConfig().model == "mine"
    monkeypatch.setenv("FASTSERVE_MODEL", "")
    assert FastServeConfig().model == "some/model", "an empty variable is none"


def test_a_variable_that_is_no_setting_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("FASTSERVE_PROT", "FASTSERVE_TRACES", "FASTSERVE_CACHE", "FASTSERVE_PORT", "FASTSERVE_BATCH_SIZE"):
        monkeypatch.setenv(name, "1")
    (tmp_path / ".env").write_text("FASTSERVE_XYZZYQ=1\nFASTSERVE_MAX_BTCH=2\nOTHER=3\n")
    assert sources.strays(FastServeConfig.model_fields, SERVER) == [
        "the environment: FASTSERVE_PROT is no setting and changes nothing; did you mean FASTSERVE_PORT?",
        ".env: FASTSERVE_MAX_BTCH is no setting and changes nothing; did you mean FASTSERVE_MAX_BATCH?",
        ".env: FASTSERVE_XYZZYQ is no setting and changes nothing",
    ]


def test_names_in_python() -> None:
    config = FastServeConfig(model_name="m", num_priority_queues=3, max_new_tokens=9, max_batch_size=2, cache_size=512)
    assert (config.model, config.max_batch, config.kv_cache_gib) == ("m", 2, 0.5)
    assert config.knobs == {"levels": 3}
    with pytest.raises(ValueError, match=r"the server has no setting 'prot'; it has model, .*; did you mean port"):
        FastServeConfig(prot=1)
    with pytest.raises(ValueError, match="twice"):
        FastServeConfig(max_batch=1, batch_size=2)


def test_lists_and_pairs() -> None:
    config = FastServeConfig(cors_origins="http://a, http://b", set=["alpha=0.5", "reset=no", "levels=unbounded"])
    assert config.cors_origins == ("http://a", "http://b")
    assert config.set == {"alpha": 0.5, "reset": False, "levels": "unbounded"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": 2}, "one worker"),
        ({"policy": "srpt"}, "needs a guess"),
        ({"policy": "srpt", "predictor": "oracle"}, "knows no true lengths"),
        ({"predictor": "constant:many"}, "'many'"),
        ({"kv_tokens": 3}, "must hold one KV block of 16 tokens"),
        ({"set": "alpha=-1"}, "alpha=-1"),
        ({"num_queues": 99}, "levels=99"),
        ({"api_key": ["", "s3cret"]}, "a token is empty"),
        ({"policy": "fcfs", "num_queues": 3}, "has no levels"),
        ({"policy": "nope"}, "no policy 'nope'"),
        ({"set": "alhpa=1"}, "no setting 'alhpa'"),
        ({"set": "alpha"}, "KEY=VALUE"),
        ({"kv_tokens": 5, "kv_cache_gib": 1}, "not both"),
        ({"batching": "magic"}, "none of mixed"),
        ({"dtype": "int3"}, "none of auto"),
        ({"temperature": float("nan")}, "temperature"),
        ({"port": 70000}, "port=70000"),
        ({"metrics_endpoint": "metrics"}, "a path"),
    ],
)
def test_refusals_are_one_line(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=ANY) as caught:
        FastServeConfig(**settings)
    line = explain(caught.value, settings)
    assert words in line and "\n" not in line


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["serve", "--show-config", "--api-key", "sesame"]) == 0
    shown = capsys.readouterr().out
    assert "sesame" not in shown and "hf_secret" not in shown and "********" in shown
    assert "environment HF_TOKEN" in shown and "command line" in shown


@pytest.mark.parametrize(
    "flags",
    [
        ["--max-batch-size", "3"], ["--batch-size", "3"], ["--max-num-seqs", "3"], ["--max-batch", "3"],
    ],
)  # fmt: skip
def test_flags_and_their_aliases(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--show-config", *flags, "--max-length", "64", "--cache-size", "256"]) == 0
    rows = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert rows["max_batch"] == "3" and rows["max_model_len"] == "64" and rows["kv_cache_gib"] == "0.25"


def test_a_wrong_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "many"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastserve serve: error: port=many") and error.count("\n") == 1


def test_a_setting_of_every_name_that_people_know() -> None:
    """http.md's section on settings."""
    from argparse import ArgumentParser

    from fastserve.cli import serve

    parser = ArgumentParser(allow_abbrev=False)
    serve.add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    wanted = (
        "model device dtype host port workers max-model-len max-length max-batch-size batch-size max-num-seqs",
        "num-queues queue-capacity kv-cache-gib cache-size gpu-memory-utilization host-cache-gib policy set",
        "chat-template api-key served-model-name request-timeout state-dir threads batching token-budget residency",
        "kv-tokens host-tokens visit max-batch latency predictor show-config",
    )
    assert [name for line in wanted for name in line.split() if f"--{name}" not in known] == []


def test_help_shows_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for flag in (
        "--kv-reserve N",
        "--kv-tokens N",
        "--prefill-guard N",
        "--timeline PATH",
        "--evict {policy,reverse,lru}",
    ):
        assert flag in shown


# -- code in .env ------------------------------------------------------------------------------------------------------

EVIL = """
import pathlib
from fastserve import Policy
pathlib.Path("ran").write_text("x")


class Evil(Policy):
    def rank(self, job):
        return job.arrival
"""
CODE = [
    "FASTSERVE_POLICY=./evil.py:Evil",
    "FASTSERVE_POLICY=evil:Evil",
    "FASTSERVE_POLICY='/tmp/evil.py:Evil'",
    "FASTSERVE_BACKEND=evil:Evil",
    "FASTSERVE_BACKEND_TYPE=./evil.py:Evil",
    "FASTSERVE_PREDICTOR=evil:Evil",
    "FASTSERVE_PREDICTOR=./evil.py:Evil",
    "FASTSERVE_OBSERVER=ok:Fine,evil:Evil",
    "FASTSERVE_TRUST_REMOTE_CODE=1",
    "FASTSERVE_TRUST_REMOTE_CODE=yes",
    "FASTSERVE_CHAT_TEMPLATE=./evil.jinja",
    'FASTSERVE_CHAT_TEMPLATE="{% for x in y %}\n{{ x }}{% endfor %}"',
    "FASTSERVE_CONFIG=evil.yaml",
    "FASTSERVE_DOTENV_CODE=1\nFASTSERVE_POLICY=./evil.py:Evil",
]


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """The current folder, with code of somebody else's."""
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "evil.jinja").write_text("{{ messages }}")
    (tmp_path / "evil.yaml").write_text("serving: {port: 1, policy: './evil.py:Evil'}\n")
    return tmp_path


@pytest.mark.parametrize("line", CODE)
def test_a_dotenv_cannot_name_code(evil: Path, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    (evil / ".env").write_text(line + "\n")
    for more in ([], ["--show-config"]):
        assert main(["serve", *more]) == 2
        out, err = capfd.readouterr()
        assert not out and err.count("\n") == 1 and err.startswith("fastserve serve: error: .env: FASTSERVE_"), err
        assert "--dotenv-code" in err or "cannot be given there" in err
    assert not (evil / "ran").exists()


def test_who_may_name_code(evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (evil / ".env").write_text("FASTSERVE_POLICY=./evil.py:Evil\n")
    assert FastServeConfig(policy="fcfs").policy == "fcfs", "what is not used does not matter"
    assert FastServeConfig(dotenv_code=True).policy == "./evil.py:Evil" and (evil / "ran").exists()
    monkeypatch.setenv("FASTSERVE_DOTENV_CODE", "1")
    assert FastServeConfig().policy == "./evil.py:Evil"
    monkeypatch.delenv("FASTSERVE_DOTENV_CODE")
    monkeypatch.setenv("FASTSERVE_POLICY", "./evil.py:Evil")
    assert FastServeConfig().policy == "./evil.py:Evil", "the environment is the user's own"
    monkeypatch.delenv("FASTSERVE_POLICY")
    (evil / ".env").write_text("FASTSERVE_CONFIG=evil.yaml\n")
    assert FastServeConfig(policy="fcfs").port == 1
    (evil / ".env").unlink()
    assert FastServeConfig(config=evil / "evil.yaml").policy == "./evil.py:Evil", "a file that was asked for"


def test_what_a_dotenv_may_name(evil: Path) -> None:
    (evil / "fine.yaml").write_text("serving: {port: 2, policy: mlfq}\n")
    (evil / ".env").write_text(
        "HF_MODEL=some/model\nFASTSERVE_POLICY=srpt\nFASTSERVE_PREDICTOR=constant:256\nFASTSERVE_BACKEND=scripted\n"
        "FASTSERVE_TRUST_REMOTE_CODE=false\nFASTSERVE_CONFIG=fine.yaml\nFASTSERVE_PORT=3\n"
    )
    config = FastServeConfig()
    assert (config.model, config.policy, config.predictor, config.port) == ("some/model", "srpt", "constant:256", 3)
    with pytest.raises(ValueError, match=r"HF_MODEL=some/model names code"):
        FastServeConfig(trust_remote_code=True)
    assert FastServeConfig(trust_remote_code=True, model="mine").model == "mine"


def test_a_packaged_model_has_its_own_temperature_unless_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FastServeConfig(model="embedded").usual_temperature == 0.7
    assert FastServeConfig(model="smollm2").usual_temperature == 0.0
    assert FastServeConfig(model="smollm2", temperature=0.7).usual_temperature == 0.7
    monkeypatch.setenv("TEMPERATURE", "0.9")
    assert FastServeConfig(model="smollm2").usual_temperature == 0.9


@pytest.mark.parametrize(("installed", "usual"), [(True, "smollm2"), (False, "embedded")])
def test_the_command_serves_a_trained_model_where_one_is_installed(
    installed: bool, usual: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(named_models, "packaged_file", lambda name: tmp_path if installed else None)

    def model(*flags: str) -> str:
        assert main(["serve", "--show-config", *flags]) == 0
        return capsys.readouterr().out.split()[1]

    assert model() == usual
    assert model("--model", "embedded") == model("--backend", "scripted") == "embedded"
    assert FastServeConfig().model == "embedded", "in Python nothing depends on what is installed"
    monkeypatch.setenv("HF_MODEL", "some/model")
    assert model() == "some/model"
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert re.search(rf"embedded or\s+smollm2\s+\(default: {usual}\)", capsys.readouterr().out)


GROUPS = """
serving:
  backend_type: BACKEND
  pytorch: {device: cpu, torch_dtype: float32, compile_model: false, optimization_level: 1}
  onnx: {providers: [CUDAExecutionProvider, CPUExecutionProvider], optimization_level: basic, intra_op_num_threads: 2,
         inter_op_num_threads: 1}
  vllm: {tensor_parallel_size: 1, gpu_memory_utilization: 0.9, max_model_len: 2048, max_num_seqs: 16,
         enable_streaming: true}
  batching: {enabled: true, max_batch_size: 8, batch_timeout_ms: 50, adaptive_batching: true}
  validation: {max_prompt_length: 4096, max_tokens: 512, allowed_characters: unicode, content_filtering: false}
  load_balancing: {enabled: true, strategy: round_robin, health_check_interval: 30, max_retries: 2,
                   instances: [{host: 127.0.0.1, port: 8001, weight: 2}]}
  health_check: {enabled: true, timeout: 4, retries: 2}
  caching: {enabled: true, cache_type: memory, cache_size: 2GB, ttl_seconds: 60}
  workers: 1
  debug: true
  reload: false
"""
"""All groups of one earlier system, in one file for both of its programs."""


@pytest.mark.parametrize("backend", ["pytorch", "onnx"])
def test_the_groups_of_an_earlier_system_are_read_by_both_programs(tmp_path: Path, backend: str) -> None:
    from fastserve.gateway.config.settings import GatewayConfig

    file = tmp_path / "serving.yaml"
    file.write_text(GROUPS.replace("BACKEND", backend))
    server = FastServeConfig(config=file)
    assert (server.max_batch, server.max_prompt_length, server.max_tokens, server.log_level) == (8, 4096, 512, "debug")
    assert server.content_filter is None
    onnx = ("CUDAExecutionProvider,CPUExecutionProvider", "basic", 2)
    got = (server.providers, server.graph_optimization, server.threads)
    assert got == (onnx if backend == "onnx" else ("auto", "all", None)), "a group of another backend counts nothing"
    idle = "\n".join(server.strays())
    for key in ("vllm.max_num_seqs", "load_balancing.strategy", "caching.cache_type", "batching.adaptive_batching"):
        assert f"{key} changes nothing here" in idle
    gateway = GatewayConfig(config=file)
    assert (gateway.router, gateway.max_retries, gateway.health_timeout, gateway.health_retries) == (
        "round_robin", 2, 4, 2)  # fmt: skip
    assert gateway.upstream == ("http://127.0.0.1:8001,weight=2",) and gateway.log_level == "debug"
    assert (gateway.cache, gateway.cache_size, gateway.cache_ttl) == ("memory", 2 << 30, 60)
    assert "pytorch.device changes nothing here" in "\n".join(gateway.strays())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("reload: false", "reload: true"), "reload=True: settings and code are read at the start"),
        (("enabled: true, max_batch", "enabled: false, max_batch"), "requests are always batched"),
        (("characters: unicode", "characters: ascii"), "prompts may have all of Unicode"),
        (("filtering: false", "filtering: true"), "give module:function"),
        (("adaptive_batching", "adaptiv_batching"), "did you mean batching.adaptive_batching?"),
        (("workers: 1", "workers: 4"), "one engine"),
    ],
)
def test_what_is_not_done_here_is_said(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(GROUPS.replace("BACKEND", "pytorch").replace(*change))
    with pytest.raises(ValueError, match=ANY) as caught:
        FastServeConfig(config=file)
    assert words in FastServeConfig.explain(caught.value, {"config": file})


def test_a_variable_of_an_earlier_system_that_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULE_TICK_MS", "15")
    assert "SCHEDULE_TICK_MS changes nothing" in "\n".join(FastServeConfig().strays())
