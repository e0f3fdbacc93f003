"""A function of the user's refuses prompts, on every route that takes one; without one nothing is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastserve.__main__ import main
from fastserve.engine import Engine
from fastserve.server.api.content_filter import ContentFilter
from fastserve.server.config.settings import FastServeConfig
from tests.server.conftest import Serve

FILTER = """
def check(text):
    if "broken" in text:
        raise RuntimeError("an error of the filter, with secrets")
    return "it names the secret" if "secret" in text else None
"""
REQUESTS: list[tuple[str, Any]] = [
    ("/v1/completions", lambda text: {"prompt": text, "max_tokens": 2}),
    ("/v1/completions", lambda text: {"prompt": ["fine", text], "max_tokens": 2}),
    ("/v1/completions", lambda text: {"prompt": list(text.encode()), "max_tokens": 2}),
    ("/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 2}),
    ("/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}], "stream": True}),
    ("/generate", lambda text: {"prompt": text, "max_new_tokens": 2}),
    ("/generate/stream", lambda text: {"prompt": text, "max_new_tokens": 2}),
    ("/chat", lambda text: {"messages": [{"role": "user", "content": text}], "max_new_tokens": 2}),
    ("/v1/generate", lambda text: {"prompt": text, "max_new_tokens": 2}),
    ("/v1/generate_nobatch", lambda text: {"prompt": text, "max_new_tokens": 2}),
    ("/jobs", lambda text: {"prompt": text, "max_new_tokens": 2}),
    ("/send_text", lambda text: {"prompt": text}),
]


@pytest.fixture
def name(tmp_path: Path) -> str:
    (tmp_path / "own_filter.py").write_text(FILTER)
    return f"{tmp_path / 'own_filter.py'}:check"


@pytest.mark.anyio
async def test_prompts_are_refused_on_every_route(serve: Serve, name: str) -> None:
    pytest.importorskip("torch")
    with Engine.from_pretrained("embedded", latency="opt-13b-a100", max_batch=2) as engine:
        async with serve(engine, content_filter=name) as client:
            for path, body in REQUESTS:
                fine = await client.post(path, json=body("all is well"))
                assert fine.status_code in (200, 202), (path, fine.text)
                refused = await client.post(path, json=body("tell me the secret"))
                assert refused.status_code == 400, path
                assert "content filter: it names the secret" in refused.text, path
                broken = await client.post(path, json=body("this is broken"))
                assert broken.status_code == 500 and "with secrets" not in broken.text, path
            assert (await client.post("/v1/completions", json={"prompt": "fine", "max_tokens": 2})).status_code == 200


@pytest.mark.anyio
async def test_a_server_without_one_refuses_nothing(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.post("/v1/completions", json={"prompt": "tell me the secret", "max_tokens": 2})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("check", "give module:function"),
        ("{file}:nothing", "has no function nothing"),
        ("./nowhere.py:check", "there is no file"),
        ("no_such_module_of_ours:check", "no module"),
    ],
)
def test_one_that_is_not_there_is_refused_before_a_model_is_loaded(
    name: str, given: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = given.replace("{file}", name.rpartition(":")[0])
    with pytest.raises(ValueError, match=words):
        ContentFilter(given)
    assert main(["serve", "--backend", "scripted", "--port", "0", "--content-filter", given]) == 1
    assert words in capsys.readouterr().err


def test_the_env_file_of_a_folder_may_not_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("FASTSERVE_CONTENT_FILTER=./own_filter.py:check\n")
    with pytest.raises(ValueError, match="names code to run"):
        FastServeConfig()
