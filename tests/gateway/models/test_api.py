"""Routes of models that come and go: jobs, states, events, deletion, adapters, and who may do what."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fastserve.gateway import Gateway
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.run import beginning
from fastserve.gateway.sending import NONE_YET
from tests.gateway.models.fake_hub import FakeHub
from tests.gateway.models.test_hub import whole

pytestmark = pytest.mark.usefixtures("stubs")

PATIENCE = 60.0


@contextmanager
def served(**settings: Any) -> Iterator[TestClient]:
    gateway = Gateway(GatewayConfig(**{"health_check": False, **settings}))
    with TestClient(gateway.app, base_url="http://127.0.0.1") as client:
        yield client


def named(folder: Path, **kinds: Any) -> Path:
    path = folder / "models.json"
    path.write_text(json.dumps(kinds))
    return path


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def ended(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    def look() -> Any:
        found = client.get(f"/models/jobs/{job['job_id']}").json()
        return found if found["processed"] else None

    found: dict[str, Any] = until(look)
    return found


def complete(client: TestClient, model: str, **more: Any) -> Any:
    return client.post("/v1/completions", json={"model": model, "prompt": "hi", **more})


def test_a_request_loads_its_model_and_lists_have_all_of_them(tmp_path: Path) -> None:
    with served(models=named(tmp_path, a="ok", b="ok"), model_options={"max_batch": 3}) as client:
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["a", "b"]
        assert client.get("/models/a/status").json()["state"] == "unloaded"
        answer = complete(client, "a").json()
        assert answer["settings"] == {"max_batch": 3, "model": "ok", "served_model_name": "a"}
        about = client.get("/models/a/status").json()
        assert about["state"] == "ready" and about["memory"] > 1 << 20 and about["load_seconds"] > 0
        assert about["pid"] == answer["pid"]
        status = client.get("/gateway/status").json()["models"]
        assert status["loaded"] == ["a"] and status["memory"] == about["memory"] and status["loads"] == 1
        assert complete(client, "nobody").status_code == 404


def test_a_request_names_neither_options_nor_paths(tmp_path: Path) -> None:
    with served(models=named(tmp_path, a="ok")) as client:
        for body in (
            {"model_id": "a", "options": {"trust_remote_code": True}},
            {"model_id": "a", "path": "/etc"},
            {"model_id": "a", "backend": "x:Y"},
        ):
            assert client.post("/models/load", json=body).status_code in (400, 422)
        for name in (
            "../../etc/passwd",
            "/etc/passwd",
            "./a",
            "a\x00",
            "a/b\n",
            "\x1b[31m",
            "~",
            "a/b/c",
            "file:///etc",
            "x" * 300,
        ):
            for path in ("/models/load", "/models/apply"):
                answer = client.post(path, json={"model_id": name})
                assert answer.status_code in (400, 422), (name, answer.text)
                assert len(answer.text) < 1000 and ("model" in answer.json()["error"]["message"]), answer.text
            assert complete(client, name).status_code == 404
        assert client.get("/models/jobs").json()["jobs"] == [], "no job that could only fail"
        assert client.get("/models/..%2f..%2fetc/status").status_code == 404
        assert client.delete("/models/..%2f..%2fetc%2fpasswd").status_code == 404


def test_a_load_is_a_job(tmp_path: Path) -> None:
    with served(models=named(tmp_path, a="slow:0.3", bad="fail")) as client:
        first = client.post("/models/load", json={"model_id": "a"})
        assert first.status_code == 202 and first.headers["location"] == f"/models/jobs/{first.json()['job_id']}"
        assert client.post("/models/load", json={"model": "a"}).json()["job_id"] == first.json()["job_id"]
        assert ended(client, first.json())["state"] == "finished"
        assert client.post("/models/load?wait=1", json={"model_id": "a"}).json()["state"] == "finished"
        answer = client.post("/models/apply", json={"id": "a"}).json()
        assert answer["status"].endswith(f"/models/jobs/{answer['uuid']}")
        assert client.get(answer["status"]).status_code == 200
        bad = ended(client, client.post("/models/load", json={"model_id": "bad"}).json())
        assert bad["state"] == "failed" and "the reason why" in bad["error"]
        assert client.post("/models/load", json={"model_id": "bad", "wait": True}).status_code == 503
        assert client.post("/models/load", json={"model_id": "nobody"}).status_code == 404
        assert client.get("/models/jobs/nothing").status_code == 404
        assert len(client.get("/models/jobs").json()["jobs"]) == 5


def test_unload(tmp_path: Path) -> None:
    with served(models=named(tmp_path, a="ok")) as client:
        assert client.post("/models/unload", json={"model": "a"}).json()["was_loaded"] is False
        pid = complete(client, "a").json()["pid"]
        gone = client.post("/models/unload", json={"model": "a"}).json()
        assert gone["was_loaded"] is True and gone["state"] == "unloaded"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert client.post("/models/unload", json={"model": "nobody"}).status_code == 404


def test_places_that_are_taken_are_a_503_with_retry_after(tmp_path: Path) -> None:
    import threading

    with served(models=named(tmp_path, a="ok", b="ok"), models_max=1) as client:
        complete(client, "a")
        long = threading.Thread(target=complete, args=(client, "a"), kwargs={"seconds": 2})
        long.start()
        until(lambda: client.get("/models/a/status").json()["requests"])
        refused = complete(client, "b")
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert "all 1 places are taken by models with requests (a)" in refused.text
        busy = client.post("/models/unload", json={"model": "a"})
        assert busy.status_code == 409 and "force" in busy.text
        long.join(PATIENCE)
        assert complete(client, "b").status_code == 200


def test_a_start_that_fails_is_told_to_the_client(tmp_path: Path) -> None:
    with served(models=named(tmp_path, bad="fail")) as client:
        answer = complete(client, "bad")
        assert answer.status_code == 500 and "ended with status 3" in answer.json()["error"]["message"]
        assert "the reason why" in answer.text and "retry-after" not in answer.headers


def test_a_server_that_dies_under_a_request_is_replaced(tmp_path: Path) -> None:
    """The request has no byte of an answer yet, so the next server answers it."""
    import signal
    import threading

    with served(models=named(tmp_path, a="ok")) as client:
        first = complete(client, "a").json()["pid"]
        answers: list[Any] = []
        long = threading.Thread(target=lambda: answers.append(complete(client, "a", seconds=1.0)))
        long.start()
        until(lambda: client.get("/models/a/status").json()["requests"])
        os.kill(first, signal.SIGKILL)
        long.join(PATIENCE)
        assert answers[0].status_code == 200 and answers[0].json()["pid"] != first
        assert client.get("/models/a/status").json()["restarts"] == 1


def test_a_server_that_hangs_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fast = {"health_interval": 0.1, "health_timeout": 0.5, "health_retries": 2, "load_timeout": 10.0}
    with served(models=named(tmp_path, a="ok"), health_check=True, **fast) as client:
        pid = complete(client, "a").json()["pid"]
        models = client.app.state.gateway.parts  # type: ignore[attr-defined]
        supervisor = next(part for part in models if part.name == "models").supervisor
        supervisor.models["a"].start_s = 1.0  # (a start may take longer than that on a slow machine)
        os.kill(pid, signal.SIGSTOP)
        about = until(lambda: (found := client.get("/models/a/status").json())["restarts"] and found)
        supervisor.models["a"].start_s = PATIENCE
        assert about["restarts"] == 1
        assert complete(client, "a").json()["pid"] != pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert "has failed its health checks for 1 s, and was ended" in caplog.text


def test_events_of_what_is_not_there(tmp_path: Path) -> None:
    with served(models=named(tmp_path, a="ok")) as client:
        assert client.get("/models/nobody/events").status_code == 404


def test_download_load_and_delete(hub: FakeHub, tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    hub.repos["owner/name"] = {**whole(), "config.json": b'{"model_type": "llama"}'}
    hub.repos["owner/quants"] = {"q4.gguf": b"GGUF4"}
    with served(models_dir=root) as client:
        job = ended(client, client.post("/models/load", json={"model_id": "owner/name"}).json())
        assert job["state"] == "finished" and job["completed"] == job["total"] == job["file_size"] > 100_000
        row = client.get("/models/owner/name/status").json()
        assert row["downloaded"] is True and row["path"] == str(root / "owner/name") and row["loaded"] is True
        client.post("/models/load?wait=1", json={"model_id": "owner/quants:q4.gguf"})
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == [
            "owner/name",
            "owner/quants:q4.gguf",
        ]
        for name in ("owner/name", "owner/quants:q4.gguf"):
            assert client.delete(f"/models/{name}").json() == {"success": True, "model_id": name}
            assert client.delete(f"/models/{name}").status_code == 404
        assert [each.name for each in root.iterdir()] == [".incoming"]
        unknown = ended(client, client.post("/models/load", json={"model_id": "owner/nobody"}).json())
        assert unknown["state"] == "failed" and "there is no model owner/nobody" in unknown["error"]


def test_without_a_folder_downloads_go_to_the_hubs_cache(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))  # as processes find it that are started now
    hub.repos["owner/name"] = whole()
    with served(models=named(tmp_path, a="ok")) as client:
        assert client.post("/models/load?wait=1", json={"model_id": "owner/name"}).json()["state"] == "finished"
        assert complete(client, "owner/name").json()["settings"]["model"] == "owner/name"
        assert (cache / "models--owner--name").is_dir()
        assert client.delete("/models/owner/name").status_code == 200
        assert not (cache / "models--owner--name").exists()
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["a"]


def test_a_download_is_cancelled_by_delete_of_its_job(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = whole(8 << 20)
    hub.bytes_per_s = 1e6
    with served(models_dir=tmp_path) as client:
        job = client.post("/models/load", json={"model_id": "owner/name"}).json()
        until(lambda: client.get(f"/models/jobs/{job['job_id']}").json()["completed"])
        assert client.get("/gateway/status").json()["models"]["downloads"][0]["total"] > 8 << 20
        assert client.delete(f"/models/jobs/{job['job_id']}").json()["state"] == "cancelled"
        until(lambda: not client.get("/gateway/status").json()["models"]["downloads"])


def test_what_was_not_downloaded_is_not_deleted(tmp_path: Path) -> None:
    root = tmp_path / "models"
    (root / "mine").mkdir(parents=True)
    (root / "mine" / "config.json").write_text("{}")
    with served(models_dir=root, models=named(tmp_path, a="ok")) as client:
        for name in ("mine", "a"):
            answer = client.delete(f"/models/{name}")
            assert answer.status_code == 400 and "was not downloaded here" in answer.text
    assert (root / "mine" / "config.json").exists()


def test_downloads_can_be_switched_off(hub: FakeHub, tmp_path: Path) -> None:
    with served(models_dir=tmp_path, models_pull=False) as client:
        job = ended(client, client.post("/models/load", json={"model_id": "owner/name"}).json())
        assert "downloads are switched off here" in job["error"]
        assert client.get("/models/search/llama").status_code == 403
    assert hub.asked == []


def test_search_is_bounded(tmp_path: Path) -> None:
    with served(models_dir=tmp_path) as client:
        for path in (f"/models/search/{'x' * 201}", "/models/search/llama?limit=51", "/models/search/llama?limit=0"):
            assert client.get(path).status_code == 400


def test_jobs_are_bounded(hub: FakeHub, tmp_path: Path) -> None:
    hub.bytes_per_s = 1000
    with served(models_dir=tmp_path) as client:
        for number in range(4):
            hub.repos[f"owner/n{number}"] = whole()
            assert client.post("/models/load", json={"model_id": f"owner/n{number}"}).status_code == 202
        refused = client.post("/models/load", json={"model_id": "owner/n5"})
        assert refused.status_code == 429 and "retry-after" in refused.headers


def test_with_tokens_only_managers_manage(hub: FakeHub, tmp_path: Path) -> None:
    settings = {"api_key": ["s3cret boss", "other user"], "admin_clients": ["boss"]}
    boss, user = ({"Authorization": f"Bearer {token}"} for token in ("s3cret", "other"))
    with served(models=named(tmp_path, a="ok"), **settings) as client:
        assert client.post("/models/load", json={"model_id": "a"}).status_code == 401
        job = client.post("/models/load?wait=1", json={"model_id": "a"}, headers=user)
        assert job.json()["state"] == "finished", "a request for it would load it, too"
        for method, path, body in (
            ("POST", "/models/load", {"model_id": "owner/name"}),
            ("POST", "/models/unload", {"model_id": "a"}),
            ("GET", "/models/a/events", None),
            ("DELETE", "/models/a", None),
            ("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "x"}),
        ):
            assert client.request(method, path, json=body, headers=user).status_code == 403, path
        assert client.get(f"/models/jobs/{job.json()['job_id']}", headers=boss).status_code == 404
        assert client.post("/models/unload", json={"model_id": "a"}, headers=boss).status_code == 200


def test_a_models_server_is_told_whose_a_request_is(tmp_path: Path) -> None:
    """So that fairness, prefixes and jobs are each client's there, too. Nobody can say that he is somebody else."""
    spoofed = {"X-FastServe-Client": "boss"}
    with served(models=named(tmp_path, a="ok"), api_key=["s3cret boss", "other Zo\u00eb"]) as client:
        for token, name in (("s3cret", "boss"), ("other", "Zo%C3%AB")):
            headers = {"Authorization": f"Bearer {token}"} | spoofed
            answer = client.post("/v1/completions", json={"model": "a", "prompt": "hi", "user": "x"}, headers=headers)
            assert answer.json()["clients"] == [name]
    with served(models=named(tmp_path, a="ok")) as client:
        answer = client.post("/v1/completions", json={"model": "a", "prompt": "hi", "user": "x"}, headers=spoofed)
        assert answer.json()["clients"] is None, "without tokens a server reads `user` itself"


