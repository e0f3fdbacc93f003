"""Where models come from: a file, a folder, both watched; what a name may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastserve.gateway.models import entry, models_file, models_folder
from fastserve.gateway.models.entry import Entry, hub_id
from fastserve.gateway.models.models_file import ModelsFileError
from fastserve.gateway.models.registry import Registry, UnknownModelError


def written(folder: Path, text: str, name: str = "models.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_name_and_a_path_are_enough(tmp_path: Path) -> None:
    """As config/model_config.json of other servers has it."""
    path = written(tmp_path, json.dumps({"vicuna_q2": "/path/file.gguf", "vicuna_q8": "~/q8.gguf"}), "models.json")
    found, defaults = models_file.read(path)
    assert found["vicuna_q2"] == Entry("vicuna_q2", "/path/file.gguf") and defaults == {}
    assert found["vicuna_q8"].path == str(Path("~/q8.gguf").expanduser())


def test_all_that_an_entry_can_say(tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    path = written(
        tmp_path,
        """
"*": {backend: pytorch, options: {max-batch: 8}}
big: {path: Qwen/Qwen2.5-0.5B, options: {dtype: float32, trust_remote_code: true}, lora: {sql: ./adapters/sql}}
small: {model: beside, backend_type: scripted}
chemistry: {base_model: big, path: ./adapters/chemistry}
""",
    )
    registry = Registry(path, None, {"max_batch": 2, "threads": 1}, lambda _: None)
    big, small = registry.entries["big"], registry.entries["small"]
    assert big.path == "Qwen/Qwen2.5-0.5B" and big.backend == "pytorch"
    assert big.options == {"max_batch": 8, "threads": 1, "dtype": "float32", "trust_remote_code": True}
    assert big.adapters == {
        "sql": str(tmp_path / "adapters/sql"),
        "chemistry": str(tmp_path / "adapters/chemistry"),
    }
    assert small.path == str(tmp_path / "beside") and small.backend == "scripted"
    assert registry.find("chemistry") == (big, "chemistry") and registry.names == ["big", "small", "sql", "chemistry"]


def test_adapters_of_llama_cpp_are_processes_of_their_own(tmp_path: Path) -> None:
    path = written(
        tmp_path, "q: {path: /q.gguf, backend: llamacpp, lora: {sql: /sql.gguf}, options: {lora: /own.gguf}}"
    )
    registry = Registry(path, None, {}, lambda _: None)
    assert registry.find("q").entry.adapters == {}
    sql = registry.find("sql")
    assert (
        sql.adapter == "" and sql.entry.path == "/q.gguf" and sql.entry.options == {"lora": ["/own.gguf", "/sql.gguf"]}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1]", "a must be a path, or {path, backend, options, base_model, lora}"),
        ("a: {path: /x, bakend: torch}", "a has no key 'bakend'; .*did you mean backend"),
        ("a: {backend: torch}", "a has no path"),
        ("a: {path: /x, options: {port: 1}}", "port is no option, the gateway sets it"),
        ("a: {path: /x, options: {api-key: s3cret}}", "api_key is no option"),
        ("a: {path: /x, options: {backend: torch}}", "write backend: beside options"),
        ("a: {base_model: b, path: /x}", "there is no base_model 'b'"),
        ("b: /x\na: {base_model: b, path: /x, options: {}}", "a is an adapter of b, so options stands there"),
        ("b: {path: /x, lora: {c: /y}}\nc: /x", "c is named twice"),
        ("b: {path: /x, lora: [c]}", "lora must be NAME: PATH"),
        ("../a: /x", "'../a' cannot be a model's name"),
        ("a/../b: /x", "cannot be a model's name"),
        ("'a\\n': /x", "cannot be a model's name"),
        ("- a", "it must hold names and their models, not list"),
        ("a: b: c", "it is not YAML"),
        ('"*": {path: /x}', "takes backend and options, not path"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ModelsFileError, match=said) as raised:
        models_file.read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_changes(tmp_path: Path) -> None:
    changes: list[set[str]] = []
    path = written(tmp_path, "a: /x\nb: /y")
    registry = Registry(path, None, {}, changes.append)
    written(tmp_path, "b: {path: /y, options: {max_batch: 2}}\nc: /z\n# longer")
    registry.look()
    assert changes[1:] == [{"a", "b", "c"}] and list(registry.entries) == ["b", "c"]
    with pytest.raises(UnknownModelError, match="there is no model 'a'; there are b, c"):
        registry.find("a")
    registry.look()
    assert len(changes) == 2, "nothing has changed since"


def test_a_file_that_breaks_is_told_once_and_the_old_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, "a: /x")
    registry = Registry(path, None, {}, lambda _: None)
    written(tmp_path, "a: [[[")
    registry.look()
    registry.look()
    assert list(registry.entries) == ["a"] and "it is not YAML" in registry.fault
    assert sum("it is not YAML" in line for line in caplog.messages) == 1
    written(tmp_path, "a: /x\nbb: /x")
    registry.look()
    assert list(registry.entries) == ["a", "bb"] and registry.fault == ""
    path.unlink()
    registry.look()
    assert list(registry.entries) == ["a", "bb"] and "cannot be read" in registry.fault


def model(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in (files or {"config.json": "{}"}).items():
        (folder / name).write_text(text)


def test_a_folder_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "models"
    model(root / "small")
    model(root / "owner" / "name")
    model(root / "exported", **{"model.onnx": "", "config.json": "{}"})
    model(root / "empty", readme="")
    model(root / ".incoming" / "half")
    (root / "tiny.gguf").write_text("")
    model(root / "owner" / "quants", **{"q4.gguf": "", "q8.gguf": ""})
    monkeypatch.setattr(models_folder, "find_spec", lambda _: None)
    found = models_folder.scan(root)
    assert {name: each.backend for name, each in found.items()} == {
        "small": "", "owner/name": "", "exported": "onnx", "tiny": "torch", "owner/quants:q4.gguf": "torch",
        "owner/quants:q8.gguf": "torch",
    }  # fmt: skip
    assert found["owner/quants:q4.gguf"].path == str(root / "owner/quants/q4.gguf")


def test_nothing_outside_of_the_folder_is_a_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "models"
    model(tmp_path / "secret")
    model(root / "inside")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "owner").mkdir()
    (root / "owner" / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root)
    (root / "file.gguf").symlink_to(tmp_path / "secret" / "config.json")
    (root / "same").symlink_to(root / "inside")
    told: set[str] = set()
    assert "secret" not in str(models_folder.scan(root, told))
    assert {"inside", "same"} <= models_folder.scan(root, told).keys()
    assert sum("leads out of" in line for line in caplog.messages) == 3


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelsFileError, match="is no folder: make it, or name another"):
        Registry(None, tmp_path / "nowhere", {}, lambda _: None)


@pytest.mark.parametrize(
    "text",
    ["../etc", "/etc/passwd", "a/../b", "a", "a/b/c", "a/b:../c.gguf", "a/b:c/d.gguf", "a/b:x.bin", "a/b:", "a--b/c",
     "", "a/b\n", ".a/b", "a/.b", "a/b?x", "https://x/y", "a" * 300 + "/b", "a/b..gguf/", "~/x"],
)  # fmt: skip
def test_what_is_no_name_of_the_hub(text: str) -> None:
    with pytest.raises(ValueError, match="is no model of the hub"):
        hub_id(text)


def test_names_of_the_hub() -> None:
    assert hub_id("Qwen/Qwen2.5-0.5B") == ("Qwen/Qwen2.5-0.5B", "")
    assert hub_id("o/n:q4_0.gguf") == ("o/n", "q4_0.gguf")


@pytest.mark.parametrize("name", [7, None, "", "a" * 201, "-a", "a\x00b", "é"])
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(ValueError, match="cannot be a model's name"):
        entry.check_name(name, "here")
