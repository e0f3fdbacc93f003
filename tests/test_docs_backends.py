"""docs/backends.md is true: its body runs as it stands, on its own and from a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fastserve.__main__ import main
from fastserve.backends import BACKENDS

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
