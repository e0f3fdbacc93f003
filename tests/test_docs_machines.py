"""docs/machines.md: every documented key is read and every key that is read is documented; its figures are current."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from fastserve.hardware import hardware_from_json, presets
from fastserve.hardware.catalogue import read_catalogue
from fastserve.hardware.json_fields import Fields
from sim.machines.command import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "machines.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.S)]


def keys_of(data: Any, at: str = "") -> set[str]:
    """Paths of all keys, a list's rows as NAME[]."""
    if isinstance(data, list):
        return set().union(*(keys_of(row, at) for row in data))
    found: set[str] = set()
    for key, value in data.items():
        inside = isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict))
        path = f"{at}{key}"
        found |= keys_of(value, f"{path}[]." if isinstance(value, list) else f"{path}.") if inside else {path}
    return found


def documented() -> set[str]:
    rows = re.findall(r"^\| (`.*?) \| .*\|$", PAGE[PAGE.index("## The file") :], re.M)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


def of_a_model(key: str) -> str:
    """Without the part of the file that a latency model is in."""
    return key.removeprefix("latency.")


def test_examples_are_read_and_together_have_every_documented_key() -> None:
    shown: set[str] = set()
    for example in EXAMPLES:
        hardware_from_json(example)  # refuses unknown keys
        shown |= {of_a_model(key) for key in keys_of(example)}
    pieces = {
        f"decode_pieces[].{key}" for key in ("decode_ms", "decode_ms_per_sequence", "decode_ms_per_context_token")
    }
    assert shown - {"kind"} - pieces == {of_a_model(key) for key in documented()} - {"latency"}


def test_every_key_that_is_looked_for_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    take = Fields.take

    def taking(self: Fields, key: str) -> object:
        asked.add(key)
        return take(self, key)

    monkeypatch.setattr(Fields, "take", taking)
    for example in EXAMPLES:
        hardware_from_json(example)
    assert asked - {"kind"} <= {part.removesuffix("[]") for key in documented() for part in key.split(".")}


def test_the_errors_are_those_that_the_script_finds() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "roofline_errors.py"))
    start, end = script["MARKS"]
    assert PAGE.partition(f"{start}\n\n")[2].partition(f"\n{end}")[0] == script["rendered"]()


def test_the_commands_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, '
        '"vocab_size": 99, "intermediate_size": 128}'
    )
    Path("measured.csv").write_text(
        "phase,batch,tokens,ms\nprefill,1,128,31\nprefill,1,1024,130\ndecode,1,512,20.3\ndecode,16,512,25.7\n"
    )
    commands = [shlex.split(line, comments=True)[1:] for line in PAGE.splitlines() if line.startswith("$ ")]
    assert len(commands) == 7
    for command in commands:
        assert command[:3] == ["python", "-m", "sim.machines"]
        assert main(command[3:]) == 0
        assert capsys.readouterr().out


def test_the_page_counts_the_catalogue() -> None:
    found = read_catalogue()
    assert f"{len(found.models)} models on {len(found.accelerators)} devices" in PAGE
    assert "opt-13b-a100" in presets()
