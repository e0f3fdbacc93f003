"""docs/backends.md is true: its body runs as it stands, on its own and from a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fastserve.__main__ import main
from fastserve.backends import BACKENDS, find
from fastserve.backends.options import OPTIONS

PAGE = (Path(__file__).parents[1] / "docs" / "backends.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_example_runs() -> None:
    assert len(CODE) == 1
    exec(compile(CODE[0], "docs/backends.md", "exec"), {"__name__": "__main__"})


def test_the_example_serves_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "parrot.py"
    file.write_text(CODE[0])
    words = ["generate", "--backend", f"{file}:Parrot", "--prompt", "abc", "--max-tokens", "4", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "abca"


def test_every_body_is_in_the_table() -> None:
    for name in BACKENDS:
        assert f"| `{name}`" in PAGE


def matrix() -> dict[str, dict[str, bool]]:
    """Of "What goes with what": what -> backend -> whether."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.partition("## What goes with what")[2].splitlines()
            if line.startswith("| ")]  # fmt: skip
    names = [cell.strip("`| ") for cell in rows[0]]
    return {
        row[0]: {name: cell.startswith("yes") for name, cell in zip(names, row[1:], strict=True)} for row in rows[1:]
    }


def whether(backend: str, kind: Any) -> dict[str, bool]:
    """Beginning of a line of the matrix -> what the backend says itself."""
    has = {name for name, option in OPTIONS.items() if backend in option.backends}
    found = {"speculation (": "speculate" in has, "LoRA": "lora" in has}
    traits = getattr(kind, "traits", None)
    if traits is not None:
        found |= {
            "KV on the host": traits.swaps,
            "shared prefixes": traits.shares,
            "token bias": traits.constrains,
            "speculation with shared": traits.shares and "speculate" in has,
        }
    return found | {"`fastserve profile`": hasattr(kind, "facts")}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_goes_with_what_is_what_the_backends_say(backend: str) -> None:
    said = matrix()
    assert all(row.keys() == BACKENDS.keys() for row in said.values())
    try:
        kind = find(backend)
    except ImportError as error:
        pytest.skip(str(error))
    for what, does in whether(backend, kind).items():
        (line,) = [line for line in said if line.startswith(what)]
        assert said[line][backend] is does, f"{line}: {backend}"
