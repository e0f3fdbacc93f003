"""The page of a run in a real browser, opened from its file: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="needs the dev extra")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from fastserve.policies.spec import PolicySpec
from sim.replay import Result, replay
from tests.sim.test_report_file import HOSTILE, TRACE, Hostile, swept

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

SHOTS = Path(__file__).resolve().parents[2] / "build" / "report"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PATIENCE = 60.0
expect.set_options(timeout=PATIENCE * 1e3)
DESKTOP, PHONE = (1280, 860), (390, 844)
SIZE = {"num_requests": 80, "load": 1.2, "max_batch": 4, "progress": False}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def result() -> Result:
    return replay(TRACE, ["fcfs", "sj-mlfq", "las"], **SIZE)


@pytest.fixture(scope="module")
def written(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.report(tmp_path_factory.mktemp("report") / "r.html")


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """visit(path, size, ...): the page from its file, which may neither fail, nor complain, nor ask for anything."""
    pages: list[Page] = []
    wrong: list[str] = []

    def visit(
        path: Path, size: tuple[int, int] = DESKTOP, stage: bool = True, before: str = "", **options: Any
    ) -> Page:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **options)
        pages.append(page)
        page.set_default_timeout(PATIENCE * 1e3)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}") or dialog.dismiss())
        own = path.as_uri()
        page.on("request", lambda asked: None if asked.url.startswith((own, "data:")) else wrong.append(asked.url))
        page.add_init_script(before)
        page.goto(own)
        if stage:
            until(page, "globalThis.stage !== undefined")
        return page

    yield visit
    for page in pages:
        page.close()
    assert wrong == []


def until(page: Page, expression: str) -> None:
    """Playwright's own wait_for_function() makes code of a string, which the page's policy forbids."""
    end = time.monotonic() + PATIENCE
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never: {expression}"
        page.wait_for_timeout(20)


LIVES = """(nth) => [...stage.schedules[nth].lives.values()].map((life) => [life.id, life.end - life.arrival,
    life.first - life.arrival, life.preemptions, life.tokens, life.finish])"""
POINT = """([nth, job]) => {
    const { chart, frame } = stage.panels[nth];
    const visits = chart.schedule.lives.get(job).visits;
    const visit = visits.reduce((a, b) => (b.to - b.from > a.to - a.from ? b : a));
    const box = frame.getBoundingClientRect();
    return [box.left + chart.x((visit.from + visit.to) / 2), box.top + (visit.slot + 0.5) * chart.row];
}"""


def at(page: Page) -> float:
    return float(page.evaluate("stage.view.at"))


def seconds(words: str) -> float:
    """What a person reads: 870 ms, 1.27 s, 2 min 5 s."""
    found = re.match(r"(?:(\d+) min )?([\d.]+) (µs|ms|s)", words)
    assert found is not None, words
    return 60 * int(found[1] or 0) + float(found[2]) * {"µs": 1e-6, "ms": 1e-3, "s": 1}[found[3]]


def figure(page: Page, label: str, name: str) -> str:
    where = f'.under-policy[data-label="{label}"] [data-figure="{name}"] dd'
    return page.locator(where).text_content() or ""


def test_every_life_has_the_records_numbers(result: Result, written: Path, visit: Open) -> None:
    page = visit(written)
    for nth, run in enumerate(result.runs):
        lives = {life[0]: life[1:] for life in page.evaluate(LIVES, nth)}
        assert len(lives) == len(run.records["id"]) == 80
        for row, id in enumerate(run.records["id"].tolist()):
            jct, ttft, preemptions, tokens, finish = lives[id]
            assert jct == pytest.approx(run.records["jct_from_arrival"][row], abs=2e-6)
            assert ttft == pytest.approx(run.records["ttft"][row], abs=2e-6)
            assert preemptions == run.records["preemptions"][row]
            assert tokens == run.records["output_tokens"][row]
            assert finish == run.records["finish"][row]


def test_the_backlog_is_the_records(result: Result, written: Path, visit: Open) -> None:
    """The most jobs that wait at once: who has arrived and not ended, less the slots, where every slot is taken."""
    page = visit(written)
    for nth, run in enumerate(result.runs):
        most, at = page.evaluate(f"(({{ most, fullest }}) => [most, fullest])(stage.schedules[{nth}].backlog)")
        here = (run.records["arrival"] <= at + 1e-6) & (run.records["end"] > at + 1e-6)
        assert most == here.sum() - 4 > 0
        times = run.records["arrival"]
        alive = [((times <= time) & (run.records["end"] > time)).sum() - 4 for time in times]
        assert most <= max(alive) + 1
    expect(page.locator(".readout").last).to_contain_text("most at once: fcfs ")


def test_a_click_on_a_job_tells_its_life_under_both_policies(result: Result, written: Path, visit: Open) -> None:
    page = visit(written)
    runs = {run.label: run.records for run in result.runs}
    mlfq = runs["sj-mlfq"]
    job = int(mlfq["id"][mlfq["preemptions"].argmax()])
    page.evaluate("(job) => stage.reveal(job)", job)
    page.locator("#stage").scroll_into_view_if_needed()
    page.wait_for_timeout(50)
    page.mouse.click(*page.evaluate(POINT, [0, job]))
    expect(page.locator("#life-title")).to_have_text(f"Job {job}")
    for label in ("fcfs", "sj-mlfq"):
        row = list(runs[label]["id"]).index(job)
        for name, column in (("JCT", "jct_from_arrival"), ("TTFT", "ttft")):
            assert seconds(figure(page, label, name)) == pytest.approx(runs[label][column][row], rel=0.02)
        busy = seconds(figure(page, label, "in the batch"))
        waited = seconds(figure(page, label, "waited"))
        assert busy + waited == pytest.approx(runs[label]["jct_from_arrival"][row], rel=0.02)
        expected = int(runs[label]["preemptions"][row])
        assert figure(page, label, "preempted").startswith({0: "never", 1: "once"}.get(expected, f"{expected} times"))
    moments = page.locator('.under-policy[data-label="sj-mlfq"] .moment')
    expect(moments.first).to_contain_text("arrived with a prompt of")
    expect(moments.first.locator("q")).to_have_text(re.compile(r"^Q\d+, \d+ ms left$"))
    preempted = page.locator('.under-policy[data-label="sj-mlfq"] .moment[data-kind="leave"]')
    expect(preempted.first).to_contain_text(re.compile(r"preempted: its (place|KV room) was needed by job \d+"))
    preempted.first.click()
    expect(preempted.first).to_have_attribute("aria-current", "true")
    expect(page.locator(".panel").nth(1).locator(f'.chip.mine[data-job="{job}"]')).to_have_attribute(
        "data-state", "preempted"
    )
    assert page.evaluate("stage.panels.every((panel) => panel.chart.shared.selected === stage.shared.selected)")
    page.keyboard.press("Escape")
    expect(page.locator("#life-title")).to_have_text("A job's life")


def test_it_plays_pauses_and_slows_down(written: Path, visit: Open) -> None:
    page = visit(written)
    page.evaluate("stage.look(1)")
    page.get_by_role("button", name="Play").click()
    until(page, "stage.view.at > 1.5")
    page.get_by_role("button", name="Pause").click()
    stopped = at(page)
    page.wait_for_timeout(100)
    assert at(page) == stopped
    pace, span = page.evaluate("[stage.player.pace, stage.view.span]")
    page.get_by_role("button", name="Slow motion").click()
    slow, closer = page.evaluate("[stage.player.pace, stage.view.span]")
    assert slow < pace / 10 and closer < span
    assert page.evaluate("stage.view.inView(stage.view.at)")
    page.locator("#stage-title").click()
    page.keyboard.press(" ")
    until(page, f"stage.view.at > {stopped}")
    page.keyboard.press(" ")
    page.keyboard.press("s")
    assert page.evaluate("stage.view.span") == pytest.approx(span)
    page.locator("#pace").select_option(index=0)
    assert page.evaluate("stage.player.pace") < pace


def test_it_ends_by_itself_and_begins_anew(written: Path, visit: Open) -> None:
    page = visit(written)
    page.evaluate("stage.look(stage.view.end - 0.01)")
    page.get_by_role("button", name="Play").click()
    expect(page.locator("#play")).to_have_text("Play")
    assert at(page) == page.evaluate("stage.view.end")
    counts = page.locator('[data-part="counts"]').first
    expect(counts).to_contain_text("0 of 4 slots · 0 waiting · 80 ended")
    page.get_by_role("button", name="Play").click()
    until(page, "stage.view.at < stage.view.end / 2")


def test_scrubbing_by_slider_pointer_and_keys(result: Result, written: Path, visit: Open) -> None:
    page = visit(written)
    slider = page.get_by_role("slider", name="Time")
    slider.focus()
    page.keyboard.press("Home")
    assert at(page) == 0
    page.keyboard.press("End")
    assert at(page) == pytest.approx(page.evaluate("stage.view.end"))
    page.locator("#stage-title").click()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    times = sorted(
        event for nth in (0, 1) for event in page.evaluate(f"stage.schedules[{nth}].events.map((e) => e.at)")
    )
    later = [time for time in dict.fromkeys(times) if time > 1e-7]
    assert at(page) == later[0]
    page.keyboard.press("ArrowRight")
    assert at(page) == later[1]
    page.keyboard.press("ArrowLeft")
    assert at(page) == later[0]
    frame = page.locator(".frame").first
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    assert box is not None
    middle = box["x"] + 34 + (box["width"] - 34) / 2
    page.mouse.click(middle, box["y"] + box["height"] - 25)
    assert at(page) == pytest.approx(page.evaluate("stage.view.end / 2"), rel=0.01)
    # What is told of that moment is what the records say of it.
    now = at(page)
    for nth, run in enumerate(result.runs[:2]):
        ended = int((run.records["end"] <= now).sum())
        expect(page.locator('[data-part="counts"]').nth(nth)).to_contain_text(f"{ended} ended")
        here = int(((run.records["arrival"] <= now) & (run.records["end"] > now)).sum())
        chips = page.locator(".panel").nth(nth).locator(".chip")
        assert chips.count() == here


def test_by_keyboard_alone(result: Result, written: Path, visit: Open) -> None:
    """From playing to a job's life in a few stops, however many jobs wait."""
    page = visit(written)
    page.locator("#play").focus()
    stops = 0
    while page.evaluate("document.activeElement.id") != "job":
        page.keyboard.press("Tab")
        stops += 1
        assert stops < 20
    page.keyboard.type("41")
    page.keyboard.press("Enter")
    expect(page.locator("#life-title")).to_have_text("Job 41")
    page.locator(".moment").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    second = page.locator(".moments").first.locator(".moment").nth(1)
    expect(second).to_be_focused()
    expect(second).to_have_attribute("aria-current", "true")


