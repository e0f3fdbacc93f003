"""What /metrics, /stats/detailed, answers and the page say of guesses: a body that guesses, and one that does not."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.engine import Engine
from tests.engine.test_drafts import LOOKAHEAD, Guesser
from tests.server.conftest import Serve

pytestmark = pytest.mark.anyio


async def test_metrics_statistics_and_records(serve: Serve) -> None:
    body = Guesser(uneven=True)
    body.settings = {"speculate": "ngram:3"}  # type: ignore[attr-defined]
    engine = Engine.on(body, policy="fcfs", lookahead=LOOKAHEAD)
    async with serve(engine) as client:
        before = (await client.get("/stats/detailed")).json()["speculation"]
        assert before == {"method": "ngram", "k": 3, "draft_tokens": 0, "accepted_tokens": 0, "acceptance": None}
        for _ in range(2):
            answer = await client.post("/generate", json={"prompt": "abcdef", "max_new_tokens": 15, "ignore_eos": True})
            assert answer.status_code == 200
        columns = engine.records()
        drafted, accepted = int(columns["draft_tokens"].sum()), int(columns["accepted_tokens"].sum())
        assert 0 < accepted < drafted
        found = (await client.get("/stats/detailed")).json()["speculation"]
        assert found == before | {
            "draft_tokens": drafted, "accepted_tokens": accepted, "acceptance": accepted / drafted,
        }  # fmt: skip
        text = (await client.get("/metrics")).text
        for name, value in (("draft_tokens", drafted), ("accepted_tokens", accepted)):
            assert f"\nfastserve_spec_decode_num_{name}_total {float(value)}\n" in text
            assert f'\nvllm:spec_decode_num_{name}_total{{engine="0",model_name="parrot"}} {float(value)}\n' in text
        verified = engine.snapshot().counters["drafts"]
        assert f"\nfastserve_spec_decode_num_drafts_total {float(verified)}\n" in text
        assert accepted < drafted <= LOOKAHEAD * verified


async def test_without_guesses_all_is_zero(serve: Serve) -> None:
    async with serve() as client:
        await client.post("/generate", json={"prompt": "abcdef", "max_new_tokens": 5, "ignore_eos": True})
        found = (await client.get("/stats/detailed")).json()["speculation"]
        assert found == {"method": "off", "k": 0, "draft_tokens": 0, "accepted_tokens": 0, "acceptance": None}
        assert "\nfastserve_spec_decode_num_draft_tokens_total 0.0\n" in (await client.get("/metrics")).text
