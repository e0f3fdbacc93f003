"""What a notebook shows of a trace and of a result: short lines, escaped tables, a figure without pyplot."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import sim
from fastserve.html_table import html_table
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace, synthesise
from sim.report.picture import Picture

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<script>alert(1)</script>&\"'"
CLASSES = "chat:0.7:ttft=1s/batch:0.3"


class Cells(HTMLParser):
    """The texts of a page by tag, and all tags that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag != "br":
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data


@pytest.fixture(scope="module")
def result() -> sim.Result:
    trace = synthesise(60, rate=2.0, lengths="fixed:40", classes=CLASSES, seed=1)
    return sim.replay(trace, ["fcfs", PolicySpec("sj-mlfq", label=HOSTILE)], seeds=[0, 2], processes=1)


def test_cells_are_text_and_lines_of_a_heading_stand_above_one_another() -> None:
    page = html_table([["", "mean"], ["policy", "JCT <s>"], [HOSTILE, "1"]], above=["a < b"], below=["c & d", ""])
    cells = Cells(page)
    assert cells.tags == {"div", "p", "table", "thead", "tbody", "tr", "th", "td", "br"}
    assert cells.texts["th"] == ["policy", "meanJCT <s>"] and cells.texts["td"] == [HOSTILE, "1"]
    assert cells.texts["p"] == ["a < b", "c & d"]
    assert "mean<br>JCT" in page and not cells.open


def test_a_result_is_a_line_and_a_table(result: sim.Result) -> None:
    line = repr(result)
    assert line.startswith("<Result of synthetic: 2 rows, 2 seeds; mean JCT s: fcfs ") and len(line) < 160
    page = Cells(result._repr_html_())
    assert "script" not in page.tags
    text = result.table()
    for label in ("fcfs", HOSTILE):
        row = next(line for line in text.splitlines() if line.startswith(f"{label} ")).removeprefix(label).split()
        at = page.texts["td"].index(label)
        assert page.texts["td"][at + 1 : at + 4] == row[:3]
    assert any("95 %" in note or "intervals" in note or "interval" in note for note in page.texts["p"])
    assert page.texts["summary"] == ["settings"] and any("trace synthetic" in note for note in page.texts["p"])
    assert not page.open


def test_a_result_of_programs_and_replicas_shows_these_too() -> None:
    found = sim.replay(
        synth="agents:programs=3,limit=9000,clients=zipf:n=2,s=1", sessions=2, replicas=2, router="session", processes=1
    )
    page = Cells(found._repr_html_())
    assert page.texts["p"][0] == "programs" and "requests" in page.texts["p"]
    assert len(page.texts["table"]) == 3 and "replicas" in page.texts["th"]


def test_an_interrupted_result_says_so_and_an_empty_one_too(result: sim.Result) -> None:
    assert "no run was finished, 4 of 4 runs missing" in repr(sim.Result(result.settings, [], 4))
    assert "No run was finished." in sim.Result(result.settings, [], 4)._repr_html_()
    assert "3 of 4 runs missing" in repr(sim.Result(result.settings, result.runs[:1], 4))


def test_a_figure_shows_itself_and_pyplot_is_never_loaded(result: sim.Result, tmp_path: Path) -> None:
    figure = result.plot()
    assert isinstance(figure, Picture)
    assert figure._repr_png_()[:4] == b"\x89PNG"
    assert repr(figure).startswith("<Picture of job completion time (s), mean JCT (s), p99 JCT (s): ")
    assert {str(text.get_text()) for text in figure.legends[0].get_texts()} == {"fcfs", HOSTILE}
    assert sorted(path.name for path in result.plot(tmp_path)) == [
        "jct_bars.pdf", "jct_bars.png", "jct_cdf.pdf", "jct_cdf.png",
    ]  # fmt: skip
    code = (
        "import sim, sys\n"
        "found = sim.replay(synth='n=20,rate=2', processes=1).plot()\n"
        "found._repr_png_(); print('matplotlib.pyplot' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("label", ["_begins", "$\\frac{", "a_b $x$", "<b>&"])
def test_labels_are_drawn_as_they_are(label: str) -> None:
    trace = synthesise(20, rate=2.0, lengths="fixed:10")
    found = sim.replay(trace, [PolicySpec("fcfs", label=label), "las"], processes=1)
    figure = found.plot()
    assert figure._repr_png_()
    assert len(figure.legends[0].get_texts()) == 2


def test_a_trace_is_a_line_and_a_table_of_its_lengths() -> None:
    trace = synthesise(
        500,
        rate=2.0,
        clients="zipf:n=20,s=1.1",
        classes=CLASSES,
        priorities="0:0.5/1:0.5",
        lengths="lognormal:5,1,1,900",
    )
    line = repr(trace)
    assert line.startswith("<Trace synthetic: 500 requests in ") and "; prompt " in line and len(line) < 250
    assert "clients 20 (client1, client2, " in line and "classes 2 (chat, batch)" in line and "priorities 0, 1" in line
    page = Cells(trace._repr_html_())
    at = page.texts["td"].index("prompt")
    assert (
        page.texts["td"][at + 1] == f"{trace.prompt.mean():,.0f}"
        and page.texts["td"][at + 5] == f"{trace.prompt.max():,}"
    )
    assert any(note.startswith("clients: 20") for note in page.texts["p"])
    assert "array(" not in line


def test_names_of_a_trace_are_text_too() -> None:
    plain = synthesise(3, rate=1.0)
    names = [f"{HOSTILE}\n2", "x" * 5000, ""]
    trace = Trace(HOSTILE, "made", plain.arrival, plain.prompt, plain.output, client=names, slo_class=names)
    page = trace._repr_html_()
    assert "<script" not in page and len(page) < 6000 and not Cells(page).open
    assert "\n" not in repr(trace) and len(repr(trace)) < 500
    assert repr(plain.head(1)) == repr(plain.head(1)) and "1 request in 0 s" in repr(plain.head(1))