def test_zoom_keeps_one_axis_for_both(written: Path, visit: Open) -> None:
    page = visit(written)
    page.evaluate("stage.look(20)")
    page.locator("#stage-title").click()
    page.keyboard.press("+")
    page.get_by_role("button", name="Show less time").click()
    assert page.evaluate("stage.view.span") == pytest.approx(page.evaluate("stage.view.end") / 4)
    assert page.evaluate("stage.panels[0].chart.x(20) === stage.panels[1].chart.x(20)")
    page.keyboard.press("-")
    page.keyboard.press("0")
    assert page.evaluate("stage.view.span") == page.evaluate("stage.view.end")


def test_any_two_of_the_policies(written: Path, visit: Open) -> None:
    page = visit(written)
    page.locator('[data-part="policy"]').nth(1).select_option(label="las")
    page.get_by_label("Job", exact=True).fill("7")
    page.get_by_role("button", name="Show", exact=True).click()
    labels = page.eval_on_selector_all(".under-policy", "(parts) => parts.map((part) => part.dataset.label)")
    assert labels == ["fcfs", "las"]
    said = page.locator('.under-policy[data-label="las"] .moment q').first
    expect(said).to_have_text(re.compile(r"^served \d+ ms$"))
    page.get_by_label("Colour").select_option("job")
    assert page.evaluate("stage.shared.colourBy") == "job"


