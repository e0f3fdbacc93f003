"""The charts of the page, in a real browser, as in test_report_page.py."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs the dev extra")

from playwright.sync_api import expect

from sim.replay import replay
from tests.sim.test_report_file import TRACE
from tests.sim.test_report_page import CHROMIUM, SIZE, Open, browser, visit  # noqa: F401

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


def test_a_backlog_of_one_replica_says_so(visit: Open, tmp_path: Path) -> None:  # noqa: F811
    path = replay(TRACE, "mlfq", **SIZE | {"replicas": 3}).report(tmp_path / "cluster.html")
    page = visit(path)
    expect(page.locator("#curves figure").last).to_contain_text("r0, the first of 3 replicas: its jobs alone")


OVERLAPS = """() => [...document.querySelectorAll("svg.lines")].map((chart) => {
    const boxes = [...chart.querySelectorAll(".grid text")].map((one) => one.getBoundingClientRect());
    const aside = (a, b) => a.right <= b.left + 0.5 || a.bottom <= b.top + 1;
    return boxes.filter((a, nth) => boxes.slice(nth + 1).some((b) => !aside(a, b) && !aside(b, a))).length;
})"""


def test_marks_of_an_axis_stand_apart(visit: Open, tmp_path: Path) -> None:  # noqa: F811
    """Times that are within a factor of five of one another have marks close together."""
    run = replay(synth="n=60,rate=5,lengths=profile:sharegpt", policy="fcfs", replicas=3)
    page = visit(run.report(tmp_path / "narrow.html"))
    assert page.evaluate(OVERLAPS) == [0, 0, 0]
