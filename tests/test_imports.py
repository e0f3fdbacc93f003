"""Who may import whom: the arrows of docs/design.md, held."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "simpy", "fastapi", "pandas", "numpy", "matplotlib", "pyarrow"}
BRAIN = ("sched", "policies", "predictors")


def imported_by(path: Path) -> set[str]:
    """Top-level names of all modules that `path` imports absolutely, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`, those of its start-up left out."""
    script = f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_importing_the_package_is_light() -> None:
    modules = modules_after("import fastserve")
    assert "fastserve" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize("package", BRAIN)
def test_importing_the_brain_is_light(package: str) -> None:
    modules = modules_after(f"import fastserve.{package}")
    assert not modules & HEAVY


def test_the_package_never_imports_the_simulator() -> None:
    files = sorted((ROOT / "fastserve").rglob("*.py"))
    assert files
    assert [str(path) for path in files if imported_by(path) & {"sim", "simpy", "experiments"}] == []


@pytest.mark.parametrize("package", ["sched", "policies"])
def test_the_brain_is_standard_library_only(package: str) -> None:
    files = sorted((ROOT / "fastserve" / package).rglob("*.py"))
    assert files
    foreign = {str(path): imported_by(path) - sys.stdlib_module_names - {"fastserve"} for path in files}
    assert {path: names for path, names in foreign.items() if names} == {}


def banned(code: str, filename: str) -> list[str]:
    """Lines of ruff's complaints about banned names in `code`, as if it stood at `filename`."""
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--output-format", "concise", "--quiet"]
    run = subprocess.run(
        [*command, "--stdin-filename", filename, "-"], input=code, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    return [line for line in run.stdout.splitlines() if "TID251" in line]


@pytest.mark.parametrize(
    "folder", ["fastserve/sched", "fastserve/policies", "fastserve/predictors", "sim", "fastserve/sched/deeper"]
)
@pytest.mark.parametrize(
    "code",
    [
        "import time\n",
        "from time import perf_counter\n",
        "import random\nrandom.random()\n",
        "from random import choice\n",
    ],
)
def test_clocks_and_shared_randomness_are_banned(folder: str, code: str) -> None:
    assert banned(code, f"{folder}/new.py")


@pytest.mark.parametrize(
    ("folder", "code"),
    [("fastserve/sched", "import random\nrandom.Random(1).random()\n"), ("fastserve/engine", "import time\n")],
)
def test_seeded_randomness_and_live_clocks_are_not(folder: str, code: str) -> None:
    assert banned(code, f"{folder}/new.py") == []
