"""Tokens: of the settings, of a file, and of a validation endpoint; what each client may see; rate limits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig
from tests.server.conftest import Client, Serve, slow_engine

pytestmark = pytest.mark.anyio


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def generate(client: Client, token: str, **fields: object) -> object:
    body = {"prompt": "hello", "max_new_tokens": 4, **fields}
    return await client.post("/generate", json=body, headers=bearer(token))


async def test_what_is_open_and_what_is_not(serve: Serve) -> None:
    async with serve(api_key="secret") as client:
        for path in ("/health", "/health/ready", "/health_check", "/ping"):
            assert (await client.get(path)).status_code == 200, path
        for path in (
            "/v1/models",
            "/models",
            "/stats",
            "/jobs",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/live",
            "/nope",
        ):
            response = await client.get(path)
            assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer", path
            assert "x-request-id" in response.headers
        assert (await client.get("/v1/models")).json()["error"]["type"] == "AuthenticationError"
        for header in ("Bearer wrong", "Basic secret", "secret", "Bearer", "Bearer secret2"):
            assert (await client.get("/stats", headers={"Authorization": header})).status_code == 401, header
        for header in ("Bearer secret", "bearer secret"):
            assert (await client.get("/stats", headers={"Authorization": header})).status_code == 200


async def test_a_gateways_token_speaks_for_its_clients(serve: Serve) -> None:
    async with serve(api_key=["key *", "aaa alice"]) as client:
        ids = []
        for name, token in (("alice", "key"), ("Zo%C3%AB", "key"), (None, "key"), ("bob", "aaa")):
            headers = bearer(token) | ({} if name is None else {"X-FastServe-Client": name})
            answer = await client.post("/generate", json={"prompt": "hello", "max_new_tokens": 4}, headers=headers)
            ids.append(answer.json()["job_id"])

        async def seen(**headers: str) -> list[str]:
            answer = await client.get("/jobs", headers=bearer("key") | headers)
            return [job["job_id"] for job in answer.json()["jobs"]]

        by_alice = await client.get("/jobs", headers=bearer("aaa"))
        assert {job["job_id"] for job in by_alice.json()["jobs"]} == {ids[0], ids[3]}, "a token's own name holds"
        assert await seen(**{"X-FastServe-Client": "Zo%C3%AB"}) == [ids[1]]
        assert set(await seen()) == set(ids), "without a name it is the gateway itself, as without authentication"


async def test_a_file_names_clients_and_each_sees_its_own_jobs(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# who may come\naaa alice\nbbb bob\n\nccc\n")
    async with serve(api_key_file=file) as client:
        alice = (await generate(client, "aaa", user="mallory")).json()
        jobs = (await client.get("/jobs", headers=bearer("aaa"))).json()["jobs"]
        assert [job["job_id"] for job in jobs] == [alice["job_id"]] and jobs[0]["client"] == "alice"
        for token in ("bbb", "ccc"):
            assert (await client.get("/jobs", headers=bearer(token))).json()["total"] == 0
            for method in ("GET", "DELETE"):
                response = await client.request(method, f"/jobs/{alice['job_id']}", headers=bearer(token))
                assert response.status_code == 404
            path = f"/get_task_status/{alice['job_id']}"
            assert (await client.get(path, headers=bearer(token))).status_code == 404
        unnamed = (await generate(client, "ccc")).json()["job_id"]
        name = (await client.get(f"/jobs/{unnamed}", headers=bearer("ccc"))).json()["client"]
        assert name.startswith("client-") and "ccc" not in name


async def test_without_tokens_the_client_is_the_user(serve: Serve) -> None:
    async with serve() as client:
        for fields, name in (({"user": "eve"}, "eve"), ({}, "default")):
            answer = (await client.post("/generate", json={"prompt": "a", **fields})).json()
            assert (await client.get(f"/jobs/{answer['job_id']}")).json()["client"] == name


def test_a_token_file_that_is_none(tmp_path: Path) -> None:
    with slow_engine() as engine:
        for file, words in ((tmp_path / "none", "cannot be read"), (tmp_path / "empty", "holds no token")):
            if file.name == "empty":
                file.write_text("# nothing\n")
            with pytest.raises(ValueError, match=words):
                create_app(engine, FastServeConfig(api_key_file=file))


@pytest.fixture
def vouching() -> Iterator[tuple[str, list[str]]]:
    """A small introspection endpoint: (its URL, the tokens that it was asked about)."""
    asked: list[str] = []
    known = {
        "good": {"active": True, "scope": "read generate", "client_id": "carol"},
        "listed": {"active": True, "scopes": ["generate"], "sub": "dave"},
        "weak": {"active": True, "scope": "read"},
        "old": {"active": False},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            token = parse_qs(body)["token"][0]
            asked.append(token)
            self.send_response(500 if token == "boom" else 200)
            self.end_headers()
            self.wfile.write(json.dumps(known.get(token, {"active": False})).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/introspect", asked
    server.shutdown()
    thread.join()
    server.server_close()


async def test_tokens_are_checked_at_a_url(serve: Serve, vouching: tuple[str, list[str]]) -> None:
    url, asked = vouching
    async with serve(api_key="local", token_validation_url=url, required_scopes="generate") as client:
        expected = {"local": 200, "good": 200, "listed": 200, "weak": 403, "old": 401, "never": 401, "boom": 503}
        for token, status in expected.items():
            response = await client.get("/stats", headers=bearer(token))
            assert response.status_code == status, token
        assert "local" not in asked, "a token of the settings needs no question"
        count = len(asked)
        job = (await generate(client, "good")).json()["job_id"]
        assert len(asked) == count, "an answer is trusted for a while"
        assert (await client.get(f"/jobs/{job}", headers=bearer("good"))).json()["client"] == "carol"


async def test_a_url_that_does_not_answer_is_503(serve: Serve) -> None:
    async with serve(token_validation_url="http://127.0.0.1:9/introspect") as client:
        response = await client.get("/v1/models", headers=bearer("x"))
        assert response.status_code == 503 and "checked" in response.json()["error"]["message"]
        assert int(response.headers["retry-after"]) >= 1
        assert (await client.get("/health")).status_code == 200


# -- rate limits -------------------------------------------------------------------------------------------------------


async def test_requests_a_minute_are_counted_by_client(serve: Serve) -> None:
    async with serve(api_key="aaa alice,bbb bob", requests_per_minute=3) as client:
        assert [(await generate(client, "aaa")).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = await client.post("/v1/completions", json={"prompt": "a"}, headers=bearer("aaa"))
        assert refused.status_code == 429 and refused.json()["error"]["type"] == "RateLimitError"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await generate(client, "bbb")).status_code == 200
        assert (await client.get("/stats", headers=bearer("aaa"))).status_code == 200, "looking is free"


async def test_choices_of_one_request_count_once(serve: Serve) -> None:
    async with serve(requests_per_minute=2) as client:
        many = {"prompt": ["a", "b"], "n": 3, "max_tokens": 2}
        assert [(await client.post("/v1/completions", json=many)).status_code for _ in range(3)] == [200, 200, 429]


async def test_tokens_may_be_overdrawn_once(serve: Serve) -> None:
    async with serve(tokens_per_minute=20) as client:
        fields = {"prompt": "hello", "max_new_tokens": 40}  # 45 tokens, of which 5 are booked at acceptance
        assert (await client.post("/generate", json=fields)).status_code == 200
        refused = await client.post("/generate", json=fields)
        assert refused.status_code == 429 and "tokens a minute" in refused.json()["detail"]


async def test_a_burst(serve: Serve) -> None:
    async with serve(requests_per_minute=100, burst_allowance=2) as client:
        statuses = [(await client.post("/generate", json={"prompt": "a"})).status_code for _ in range(3)]
        assert statuses[:2] == [200, 200] and statuses[2] in (200, 429)  # 200 if the machine took a second over it


async def test_lengths(serve: Serve) -> None:
    async with serve(max_prompt_length=5, max_tokens=10) as client:
        assert (await client.post("/generate", json={"prompt": "hello"})).json()["tokens_generated"] == 10
        for fields in ({"prompt": "hello!"}, {"prompt": "a", "max_new_tokens": 11}):
            assert (await client.post("/generate", json=fields)).status_code == 400
        chat = {"messages": [{"role": "user", "content": ""}]}
        assert (await client.post("/v1/chat/completions", json=chat)).status_code == 400


async def test_cors(serve: Serve) -> None:
    preflight = {"Origin": "http://page.test", "Access-Control-Request-Method": "POST"}
    async with serve(cors_origins="http://page.test", api_key="secret") as client:
        response = await client.options("/generate", headers=preflight)
        assert response.status_code == 200 and response.headers["access-control-allow-origin"] == "http://page.test"
    async with serve() as client:
        response = await client.get("/health", headers={"Origin": "http://page.test"})
        assert "access-control-allow-origin" not in response.headers
