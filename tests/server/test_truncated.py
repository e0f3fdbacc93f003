"""A request that outgrew the KV pool: its own word wherever we speak, `length` where OpenAI's clients listen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastserve.engine import Engine
from tests.server.conftest import Serve
from tests.server.sse import every_data_line

pytestmark = pytest.mark.anyio

LONG = {"prompt": "x" * 40, "temperature": 0, "ignore_eos": True}  # 64 tokens of KV: 25 come, whatever is asked for


async def test_what_outgrew_the_pool_is_told(serve: Serve) -> None:
    async with serve(Engine.scripted(kv_tokens=64)) as client:
        answer = (await client.post("/generate", json={**LONG, "max_new_tokens": 100})).json()
        assert (answer["finish_reason"], answer["tokens_generated"]) == ("truncated", 25)
        assert answer["completion_time"] >= answer["execution_time"] >= 0
        whole = (await client.post("/generate", json={**LONG, "max_new_tokens": 25})).json()
        assert (whole["finish_reason"], whole["tokens_generated"]) == ("length", 25)

        *_, last = every_data_line((await client.post("/generate/stream", json={**LONG, "max_new_tokens": 100})).text)
        assert last["finish_reason"] == "truncated" and "error" not in last

        job = (await client.post("/jobs", json={**LONG, "max_new_tokens": 100})).json()["job_id"]
        view: dict[str, Any] = {}
        while not view.get("ended"):
            view = (await client.get(f"/jobs/{job}")).json()
            await asyncio.sleep(0.01)
        assert (view["state"], view["reason"]) == ("finished", "truncated")

        body = {**LONG, "max_tokens": 100}
        chosen = (await client.post("/v1/completions", json=body)).json()["choices"][0]
        assert chosen["finish_reason"] == "length"
        text = (await client.post("/v1/completions", json={**body, "stream": True})).text
        assert '"finish_reason":"length"' in text and "truncated" not in text

        samples = {}
        for family in text_string_to_metric_families((await client.get("/metrics")).text):
            samples |= {(each.name, *each.labels.values()): each.value for each in family.samples}
        assert samples["fastserve_requests_total", "truncated"] == 5
        assert samples["fastserve_requests_total", "length"] == 1
        assert sum(n for key, n in samples.items() if key[0] == "vllm:request_success_total" and "length" in key) == 6
        detailed = (await client.get("/stats/detailed")).json()
        assert detailed["truncated_rate"] == pytest.approx(5 / 6)
        assert sum(client.service.totals.reasons.values()) == 6
