"""ONNX Runtime's releases report to their maker. From here they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the onnx extra")

CODE = """
from fastserve.backends.onnx.session import runtime
runtime().SessionOptions()
"""


def test_nothing_is_kept_to_be_reported(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    homes = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", CODE], env=environment | homes, check=True, timeout=120)
    assert not list(tmp_path.rglob("*onnxruntime*")), "an identifier, or events to be sent"
