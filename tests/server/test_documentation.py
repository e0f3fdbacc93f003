"""/docs: a title, a text and an example for each route, a text for each parameter and field; and the examples are true.

`python -m tests.server.test_documentation` asks a server with the embedded model for all of them anew.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.engine import Engine
from fastserve.server import create_app
from fastserve.server.api import documentation
from fastserve.server.config.settings import FastServeConfig
from tests.server.conftest import Client, Serve
from tests.server.sse import every_data_line

pytestmark = pytest.mark.anyio

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
REQUESTS: dict[str, dict[str, Any]] = {
    "POST /v1/completions": {"prompt": "Once upon a time", "max_tokens": 8, "priority": 0},
    "POST /v1/chat/completions": {**CHAT, "max_tokens": 8, "user": "alice"},
    "POST /tokenize": {"prompt": "Once"},
    "POST /detokenize": {"tokens": [79, 110, 99, 101]},
    "POST /generate": {
        "prompt": "Once upon a time",
        "max_new_tokens": 8,
        "program": "story-7",
        "metadata": {"mine": 1},
    },
    "POST /generate/stream": {"prompt": "Once", "max_new_tokens": 2},
    "POST /chat": {**CHAT, "max_new_tokens": 8},
    "POST /jobs": {"prompt": "Once upon a time", "max_new_tokens": 8, "deadline_s": 60},
    "POST /v1/generate": {"prompt": "Once", "max_new_tokens": 2},
    "POST /v1/generate_nobatch": {"prompt": "Once", "max_new_tokens": 2},
    "POST /stream": {"prompt": "Once", "max_length": 6},
    "POST /send_text": {"text": "Once"},
    "POST /programs/release": {"program_id": "story-7"},
    "POST /v1/load_lora_adapter": {"lora_name": "style", "lora_path": "style"},
    "POST /v1/unload_lora_adapter": {"lora_name": "style"},
}
ADAPTERS = ("POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter")
"""These are answered where there are adapters: tests/server/test_lora.py."""
EMPTY = ("GET /ping",)
LIVE = ("GET /live", "GET /metrics")
"""Of these an example shows the beginning only."""


async def operations(client: Client | httpx.AsyncClient) -> dict[str, Any]:
    schema = (await client.get("/openapi.json")).json()
    return {f"{method.upper()} {path}": each for path, all_ in schema["paths"].items() for method, each in all_.items()}


async def asked(client: httpx.AsyncClient, route: str, ids: dict[str, str]) -> tuple[dict[str, Any], Any]:
    """(parameters, answer) of a route; ids: of a job and a task that exist."""
    method, path = route.split()
    given: dict[str, Any] = {name: value for name, value in ids.items() if f"{{{name}}}" in path}
    query: dict[str, Any] = {}
    if route == "GET /poll_task_status":
        query = {"task_id": ids["task_id"]}
    elif route == "GET /jobs":
        query = {"state": "finished", "limit": 1}
    elif route == "GET /stream":
        query = {"prompt": "Once", "max_new_tokens": 2}
    response = await client.request(method, path.format(**given), params=query, json=REQUESTS.get(route))
    assert response.is_success, (route, response.text)
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return given | query, response.json() if is_json else response.text or None


async def examples(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    ids = {"name": (await client.get("/v1/models")).json()["data"][0]["id"]}
    ids["program"] = "story-7"
    ids["job_id"] = (await client.post("/generate", json=REQUESTS["POST /generate"])).json()["job_id"]
    ids["task_id"] = (await client.post("/send_text", json={"text": "Once"})).json()["task_id"]
    while (await client.get(f"/jobs/{ids['task_id']}")).json()["ended"] is None:
        await asyncio.sleep(0.01)
    found: dict[str, dict[str, Any]] = {}
    for route in await operations(client):
        if route in (*LIVE, *ADAPTERS):
            continue
        parameters, answer = await asked(client, route, ids)
        found[route] = {"parameters": parameters, "request": REQUESTS.get(route), "answer": answer}
        found[route] = {name: value for name, value in found[route].items() if value not in (None, {})}
    metrics = (await client.get("/metrics")).text.splitlines()
    found["GET /metrics"] = {"answer": "\n".join(line for line in metrics if "requests" in line) + "\n"}
    return found


async def test_every_route_is_described_and_has_an_example(serve: Serve) -> None:
    async with serve() as client:
        schema = (await client.get("/openapi.json")).json()
        for route, operation in (await operations(client)).items():
            assert operation["summary"] and len(operation["description"]) > 20, route
            assert operation["summary"] == documentation.ROUTES[route][0], route
            for parameter in operation.get("parameters", []):
                assert parameter["description"], (route, parameter["name"])
            for content in operation.get("requestBody", {}).get("content", {}).values():
                assert content["example"] == REQUESTS[route]
            good = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
            assert any("example" in content for content in good[0]["content"].values()) or route in EMPTY, route
        assert set(documentation.ROUTES) == set(await operations(client)), "none that does not exist"
        for name, model in schema["components"]["schemas"].items():
            for field, facts in model.get("properties", {}).items():
                assert facts.get("description"), f"{name}.{field}"


async def test_the_examples_are_what_is_answered(serve: Serve) -> None:
    async with serve(Engine.scripted(max_batch=4)) as client:
        now = await examples(client)
        kept = documentation.examples()
        assert set(now) | {"GET /live", *ADAPTERS} == set(kept)
        for route, example in now.items():
            assert example.get("request") == kept[route].get("request"), route
            assert set(example.get("parameters", ())) == set(kept[route].get("parameters", ())), route
            assert shape(example.get("answer")) == shape(kept[route].get("answer")), route


def shape(answer: Any) -> Any:
    """The fields of an answer; of a stream those of its first and last event."""
    if isinstance(answer, dict):
        inner = {"settings", "queues", "metadata", "gpu_memory"}
        return {name: shape(value) if name not in inner else None for name, value in answer.items()}
    if isinstance(answer, list):
        return [shape(answer[0])] if answer and isinstance(answer[0], dict) else []
    if isinstance(answer, str) and answer.startswith("data:"):
        events = every_data_line(answer)
        return shape(events[0]), shape(events[-1])
    return None


async def write() -> None:
    engine = Engine.from_pretrained("embedded")
    app = create_app(engine, FastServeConfig())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        found = await examples(client)
        snapshot = await app.state.service.broadcaster.snapshot()
    engine.close()
    snapshot |= {"settings": {"policy": snapshot["settings"]["policy"]}, "knobs": {}}
    found["GET /live"] = {"answer": f"data: {json.dumps(snapshot)}\n\n"}
    documentation.FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(write())
