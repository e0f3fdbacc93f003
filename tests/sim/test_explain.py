"""python -m sim --explain: by number and by word, and the line that names jobs worth it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sim import replay
from sim.__main__ import main

TRACE = str(Path(__file__).parents[2] / "traces" / "azure-conv-like.jsonl")
AGENTS = str(Path(__file__).parents[2] / "traces" / "agents-like.jsonl")
ROWS = ["--num-requests", "60", "--rate", "3", "--max-batch", "4", "--policy", "fcfs", "--policy", "mlfq"]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([TRACE, *ROWS, *arguments]) == 0
    return capsys.readouterr().out


def times() -> dict[str, dict[int, float]]:
    records = replay(TRACE, ["fcfs", "mlfq"], num_requests=60, rate=3, max_batch=4).records()
    found: dict[str, dict[int, float]] = {}
    for label, rows in records.groupby("label"):
        found[str(label)] = dict(zip(rows["id"], rows["jct_from_arrival"], strict=True))
    return found


def test_words_choose_the_jobs_that_the_records_say(capsys: pytest.CaptureFixture[str]) -> None:
    known = times()
    page = told(capsys, "--explain", "slowest", "--explain", "differs", "--explain", "5", "--explain", "most-preempted")
    slowest = max(range(60), key=lambda id: max(known["fcfs"][id], known["mlfq"][id]))
    ratio = {id: known["fcfs"][id] / known["mlfq"][id] for id in range(60)}
    differs = max(ratio, key=lambda id: max(ratio[id], 1 / ratio[id]))
    assert f"\nslowest: job {slowest}, " in page
    assert f"\ndiffers: job {differs}, " in page
    order = [int(id) for id in re.findall(r"^job (\d+) under mlfq, seed 0$", page, re.MULTILINE)]
    assert order[:3] == [slowest, differs, 5] and len(order) == len(set(order))
    assert re.search(r"^most-preempted: job \d+, \d+ times under mlfq", page, re.MULTILINE)
    for id in order:  # the life of the second time is that of the first
        end = re.search(rf"job {id} under fcfs, seed 0\n(?:.*\n)*?.* ended \(stop\) .* after (\S+) (m?s):", page)
        assert end is not None
        seconds = float(end[1]) * (1e-3 if end[2] == "ms" else 1)
        assert seconds == pytest.approx(known["fcfs"][id], rel=5e-3)


def test_the_line_under_the_table_names_five(capsys: pytest.CaptureFixture[str]) -> None:
    page = told(capsys)
    line = page[page.index("worth a look with --explain: ") :]
    assert max(map(len, page.splitlines())) <= 100
    document = json.loads(told(capsys, "--json"))
    ids = [job["id"] for job in document["notable"]]
    assert len(set(ids)) == 5
    for id in ids:
        assert re.search(rf"\b{id}\b", line)
    assert "explain" not in document


def test_json_has_the_lives_under_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = json.loads(told(capsys, "--json", "--explain", "slowest", "--explain", "3"))
    first, second = found["explain"]
    assert first["asked"] == "slowest" and first["job"] == found["notable"][0]["id"]
    assert second["asked"] == 3 and second["job"] == 3
    for one in (first, second):
        assert set(one["lives"]) == {"fcfs", "mlfq"}
        assert one["lives"]["mlfq"][-1]["what"].startswith("ended (stop)")


def test_where_no_job_is_so_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TRACE, *ROWS[:6], "--policy", "fcfs", "--explain", "most_preempted"]) == 0
    assert "\nmost-preempted: no job was preempted\n" in capsys.readouterr().out
    assert main([TRACE, "--num-requests", "1", "--policy", "fcfs", "--policy", "las", "--explain", "differs"]) == 0
    page = capsys.readouterr().out
    assert "worth a look" not in page
    assert "differs: no job took longer under one policy than under another" in page


def test_one_job_alone_has_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TRACE, "--num-requests", "1", "--policy", "fcfs", "--policy", "las", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notable"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explain", "fastest"], "--explain fastest: give a job's number, or slowest, most-preempted or differs"),
        (["--explain", "60"], "--explain 60: there is no such job; they are 0 to 59"),
        (["--explain", "-1"], "--explain -1: there is no such job"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TRACE, *ROWS, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_one_policy_cannot_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TRACE, *ROWS[:6], "--policy", "fcfs", "--explain", "differs"]) == 2
    assert "--explain differs: there is one policy; give two or more, which may differ" in capsys.readouterr().err


def test_of_sessions_the_turn_is_told_and_in_clusters_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["--sessions", "3", "--think-cap", "5", "--num-requests", "80", "--policy", "fcfs", "--policy", "las"]
    assert main([AGENTS, *rows, "--explain", "slowest"]) == 0
    page = capsys.readouterr().out
    assert re.search(r"^slowest: job \d+ \(turn \d+ of \S+\), ", page, re.MULTILINE)
    assert main([TRACE, *ROWS, "--replicas", "2", "--explain", "slowest"]) == 0
    page = capsys.readouterr().out
    job = re.search(r"^slowest: job (\d+), ", page, re.MULTILINE)
    assert job is not None
    assert len(re.findall(r"routed to r\d, one of 2", page)) == 2
    assert f"job {job[1]} under round-robin + fcfs, seed 0" in page
