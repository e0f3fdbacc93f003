"""Ollama's own client at a gateway that loads, downloads, keeps and deletes models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")
pytest.importorskip("ollama", reason="needs the dev extra")
pytest.importorskip("huggingface_hub", reason="needs the gateway extra")

import ollama

from fastserve.gateway import Gateway
from tests.gateway.live import PATIENCE, on_socket
from tests.gateway.models.conftest import hub, stubs
from tests.gateway.models.fake_hub import FakeHub
from tests.gateway.models.test_hub import whole

__all__ = ["hub", "stubs"]
pytestmark = pytest.mark.usefixtures("stubs")

RAW = {"raw": True, "options": {"num_predict": 3}}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ollama.Client]:
    names = tmp_path / "models.json"
    names.write_text(json.dumps({"a": "ok", "bad": "fail"}))
    folder = tmp_path / "models"
    folder.mkdir()
    gateway = Gateway(models=names, models_dir=folder, health_check=False)
    with on_socket(gateway.app) as url, ollama.Client(url) as client:
        yield client


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def names_of(listed: Any) -> list[str]:
    return sorted(each.model for each in listed.models)


def test_a_request_loads_and_keep_alive_unloads(client: ollama.Client) -> None:
    assert names_of(client.list()) == ["a", "bad"] and names_of(client.ps()) == []
    assert client.generate("a", "hi", **RAW).response == "hello"
    (loaded,) = client.ps().models
    assert loaded.model == "a" and loaded.size > 1 << 20
    assert loaded.expires_at.year > 2100, "it stays until somebody unloads it"
    assert client.generate("a", "hi", keep_alive="10m", **RAW).done
    left = client.ps().models[0].expires_at - datetime.now(UTC)
    assert 590 < left.total_seconds() < 601
    assert client.generate("a", keep_alive=0).done_reason == "unload"
    assert names_of(client.ps()) == []
    assert client.generate("a:latest").done_reason == "load" and names_of(client.ps()) == ["a"]
    assert client.generate("a", "hi", keep_alive=0, **RAW).done
    until(lambda: names_of(client.ps()) == [])
    assert client.generate("a", "hi", **RAW).done
    assert client.ps().models[0].expires_at.year > 2100, "the time that a request asked for ends with what it unloaded"
    assert client.show("a").details.family == "torch"


def test_a_model_that_does_not_start(client: ollama.Client) -> None:
    for ask in (lambda: client.generate("bad"), lambda: client.generate("bad", "hi", **RAW)):
        with pytest.raises(ollama.ResponseError, match="the reason why") as refused:
            ask()
        assert refused.value.status_code == 500


def test_pull_with_progress_and_delete(client: ollama.Client, hub: FakeHub) -> None:
    hub.repos["owner/name"] = whole(2 << 20)
    hub.bytes_per_s = 4 << 20
    steps = list(client.pull("owner/name", stream=True))
    assert steps[0].status == "pulling manifest" and steps[-1].status == "success"
    sizes = [(step.completed, step.total) for step in steps if step.total]
    assert len(sizes) > 1 and sizes == sorted(sizes) and sizes[-1][0] == sizes[-1][1] > 2 << 20
    assert all(step.digest == "owner/name" for step in steps if step.total)
    assert "owner/name" in names_of(client.list())
    (there,) = [each for each in client.list().models if each.model == "owner/name"]
    assert there.size > 2 << 20 and there.modified_at is not None
    assert client.pull("owner/name").status == "success", "again it is nothing to do"
    client.delete("owner/name")
    assert "owner/name" not in names_of(client.list())
    with pytest.raises(ollama.ResponseError, match="not found") as refused:
        client.delete("owner/name")
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="was not downloaded") as refused:
        client.delete("a")
    assert refused.value.status_code == 400


def test_what_cannot_be_pulled(client: ollama.Client, hub: FakeHub) -> None:
    for name, status in (("owner/nothing", 503), ("llama3", 400), ("../../etc/passwd", 400), ("x" * 2000, 400)):
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError) as refused:
                list(client.pull(name, stream=stream))
            assert refused.value.status_code == status, name


def test_clients_that_may_not_manage(tmp_path: Path) -> None:
    names = tmp_path / "models.json"
    names.write_text(json.dumps({"a": "ok"}))
    tokens = {"api_key": ["one alice", "two bob"], "admin_clients": ["alice"]}
    gateway = Gateway(models=names, health_check=False, **tokens)
    with on_socket(gateway.app) as url, ollama.Client(url, headers={"Authorization": "Bearer two"}) as bob:
        assert bob.generate("a", "hi", keep_alive=0, **RAW).done, "a request loads what it needs, whoever sends it"
        for ask in (lambda: bob.generate("a", keep_alive=0), lambda: bob.pull("x/y"), lambda: bob.delete("a")):
            with pytest.raises(ollama.ResponseError, match="admin") as refused:
                ask()
            assert refused.value.status_code == 403
        assert names_of(bob.ps()) == ["a"], "its keep_alive is not heard"
