"""What docs/routers.md shows is run as written, and its tables are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fastserve import ReplicaView, Router, check_router
from fastserve.__main__ import main
from fastserve.flightlog.routes import RouteLog
from fastserve.routers import ROUTERS, RouterFacts, make
from fastserve.routers.spec import RouterSpec
from sim.replay_log import main as replay
from tests.routers.desk import job, letters, view

DOCS = Path(__file__).parents[2] / "docs" / "routers.md"


def source() -> str:
    return DOCS.read_text(encoding="utf-8").split("```python\n")[1].partition("```")[0]


def test_a_router_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(compile(source(), str(DOCS), "exec"), names)
    kind: type[Router] = names["LongApart"]
    assert check_router(kind, quick=True).choices
    apart = kind(long=1000)  # type: ignore[call-arg]
    offered = [view(0, outstanding=2), view(1, outstanding=1), view(2)]
    assert letters(apart, offered, 2, prompt=1000) == "cc"
    assert letters(apart, offered, 2, prompt=999) == "bb"
    (tmp_path / "mine.py").write_text(source(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--router", "./mine.py:LongApart", "--set", "long=2048", "--quick"]) == 0
    assert capsys.readouterr().out.startswith("LongApart keeps the contract")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    below = DOCS.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in below.splitlines() if line.startswith("|")
    ]
    return found[2:]


def test_the_table_has_every_router_with_its_knobs() -> None:
    found = {row[0].strip("`"): row for row in rows("The routers that are here")}
    assert list(found) == list(ROUTERS)
    for name, row in found.items():
        spec = RouterSpec(name)
        assert set(re.findall(r"`(\w+)`", row[3])) == set(spec.settings), name
        for need, told in (("guess", "guesses"), ("prefixes", "prefixes")):
            assert (need in spec.needs) == (told in row[2].partition("needs")[2]), name


def test_the_fields_of_a_view() -> None:
    told = [name for row in rows("What a view tells") for name in re.findall(r"`(\w+)`", row[0])]
    assert told == [field.name for field in fields(ReplicaView)]


def test_the_words_of_a_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RouteLog(tmp_path / "log", "least-tokens")
    router = log.around(make("least-tokens"))
    router.begin(RouterFacts())
    for number in range(40):
        router.route(job(number, program=str(number)), [view(0), view(1)])
    log.close()
    assert replay([str(tmp_path / "log")]) == 0
    assert replay([str(tmp_path / "log"), "--router", "session"]) == 1
    same, other = capsys.readouterr().out.splitlines()
    assert same == "reproduced: 40 choices of least-tokens"
    assert re.match(r"\d+ of 40 choices of session differ; the first: line ", other)
