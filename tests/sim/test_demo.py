"""The demo's story: what it says follows from the runs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fastserve.metrics.intervals import Ratio
from sim import demo


def test_it_tells_of_a_win_and_of_a_loss(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of it, under two policies."""
    monkeypatch.setattr(demo, "POLICIES", ("fcfs", "sj-mlfq"))
    assert demo.main() == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 100
    words = " ".join(page.split())
    verdicts = re.findall(r"\(sj-mlfq\) (wins|loses): the ratio is (\S+) \[(\S+), (\S+)\]\. Why: ", words)
    assert [verdict for verdict, *_ in verdicts] == ["wins", "loses"]
    for verdict, *ratio in verdicts:
        assert all((float(value) > 1) == (verdict == "wins") for value in ratio)
        assert f"{ratio[0]} [{ratio[1]}, {ratio[2]}]\n" in page, "it is the table's"
    assert len(re.findall(r"the longest tenth of the requests is \d+% of the work", words)) == 2
    assert page.count("\nfcfs  ") == page.count("\nsj-mlfq  ") == 2


def test_facts_are_those_of_the_records() -> None:
    """Ten requests, one place; the long one holds it while five of the others wait."""
    n = 10
    base = {
        "id": np.arange(n), "arrival": np.zeros(n), "alone": np.array([1.0] * 9 + [91.0]),
        "queued": np.array([*range(90, 99), 0]) * 1.0, "end": np.array([*range(91, 100), 90]) * 1.0,
        "preemptions": np.zeros(n, int), "preempted": np.zeros(n),
    }  # fmt: skip
    base["jct_from_arrival"] = base["end"]
    mine = base | {"queued": np.arange(n) * 1.0, "preemptions": np.arange(n), "preempted": np.ones(n)}
    mine["jct_from_arrival"] = np.arange(1.0, 11.0)
    turned = {name: column[::-1] for name, column in mine.items()}
    found = demo.why(base, turned)
    assert found.share == pytest.approx(0.91)
    assert found.waits == (92.0, 2.0) and found.short == (93.0, 3.0) and found.long == (90.0, 10.0)
    assert found.held == pytest.approx(5 * 90 / (90 + 91 + 92 + 93 + 94))
    assert found.preemptions == 4.5 and found.between == 1.0
    assert demo.mean([found, found]) == found
    assert "91% of the work, and under fcfs it holds 1.0 of the" in demo.because(found)
    loses = demo.because(found._replace(share=0.2))
    assert "only; under fcfs" in loses
    assert "is preempted 4.5 times and waits 1.00 s in all between its turns" in loses, "not between any two of them"


def test_a_verdict_is_as_sure_as_its_interval() -> None:
    assert " wins: the ratio is 1.20 [1.10, 1.30]" in demo.verdict(Ratio(1.2, 1.1, 1.3))
    assert " loses: the ratio is 0.80 [0.70, 0.90]" in demo.verdict(Ratio(0.8, 0.7, 0.9))
    assert "neither wins nor loses for sure: the ratio is 1.20 [0.90, 1.30]" in demo.verdict(Ratio(1.2, 0.9, 1.3))
    assert "cannot be compared" in demo.verdict(None)
    assert demo.still(1.0, 2.0) == "" and "0.500 s against 1.00 s" in demo.still(1.0, 0.5)
