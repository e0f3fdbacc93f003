"""A stand-in for the Python that has vLLM, as a program (fake_vllm.py)."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """folder/python is FASTSERVE_VLLM_PYTHON from now on; what it was told so far, in order."""
    program, log = folder / "python", folder / "log"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_vllm.py")} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("FAKE_VLLM_LOG", str(log))
    monkeypatch.setenv("FASTSERVE_VLLM_PYTHON", str(program))
    return lambda: [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
