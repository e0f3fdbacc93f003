"""The `fastserve` command: exit 0 or 1 with a verdict, 2 with a usage error."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import fastserve
from fastserve.__main__ import COMMANDS, main
from fastserve.engine import Engine
from fastserve.server import create_app

ROOT = Path(__file__).resolve().parents[2]

MINE = """
from fastserve import Policy, Router


class Mine(Policy):
    settled = True

    def __init__(self, sign=-1, name="newest"):
        if sign not in (-1, 1):
            raise ValueError(f"sign={sign} must be 1 or -1")
        self.sign = sign
        self.name = name

    def rank(self, job):
        return self.sign * job.arrival


class Late(Policy):
    settled = True

    def rank(self, job):
        return self.now


class Asks(Policy):
    def __init__(self, quantum):
        pass

    def rank(self, job):
        return 0

class Last(Router):
    def route(self, job, views):
        return views[-1].replica
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, as a newcomer has it. Returns its name."""
    (tmp_path / "mine_of_test_main.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "broken_of_test_main.py").write_text("1 +\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine_of_test_main", raising=False)
    return "mine_of_test_main"


def test_a_policy_of_ones_own(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{mine}:Mine", "--quick"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Mine keeps the contract: ") and "warning" not in out
    assert err == ""


def test_settings(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{mine}:Mine", "--set", "sign=1", "--set", "name=oldest", "--quick"]) == 0
    assert main(["check", "sj-mlfq", "--set", "preset=artifact", "--quick"]) == 0
    assert "SkipJoinMlfq keeps the contract" in capsys.readouterr().out


def test_more_seeds_are_more_scripts(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    def scripts(*options: str) -> int:
        assert main(["check", f"{mine}:Mine", *options]) == 0
        return int(capsys.readouterr().out.partition(": ")[2].split()[0])

    assert scripts("--seeds", "3") == 3 * scripts("--quick")


def test_a_broken_one(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{mine}:Late"]) == 1
    out, _ = capsys.readouterr()
    assert "Late breaks the contract (settled)" in out
    assert "Late.rank() of job" in out and "self.rerank(job)" in out and "settled = False" in out
    assert "Traceback" not in out


def test_a_constructor_that_needs_arguments(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{mine}:Asks"]) == 1
    assert "Asks() cannot be called without arguments" in capsys.readouterr().out
    assert main(["check", f"{mine}:Asks", "--set", "quantum=1", "--quick"]) == 0


def test_a_router(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--router", "least_tokens", "--set", "decode=2", "--quick"]) == 0
    assert capsys.readouterr().out.startswith("LeastTokens keeps the contract: 8 scripts")
    assert main(["check", "--router", f"{mine}:Last", "--quick"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("Last breaks the contract (index).\nLast.route() returned") and "not view.replica" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a policy by its name, or a router as --router NAME"),
        (["fcfs", "--router", "random"], "give a policy by its name, or a router as --router NAME"),
        (["--router", "random", "--live"], "--live is for policies"),
        (["--router", "nope"], "no router 'nope'; there are round-robin"),
        (["--router", "session", "--set", "bound=0.5"], "bound=0.5 must be at least 1"),
        (["nope"], "no policy 'nope'; there are fcfs"),
        (["nowhere_at_all:Mine"], "no module 'nowhere_at_all'"),
        (["mine_of_test_main:Yours"], "Yours does not exist; mine_of_test_main has"),
        (["broken_of_test_main:Mine"], "cannot be imported and made: SyntaxError"),
        (["mine_of_test_main:Mine", "--set", "size=1"], "no setting 'size'; it has sign, name"),
        (["mine_of_test_main:Mine", "--set", "sign=3"], "sign=3 must be 1 or -1"),
        (["mine_of_test_main:Mine", "--set", "sign"], "write it as KEY=VALUE, not 'sign'"),
        (["mine_of_test_main:Mine", "--seeds", "0"], "give at least 1"),
    ],
)
def test_usage_errors(mine: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastserve check: error: ") and message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["nope"], ["check", "fcfs", "--nope"], ["--set", "check"]])
def test_what_argparse_refuses(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: fastserve" in capsys.readouterr().err


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from fastserve.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'fastserve.policies' not in sys.modules and 'fastserve.cli.check' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for name, command in COMMANDS.items():
        assert name in run.stdout and command.about.split()[0] in run.stdout


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"fastserve {fastserve.__version__}\n"


def test_it_runs_from_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("fastserve.package_version.version", version)
    assert fastserve.__version__ == "0+unknown"
    with Engine.scripted() as engine:
        assert create_app(engine).version == "0+unknown"


def test_the_module_runs(mine: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastserve", "check", f"{mine}:Late", "--quick"]
    run = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1, run.stderr
    assert "self.rerank(job)" in run.stdout and run.stderr == ""


def test_what_a_newcomer_imports_is_light() -> None:
    code = (
        "import sys; from fastserve import Job, Policy\n"
        "assert 'fastserve.sched.scheduler' not in sys.modules\n"
        "from fastserve import check_policy\n"
        "import fastserve; assert fastserve.__version__\n"
        "foreign = {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "print(*sorted(foreign & {'numpy', 'pandas', 'simpy', 'torch', 'pyarrow', 'matplotlib'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
