"""docs/looking.md: what it quotes of --explain is what is printed, and its words are those that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fastserve.metrics.notable import WORDS
from sim.__main__ import main, parser

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "looking.md").read_text(encoding="utf-8")


def commands(flag: str) -> list[list[str]]:
    found = re.findall(r"^    python -m sim ((?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    return [shlex.split(text.replace("\\\n", " ")) for text in found if flag in text]


def test_the_line_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (quoted,) = re.findall(r"```text\n(worth a look .*?)```", PAGE, re.DOTALL)
    (command,) = commands("--explain")
    assert main(command) == 0
    page = capsys.readouterr().out
    assert quoted in page
    assert "\ndiffers: job 982, 758 ms under sj-mlfq, 3.83 s under fcfs\n" in page


def test_the_words_are_all() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", PAGE[PAGE.index("## The life of one request") :], re.MULTILINE)
    assert tuple(rows) == WORDS


def test_the_timelines_command_is_one() -> None:
    (command,) = commands("--timeline")
    assert parser().parse_args(command).timeline == "timeline.json"
    assert (ROOT / "docs" / "img" / "timeline.png").exists()
