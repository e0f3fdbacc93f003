"""What a request says for policies reaches the policy, on every route, and the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve.engine import Engine
from fastserve.sched.job import NEVER, Job
from fastserve.sched.policy import Policy
from tests.server.conftest import Client, Serve
from tests.server.test_durable import end_of

pytestmark = pytest.mark.anyio

SAID = {"program": "p", "priority": -4, "deadline_s": 2.5, "ttft_slo_s": 0.25, "tpot_slo_s": 0.125}
Told = tuple[str, int, int]


class Edf(Policy):
    """Keeps what it was told: program, priority, ns from arrival to deadline."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def arrive(self, job: Job) -> None:
        self.told.append((job.program, job.priority, job.deadline - (job.arrival if job.deadline < NEVER else 0)))

    def rank(self, job: Job) -> int:
        return job.deadline


def bodies() -> dict[str, dict[str, Any]]:
    chat = {"messages": [{"role": "user", "content": "a"}]}
    return {
        "/generate": {"prompt": "a", "max_new_tokens": 3},
        "/chat": chat | {"max_new_tokens": 3},
        "/v1/generate_nobatch": {"prompt": "a", "max_new_tokens": 3},
        "/v1/completions": {"prompt": "a", "max_tokens": 3},
        "/v1/chat/completions": chat | {"max_tokens": 3},
    }


@pytest.mark.parametrize("route", bodies())
async def test_a_request_says_how_urgent_it_is(serve: Serve, route: str) -> None:
    body, policy = bodies()[route], Edf()
    engine = Engine.scripted(policy=lambda: policy, max_batch=4)
    async with serve(engine) as client:

        async def ask(headers: dict[str, str] | None = None, **fields: Any) -> Told:
            answer = await client.post(route, json=body | fields, headers=headers)
            assert answer.status_code == 200, answer.text
            return policy.told[-1]

        assert await ask() == ("", 0, NEVER)
        assert await ask(**SAID) == ("p", -4, 2_500_000_000)
        assert await ask(ttft_slo_s=0.25) == ("", 0, 250_000_000)
        assert await ask(tpot_slo_s=0.25) == ("", 0, NEVER)
        assert await ask(dict.fromkeys(["X-Session-Affinity"], "s")) == ("s", 0, NEVER)
        assert await ask(dict.fromkeys(["X-Session-Affinity"], "s"), program="p") == ("p", 0, NEVER)
        assert await ask(**dict.fromkeys(SAID)) == ("", 0, NEVER), "null is not given"
        refused = await client.post(route, json=body, headers={"X-Session-Affinity": "s" * 257})
        assert refused.status_code == 400 and "X-Session-Affinity: it has 257 characters" in refused.text
        for field in ("deadline_s", "ttft_slo_s", "tpot_slo_s"):
            refused = await client.post(route, json=body | {field: -1})
            assert refused.status_code in (400, 422) and field in refused.text
    records = engine.records()
    assert records["ttft_slo"][1:3].tolist() == [0.25, 0.25]
    assert records["tpot_slo"][1] == 0.125 and records["e2e_slo"][1] == 2.5
    for name in ("ttft_slo", "tpot_slo", "e2e_slo"):
        assert np.isnan(records[name][0])


async def test_a_durable_job_says_it_again_after_a_restart(serve: Serve, tmp_path: Path) -> None:
    state, policy = tmp_path / "state", Edf()

    async def enqueue(client: Client, **fields: Any) -> str:
        asked = {"prompt": "a", "max_new_tokens": 400, "ignore_eos": True, **fields}
        return str((await client.post("/jobs", json=asked)).json()["job_id"])

    async with serve(Engine.scripted(max_batch=1, realtime=1.0), state_dir=state, drain_seconds=0) as client:
        job = await enqueue(client, **SAID)
        await client.service.store.add("older", "default", 1.0, {
            "model": "scripted", "prompt": [97], "params": {"max_tokens": 2}, "metadata": {}, "priority": 9,
        })  # fmt: skip
    async with serve(Engine.scripted(policy=lambda: policy, max_batch=4), state_dir=state) as client:
        for name in (job, "older"):
            assert (await end_of(client, name))["state"] == "finished"
    assert sorted(policy.told) == [("", 9, NEVER), ("p", -4, 2_500_000_000)], (
        "a row of an earlier version is read as well"
    )
