"""The page in a real browser: Debian's Chromium, driven by Playwright, on servers with scripted engines."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("playwright", reason="needs the dev extra")

import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from fastserve.engine import Engine
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.service import Service

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

SHOTS = Path(__file__).resolve().parents[2] / "build" / "page"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60.0
expect.set_options(timeout=PATIENCE * 1e3)
DESKTOP, PHONE = (1280, 800), (375, 812)


class Site:
    """A server in this process. url: where it is."""

    def __init__(self, engine: Engine, port: int = 0, **settings: Any) -> None:
        self.engine = engine
        listener = socket.create_server(("127.0.0.1", port))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        app = create_app(engine, FastServeConfig(**settings))
        self.service: Service = app.state.service
        self.server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", ws="none", timeout_graceful_shutdown=1, lifespan="on", proxy_headers=False
            )
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        wait(lambda: self.server.started, "the server never started")

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def wait(holds: Callable[[], object], otherwise: str) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until, otherwise
        time.sleep(0.02)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def site() -> Iterator[Callable[..., Site]]:
    """site(engine settings, port=, settings=): a server whose engine runs in real time."""
    sites: list[Site] = []

    def site(port: int = 0, settings: dict[str, Any] | None = None, **engine: Any) -> Site:
        made = Site(Engine.scripted(**{"max_batch": 4, "realtime": True, **engine}), port, **(settings or {}))
        sites.append(made)
        return made

    yield site
    for made in sites:
        made.stop()
        made.engine.close()


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """visit(url, size, ...): a page in a context of its own, which may neither fail nor complain."""
    pages: list[Page] = []
    wrong: list[str] = []

    def visit(url: str, size: tuple[int, int] = DESKTOP, live: bool = True, quiet: bool = True, **options: Any) -> Page:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **options)
        pages.append(page)
        page.set_default_timeout(PATIENCE * 1e3)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        if quiet:
            page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.goto(url)
        if live:
            connected(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert wrong == []


def connected(page: Page, words: str = "live") -> None:
    expect(page.locator("#link")).to_have_text(words)


def until(page: Page, expression: str) -> Any:
    """What it evaluates to once that is true."""
    end = time.monotonic() + PATIENCE
    while not (found := page.evaluate(expression)):
        assert time.monotonic() < end, f"never: {expression}"
        page.wait_for_timeout(20)
    return found


TILE = """(name) => [...document.querySelectorAll(".tile")]
    .find((tile) => tile.firstChild.textContent === name).lastChild.textContent"""
KNOBS = "[...document.querySelectorAll('.knob')].map((knob) => [...knob.children].map((part) => part.textContent))"
LANES = """Object.fromEntries([...document.querySelectorAll('.lane.level')].flatMap((lane, level) =>
    [...lane.querySelectorAll('.chip')].map(chip => [chip.firstChild.textContent, level])))"""


def tile(page: Page, name: str) -> str:
    return str(page.evaluate(TILE, name))


def ask(page: Page, question: str, tokens: int) -> None:
    page.get_by_label("At most").fill(str(tokens))
    page.get_by_label("Message").fill(question)
    page.get_by_label("Message").press("Enter")


def test_a_chat_streams_in_as_an_outlined_job_until_it_is_stopped(site: Callable[..., Site], visit: Open) -> None:
    shown = site(max_model_len=100_000)
    page = visit(shown.url)
    ask(page, "go on for ever", 90_000)
    first = until(page, "document.querySelector('.answer .words').textContent.length")
    until(page, f"document.querySelector('.answer .words').textContent.length > {first}")
    until(page, "document.querySelectorAll('.lane.level .chip.mine').length === 1")
    until(page, "/^job 0, running in Q\\d+, \\d+ tokens$/.test(document.querySelector('.answer .meta').textContent)")
    expect(page.locator("#said")).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".answer .meta")).to_have_text("stopped")
    wait(lambda: not shown.engine.snapshot().running, "its job went on")
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turn").count() == 0
    page.get_by_role("button", name="Count to one hundred").click()
    assert page.locator(".user .words").text_content() == "Count to one hundred"
    until(page, "document.querySelector('.answer .words')?.textContent.length > 0")
    assert page.locator(".idea").count() == 0, "suggestions go with the first question"


def test_a_chat_that_ends(site: Callable[..., Site], visit: Open) -> None:
    page = visit(site().url, quiet=False)  # a browser logs each refusal itself
    ask(page, "What is <img src=x> & why?", 20)
    expect(page.locator(".answer .meta")).to_have_text(re.compile(r"20 tokens in .* first after .* cut at the limit"))
    expect(page.locator("#send")).to_have_text("Send")
    assert len(page.locator(".answer .words").text_content() or "") == 20
    assert page.locator(".user .words").text_content() == "What is <img src=x> & why?"
    assert page.locator("#said img").count() == 0, "what is said is text, never markup"
    expect(page.locator("#said")).to_have_attribute("aria-busy", "false")
    assert page.evaluate("document.activeElement.id") == "text", "ready for the next question"
    ask(page, "x" * 3000, 20)
    expect(page.locator(".meta.wrong")).to_have_text(re.compile("not answered: .*2,?048"))


def test_a_burst_asks_a_trained_model_what_it_can_answer(site: Callable[..., Site], visit: Open) -> None:
    page = visit(site().url)
    script = "import('/page/burst.js').then((it) => [false, true].map((trained) => it.requests(8, 2048, trained)))"
    plain, trained = page.evaluate(script)
    shapes = [[(each["after"], each["client"], len(each["prompts"]), each["tokens"]) for each in burst]
              for burst in (plain, trained)]  # fmt: skip
    assert shapes[0] == shapes[1]
    for each in trained:
        ends = (
            r"The capital of \w+ is" if each["client"] == "short" else r"(The tide .*)?This is story .*Once upon a time"
        )
        assert all(re.fullmatch(ends, prompt) for prompt in each["prompts"]), each
        assert each.get("ends", []) == ([".", "\n"] if each["client"] == "short" else [])
    long = [prompt for each in trained if each["client"] == "long" for prompt in each["prompts"]]
    assert min(map(len, long)) > 500 and len(set(long)) == len(long)


def test_a_burst_moves_jobs_between_levels(site: Callable[..., Site], visit: Open) -> None:
    shown = site(max_batch=8, realtime=2)
    page = visit(shown.url)
    phone = visit(shown.url, PHONE, color_scheme="dark", device_scale_factor=2)
    expect(page.locator("#idle")).to_be_visible()
    assert page.locator(".lane.unused").count() == page.locator(".lane.level").count()
    page.get_by_role("button", name="Demo burst").click()
    seen: dict[str, set[int]] = {}

    def demoted() -> bool:
        for job, level in page.evaluate(LANES).items():
            seen.setdefault(job, set()).add(level)
        return sum(len(levels) > 1 for levels in seen.values()) >= 3

    wait(lambda: [page.wait_for_timeout(20), demoted()][1], "no job was seen on two levels")
    wait(lambda: [page.wait_for_timeout(20), int(tile(page, "preemptions")) > 0][1], "nothing was preempted")
    story = r"job \d+ (demoted, Q\d+ → Q\d+|promoted, Q\d+ → Q\d+|preempted after \d+ tokens)"
    assert re.fullmatch(story, page.locator("#story").text_content() or "")
    expect(page.locator("#idle")).to_be_hidden()
    assert re.fullmatch(r"[\d.]+ %", tile(page, "scheduling"))
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "burst-1280.png", full_page=True)
    phone.screenshot(path=SHOTS / "burst-375.png", full_page=True)
    for width, each in ((DESKTOP[0], page), (PHONE[0], phone)):
        assert each.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
        assert each.evaluate(CONTRAST) == []
    assert until(page, "document.querySelectorAll('.lane.done .chip').length > 2")
    expect(page.locator("#burst-says")).to_have_text(re.compile(r"\d+ preemptions · median: .*short"))
    assert page.locator(".lane.level .chip").count() == 0
    assert page.evaluate(PAINTED) > 3, "the timeline shows jobs of several levels"
    assert re.fullmatch(r"[\d.]+ m?s", page.locator("#times td").first.text_content() or "")


CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest(":disabled, noscript, dialog:not([open])") || !element.checkVisibility()) continue;
    const behind = (element) => getComputedStyle(element).backgroundColor;
    let ground = element;
    while (ground.parentElement && rgb(behind(ground))[3] === 0) ground = ground.parentElement;
    const [a, b] = [getComputedStyle(element).color, behind(ground)].map((colour) => light(rgb(colour)));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName}.${element.className} ${element.textContent}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
"""Texts with a contrast below WCAG's 4.5."""

