"""Upstreams come, go, fall ill and get well; who may change them; what is known of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fastserve.bench.target import TargetClient
from fastserve.gateway.upstreams import Upstreams
from tests.gateway.conftest import PROMPT, Odd, Request, live, odd, reply, stub

pytestmark = pytest.mark.anyio


async def well(request: Request, writer: asyncio.StreamWriter) -> None:
    reply(writer, 200, b'{"choices": []}')


def name_of(upstream: Odd) -> str:
    return upstream.url.removeprefix("http://")


async def test_one_is_added_used_drained_weighted_and_removed_live() -> None:
    async with odd(well) as one, odd(well, model="two") as two, live(one.url) as gateway:
        client = gateway.client
        assert (await gateway.post("/v1/completions", {**PROMPT, "model": "two"})).status_code == 404
        added = await client.post(
            "/gateway/upstreams", json={"url": two.url, "name": "second", "weight": 2, "key": "k-1"}
        )
        assert added.status_code == 201 and added.headers["location"] == "/gateway/upstreams/second"
        assert added.json()["state"] == "healthy" and added.json()["models"] == ["two"]
        assert added.json()["has_key"] is True and "k-1" not in added.text
        assert (await gateway.post("/v1/completions", {**PROMPT, "model": "two"})).status_code == 200
        assert two.seen[0].headers["authorization"] == "Bearer k-1"

        drained = await client.patch("/gateway/upstreams/second", json={"drain": True})
        assert drained.json()["state"] == "draining"
        await asyncio.sleep(0.5)  # checks do not make it healthy
        refused = await gateway.post("/v1/completions", {**PROMPT, "model": "two"})
        assert refused.status_code == 503 and "second draining" in refused.text
        back = await client.patch("/gateway/upstreams/second", json={"drain": False, "weight": 3})
        assert back.json()["state"] == "healthy" and back.json()["weight"] == 3
        assert (await gateway.post("/v1/completions", {**PROMPT, "model": "two"})).status_code == 200

        assert (await client.delete("/gateway/upstreams/second")).json() == {"removed": "second"}
        assert (await gateway.post("/v1/completions", {**PROMPT, "model": "two"})).status_code == 404
        assert (await client.delete("/gateway/upstreams/second")).status_code == 404


async def test_what_cannot_be_an_upstream_is_refused() -> None:
    async with odd(well) as one, live(one.url) as gateway:
        for body in (
            {"url": "ftp://x"}, {"url": "http://u:p@x"}, {"url": one.url}, {"url": "http://a", "weight": 0},
            {"url": "http://a", "name": "a b"}, {"url": "http://a", "key": "a\r\nb: c"},
            {"url": "http://a b"}, {"url": "http://a\r\nx: y"},
        ):  # fmt: skip
            answer = await gateway.client.post("/gateway/upstreams", json=body)
            assert answer.status_code == 400, body
            assert "a\r\nb" not in answer.text
        unknown = await gateway.client.post("/gateway/upstreams", json={"url": "http://a", "wait": 1})
        assert unknown.status_code == 422
        assert len(gateway.gateway.upstreams) == 1


async def test_with_tokens_only_admins_change_upstreams() -> None:
    tokens = ("t-admin admin", "t-user user")
    async with odd(well) as one, live(one.url, api_key=tokens, admin_clients=("admin",)) as gateway:
        headers = {name: {"authorization": f"Bearer t-{name}"} for name in ("admin", "user")}
        client = gateway.client
        path = f"/gateway/upstreams/{name_of(one)}"
        assert (await client.get("/gateway/upstreams")).status_code == 401
        assert (await client.patch(path, json={"weight": 2}, headers=headers["user"])).status_code == 403
        assert (await client.patch(path, json={"weight": 2}, headers=headers["admin"])).status_code == 200
        assert (await client.delete(path, headers=headers["user"])).status_code == 403
        answer = await gateway.post("/v1/completions", headers=headers["user"])
        assert answer.status_code == 200 and "authorization" not in one.seen[0].headers
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/health")).status_code == 200


async def test_one_that_falls_ill_is_left_alone_and_comes_back() -> None:
    async with odd(well) as one, odd(well) as two, live(one.url, two.url, health_retries=2) as gateway:
        upstream = gateway.gateway.upstreams.find(name_of(one))
        one.well = False
        await gateway.until(lambda: upstream.state == "failing")
        assert upstream.fault
        seen = len(one.seen)
        for _ in range(4):
            assert (await gateway.post("/v1/completions")).status_code == 200
        assert len(one.seen) == seen and len(two.seen) >= 4
        one.well = True
        await gateway.until(lambda: upstream.state == "healthy")
        assert upstream.fault == ""


async def test_models_that_come_and_go_upstream_are_noticed() -> None:
    async with odd(well) as one, live(one.url) as gateway:
        one.gets["/v1/models"] = {"object": "list", "data": [{"id": "newer"}, {"id": "stub"}]}
        await gateway.until(lambda: "newer" in gateway.gateway.upstreams.models())
        assert (await gateway.post("/v1/completions", {**PROMPT, "model": "newer"})).status_code == 200


async def test_given_models_are_not_asked_for() -> None:
    async with odd(well, model="its own") as one, live(f"{one.url},model=a,model=b") as gateway:
        assert list(gateway.gateway.upstreams.models()) == ["a", "b"]


@pytest.mark.parametrize(
    ("gets", "kind"),
    [
        ({"/props": {"total_slots": 2}, "/health": {"status": "ok"}}, "llama-server"),
        ({"/api/version": {"version": "0.9"}, "/api/tags": {"models": []}}, "ollama"),
        ({"/info": {"max_total_tokens": 10}, "/health": {}}, "tgi"),
        ({}, "openai"),
    ],
)
async def test_kinds_are_found(gets: dict[str, Any], kind: str) -> None:
    async with odd(well, gets=gets) as one, live(one.url) as gateway:
        (upstream,) = gateway.gateway.upstreams
        assert (upstream.kind, upstream.state) == (kind, "healthy")
        assert upstream.load.slots == (2 if kind == "llama-server" else None)


async def test_ours_and_vllm_are_known_by_their_models() -> None:
    for owner in ("fastserve", "vllm"):
        async with odd(well, owned_by=owner, gets={"/health": {}}) as one, live(one.url) as gateway:
            (upstream,) = gateway.gateway.upstreams
            assert (upstream.kind, upstream.state) == (owner, "healthy")


async def test_the_weighted_router_goes_by_weights() -> None:
    async with odd(well) as one, odd(well) as two, live(f"{one.url},weight=3", two.url, router="weighted") as gateway:
        for _ in range(8):
            await gateway.post("/v1/completions")
        assert (len(one.seen), len(two.seen)) == (6, 2)


async def test_no_key_is_shown_anywhere(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-hush-one")
    caplog.set_level("DEBUG")
    async with (
        odd(well) as one,
        odd(well) as two,
        live(f"{one.url},key_env=MY_KEY", two.url, upstream_key="sk-hush-two", router="round-robin") as gateway,
    ):
        for _ in range(2):
            await gateway.post("/v1/completions")
        assert {one.seen[0].headers["authorization"], two.seen[0].headers["authorization"]} == {
            "Bearer sk-hush-one", "Bearer sk-hush-two"
        }  # fmt: skip
        for path in (
            "/metrics",
            "/status",
            "/gateway/status",
            "/gateway/upstreams",
            "/health",
            "/stats",
            "/openapi.json",
        ):
            answer = await gateway.client.get(path)
            assert answer.status_code == 200 and "hush" not in answer.text, path
        shown = (
            repr(gateway.gateway.config) + repr(list(gateway.gateway.upstreams)) + str(gateway.gateway.config.shown())
        )
        assert "hush" not in shown
    assert "hush" not in caplog.text


async def test_metrics_tell_of_upstreams_and_nothing_of_clients() -> None:
    async with stub() as (url, _), live(f"{url},name=s1") as gateway:
        await gateway.post("/v1/completions", {**PROMPT, "stream": True, "user": "somebody"})
        await gateway.until(lambda: gateway.gateway.load == 0)
        page = (await gateway.client.get("/metrics")).text
        assert 'fastserve_gateway_upstream_requests_total{upstream="s1"} 1.0' in page
        assert 'fastserve_gateway_upstream_tokens_total{upstream="s1"} 4.0' in page
        assert 'fastserve_gateway_first_byte_seconds_count{upstream="s1"} 1.0' in page
        assert "somebody" not in page
        stats = (await gateway.client.get("/stats")).json()
        assert stats["request_count"] == 1 and stats["total_tokens_generated"] == 4


async def test_load_is_told_on() -> None:
    told = {
        "server_load": 5, "waiting": 3, "running": 2, "slots": 4, "queued_tokens": 100, "expected_tokens": 50,
        "free_tokens": 900, "pool_tokens": 1000, "cached_tokens": 10, "draining": False,
    }  # fmt: skip
    async with odd(well, owned_by="fastserve", gets={"/load": told}) as one, live(one.url) as gateway:
        (view,) = gateway.gateway.upstreams.views("stub")
        assert (view.source, view.waiting, view.running, view.slots) == ("load", 3, 2, 4)
        assert (view.queued_tokens, view.expected_tokens, view.free_tokens, view.cached_tokens) == (100, 50, 900, 10)
        assert 0 < view.age < 60e9
        found = (await gateway.client.get("/load")).json()
        assert found == told | {"server_load": 0}


async def test_views_are_looked_at_while_requests_go_by() -> None:
    told = {"waiting": 0, "running": 0}
    async with odd(well, owned_by="fastserve", gets={"/load": told}) as one, live(one.url) as gateway:
        (upstream,) = gateway.gateway.upstreams
        one.gets["/load"] = {"waiting": 7, "running": 1}
        await asyncio.sleep(0.3)
        assert upstream.load.waiting == 0  # nobody asks
        await gateway.post("/v1/completions")
        await gateway.until(lambda: upstream.load.waiting == 7)
        one.gets["/load"] = {"waiting": -1, "running": 1}
        await gateway.until(lambda: upstream.load.source == "counted")  # what makes no sense is not believed


def test_names_and_the_number_of_upstreams_are_bounded() -> None:
    upstreams = Upstreams()
    for number in range(1024):
        upstreams.add(f"http://10.0.0.1:{number + 1}")
    with pytest.raises(ValueError, match="1024 upstreams already"):
        upstreams.add("http://10.0.0.2")
    first = upstreams.find("10.0.0.1:1")
    upstreams.remove("10.0.0.1:1")
    assert upstreams.add("http://10.0.0.1:1").replica != first.replica  # a number is never used again


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a:1", "a:1"), ("https://far.example/llm/v1/", "far.example-llm"), ("http://[::1]:8000", "::1-:8000"),
        ("10.0.0.1:8000/v1", "10.0.0.1:8000"),
    ],
)  # fmt: skip
def test_names_by_default(url: str, name: str) -> None:
    assert Upstreams().add(url).name == name.strip(":")


async def test_bodies_without_a_length_are_bounded_on_every_route() -> None:
    async with odd(well) as one, live(one.url, max_body_mib=0.5) as gateway:
        for path in (b"/gateway/upstreams", b"/v1/completions"):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" % path)
            writer.write(b"transfer-encoding: chunked\r\n\r\n")

            async def endless(writer: asyncio.StreamWriter = writer) -> None:
                writer.write(b'9\r\n{"url": "\r\n')
                while True:
                    writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    await writer.drain()

            sending = asyncio.ensure_future(endless())
            async with asyncio.timeout(10):
                assert b" 413 " in await reader.readline(), path
            sending.cancel()
            writer.transport.abort()


def test_status_is_json() -> None:
    upstreams = Upstreams()
    json.dumps(upstreams.add("http://a").shown(0))


async def test_what_upstreams_say_of_a_model_is_told_so_that_a_benchmark_of_the_gateway_fits_its_requests() -> None:
    async with (
        stub(max_model_len=4096, owned_by="fastserve") as (one, _),
        stub(max_model_len=512, owned_by="fastserve") as (two, _),
        odd(well, model="other") as three,
        live(one, two, three.url) as gateway,
    ):
        listed = (await gateway.client.get("/v1/models")).json()["data"]
        cards = {card["id"]: card for card in listed}
        assert cards["stub"]["max_model_len"] == 512 and cards["stub"]["parent"] is None
        assert "max_model_len" not in cards["other"]
        contexts = {
            each["name"]: each["context_length"] for each in (await gateway.client.get("/models")).json()["models"]
        }
        assert contexts == {"stub": 512, "other": None}
        target = await asyncio.to_thread(TargetClient(str(gateway.client.base_url)).probe)
        assert target.own and target.vocab_size == 257
        assert target.max_model_len == 512
        assert (await gateway.client.get("/model")).json()["vocab_size"] == 257
        about = await gateway.client.get("/model", params={"model": "other"})
        assert about.status_code == 501 and "/model" in about.text
        assert (await gateway.client.get("/model", params={"model": "none"})).status_code == 404
