"""The page as it is served, without a browser; and what it needs of the live feed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from fastserve.engine import SamplingParams
from fastserve.server.app import PAGE
from fastserve.server.http import static_page
from tests.server.conftest import Serve, slow_engine
from tests.server.sse import every_data_line

pytestmark = pytest.mark.anyio

FILES = {path.name: path for path in PAGE.iterdir()} | {
    f"shared/{path.name}": path for path in static_page.SHARED.iterdir()
}


async def test_the_page_and_its_parts(serve: Serve) -> None:
    async with serve(api_key=["s3cret"]) as client:  # the shell needs no token
        page = await client.get("/")
        assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
        for name, path in FILES.items():
            part = await client.get(f"/page/{name}")
            assert part.status_code == 200 and part.text == path.read_text(encoding="utf-8")
            assert part.headers["content-type"].startswith(static_page.TYPES[Path(name).suffix])
            assert part.headers["cache-control"] == "no-cache" and "'self'" in part.headers["content-security-policy"]
            again = await client.get(f"/page/{name}", headers={"If-None-Match": part.headers["etag"]})
            assert again.status_code == 304
        assert (await client.get("/page/nothing.js")).status_code == 404
        assert (await client.get("/live")).status_code == 401


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_part_asks_for_nothing_from_elsewhere(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert not re.search(r"(?<!xmlns=\")https?://|(src|href|from|import|url\() *= *[\"']//", text)
    assert "innerHTML" not in text and "insertAdjacentHTML" not in text and " style=" not in text
    asked = re.findall(r'from "\./([\w./]+)"|(?:src|href)="page/([\w./]+)"', text)
    beside = "shared/" if name.startswith("shared/") else ""
    assert {beside + found for pair in asked for found in pair if found} <= set(FILES)


async def heard(client: Any, until: Any) -> list[Any]:
    """Messages of the feed, up to the first that will do."""
    from fastserve.server.telemetry.live import Viewer

    messages: list[Any] = []
    chunks = Viewer(client.service.broadcaster, None).chunks()
    try:
        async for chunk in chunks:
            messages += every_data_line(chunk.decode())
            if messages and until(messages[-1]):
                return messages
    finally:
        await chunks.aclose()
    raise AssertionError("the feed ended")


async def test_progress_is_told_while_nothing_else_happens(serve: Serve) -> None:
    async with serve(slow_engine(policy="fcfs")) as client:
        engine = client.service.engine
        engine.submit("hello", SamplingParams(max_tokens=2000, ignore_eos=True))

        def still(message: Any) -> bool:
            return message.get("events") == [] and message["jobs"][0]["output_tokens"] > 1

        async with asyncio.timeout(20):
            told = await heard(client, still)
        assert told[0]["type"] == "snapshot" and told[-1]["stats"]["levels"] == []
        assert client.service.broadcaster.progress is None and not engine.feed.looked_at, "nothing for nobody"


async def test_knobs_and_levels(serve: Serve) -> None:
    async with serve(slow_engine(knobs={"preset": "artifact", "alpha": 1.5})) as client:
        client.service.engine.generate("hello", SamplingParams(max_tokens=2))
        async with asyncio.timeout(20):
            first = (await heard(client, lambda message: True))[0]
    assert first["knobs"] | {"preset": "artifact", "q1": 0.01, "alpha": 1.5, "ratio": 2.0} == first["knobs"]
    assert first["stats"]["levels"][:3] == [0.01, 0.02, 0.04]
    assert first["derived"]["levels"] == 48 and first["derived"]["quanta"] == first["stats"]["levels"]
    assert first["settings"]["knobs"] == first["knobs"]


async def test_detailed_statistics_name_every_setting(serve: Serve) -> None:
    async with serve(slow_engine(policy="las")) as client:
        found = (await client.get("/stats/detailed")).json()
    assert found["settings"]["knobs"] == {"quantum": 0.0} and found["settings"]["derived"]["quantum"] > 0
