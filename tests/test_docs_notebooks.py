"""docs/notebooks.md: its blocks run in order, and each that has a picture shows something by itself."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from scripts.notebook_pictures import PAGE, ROOT, blocks


def test_blocks_run_and_show_what_they_end_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {"__name__": "a_notebook"}
    found = blocks(PAGE.read_text(encoding="utf-8"))
    assert len(found) > 6
    for code, picture in found:
        *first, last = ast.parse(code).body
        assert isinstance(last, ast.Expr), code
        exec(compile(ast.Module(first, []), str(PAGE), "exec"), names)
        value = eval(compile(ast.Expression(last.value), str(PAGE), "eval"), names)
        if picture is not None:
            assert (PAGE.parent / picture).is_file()
            shown = value._repr_png_() if hasattr(value, "_repr_png_") else value._repr_html_()
            assert shown
    assert {"trace", "mixed", "result"} <= names.keys()


def test_every_picture_belongs_to_a_block() -> None:
    text = PAGE.read_text(encoding="utf-8")
    of_blocks = {picture for _, picture in blocks(text) if picture is not None}
    assert len(of_blocks) == text.count("![") == len(list((PAGE.parent / "img").glob("notebook-*.png")))