PAINTED = """() => {
  const canvas = document.querySelector("#slots");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const many = new Map();
  for (let i = 0; i < data.length; i += 4) {
    const colour = data.slice(i, i + 3).join();
    many.set(colour, (many.get(colour) ?? 0) + 1);
  }
  return [...many.values()].filter((pixels) => pixels > 200).length;
}"""
"""Colours that cover more than a few pixels of the timeline, its ground among them."""


def test_less_motion_is_no_motion(site: Callable[..., Site], visit: Open) -> None:
    page = visit(site().url, reduced_motion="reduce")
    page.get_by_role("button", name="Demo burst").click()
    moves = [page.evaluate("document.getAnimations().length")]
    while int(tile(page, "ended") if tile(page, "ended") != "–" else 0) < 5:
        moves.append(page.evaluate("document.getAnimations().length"))
        page.wait_for_timeout(20)
    assert set(moves) == {0}


def test_a_policy_without_levels_has_one_lane(site: Callable[..., Site], visit: Open) -> None:
    page = visit(site(policy="fcfs").url)
    page.get_by_role("button", name="Demo burst").click()
    until(page, "document.querySelectorAll('.lane.level .chip').length > 4")
    assert page.locator(".lane.level").count() == 1
    assert page.locator(".lane.level b").first.text_content() == "Jobs"
    page.get_by_role("button", name="Stop burst").click()
    expect(page.locator("#burst-says")).to_have_text("stopped")
    until(page, "document.querySelectorAll('.lane.level .chip').length === 0")