def test_adapters_are_passed_on_and_remembered(tmp_path: Path) -> None:
    root = tmp_path / "models"
    (root / "sql").mkdir(parents=True)
    with served(models_dir=root, models=named(tmp_path, a={"path": "ok", "lora": {"listed": "/x"}})) as client:
        assert complete(client, "listed").json()["lora"] == ["listed=/x"]
        for path in ("/etc", "../models.json", "nowhere"):
            answer = client.post("/v1/load_lora_adapter", json={"lora_name": "sql", "lora_path": path})
            assert answer.status_code == 400 and "nothing below --models-dir" in answer.text
        for path in ("sql", str(root / "sql")):
            answer = client.post("/v1/load_lora_adapter", json={"lora_name": "sql", "lora_path": path})
            assert answer.status_code == (200 if path == "sql" else 400), answer.text
        assert "sql" in [card["id"] for card in client.get("/v1/models").json()["data"]]
        expected = ["listed=/x", f"sql={root / 'sql'}"]
        assert complete(client, "sql").json()["lora"] == expected
        client.post("/models/unload", json={"model": "a"})
        assert complete(client, "sql").json()["lora"] == expected, "the next process has it, too"
        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "listed"}).status_code == 400
        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "sql"}).status_code == 200
        assert complete(client, "sql").status_code == 404 and complete(client, "a").json()["lora"] == ["listed=/x"]


def test_a_gateway_without_models_has_no_such_part() -> None:
    with served(upstream=()) as client:
        assert client.post("/models/load", json={"model_id": "a"}).status_code == 404
        assert "models" not in client.get("/gateway/status").json()


def test_a_file_that_is_wrong_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a has no path"):
        Gateway(GatewayConfig(models=named(tmp_path, a={})))


def test_the_first_lines_name_the_models(tmp_path: Path) -> None:
    some = named(tmp_path, **{f"m{i}": f"/x/{i}" for i in range(10)})
    _, models = beginning(Gateway(GatewayConfig(models=some)))
    assert models == "models that are loaded when a request names them: m0, m1, m2, m3, m4, m5, m6, m7 and 2 more"
    assert beginning(Gateway(GatewayConfig())) == ["gateway of 0 upstreams, router least-connections", NONE_YET]
