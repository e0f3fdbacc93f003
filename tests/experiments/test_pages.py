"""What was reproduced: the pages that tell it are what their generator writes, and what they count is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import table
from experiments._lib import front_page
from experiments._lib.committed_rows import committed
from experiments._lib.verdicts import (
    AGENTS,
    ARTIFACT,
    FASTSERVE,
    OTHER,
    PAPER,
    UNAGED,
    anchor,
    by_figure,
    numbers_of,
    tally,
    verdicts,
)

LINK = re.compile(r"\]\(([^)\s]+)\)")
REFERENCES = table.references("small")


def claim(figure: str, text: str, verdict: str, why: str = "", published: str | None = "2") -> dict[str, Any]:
    return {
        "figure": figure,
        "text": text,
        "published": published,
        "shown": "1.5 (note)",
        "verdict": verdict,
        "why": why,
    }


def test_the_committed_page_is_what_the_generator_writes() -> None:
    assert table.README.read_text(encoding="utf-8") == table.page(REFERENCES, "small"), (
        "run: python -m experiments.table"
    )


def test_the_front_page_says_what_the_references_say() -> None:
    page = front_page.README.read_text(encoding="utf-8")
    assert page == front_page.with_block(page, verdicts(REFERENCES)), "run: python -m experiments.table"
    shown = page.partition(front_page.BEGIN)[2].partition(front_page.END)[0]
    assert len(re.findall(r"^(?:Fig|v1)[^|]*\|[^|]*\|[^|]*\| (?:yes|close|no|open)$", shown, re.MULTILINE)) == 8
    for name in front_page.PICTURES:
        assert (front_page.README.parent / "docs" / "img" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_markers_is_not_written_over() -> None:
    with pytest.raises(ValueError, match="has no"):
        front_page.with_block("# A page", verdicts(REFERENCES))
    changed = {name: known for name, known in REFERENCES.items() if name != "goodput"}
    with pytest.raises(ValueError, match="goodput claims nothing like"):
        front_page.block(verdicts(changed))


@pytest.mark.parametrize("page", [table.README, front_page.README], ids=["experiments", "front"])
def test_links_lead_somewhere(page: Path) -> None:
    """Files of the repository, and headings as a code host names them."""
    headings = {anchor(line.lstrip("# ")) for line in _lines(page) if line.startswith("#")}
    for target in LINK.findall("\n".join(_lines(page))):
        path, _, place = target.partition("#")
        if "://" in target:
            continue
        assert not path or (page.parent / path).exists(), target
        assert not place or path or place in headings, target


def _lines(page: Path) -> list[str]:
    """Without blocks of code, whose comments are no headings."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE).splitlines()


def test_every_figure_is_told_of() -> None:
    rows = verdicts(REFERENCES).rows
    assert {row.figure for row in rows} == {*FASTSERVE, *AGENTS}
    assert len(rows) == sum(
        claim["published"] is not None for known in REFERENCES.values() for claim in known["claims"]
    )


def test_each_set_of_parameters_has_its_rows() -> None:
    told = verdicts(
        {
            "b": {
                "claims": [
                    claim("Autellix", "program time", "no"),
                    claim("Fig. 12", "ours alone", "ours", published=None),
                ]
            },
            "a": {
                "claims": [
                    claim("Fig. 11, range", "rate, sj-mlfq over fcfs", "yes", "never told"),
                    claim("Fig. 11", "rate, sj-mlfq (artifact) over fcfs", "no"),
                    claim("headline", "JCT, fcfs over sj-mlfq (no aging), live", "close"),
                ]
            },
        }
    )
    assert [(row.figure, row.whose) for row in told.rows] == [
        ("Fig. 11", PAPER), ("Fig. 11", ARTIFACT), ("headline", UNAGED), ("Autellix", OTHER)
    ]  # fmt: skip
    assert told.reasons == []
    assert tally(told.rows)[-1] == "**all** | 4 | 1 | 1 | 2 | 0"
    rows = {line.partition(" | ")[0]: line.split(" | ")[2:] for line in by_figure(told.rows)}
    assert rows["[Fig. 11](#fig-11)"] == ["1\N{NO-BREAK SPACE}yes", "1\N{NO-BREAK SPACE}no", ""]
    assert rows["[headline](#headline)"] == ["without ageing 1\N{NO-BREAK SPACE}close", "", ""]
    assert rows["[Autellix](#autellix)"] == ["1\N{NO-BREAK SPACE}no", ""]
    lines = numbers_of(told.rows, "Fig. 11")
    assert lines.index("rate, sj-mlfq over fcfs | 2 | 1.5 (note) | yes | ") < lines.index(
        f"what with {ARTIFACT} | published | ours | agrees? | why not"
    )


def test_a_reason_is_told_once() -> None:
    """What is said of several numbers is a note of its own; what is only said together is one."""
    told = verdicts(
        {
            "a": {
                "claims": [
                    claim("Fig. 11", "one", "no", "theirs is short; ours: long; all are modelled"),
                    claim("Fig. 11", "two", "close", "the pool is small; all are modelled"),
                    claim("Fig. 11", "three", "no", "the pool is small; all are modelled"),
                ]
            }
        }
    )
    assert told.reasons == ["theirs is short; ours: long", "all are modelled", "the pool is small"]
    assert [row.notes for row in told.rows] == [(1, 2), (3, 2), (3, 2)]


def test_the_pictures_show_the_rows(tmp_path: Path) -> None:
    figure = Figure()
    found = committed("jct_vs_rate", "small")
    assert found is not None
    front_page.FILLS["front-rate"](figure, found.outcome.rows)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert {"fcfs", "sj-mlfq", "sj-mlfq (artifact)", "fcfs, published", "sj-mlfq, published"} <= lines.keys()
    means = [
        one["means"]["mean_s_per_token"]
        for one in REFERENCES["jct_vs_rate"]["points"]
        if (one["at"]["panel"], one["at"].get("protocol"), one["at"]["policy"])
        == (front_page.PANEL, "burst", "sj-mlfq")
        and "load" in one["at"]
    ]
    assert np.asarray(lines["sj-mlfq"].get_ydata()).tolist() == pytest.approx(means, rel=1e-5)
    front_page.pictures(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"front-rate.png", "front-agents.png"}