def test_the_policy_and_its_knobs(site: Callable[..., Site], visit: Open) -> None:
    page = visit(site(knobs={"preset": "artifact", "alpha": 2.5}).url)
    assert page.locator("#policy").text_content() == "sj-mlfq" and page.locator("#model").text_content() == "scripted"
    page.get_by_text("Policy and settings").click()
    shown = dict(page.evaluate(KNOBS))
    assert shown["preset"] == "artifact" and shown["q1"] == "0.01" and shown["alpha"] == "2.5" and shown["ratio"] == "2"
    assert shown["residency"] == "proactive" and shown["max batch"] == "4"


def test_a_token_is_asked_for_and_kept_in_the_tab(site: Callable[..., Site], visit: Open) -> None:
    shown = site(settings={"api_key": ["s3cret alice"]})
    page = visit(shown.url, live=False, quiet=False)  # a browser logs each 401 itself
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    page.get_by_label("Token", exact=True).fill("guess")
    page.keyboard.press("Enter")
    expect(page.locator("#gate-why")).to_have_text("this token is not known here")
    page.get_by_label("Token", exact=True).fill("s3cret")
    page.keyboard.press("Enter")
    connected(page)
    expect(dialog).to_be_hidden()
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]
    page.get_by_label("Message").fill("hello")
    page.get_by_label("Message").press("Enter")
    until(page, "document.querySelector('.answer .words')?.textContent.length > 3")
    page.reload()
    connected(page)


def test_the_feed_is_closed_while_the_tab_is_hidden(site: Callable[..., Site], visit: Open) -> None:
    shown = site()
    page = visit(shown.url)
    assert shown.engine.feed.looked_at
    page.evaluate(HIDE, True)
    wait(lambda: [page.wait_for_timeout(20), not shown.engine.feed.looked_at][1], "the server works for nobody")
    page.evaluate(HIDE, False)
    connected(page)
    assert shown.engine.feed.looked_at


HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_it_finds_a_server_that_comes_back(site: Callable[..., Site], visit: Open) -> None:
    first = site()
    page = visit(first.url, quiet=False)  # a browser logs each refused connection itself
    first.stop()
    connected(page, "reconnecting")
    site(port=first.port, policy="fcfs")
    connected(page)
    expect(page.locator("#policy")).to_have_text("fcfs")


def test_the_keyboard_reaches_all_of_it(site: Callable[..., Site], visit: Open) -> None:
    page = visit(site().url)
    reached = []
    while page.keyboard.press("Tab") or page.evaluate("document.activeElement !== document.body"):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert shown != "none", f"no focus is seen on {reached[-1]}"
    assert [name for name in reached if name in ("said", "text", "most", "send", "burst")] == [
        "said", "text", "most", "send", "burst",
    ]  # fmt: skip
    assert reached[0] == "Skip to the scheduler" and "Policy and settings" in reached
    page.locator("#burst").focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.lane.level .chip').length > 0")