def test_what_is_worth_looking_at_is_shown_under_the_policies_concerned(
    result: Result, written: Path, visit: Open
) -> None:
    page = visit(written)
    slowest = max((run.records["jct_from_arrival"].max(), run) for run in result.runs)[1]
    job = int(slowest.records["id"][slowest.records["jct_from_arrival"].argmax()])
    hint = page.locator(".hint").first
    expect(hint).to_contain_text(re.compile(rf"^{job} slowest.* under {slowest.label}"))
    hint.click()
    expect(page.locator("#life-title")).to_have_text(f"Job {job}")
    expect(page.locator(f'.panel[data-label="{slowest.label}"]')).to_have_count(1)
    life = f"stage.schedules.find((one) => one.label === '{slowest.label}').lives.get({job})"
    assert page.evaluate(f"stage.view.inView({life}.arrival) && stage.view.inView({life}.end)")


def test_hostile_names_and_words_are_shown_and_not_run(tmp_path: Path, visit: Open) -> None:
    rows = [json.loads(line) for line in TRACE.read_text().splitlines()[:40]]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join([json.dumps(row | {"client": f"<b>{HOSTILE}"}) for row in rows]))
    specs = [PolicySpec("fcfs", label=HOSTILE), PolicySpec(Hostile, label="theirs")]
    path = replay(trace, specs, load=1.2, max_batch=4, progress=False).report(tmp_path / "r.html")
    page = visit(path)
    page.evaluate("stage.pick(5)")
    assert page.locator(".under-policy h4").first.text_content() == HOSTILE
    assert HOSTILE in (page.locator(".moment q").last.text_content() or "")
    assert page.locator(".client bdi").text_content() == f"<b>{HOSTILE}"
    assert page.locator("img, iframe, main b:not(.chips b):not(.chip b)").count() == 0
    assert HOSTILE.split("<!--", maxsplit=1)[0] in page.title()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_it_fits(written: Path, visit: Open, size: tuple[int, int], scheme: str) -> None:
    page = visit(written, size, color_scheme=scheme)
    page.evaluate("stage.pick(20, { whole: true })")
    page.wait_for_timeout(50)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{size[0]}-{scheme}.png", full_page=True)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_sweep(tmp_path: Path, visit: Open, size: tuple[int, int]) -> None:
    page = visit(swept().report(tmp_path / "s.html"), size, stage=False)
    assert page.locator("figure svg").count() == 4
    assert page.locator("figure").first.locator(".curve").count() == 2
    assert page.locator("figure").first.locator("circle").count() == 6
    expect(page.locator("#stage")).to_be_hidden()
    page.get_by_text("Tables", exact=True).click()
    expect(page.locator(".tables table").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_who_asked_for_less_motion_gets_steps(written: Path, visit: Open) -> None:
    page = visit(written, reduced_motion="reduce")
    page.evaluate("stage.look(0); globalThis.seen = 0; stage.view.listeners.push(() => seen++)")
    page.get_by_role("button", name="Play").click()
    until(page, "stage.view.at > 0")
    page.get_by_role("button", name="Pause").click()
    assert page.evaluate("seen") <= 4, "two pictures a second"


def test_a_browser_that_cannot_unpack_has_the_curves_and_is_told(written: Path, visit: Open) -> None:
    page = visit(written, stage=False, before="delete globalThis.DecompressionStream")
    expect(page.get_by_text("This browser cannot unpack the schedules")).to_be_visible()
    assert page.locator("figure svg").count() == 2
    expect(page.locator("#stage")).to_be_hidden()


def test_one_policy_alone(tmp_path: Path, visit: Open) -> None:
    page = visit(replay(TRACE, "sj-mlfq", **SIZE).report(tmp_path / "r.html"))
    assert page.locator(".panel").count() == 1
    page.evaluate("stage.pick(3)")
    assert page.locator(".under-policy").count() == 1


def test_where_it_was_cut(tmp_path: Path, visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastserve.observers.schedule import Schedule

    monkeypatch.setattr(Schedule.__init__, "__defaults__", (400, 2_000_000))
    page = visit(replay(TRACE, ["fcfs", "mlfq"], **SIZE).report(tmp_path / "r.html"))
    expect(page.locator('[data-part="note"]').nth(1)).to_have_text(
        re.compile(r"^kept up to [\d.]+ s of the run: \d+ jobs, \d+ of them to their end$")
    )
    expect(page.locator('[data-part="note"]').first).to_have_text("")
    page.evaluate("stage.pick(79)")
    expect(page.locator('.under-policy[data-label="mlfq"]')).to_contain_text("not arrived where this schedule ends")
