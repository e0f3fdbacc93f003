"""docs/names.md is true: what has moved is where it says, and what users have in their scripts goes on working."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "names.md").read_text(encoding="utf-8")
MOVED = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", PAGE.partition("## Modules")[2], flags=re.M)


def there(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_module_is_where_the_page_says() -> None:
    assert len(MOVED) > 100
    assert [new for _, new in MOVED if not there(new)] == []


@pytest.mark.parametrize(
    "code",
    [
        "from fastserve.engine import Engine, Handle, Output, SamplingParams",
        "from fastserve.config import FastServeConfig, explain",
        "from fastserve import FastServeServer, Job, Observer, Policy, check_policy",
        "from sim import Contender, Result, Settings, replay; Contender('las', {'quantum': 0.5}, 'mine')",
        "from sim.replay_log import replay_log",
        "from fastserve.bench import FORMS, Asker, Asking, Form, HttpBackend",
    ],
)
def test_names_of_users_scripts_work(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_command_that_has_moved_works() -> None:
    command = [sys.executable, "-m", "sim.replay_log", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "log" in done.stdout
