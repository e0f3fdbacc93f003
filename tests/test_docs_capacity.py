"""docs/capacity.md: its block runs, its command line is one, and its words for it are those of the table."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import sim
from sim.capacity.command import parser

PAGE = Path(__file__).resolve().parents[1] / "docs" / "capacity.md"


def test_the_block_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert isinstance(names["found"], sim.Capacity)
    assert len(names["found"].points) == 2 * 4 * 9  # the figure was made


def test_the_command_line_is_one_and_its_output_has_todays_form() -> None:
    text = PAGE.read_text(encoding="utf-8")
    words = shlex.split(text.split("    python -m sim capacity")[1].split("\n\n")[0].replace("\\\n", " "))
    args = parser().parse_args(words)
    (shown,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    few = sim.capacity(
        synth=f"{args.synth},n=30".replace("n=300,", ""), policy=args.policies, slo=args.slo, max_batch=args.max_batch,
        seeds=4, tolerance=0.5, jobs=1,
    )  # fmt: skip
    ours, theirs = few.table().splitlines(), shown.splitlines()
    assert ours[0] == theirs[0]
    assert [line.split() for line in ours[4:6]] == [line.split() for line in theirs[4:6]]
    assert [re.split(r"  |\*", line)[0].strip() for line in ours[7:10]] == [
        re.split(r"  |\*", line)[0].strip() for line in theirs[7:10]
    ]
