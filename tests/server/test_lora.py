"""Adapters over HTTP: chosen by model, listed, loaded and unloaded while the server runs, kept by durable jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from fastserve.models.embedded import make_embedded
from fastserve.server.jobs.durable import JobRequest
from fastserve.server.jobs.jobs import Scheduling
from tests.backends.torch.made_adapters import changed, write_adapter
from tests.server.conftest import Client, Serve
from tests.server.sse import every_data_line

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_thread")]
PROMPT = "Once upon a time there was a fox who"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two", "three")):
        write_adapter(made / name, make_embedded(), seed, size=0.05)
    return made


@cache
def body(folder: Path, *names: str) -> Body:
    lora = tuple(f"{name}={folder / name}" for name in names)
    return Body("embedded", dtype="float32", latency="opt-13b-a100", lora=lora)


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    """With one and two loaded; what a test loads or unloads is as it was afterwards."""
    with body(folder, "one", "two").engine(EngineConfig.of({"max_batch": 8, "prefix_cache": "on"})) as made:
        yield made
        for name in set(made.adapters.loaded) - {"one", "two"}:
            made.adapters.unload(name)
        for name in {"one", "two"} - set(made.adapters.loaded):
            made.adapters.load(name, str(folder / name))


async def said(client: Client, model: str | None, **fields: Any) -> dict[str, Any]:
    """The answer of /v1/completions."""
    asked = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True, **fields}
    response = await client.post("/v1/completions", json=asked | ({} if model is None else {"model": model}))
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["text"])


@contextlib.asynccontextmanager
async def held(engine: Engine) -> AsyncIterator[None]:
    """Meanwhile the engine's thread does nothing."""
    gate, stands = threading.Event(), threading.Event()

    def stand() -> None:
        stands.set()
        gate.wait(60)

    asked = asyncio.ensure_future(asyncio.to_thread(engine.look, stand))
    try:
        await asyncio.to_thread(stands.wait, 60)
        yield
    finally:
        gate.set()
        await asked


async def test_requests_choose_by_model(serve: Serve, engine: Engine) -> None:
    """All at once, on every route: each gets what it gets alone, and its answer names the adapter."""
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    want = {name: engine.generate([PROMPT], params, name)[0].text for name in ("", "one", "two")}
    assert len(set(want.values())) == 3
    async with serve(engine) as client:
        names = [None, "embedded", "one", "two", "one", "two", "embedded", "one"]
        answers = await asyncio.gather(*(said(client, name) for name in names))
        for name, answer in zip(names, answers, strict=True):
            assert text_of(answer) == want[name if name in ("one", "two") else ""]
            assert answer["model"] == (name or "embedded")
        native = {"prompt": PROMPT, "max_new_tokens": 24, "temperature": 0, "ignore_eos": True, "model": "two"}
        for route in ("/generate", "/v1/generate_nobatch"):
            found = (await client.post(route, json=native)).json()
            assert found["text"] == want["two"] and found["metadata"]["model_name"] == "two"
        asked = {"model": "one", "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        stream = await client.post("/v1/completions", json=asked | {"stream": True})
        events = every_data_line(stream.text.replace("data: [DONE]", ""))
        assert {event["model"] for event in events} == {"one"}
        assert "".join(event["choices"][0]["text"] for event in events) == want["one"]
        chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}
        texts = [
            (await client.post("/v1/chat/completions", json=chat | {"model": name})).json() for name in ("one", "two")
        ]
        assert [one["model"] for one in texts] == ["one", "two"]
        assert texts[0]["choices"][0]["message"] != texts[1]["choices"][0]["message"]
        unknown = await client.post("/v1/completions", json={"model": "three", "prompt": "x"})
        assert unknown.status_code == 404
        assert unknown.json()["error"]["message"] == (
            "the model 'three' is not served here; there is 'embedded', 'one', 'two'"
        )
        refused = await client.post("/v1/completions", json={"prompt": "x", "lora_request": {"lora_name": "one"}})
        assert refused.status_code == 400 and "as the request's model" in refused.text


