"""Whoever looks is told which backend runs the model: at every place, the same name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastserve.engine import Engine
from tests.server.conftest import Serve

pytestmark = pytest.mark.anyio


def named(found: Any, *path: Any) -> Any:
    for key in path:
        found = found[key]
    return found


async def test_everywhere(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "flight.jsonl"
    async with serve(Engine.scripted(max_batch=4, flight_log=log)) as client:
        asked = {"prompt": "abc", "max_new_tokens": 3}
        places = {
            "health": named((await client.get("/health")).json(), "backend_type"),
            "models": named((await client.get("/models")).json(), "models", 0, "backend"),
            "stats": named((await client.get("/stats")).json(), "backend_type"),
            "settings": named((await client.get("/stats/detailed")).json(), "settings", "backend"),
            "answer": named((await client.post("/generate", json=asked)).json(), "metadata", "backend"),
        }
    places["flight log"] = json.loads(log.read_text().partition("\n")[0])["backend"]
    assert set(places.values()) == {"scripted"}, places
