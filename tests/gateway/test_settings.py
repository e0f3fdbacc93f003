"""GatewayConfig: flags, environment, YAML with the groups of other servers; the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastserve.__main__ import main
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.server.config.settings import FastServeConfig

GROUPS = """
serving:
  host: 0.0.0.0
  load_balancing:
    enabled: true
    strategy: least_connections
    health_check_interval: 30
    max_retries: 5
    instances:
      - {host: 10.0.0.1, port: 8001, weight: 2}
      - {host: 10.0.0.2, port: 8002}
      - {url: "https://far.example/llm/v1", name: far, key_env: FAR_KEY, models: [a, b]}
  health_check: {enabled: true, interval: 7, timeout: 3, retries: 2}
  auth: {enabled: true, auth_type: bearer_token, tokens: [t1]}
  batching: {max_batch_size: 8}
"""


def test_the_groups_of_other_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-far")
    path = tmp_path / "serving.yaml"
    path.write_text(GROUPS)
    config = GatewayConfig(config=path)
    first, second, far = config.places()
    assert (first.url, first.weight, second.url, second.weight) == (
        "http://10.0.0.1:8001",
        2,
        "http://10.0.0.2:8002",
        1,
    )
    assert (far.url, far.name, far.models) == ("https://far.example/llm", "far", ("a", "b"))
    assert far.key is not None and far.key.get_secret_value() == "sk-far"
    assert (config.router, config.max_retries, config.host) == ("least_connections", 5, "0.0.0.0")
    assert (config.health_interval, config.health_timeout, config.health_retries) == (7, 3, 2)
    assert [key.get_secret_value() for key in config.api_key] == ["t1"]
    assert config.strays() == [
        f"config file {path}: batching.max_batch_size changes nothing here: it is for `fastserve serve`, a model server"
    ]


def test_a_model_server_takes_the_same_file_and_says_what_is_not_its(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    path.write_text(GROUPS)
    config = FastServeConfig(config=path)
    assert config.max_batch == 8
    (first, *_) = config.strays()
    assert "load_balancing.enabled changes nothing here: it is for `fastserve gateway`" in first


def test_the_environment_has_a_prefix_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSERVE_PORT", "8123")
    monkeypatch.setenv("FASTSERVE_GATEWAY_UPSTREAM", "http://a:1,weight=2,http://b:2 c:3")
    monkeypatch.setenv("FASTSERVE_GATEWAY_ROUTR", "x")
    config = GatewayConfig()
    assert config.port == 8000
    assert [(place.url, place.weight) for place in config.places()] == [
        ("http://a:1", 2), ("http://b:2", 1), ("http://c:3", 1)
    ]  # fmt: skip
    (stray,) = config.strays()
    assert "FASTSERVE_GATEWAY_ROUTR is no setting" in stray and "FASTSERVE_GATEWAY_ROUTER" in stray
    assert FastServeConfig().strays() == []  # the gateway's variables are not a server's


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"upstream": "ftp://a"}, "no URL"),
        ({"upstream": "http://a,wait=1"}, "no option of an upstream"),
        ({"upstream": "http://a,weight=0"}, "above 0"),
        ({"upstream": "http://a,weight=nan"}, "above 0"),
        ({"upstream": "http://a,key_env=NOT_THERE"}, "no such variable"),
        ({"upstream": "http://a,key=secret"}, "key is no option of an upstream"),
        ({"upstream": "http://user:secret@a"}, "no address of a server"),
        ({"upstream": "http://user:secret@a:port"}, "no URL"),
        ({"upstream": "http://a?key=secret"}, "no address of a server"),
        ({"router": "round-robbin"}, "round-robin"),
        ({"router": "round-robin", "router_set": {"x": 1}}, "x"),
        ({"upstreem": "http://a"}, "upstream"),
        ({"upstream_key": "a b"}, "one word"),
        ({"max_retries": -1}, "greater than or equal to 0"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        GatewayConfig(**settings)
    assert "secret" not in GatewayConfig.explain(caught.value, {})


def test_dotenv_may_name_no_router_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("FASTSERVE_GATEWAY_ROUTER=./mine.py:Mine\n")
    with pytest.raises(ValueError, match="names code"):
        GatewayConfig()


def test_settings_are_shown_and_keys_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSERVE_GATEWAY_UPSTREAM_KEY", "sk-hush")
    assert main(["gateway", "--upstream", "127.0.0.1:1", "--upstream", "b:2,weight=3", "--show-config"]) == 0
    out = capsys.readouterr().out
    assert "127.0.0.1:1, b:2,weight=3" in out and "hush" not in out and "********" in out
    assert "environment FASTSERVE_GATEWAY_UPSTREAM_KEY" in out


def test_the_command_says_what_is_wrong_in_one_line() -> None:
    for flags, said, status in (
        (["--upstream", "ftp://a"], "no URL", 2),
        (["--router", "nobody"], "nobody", 2),
        (["--route-log", "/"], "Cannot write", 1),
        (["--port", "0", "--host", "256.1.1.1"], "cannot listen", 1),
    ):
        command = [sys.executable, "-m", "fastserve", "gateway", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == status, done
        assert said in done.stderr and "Traceback" not in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_gateway_imports_neither_torch_nor_the_engine() -> None:
    code = (
        "import sys\nfrom fastserve.gateway import Gateway\n"
        "gateway = Gateway(upstream='http://127.0.0.1:1', router='prefix')\n"
        "import fastserve.server.http.process\n"
        "print(*[name for name in sys.modules if name.split('.')[0] in ('torch', 'transformers', 'numpy', 'pandas')"
        " or name.startswith(('fastserve.engine', 'fastserve.launch', 'fastserve.server.service'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