async def test_they_are_listed_with_their_parent(serve: Serve, engine: Engine, folder: Path) -> None:
    async with serve(engine, served_model_name="base") as client:
        cards = (await client.get("/v1/models")).json()["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [("base", None), ("one", "base"), ("two", "base")]
        assert cards[1]["root"] == str(folder / "one")
        assert (await client.get("/v1/models/two")).json() == cards[2]
        assert (await client.get("/v1/models/three")).status_code == 404
        listed = (await client.get("/models")).json()
        assert [(entry["name"], entry["type"]) for entry in listed["models"]][1:] == [("one", "lora"), ("two", "lora")]


async def test_one_prompt_under_two_adapters_shares_nothing(serve: Serve, engine: Engine) -> None:
    async with serve(engine) as client:
        engine.reset_prefix_cache()
        for round, finds in enumerate((False, True)):
            for model in ("embedded", "one", "two"):
                found = (await said(client, model))["usage"]["prompt_tokens_details"]["cached_tokens"]
                assert bool(found) is finds, (round, model)


async def test_load_and_unload(serve: Serve, engine: Engine, folder: Path) -> None:
    async with serve(engine, lora_dir=folder) as client:
        before = text_of(await said(client, None))
        loaded = await client.post(LOAD, json={"lora_name": "third", "lora_path": "three"})
        assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'third' added successfully.")
        third = text_of(await said(client, "third"))
        assert third not in (before, text_of(await said(client, "one")))
        assert [card["id"] for card in (await client.get("/v1/models")).json()["data"]][-1] == "third"
        again = await client.post(LOAD, json={"lora_name": "third", "lora_path": str(folder / "three")})
        assert again.status_code == 400 and "loaded already" in again.text
        replaced = await client.post(LOAD, json={"lora_name": "third", "lora_path": "one", "load_inplace": True})
        assert replaced.status_code == 400 and "load_inplace" in replaced.text
        gone = await client.post(UNLOAD, json={"lora_name": "third"})
        assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'third' removed successfully.")
        assert (await client.post(UNLOAD, json={"lora_name": "third"})).status_code == 404
        assert (await client.post("/v1/completions", json={"model": "third", "prompt": "x"})).status_code == 404
        assert text_of(await said(client, None)) == before


async def test_one_in_use_is_not_unloaded(serve: Serve, engine: Engine, folder: Path) -> None:
    """Though the engine has not even seen the request."""
    async with serve(engine, lora_dir=folder) as client:
        async with held(engine):
            asked = asyncio.ensure_future(said(client, "one"))
            while not client.service.adapters.users("one"):
                await asyncio.sleep(0.005)
            refused = await client.post(UNLOAD, json={"lora_name": "one"})
        assert refused.status_code == 409 and "in use by 1 requests" in refused.json()["error"]["message"]
        assert (await asked)["model"] == "one"
        assert (await client.post(UNLOAD, json={"lora_name": "one"})).status_code == 200


BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no name": ({"lora_path": "three"}, 400, "both lora_name and lora_path"),
    "no path": ({"lora_name": "x"}, 400, "both lora_name and lora_path"),
    "nothing there": ({"lora_name": "x", "lora_path": "four"}, 404, "there is no folder 'four'"),
    "outside": ({"lora_name": "x", "lora_path": ".."}, 400, "must be a folder below that of --lora-dir"),
    "outside, by its path": ({"lora_name": "x", "lora_path": "/etc"}, 400, "must be a folder below"),
    "outside, by a link": ({"lora_name": "x", "lora_path": "link"}, 400, "must be a folder below"),
    "a NUL": ({"lora_name": "x", "lora_path": "a\0b"}, 400, "must be a folder below"),
    "the folder itself": ({"lora_name": "x", "lora_path": "."}, 400, "must be a folder below"),
    "a long path": ({"lora_name": "x", "lora_path": "a/" * 3000}, 400, "lora_path"),
    "a folder that holds none": ({"lora_name": "x", "lora_path": "empty"}, 400, "it has no adapter_config.json"),
    "a bad one": ({"lora_name": "x", "lora_path": "bad"}, 400, "use_dora is set"),
    "the base's name": ({"lora_name": "embedded", "lora_path": "three"}, 400, "is the base model's name"),
    "a name of two lines": ({"lora_name": "a\nb", "lora_path": "three"}, 400, "printable"),
    "a long name": ({"lora_name": "a" * 300, "lora_path": "three"}, 400, "printable"),
    "no text": ({"lora_name": 1, "lora_path": "three"}, 400, "lora_name"),
}


@pytest.mark.parametrize("case", BODIES)
async def test_what_is_refused(case: str, serve: Serve, engine: Engine, folder: Path, tmp_path: Path) -> None:
    fields, status, why = BODIES[case]
    allowed = tmp_path / "allowed"
    (allowed / "empty").mkdir(parents=True)
    changed(folder / "three", allowed / "bad", {"use_dora": True})
    (allowed / "link").symlink_to(folder / "three")
    async with serve(engine, lora_dir=allowed) as client:
        response = await client.post(LOAD, json=fields)
        assert response.status_code == status, response.text
        assert why in response.json()["error"]["message"]
        assert set(engine.adapters.loaded) == {"one", "two"} and engine.alive


