"""The page tells how many guesses were right, once something was guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("playwright", reason="needs the dev extra")

import httpx
from playwright.sync_api import expect

from fastserve.engine import Engine
from tests.engine.test_drafts import LOOKAHEAD, Guesser
from tests.server.test_page import DESKTOP, SHOTS, Open, Site, browser, pytestmark, tile, until, visit

__all__ = ["browser", "pytestmark", "visit"]

TOPS = "[...document.querySelectorAll('.tile')].filter((one) => !one.hidden).map((one) => one.offsetTop)"


@pytest.fixture
def shown() -> Iterator[Site]:
    shown = Site(Engine.on(Guesser(uneven=True), policy="fcfs", lookahead=LOOKAHEAD), 0)
    yield shown
    shown.stop()
    shown.engine.close()


def test_a_tile_of_right_guesses_comes_with_the_first_guess(shown: Site, visit: Open) -> None:
    page = visit(shown.url)
    expect(page.locator(".tile", has_text="accepted")).to_be_hidden()
    httpx.post(f"{shown.url}generate", json={"prompt": "abcdef", "max_new_tokens": 90, "ignore_eos": True})
    until(page, "[...document.querySelectorAll('.tile')].every((one) => !one.hidden)")
    counters = shown.engine.snapshot().counters
    percent = 100 * counters["accepted_tokens"] / counters["draft_tokens"]
    told = re.fullmatch(r"([\d.]+) %", tile(page, "accepted"))
    assert told and abs(float(told[1]) - percent) < 1
    assert len(set(page.evaluate(TOPS))) == 1, "the tiles stand in one row"
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"guesses-{DESKTOP[0]}.png")
