"""What the page shows of shared prefixes: contexts that begin alike, what is idle, who is held back, what was found."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("playwright", reason="needs the dev extra")

import httpx
from playwright.sync_api import expect

from tests.server.test_page import (
    CONTRAST,
    DESKTOP,
    PHONE,
    SHOTS,
    Open,
    Site,
    browser,
    pytestmark,
    site,
    tile,
    until,
    visit,
)  # fmt: skip
from tests.server.test_prefix_cache import OneProgram

__all__ = ["browser", "pytestmark", "site", "visit"]

SYSTEM = "You are an agent that mends ferries. " * 10
ROWS = """[...document.querySelectorAll('#contexts li')].map((row) => ({
  state: row.dataset.state, name: row.firstChild.textContent, why: row.querySelector('small').textContent,
  size: row.querySelector('.size').textContent,
  runs: [...row.querySelectorAll('.run')].map((run) => [run.className, run.title]),
}))"""


def ask(url: str, text: str, program: str, tokens: int) -> Any:
    body = {"prompt": SYSTEM + text, "max_new_tokens": tokens, "ignore_eos": True, "program": program, "user": "u"}
    return httpx.post(f"{url}generate", json=body, timeout=60).json()


def test_contexts_that_begin_alike_are_one_block(site: Callable[..., Site], visit: Open) -> None:
    shown = site(policy=OneProgram, realtime=4, kv_tokens=1600, max_model_len=1500)
    page, phone = visit(shown.url), visit(shown.url, PHONE, color_scheme="dark")
    expect(page.locator("#no-contexts")).to_be_visible()
    assert tile(page, "found") == "–" and tile(page, "held back") == "0"
    ask(shown.url, "first task " * 20, "one", 8)
    until(page, "document.querySelectorAll('#contexts li').length === 1")
    runs = threading.Thread(target=ask, args=(shown.url, "first task " * 20 + "more", "one", 900))
    waits = threading.Thread(target=ask, args=(shown.url, "second task " * 20, "<b>two</b>", 8))
    runs.start()
    until(page, "document.querySelector('#contexts li[data-state=running]')")
    waits.start()
    until(page, "document.querySelector('#contexts li[data-state=held]')")
    rows = {row["state"]: row for row in page.evaluate(ROWS)}
    for row in (rows["running"], rows["held"]):
        kind, title = row["runs"][0]
        assert "shared" in kind and "running" in kind and title == "368 tokens, in use, shared by 2 contexts"
    assert rows["held"]["why"].startswith("held back: its 610 tokens come after one")
    assert re.fullmatch(r"610 · held back [\d.]+ m?s", rows["held"]["size"])
    assert re.fullmatch(r"job 2 · program 2", rows["held"]["name"]), "without tokens a program has a number only"
    assert any("missing" in kind for kind, _ in rows["held"]["runs"])
    assert tile(page, "held back") == "1" and re.fullmatch(r"[\d.]+ %", tile(page, "found"))
    until(page, "document.querySelectorAll('.lane.level .chip[data-state=held]').length === 1")
    SHOTS.mkdir(parents=True, exist_ok=True)
    for width, each in ((DESKTOP[0], page), (PHONE[0], phone)):
        until(each, "document.querySelector('#contexts li[data-state=held]')")
        assert each.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
        assert each.evaluate(CONTRAST) == []
        each.screenshot(path=SHOTS / f"prefixes-{width}.png", full_page=True)
    httpx.post(f"{shown.url}programs/release", json={"program_id": "one"})
    waits.join(60)
    until(page, "document.querySelector('#hit-line').getAttribute('points')")
    assert re.search(r"of [\d,]+ prompt tokens in 5 minutes", page.locator("#hit-words").text_content() or "")
    ask(shown.url, "third task " * 90, "three", 8)
    until(page, "!document.querySelector('#evicted').textContent.startsWith('0 tokens')")
    for job in list(shown.service.registry.jobs):
        httpx.delete(f"{shown.url}jobs/{job}")
    runs.join(60)
    until(page, "[...document.querySelectorAll('#contexts li')].every((row) => row.dataset.state === 'idle')")
    assert all("spare" in row["runs"][0][0] for row in page.evaluate(ROWS))


def test_without_a_cache_there_is_nothing_of_it(site: Callable[..., Site], visit: Open) -> None:
    page = visit(site(prefix_cache="off").url)
    expect(page.locator("#prefixes")).to_be_hidden()