async def test_it_is_off_by_default(serve: Serve, engine: Engine) -> None:
    async with serve(engine) as client:
        for route in (LOAD, UNLOAD):
            response = await client.post(route, json={"lora_name": "one", "lora_path": "one"})
            assert response.status_code == 403 and "--lora-dir" in response.json()["error"]["message"]


async def test_with_tokens_only_admins_may(serve: Serve, engine: Engine, folder: Path) -> None:
    keys = ["a-token alice", "b-token bob"]
    async with serve(engine, lora_dir=folder, api_key=keys, admin_clients=["alice"]) as client:
        for token, status in (("b-token", 403), ("a-token", 200)):
            headers = {"Authorization": f"Bearer {token}"}
            asked = {"lora_name": "three", "lora_path": "three"}
            assert (await client.post(LOAD, json=asked, headers=headers)).status_code == status
        assert (await client.post(LOAD, json=asked)).status_code == 401


async def test_a_body_without_adapters(serve: Serve, folder: Path) -> None:
    async with serve(lora_dir=folder) as client:
        response = await client.post(LOAD, json={"lora_name": "one", "lora_path": "one"})
        assert response.status_code == 400 and "backend scripted takes no adapters" in response.text


async def test_one_name_for_two(serve: Serve, engine: Engine) -> None:
    with pytest.raises(ValueError, match="served_model_name='one' is an adapter's name too"):
        async with serve(engine, served_model_name="one"):
            pass


# -- durable jobs ------------------------------------------------------------------------------------------------------


async def end_of(client: Client, job: str) -> dict[str, Any]:
    while True:
        found: dict[str, Any] = (await client.get(f"/jobs/{job}")).json()
        if found["ended"] is not None:
            return found
        await asyncio.sleep(0.01)


async def test_a_durable_job_keeps_its_adapter(serve: Serve, engine: Engine, folder: Path, tmp_path: Path) -> None:
    """One of an earlier run waits until its adapter is loaded, then runs; one whose adapter is there runs at once."""
    job = {"prompt": PROMPT, "max_new_tokens": 24, "temperature": 0, "ignore_eos": True}
    ids = engine.tokenizer.encode(PROMPT)
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True, seed=1).resolved(engine.info.defaults)
    want = {name: engine.generate([ids], params, name)[0].text for name in ("one", "two")}
    settings: dict[str, Any] = {"state_dir": tmp_path / "state", "lora_dir": folder}
    async with serve(engine, **settings) as client:
        named = await client.post("/jobs", json=job | {"model": "one"})
        found = await end_of(client, named.json()["job_id"])
        assert (found["model"], found["result"]["text"]) == ("one", want["one"])
        for name in ("one", "two", "gone"):  # as a crash leaves them
            asked = JobRequest("embedded", ids, params, {}, Scheduling(adapter=name))
            assert JobRequest.of(json.loads(json.dumps(asked.to_json()))) == asked
            await client.service.store.add(name, "default", time.time(), json.dumps(asked.to_json()))
    second = body(folder, "one").engine(EngineConfig.of({"max_batch": 8}))
    async with serve(second, **settings) as client:
        assert (await end_of(client, "one"))["result"]["text"] == want["one"]
        for name in ("two", "gone"):
            found = (await client.get(f"/jobs/{name}")).json()
            assert (found["state"], found["model"]) == ("queued", name)
            assert found["error"] == f"this job stays queued until adapter {name} is loaded again"
        loaded = await client.post(LOAD, json={"lora_name": "two", "lora_path": "two"})
        assert loaded.status_code == 200
        found = await end_of(client, "two")
        assert (found["state"], found["result"]["text"], found["error"]) == ("finished", want["two"], None)
        assert (await client.get("/jobs/gone")).json()["state"] == "queued"
        assert (await client.delete("/jobs/gone")).json()["state"] == "cancelled"
        assert not client.service.durable.waiting
        second.adapters.unload("two")


async def test_a_job_of_another_shape_is_stored_as_before() -> None:
    """A server of an earlier version reads what has no adapter."""
    assert "adapter" not in JobRequest("m", [1], SamplingParams(), {}, Scheduling()).to_json()
