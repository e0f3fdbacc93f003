"""What the page is told of the router's last choices."""

from __future__ import annotations

import httpx
import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

from fastserve.bench.stub import Behaviour, Stub, address
from fastserve.gateway import Gateway
from fastserve.gateway.choosing import RECENT
from tests.gateway.live import before_stub, client_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ask(client: httpx.AsyncClient, token: str = "", **more: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = {"model": "stub", "prompt": "x", "max_tokens": 1, "stream": True, **more}
    return await client.post("/v1/completions", json=body, headers=headers)


async def recent(client: httpx.AsyncClient, token: str = "") -> list[dict[str, object]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    found: list[dict[str, object]] = (await client.get("/gateway/status", headers=headers)).json()["recent"]
    return found


async def test_the_router_is_asked_why_while_somebody_looks() -> None:
    async with before_stub(router="least-tokens") as (client, _):
        await ask(client, user="ada")
        (first,) = await recent(client)
        assert first["model"] == "stub" and first["client"] == "ada" and first["why"] == ""
        assert not first["again"] and not first["failed"] and first["at"] > 1e9
        await ask(client)
        assert "tokens" in str((await recent(client))[0]["why"])
        for _ in range(RECENT):
            await ask(client)
        assert len(await recent(client)) == RECENT


async def test_whose_a_request_was_is_told_to_its_client_alone() -> None:
    async with before_stub(api_key=["one alice", "two bob"]) as (client, _):
        await ask(client, "one")
        await ask(client, "two")
        assert [each["client"] for each in await recent(client, "one")] == ["", "alice"]
        assert [each["client"] for each in await recent(client, "two")] == ["bob", ""]


async def test_a_request_that_went_elsewhere_after_a_failure() -> None:
    fails, serves = Stub(lambda number, body: Behaviour(status=503)), Stub()
    async with await fails.start() as one, await serves.start() as two:
        gateway = Gateway(upstream=[f"{address(one)},name=a", f"{address(two)},name=b"], router="round-robin")
        async with client_of(gateway) as client:
            for _ in range(2):
                assert (await ask(client)).status_code == 200
            last = [(each["upstream"], each["failed"], each["again"]) for each in await recent(client)]
            assert ("a", True, False) in last and last[last.index(("a", True, False)) - 1] == ("b", False, True)
