"""docs/scaling.md, of one model on several GPUs: its commands run as written, and its table is what they print.

The page's first half, of several servers, is run by tests/test_docs_deploy.py.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fastserve.__main__ import main as fastserve
from sim.__main__ import main as sim

WHOLE = (Path(__file__).resolve().parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
PAGE = WHOLE.partition("## More than one GPU for one model")[2]
COMMANDS = [shlex.split(line, comments=True)[1:] for line in PAGE.splitlines() if line.startswith("$ ")]


def starting(*words: str) -> list[list[str]]:
    return [command for command in COMMANDS if command[: len(words)] == list(words)]


def test_the_table_is_what_the_simulations_print(capsys: pytest.CaptureFixture[str]) -> None:
    table = {
        row.split(" | ")[0].split(",")[0]: row.split(" | ")[1:] for row in PAGE.splitlines() if row.count(" | ") == 6
    }
    commands = [command for command in starting("python", "-m", "sim") if "TRACE" not in command]
    assert len(commands) == 2
    for at, command in enumerate(commands):
        assert sim(command[3:]) == 0
        said = capsys.readouterr().out
        load = float(re.findall(r"\bload (0[.0-9]+)", said)[0])
        assert f"load {load:.2f}" in table["policy"][3 * at]
        for policy in ("fcfs", "sj-mlfq", "srpt"):
            row = next(
                line.replace(" (oracle)", "").split() for line in said.splitlines() if re.match(rf"{policy} .*\d", line)
            )
            mean, p95, ttft = map(float, table[policy][3 * at : 3 * at + 3])
            assert (mean, p95) == (float(row[1]), float(row[2]))
            assert ttft == pytest.approx(float(row[3]), abs=0.001)


def test_the_servers_would_start(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [command for command in starting("fastserve", "vllm") if "MODEL" not in command]
    assert len(commands) == 3
    for command in commands:
        split = command.index("--")
        arguments = command[1:split] + ([] if "--dry-run" in command else ["--dry-run"]) + command[split:]
        assert fastserve(arguments) == 0
        said = capsys.readouterr().out
        assert "--scheduler-cls fastserve.vllm.scheduler" in said
        assert said.rstrip().endswith(" ".join(command[split + 1 :]))
