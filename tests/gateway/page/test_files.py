"""The files of the gateway's page, without a browser."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

import httpx

from fastserve.gateway import Gateway
from fastserve.gateway.app import PAGE
from fastserve.server.http import static_page

pytestmark = pytest.mark.anyio
FILES = {path.name: path for path in PAGE.iterdir()} | {
    f"shared/{path.name}": path for path in static_page.SHARED.iterdir()
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_page_needs_no_token_and_its_data_does() -> None:
    gateway = Gateway(api_key=["s3cret"])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway.app), base_url="http://test") as client:
        for path in ("/", *[f"/page/{name}" for name in FILES]):
            part = await client.get(path)
            assert part.status_code == 200 and "'self'" in part.headers["content-security-policy"], path
            assert "frame-ancestors 'none'" in part.headers["content-security-policy"]
        assert (await client.head("/")).status_code == 200, "Ollama's program asks so whether somebody is there"
        for path in ("/gateway/status", "/conversations", "/api/tags"):
            assert (await client.get(path)).status_code == 401


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_part_asks_for_nothing_from_elsewhere(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8").replace("http://127.0.0.1:8001", "").replace("http://www.w3.org", "")
    assert not re.search(r"https?://|(src|href|from|import|url\() *= *[\"']//", text)
    assert "innerHTML" not in text and "insertAdjacentHTML" not in text and " style=" not in text
    asked = re.findall(r'from "\./([\w./]+)"|(?:src|href)="page/([\w./]+)"', text)
    beside = "shared/" if name.startswith("shared/") else ""
    assert {beside + found for pair in asked for found in pair if found} <= set(FILES)
