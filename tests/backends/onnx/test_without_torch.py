"""What was exported once is served where torch is not installed: nothing of it is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import importlib.util, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name, name=name)

found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.partition(".")[0] == "torch" else found(name, *more)
sys.meta_path.insert(0, Hidden())

from fastserve.engine import SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.launch import PLACEHOLDER, Body

with Body("embedded", "onnx", threads=1, max_model_len=64).engine(EngineConfig(), PLACEHOLDER) as engine:
    print(engine.generate(["abc"], SamplingParams(max_tokens=8, temperature=0.0))[0].text)
assert not any(name.partition(".")[0] == "torch" for name in sys.modules)
"""


def test_it_is_served_without_torch(embedded: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 9
