"""Models on the gateway's page: found on the hub, downloaded with a bar, loaded, unloaded, deleted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("playwright", reason="needs the dev extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")
pytest.importorskip("huggingface_hub", reason="needs the gateway extra")

from playwright.sync_api import Locator, Page, expect

from fastserve.gateway import Gateway
from tests.gateway.live import on_socket
from tests.gateway.models.conftest import hub, stubs
from tests.gateway.models.fake_hub import FakeHub
from tests.gateway.models.test_hub import whole
from tests.server.test_page import CONTRAST, DESKTOP, SHOTS, Open, browser, pytestmark, visit

PHONE = (390, 844)
__all__ = ["browser", "hub", "pytestmark", "stubs", "visit"]


@pytest.fixture
def url(tmp_path: Path, stubs: None) -> Iterator[str]:
    names = tmp_path / "models.json"
    names.write_text(json.dumps({"small": "ok", "late": "slow:1.5", "bad": "fail"}))
    folder = tmp_path / "models"
    folder.mkdir()
    with on_socket(Gateway(models=names, models_dir=folder, health_check=False).app) as url:
        yield url


RECORD = """() => {
  window.seen = new Set();
  setInterval(() => {
    const bar = document.querySelector("#jobs progress[value]");
    if (bar) window.seen.add(bar.value);
  }, 20);
}"""
"""Remembers which values the bar of a download has had."""


@pytest.fixture
def searched(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub, for searches too, which this process itself makes and which read its address once."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    return hub


def model(page: Page, name: str, within: str = "#models") -> Locator:
    return page.locator(f"{within} .model", has=page.get_by_text(name, exact=True))


def test_load_and_unload(url: str, visit: Open) -> None:
    page = visit(url)
    expect(page.locator("#unmanaged")).to_be_hidden()
    expect(model(page, "small").locator(".state")).to_have_text("unloaded")
    expect(page.locator("#model option")).to_have_text(["bad", "late", "small"])
    page.get_by_role("button", name="Load small").click()
    expect(model(page, "small").locator(".state")).to_have_text("in memory")
    expect(model(page, "small")).to_contain_text(re.compile(r"idle for .* · \d+ MiB · loaded in"))
    expect(page.locator("#servers")).to_contain_text("started by models")
    expect(page.get_by_role("button", name="Remove small")).to_be_hidden()
    page.get_by_role("button", name="Load late").click()
    expect(model(page, "late").locator(".state")).to_have_text("starting")
    expect(model(page, "late").get_by_role("progressbar")).to_be_visible()
    expect(model(page, "late").locator(".state")).to_have_text("in memory")
    page.get_by_role("button", name="Load bad").click()
    expect(model(page, "bad").locator(".state")).to_have_text("failed")
    expect(model(page, "bad").locator(".failure")).to_contain_text("the reason why")
    SHOTS.mkdir(parents=True, exist_ok=True)
    phone = visit(url, PHONE)
    expect(model(phone, "bad").locator(".failure")).to_be_visible()
    for width, each in ((DESKTOP[0], page), (PHONE[0], phone)):
        each.screenshot(path=SHOTS / f"gateway-models-{width}.png", full_page=True)
        assert each.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
        assert each.evaluate(CONTRAST) == []
    page.get_by_role("button", name="Unload small").click()
    expect(model(page, "small").locator(".state")).to_have_text("unloaded")


def test_a_question_to_a_model_that_is_not_loaded_says_what_it_waits_for(url: str, visit: Open) -> None:
    page = visit(url)
    page.get_by_label("Model", exact=True).select_option("late")
    page.get_by_label("Message").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator(".answer .meta")).to_have_text("late is starting")
    expect(model(page, "late").locator(".state")).to_have_text("in memory")


def test_find_download_and_delete(url: str, visit: Open, searched: FakeHub) -> None:
    searched.repos["owner/tiny-model"] = whole(4 << 20)
    searched.bytes_per_s = 1 << 20  # so that the bar is looked at several times, however slow this machine is
    page = visit(url)
    page.get_by_label("Find on the hub").fill("tiny")
    page.keyboard.press("Enter")
    expect(model(page, "owner/tiny-model", "#found")).to_contain_text("9 downloads")
    page.evaluate(RECORD)
    page.get_by_role("button", name="Download and load owner/tiny-model").click()
    expect(model(page, "owner/tiny-model", "#jobs")).to_contain_text(re.compile(r"[\d.]+ [KM]iB of 4\.0 MiB"))
    expect(model(page, "owner/tiny-model").locator(".state")).to_have_text("in memory")
    assert len(page.evaluate("[...window.seen]")) > 1, "the bar moves"
    expect(model(page, "owner/tiny-model", "#jobs")).to_have_count(0)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete owner/tiny-model").click()
    expect(model(page, "owner/tiny-model")).to_have_count(0)
    page.get_by_label("Find on the hub").fill("nothing like it")
    page.keyboard.press("Enter")
    expect(page.locator("#models-say")).to_have_text("nothing found")


def test_a_download_is_cancelled(url: str, visit: Open, searched: FakeHub) -> None:
    searched.repos["owner/large"] = whole(8 << 20)
    searched.bytes_per_s = 1 << 20
    page = visit(url)
    page.get_by_label("Find on the hub").fill("large")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Download and load owner/large").click()
    page.get_by_role("button", name="Cancel the load of owner/large").click()
    expect(model(page, "owner/large", "#jobs").locator(".state")).to_have_text("cancelled")


def test_a_hub_that_does_not_answer(url: str, visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    page = visit(url, quiet=False)  # a browser logs each refusal itself
    page.get_by_label("Find on the hub").fill("tiny")
    page.keyboard.press("Enter")
    expect(page.locator("#models-say.failure")).to_contain_text("cannot be reached")
