"""How a body is found by name, and how launch makes an engine on it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from fastserve import backends
from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine import Engine
from fastserve.engine.backend import Backend
from fastserve.engine.config import EngineConfig
from fastserve.importing import MissingPackageError, needs
from fastserve.launch import Body

MINE = """
from fastserve.backends.scripted import ScriptedBackend

class Mine(ScriptedBackend):
    def __init__(self, model, wanted=None, hardware=None, *, shout: bool = False):
        super().__init__(model, wanted, hardware)
        self.settings |= {"shout": shout, "asked for": model}
"""


def test_the_methods_of_the_table_are_the_protocols() -> None:
    own = [name for name, value in vars(Backend).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert list(backends.METHODS) == own


def test_names_and_paths() -> None:
    assert backends.find("scripted") is ScriptedBackend
    assert backends.find("fastserve.backends.scripted:ScriptedBackend") is ScriptedBackend
    assert backends.checked("pytorch") == "torch"
    for path in backends.BACKENDS.values():
        module, _, name = path.partition(":")
        source = Path(backends.__file__).parents[2] / f"{module.replace('.', '/')}.py"
        assert f"class {name}" in source.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vllm", "no backend is called 'vllm': give torch, llamacpp, onnx, upstream, scripted, or one of your own as"),
        ("./nowhere.py:Mine", "backend .*nowhere.py:Mine.: there is no file"),
        ("fastserve.engine.clock:WallClock", "WallClock is no .*Backend, it has no hardware, admit, run"),
        ("fastserve.backends.scripted:Mine", "fastserve.backends.scripted has no Mine"),
    ],
)
def test_what_is_no_body_is_told(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        backends.find(name)


def test_a_package_that_is_not_there_is_one_line() -> None:
    needs("torch", "json", "engine")
    with pytest.raises(MissingPackageError) as caught:
        needs("onnx", "no_such_package", "onnx")
    assert str(caught.value) == "backend onnx needs no_such_package: pip install 'fastserve-testbed[onnx]'"
    assert isinstance(caught.value, ImportError)


def test_one_from_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    with Engine.from_pretrained("anything", backend=f"{file}:Mine", max_batch=2) as engine:
        assert engine.settings["asked for"] == "anything"
        assert engine.settings["shout"] is False
        assert engine.hardware.name == "opt-13b-a100"
    body = Body("anything", f"{file}:Mine", shout=True, device="auto", latency="opt-66b-a100")
    with body.engine(EngineConfig(max_batch=2, kv_tokens=100)) as engine:
        assert engine.settings["shout"] is True
        assert engine.hardware.name == "opt-66b-a100"
        assert engine.hardware.memory.device_tokens == 112, "whole blocks"
    with pytest.raises(ValueError, match=r"Mine has no setting 'device'; it has shout"):
        Body("anything", f"{file}:Mine", device="cuda")


def test_a_wrong_latency_is_known_before_a_model_is_loaded() -> None:
    with pytest.raises(FileNotFoundError, match="no latency preset"):
        Body("not/a-model", latency="nowhere")


def test_bytes_of_pools_are_turned_into_tokens() -> None:
    body = Body("scripted", "scripted")
    with body.engine(EngineConfig(), kv_bytes=10**9, host_bytes=2 * 10**9) as engine:
        memory = engine.hardware.memory
        assert memory.device_tokens is not None
        assert 0 <= memory.device_tokens - 10**9 // memory.bytes_per_token < 16
