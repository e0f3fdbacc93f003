"""A policy, a body and an observer of a user's own, in an empty folder, with the package installed from its wheel.

Nothing of the package is touched and nothing is registered: each is one class in one file, named on the command line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

POLICY = '''
from fastserve import Policy


class Newest(Policy):
    """The newest request first."""

    settled = True

    def __init__(self, sign=-1):
        self.sign = sign

    def rank(self, job):
        return self.sign * job.arrival
'''

BACKEND = '''
from fastserve.engine.backend import Step, Token, Traits
from fastserve.engine.byte_tokenizer import EOS, ByteTokenizer
from fastserve.engine.model_info import ModelInfo
from fastserve.hardware import load_hardware


class Echo:
    """Says each prompt again and again."""

    info = ModelInfo("echo", ByteTokenizer(), 512, 257, frozenset({EOS}), backend="echo")
    traits = Traits(swaps=False, exact="always")

    def __init__(self, model, wanted, hardware, *, shift=0):
        self.shift = shift
        self.prompts = {}

    def hardware(self):
        return load_hardware("opt-13b-a100")

    def admit(self, job, prompt, params, seed):
        self.prompts[job] = prompt

    def run(self, plan):
        due = [job for job, n in plan.work if job.decoding or job.prefilled + n == job.prompt + job.generated]
        results = [(job, [Token(self.prompts[job][job.generated % job.prompt])]) for job in due]
        return Step(results, copied=[*plan.park, *plan.load, *plan.prefetch])

    def forget(self, job):
        self.prompts.pop(job, None)

    def reset(self):
        pass

    def close(self):
        self.prompts.clear()
'''

OBSERVER = '''
from fastserve.sched.observer import Observer


class Ends(Observer):
    """A line for each job that has ended."""

    def committed(self, plan, outcome, finished, now):
        with open("ends.txt", "a") as file:
            for job in finished:
                file.write(f"{job.id} {job.generated} {job.client!r}\\n")
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as its wheel has it, and nothing of the checkout."""
    pytest.importorskip("hatchling")
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (wheel,) = wheels.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps", "--no-index", "--no-compile",
           "--disable-pip-version-check", "--target", str(target), str(wheel)]  # fmt: skip
    subprocess.run(pip, check=True, capture_output=True, timeout=300)
    return target


@pytest.fixture
def folder(installed: Path, tmp_path: Path) -> Path:
    """A user's: three files and nothing else."""
    (tmp_path / "mine.py").write_text(POLICY)
    (tmp_path / "body.py").write_text(BACKEND)
    (tmp_path / "look.py").write_text(OBSERVER)
    where = run(installed, tmp_path, "-c", "import fastserve; print(fastserve.__file__)").stdout
    assert Path(where.strip()).is_relative_to(installed), "the checkout is found before the wheel"
    return tmp_path


def run(installed: Path, folder: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FASTSERVE_", "PYTHON"))}
    found = subprocess.run([sys.executable, *arguments], cwd=folder, env=env | {"PYTHONPATH": str(installed)},
                           capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)  # fmt: skip
    assert found.returncode == status, found.stderr
    return found


@pytest.mark.parametrize("name", ["mine:Newest", "./mine.py:Newest"])
def test_a_policy(installed: Path, folder: Path, name: str) -> None:
    found = run(installed, folder, "-m", "fastserve", "check", name, "--quick", "--set", "sign=-1")
    assert "Newest" in found.stdout
    wrong = run(installed, folder, "-m", "fastserve", "check", name, "--set", "nonsense=1", status=2)
    assert "has no setting 'nonsense'" in wrong.stderr and "sign" in wrong.stderr


@pytest.mark.parametrize("backend", ["body:Echo", "./body.py:Echo"])
def test_all_three_together(installed: Path, folder: Path, backend: str) -> None:
    found = run(
        installed, folder, "-m", "fastserve", "generate", "--backend", backend, "--policy", "./mine.py:Newest",
        "--observer", "./look.py:Ends", "--prompt", "abc", "--prompt", "xy", "--max-tokens", "7", "--json",
    )  # fmt: skip
    outputs = [json.loads(line) for line in found.stdout.splitlines()]
    assert [output["text"] for output in outputs] == ["abcabca", "xyxyxyx"]
    assert all(output["finish_reason"] == "length" for output in outputs)
    assert sorted((folder / "ends.txt").read_text().splitlines()) == ["0 7 ''", "1 7 ''"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--backend", "./body.py:Nobody"), ("--observer", "./look.py:Nobody"), ("--policy", "./mine.py:Nobody")],
)
def test_a_name_that_is_not_there_is_one_line(installed: Path, folder: Path, flag: str, value: str) -> None:
    given = {"--backend": "./body.py:Echo", "--prompt": "a", flag: value}
    arguments = [word for pair in given.items() for word in pair]
    found = run(installed, folder, "-m", "fastserve", "generate", *arguments, status=2)
    assert "Nobody" in found.stderr and "Traceback" not in found.stderr
