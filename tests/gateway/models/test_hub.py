"""Downloads and the search: huggingface_hub's own code, in processes of its own, against a hub of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastserve.gateway.models import fetch, models_folder, pull
from fastserve.gateway.models.hub import HubError, Search
from fastserve.gateway.models.pull import PullError, Pulls
from tests.gateway.models.fake_hub import FakeHub

pytestmark = pytest.mark.anyio

CONFIG = json.dumps({"model_type": "llama"}).encode()
PATIENCE = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def whole(size: int = 100_000) -> dict[str, bytes]:
    return {
        "config.json": CONFIG, "tokenizer.json": b"{}", "model.safetensors": os.urandom(size), "README.md": b"about",
        "pytorch_model.bin": b"pickle", "modeling.py": b"code", "onnx/model.safetensors": b"again",
        "consolidated.safetensors": b"again",
    }  # fmt: skip


@asynccontextmanager
async def pulling(folder: Path | None) -> AsyncIterator[tuple[Pulls, list[tuple[str, dict[str, Any]]]]]:
    told: list[tuple[str, dict[str, Any]]] = []
    pulls = Pulls(folder, lambda name, data: told.append((name, data)))
    try:
        yield pulls, told
    finally:
        await pulls.close()


async def pulled(pulls: Pulls, name: str) -> Any:
    return await asyncio.wait_for(pulls.follow(pulls.begin(name)), PATIENCE)


async def test_a_model_is_pulled_with_what_is_needed_and_no_more(hub: FakeHub, tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    files = hub.repos["owner/name"] = whole()
    async with pulling(root) as (pulls, told):
        entry = await pulled(pulls, "owner/name")
    there = {each.name for each in (root / "owner/name").iterdir() if not each.name.startswith(".")}
    assert there == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (root / "owner/name/model.safetensors").read_bytes() == files["model.safetensors"]
    assert models_folder.scan(root) == {"owner/name": entry} and not list((root / pull.INCOMING).iterdir())
    total = sum(len(files[name]) for name in there)
    assert told[-1] == ("owner/name", {"completed": total, "total": total})
    assert [each["completed"] for _, each in told] == sorted(each["completed"] for _, each in told)
    assert hub.tokens == {"Bearer hf_not_to_be_shown"}


async def test_those_who_want_the_same_share_a_download(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = whole()
    hub.bytes_per_s = 200_000
    async with pulling(tmp_path) as (pulls, _):
        first, second = pulls.begin("owner/name"), pulls.begin("owner/name")
        assert first is second
        leaving = asyncio.create_task(pulls.follow(first))
        staying = asyncio.create_task(pulls.follow(second))
        await asyncio.sleep(0.3)
        leaving.cancel()
        entry = await asyncio.wait_for(staying, PATIENCE)
    assert Path(entry.path) == tmp_path / "owner/name"
    assert sum("GET /owner/name/resolve" in each and "safetensors" in each for each in hub.asked) == 1


@pytest.mark.parametrize("cached", [False, True])
async def test_a_download_that_is_cancelled_goes_on_where_it_was(cached: bool, hub: FakeHub, tmp_path: Path) -> None:
    """The second time only the rest of the large file is sent, and its sum is right."""
    files = hub.repos["owner/name"] = whole(8 << 20)
    root = None if cached else tmp_path / "models"
    async with pulling(root) as (pulls, told):
        hub.bytes_per_s = 4e6
        going = pulls.begin("owner/name")
        following = asyncio.create_task(pulls.follow(going))
        while not told or told[-1][1]["completed"] < 2 << 20:
            assert not following.done()
            await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.wait([following, going.task])
        assert going.task.cancelled() and "owner/name" not in pulls.running
        assert root is None or not (root / "owner/name").exists(), "what is half is no model"
        hub.bytes_per_s = None
        before = hub.sent
        entry = await pulled(pulls, "owner/name")
    place = tmp_path / "hf/hub/models--owner--name/snapshots" / ("a" * 40) if root is None else root / "owner/name"
    assert (place / "model.safetensors").resolve().read_bytes() == files["model.safetensors"]
    assert entry.path == ("owner/name" if cached else str(place))
    name, begin = hub.ranges[0]
    assert name == "model.safetensors" and int(begin.removeprefix("bytes=").rstrip("-")) >= 1 << 20
    assert hub.sent - before <= 7 << 20
    assert not list(tmp_path.rglob("*.incomplete"))


async def test_a_beginning_that_was_damaged_is_fetched_anew(hub: FakeHub, tmp_path: Path) -> None:
    files = hub.repos["owner/name"] = whole()
    left = tmp_path / ".incoming/owner--name/.cache/huggingface/download"
    left.mkdir(parents=True)
    import hashlib

    etag = hashlib.sha256(files["model.safetensors"]).hexdigest()
    (left / f"x.{etag}.12345678.incomplete").write_bytes(b"damaged")
    async with pulling(tmp_path) as (pulls, _):
        await pulled(pulls, "owner/name")
    assert hub.ranges and (tmp_path / "owner/name/model.safetensors").read_bytes() == files["model.safetensors"]


async def test_one_gguf_file_of_many(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/quants"] = {"q4.gguf": b"GGUF4", "q8.gguf": b"GGUF8"}
    async with pulling(tmp_path) as (pulls, _):
        for name in ("owner/quants:q4.gguf", "owner/quants:q8.gguf"):
            entry = await pulled(pulls, name)
            assert Path(entry.path).read_bytes() == b"GGUF" + name[-6:-5].encode()
        with pytest.raises(PullError, match=r"has no file q5\.gguf; of GGUF it has q4\.gguf, q8\.gguf"):
            await pulled(pulls, "owner/quants:q5.gguf")
    assert list(models_folder.scan(tmp_path)) == ["owner/quants:q4.gguf", "owner/quants:q8.gguf"]


async def test_pulled_again_only_what_has_changed_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = whole()
    async with pulling(tmp_path) as (pulls, told):
        await pulled(pulls, "owner/name")
        before = hub.sent
        await pulled(pulls, "owner/name")
        assert hub.sent == before and told[-1][1]["completed"] == told[-1][1]["total"]


async def test_what_somebody_put_there_is_not_replaced(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = whole()
    mine = tmp_path / "owner/name"
    mine.mkdir(parents=True)
    (mine / "config.json").write_text("mine")
    async with pulling(tmp_path) as (pulls, _):
        with pytest.raises(PullError, match="is there and was not downloaded, so it is not replaced"):
            await pulled(pulls, "owner/name")
    assert (mine / "config.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("repo", "said"),
    [
        ("owner/pickles", "has no safetensors; it has pytorch_model.bin, a pickle, which can run code"),
        ("owner/quants", "has no safetensors; give one of its GGUF files, as owner/quants:q4.gguf"),
        ("owner/gated", "is gated: accept its terms at http://127.0.0.1"),
        ("owner/private", "or it is private: look at its name, or set HF_TOKEN"),
        ("owner/nobody", "there is no model owner/nobody at http://127.0.0.1"),
        ("owner/down", "answered with status 500|An error happened|cannot be fetched"),
    ],
)
async def test_why_a_model_cannot_be_had(repo: str, said: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/pickles"] = {"config.json": CONFIG, "pytorch_model.bin": b"x"}
    hub.repos["owner/quants"] = {"q4.gguf": b"GGUF"}
    hub.locked = {"owner/gated": (403, "GatedRepo"), "owner/private": (401, ""), "owner/down": (500, "")}
    async with pulling(tmp_path) as (pulls, _):
        with pytest.raises(PullError, match=said) as raised:
            await pulled(pulls, repo)
    assert "\n" not in str(raised.value) and "hf_not_to_be_shown" not in str(raised.value)


async def test_offline_is_one_clear_line(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pulling(tmp_path) as (pulls, _):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(PullError, match="since HF_HUB_OFFLINE is set: unset it, or copy a model's folder into"):
            await pulled(pulls, "owner/name")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(PullError, match=r"http://127\.0\.0\.1:9 cannot be reached \(.*\); connect, or copy"):
            await pulled(pulls, "owner/name")
    assert hub.asked == []


def test_a_disk_that_is_too_small_is_told_before_the_download(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "SPARE", 1 << 62)
    with pytest.raises(fetch.FetchError, match=r"it needs 0\.02 GB more, and the disk of .* GB free: free some"):
        fetch._check_space(20_000_000, tmp_path / "not" / "there")


async def test_a_hub_that_says_nothing_does_not_stop_a_cancel(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = whole(4 << 20)
    hub.bytes_per_s = 1000
    async with pulling(tmp_path) as (pulls, told):
        going = pulls.begin("owner/name")
        following = asyncio.create_task(pulls.follow(going))
        while not told:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        following.cancel()
        await asyncio.wait([going.task])
        assert time.monotonic() - began < 5


async def test_search(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # in this process it was imported before
    hub.repos = {"owner/small-llama": {}, "owner/large-llama": {}, "owner/bert": {}}
    search = Search()
    try:
        found = await search("llama", 1)
        assert [each["id"] for each in found] == ["owner/small-llama"]
        assert found[0]["downloads"] == 9 and found[0]["gguf"] is True
        for query, limit in (("", 5), ("x" * 201, 5), ("a\x00", 5), ("llama", 0), ("llama", 51)):
            with pytest.raises(ValueError, match=r"must be from 1 to 50|has 1 to 200 characters"):
                await search(query, limit)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(HubError, match="cannot be reached"):
            await search("llama", 5)
    finally:
        search.close()


def test_whatever_its_http_client_raises_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A connection that is cut, a redirect to something else than HTTP: errors of httpx are none of Python's own."""

    class CutError(Exception):
        pass

    def cut(*_: object, **__: object) -> None:
        raise CutError("peer closed connection")

    CutError.__module__ = "httpx"
    monkeypatch.setattr("huggingface_hub.snapshot_download", cut)
    with pytest.raises(fetch.FetchError, match=r"cannot be reached.*peer closed connection"):
        fetch.fetch("owner/name", "", tmp_path)
