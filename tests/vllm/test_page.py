"""docs/vllm.md is true: its steps run as written, those with vLLM where that runs, and its tables name everything."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fastserve.cli import vllm as command
from fastserve.vllm import metrics
from fastserve.vllm.settings import TRIED, VllmSettings
from tests.test_readme import FILE_NAME, Step, steps
from tests.vllm import serving

PAGE = "docs/vllm.md"
TEXT = (serving.ROOT / PAGE).read_text(encoding="utf-8")
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def serves(step: Step) -> bool:
    return step.kind == "console" and "fastserve vllm" in step.text and "--dry-run" not in step.text


def save(step: Step, folder: Path) -> None:
    """A block of Python as a reader saves it."""
    named = FILE_NAME.match(step.text.partition("\n")[0])
    assert named is not None, step
    (folder / named[1]).write_text(step.text, encoding="utf-8")


def run(text: str, folder: Path) -> str:
    python = shlex.quote(sys.executable)
    line = re.sub(r"^fastserve\b", f"{python} -m fastserve", re.sub(r"^python\b", python, text))
    done = subprocess.run(
        line, shell=True, cwd=folder, env=serving.environment(), capture_output=True, text=True, timeout=600
    )  # fmt: skip
    assert done.returncode == 0, f"{PAGE}: {text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_what_needs_no_vllm(tmp_path: Path) -> None:
    ran = 0
    for step in steps(PAGE):
        if serves(step):
            break
        if step.kind == "python":
            save(step, tmp_path)
        else:
            run(step.text, tmp_path)
            ran += 1
    assert ran == 2


def test_every_flag_setting_and_metric_is_in_its_table() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    names = [told.name for told in (*metrics.GAUGES.values(), metrics.LEVELS)]
    names += [f"{told.name}_total" for told in metrics.COUNTERS.values()]
    for word in [*flags, *names, *(field.name for field in fields(VllmSettings)), *TRIED]:
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", TEXT), word


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "tiny"
    serving.tiny_model(folder)
    return serving.TRAINED or str(folder)


@pytest.mark.vllm
@pytest.mark.skipif(not serving.runs(), reason=serving.NO_ENGINE)
def test_the_steps_in_order(model: str, tmp_path: Path) -> None:
    """In one folder, with a model of the same kind that is here, and a port that is free."""
    server: Any = None
    try:
        for step in steps(PAGE):
            text = step.text.replace(MODEL, model)
            if serves(step):
                words = shlex.split(text)
                assert words[:2] == ["fastserve", "vllm"] and words[-3:] == ["--", "--port", "8000"]
                server = serving.Server(words[2], words[3:-3], tmp_path)
                server.ready()
                continue
            if server is not None:
                text = text.replace("http://127.0.0.1:8000", server.url)
            if step.kind == "python":
                save(Step("python", text, step.line), tmp_path)
            else:
                run(text, tmp_path)
    finally:
        if server is not None:
            server.stop()
